"""Files to raw rows: jsonl, json, csv, tsv, parquet and txt, each with the row's number in the person's own file.

Not here: what the columns mean (recognise.py), which rows can be learned from (convert.py).
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from lora_ui import errors
from lora_ui.data.text import decode, signature
from lora_ui.errors import Say

SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "对话", "消息")
CELL_LIMIT = 64 * 2**20
TABLE_LIMIT = 16 * 2**30
"""Bytes of a Parquet table once unpacked; a small file can claim any size."""


@dataclass
class Raw:
    """Rows as they stand in the file. `broken` are rows that do not fit the table (number, why); `encodings` had to be guessed."""

    rows: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    broken: list[tuple[int, Say]] = field(default_factory=list)
    encodings: dict[str, str] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)
    plain_text: bool = False

    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for _, row in self.rows for name in row))


def read(files: list[tuple[str, Path]]) -> Raw:
    """All files as one table. Several files are counted through: `Raw.files` says at which number each begins.

    Raises EmptyData, NotText, UnsupportedFile, UnreadableEncoding, BrokenRows.
    """
    whole = Raw(plain_text=True)
    offset = 0
    for name, path in files:
        part, length = _file(name, path)
        whole.files.append({"name": name, "first_row": offset + 1, "rows": len(part.rows) + len(part.broken)})
        whole.rows += [(offset + n, row) for n, row in part.rows]
        whole.broken += [(offset + n, why) for n, why in part.broken]
        whole.encodings |= part.encodings
        whole.plain_text = whole.plain_text and part.plain_text
        offset += length
    return whole


def _file(name: str, path: Path) -> tuple[Raw, int]:
    """One file's rows, and how many numbers it uses up (for jsonl: lines, empty ones too)."""
    suffix = Path(name).suffix.lower()
    data = _bytes(name, path, suffix)
    if suffix == ".parquet":
        return _parquet(name, data)
    text, guessed = decode(data, name)
    if not text.strip("\ufeff \t\r\n\v\f"):
        raise errors.EmptyData(name=name)
    reader = {".csv": _csv, ".tsv": _csv, ".txt": _txt}.get(suffix, _json_or_lines)
    raw, length = reader(name, text)
    raw.encodings = {name: guessed} if guessed else {}
    return raw, length


