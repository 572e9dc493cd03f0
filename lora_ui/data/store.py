"""Load, open and read datasets: canonical rows in `datasets/<digest>/rows.parquet` with `report.json` beside them."""

from __future__ import annotations

import errno
import hashlib
import json
import secrets
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from lora_ui import errors
from lora_ui.data import mappings, read
from lora_ui.data.archives import unpacked
from lora_ui.data.convert import LeftOut, convert, trim
from lora_ui.data.recognise import Recognised, guess, recognise
from lora_ui.data.report import LEFT_OUT, encoding_finding, finding, left_out_finding, trimmed_finding
from lora_ui.data.sources import EXAMPLE, locate
from lora_ui.errors import Say
from lora_ui.home import Home, read_json, write_json

__all__ = ["EXAMPLE", "Dataset", "every_row", "forget_mapping", "load", "open", "peek", "rows"]
NEEDED = 2
GROUP = 1000
"""Rows in one Parquet row group: what a preview has to read at least."""
GROUP_CHARACTERS = 2**25
_SCHEMA = pyarrow.schema([(name, pyarrow.int64() if name == "row" else pyarrow.string()) for name in ("row", "messages", "tools", "text")])
"""Messages and tools are JSON: their keys differ from row to row, and an order of arguments is kept."""


@dataclass(frozen=True)
class Dataset:
    """`digest`: 16 hex characters of the canonical rows; `name`: what the person calls it; `report`: see `load`."""

    digest: str
    name: str
    report: dict[str, Any]


Told = Callable[[str, int, int | None], None]
"""Called at every row with how far it is: (`reading` or `checking`, rows so far, of how many where that is known). What it raises
ends the reading."""


def quiet(phase: str, done: int, total: int | None) -> None:
    """Tells nobody."""


def load(
    home: Home,
    source: str | Path,
    mapping: dict[str, str] | None = None,
    token: str | None = None,
    told: Told = quiet,
    trims: Collection[str] = (),
) -> Dataset:
    """Read, recognise, check and keep, a row at a time. The same rows give the same digest.

    `source` is a path, `upload:<id>`, `example` or a Hub id, or several on lines of their own. `mapping` is role -> column or a template
    over columns; what is chosen is kept and used again, without a mapping, for a file with the same columns (see `forget_mapping`).
    `trims` as `data.trim` in the settings.
    `report`: ok, name, source, digest, format, why, confidence, columns, mapping, files, rows, kept, dropped, findings.
    Raises DataNotFound, EmptyData, NotText, UnsupportedFile, UnreadableEncoding, BrokenRows, RowTooLong, TooManyColumns,
    BrokenArchive, ArchiveTooLarge, ColumnsNotRecognised, MissingColumns, NoRowsLeft, TooFewRows, UploadTooLarge, DiskFull, and what
    the Hub says.
    """
    name, packed = locate(home, str(source), token)
    with unpacked(home, packed) as files, _staging(home) as staging:
        known, seen = _recognised(home, name, files, mapping or None, told)
        raw = read.Raw()
        count = _write(files, raw, known, staging, told, trims)
        total = count.kept + sum(map(len, count.left_out.values()))
        if not count.kept:
            reasons = ", ".join(f"{len(numbers)} × {code}" for code, numbers in count.left_out.items() if numbers)
            raise errors.NoRowsLeft(name=name, rows=total, reasons=reasons)
        if count.kept < NEEDED:
            raise errors.TooFewRows(name=name, rows=count.kept, needed=NEEDED)
        digest = count.whole.hexdigest()[:16]
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
            "kept": count.kept,
            "dropped": total - count.kept,
            "findings": _findings(raw, count),
        }
        home.dataset(digest).mkdir(parents=True, exist_ok=True)
        if not (home.dataset(digest) / "report.json").exists():
            staging.replace(home.dataset(digest) / "rows.parquet")
        write_json(home.dataset(digest) / "report.json", report)  # last: where it is, the rows are whole
    if mapping:
        _remember(home, seen, mapping)
    return Dataset(digest, name, report)


@contextmanager
def _staging(home: Home) -> Iterator[Path]:
    """A file beside the datasets, gone afterwards. Raises DiskFull."""
    path = home.datasets / f".rows-{secrets.token_hex(4)}.parquet"
    try:
        yield path
    except OSError as e:
        if e.errno != errno.ENOSPC:
            raise
        raise errors.DiskFull(needed=Say("more"), free=f"{home.free_bytes() / 1e6:.0f} MB", where=str(home.root)) from e
    finally:
        path.unlink(missing_ok=True)


def _recognised(
    home: Home, name: str, files: list[tuple[str, Path]], mapping: dict[str, str] | None, told: Told
) -> tuple[Recognised, read.Raw]:
    """By the first rows, and where these do not tell, by all columns that come up in the files."""
    seen = read.sample(files)
    try:
        return recognise(seen, name, mapping, mappings.saved(home, seen.columns())), seen
    except (errors.ColumnsNotRecognised, errors.MissingColumns):
        seen = read.whole(files, lambda: told("reading", 0, None))
        return recognise(seen, name, mapping, mappings.saved(home, seen.columns())), seen


def _remember(home: Home, seen: read.Raw, mapping: dict[str, str]) -> None:
    """Choosing what is recognised anyway undoes an earlier choice."""
    found = guess(seen)
    if found and found.mapping == mapping:
        mappings.forget(home, seen.columns())
    else:
        mappings.save(home, seen.columns(), mapping)


