"""How a text is written: its script, letters that were decoded wrongly, left-overs of web pages, blank space around it.

A script is not a language: English among German is not seen, Russian among Chinese is.
"""

from __future__ import annotations

import re

_SCRIPTS = {
    "Latin": "A-Za-zÀ-ɏ",
    "Japanese": "ぁ-ヿ",
    "Chinese": "㐀-鿿",
    "Korean": "가-힣",
    "Cyrillic": "Ѐ-ӿ",
    "Greek": "Ͱ-Ͽ",
    "Arabic": "؀-ۿ",
    "Hebrew": "֐-׿",
    "Devanagari": "ऀ-ॿ",
    "Thai": "฀-๿",
}
_RUNS = {name: re.compile(f"[{letters}]+") for name, letters in _SCRIPTS.items()}
_LETTER = re.compile(r"[A-Za-z]")
_LOOKED_AT = 2000
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)
_HTML = re.compile(
    r"</?(?:a|b|i|p|br|hr|div|span|font|table|tbody|td|th|tr|li|ul|ol|img|script|style|strong|em|h[1-6])(?:\s[^<>]*)?/?>"
    r"|&(?:amp|lt|gt|nbsp|quot|apos|#\d{2,6}|#x[0-9a-f]{2,5});",
    re.I,
)
_EMPTY_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")
_CONTINUED = "\u0080-\u00bf€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
_MOJIBAKE = re.compile(
    "\ufffd|锟斤拷|[ÂÃ][\u0080-\u00bf]"
    f"|â[€‚][{_CONTINUED}]|[ÐÑ][{_CONTINUED}][ÐÑ][{_CONTINUED}][ÐÑ]|(?:[ä-é][{_CONTINUED}]{{2}}){{2}}|ðŸ[{_CONTINUED}]{{2}}"
)


def script(text: str) -> str | None:
    """The script most of its letters are in, None without letters. Chinese with some kana is Japanese."""
    text = text[:_LOOKED_AT]
    if text.isascii():
        return "Latin" if _LETTER.search(text) else None
    counts: dict[str, float] = {name: sum(map(len, run.findall(text))) for name, run in _RUNS.items()}
    if counts["Japanese"] * 10 > counts["Chinese"] > 0:
        counts["Japanese"] += counts.pop("Chinese")
    counts["Latin"] /= 4  # an alphabet needs several letters where a syllable or a word sign is one
    most = max(counts, key=lambda name: counts[name])
    return most if counts[most] else None


def is_mojibake(text: str) -> bool:
    """Whether it holds letters that were decoded with the wrong encoding, such as Ã© for é."""
    return not text.isascii() and bool(_MOJIBAKE.search(text))


def has_html(text: str) -> bool:
    """Whether it holds tags or entities of a web page outside code."""
    return ("<" in text or "&" in text) and bool(_HTML.search(text)) and bool(_HTML.search(_CODE.sub("", text)))


def trimmed(text: str) -> str:
    """Without the blank space at its end, empty lines in front and a single space in front. A first line that is indented by more
    stays so: it may be code, or how a paragraph begins."""
    text = _EMPTY_LINES.sub("", text.rstrip().lstrip("\ufeff\u200b"))
    return text[1:] if text[:1] == " " and not text[1:2].isspace() else text
