"""Files to raw rows: jsonl, json, csv, tsv, xlsx, parquet, txt and md, each row with its number in the person's own file.

Not here: archives (archives.py), what the columns mean (recognise.py), which rows can be learned from (convert.py).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO

from lora_ui import errors
from lora_ui.data import json_rows, prose, tables
from lora_ui.data.raw import CONVERSATIONS, Raw, Rows, Source
from lora_ui.data.text import encoding_of, signature
from lora_ui.errors import Say

__all__ = ["CONVERSATIONS", "SUFFIXES", "Raw", "read", "sample", "stream"]
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".xlsx", ".txt", ".md", ".markdown")
_PROSE = (".txt", ".md", ".markdown")
_STARTS = {".parquet": b"PAR1", ".xlsx": b"PK\x03\x04"}
_FIRST, _SAMPLE, _SAMPLE_CHARACTERS = 5, 200, 2**22


def stream(files: list[tuple[str, Path]], raw: Raw) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """All rows of all files as one table, one after another; what else is learned on the way goes to `raw`, the rows do not. Several
    files are counted through: `raw.files` says at which number each begins.

    Raises UnreadableFile, EmptyData, NotText, UnsupportedFile, UnreadableEncoding, BrokenRows, RowTooLong, TooManyColumns,
    UploadTooLarge, ArchiveTooLarge: for a broken line when its file has been read to the end, so that all of them are counted.
    """
    raw.plain_text = all(_suffix(name) in _PROSE for name, _ in files)
    offset = 0
    for name, path in files:
        about = {"name": name, "first_row": offset + 1, "rows": 0}
        raw.files.append(about)
        length = yield from _one(name, _reader(name, path, raw), raw, about, offset)
        offset += length


def _one(name: str, rows: Rows, raw: Raw, about: dict[str, Any], offset: int) -> Generator[tuple[int, dict[str, Any]], None, int]:
    """One file's rows with their final numbers; returns how many numbers it uses up (for jsonl: lines, empty ones too)."""
    while True:
        try:
            number, row = next(rows)
        except StopIteration as end:
            length: int = end.value
            return length
        except (OSError, UnicodeDecodeError) as e:  # it changed under our hands, or its disk fails
            raise errors.UnreadableFile(name=name, detail=str(e)) from None
        about["rows"] += 1
        if isinstance(row, Say):
            raw.broken.append((offset + number, row))
        else:
            raw.note(name, row)
            yield offset + number, row


def read(files: list[tuple[str, Path]]) -> Raw:
    """All rows at once: for few rows. Raises as `stream`."""
    raw = Raw()
    raw.rows.extend(stream(files, raw))
    return raw


def sample(files: list[tuple[str, Path]]) -> Raw:
    """The first rows, by which the format is recognised. Where none of them has a known column, see `whole`. Raises as `stream`."""
    raw, characters = Raw(), 0
    with closing(stream(files, raw)) as rows:
        for number, row in rows:
            raw.rows.append((number, row))
            characters += sum(len(value) if isinstance(value, str) else 100 for value in row.values())
            if len(raw.rows) >= _SAMPLE or characters > _SAMPLE_CHARACTERS:
                break
    return raw


def whole(files: list[tuple[str, Path]], every: Callable[[], None] = lambda: None) -> Raw:
    """All columns of all rows, of which the first and those that bring a new column are kept. `every` is called at each row. Raises as
    `stream`, and what `every` raises."""
    raw, before = Raw(), 0
    for number, row in stream(files, raw):
        every()
        if len(raw.rows) < (_SAMPLE if len(raw.seen) > before else _FIRST):
            raw.rows.append((number, row))
        before = len(raw.seen)
    return raw


def _suffix(name: str) -> str:
    return Path(name).suffix.lower()


def _reader(name: str, path: Path, raw: Raw) -> Rows:
    """A device, a pipe or a folder is no file; what a file really is goes before what its name says."""
    suffix = _suffix(name)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise errors.DataNotFound(name=name)
            _check_start(name, suffix, file.read(16))
            if suffix == ".parquet":
                return tables.parquet(name, path)
            if suffix == ".xlsx":
                return tables.workbook(name, path, raw)
            file.seek(0)
            source = _text(name, path, suffix, file, raw)
    except OSError as e:
        raise errors.UnreadableFile(name=name, detail=e.strerror or str(e)) from None
    if suffix in (".csv", ".tsv"):
        return tables.separated(source, raw)
    return prose.rows(source) if suffix in _PROSE else json_rows.rows(source)


def _check_start(name: str, suffix: str, head: bytes) -> None:
    if not head:
        raise errors.EmptyData(name=name)
    what = signature(head)
    if what and not (suffix in _STARTS and head.startswith(_STARTS[suffix])):
        raise errors.NotText(name=name, what=what)
    if suffix not in SUFFIXES:
        raise errors.UnsupportedFile(name=name, suffix=suffix or Say("nothing known"))


def _text(name: str, path: Path, suffix: str, file: BinaryIO, raw: Raw) -> Source:
    encoding = encoding_of(name, file)
    if encoding.guessed:
        raw.encodings[name] = encoding.name
    return Source(name, path, ".md" if suffix == ".markdown" else suffix, encoding.name, encoding.skip)
