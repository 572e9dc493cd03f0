"""JSON and JSON lines to raw rows, one row in memory at a time.

Which of the two a file is, its content decides and not its name: people call JSON lines .json and arrays .jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from json.decoder import WHITESPACE, JSONDecoder  # type: ignore[attr-defined]
from typing import Any

from lora_ui import errors
from lora_ui.data.raw import CONVERSATIONS, ROW_LIMIT, Broken, Row, Rows, Source, encodable, lines_of, one_broken, too_long
from lora_ui.errors import Say

_PIECE = 2**16
_SURROGATE = Say("it holds half of a character (a lone surrogate such as \\ud800)")
_TOO_DEEP = Say("a number is too long or the brackets are nested too deeply")
_DECODER = JSONDecoder()


def rows(source: Source) -> Rows:
    """Raises EmptyData, BrokenRows, RowTooLong."""
    with source.open("\n") as file:  # an array may be one long line: not more of it is read than a row may have
        lines = iter(lambda: file.readline(ROW_LIMIT), "")
        first = next((begun for line in lines if (begun := line.lstrip("\ufeff \t\r\n\v\f"))), "")
        alone = not any(line.strip() for line in lines)
    if not first:
        raise errors.EmptyData(name=source.name)
    objects = _is_object(first) and not (alone and source.suffix == ".json")
    if first[0] == "[" or (not objects and (source.suffix == ".json" or (first[0] == "{" and _is_whole(source)))):
        return (yield from _json(source))
    return (yield from _lines(source))


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_whole(source: Source) -> bool:
    """Whether the file is one JSON object over several lines."""
    try:
        with Scanner(source) as scanner:
            _list_in(scanner)
            return not scanner.peek()
    except (Problem, errors.RowTooLong):
        return False


# JSON lines


def _lines(source: Source) -> Rows:
    bad, good, number = Broken(source.name, "JSON"), 0, 0
    with source.open("\n") as file:
        for number, line in enumerate(lines_of(source.name, file), 1):
            line = line.strip("\ufeff\n")
            if line.strip("\ufeff \t\r\v\f"):
                row, why = _object(line)
                if row is None:
                    bad.add(number, line, why)
                else:
                    good += 1
                    yield number, row
    if bad.count:
        raise bad.refusal(good + bad.count)
    return number


def _object(line: str) -> tuple[Row | None, Say]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as e:
        return None, _problem(e.msg, e.colno)
    except (ValueError, RecursionError):
        return None, _TOO_DEEP
    if not isinstance(row, dict):
        return None, Say("it is not an object in curly brackets, such as {example}", example='{"question": "…", "answer": "…"}')
    if "\\u" in line and not encodable(row):
        return None, _SURROGATE
    return row, Say("")


def _problem(said: str, at: int) -> Say:
    known = {
        "Expecting ',' delimiter": Say(
            "at character {at} a comma or a closing bracket is missing, or a quote inside a text has no \\ before it", at=at
        ),
        "Expecting ':' delimiter": Say("at character {at} a colon is missing after a name, or a quote before it", at=at),
        "Unterminated string starting at": Say("the text that starts at character {at} has no closing quote", at=at),
        "Expecting property name enclosed in double quotes": Say("at character {at} a name in double quotes is expected", at=at),
        "Expecting value": Say("at character {at} a value is missing", at=at),
        "Invalid control character at": Say("at character {at} a line break or tab stands inside a text: write \\n or \\t", at=at),
        "Extra data": Say("at character {at} something follows after the end of the object", at=at),
    }
    return known.get(said) or Say("at character {at}: {said}", at=at, said=said)


# JSON


class Problem(Exception):
    """The text is no JSON: where, and why."""

    def __init__(self, line: int, quoted: str, why: Say):
        super().__init__(why)
        self.line, self.quoted, self.why = line, quoted, why


class Scanner:
    """The values of a JSON text one after another, holding no more of it than the value at hand. Raises Problem, RowTooLong."""

    def __init__(self, source: Source):
        self.name, self.file = source.name, source.open("\n")
        self.text, self.at, self.ended = "", 0, False
        self.line, self.column = 1, 0
        self.escaped = False
        """Whether the last value holds a \\u."""

    def __enter__(self) -> Scanner:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def peek(self) -> str:
        """The next character that is no white space, "" at the end."""
        while True:
            self.at = WHITESPACE.match(self.text, self.at).end()
            if self.at < len(self.text) and self.text[self.at] not in "\ufeff\v\f":
                return self.text[self.at]
            if self.at < len(self.text):
                self.at += 1
            elif not self._more():
                return ""

    def take(self, character: str, missing: str) -> None:
        if self.peek() != character:
            raise self._wrong(missing, self.at)
        self.at += 1

    def value(self) -> Any:
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except json.JSONDecodeError as e:
                if not self._more():
                    raise self._wrong(e.msg, e.pos) from None
            except (ValueError, RecursionError):
                raise self._wrong("", self.at) from None
            else:
                if end < len(self.text) or not self._more():  # a number may go on in the next piece
                    self.escaped = self.text.find("\\u", self.at, end) >= 0
                    self.at = end
                    return value

    def items(self) -> Iterator[Any]:
        """Of the list that comes next. All of them have to be taken."""
        self.take("[", "Expecting value")
        if self.peek() == "]":
            self.at += 1
            return
        while True:
            yield self.value()
            if self.peek() == "]":
                self.at += 1
                return
            self.take(",", "Expecting ',' delimiter")

    def names(self) -> Iterator[str]:
        """Of the object that comes next. After each, its value has to be taken."""
        self.take("{", "Expecting value")
        if self.peek() == "}":
            self.at += 1
            return
        while True:
            if self.peek() != '"':
                raise self._wrong("Expecting property name enclosed in double quotes", self.at)
            name = self.value()
            self.take(":", "Expecting ':' delimiter")
            yield name
            if self.peek() == "}":
                self.at += 1
                return
            self.take(",", "Expecting ',' delimiter")

    def rest(self) -> int:
        """Go to the end; how many lines the text has."""
        while self._more():
            self.at = len(self.text)
        return self.line + self.text.count("\n")

    def _more(self) -> bool:
        """Drop what was read and read on: twice as much for a value that did not fit. False at the end of the file."""
        if self.ended:
            return False
        waiting = len(self.text) - self.at
        if waiting > ROW_LIMIT:
            raise too_long(self.name, self._place(self.at)[0])
        read = self.file.read(max(_PIECE, waiting))
        self.ended = not read
        if read:
            self.line, self.column = self._place(self.at)
            self.text, self.at = self.text[self.at :] + read, 0
        return bool(read)

    def _place(self, at: int) -> tuple[int, int]:
        """(line, characters before `at` in it)."""
        start = self.text.rfind("\n", 0, at) + 1
        return self.line + self.text.count("\n", 0, at), at - start + (0 if start else self.column)

    def _wrong(self, said: str, at: int) -> Problem:
        line, before = self._place(at)
        start, end = self.text.rfind("\n", 0, at) + 1, self.text.find("\n", at)
        quoted = self.text[start : end if end >= 0 else len(self.text)]
        return Problem(line, quoted, _problem(said, before + 1) if said else _TOO_DEEP)


def _json(source: Source) -> Rows:
    """An array of objects, an object that holds one such array, or a single object."""
    with Scanner(source) as scanner:
        try:
            return (yield from _values(source, scanner))
        except Problem as e:
            raise one_broken(source.name, "JSON", e.line, e.quoted, e.why, scanner.rest()) from None


def _values(source: Source, scanner: Scanner) -> Rows:
    number, bad = 0, Broken(source.name, "JSON rows")
    for number, row in enumerate(_items(source, scanner), 1):
        if not isinstance(row, dict):
            bad.add(number, json.dumps(row, ensure_ascii=True)[:200], Say("entry {n} of the list is not an object", n=number))
        elif scanner.escaped and not encodable(row):
            bad.add(number, json.dumps(row)[:200], _SURROGATE)
        else:
            yield number, row
    if bad.count:
        raise bad.refusal(number)
    if not number:
        raise errors.EmptyData(name=source.name)
    return number


def _items(source: Source, scanner: Scanner) -> Iterator[Any]:
    """Raises Problem when something stands after the end."""
    if scanner.peek() == "{":
        with Scanner(source) as ahead:
            held = _list_in(ahead)
        if held is not None:
            for name in scanner.names():
                if name == held:
                    yield from scanner.items()
                else:
                    scanner.value()
        else:
            yield scanner.value()
    elif scanner.peek() == "[":
        yield from scanner.items()
    else:
        yield scanner.value()
    if scanner.peek():
        raise scanner._wrong("Extra data", scanner.at)


def _list_in(scanner: Scanner) -> str | None:
    """The name of the one list of objects that an object holds, or None when it is a row itself."""
    lists = []
    for name in scanner.names():
        if scanner.peek() == "[" and name not in CONVERSATIONS:
            if {isinstance(item, dict) for item in scanner.items()} == {True}:
                lists.append(name)
        else:
            scanner.value()
    return lists[0] if len(lists) == 1 else None