def forget_mapping(home: Home, source: str | Path, token: str | None = None) -> None:
    """From now on a file with the columns of `source` is recognised by itself again. Raises as `load` does while reading."""
    _, packed = locate(home, str(source), token)
    with unpacked(home, packed) as files:
        for look in (read.sample, read.whole):
            mappings.forget(home, look(files).columns())


@dataclass
class _Count:
    """Of rows that went by: `whole` is the digest of the kept ones with their numbers."""

    kept: int = 0
    left_out: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    trimmed: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    whole: Any = field(default_factory=hashlib.sha256)

    def add(self, number: int, content: bytes) -> None:
        self.whole.update(b"%d:" % number + hashlib.sha256(content).digest())
        self.kept += 1


def _write(files: list[tuple[str, Path]], raw: read.Raw, known: Recognised, path: Path, told: Told, trims: Collection[str]) -> _Count:
    """All rows that can be learned from into `path`, a group at a time."""
    count, waiting, characters = _Count(), [], 0
    with pyarrow.parquet.ParquetWriter(path, _SCHEMA) as out:
        for number, row in read.stream(files, raw):
            told("reading", count.kept, None)
            try:
                made = _made(number, row, known.mapping, trims, count)
                kept = (_json(made.get("messages")), _json(made.get("tools")), made.get("text"))
                count.add(number, "\0".join(part or "" for part in kept).encode())
            except LeftOut as e:
                count.left_out[e.reason].append(number)
                continue
            except UnicodeEncodeError:  # half a character, in JSON that stood in a cell
                count.left_out["broken_row"].append(number)
                continue
            waiting.append((number, *kept))
            characters += sum(len(part) for part in kept if part)
            if len(waiting) >= GROUP or characters > GROUP_CHARACTERS:
                _flush(out, waiting)
                waiting, characters = [], 0
        _flush(out, waiting)
    count.left_out["broken_row"] = sorted([*(number for number, _ in raw.broken), *count.left_out["broken_row"]])
    return count


def _made(number: int, row: dict[str, Any], mapping: dict[str, str], trims: Collection[str], count: _Count) -> dict[str, Any]:
    """The canonical row, trimmed as chosen. Raises LeftOut."""
    try:
        made = convert(row, mapping)
    except LeftOut as e:
        if e.reason != "last_turn" or e.reason not in trims:
            raise
        made = convert(row, mapping, to_last_answer=True)
        count.trimmed["last_turn"].append(number)
    if "whitespace" in trims and trim(made):
        count.trimmed["whitespace"].append(number)
    return made


def _json(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _flush(out: pyarrow.parquet.ParquetWriter, waiting: list[tuple[Any, ...]]) -> None:
    if waiting:
        columns = [pyarrow.array(column, kind.type) for column, kind in zip(zip(*waiting), _SCHEMA)]
        out.write_table(pyarrow.Table.from_arrays(columns, schema=_SCHEMA))


def _findings(raw: read.Raw, count: _Count) -> list[dict[str, Any]]:
    findings = [left_out_finding(reason, count.left_out[reason]) for reason in LEFT_OUT if count.left_out[reason]]
    findings += [trimmed_finding(trim, rows) for trim, rows in count.trimmed.items()]
    findings += [encoding_finding(file, encoding) for file, encoding in raw.encodings.items()]
    if raw.renamed:
        names = ", ".join(f"{was} → {now}" for now, was in list(raw.renamed.items())[:20])
        message = Say("The header names a column more than once; the later ones are read as: {names}.", names=names)
        findings.append(finding("header", "warn", [], message, Say("Give each column a name of its own."), count=len(raw.renamed)))
    if raw.unread:
        message = Say("Only sheets with the same columns as the first are read; left out: {sheets}.", sheets=", ".join(raw.unread[:20]))
        fix = Say("Save the other sheets as files of their own if they hold examples.")
        findings.append(finding("sheet", "warn", [], message, fix, count=len(raw.unread)))
    return findings


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
    """Canonical rows from position `start`: `{"row": number in the person's file, "messages": […]}`, with `tools` where the row has
    them, or `{"row", "text"}`; see convert.py for what a message holds."""
    path = home.dataset(digest) / "rows.parquet"
    if not path.exists():
        raise errors.DataNotFound(name=digest)
    return [{k: _from_json(k, v) for k, v in row.items() if v is not None} for row in read_slice(path, start, count)]


def every_row(home: Home, digest: str) -> Iterator[dict[str, Any]]:
    """All canonical rows as `rows` gives them, a group in memory at a time."""
    path = home.dataset(digest) / "rows.parquet"
    if not path.exists():
        raise errors.DataNotFound(name=digest)
    with pyarrow.parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            for row in file.read_row_group(group).to_pylist():
                yield {k: _from_json(k, v) for k, v in row.items() if v is not None}


def _from_json(key: str, value: Any) -> Any:
    return json.loads(value) if key in ("messages", "tools") and isinstance(value, str) else value


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
    name, packed = locate(home, str(source), token)
    with unpacked(home, packed) as files:
        seen = read.sample(files)
        if guess(seen) is None:
            seen = read.whole(files)
    found = guess(seen)
    return {
        "name": name,
        "columns": seen.columns(),
        "first": [row for _, row in seen.rows[:5]],
        "guess": mappings.saved(home, seen.columns()) or (found.mapping if found else {}),
        "format": found.format if found else None,
        "why": (found.why if found else Say("None of the columns has a known name.")).as_dict(),
    }
