"""One row to text, tokens and labels: the same functions for the preview, the training rows and the prompts of a chat.

The tokenizer's own chat template lays a conversation out (layout.py); which characters are learned is found on the laid-out text
(spans.py); then the text is tokenised, many rows at a time. Text that people wrote never becomes a control token: where it holds
one letter by letter, the text is cut inside that piece and both sides are tokenised alone.

Not here: limits on a template's time and memory (prepare.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tokenizers import Encoding

from lora_ui.worker import spans
from lora_ui.worker.layout import CHATML, Messages, has_generation_tags, template_of
from lora_ui.worker.spans import Laid, Unrenderable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "CHATML",
    "READ_ONLY",
    "Rendered",
    "Together",
    "Unrenderable",
    "encode",
    "has_generation_tags",
    "lay",
    "prompt_ids",
    "render",
    "template_of",
    "together",
    "tokenise",
]
READ_ONLY = -100


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


class Piece(NamedTuple):
    """Tokens of a text between two cuts: it begins at character `begin`; what `tokens` says of characters counts from `shift`, and the
    first `skip` of them are not its own."""

    begin: int
    shift: int
    skip: int
    tokens: Encoding


@dataclass(frozen=True)
class Together:
    """Many rows, as numpy arrays: those of tokens (int32) hold one row after the other, row i at `edges[i]:edges[i + 1]`; `cut_tokens`
    and `learned` (how many tokens are) have a number for each row. See Rendered."""

    laid: Sequence[Laid]
    edges: Any
    input_ids: Any
    labels: Any
    starts: Any
    ends: Any
    cut_tokens: Any
    learned: Any

    def row(self, at: int) -> Rendered:
        row, here = self.laid[at], slice(self.edges[at], self.edges[at + 1])
        starts, ends, ids, labels = (values[here].tolist() for values in (self.starts, self.ends, self.input_ids, self.labels))
        return Rendered(row.text, starts, ends, ids, labels, int(self.cut_tokens[at]), len(row.cuts), row.missing)


def render(
    tokenizer: PreTrainedTokenizerFast, row: dict[str, Any], system_prompt: str, max_length: int, template: str, learn: str = "all"
) -> Rendered:
    """`row` holds `messages` (and perhaps `tools`) or `text`; at most `max_length` tokens are kept, from the start.

    Raises Unrenderable, and what the template itself raises (jinja2.TemplateError, TypeError, …).
    """
    return tokenise(tokenizer, [lay(tokenizer, row, system_prompt, template, learn)], max_length).row(0)


def lay(tokenizer: PreTrainedTokenizerFast, row: dict[str, Any], system_prompt: str, template: str, learn: str = "all") -> Laid:
    """The row as text with its learned characters. `learn`: all, last or everything. Raises as `render`."""
    if "text" in row:
        return spans.lay_plain(tokenizer, row["text"])
    return spans.lay_conversation(tokenizer, {**row, "messages": with_system(row["messages"], system_prompt)}, template, learn)


def tokenise(tokenizer: PreTrainedTokenizerFast, laid: Sequence[Laid], max_length: int) -> Together:
    """Tokens and labels of rows that are laid out."""
    return together(laid, encode(tokenizer, laid), max_length)


def encode(tokenizer: PreTrainedTokenizerFast, laid: Sequence[Laid]) -> list[Piece]:
    """The pieces of all rows, tokenised together: all of this work is the tokenizer's, outside Python.

    A piece from inside a text is tokenised after a line break, which is then taken off again: some tokenizers put a space before
    whatever comes first."""
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    places = [(begin, row.text[begin:to]) for row in laid for begin, to in pairwise([0, *row.cuts, len(row.text)])]
    encoded = backend.encode_batch(["\n" + text if begin else text for begin, text in places], add_special_tokens=False)
    if len(places) == len(laid):
        return [Piece(0, 0, 0, tokens) for tokens in encoded]
    head = backend.encode("\n", add_special_tokens=False).ids
    pieces = []
    for (begin, text), tokens in zip(places, encoded, strict=True):
        if begin and tokens.ids[: len(head)] == head:
            pieces.append(Piece(begin, begin - 1, len(head), tokens))
        else:
            alone = backend.encode(text, add_special_tokens=False) if begin else tokens
            pieces.append(Piece(begin, begin, 0, alone))
    return pieces


def together(laid: Sequence[Laid], pieces: list[Piece], max_length: int) -> Together:
    """Rows and what `encode` made of them. Tokens are without gap or overlap: a space that a tokenizer leaves out of its offsets
    belongs to the token after it, and of several tokens that make one character the first has it."""
    ids, ends, edges = _flat(laid, pieces)
    lengths = np.diff(edges)
    firsts = edges[:-1][lengths > 0]
    begins = np.cumsum([0, *(len(row.text) for row in laid)])
    begin = np.repeat(begins[:-1], lengths)
    ends = np.maximum.accumulate(ends + begin)
    starts = np.roll(ends, 1)
    starts[firsts] = begin[firsts]
    inside = np.zeros(begins[-1] + 1, np.int32)
    for at, row in zip(begins.tolist(), laid, strict=False):
        for first, last in row.learned:
            inside[at + first + 1 : at + last + 1] = 1
    learned = _learned(starts, ends, firsts, np.cumsum(inside))
    kept = np.arange(len(ids)) - np.repeat(edges[:-1], lengths) < max_length
    short = np.minimum(lengths, max_length)
    edges, counted = _sums(short), _sums(learned[kept])
    columns = (ids, np.where(learned, ids, READ_ONLY), starts - begin, ends - begin)
    ids, labels, starts, ends = (values[kept].astype(np.int32) for values in columns)
    return Together(laid, edges, ids, labels, starts, ends, lengths - short, counted[edges[1:]] - counted[edges[:-1]])


def prompt_ids(tokenizer: PreTrainedTokenizerFast, messages: Messages) -> list[int]:
    """Tokens of a conversation that waits for its next answer, laid out as in training. Raises as `render`."""
    text, cuts = spans.lay_prompt(tokenizer, messages, template_of(tokenizer))
    return [id for piece in encode(tokenizer, [Laid(text, cuts, [])]) for id in piece.tokens.ids[piece.skip :]]


def with_system(messages: Messages, system_prompt: str) -> Messages:
    """The conversation with `system_prompt` in front unless it is empty or the row has its own."""
    own = messages[0]["role"] == "system"
    return messages if own or not system_prompt else [{"role": "system", "content": system_prompt}, *messages]


def _learned(starts: Any, ends: Any, firsts: Any, counted: Any) -> Any:
    """A token is learned when any of its characters is; one without characters goes with the token before it. The first token of a
    row (at `firsts`) never is: nothing comes before it that could tell it (the trainer leaves it out as well). `counted`: learned
    characters before each."""
    yes = counted[ends] > counted[starts]
    own = ends > starts
    own[firsts] = True
    yes = yes[np.maximum.accumulate(np.where(own, np.arange(len(own)), 0))]
    yes[firsts] = False
    return yes


def _flat(laid: Sequence[Laid], pieces: list[Piece]) -> tuple[Any, Any, Any]:
    """(ids, where each token ends in its row's text, where the tokens of each row begin and the last ones end)."""
    ids = [piece.tokens.ids[piece.skip :] for piece in pieces]
    offsets = chain.from_iterable(piece.tokens.offsets[piece.skip :] for piece in pieces)
    counts = np.array([len(of_piece) for of_piece in ids], np.int64)
    edges = _sums(counts)
    lasts = np.fromiter(map(itemgetter(1), offsets), np.int64, edges[-1])
    begins, shifts = (np.repeat(np.array(values, np.int64), counts) for values in zip(*((p.begin, p.shift) for p in pieces), strict=True))
    flat = np.fromiter(chain.from_iterable(ids), np.int64, edges[-1])
    return flat, np.maximum(lasts + shifts, begins), edges[_sums([len(row.cuts) + 1 for row in laid])]


def _sums(values: Any) -> Any:
    """What comes before each, and the whole at the end."""
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
