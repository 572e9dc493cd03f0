"""Plain text and Markdown to pieces that are learned whole.

A text is cut at its empty lines; one without empty lines, at its lines. Markdown is gathered up to PIECE characters, a heading
begins a piece, and fenced code stays in one. Whatever is longer than CHUNK is cut at the end of a line, a sentence or a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lora_ui import errors
from lora_ui.data.raw import Rows, Source

CHUNK = 8_000
PIECE = 2_000
_AHEAD = 2**20
_EMPTY = re.compile(r"\n[ \t]*\n")
_FENCE = re.compile(r"[ ]{0,3}(```|~~~)")
_HEADING = re.compile(r"[ ]{0,3}#{1,6}[ \t]")
_ENDS = (re.compile(r"\n"), re.compile(r"[.!?…][\"'”’)]*[ ]|[。！？][”’」』]*"), re.compile(r"[ ]"))


def rows(source: Source) -> Rows:
    """Raises EmptyData."""
    number = 0
    if source.suffix == ".md":
        pieces = _gathered(source)
    else:
        with source.open(None) as file:
            ahead = file.read(_AHEAD).strip("\ufeff \t\n\v\f")
        pieces = _blocks(source) if _EMPTY.search(ahead) else _single(source)
    for piece in pieces:
        for part in _cut(piece):
            number += 1
            yield number, {"text": part}
    if not number:
        raise errors.EmptyData(name=source.name)
    return number


def _lines(source: Source) -> Iterator[str]:
    """With their ends. A line longer than CHUNK comes in parts, of which only the last has one."""
    with source.open(None) as file:
        while line := file.readline(CHUNK):
            yield line.replace("\ufeff", "")


def _single(source: Source) -> Iterator[str]:
    """Every line alone."""
    held = ""
    for line in _lines(source):
        held += line
        while len(held) >= 2 * CHUNK:
            end = _end(held, 0)
            yield held[:end]
            held = held[end:]
        if held.endswith("\n"):
            yield held
            held = ""
    yield held


def _blocks(source: Source, fenced: bool = False) -> Iterator[str]:
    """What stands between empty lines. A block that grows beyond twice CHUNK is given away in parts."""
    held, fence = "", ""
    for line in _lines(source):
        begins = not held or held.endswith("\n")
        if fenced and begins and (mark := _FENCE.match(line)) and fence in ("", mark[1]):
            fence = "" if fence else mark[1]
        if begins and not fence and line.endswith("\n") and not line.strip():
            yield held
            held = ""
        else:
            held += line
        while len(held) >= 2 * CHUNK:
            end = _end(held, 0)
            yield held[:end]
            held = held[end:]
    yield held


def _gathered(source: Source) -> Iterator[str]:
    held = ""
    for block in _blocks(source, fenced=True):
        block = block.strip("\n")
        if not block.strip():
            continue
        if held and (_HEADING.match(block) or len(held) + len(block) > PIECE) and not _only_headings(held):
            yield held
            held = ""
        held = f"{held}\n\n{block}" if held else block
    if held:
        yield held


def _only_headings(text: str) -> bool:
    return all(_HEADING.match(line) or not line.strip() for line in text.split("\n"))


def _cut(text: str) -> Iterator[str]:
    """Parts of at most CHUNK characters; together they are the text, but for line ends at the cuts."""
    start = 0
    while start < len(text):
        end = _end(text, start)
        if text[start:end].strip():
            yield text[start:end].strip("\n")
        start = end


def _end(text: str, start: int) -> int:
    """Where the part that begins at `start` ends best."""
    if len(text) - start <= CHUNK:
        return len(text)
    for pattern in _ENDS:
        if found := [match.end() for match in pattern.finditer(text, start + CHUNK // 2, start + CHUNK)]:
            return found[-1]
    return start + CHUNK
