"""Which characters of a laid-out conversation are learned, and what of the row the template left out.

An answer is learned from where its prompt ends (so that what the model has to write before it is learned too), or else from its
first word, to the token that ends the turn. Where words stand is found with marks: characters of the private-use planes that
the row does not use itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lora_ui.errors import Say
from lora_ui.worker.layout import (
    REFUSALS,
    Messages,
    Spans,
    asked_with,
    control_pattern,
    controls,
    conversation,
    has_generation_tags,
    lay_out,
    shared,
    turn_ends,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_PRIVATE = re.compile("([\U000f0000-\U0010fffd])")
_json = json.JSONEncoder(ensure_ascii=False).encode
THOUGHTS = frozenset({"reasoning_content", "reasoning", "thinking"})
_TAKEN_OUT = ("system", "tool", "tools", "thinking")


class Unrenderable(Exception):
    """This row cannot be laid out truthfully; `said` says why."""

    def __init__(self, said: Say):
        super().__init__(said)
        self.said = said


@dataclass
class Laid:
    """A row as text: places to cut between tokens, learned characters, and what the template left out: system, tool, tools
    (their definitions), thinking."""

    text: str
    cuts: list[int]
    learned: Spans
    missing: list[str] = field(default_factory=list)


def lay_plain(tokenizer: PreTrainedTokenizerFast, text: str) -> Laid:
    """Plain text is learned whole, with the token that ends a text; one that begins a text is put where the tokenizer wants it."""
    begin = _beginning(tokenizer)
    [cut] = _unused(text, 1)
    body, cuts = _take_out(_cut(tokenizer, "", "user", text, cut), cut)
    whole = begin + body + tokenizer.eos_token
    return Laid(whole, [len(begin) + c for c in cuts], [(len(begin), len(whole))])


@lru_cache(maxsize=16)
def _beginning(tokenizer: PreTrainedTokenizerFast) -> str:
    return str(tokenizer.bos_token) if tokenizer.bos_token and tokenizer("a").input_ids[0] == tokenizer.bos_token_id else ""


def lay_conversation(tokenizer: PreTrainedTokenizerFast, row: dict[str, Any], template: str, learn: str) -> Laid:
    """`learn`: all answers, the last one, or everything. Raises Unrenderable and what the template raises."""
    messages, tools = conversation(tokenizer, row, template)
    turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    cut, *marks = _unused(_json([messages, tools]), 1 + 2 * len(turns))

    def kept(value: Any, role: str) -> Any:
        return _each_text(value, lambda text: _cut(tokenizer, template, role, text, cut))

    written = [{k: v if k == "role" else kept(v, m["role"]) for k, v in m.items()} for m in messages]
    known = kept(tools, "user")
    laid_out, tagged = lay_out(tokenizer, written, known, template)
    text, cuts = _take_out(laid_out, cut)
    reading = _Reading(tokenizer, template, written, known, text, cuts, cut, dict(zip(turns, zip(marks[::2], marks[1::2]))))
    if has_generation_tags(template):
        tagged = [(a - laid_out.count(cut, 0, a), b - laid_out.count(cut, 0, b)) for a, b in tagged]
        learned = [reading.tagged(a, b) for a, b in tagged]
        reading.same_words(learned, [messages[i] for i in turns])
        if learn == "last" and turns:
            asked = shared(reading.prompt(turns[-1]), text)
            learned = [(max(a, asked), b) for a, b in learned if b > asked]
    else:
        learned = [reading.turn(i, messages[i], i == turns[-1]) for i in turns]
        learned = learned[-1:] if learn == "last" else learned
    if learn == "everything":
        learned = [(0, len(text))]
    return Laid(text, cuts, learned, _missing(messages, tools, text))


def lay_prompt(tokenizer: PreTrainedTokenizerFast, messages: Messages, template: str) -> tuple[str, list[int]]:
    """(text of a conversation that waits for its next answer, places to cut between tokens)."""
    messages, _ = conversation(tokenizer, {"messages": messages}, template)
    [cut] = _unused(_json(messages), 1)
    marked = [{**m, "content": _cut(tokenizer, template, m["role"], m["content"], cut)} for m in messages]
    return _take_out(lay_out(tokenizer, marked, None, template, ask=True)[0], cut)


class _Reading:
    """One laid-out conversation and what is asked about it. `marks`: two characters for each answer, for its words and for its
    calls, by its place."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        template: str,
        messages: Messages,
        tools: list[Any] | None,
        text: str,
        cuts: list[int],
        cut: str,
        marks: dict[int, tuple[str, str]],
    ):
        self.tokenizer, self.template, self.messages, self.tools = tokenizer, template, messages, tools
        self.text, self.cuts, self.cut, self.marks = text, cuts, cut, marks
        self.places: dict[str, list[int]] | None = None
        self.since = 0
        """Where the answer before ends."""

    def turn(self, at: int, message: dict[str, Any], last: bool) -> tuple[int, int]:
        """Where the answer `messages[at]` is learned. `message` is the same without cuts."""
        begin, header = self._begin(at)
        core = message["content"].strip()
        if begin is not None and core and not ({"tool_calls", *THOUGHTS} & message.keys()):
            first = len(self.text) - len(self.text[begin:].lstrip())
            if self.text.startswith(core, first):
                self.since = self.past_end(first + len(core))
                return begin, self.since
        words, calls = (self.found().get(mark, []) for mark in self.marks[at])
        to, self.since = self._past_call(at, calls) if calls else (max(words, default=-1), 0)
        if to < 0:
            raise _changed()
        self.since = self.since or self.past_end(to)
        begin = min([*words, *calls]) if begin is None else begin
        if not _stands(message, self.text[begin if header is None else header : to], last):
            raise _changed()
        return begin, self.since

    def _begin(self, at: int) -> tuple[int | None, int | None]:
        """(where what the model writes begins, the same without what only a prompt has there), if the prompt can tell."""
        asked, more = asked_with(self.tokenizer, self.template)
        if (end := self._question_end(at, asked)) is not None:
            return end + len(asked), end + len(asked) - len(more)
        prompt = self.prompt(at)
        header = prompt.removesuffix(more)
        if not prompt or len(header) < self.since or not self.text.startswith(header):
            return None, None
        return len(prompt) if self.text.startswith(prompt) else len(header), len(header)

    def _question_end(self, at: int, asked: str) -> int | None:
        """Where the question before the answer ends, if the text then goes on as a prompt does: this saves laying the prompt out.
        Only for rows whose own words hold no control token, and where a prompt does: else words could look like a prompt."""
        pattern = control_pattern(self.tokenizer, self.template, "user")
        question = self.messages[at - 1] if at else {"role": ""}
        if self.cuts or question["role"] != "user" or pattern is None or not pattern.search(asked):
            return None
        core = question["content"].strip()
        begin = self.text.find(core, self.since) if core else -1
        return begin + len(core) if begin >= 0 and self.text.startswith(asked, begin + len(core)) else None

    def tagged(self, begin: int, to: int) -> tuple[int, int]:
        """A tagged piece with the token that ends the turn, and without the line break after that."""
        to = self.past_end(to)
        bare = len(self.text[begin:to].rstrip()) + begin
        return begin, bare if self.text[begin:bare].endswith(turn_ends(self.tokenizer, self.template) or "\0") else to

    def prompt(self, at: int) -> str:
        """The text that asks for the answer `messages[at]`; empty when the template refuses half a conversation."""
        try:
            return lay_out(self.tokenizer, self.messages[:at], self.tools, self.template, ask=True)[0].replace(self.cut, "")
        except REFUSALS:
            return ""

    def found(self) -> dict[str, list[int]]:
        """Where the marks stand, from a second layout with marks in it."""
        if self.places is None:
            bare, self.places = self._read(len(self.messages))
            if bare != self.text:
                raise _changed()
        return self.places

    def _read(self, until: int) -> tuple[str, dict[str, list[int]]]:
        """(text of the first `until` messages, where each mark stands in it)."""
        framed = [_frame(m, *self.marks[i]) if i in self.marks else m for i, m in enumerate(self.messages[:until])]
        text = lay_out(self.tokenizer, framed, self.tools, self.template)[0].replace(self.cut, "")
        known = {mark for both in self.marks.values() for mark in both}
        places: dict[str, list[int]] = {}
        bare, length = [], 0
        for piece in _PRIVATE.split(text):
            if piece in known:
                places.setdefault(piece, []).append(length)
            else:
                bare.append(piece)
                length += len(piece)
        return "".join(bare), places

    def past_end(self, to: int) -> int:
        """Moved past the token that ends a turn, so that the model learns to stop."""
        ends = turn_ends(self.tokenizer, self.template)
        found = re.compile(r"\s*(?:" + "|".join(map(re.escape, ends)) + ")").match(self.text, to) if ends else None
        return found.end() if found else to

    def _past_call(self, at: int, calls: list[int]) -> tuple[int, int]:
        """(end of the last call's words, end of its turn): what follows the words both here and when the conversation ends there.
        Marks beyond those that stand in a conversation that ends there are the function's name in its result."""
        try:
            bare, places = self._read(at + 1)
        except REFUSALS:
            return calls[-1], calls[-1]
        alone = places.get(self.marks[at][1], [])
        if not alone or len(alone) > len(calls):
            return calls[-1], calls[-1]
        to = calls[len(alone) - 1]
        rest = self.text[to:]
        return to, to + len(rest[: shared(bare[alone[-1] :], rest)].rstrip())

    def same_words(self, learned: Spans, answers: Messages) -> None:
        """Every answer stands in what the tags mark as it was written, white space aside."""
        ends, since = iter([to for _, to in learned]), 0
        for n, answer in enumerate(answers, 1):
            to = next((to for to in ends if _stands(answer, self.text[since:to], n == len(answers))), None)
            names = [call["function"]["name"] for call in answer.get("tool_calls", [])]
            if to is None or any(name not in "".join(self.text[a:b] for a, b in learned) for name in names):
                raise _changed()
            since = to


