"""What can be wrong with settings, presets and data."""

from __future__ import annotations

from lora_ui.errors.error import LoraUIError, Say


class InvalidSettings(LoraUIError):
    """One line per wrong field, each with its own hint."""

    message = "These settings cannot be used:\n{problems}"
    cause = "A field is unknown or its value is out of range."
    fix = "Change the fields named above; the reference table in the README lists all of them."

    def __init__(self, lines: list[Say]):
        super().__init__(problems="\n".join(lines), lines=[line.as_dict() for line in lines])


class UnknownPreset(LoraUIError):
    message = "There is no preset named {name}."
    cause = "The presets here are: {known}."
    fix = "Choose one of them, or pass a file with --settings."


class UnreadableSettingsFile(LoraUIError):
    message = "The settings file {name} cannot be read."
    cause = "{detail}"
    fix = "It has to be YAML with the groups model, data, adapter, training, evaluation."


class DataNotFound(LoraUIError):
    message = "There is no data at {name}."
    cause = "It is neither a file or folder here nor a dataset on the Hugging Face Hub."
    fix = "Check the spelling, or give a .jsonl, .json, .csv, .tsv, .xlsx, .parquet, .txt or .md file, or a .zip or .gz of these."


class EmptyData(LoraUIError):
    message = "{name} is empty."
    cause = "There is nothing in it to learn from."
    fix = "Choose a file with at least two examples."


class NotText(LoraUIError):
    message = "{name} is {what}, not text."
    cause = "Its first bytes say so, whatever its name ends in."
    fix = "Choose a .jsonl, .json, .csv, .tsv, .xlsx, .parquet, .txt or .md file, or a .zip or .gz of these."


class UnsupportedFile(LoraUIError):
    message = "{name} is not a kind of file that can be read here."
    cause = "Its name ends in {suffix}."
    fix = "Choose a .jsonl, .json, .csv, .tsv, .xlsx, .parquet, .txt or .md file, or a .zip or .gz of these."


class UnreadableEncoding(LoraUIError):
    message = "{name} is text in an encoding that cannot be told."
    cause = "{detail}"
    fix = "Save it as UTF-8 and choose it again."


class NoSuchRow(LoraUIError):
    message = "Row {row} is not among the rows that can be learned."
    cause = "It was left out, or the file has fewer rows."
    fix = "Take another number; the findings above say which rows were left out."


class BrokenRows(LoraUIError):
    """Lines that are not valid JSON (or rows that do not parse): `lines` names up to five, `problems` quotes them."""

    message = "{count} of {total} lines of {name} cannot be read:\n{problems}"
    cause = "They are not valid {format}."
    fix = "Mend these lines and choose the file again."


class ColumnsNotRecognised(LoraUIError):
    message = "The columns of {name} were not recognised: {columns}."
    cause = "None of them is a known name for a question and an answer."
    fix = "Say which column is which: on the page under Columns, or with --map user=COLUMN --map assistant=COLUMN."


class MissingColumns(LoraUIError):
    message = "{name} has no column {missing}."
    cause = "Its columns are: {columns}."
    fix = "Choose columns that are there."


class NoRowsLeft(LoraUIError):
    message = "No row of {name} can be learned from."
    cause = "All {rows} rows were left out: {reasons}."
    fix = "Every row needs a question and an answer that is not empty."


class TooFewRows(LoraUIError):
    message = "{name} has {rows} usable rows; at least {needed} are needed."
    cause = "One is not enough to learn from."
    fix = "Add more examples."


class UploadTooLarge(LoraUIError):
    message = "{name} is {size}; the limit is {limit}."
    cause = "Very large files are refused so that the disk does not fill."
    fix = "Split it, or train from the command line, which reads files in place."


class TemplateFailed(LoraUIError):
    message = "The chat template of {model} failed on row {row}."
    cause = "{detail}"
    fix = "Leave this row out, or choose another base model."


class NothingLeftToTrain(LoraUIError):
    message = "All {rows} rows would be held out ({held_out} asked for); none is left to learn from."
    cause = "Held-out rows are never learned."
    fix = "Hold out fewer rows, or add more examples."


class UnreadableFile(LoraUIError):
    message = "{name} cannot be read."
    cause = "{detail}"
    fix = "Check that it is still there, that it does not change while it is read, and that you may open it."


class RowTooLong(LoraUIError):
    message = "Line {line} of {name} is longer than {limit} million characters."
    cause = "No model reads that much at once; often the line breaks between rows are missing."
    fix = "Write one row per line, or cut this row into several."


class TooManyColumns(LoraUIError):
    message = "{name} has more than {limit} columns."
    cause = "A table of examples has a few: rows and columns may have changed places, or every row has names of its own."
    fix = "Write one row per example, with the same few columns in all of them."


class BrokenArchive(LoraUIError):
    message = "The archive {name} cannot be opened."
    cause = "{detail}"
    fix = "Pack it again without a password, or unpack it and choose the file inside."


class ArchiveTooLarge(LoraUIError):
    message = "{name} unpacks to too much."
    cause = "{detail}"
    fix = "Unpack it yourself and choose the files inside."


class DatasetPartNotFound(LoraUIError):
    message = "{name} has no {wanted}."
    cause = "What it has: {known}."
    fix = "Write owner/name@revision:config/split; revision, config and split can each be left out."


class NoSuchModules(LoraUIError):
    message = "{name} has no layers called {modules}."
    cause = "Its layers are: {known}."
    fix = "Name some of these in target_modules, or use all-linear."


class MethodUnsuitable(LoraUIError):
    """`why` and `instead` as presets/methods.yaml has them; `change`: partial settings that mend it."""

    message = "{method} does not go with the other settings."
    cause = "{why}"
    fix = "{instead}"
