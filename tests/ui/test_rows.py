"""A row as a person reads it: what is learned is marked, what is cut or left out is struck, and nothing else."""

from __future__ import annotations

import re
from typing import Any

from lora_ui.ui import rows
from lora_ui.ui.shell import esc
from lora_ui.ui.words import Words

T = Words("en")
CALL = {"type": "function", "function": {"name": "tide", "arguments": {"port": "Riga"}}}
TALK = [
    {"role": "user", "content": "Is it <b>high</b>?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "Three metres.", "reasoning_content": "It says 3."},
]
ROW: dict[str, Any] = {"row": 1, "messages": TALK, "tools": [{"type": "function", "function": {"name": "tide", "description": "How high"}}]}


def told(html: str, tag: str) -> list[str]:
    return re.findall(rf"<{tag}(?: [^>]*)?>(.*?)</{tag}>", html)


def made(text: str, kept: int | None = None) -> dict[str, Any]:
    """A prepared row of `text`, cut after `kept` characters."""
    return {"text": text, "ends": [len(text) if kept is None else kept], "cut_tokens": 0 if kept is None else 7}


def test_tools_calls_and_thinking_are_shown_and_what_is_learned_follows_the_setting() -> None:
    shown = rows.chat(T, ROW, "all", "Be brief.")
    assert told(shown, "mark") == ["tide {&quot;port&quot;: &quot;Riga&quot;}", "It says 3.", "Three metres."] and told(shown, "s") == []
    assert "Is it &lt;b&gt;high&lt;/b&gt;?" in shown and "tide: How high" in shown and "Be brief." in shown
    assert told(rows.chat(T, ROW, "last"), "mark") == ["It says 3.", "Three metres."]
    assert told(rows.chat(T, {"messages": TALK[:1] + TALK[3:]}, "everything"), "mark") == [
        "Is it &lt;b&gt;high&lt;/b&gt;?",
        "It says 3.",
        "Three metres.",
    ]
    own = {"messages": [{"role": "system", "content": "Own."}, *TALK]}
    assert "Be brief." not in rows.chat(T, own, "all", "Be brief.")


def test_what_the_template_left_out_is_struck() -> None:
    shown = rows.chat(T, ROW, "all", "Be brief.", made("user: Is it <b>high</b>? 3 assistant: Three metres."))
    assert told(shown, "mark") == ["Three metres."]
    assert told(shown, "s") == ["tide: How high", "Be brief.", "tide {&quot;port&quot;: &quot;Riga&quot;}", "It says 3."]
    assert shown.count(esc(T("data.gone"))) == 4


def test_what_is_cut_is_struck_and_counted() -> None:
    row = {"messages": [{"role": "user", "content": "Three?"}, {"role": "assistant", "content": "\nThree. Three metres."}]}
    text = "U: Three?\nA: Three. Three metres."
    shown = rows.chat(T, row, made=made(text, text.index(" metres")))
    assert re.findall(r"<mark[^>]*>(.*?)</mark>", shown, re.S) == ["\nThree. Three"] and told(shown, "s") == [" metres."]
    assert T("data.cut_here", n=7) in shown
    plain = rows.chat(T, {"text": "Grey stone."}, made=made("Grey stone.<end>", 4))
    assert (told(plain, "mark"), told(plain, "s")) == (["Grey"], [" stone."])
    assert told(rows.chat(T, {"text": "Grey stone."}, made=made("Grey stone.<end>")), "mark") == ["Grey stone."]