def _stands(message: dict[str, Any], text: str, last: bool) -> bool:
    """Whether the answer's words stand in the text. Templates may drop the thinking of earlier answers."""
    content = message["content"] if last else message["content"].rpartition("</think>")[2]
    return "".join(content.split()) in "".join(text.split())


def _missing(messages: Messages, tools: list[Any] | None, text: str) -> list[str]:
    """Which of system, tool, tools and thinking the row has and the text has not."""
    found = set()
    for message in messages:
        role, content = message["role"], message["content"]
        if role in ("system", "tool") and not _said(content, text):
            found.add(role)
        if role == "assistant":
            thought = (
                next((message[k] for k in THOUGHTS & message.keys()), "") or content.rpartition("</think>")[0].rpartition("<think>")[2]
            )
            if not _said(thought, text):
                found.add("thinking")
    names = [str((tool.get("function") or tool).get("name", "")) for tool in tools or [] if isinstance(tool, dict)]
    if any(name not in text for name in names):
        found.add("tools")
    return [what for what in _TAKEN_OUT if what in found]


def _said(words: str, text: str) -> bool:
    core = words.strip()
    return core in text or json.dumps(core, ensure_ascii=False)[1:-1] in text or "".join(core.split()) in "".join(text.split())


def _changed() -> Unrenderable:
    return Unrenderable(
        Say("The template drops or changes part of an answer (its thinking, perhaps), so it would not be learned as written.")
    )


