"""Findings: what was noticed about the rows, in words, with row numbers; and the report that gathers them."""

from __future__ import annotations

from typing import Any

from lora_ui.errors import Say

SEVERITY = {
    "empty_answer": "drop",
    "null_field": "drop",
    "broken_row": "drop",
    "role_order": "drop",
    "duplicate": "warn",
    "encoding": "warn",
}


def finding(
    code: str, severity: str, rows: list[int], message: Say, fix: Say, count: int | None = None, action: str | None = None
) -> dict[str, Any]:
    """`{code, severity, count, rows, message, fix, action}`; `rows` names at most five. `action` is what one click may do: `drop`
    when `data.leave_out` takes the code, `trim` when cutting the rows is what happens without it, else None."""
    count = len(rows) if count is None else count
    said = {"message": message.as_dict(), "fix": fix.as_dict(), "action": action}
    return {"code": code, "severity": severity, "count": count, "rows": rows[:5], **said}


def _says(code: str, count: int) -> tuple[Say, Say]:
    if code == "empty_answer":
        return Say("{count} [row has|rows have] an empty answer and [is|are] left out.", count=count), Say(
            "Write the answers, or leave these rows out."
        )
    if code == "null_field":
        return Say("{count} [row lacks|rows lack] a question or an answer and [is|are] left out.", count=count), Say(
            "Fill the gaps, or leave these rows out."
        )
    if code == "role_order":
        message = Say(
            "{count} [conversation does|conversations do] not alternate between user and assistant, ending with the assistant, and [is|are] left out.",
            count=count,
        )
        return message, Say(
            "Look for a role that is not known, a system turn in the middle, or a last turn that is not the assistant's; put them in order."
        )
    if code == "broken_row":
        return Say(
            "{count} [row does not fit the columns or holds|rows do not fit the columns or hold] something other than text, and [is|are] left out.",
            count=count,
        ), Say("Mend these rows, or leave them out.")
    return Say("{count} [row repeats|rows repeat] an earlier row word for word. Nothing is left out.", count=count), Say(
        "Remove them unless the repetition is meant."
    )


def rows_finding(code: str, rows: list[int]) -> dict[str, Any]:
    """The finding about these row numbers, for a code that concerns single rows."""
    return finding(code, SEVERITY[code], rows, *_says(code, len(rows)))


def encoding_finding(name: str, encoding: str) -> dict[str, Any]:
    message = Say("{name} is not UTF-8; it was read as {encoding}, which was guessed.", name=name, encoding=encoding)
    return finding(
        "encoding",
        "warn",
        [],
        message,
        Say("Look at a few rows. If letters are wrong, save the file as UTF-8 and bring it again."),
        count=1,
    )
