"""One row to text, tokens and labels: the same function for the preview, the training rows and the prompts of a chat.

The tokenizer's own chat template lays a conversation out; which characters are learned is found on the laid-out text; then the
text is tokenised. Text that people wrote never becomes a control token: where it holds one letter by letter, the text is cut
inside that piece and both sides are tokenised alone.

Not here: limits on a template's time and memory (prepare.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

from lora_ui.errors import Say

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Messages = list[dict[str, str]]
Spans = list[tuple[int, int]]
READ_ONLY = -100
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '<|im_end|>' }}{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""For base models without a template. Answers end with the tokenizer's own end token, so that stock generation stops there."""
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Unrenderable(Exception):
    """This row cannot be laid out truthfully; `said` says why."""

    def __init__(self, said: Say):
        super().__init__(said)
        self.said = said


@dataclass(frozen=True)
class Rendered:
    """`starts[i]:ends[i]` are the characters of token i in `text`; `labels` is -100 where a token is only read. `cut_tokens` were
    left out at the end; `text` still holds them. `control_like`: pieces of people's text that look like control tokens."""

    text: str
    starts: list[int]
    ends: list[int]
    input_ids: list[int]
    labels: list[int]
    cut_tokens: int
    control_like: int


def template_of(tokenizer: PreTrainedTokenizerFast) -> str:
    """The tokenizer's own chat template, else ChatML."""
    return tokenizer.get_chat_template() if tokenizer.chat_template else CHATML


def has_generation_tags(template: str) -> bool:
    return bool(_GENERATION.search(template))


def render(tokenizer: PreTrainedTokenizerFast, row: dict[str, Any], system_prompt: str, max_length: int, template: str) -> Rendered:
    """`row` holds `messages` or `text`; at most `max_length` tokens are kept, from the start.

    Raises Unrenderable, and what the template itself raises (jinja2.TemplateError, TypeError, …).
    """
    if "text" in row:
        text, cuts, learned = _plain(tokenizer, row["text"])
    else:
        text, cuts, learned = _conversation(tokenizer, with_system(row["messages"], system_prompt), template)
    ids, starts, ends = _tokens(tokenizer, text, cuts)
    labels = _labels(ids, starts, ends, learned, len(text))
    return Rendered(
        text, starts[:max_length], ends[:max_length], ids[:max_length], labels[:max_length], max(0, len(ids) - max_length), len(cuts)
    )


def prompt_ids(tokenizer: PreTrainedTokenizerFast, messages: Messages) -> list[int]:
    """Tokens of a conversation that waits for its next answer, laid out as in training. Raises as `render`."""
    template = template_of(tokenizer)
    cut, *_ = _unused(messages)
    marked = [{**m, "content": _mark(m["content"], controls(tokenizer, template, m["role"]), cut)} for m in messages]
    text, cuts = _take_out(_lay_out(tokenizer, marked, template, True)[0], cut)
    return _tokens(tokenizer, text, cuts)[0]


def with_system(messages: Messages, system_prompt: str) -> Messages:
    """The conversation with `system_prompt` in front unless it is empty or the row has its own."""
    own = messages[0]["role"] == "system"
    return messages if own or not system_prompt else [{"role": "system", "content": system_prompt}, *messages]


# Text and learned characters