# Marks


def _unused(text: str, count: int) -> list[str]:
    used = set() if text.isascii() else set(_PRIVATE.findall(text))
    free = (c for c in map(chr, range(0xF0000, 0xF0000 + len(used) + count)) if c not in used)
    return [next(free) for _ in range(count)]


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """`change` applied to every text in it, names of fields too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(k): _each_text(v, change) for k, v in value.items()}
    return [_each_text(v, change) for v in value] if isinstance(value, list) else value


def _cut(tokenizer: PreTrainedTokenizerFast, template: str, role: str, text: str, cut: str) -> str:
    """`cut` after the first character of each control token that stands in `text`."""
    pattern = control_pattern(tokenizer, template, role)
    if pattern is None or not pattern.search(text):
        return text
    tokens = controls(tokenizer, template, role)
    if any(len(token) == 1 and token in text for token in tokens):
        raise Unrenderable(Say("It holds a single character that is a control token of this model."))
    places = {m.start() + 1 for token in tokens if token in text for m in re.finditer(f"(?={re.escape(token)})", text)}
    for place in sorted(places, reverse=True):
        text = text[:place] + cut + text[place:]
    return text


def _frame(message: dict[str, Any], mark: str, call_mark: str) -> dict[str, Any]:
    """Marks around the words of an answer and in its tool calls. Outer white space stays outside, since templates trim it, and so do
    `<think>` and `</think>`, since templates look for them."""
    framed = {**message, **{k: _around(message[k], mark) for k in THOUGHTS & message.keys()}}
    thought, end, words = message["content"].rpartition("</think>")
    opening, begin, thought = thought.rpartition("<think>")
    framed["content"] = opening + begin + (_around(thought, mark) if begin else thought) + end + _around(words, mark)
    if "tool_calls" in message:
        calls = json.loads(json.dumps(message["tool_calls"]))
        for call in calls:
            function = call["function"]
            function["name"] = f"{call_mark}{function['name']}{call_mark}"
            function["arguments"] = _frame_arguments(function["arguments"], call_mark)
        framed["tool_calls"] = calls
    return framed


def _around(words: str, mark: str) -> str:
    core = words.strip()
    before, _, after = words.partition(core) if core else (words, "", "")
    return f"{before}{mark}{core}{mark}{after}" if core else words


def _frame_arguments(arguments: Any, mark: str) -> Any:
    if isinstance(arguments, str):
        return arguments + mark if arguments else arguments
    if isinstance(arguments, dict):
        return {k: _frame_arguments(v, mark) for k, v in arguments.items()}
    return [_frame_arguments(v, mark) for v in arguments] if isinstance(arguments, list) else arguments


def _take_out(text: str, mark: str) -> tuple[str, list[int]]:
    """(text without the mark, where it stood)."""
    pieces = text.split(mark)
    places, at = [], 0
    for piece in pieces[:-1]:
        at += len(piece)
        places.append(at)
    return "".join(pieces), places
