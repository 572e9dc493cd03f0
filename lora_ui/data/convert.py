"""One raw row to one canonical row, or the reason why it is left out.

`{"messages": [{"role", "content"}, …]}` with `tools` beside it where the row has them, or `{"text": …}`. A message may also have
`tool_calls` ([{"type": "function", "function": {"name", "arguments"}}]), `tool_call_id`, `name` and `reasoning_content`.
Words are never changed: only joined (question and context, the columns of a template) and, for numbers, written out; what a person
has trimmed is taken off by `trim`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from lora_ui.data.recognise import TURN_ROLES, TURN_TEXTS, as_list
from lora_ui.data.writing import trimmed

ROLE_NAMES = {
    "user": ("human", "prompter", "customer", "client", "question", "instruction", "input", "用户", "人类", "客户", "问", "提问", "user_input"),
    "assistant": ("gpt", "chatgpt", "bot", "model", "ai", "agent", "chatbot", "bard", "bing", "claude", "llm", "answer", "response", "output",
                  "助手", "助理", "机器人", "客服", "模型", "答", "回答"),
    "system": ("developer", "system_prompt", "系统"),
    "tool": ("function", "observation", "ipython", "environment", "tool_response", "tool_result", "function_response", "function_result", "工具"),
}  # fmt: skip
_ROLE = {name: role for role, names in ROLE_NAMES.items() for name in names}
_CALLING = ("function_call", "tool_call", "function-call", "tool-call")
_REASONING = ("reasoning_content", "reasoning", "thinking", "思考")
_FIELD = re.compile(r"\{\{|\}\}|\\n|\{([^{}]+)\}")


class LeftOut(Exception):
    """This row cannot be learned from; `reason` is a key of `report.LEFT_OUT`."""

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


def convert(row: dict[str, Any], mapping: dict[str, str], to_last_answer: bool = False) -> dict[str, Any]:
    """`mapping`: role -> column, or a template over columns such as `{title}: {body}`. `to_last_answer`: without the turns after it.
    Raises LeftOut."""
    if "text" in mapping:
        text = _text(value(row, mapping["text"]))
        if not text.strip():
            raise LeftOut("empty_answer")
        return {"text": text}
    turns = _turns(row, mapping) if "messages" in mapping else _pair(row, mapping)
    system = value(row, mapping["system"], optional=True) if "system" in mapping else None
    if not _absent(system) and _text(system).strip() and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": _text(system)})
    _check(_to_last_answer(turns) if to_last_answer else turns)
    tools = _tools(row.get(mapping["tools"])) if "tools" in mapping else None
    return {"messages": turns, "tools": tools} if tools else {"messages": turns}


def trim(made: dict[str, Any]) -> bool:
    """Take the blank space around the answers of a canonical row off; whether there was any."""
    answers = [m for m in made.get("messages", ()) if m["role"] == "assistant" and trimmed(m["content"]) != m["content"]]
    for answer in answers:
        answer["content"] = trimmed(answer["content"])
    return bool(answers)


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if _absent(value):
        raise LeftOut("null_field")
    if isinstance(value, (bool, int, float)):
        return str(value)
    raise LeftOut("broken_row")


def value(row: dict[str, Any], spec: str, optional: bool = False) -> Any:
    """The column, or the template filled in: `{{` is a bracket, `\\n` a new line. What is optional may lack some of its columns."""
    if spec in row or "{" not in spec:
        return row.get(spec)
    values = {name: row.get(name) for name in fields(spec)}
    lacking = sum(map(_absent, values.values()))
    if lacking == len(values) or (lacking and not optional):
        return None
    signs = {"{{": "{", "}}": "}", "\\n": "\n"}

    def fill(found: re.Match[str]) -> str:
        if found[1] is None:
            return signs[found[0]]
        return "" if _absent(values[found[1]]) else _text(values[found[1]])

    return _FIELD.sub(fill, spec)


def fields(spec: str) -> list[str]:
    """The columns that a template names."""
    return [found[1] for found in _FIELD.finditer(spec) if found[1] is not None]


def _pair(row: dict[str, Any], mapping: dict[str, str]) -> list[dict[str, Any]]:
    asked, answer = value(row, mapping["user"]), value(row, mapping["assistant"])
    if isinstance(asked, list) and isinstance(answer, list):  # a conversational prompt and its completion, as TRL has them
        return [_turn(turn) for turn in asked + answer] or _empty()
    user = _text(asked)
    context = value(row, mapping["context"], optional=True) if "context" in mapping else None
    if not _absent(context) and _text(context).strip():
        user = f"{user}\n\n{_text(context)}" if user.strip() else _text(context)
    if not user.strip():
        raise LeftOut("null_field")
    pair = [{"role": "user", "content": user}, {"role": "assistant", "content": _text(answer)}]
    return [*_history(row.get(mapping["history"])), *pair] if "history" in mapping else pair


def _history(value: Any) -> list[dict[str, Any]]:
    """Earlier questions and answers, as Alpaca files have them: [["question", "answer"], …]."""
    if _absent(value) or (isinstance(value, str) and not value.strip()):
        return []
    pairs = as_list(value)
    if pairs is None or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise LeftOut("broken_row")
    return [{"role": role, "content": _text(text)} for pair in pairs for role, text in zip(("user", "assistant"), pair)]


def _turns(row: dict[str, Any], mapping: dict[str, str]) -> list[dict[str, Any]]:
    value = row.get(mapping["messages"])
    if _absent(value):
        raise LeftOut("null_field")
    turns = as_list(value)
    if turns is None:
        raise LeftOut("broken_row")
    return [_turn(turn) for turn in turns] or _empty()


def _empty() -> list[dict[str, Any]]:
    raise LeftOut("empty_answer")


def _turn(turn: Any) -> dict[str, Any]:
    if not isinstance(turn, dict):
        raise LeftOut("broken_row")
    role = str(next((turn[key] for key in TURN_ROLES if key in turn), None)).strip().lower()
    content = next((turn[key] for key in TURN_TEXTS if key in turn), None)
    calls = _calls(turn.get("tool_calls") or turn.get("function_call"))
    if role in _CALLING:
        role, calls, content = "assistant", _calls(content), ""
    role = _ROLE.get(role, role)
    if isinstance(content, list) and not (role == "tool" and not all(isinstance(part, dict) and "text" in part for part in content)):
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise LeftOut("broken_row")  # a picture or a sound among the text
        content = "".join(part["text"] for part in content)
    if isinstance(content, list | dict) and role == "tool":
        content = json.dumps(content, ensure_ascii=False)
    made: dict[str, Any] = {"role": role, "content": "" if calls and _absent(content) else _text(content)}
    if calls:
        made["tool_calls"] = calls
    if len(turn) > 2:
        more = {key: turn.get(key) for key in ("tool_call_id", "name")}
        more["reasoning_content"] = next((turn[key] for key in _REASONING if turn.get(key)), None)
        made |= {key: value for key, value in more.items() if isinstance(value, str) and value.strip()}
    return made


def _calls(value: Any) -> list[dict[str, Any]]:
    """Calls of functions in the one form that chat templates read; arguments that are JSON text become the object that they are."""
    if _absent(value) or value == "" or value == []:
        return []
    if isinstance(value, str):
        value = _parsed(value)
    calls = []
    for call in value if isinstance(value, list) else [value]:
        called = call.get("function", call) if isinstance(call, dict) else None
        called = {"name": called, **call} if isinstance(called, str) else called
        if not isinstance(called, dict) or not isinstance(called.get("name"), str):
            raise LeftOut("broken_row")
        given = called.get("arguments", called.get("parameters"))
        given = {} if given in (None, "") else given
        if isinstance(given, str) and isinstance(parsed := _parsed(given), dict):
            given = parsed
        made = {"type": "function", "function": {"name": called["name"], "arguments": given}}
        calls.append({"id": call["id"], **made} if isinstance(call.get("id"), str) else made)
    return calls


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _tools(value: Any) -> list[Any] | None:
    """What the assistant may call; None where the row has none."""
    if _absent(value) or (isinstance(value, str) and value.strip() in ("", "null", "{}")):
        return None
    tools = as_list(value)
    if tools is None or not all(isinstance(tool, dict) for tool in tools):
        raise LeftOut("broken_row")
    return tools


_AFTER = {"user": ("", "assistant"), "assistant": ("user", "tool"), "tool": ("assistant", "tool")}


def _to_last_answer(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same list, shortened."""
    while turns and turns[-1]["role"] != "assistant":
        turns.pop()
    if not turns:
        raise LeftOut("last_turn")
    return turns


def _check(turns: list[dict[str, Any]]) -> None:
    """At most one system turn in front; then user and assistant in turns, with what tools answered in between, ending with the
    assistant; no empty answer."""
    before = ""
    for turn in turns[1:] if turns[0]["role"] == "system" else turns:
        role = turn["role"]
        if before not in _AFTER.get(role, ()):
            raise LeftOut("system_inside" if role == "system" else "role_order" if role in _AFTER else "role_unknown")
        before = role
    if before != "assistant":
        raise LeftOut("last_turn")
    if any(turn["role"] == "assistant" and not turn["content"].strip() and "tool_calls" not in turn for turn in turns):
        raise LeftOut("empty_answer")