def _plain(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[str, list[int], Spans]:
    """Plain text is learned whole, with the token that ends a text; one that begins a text is put where the tokenizer wants it."""
    begin = tokenizer.bos_token if tokenizer.bos_token and tokenizer("a").input_ids[0] == tokenizer.bos_token_id else ""
    cut, *_ = _unused([{"content": text}])
    body, cuts = _take_out(_mark(text, controls(tokenizer, "", "user"), cut), cut)
    whole = begin + body + tokenizer.eos_token
    return whole, [len(begin) + c for c in cuts], [(len(begin), len(whole))]


def _conversation(tokenizer: PreTrainedTokenizerFast, messages: Messages, template: str) -> tuple[str, list[int], Spans]:
    """(text, places to cut between tokens, learned characters)."""
    cut, start, end = _unused(messages)
    marked = [{**m, "content": _mark(m["content"], controls(tokenizer, template, m["role"]), cut)} for m in messages]
    laid_out, tagged = _lay_out(tokenizer, marked, template, False)
    text, cuts = _take_out(laid_out, cut)
    if has_generation_tags(template):
        learned = [(a - laid_out.count(cut, 0, a), b - laid_out.count(cut, 0, b)) for a, b in tagged]
    else:
        framed = [{**m, "content": _frame(m["content"], start, end)} if m["role"] == "assistant" else m for m in marked]
        framed_text = _lay_out(tokenizer, framed, template, False)[0].replace(cut, "")
        prompts = [_prompt(tokenizer, marked[:i], template).replace(cut, "") for i, m in enumerate(marked) if m["role"] == "assistant"]
        learned = _answers(text, framed_text, prompts, start, end)
    _same_words(text, learned, [m["content"] for m in messages if m["role"] == "assistant"])
    return text, cuts, [(a, _past_end(tokenizer, template, text, b)) for a, b in learned]


def _answers(text: str, framed: str, prompts: list[str], start: str, end: str) -> Spans:
    """Where each answer stands: from where its prompt ends (so that what the model has to write before it is learned too), or else
    from its first word, to its last word. `framed` is the same text with marks around the words of each answer."""
    found, ends = _take_out(framed, end)
    bare, starts = _take_out(found, start)
    if bare != text or len(ends) != len(prompts):
        raise _changed()
    ends = [e - found.count(start, 0, e) for e in ends]
    spans = []
    for n, (prompt, to) in enumerate(zip(prompts, ends, strict=True)):
        if prompt and len(prompt) <= to and text.startswith(prompt):
            spans.append((len(prompt), to))
        elif len(starts) == len(ends):
            spans.append((starts[n], to))
        else:
            raise _changed()
    return spans


def _same_words(text: str, learned: Spans, answers: list[str]) -> None:
    """Every answer stands in the text as it was written, white space aside. Templates may drop the thinking of earlier answers."""
    ends, since = iter([to for _, to in learned]), 0
    for n, answer in enumerate(answers, 1):
        written = "".join((answer if n == len(answers) else answer.rpartition("</think>")[2]).split())
        to = next((to for to in ends if written in "".join(text[since:to].split())), None)
        if to is None:
            raise _changed()
        since = to


def _changed() -> Unrenderable:
    return Unrenderable(
        Say("The template drops or changes part of an answer (its thinking, perhaps), so it would not be learned as written.")
    )


def _prompt(tokenizer: PreTrainedTokenizerFast, before: Messages, template: str) -> str:
    """The text that asks for the next answer; empty when the template refuses half a conversation."""
    try:
        return _lay_out(tokenizer, before, template, True)[0]
    except TemplateError:
        return ""


def _past_end(tokenizer: PreTrainedTokenizerFast, template: str, text: str, to: int) -> int:
    """The answer's end moved past the token that ends a turn, so that the model learns to stop."""
    token = turn_end(tokenizer, template)
    found = re.compile(r"\s*" + re.escape(token)).match(text, to) if token else None
    return found.end() if found else to


@lru_cache(maxsize=16)
def turn_end(tokenizer: PreTrainedTokenizerFast, template: str) -> str:
    """The control token that follows an answer, such as `<|im_end|>`; empty when the template puts none there."""
    mark = chr(0xF0000)
    probe = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Yes" + mark}]
    try:
        rest = _lay_out(tokenizer, probe, template, False)[0].rpartition(mark)[2].lstrip()
    except TemplateError:
        return ""
    known = {*controls(tokenizer, template, "user"), str(tokenizer.eos_token)}
    return max((token for token in known if rest.startswith(token)), key=len, default="")


def _lay_out(tokenizer: PreTrainedTokenizerFast, messages: Messages, template: str, ask: bool) -> tuple[str, Spans]:
    """(laid-out text, characters inside generation tags)."""
    texts, spans = render_jinja_template(
        conversations=[messages],
        chat_template=template,
        add_generation_prompt=ask,
        return_assistant_tokens_mask=has_generation_tags(template),
        **tokenizer.special_tokens_map,
    )
    return texts[0], spans[0] if spans else []


# Marks: characters of the private-use planes that a row does not use itself


def _unused(messages: Iterable[dict[str, Any]]) -> tuple[str, str, str]:
    used = {c for m in messages for c in m["content"] if c >= "\U000f0000"}
    free = [c for c in map(chr, range(0xF0000, 0xF0000 + len(used) + 3)) if c not in used]
    return free[0], free[1], free[2]


@lru_cache(maxsize=64)
def controls(tokenizer: PreTrainedTokenizerFast, template: str, role: str) -> frozenset[str]:
    """Tokens that this role's text must not become: all special ones, and others that the template itself writes. An assistant may
    write the latter (`<think>`): that is how a model learns to."""
    added = tokenizer.added_tokens_decoder.values()
    written = () if role == "assistant" else (t.content for t in added if not t.content.isspace() and t.content in template)
    return frozenset({*(t.content for t in added if t.special), *written} - {""})


def _mark(text: str, tokens: frozenset[str], cut: str) -> str:
    """`cut` after the first character of each control token that stands in `text`."""
    places = {m.start() + 1 for token in tokens if token in text for m in re.finditer(f"(?={re.escape(token)})", text)}
    if places and any(len(token) == 1 and token in text for token in tokens):
        raise Unrenderable(Say("It holds a single character that is a control token of this model."))
    for place in sorted(places, reverse=True):
        text = text[:place] + cut + text[place:]
    return text


def _frame(text: str, start: str, end: str) -> str:
    """Marks around the words; outer white space stays outside, since templates trim it."""
    core = text.strip()
    before, _, after = text.partition(core)
    return f"{before}{start}{core}{end}{after}"


def _take_out(text: str, mark: str) -> tuple[str, list[int]]:
    """(text without the mark, where it stood)."""
    pieces = text.split(mark)
    places, at = [], 0
    for piece in pieces[:-1]:
        at += len(piece)
        places.append(at)
    return "".join(pieces), places


# Tokens


def _tokens(tokenizer: PreTrainedTokenizerFast, text: str, cuts: list[int]) -> tuple[list[int], list[int], list[int]]:
    """(ids, first characters, ends) without gap or overlap: a space that a tokenizer leaves out of its offsets belongs to the token
    after it, and of several tokens that make one character the first has it."""
    ids: list[int] = []
    starts: list[int] = []
    ends: list[int] = []
    edges = [0, *cuts, len(text)]
    for begin, to in pairwise(edges):
        for id, last in _piece(tokenizer, text[begin:to], bool(begin)):
            previous = ends[-1] if ends else 0
            ids.append(id)
            starts.append(previous)
            ends.append(max(begin + last, previous))
    return ids, starts, ends


def _piece(tokenizer: PreTrainedTokenizerFast, text: str, inside: bool) -> list[tuple[int, int]]:
    """(id, end in characters) of each token. A piece from inside a text is tokenised after a line break, which is then taken off
    again: some tokenizers put a space before whatever comes first."""
    if inside:
        head = tokenizer("\n", add_special_tokens=False).input_ids
        encoded = tokenizer("\n" + text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        if encoded.input_ids[: len(head)] == head:
            pairs = list(zip(encoded.input_ids, encoded.offset_mapping, strict=True))
            return [(id, last - 1) for id, (_, last) in pairs[len(head) :]]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [(id, last) for id, (_, last) in zip(encoded.input_ids, encoded.offset_mapping, strict=True)]


def _labels(ids: list[int], starts: list[int], ends: list[int], learned: Spans, length: int) -> list[int]:
    """A token is learned when any of its characters is; one without characters goes with the token before it."""
    inside = bytearray(length)
    for first, last in learned:
        inside[first:last] = b"\x01" * (last - first)
    labels: list[int] = []
    for id, first, last in zip(ids, starts, ends, strict=True):
        yes = 1 in inside[first:last] if last > first else bool(labels) and labels[-1] != READ_ONLY
        labels.append(id if yes else READ_ONLY)
    return labels
