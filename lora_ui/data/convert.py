"""One raw row to one canonical row: `{"messages": [{"role", "content"}, …]}` or `{"text": …}`, or the reason why it is left out.

Words are never changed: only joined (question and context) and, for numbers, written out.
"""

from __future__ import annotations

import math
from typing import Any

from lora_ui.data.recognise import as_list

ROLE_NAMES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant"}
ROLE_NAMES |= {"prompter": "user", "developer": "system", "用户": "user", "助手": "assistant", "系统": "system"}


class LeftOut(Exception):
    """This row cannot be learned from; `code` is null_field, empty_answer, broken_row or role_order."""

    def __init__(self, code: str):
        super().__init__(code)
        self.code = code


def convert(row: dict[str, Any], mapping: dict[str, str]) -> dict[str, Any]:
    """Raises LeftOut."""
    if "text" in mapping:
        text = _text(row.get(mapping["text"]))
        if not text.strip():
            raise LeftOut("empty_answer")
        return {"text": text}
    turns = _turns(row, mapping) if "messages" in mapping else _pair(row, mapping)
    system = row.get(mapping["system"]) if "system" in mapping else None
    if not _absent(system) and _text(system).strip() and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": _text(system)})
    _check(turns)
    return {"messages": turns}


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: Any) -> str:
    if _absent(value):
        raise LeftOut("null_field")
    if isinstance(value, (str, bool, int, float)):
        return str(value)
    raise LeftOut("broken_row")


def _pair(row: dict[str, Any], mapping: dict[str, str]) -> list[dict[str, str]]:
    asked, answer = row.get(mapping["user"]), row.get(mapping["assistant"])
    if isinstance(asked, list) and isinstance(answer, list):  # a conversational prompt and its completion, as TRL has them
        return [_turn(turn) for turn in asked + answer]
    user = _text(asked)
    context = row.get(mapping["context"]) if "context" in mapping else None
    if not _absent(context) and _text(context).strip():
        user = f"{user}\n\n{_text(context)}" if user.strip() else _text(context)
    if not user.strip():
        raise LeftOut("null_field")
    return [{"role": "user", "content": user}, {"role": "assistant", "content": _text(answer)}]


def _turns(row: dict[str, Any], mapping: dict[str, str]) -> list[dict[str, str]]:
    value = row.get(mapping["messages"])
    if _absent(value):
        raise LeftOut("null_field")
    turns = as_list(value)
    if turns is None:
        raise LeftOut("broken_row")
    if not turns:
        raise LeftOut("empty_answer")
    return [_turn(turn) for turn in turns]


def _turn(turn: Any) -> dict[str, str]:
    if not isinstance(turn, dict):
        raise LeftOut("broken_row")
    role = turn.get("role", turn.get("from"))
    content = turn.get("content", turn.get("value"))
    if isinstance(content, list):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise LeftOut("broken_row")  # a picture or a sound among the text
        content = "".join(part["text"] for part in content)
    role = str(role).strip().lower()
    return {"role": ROLE_NAMES.get(role, role), "content": _text(content)}


def _check(turns: list[dict[str, str]]) -> None:
    """At most one system turn in front; then user and assistant in turns, ending with the assistant; no empty answer."""
    spoken = turns[1:] if turns[0]["role"] == "system" else turns
    roles = [turn["role"] for turn in spoken]
    if not roles or len(roles) % 2 or roles != ["user", "assistant"] * (len(roles) // 2):
        raise LeftOut("role_order")
    if any(not turn["content"].strip() for turn in spoken if turn["role"] == "assistant"):
        raise LeftOut("empty_answer")
