"""Load, open and read datasets: canonical rows in `datasets/<digest>/rows.parquet` with `report.json` beside them."""

from __future__ import annotations

import errno
import hashlib
import json
import secrets
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from lora_ui import errors
from lora_ui.data import read
from lora_ui.data.convert import LeftOut, convert
from lora_ui.data.recognise import Recognised, guess, recognise
from lora_ui.data.report import encoding_finding, rows_finding
from lora_ui.data.sources import EXAMPLE, locate
from lora_ui.errors import Say
from lora_ui.home import Home, read_json, write_json

__all__ = ["EXAMPLE", "Dataset", "load", "open", "peek", "rows"]
NEEDED = 2
GROUP = 1000
"""Rows in one Parquet row group: what a preview has to read at least."""
_SCHEMA = pyarrow.schema(
    [
        ("row", pyarrow.int64()),
        ("messages", pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))),
        ("text", pyarrow.string()),
    ]
)
_DROPS = ("broken_row", "null_field", "empty_answer", "role_order")


@dataclass(frozen=True)
class Dataset:
    """`digest`: 16 hex characters of the canonical rows; `name`: what the person calls it; `report`: see `load`."""

    digest: str
    name: str
    report: dict[str, Any]


def load(home: Home, source: str | Path, mapping: dict[str, str] | None = None, token: str | None = None) -> Dataset:
    """Read, recognise, check and keep. The same rows give the same digest. `source` is a path, `upload:<id>`, `example` or a Hub id.

    `report`: ok, name, source, digest, format, why, confidence, columns, mapping, files, rows, kept, dropped, findings.
    Raises DataNotFound, EmptyData, NotText, UnsupportedFile, UnreadableEncoding, BrokenRows, ColumnsNotRecognised,
    MissingColumns, NoRowsLeft, TooFewRows, UploadTooLarge, and what the Hub says.
    """
    name, files = locate(home, str(source), token)
    raw = read.read(files)
    known = recognise(raw, name, mapping)
    kept, left_out = _convert(raw, known)
    total = len(raw.rows) + len(raw.broken)
    if not kept:
        reasons = ", ".join(f"{len(numbers)} × {code}" for code, numbers in left_out.items() if numbers)
        raise errors.NoRowsLeft(name=name, rows=total, reasons=reasons)
    if len(kept) < NEEDED:
        raise errors.TooFewRows(name=name, rows=len(kept), needed=NEEDED)
    digest, repeated = _digest(kept)
    findings = [rows_finding(code, left_out[code]) for code in _DROPS if left_out[code]]
    findings += [rows_finding("duplicate", repeated)] if repeated else []
    findings += [encoding_finding(file, encoding) for file, encoding in raw.encodings.items()]
    report = {
        "ok": True,
        "name": name,
        "source": str(source),
        "digest": digest,
        "format": known.format,
        "why": known.why.as_dict(),
        "confidence": known.confidence,
        "columns": raw.columns(),
        "mapping": known.mapping,
        "files": raw.files,
        "rows": total,
        "kept": len(kept),
        "dropped": total - len(kept),
        "findings": findings,
    }
    _save(home, digest, kept, report)
    return Dataset(digest, name, report)


def _convert(raw: read.Raw, known: Recognised) -> tuple[list[dict[str, Any]], dict[str, list[int]]]:
    """(canonical rows with their numbers, row numbers left out by code)."""
    kept: list[dict[str, Any]] = []
    left_out: dict[str, list[int]] = defaultdict(list, {"broken_row": [number for number, _ in raw.broken]})
    for number, row in raw.rows:
        try:
            kept.append({"row": number, **convert(row, known.mapping)})
        except LeftOut as e:
            left_out[e.code].append(number)
    return kept, left_out


def _digest(kept: list[dict[str, Any]]) -> tuple[str, list[int]]:
    """(digest of all rows with their numbers, numbers of rows that repeat an earlier one)."""
    whole, seen, repeated = hashlib.sha256(), set(), []
    for row in kept:
        content = json.dumps({k: v for k, v in row.items() if k != "row"}, ensure_ascii=False, sort_keys=True).encode()
        alone = hashlib.sha256(content).digest()
        whole.update(b"%d:" % row["row"] + alone)
        if alone in seen:
            repeated.append(row["row"])
        seen.add(alone)
    return whole.hexdigest()[:16], repeated


def _save(home: Home, digest: str, kept: list[dict[str, Any]], report: dict[str, Any]) -> None:
    """The report comes last: where it is, the rows are whole. Raises DiskFull."""
    folder = home.dataset(digest)
    beside = folder / f".rows-{secrets.token_hex(4)}.parquet"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "report.json").exists():
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(kept, _SCHEMA), beside, row_group_size=GROUP)
            beside.replace(folder / "rows.parquet")
        write_json(folder / "report.json", report)
    except OSError as e:
        beside.unlink(missing_ok=True)
        if e.errno != errno.ENOSPC:
            raise
        raise errors.DiskFull(needed=Say("more"), free=f"{home.free_bytes() / 1e6:.0f} MB", where=str(home.root)) from e


def open(home: Home, digest: str) -> Dataset:
    """A dataset that was loaded before. Raises DataNotFound."""
    try:
        report = read_json(home.dataset(digest) / "report.json")
    except errors.NoSuchJob:
        report = None
    if report is None:
        raise errors.DataNotFound(name=digest)
    return Dataset(digest, report["name"], report)


def rows(home: Home, digest: str, start: int = 0, count: int | None = None) -> list[dict[str, Any]]:
    """Canonical rows from position `start`: `{"row": number in the person's file, "messages": […]}` or `{"row", "text"}`."""
    path = home.dataset(digest) / "rows.parquet"
    if not path.exists():
        raise errors.DataNotFound(name=digest)
    return [{k: v for k, v in row.items() if v is not None} for row in read_slice(path, start, count)]


def read_slice(path: Path, start: int, count: int | None) -> list[dict[str, Any]]:
    """Rows `start` to `start + count` of a Parquet file, reading only the row groups they lie in."""
    with pyarrow.parquet.ParquetFile(path) as file:
        end = file.metadata.num_rows if count is None else min(file.metadata.num_rows, start + count)
        groups: list[int] = []
        first = position = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if position < end and position + size > start:
                first = first if groups else position
                groups.append(group)
            position += size
        return file.read_row_groups(groups).slice(start - first, end - start).to_pylist() if groups else []


def peek(home: Home, source: str | Path, token: str | None = None) -> dict[str, Any]:
    """For mapping by hand: `{name, columns, first (up to 5 rows), guess (role -> column), format, why}`. Raises as `load` does
    while reading."""
    name, files = locate(home, str(source), token)
    raw = read.read(files)
    found = guess(raw)
    return {
        "name": name,
        "columns": raw.columns(),
        "first": [row for _, row in raw.rows[:5]],
        "guess": found.mapping if found else {},
        "format": found.format if found else None,
        "why": (found.why if found else Say("None of the columns has a known name.")).as_dict(),
    }
