"""Tables to raw rows: csv, tsv, Excel workbooks and Parquet. Row numbers count data rows."""

from __future__ import annotations

import csv
import datetime
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import openpyxl
import pyarrow
import pyarrow.parquet

from lora_ui import errors
from lora_ui.data.raw import COLUMN_LIMIT, ROW_LIMIT, Raw, Row, Rows, Source, check_swelling, lines_of, one_broken, too_long
from lora_ui.errors import Say

TABLE_LIMIT = 16 * 2**30
"""Bytes of a Parquet table once unpacked; a small file can claim any size."""
_HEADER_LIMIT = 32 * 2**20
"""Bytes of a Parquet file's table of contents, which is read whole."""
_BATCH, _BATCH_BYTES = 1000, 32 * 2**20
_SHEET_LIMIT, _WORDS_LIMIT = 4 * 2**30, 96 * 2**20
"""Bytes of a workbook once unpacked, and of its list of texts, which is held whole."""


# csv and tsv


class _Lines:
    """The lines of a table for csv.reader; `taken` are the characters since the last row."""

    def __init__(self, name: str, file: TextIO):
        self.name, self.lines, self.taken, self.number, self.last = name, lines_of(name, file), 0, 0, ""

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        self.last = next(self.lines)
        self.number += 1
        self.taken += len(self.last)
        if self.taken > ROW_LIMIT:  # a row may go over many lines
            raise too_long(self.name, self.number)
        return self.last.removeprefix("\ufeff") if self.number == 1 else self.last


def separated(source: Source, raw: Raw) -> Rows:
    """A table with a header row. A row with more cells than the header cannot be told apart. Raises EmptyData, BrokenRows,
    RowTooLong, TooManyColumns."""
    csv.field_size_limit(2 * ROW_LIMIT)
    with source.open("") as file:
        delimiter, skip = _delimiter(source.suffix, file.read(65536).lstrip("\ufeff"), bool(file.read(1)))
    with source.open("") as file:
        lines = _Lines(source.name, file)
        if skip:
            next(lines)
        number, started = 0, 0
        quoted = ""
        try:
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            header = _header(source.name, next((row for row in reader if any(cell.strip() for cell in row)), []), raw)
            started = lines.number
            for cells in reader:
                lines.taken, started, quoted = 0, lines.number, lines.last
                if any(cell.strip() for cell in cells):
                    number += 1
                    yield number, _row(header, cells)
        except csv.Error as e:
            why = Say("a quote opens or closes in the wrong place ({said})", said=str(e))
            at, line = _line_after(source, started)
            raise one_broken(source.name, "CSV", at, line or quoted, why, lines.number + sum(1 for _ in lines.lines)) from None
    if not number:
        raise errors.EmptyData(name=source.name)
    return number


def _header(name: str, cells: list[Any], raw: Raw) -> list[str]:
    """The columns' names; one that stands there twice is told apart by a number, which `raw.renamed` says."""
    if len(cells) > COLUMN_LIMIT:
        raise errors.TooManyColumns(name=name, limit=f"{COLUMN_LIMIT:,}")
    header: list[str] = []
    taken = {str(cell).strip() for cell in cells if cell is not None}
    for cell in cells:
        column = "" if cell is None else str(cell).strip()
        if column in header and column:
            column = next(c for n in range(2, COLUMN_LIMIT + 2) if (c := f"{column}_{n}") not in taken)
            taken.add(column)
            raw.renamed[column] = str(cell).strip()
        header.append(column)
    return header


def _row(header: list[str], cells: list[Any]) -> Row | Say:
    if len(cells) > len(header):
        return Say("it has {cells} cells, the header has {columns}", cells=len(cells), columns=len(header))
    padded = [*cells, *[None] * (len(header) - len(cells))]
    return {name: cell for name, cell in zip(header, padded, strict=True) if name}


def _line_after(source: Source, number: int) -> tuple[int, str]:
    """The line where the row after line `number` begins, or the last one there is."""
    last = (0, "")
    with source.open("\n") as file:
        for last in enumerate(lines_of(source.name, file), 1):
            if last[0] > number:
                return last
    return last


def _delimiter(suffix: str, sample: str, more: bool) -> tuple[str, bool]:
    """(the separator, whether the first line only says so). It is the one that cuts the first rows into the same number of cells
    most often; csv.Sniffer is fooled by prose."""
    if sample[:4].lower() == "sep=" and sample[5:6] in ("\r", "\n") and sample[4] not in '"\r\n':
        return sample[4], True
    best, score = ("\t" if suffix == ".tsv" else ","), 0.0
    for candidate in (best, ",", ";", "\t", "|"):
        try:
            rows = [len(r) for r, _ in zip(csv.reader(io.StringIO(sample, newline=""), delimiter=candidate), range(50), strict=False) if r]
        except csv.Error:
            continue
        if len(rows) > 1 and len(rows) < 50 and more:
            rows.pop()
        same = sum(n == rows[0] for n in rows) / len(rows) if rows else 0
        if rows and rows[0] > 1 and same > score:
            best, score = candidate, same
    return best, False


# Excel


