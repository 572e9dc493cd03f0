"""Columns to roles: Alpaca, messages, ShareGPT, prompt/completion, question/answer in English and Chinese, labels, plain text, or
by hand: there a role may be a template over several columns."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from lora_ui import errors
from lora_ui.data.raw import CONVERSATIONS, Raw
from lora_ui.errors import Say

ROLES = ("system", "user", "context", "assistant", "text", "messages")
TURN_ROLES = ("role", "from", "speaker", "sender", "author", "角色")
TURN_TEXTS = ("content", "value", "text", "message", "utterance", "内容")
USER: tuple[str, ...] = ("question", "prompt", "instruction", "query", "user", "human", "request", "input", "q", "source", "problem")
USER += ("questions", "instructions", "inputs", "prompts", "user_message", "user_prompt", "user_input", "user_query", "human_message")
USER += ("customer", "instruct", "question_text", "input_text", "source_text", "src")
USER += ("问题", "提问", "问", "指令", "提示", "提示词", "用户", "输入", "题目", "问句", "用户问题", "用户输入", "原文", "指示")
ASSISTANT: tuple[str, ...] = ("answer", "response", "completion", "output", "assistant", "reply", "solution", "target", "a", "gpt", "bot")
ASSISTANT += ("answers", "responses", "outputs", "completions", "assistant_message", "assistant_response", "model_response", "bot_response")
ASSISTANT += ("ai_response", "agent", "expected_output", "ideal", "ground_truth", "gold", "chosen", "generation", "model_output")
ASSISTANT += ("answer_text", "output_text", "target_text", "response_text", "tgt")
ASSISTANT += ("答案", "回答", "答", "回复", "输出", "助手", "响应", "解答", "答复", "参考答案", "标准答案", "译文")
CONTEXT = ("context", "input", "passage", "document", "background", "上下文", "背景", "材料", "输入", "背景知识")
SYSTEM = ("system", "system_prompt", "system_message", "系统", "系统提示", "系统提示词")
TEXT = ("text", "content", "document", "article", "body", "正文", "文本", "内容", "文章")
LABEL = (
    "label",
    "labels",
    "category",
    "class",
    "sentiment",
    "intent",
    "label_text",
    "summary",
    "translation",
    "摘要",
    "标签",
    "类别",
    "分类",
    "情感",
)
SURE = (("question", "answer"), ("问题", "回答"), ("问题", "答案"), ("指令", "输出"))
"""Pairs of names that mean nothing else."""
TOOLS = ("tools", "functions", "available_tools", "工具")
HISTORY = ("history", "历史", "历史对话")


@dataclass(frozen=True)
class Recognised:
    """`format`: alpaca, messages, sharegpt, prompt_completion, question_answer, text or by_hand; `mapping`: role -> column (by hand also a template).
    Besides ROLES a mapping may name `tools` (beside messages) and `history` (beside user and assistant)."""

    format: str
    mapping: dict[str, str]
    why: Say
    confidence: str


def recognise(raw: Raw, name: str, by_hand: dict[str, str] | None = None, earlier: dict[str, str] | None = None) -> Recognised:
    """`earlier`: what was chosen by hand for a file with the same columns. Raises MissingColumns when a column chosen by hand is not
    there, ColumnsNotRecognised when none of the known names is."""
    if by_hand:
        mapping = _by_hand(raw, name, by_hand)
        return Recognised("by_hand", mapping, Say("You chose the columns: {roles}.", roles=_spoken(mapping)), "by hand")
    if earlier:
        mapping = _by_hand(raw, name, earlier)
        why = Say("You chose these columns for an earlier file with the same ones: {roles}.", roles=_spoken(mapping))
        return Recognised("by_hand", mapping, why, "by hand")
    found = guess(raw)
    if found is None:
        raise errors.ColumnsNotRecognised(name=name, columns=_listed(raw.columns()))
    return found


def _spoken(mapping: dict[str, str]) -> str:
    return ", ".join(f"{role} = {column}" for role, column in mapping.items())


def _listed(columns: list[str]) -> str:
    return ", ".join(column if len(column) <= 80 else column[:77] + "…" for column in columns[:30])


def columns_of(spec: str, columns: list[str]) -> list[str]:
    """The columns that a mapping's value needs: itself, or those that it names as a template such as `{title}: {body}`."""
    return [spec] if spec in columns else re.findall(r"\{([^{}]+)\}", spec.replace("{{", "").replace("}}", "")) or [spec]


def _by_hand(raw: Raw, name: str, chosen: dict[str, str]) -> dict[str, str]:
    """With the tools and the earlier turns that belong to what was chosen."""
    columns = raw.columns()
    missing = [column for spec in chosen.values() for column in columns_of(spec, columns) if column not in columns]
    if missing:
        raise errors.MissingColumns(name=name, missing=_listed(missing), columns=_listed(columns))
    if not ("messages" in chosen or "text" in chosen or {"user", "assistant"} <= set(chosen)):
        raise errors.ColumnsNotRecognised(name=name, columns=_listed(columns))
    names, taken = _names(columns), set(chosen.values())
    if "messages" in chosen:
        return chosen | _extra(names, taken, tools=TOOLS)
    return chosen | (_history(raw, names, taken) if "text" not in chosen else {})


