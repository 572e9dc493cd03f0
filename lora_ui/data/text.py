"""What a file really is by its first bytes, and which encoding its text is in."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from charset_normalizer import from_bytes

from lora_ui import errors
from lora_ui.errors import Say

SIGNATURES: list[tuple[bytes, str]] = [
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"%PDF-", "a PDF document"),
    (b"PK\x03\x04", "a zip archive (or a spreadsheet or document, which are zip archives)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"GGUF", "a GGUF model"),
    (b"ARROW1", "an Arrow file"),
    (b"\x7fELF", "a program"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"PAR1", "a Parquet table"),
]
_BOMS = [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be")]
_BOMS += [(codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")]
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f\ufffe\uffff]")
_SAMPLE = 200_000
"""Bytes that the detection of an old encoding looks at: more is slow and tells no more."""
_CHUNK = 2**20


def signature(head: bytes) -> str | None:
    """What kind of binary file starts with these bytes, in words; None when none of the known ones does."""
    if head[:4] == b"RIFF" and head[8:12] in (b"WEBP", b"WAVE", b"AVI "):
        return {b"WEBP": "a WebP picture", b"WAVE": "a WAV sound", b"AVI ": "an AVI film"}[head[8:12]]
    return next((what for start, what in SIGNATURES if head.startswith(start)), None)


@dataclass(frozen=True)
class Encoding:
    """`skip`: bytes of the byte order mark; `guessed`: nothing in the file says it."""

    name: str
    skip: int = 0
    guessed: bool = False


def encoding_of(name: str, file: BinaryIO) -> Encoding:
    """The encoding in which the whole file can be read; it is gone through once, a piece at a time. Raises NotText, UnreadableEncoding."""
    head = file.read(4096)
    if what := signature(head[:16]):
        raise errors.NotText(name=name, what=what)
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return _strictly(name, file, Encoding(encoding, len(mark)), Say("It begins as {encoding}", encoding=encoding.upper()))
    if utf16 := _utf16_without_mark(head):
        return _strictly(name, file, Encoding(utf16, 0, True), Say("It looks like {encoding}", encoding=utf16.upper()))
    strange, zero = _not_utf8(file)
    if zero:
        raise errors.NotText(name=name, what="binary data")
    return Encoding("utf-8") if strange is None else _guessed(name, file, strange)


def _strictly(name: str, file: BinaryIO, encoding: Encoding, because: Say) -> Encoding:
    file.seek(encoding.skip)
    try:
        for _ in _decoded(file, encoding.name):
            pass
    except UnicodeDecodeError:
        raise errors.UnreadableEncoding(name=name, detail=Say("{because}, but not all of it fits.", because=str(because))) from None
    return encoding


def _decoded(file: BinaryIO, encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)()
    while piece := file.read(_CHUNK):
        yield decoder.decode(piece)
    yield decoder.decode(b"", final=True)


def _not_utf8(file: BinaryIO) -> tuple[int | None, bool]:
    """(place of the first byte that is not UTF-8, whether there is a zero byte anywhere)."""
    file.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    strange, read = None, 0
    while piece := file.read(_CHUNK):
        if b"\x00" in piece:
            return strange, True
        if strange is None:
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(piece)
            except UnicodeDecodeError as e:
                strange = read - waiting + e.start
        read += len(piece)
    if strange is None and (waiting := len(decoder.getstate()[0])):
        strange = read - waiting
    return strange, False


def _utf16_without_mark(head: bytes) -> str | None:
    """Western text in UTF-16 has a zero in every second byte."""
    half = len(head) // 2
    if half < 4:
        return None
    first, second = head[: 2 * half : 2].count(0), head[1 : 2 * half : 2].count(0)
    if second > 0.4 * half and first < 0.05 * half:
        return "utf-16-le"
    return "utf-16-be" if first > 0.4 * half and second < 0.05 * half else None


def _guessed(name: str, file: BinaryIO, strange: int) -> Encoding:
    """The sample holds the first byte that is not UTF-8; where it can, it begins and ends with a line, so that no character is cut."""
    start = max(0, strange - 1000)
    file.seek(start)
    sample = file.read(_SAMPLE)
    if start:
        sample = sample[sample.find(b"\n", 0, strange - start) + 1 :]
    sample = sample[: sample.rfind(b"\n") + 1] or sample
    best = from_bytes(sample).best()
    refusal = errors.UnreadableEncoding(
        name=name, detail=Say("Byte {place} is not UTF-8, and no other encoding makes sense of it.", place=strange)
    )
    if best is None:
        raise refusal
    file.seek(0)
    try:
        if any(_CONTROL.search(piece) for piece in _decoded(file, best.encoding)):
            raise refusal
    except UnicodeDecodeError:
        raise refusal from None
    return Encoding(best.encoding, 0, True)
