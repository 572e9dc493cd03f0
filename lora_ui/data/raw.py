"""Raw rows: what the readers of each kind of file give and share, and how large a file, a row and a header may be.

A reader is a generator of `(number, row)`: the number of a row in its own file and a dict of its columns, or, for a row that does
not fit the table, a sentence that says why. It holds one row at a time (a Parquet table: one batch), and returns the last number
that it used up.
"""

from __future__ import annotations

import io
import json
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from lora_ui import errors
from lora_ui.errors import Say

Row = dict[str, Any]
Rows = Generator[tuple[int, Row | Say], None, int]
CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns", "对话", "消息", "聊天")
ROW_LIMIT = 16 * 2**20
"""Characters of one row: far more than any model reads, and little enough to hold a few of them."""
COLUMN_LIMIT = 10_000
RATIO_LIMIT, RATIO_FROM = 250, 64 * 2**20
"""Text becomes 3 to 20 times smaller when it is packed; the ratio counts once this many bytes came out."""
QUOTED = 5
"""Broken lines that a message quotes."""


@dataclass
class Raw:
    """Rows as they stand in the files, as far as they were read. `broken` are rows that do not fit the table (number, why);
    `encodings` had to be guessed; `unread` are the sheets of workbooks that were passed over, `renamed` columns whose name a header has twice (new name -> name);
    `files` says at which number each begins."""

    rows: list[tuple[int, Row]] = field(default_factory=list)
    broken: list[tuple[int, Say]] = field(default_factory=list)
    encodings: dict[str, str] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    plain_text: bool = False
    seen: dict[str, None] = field(default_factory=dict)

    def columns(self) -> list[str]:
        """In the order in which they came up."""
        return list(self.seen or dict.fromkeys(name for _, row in self.rows for name in row))

    def note(self, name: str, row: Row) -> bool:
        """Whether the row has columns that none had before. Raises TooManyColumns."""
        if row.keys() <= self.seen.keys():
            return False
        self.seen.update(dict.fromkeys(row))
        if len(self.seen) > COLUMN_LIMIT:
            raise errors.TooManyColumns(name=name, limit=f"{COLUMN_LIMIT:,}")
        return True


@dataclass(frozen=True)
class Source:
    """A text file whose encoding is known. `skip`: bytes of its byte order mark."""

    name: str
    path: Path
    suffix: str
    encoding: str = "utf-8"
    skip: int = 0

    def open(self, newline: str | None) -> TextIO:
        """From its first character. `newline` as `io.TextIOWrapper` takes it."""
        file = self.path.open("rb")
        file.seek(self.skip)
        return io.TextIOWrapper(file, self.encoding, newline=newline)


def lines_of(name: str, file: TextIO) -> Iterator[str]:
    """Lines with their ends. Raises RowTooLong before a longer line is read."""
    number = 0
    while line := file.readline(ROW_LIMIT + 1):
        number += 1
        if len(line) > ROW_LIMIT:
            raise too_long(name, number)
        yield line


def too_long(name: str, number: int) -> errors.RowTooLong:
    return errors.RowTooLong(name=name, line=number, limit=f"{ROW_LIMIT / 1e6:.0f}")


def check_swelling(name: str, size: int, packed: int) -> None:
    """Raises ArchiveTooLarge when `size` bytes came out of `packed` ones, as happens only with files made for that."""
    if size > RATIO_FROM and size > RATIO_LIMIT * packed:
        raise errors.ArchiveTooLarge(
            name=name, detail=Say("It becomes more than {ratio} times as large, as no text does.", ratio=RATIO_LIMIT)
        )


@dataclass
class Broken:
    """Lines that cannot be read: all counted, the first few quoted."""

    name: str
    format: str
    count: int = 0
    quoted: list[tuple[int, str, Say]] = field(default_factory=list)

    def add(self, number: int, line: str, why: Say) -> None:
        self.count += 1
        if len(self.quoted) < QUOTED:
            line = line.strip()
            self.quoted.append((number, line if len(line) <= 120 else line[:117] + "…", why))

    def refusal(self, total: int) -> errors.BrokenRows:
        shown = [Say("Line {line}: {why}: {quoted}", line=n, why=str(why), quoted=line) for n, line, why in self.quoted]
        values = {"lines": [n for n, _, _ in self.quoted], "why": [why.as_dict() for _, _, why in self.quoted]}
        return errors.BrokenRows(name=self.name, count=self.count, total=total, problems="\n".join(shown), format=self.format, **values)


def one_broken(name: str, format: str, number: int, line: str, why: Say, total: int) -> errors.BrokenRows:
    broken = Broken(name, format)
    broken.add(number, line, why)
    return broken.refusal(total)


def encodable(value: Any) -> bool:
    """Whether no text in it holds half a character (a lone surrogate), which no file can keep."""
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
