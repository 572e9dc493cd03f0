"""One row of the data as HTML: as a chat, as the model reads it, and token by token. Learned text is marked by fill and underline."""

from __future__ import annotations

import json
from typing import Any

from lora_ui.ui.shell import esc
from lora_ui.ui.words import Words

SHOWN = 400
"""Tokens at each end of a long row; the middle is folded."""


def chat(t: Words, row: dict[str, Any], learn: str = "all", system_prompt: str = "", made: dict[str, Any] | None = None) -> str:
    """`row` as `data.rows` gives it: messages, or plain text (all of which is learned). `learn` and `system_prompt` as in the settings.
    `made`: the row as `prepared.read_rows` gives it, where that is known; what its chat template left out or what was cut is struck."""
    laid, lost = (made["text"], made["cut_tokens"]) if made else (None, 0)
    end = made["ends"][-1] if made and lost else None
    below = f'<p class="muted">{esc(t("data.cut_here", n=lost))}</p>' if lost else ""
    if "text" in row:
        kept = _kept([{"content": row["text"]}], laid, end) if laid and end is not None else {}
        return f'<div class="row-view"><div class="pre">{_marked(row["text"], True, kept.get(0))}</div></div>{below}'
    messages = row["messages"]
    if system_prompt and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system_prompt}, *messages]
    answers = [at for at, message in enumerate(messages) if message["role"] == "assistant"]
    taught = {"all": answers, "last": answers[-1:], "everything": range(len(messages))}[learn]
    kept = _kept(messages, laid, end) if laid and end is not None else {}
    turns = [_turn("tools", t("role.tools"), _tools(t, row["tools"], laid))] if row.get("tools") else []
    for at, message in enumerate(messages):
        role = message["role"]
        who = t("role." + role) if t.has("role." + role) else role
        turns.append(_turn(role, who, _parts(t, message, at in taught, laid, kept.get(at))))
    return f'<div class="row-view">{"".join(turns)}</div>{below}'


def _kept(messages: list[dict[str, Any]], laid: str, end: int) -> dict[int, int]:
    """How many characters are kept of each message's words that are cut, when `laid` is kept up to `end`."""
    kept, before = {}, len(laid)
    for at in reversed(range(len(messages))):
        words = messages[at]["content"]
        found = laid.rfind(words.strip(), 0, before)
        if found >= 0 and words.strip():
            before = found
            kept[at] = max(0, end - found) + len(words) - len(words.lstrip())
        if before <= end:
            break
    return kept


def _marked(text: str, learned: bool, kept: int | None) -> str:
    """The text, as learned or only read up to `kept` characters, and struck from there."""
    here, gone = text[:kept], text[len(text) if kept is None else kept :]
    body = f'<mark class="learned">{esc(here)}</mark>' if learned and here else esc(here)
    return body + (f"<s>{esc(gone)}</s>" if gone else "")


def _turn(role: str, who: str, parts: list[str]) -> str:
    return f'<div class="row-turn {esc(role)}"><span class="who">{esc(who)}</span><div>{"".join(parts)}</div></div>'


def _tools(t: Words, tools: list[dict[str, Any]], laid: str | None) -> list[str]:
    """Each tool's name and what it is for; the model reads all of its definition."""
    parts = []
    for tool in tools:
        inner = tool.get("function")
        about = inner if isinstance(inner, dict) else tool
        name, purpose = str(about.get("name") or ""), str(about.get("description") or "")
        said = f"{name}: {purpose}" if purpose else name or json.dumps(tool, ensure_ascii=False)
        parts.append(_said(t, said, "", False, laid is not None and name not in laid))
    return parts