def _bytes(name: str, path: Path, suffix: str) -> bytes:
    """The file's content. A device, a pipe or a folder is no file; what the file really is goes before what its name says."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as f:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise errors.DataNotFound(name=name)
        head = f.read(16)
        if not head:
            raise errors.EmptyData(name=name)
        what = signature(head)
        if what and not (suffix == ".parquet" and head.startswith(b"PAR1")):
            raise errors.NotText(name=name, what=what)
        if suffix not in SUFFIXES:
            raise errors.UnsupportedFile(name=name, suffix=suffix or "nothing known")
        return head + f.read()


# JSON


def _json_or_lines(name: str, text: str) -> tuple[Raw, int]:
    """What stands in the file decides, not its name: people call JSON lines .json and arrays .jsonl."""
    first = text.lstrip("\ufeff \t\r\n")
    line = first.split("\n", 1)[0]
    if first[0] == "[" or (first[0] == "{" and not _is_object(line) and _is_whole(first)):
        return _json(name, text)
    if Path(name).suffix.lower() == ".json" and not _is_object(line):
        return _json(name, text)
    return _lines(name, text)


def _is_object(line: str) -> bool:
    return _is_whole(line) and line.lstrip()[0] == "{"


def _is_whole(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _lines(name: str, text: str) -> tuple[Raw, int]:
    raw, bad = Raw(), []
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if line.strip("\ufeff \t\r\v\f"):
            row, why = _object(line)
            if row is None:
                bad.append((number, line, why))
            else:
                raw.rows.append((number, row))
    if bad:
        raise _broken(name, bad, len(raw.rows) + len(bad), "JSON")
    return raw, len(lines) - (not lines[-1])


def _object(line: str) -> tuple[dict[str, Any] | None, Say]:
    try:
        row = json.loads(line.strip("\ufeff"))
    except json.JSONDecodeError as e:
        return None, _json_problem(e)
    except (ValueError, RecursionError):
        return None, Say("a number is too long or the brackets are nested too deeply")
    if not isinstance(row, dict):
        return None, Say("it is not an object in curly brackets, such as {example}", example='{"question": "…", "answer": "…"}')
    if "\\u" in line and not _encodable(row):
        return None, Say("it holds half of a character (a lone surrogate such as \\ud800)")
    return row, Say("")


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _json_problem(e: json.JSONDecodeError) -> Say:
    said = {
        "Expecting ',' delimiter": Say(
            "at character {at} a comma or a closing bracket is missing, or a quote inside a text has no \\ before it", at=e.colno
        ),
        "Expecting ':' delimiter": Say("at character {at} a colon is missing after a name, or a quote before it", at=e.colno),
        "Unterminated string starting at": Say("the text that starts at character {at} has no closing quote", at=e.colno),
        "Expecting property name enclosed in double quotes": Say("at character {at} a name in double quotes is expected", at=e.colno),
        "Expecting value": Say("at character {at} a value is missing", at=e.colno),
        "Invalid control character at": Say("at character {at} a line break or tab stands inside a text: write \\n or \\t", at=e.colno),
        "Extra data": Say("at character {at} something follows after the end of the object", at=e.colno),
    }
    return said.get(e.msg) or Say("at character {at}: {said}", at=e.colno, said=e.msg)


def _broken(name: str, bad: list[tuple[int, str, Say]], total: int, format: str) -> errors.BrokenRows:
    shown = [Say("Line {line}: {why}: {quoted}", line=n, why=str(why), quoted=_quoted(line)) for n, line, why in bad[:5]]
    values = {"lines": [n for n, _, _ in bad[:5]], "why": [why.as_dict() for _, _, why in bad[:5]]}
    return errors.BrokenRows(name=name, count=len(bad), total=total, problems="\n".join(shown), format=format, **values)


def _quoted(line: str) -> str:
    line = line.strip()
    return line if len(line) <= 120 else line[:117] + "…"


def _json(name: str, text: str) -> tuple[Raw, int]:
    """An array of objects, an object that holds one such array, or a single object."""
    try:
        value = json.loads(text.lstrip("\ufeff"))
    except json.JSONDecodeError as e:
        lines = text.split("\n")
        raise _broken(name, [(e.lineno, lines[e.lineno - 1], _json_problem(e))], len(lines), "JSON") from None
    except (ValueError, RecursionError):
        raise _broken(name, [(1, text[:200], Say("a number is too long or the brackets are nested too deeply"))], 1, "JSON") from None
    items = _list_in(value)
    bad = [
        (n, json.dumps(v, ensure_ascii=False), Say("entry {n} of the list is not an object", n=n))
        for n, v in enumerate(items, 1)
        if not isinstance(v, dict)
    ]
    bad = bad or [
        (n, json.dumps(v), Say("it holds half of a character (a lone surrogate such as \\ud800)"))
        for n, v in enumerate(items, 1)
        if not _encodable(v)
    ]
    if bad:
        raise _broken(name, bad, len(items), "JSON rows")
    if not items:
        raise errors.EmptyData(name=name)
    return Raw(rows=list(enumerate(items, 1))), len(items)


def _list_in(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    lists = [v for k, v in value.items() if isinstance(v, list) and k not in CONVERSATIONS] if isinstance(value, dict) else []
    return lists[0] if len(lists) == 1 and all(isinstance(v, dict) for v in lists[0]) else [value]


# Tables and text


def _csv(name: str, text: str) -> tuple[Raw, int]:
    """A table with a header row. Row numbers count data rows; a row with more cells than the header cannot be told apart."""
    csv.field_size_limit(CELL_LIMIT)
    text = text.lstrip("\ufeff")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(name, text), strict=True)
    raw, number, started = Raw(), 0, 0
    try:
        header = [cell.strip() for cell in next(row for row in reader if any(row))]
        for cells in _filled(reader):
            number, started = number + 1, reader.line_num
            if len(cells) > len(header):
                raw.broken.append((number, Say("it has {cells} cells, the header has {columns}", cells=len(cells), columns=len(header))))
            else:
                padded: list[str | None] = [*cells, *[None] * (len(header) - len(cells))]
                raw.rows.append((number, {k: v for k, v in zip(header, padded, strict=True) if k}))
    except csv.Error as e:
        lines = text.split("\n")
        at = min(started + 1, len(lines))
        why = Say("a quote opens or closes in the wrong place ({said})", said=str(e))
        raise _broken(name, [(at, lines[at - 1], why)], len(lines), "CSV") from None
    if not number:
        raise errors.EmptyData(name=name)
    return raw, number


def _filled(reader: Iterator[list[str]]) -> Iterator[list[str]]:
    return (cells for cells in reader if any(cell.strip() for cell in cells))


def _delimiter(name: str, text: str) -> str:
    """The separator that cuts the first rows into the same number of cells most often; csv.Sniffer is fooled by prose."""
    sample = text[:65536]
    best, score = ("\t" if name.lower().endswith(".tsv") else ","), 0.0
    for candidate in (best, ",", ";", "\t", "|"):
        rows = [
            len(row) for row, _ in zip(csv.reader(io.StringIO(sample, newline=""), delimiter=candidate), range(50), strict=False) if row
        ]
        if len(rows) > 1 and len(rows) < 50 and len(text) > len(sample):
            rows.pop()
        same = sum(n == rows[0] for n in rows) / len(rows)
        if rows[0] > 1 and same > score:
            best, score = candidate, same
    return best


def _txt(name: str, text: str) -> tuple[Raw, int]:
    """Pieces between empty lines; a text without empty lines is one piece a line."""
    text = text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    pieces = [piece.strip("\n") for piece in re.split(r"\n[ \t]*\n", text) if piece.strip()]
    if len(pieces) == 1:
        pieces = [line for line in text.split("\n") if line.strip()]
    return Raw(rows=[(n, {"text": piece}) for n, piece in enumerate(pieces, 1)], plain_text=True), len(pieces)


def _parquet(name: str, data: bytes) -> tuple[Raw, int]:
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
        if size > TABLE_LIMIT:
            raise errors.UploadTooLarge(name=name, size=f"{size / 2**30:.0f} GiB unpacked", limit=f"{TABLE_LIMIT / 2**30:.0f} GiB")
        rows = file.read().to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as e:
        problem = Say("The table is damaged: {said}", said=str(e).split("\n")[0])
        raise errors.BrokenRows(name=name, count=1, total=1, problems=str(problem), format="Parquet", lines=[]) from None
    if not rows:
        raise errors.EmptyData(name=name)
    return Raw(rows=list(enumerate(rows, 1))), len(rows)
