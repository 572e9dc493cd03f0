"""Chat templates: laying a conversation out as text, and what a template is known to do with one.

Not here: which characters are learned (spans.py), tokens (render.py), limits on a template's time and memory (prepare.py).
"""

from __future__ import annotations

import json
import os.path
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import render_jinja_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Message = dict[str, Any]
Messages = list[Message]
Spans = list[tuple[int, int]]
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '<|im_end|>' }}{{ '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""For base models without a template. Answers end with the tokenizer's own end token, so that stock generation stops there."""
NAMED = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ 'Assistant: ' + message['content'] + eos_token + '\\n' }}"
    "{% else %}{{ (message['role'] | capitalize) + ': ' + message['content'] + '\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""The same without made-up tokens: lines that begin with who speaks."""
LAYOUTS = {"chatml": CHATML, "named": NAMED}
FOR_BASE = {"chatml": "chatml", "plain": "named"}
"""`data.template_for_base` → the layout's name in a summary, where `plain` is text that is no conversation."""
CALL = {"type": "function", "id": "call00001", "function": {"name": "look", "arguments": {"place": "here"}}}
REFUSALS = (TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError)
"""What a template raises about a conversation that it does not take."""
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_MARK = chr(0xF0000)
_ASKED = {"role": "user", "content": "Hello"}
_ANSWERED = {"role": "assistant", "content": "Yes" + _MARK}


def template_of(tokenizer: PreTrainedTokenizerFast, for_base: str = "chatml") -> str:
    """The tokenizer's own chat template, else the layout that `data.template_for_base` names."""
    return tokenizer.get_chat_template() if tokenizer.chat_template else LAYOUTS[FOR_BASE[for_base]]


def has_generation_tags(template: str) -> bool:
    return bool(_GENERATION.search(template))


def lay_out(
    tokenizer: PreTrainedTokenizerFast, messages: Messages, tools: list[Any] | None, template: str, ask: bool = False
) -> tuple[str, Spans]:
    """(laid-out text, characters inside generation tags); with `ask` it ends where the next answer begins."""
    texts, spans = render_jinja_template(
        conversations=[messages],
        tools=tools,
        chat_template=template,
        add_generation_prompt=ask,
        return_assistant_tokens_mask=has_generation_tags(template),
        **tokenizer.special_tokens_map,
    )
    return texts[0], spans[0] if spans else []


def conversation(tokenizer: PreTrainedTokenizerFast, row: dict[str, Any], template: str) -> tuple[Messages, list[Any] | None]:
    """(messages, tools) as templates take them: no empty fields, and tool calls as objects even where a table keeps JSON text."""
    messages = []
    for message in row["messages"]:
        there = {k: v for k, v in message.items() if v not in (None, [], "") or k == "content"}
        there["content"] = there.get("content") or ""
        if calls := there.get("tool_calls"):
            there["tool_calls"] = [_call(call, takes_objects(tokenizer, template)) for call in _unpacked(calls)]
        messages.append(there)
    tools = row.get("tools")
    return messages, _unpacked(tools) if tools else None


def shared(one: str, other: str) -> int:
    """How many characters both begin with."""
    return len(os.path.commonprefix([one, other]))  # noqa: RUF071


def _unpacked(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _call(call: Any, objects: bool) -> dict[str, Any]:
    """A tool call as `{type, id?, function: {name, arguments}}`."""
    call = _unpacked(call)
    function = call.get("function") or {k: call[k] for k in ("name", "arguments") if k in call}
    arguments = function.get("arguments") or {}
    if objects:
        arguments = _object(arguments)
    elif not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {"type": "function", **call, "function": {**function, "arguments": arguments}}


def _object(arguments: Any) -> Any:
    try:
        return _unpacked(arguments)
    except ValueError:
        return arguments  # a call with broken arguments is learned as it stands


# What a template does, found out by trying


@lru_cache(maxsize=16)
def takes_objects(tokenizer: PreTrainedTokenizerFast, template: str) -> bool:
    """Whether arguments of tool calls are given as objects; a few templates join them to a text and need JSON text."""
    try:
        lay_out(
            tokenizer, [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}], None, template
        )
    except (TypeError, ValueError, KeyError, AttributeError):
        return False
    except TemplateError:
        return True
    return True


@lru_cache(maxsize=16)
def turn_ends(tokenizer: PreTrainedTokenizerFast, template: str) -> tuple[str, ...]:
    """The control tokens that follow an answer: at the end of a conversation and, if another follows, in its midst. None when the
    template puts none at the end: what follows in the midst is then the beginning of the next turn."""
    known = "|".join(map(re.escape, sorted({*controls(tokenizer, template, "user"), str(tokenizer.eos_token)}, key=len, reverse=True)))
    at_end = re.match(f"(?:{known})+", _after_answer(tokenizer, template, [_ASKED, _ANSWERED]))
    if not at_end:
        return ()
    between = _after_answer(tokenizer, template, [_ASKED, _ANSWERED, _ASKED, {**_ANSWERED, "content": "No"}])
    first = re.match(known, between)
    return (at_end[0],) if not first or between.startswith(at_end[0]) else (at_end[0], first[0])


def _after_answer(tokenizer: PreTrainedTokenizerFast, template: str, probe: Messages) -> str:
    try:
        return lay_out(tokenizer, probe, None, template)[0].rpartition(_MARK)[2].lstrip()
    except REFUSALS:
        return ""


@lru_cache(maxsize=16)
def asked_with(tokenizer: PreTrainedTokenizerFast, template: str) -> tuple[str, str]:
    """(what follows a question in the prompt for its answer; the end of this that an earlier answer does not begin with, such as
    `<think>`)."""
    try:
        asked = lay_out(tokenizer, [{**_ASKED, "content": _MARK}], None, template, ask=True)[0].rpartition(_MARK)[2]
        answered = lay_out(tokenizer, [{**_ASKED, "content": _MARK}, {**_ANSWERED, "content": "Yes"}, _ASKED, _ANSWERED], None, template)[0]
    except REFUSALS:
        return "", ""
    return asked, asked[shared(asked, answered.partition(_MARK)[2]) :]


@lru_cache(maxsize=16)
def own_words(tokenizer: PreTrainedTokenizerFast, template: str) -> str:
    """What the template itself says before a first question, such as a default system prompt; empty when that is next to nothing."""
    try:
        head = lay_out(tokenizer, [{"role": "user", "content": _MARK}, {"role": "assistant", "content": "Yes"}], None, template)[0]
    except REFUSALS:
        return ""
    head = head.partition(_MARK)[0]
    for token in sorted(controls(tokenizer, template, "user"), key=len, reverse=True):
        head = head.replace(token, " ")
    said = re.sub(r"<[^<>\s]*>|\s+", " ", head).strip()
    said = re.sub(r"^(?:system|developer)\s|\suser$", "", said).strip()
    return said if len(re.findall(r"\w+", said)) >= 5 else ""


@lru_cache(maxsize=64)
def controls(tokenizer: PreTrainedTokenizerFast, template: str, role: str) -> frozenset[str]:
    """Tokens that this role's text must not become: all special ones, and others that the template itself writes. An assistant may
    write the latter (`<think>`): that is how a model learns to."""
    added = tokenizer.added_tokens_decoder.values()
    written = () if role == "assistant" else (t.content for t in added if not t.content.isspace() and t.content in template)
    return frozenset({*(t.content for t in added if t.special), *written} - {""})


@lru_cache(maxsize=64)
def control_pattern(tokenizer: PreTrainedTokenizerFast, template: str, role: str) -> re.Pattern[str] | None:
    tokens = controls(tokenizer, template, role)
    return re.compile("|".join(map(re.escape, sorted(tokens)))) if tokens else None