def _names(columns: list[str]) -> dict[str, str]:
    """Columns by their plain names: small letters, and _ for blanks and hyphens."""
    names: dict[str, str] = {}
    for column in columns:
        names.setdefault(re.sub(r"[\s\-]+", "_", column.strip().lower()), column)
    return names


def guess(raw: Raw) -> Recognised | None:
    """The format that the columns' names and first values speak for, or None."""
    if raw.plain_text:
        return Recognised("text", {"text": "text"}, Say("It is plain text: every piece is learned whole."), "sure")
    names = _names(raw.columns())
    known = [names[name] for name in CONVERSATIONS if name in names]
    others = [column for column in names.values() if column not in known]
    ways = (_conversation(raw, names, known), _pairs(raw, names), _conversation(raw, names, others), _labelled(names), _text(names))
    found = [way for way in ways if way]
    most = max((_filled(raw, way) for way in found), default=0)
    return next((way for way in found if 2 * _filled(raw, way) >= most), None)


def _filled(raw: Raw, way: Recognised) -> int:
    """In how many of the rows that were looked at the columns are filled that it takes: in a mixed file, what most rows are."""
    needed = [way.mapping[role] for role in ("messages", "user", "assistant", "text") if role in way.mapping]
    return sum(all(row.get(column) is not None for column in needed) for _, row in raw.rows)


def _conversation(raw: Raw, names: dict[str, str], columns: list[str]) -> Recognised | None:
    for column in columns:
        first = next((t[0] for _, row in raw.rows if (t := as_list(row.get(column)))), None)
        if not isinstance(first, dict):
            continue
        role = next((key for key in TURN_ROLES if key in first), None)
        text = next((key for key in TURN_TEXTS if key in first), None)
        if role is None or (text is None and "tool_calls" not in first):
            continue
        mapping = {"messages": column} | _extra(names, {column}, system=SYSTEM, tools=TOOLS)
        confidence = "sure" if names.get(column.strip().lower()) and column.strip().lower() in CONVERSATIONS else "likely"
        if role == "role" and text in ("content", None):
            return Recognised(
                "messages", mapping, Say("The column {column} holds messages with role and content.", column=column), confidence
            )
        if role == "from" and text == "value":
            why = Say("The column {column} holds turns with from and value (ShareGPT).", column=column)
            return Recognised("sharegpt", mapping, why, confidence)
        why = Say("The column {column} holds turns with {role} and {text}.", column=column, role=role, text=text or "tool_calls")
        return Recognised("messages", mapping, why, "likely")
    return None


def _pairs(raw: Raw, names: dict[str, str]) -> Recognised | None:
    if "instruction" in names and "output" in names:
        mapping = {"user": names["instruction"], "assistant": names["output"]} | ({"context": names["input"]} if "input" in names else {})
        mapping |= _extra(names, set(mapping.values()), system=SYSTEM) | _history(raw, names, set())
        if "history" in mapping:
            why = Say("It has the columns instruction and output (Alpaca), and earlier turns in {column}.", column=mapping["history"])
        else:
            why = Say("It has the columns instruction and output (Alpaca).")
        return Recognised("alpaca", mapping, why, "sure")
    user = next((names[known] for known in USER if known in names), None)
    assistant = next((names[known] for known in ASSISTANT if known in names and names[known] != user), None)
    if user is None or assistant is None:
        return None
    mapping = {"user": user, "assistant": assistant}
    mapping |= _extra(names, set(mapping.values()), context=CONTEXT, system=SYSTEM)
    mapping |= _history(raw, names, set(mapping.values()))
    pair = {"prompt", "completion"} <= set(names) and user == names["prompt"] and assistant == names["completion"]
    sure = pair or any({asked, answered} <= set(names) for asked, answered in SURE)
    why = Say("It was recognised by the columns {user} and {assistant}.", user=user, assistant=assistant)
    return Recognised("prompt_completion" if pair else "question_answer", mapping, why, "sure" if sure else "likely")


def _history(raw: Raw, names: dict[str, str], taken: set[str]) -> dict[str, str]:
    """A column of earlier turns, when it really holds pairs of texts."""
    found = _extra(names, taken, history=HISTORY)
    first = next((h[0] for _, row in raw.rows if found and (h := as_list(row.get(found["history"])))), None)
    return found if isinstance(first, list) and len(first) == 2 else {}


def _labelled(names: dict[str, str]) -> Recognised | None:
    text, label = (next((names[known] for known in ways if known in names), None) for ways in ((*TEXT, *USER), LABEL))
    if text is None or label is None:
        return None
    why = Say("The column {text} holds texts and {label} what they are to be called.", text=text, label=label)
    return Recognised("question_answer", {"user": text, "assistant": label} | _extra(names, {text, label}, system=SYSTEM), why, "likely")


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