def workbook(name: str, path: Path, raw: Raw) -> Rows:
    """The first sheet with rows, and after it those with the same header; the names of others go to `raw.unread`. Raises EmptyData,
    BrokenRows, UploadTooLarge, TooManyColumns, ArchiveTooLarge."""
    number, header, size, packed = 0, None, 0, path.stat().st_size
    try:
        _small_enough(name, path)
        with path.open("rb") as file:  # by a name, only one that ends in .xlsx would be taken
            book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
            try:
                for sheet in book.worksheets:
                    cells = _cells(sheet)
                    found = _header(name, next(cells, []), raw)
                    if header is not None and found != header:
                        raw.unread += [sheet.title] if found else []
                        continue
                    for row in cells:
                        header = found
                        number += 1
                        size += sum(len(cell) for cell in row if isinstance(cell, str))
                        check_swelling(name, size, packed)
                        yield number, _row(header, row)
            finally:
                book.close()
    except errors.LoraUIError:
        raise
    except Exception as e:  # the library raises whatever the damage leads to
        why = Say("The workbook is damaged: {said}", said=f"{type(e).__name__}: {e}".split("\n")[0][:200])
        raise errors.BrokenRows(name=name, count=1, total=1, problems=str(why), format="Excel", lines=[], why=[why.as_dict()]) from None
    if not number:
        raise errors.EmptyData(name=name)
    return number


def _small_enough(name: str, path: Path) -> None:
    with zipfile.ZipFile(path) as packed:
        about = packed.infolist()
    whole, words = sum(m.file_size for m in about), sum(m.file_size for m in about if "worksheets/" not in m.filename)
    for size, limit in ((whole, _SHEET_LIMIT), (words, _WORDS_LIMIT)):
        if size > limit:
            raise errors.UploadTooLarge(name=name, size=f"{size / 2**20:.0f} MiB unpacked", limit=f"{limit / 2**20:.0f} MiB")


def _cells(sheet: Any) -> Iterator[list[Any]]:
    """Rows that are not empty, without the empty cells at their ends; dates as text."""
    sheet.reset_dimensions()  # what a file says of its own size need not be true
    for row in sheet.iter_rows(values_only=True):
        cells = [str(c) if isinstance(c, datetime.date | datetime.time | datetime.timedelta) else c for c in row]
        while cells and (cells[-1] is None or (isinstance(cells[-1], str) and not cells[-1].strip())):
            cells.pop()
        if cells:
            yield cells


# Parquet


def parquet(name: str, path: Path) -> Rows:
    """Raises EmptyData, BrokenRows, RowTooLong, TooManyColumns, UploadTooLarge, ArchiveTooLarge."""
    number = unpacked = 0
    try:
        _header_fits(name, path)
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            if len(file.schema_arrow.names) > COLUMN_LIMIT:
                raise errors.TooManyColumns(name=name, limit=f"{COLUMN_LIMIT:,}")
            groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
            if (size := sum(group.total_byte_size for group in groups)) > TABLE_LIMIT:
                raise errors.UploadTooLarge(name=name, size=f"{size / 2**30:.0f} GiB unpacked", limit=f"{TABLE_LIMIT / 2**30:.0f} GiB")
            for i, group in enumerate(groups):
                for batch in file.iter_batches(_batch_size(path, group), [i]):
                    unpacked += batch.nbytes
                    check_swelling(name, unpacked, path.stat().st_size)
                    if batch.nbytes > ROW_LIMIT:
                        _rows_fit(name, batch, number)
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, ValueError, OverflowError) as e:
        why = Say("The table is damaged: {said}", said=str(e).split("\n")[0][:200])
        raise errors.BrokenRows(name=name, count=1, total=1, problems=str(why), format="Parquet", lines=[], why=[why.as_dict()]) from None
    if not number:
        raise errors.EmptyData(name=name)
    return number


def _header_fits(name: str, path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - 8))
        end = file.read(8)
    if end[4:] == b"PAR1" and _HEADER_LIMIT < int.from_bytes(end[:4], "little") < size:
        raise errors.TooManyColumns(name=name, limit=f"{COLUMN_LIMIT:,}")


def _batch_size(path: Path, group: Any) -> int:
    """Rows to unpack at once: few where they are long, or where a dictionary holds a long value once for all of them."""
    columns = [group.column(i) for i in range(group.num_columns)]
    average = sum(column.total_uncompressed_size for column in columns) // max(1, group.num_rows)
    with path.open("rb") as file:
        longest = sum(_dictionary_size(file, column) for column in columns)
    return max(1, min(_BATCH, _BATCH_BYTES // max(1, average, longest)))


def _dictionary_size(file: BinaryIO, column: Any) -> int:
    """Bytes of a column's dictionary once unpacked, by the head of its page (Thrift: its kind, then its size); 0 without one."""
    if not any("DICTIONARY" in encoding for encoding in column.encodings):
        return 0
    file.seek(column.dictionary_page_offset or column.data_page_offset)
    head = file.read(16)
    if head[:3] != b"\x15\x04\x15":
        return int(column.total_uncompressed_size)
    size = 0
    for place, byte in enumerate(head[3:]):
        size |= (byte & 127) << 7 * place
        if byte < 128:
            break
    return size >> 1


def _rows_fit(name: str, batch: Any, before: int) -> None:
    for i in range(batch.num_rows):
        if batch.slice(i, 1).nbytes > ROW_LIMIT:
            raise too_long(name, before + i + 1)
