"""One row to text, tokens and labels: the same functions for the preview, the training rows and the prompts of a chat.

The tokenizer's own chat template lays a conversation out (layout.py); which characters are learned is found on the laid-out text
(spans.py); then the text is tokenised, many rows at a time. Text that people wrote never becomes a control token: where it holds
one letter by letter, the text is cut inside that piece and both sides are tokenised alone.

Not here: limits on a template's time and memory (prepare.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_ui.worker import spans
from lora_ui.worker.layout import CHATML, Messages, Spans, has_generation_tags, template_of
from lora_ui.worker.spans import Laid, Unrenderable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "CHATML",
    "READ_ONLY",
    "Rendered",
    "Unrenderable",
    "has_generation_tags",
    "lay",
    "prompt_ids",
    "render",
    "template_of",
    "tokenise",
]
READ_ONLY = -100
Tokens = tuple[list[int], Any, Any]


@dataclass(frozen=True)
class Rendered:
    """`starts[i]:ends[i]` are the characters of token i in `text`; `labels` is -100 where a token is only read. `cut_tokens` were
    left out at the end; `text` still holds them. `control_like`: pieces of people's text that look like control tokens. `missing`:
    what of the row the template left out (see spans.Laid)."""

    text: str
    starts: list[int]
    ends: list[int]
    input_ids: list[int]
    labels: list[int]
    cut_tokens: int
    control_like: int
    missing: list[str]


def render(
    tokenizer: PreTrainedTokenizerFast, row: dict[str, Any], system_prompt: str, max_length: int, template: str, learn: str = "all"
) -> Rendered:
    """`row` holds `messages` (and perhaps `tools`) or `text`; at most `max_length` tokens are kept, from the start.

    Raises Unrenderable, and what the template itself raises (jinja2.TemplateError, TypeError, …).
    """
    return tokenise(tokenizer, [lay(tokenizer, row, system_prompt, template, learn)], max_length)[0]


def lay(tokenizer: PreTrainedTokenizerFast, row: dict[str, Any], system_prompt: str, template: str, learn: str = "all") -> Laid:
    """The row as text with its learned characters. `learn`: all, last or everything. Raises as `render`."""
    if "text" in row:
        return spans.lay_plain(tokenizer, row["text"])
    return spans.lay_conversation(tokenizer, {**row, "messages": with_system(row["messages"], system_prompt)}, template, learn)


def tokenise(tokenizer: PreTrainedTokenizerFast, laid: Sequence[Laid], max_length: int) -> list[Rendered]:
    """Tokens and labels of rows that are laid out. Rows without cuts go through the tokenizer together."""
    whole = iter(_encode(tokenizer, [row.text for row in laid if not row.cuts]))
    return [_rendered(row, next(whole) if not row.cuts else _pieces(tokenizer, row.text, row.cuts), max_length) for row in laid]


def prompt_ids(tokenizer: PreTrainedTokenizerFast, messages: Messages) -> list[int]:
    """Tokens of a conversation that waits for its next answer, laid out as in training. Raises as `render`."""
    text, cuts = spans.lay_prompt(tokenizer, messages, template_of(tokenizer))
    ids, *_ = _pieces(tokenizer, text, cuts)
    return ids


def with_system(messages: Messages, system_prompt: str) -> Messages:
    """The conversation with `system_prompt` in front unless it is empty or the row has its own."""
    own = messages[0]["role"] == "system"
    return messages if own or not system_prompt else [{"role": "system", "content": system_prompt}, *messages]


def _rendered(row: Laid, tokens: Tokens, max_length: int) -> Rendered:
    """Tokens without gap or overlap: a space that a tokenizer leaves out of its offsets belongs to the token after it, and of several
    tokens that make one character the first has it."""
    ids, begins, lasts = tokens
    ends = np.maximum.accumulate(np.maximum(begins, lasts)) if len(ids) else np.zeros(0, np.int64)
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64) if len(ids) else ends
    labels = np.where(_learned(starts, ends, row.learned, len(row.text)), np.asarray(ids, np.int64), READ_ONLY)
    return Rendered(
        row.text,
        starts[:max_length].tolist(),
        ends[:max_length].tolist(),
        ids[:max_length],
        labels[:max_length].tolist(),
        max(0, len(ids) - max_length),
        len(row.cuts),
        row.missing,
    )


def _learned(starts: Any, ends: Any, learned: Spans, length: int) -> Any:
    """A token is learned when any of its characters is; one without characters goes with the token before it. The first token of a
    row never is: nothing comes before it that could tell it (the trainer leaves it out as well)."""
    inside = np.zeros(length + 1, np.int64)
    for first, last in learned:
        inside[first + 1 : last + 1] = 1
    counted = np.cumsum(inside)
    yes = counted[ends] > counted[starts]
    empty = np.flatnonzero(ends == starts)
    for at in empty.tolist():
        yes[at] = at > 0 and yes[at - 1]
    yes[:1] = False
    return yes


# Tokens: (ids, where the piece a token belongs to begins, where the token ends)


def _encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[Tokens]:
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    encoded = backend.encode_batch(texts, add_special_tokens=False) if texts else []
    return [(e.ids, 0, np.array([last for _, last in e.offsets], np.int64)) for e in encoded]


def _pieces(tokenizer: PreTrainedTokenizerFast, text: str, cuts: list[int]) -> Tokens:
    ids: list[int] = []
    begins: list[int] = []
    lasts: list[int] = []
    for begin, to in pairwise([0, *cuts, len(text)]):
        piece, ends = _piece(tokenizer, text[begin:to], bool(begin))
        ids += piece
        begins += [begin] * len(piece)
        lasts += [begin + last for last in ends]
    return ids, np.array(begins, np.int64), np.array(lasts, np.int64)


def _piece(tokenizer: PreTrainedTokenizerFast, text: str, inside: bool) -> tuple[list[int], list[int]]:
    """(ids, ends in characters). A piece from inside a text is tokenised after a line break, which is then taken off again: some
    tokenizers put a space before whatever comes first."""
    if inside:
        head, *_ = _encode(tokenizer, ["\n"])[0]
        ids, _, ends = _encode(tokenizer, ["\n" + text])[0]
        if ids[: len(head)] == head:
            return ids[len(head) :], [max(0, last - 1) for last in ends.tolist()[len(head) :]]
    ids, _, ends = _encode(tokenizer, [text])[0]
    return ids, ends.tolist()
