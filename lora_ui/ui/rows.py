"""One row of the data as HTML: as a chat, as the model reads it, and token by token. Learned text is marked by fill and underline."""

from __future__ import annotations

from typing import Any

from lora_ui.ui.shell import esc
from lora_ui.ui.words import Words

SHOWN = 400
"""Tokens at each end of a long row; the middle is folded."""


def chat(t: Words, row: dict[str, Any]) -> str:
    """`row` as `data.rows` gives it: messages, or plain text (all of which is learned)."""
    if "text" in row:
        return f'<div class="row-view"><mark class="learned pre">{esc(row["text"])}</mark></div>'
    turns = []
    for message in row["messages"]:
        role, text = message["role"], esc(message["content"])
        who = esc(t("role." + role)) if t.has("role." + role) else esc(role)
        body = f'<mark class="learned">{text}</mark>' if role == "assistant" else text
        turns.append(f'<div class="row-turn {esc(role)}"><span class="who">{who}</span><div class="pre">{body}</div></div>')
    return f'<div class="row-view">{"".join(turns)}</div>'


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