def _parts(t: Words, message: dict[str, Any], learned: bool, laid: str | None, kept: int | None) -> list[str]:
    """What one speaker says: thinking, words, calls of tools. A template leaves out what it was not made for, never plain words."""

    def gone(text: str, optional: bool = True) -> bool:
        return optional and laid is not None and text.strip() not in laid

    parts = [_said(t, thought, t("data.thinking"), learned, gone(thought))] if (thought := message.get("reasoning_content")) else []
    words = message["content"]
    parts += [_said(t, words, "", learned, gone(words, message["role"] == "system"), kept)] if words else []
    for call in message.get("tool_calls") or []:
        name, given = call["function"]["name"], call["function"]["arguments"]
        given = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        parts.append(_said(t, f"{name} {given}", t("data.calls"), learned, gone(name)))
    return parts


def _said(t: Words, text: str, label: str, learned: bool, gone: bool, kept: int | None = None) -> str:
    """A piece of a turn; struck when the model's template left it out, or from where it is cut."""
    labels = [*([label] if label else []), *([t("data.gone")] if gone else [])]
    head = f'<span class="part">{esc(t("shell.comma").join(labels))}</span>' if labels else ""
    return f'<div class="pre">{head}{_marked(text, learned, 0 if gone else kept)}</div>'


def reading(t: Words, row: dict[str, Any], special: set[int]) -> str:
    """`row` as `prepared.read_rows` gives it. Neighbouring characters of one kind are one piece; what no token covers at the end was cut."""
    pieces: list[tuple[str, str]] = []
    text, at = row["text"], 0
    for id, label, start, end in zip(row["input_ids"], row["labels"], row["starts"], row["ends"]):
        if start > at:
            _add(pieces, "read", text[at:start])
        _add(pieces, _kind(id, label, special), text[max(start, at) : end])
        at = max(at, end)
    _add(pieces, "cut", text[at:])
    return f'<div class="row-view pre mono">{"".join(_piece(t, kind, piece) for kind, piece in pieces if piece)}</div>'


def tokens(t: Words, row: dict[str, Any], special: set[int]) -> str:
    """Each token in its own box, its id on hover; spaces and line ends are shown."""
    boxes = []
    for id, label, start, end in zip(row["input_ids"], row["labels"], row["starts"], row["ends"]):
        shown = esc(row["text"][start:end]).replace("\n", "⏎").replace(" ", "·") or "∅"
        boxes.append(f'<span class="tok {_kind(id, label, special)}" tabindex="0" title="{id}">{shown}</span>')
    if len(boxes) > 3 * SHOWN:
        every = esc(t("data.show_all", n=f"{len(boxes):,}"))
        middle = f'<details class="more"><summary>{every}</summary>{"".join(boxes[SHOWN:-SHOWN])}</details>'
        boxes = [*boxes[:SHOWN], middle, *boxes[-SHOWN:]]
    cut = f'<p class="muted">{esc(t("data.cut_here", n=row["cut_tokens"]))}</p>' if row["cut_tokens"] else ""
    return f'<div class="row-view tokens mono">{"".join(boxes)}</div>{cut}'


def _kind(id: int, label: int, special: set[int]) -> str:
    return ("special " if id in special else "") + ("learned" if label != -100 else "read")


def _add(pieces: list[tuple[str, str]], kind: str, text: str) -> None:
    if pieces and pieces[-1][0] == kind:
        pieces[-1] = (kind, pieces[-1][1] + text)
    else:
        pieces.append((kind, text))


def _piece(t: Words, kind: str, text: str) -> str:
    if kind == "cut":
        return f'<s title="{esc(t("data.legend_cut"))}">{esc(text)}</s>'
    tag = "mark" if "learned" in kind else "span"
    return f'<{tag} class="{kind}">{esc(text)}</{tag}>'


def legend(t: Words) -> str:
    return (
        f'<p class="token-legend"><mark class="learned">{esc(t("data.legend_learned"))}</mark><span class="read">{esc(t("data.legend_read"))}</span>'
        f'<s>{esc(t("data.legend_cut"))}</s><span class="special">{esc(t("data.legend_special"))}</span></p>'
    )
