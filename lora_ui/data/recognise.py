"""Columns to roles: Alpaca, messages, ShareGPT, prompt/completion, question/answer in English and Chinese, plain text, or by hand."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from lora_ui import errors
from lora_ui.data.read import CONVERSATIONS, Raw
from lora_ui.errors import Say

ROLES = ("system", "user", "context", "assistant", "text", "messages")
USER: tuple[str, ...] = ("question", "prompt", "instruction", "query", "user", "human", "request", "input", "q", "source", "problem")
USER += ("问题", "提问", "问", "指令", "提示", "提示词", "用户", "输入", "题目")
ASSISTANT: tuple[str, ...] = (
    "answer",
    "response",
    "completion",
    "output",
    "assistant",
    "reply",
    "solution",
    "target",
    "a",
    "gpt",
    "bot",
    "answers",
)
ASSISTANT += ("答案", "回答", "答", "回复", "输出", "助手", "响应")
CONTEXT = ("context", "input", "passage", "document", "background", "上下文", "背景", "材料", "输入")
SYSTEM = ("system", "system_prompt", "system_message", "系统", "系统提示", "系统提示词")
TEXT = ("text", "content", "document", "正文", "文本", "内容")


@dataclass(frozen=True)
class Recognised:
    """`format`: alpaca, messages, sharegpt, prompt_completion, question_answer, text or by_hand; `mapping`: role -> column."""

    format: str
    mapping: dict[str, str]
    why: Say
    confidence: str


def recognise(raw: Raw, name: str, by_hand: dict[str, str] | None = None) -> Recognised:
    """Raises MissingColumns when a column chosen by hand is not there, ColumnsNotRecognised when none of the known names is."""
    columns = raw.columns()
    if by_hand:
        return _by_hand(columns, name, by_hand)
    found = guess(raw)
    if found is None:
        raise errors.ColumnsNotRecognised(name=name, columns=", ".join(columns[:30]))
    return found


def _by_hand(columns: list[str], name: str, mapping: dict[str, str]) -> Recognised:
    missing = [column for column in mapping.values() if column not in columns]
    if missing:
        raise errors.MissingColumns(name=name, missing=", ".join(missing), columns=", ".join(columns[:30]))
    if not ("messages" in mapping or "text" in mapping or {"user", "assistant"} <= set(mapping)):
        raise errors.ColumnsNotRecognised(name=name, columns=", ".join(columns[:30]))
    roles = ", ".join(f"{role} = {column}" for role, column in mapping.items())
    return Recognised("by_hand", dict(mapping), Say("You chose the columns: {roles}.", roles=roles), "by hand")


def guess(raw: Raw) -> Recognised | None:
    """The format that the columns' names and first values speak for, or None."""
    columns = raw.columns()
    if raw.plain_text:
        return Recognised("text", {"text": "text"}, Say("It is plain text: every piece is learned whole."), "sure")
    names: dict[str, str] = {}
    for column in columns:
        names.setdefault(re.sub(r"[\s\-]+", "_", column.strip().lower()), column)
    return _conversation(raw, names) or _pairs(names) or _text(names)


def _conversation(raw: Raw, names: dict[str, str]) -> Recognised | None:
    for known in CONVERSATIONS:
        column = names.get(known)
        turns = next((t for _, row in raw.rows if column and (t := as_list(row.get(column)))), None)
        if column is None or not turns or not isinstance(turns[0], dict):
            continue
        mapping = {"messages": column} | _extra(names, {column}, system=SYSTEM)
        if "from" in turns[0]:
            return Recognised(
                "sharegpt", mapping, Say("The column {column} holds turns with from and value (ShareGPT).", column=column), "sure"
            )
        if "role" in turns[0]:
            return Recognised("messages", mapping, Say("The column {column} holds messages with role and content.", column=column), "sure")
    return None


def _pairs(names: dict[str, str]) -> Recognised | None:
    if "instruction" in names and "output" in names:
        mapping = {"user": names["instruction"], "assistant": names["output"]} | ({"context": names["input"]} if "input" in names else {})
        mapping |= _extra(names, set(mapping.values()), system=SYSTEM)
        return Recognised("alpaca", mapping, Say("It has the columns instruction and output (Alpaca)."), "sure")
    user = next((names[known] for known in USER if known in names), None)
    assistant = next((names[known] for known in ASSISTANT if known in names), None)
    if user is None or assistant is None:
        return None
    mapping = {"user": user, "assistant": assistant}
    mapping |= _extra(names, set(mapping.values()), context=CONTEXT, system=SYSTEM)
    pair = {"prompt", "completion"} <= set(names) and user == names["prompt"] and assistant == names["completion"]
    sure = pair or {"question", "answer"} <= set(names)
    why = Say("It was recognised by the columns {user} and {assistant}.", user=user, assistant=assistant)
    return Recognised("prompt_completion" if pair else "question_answer", mapping, why, "sure" if sure else "likely")


def _text(names: dict[str, str]) -> Recognised | None:
    column = next((names[known] for known in TEXT if known in names), None)
    if column is None:
        return None
    return Recognised("text", {"text": column}, Say("The column {column} holds text, which is learned whole.", column=column), "likely")


def _extra(names: dict[str, str], taken: set[str], **roles: tuple[str, ...]) -> dict[str, str]:
    """Optional columns that are there and have no role yet."""
    found = {role: next((names[k] for k in known if k in names and names[k] not in taken), None) for role, known in roles.items()}
    return {role: column for role, column in found.items() if column is not None}


def as_list(value: Any) -> list[Any] | None:
    """A list, also when a table keeps it as JSON text; None for anything else."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, list) else None
