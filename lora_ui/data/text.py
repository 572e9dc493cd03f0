"""Bytes to text: what a file really is by its first bytes, and which encoding its text is in."""

from __future__ import annotations

import codecs
import re

from charset_normalizer import from_bytes

from lora_ui import errors

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


def signature(head: bytes) -> str | None:
    """What kind of binary file starts with these bytes, in words; None when none of the known ones does."""
    if head[:4] == b"RIFF" and head[8:12] in (b"WEBP", b"WAVE", b"AVI "):
        return {b"WEBP": "a WebP picture", b"WAVE": "a WAV sound", b"AVI ": "an AVI film"}[head[8:12]]
    return next((what for start, what in SIGNATURES if head.startswith(start)), None)


def decode(data: bytes, name: str) -> tuple[str, str | None]:
    """(text without byte order mark, name of the encoding when it had to be guessed else None). Raises NotText, UnreadableEncoding."""
    if what := signature(data[:16]):
        raise errors.NotText(name=name, what=what)
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return _strictly(data[len(mark) :], encoding, name), None
    if utf16 := _utf16_without_mark(data[:4096]):
        return _strictly(data, utf16, name), utf16
    if b"\x00" in data:
        raise errors.NotText(name=name, what="binary data")
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError as e:
        return _guessed(data, name, e.start)


def _strictly(data: bytes, encoding: str, name: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as e:
        raise errors.UnreadableEncoding(name=name, detail=f"It begins as {encoding.upper()}, but byte {e.start} does not fit.") from None


def _utf16_without_mark(head: bytes) -> str | None:
    """Western text in UTF-16 has a zero in every second byte."""
    half = len(head) // 2
    if half < 4:
        return None
    first, second = head[: 2 * half : 2].count(0), head[1 : 2 * half : 2].count(0)
    if second > 0.4 * half and first < 0.05 * half:
        return "utf-16-le"
    return "utf-16-be" if first > 0.4 * half and second < 0.05 * half else None


def _guessed(data: bytes, name: str, strange: int) -> tuple[str, str]:
    """The sample holds the first byte that is not UTF-8 and ends with a line, so that no character is cut."""
    start = data.rfind(b"\n", 0, max(0, strange - 1000)) + 1
    sample = data[start : start + _SAMPLE]
    sample = sample[: sample.rfind(b"\n") + 1] or sample
    best = from_bytes(sample).best()
    detail = f"Byte {strange} is not UTF-8, and no other encoding makes sense of it."
    if best is None:
        raise errors.UnreadableEncoding(name=name, detail=detail)
    try:
        text = data.decode(best.encoding)
    except UnicodeDecodeError:
        raise errors.UnreadableEncoding(name=name, detail=detail) from None
    if _CONTROL.search(text):
        raise errors.UnreadableEncoding(name=name, detail=detail)
    return text, best.encoding
