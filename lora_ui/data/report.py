"""Findings: what was noticed about the rows, in words, with row numbers; and the report that gathers them."""

from __future__ import annotations

from typing import Any

from lora_ui.errors import Say

LEFT_OUT = {
    "broken_row": "broken_row",
    "null_field": "null_field",
    "empty_answer": "empty_answer",
    "role_unknown": "role_order",
    "system_inside": "role_order",
    "last_turn": "role_order",
    "role_order": "role_order",
}
"""Why a row cannot be learned from, and the code of the finding that says so."""


def finding(
    code: str,
    severity: str,
    rows: list[int],
    message: Say,
    fix: Say,
    count: int | None = None,
    action: str | None = None,
    trim: str | None = None,
) -> dict[str, Any]:
    """`{code, severity, count, rows, message, fix, action, trim}`; `rows` names at most five. `action` is what one click may do: `drop`
    when `data.leave_out` takes the code, `undo` when the rows were trimmed, else None. `trim` is what `data.trim` takes, or None."""
    count = len(rows) if count is None else count
    said = {"message": message.as_dict(), "fix": fix.as_dict(), "action": action, "trim": trim}
    return {"code": code, "severity": severity, "count": count, "rows": rows[:5], **said}


def _says(reason: str, count: int) -> tuple[Say, Say]:
    match reason:
        case "empty_answer":
            message = Say("{count} [row has|rows have] an empty answer and [is|are] left out.", count=count)
            return message, Say("Write the answers, or leave these rows out.")
        case "null_field":
            message = Say("{count} [row lacks|rows lack] a question or an answer and [is|are] left out.", count=count)
            return message, Say("Fill the gaps, or leave these rows out.")
        case "role_unknown":
            message = Say("{count} [conversation has|conversations have] a role that is not known and [is|are] left out.", count=count)
            return message, Say("Known are system, user, assistant and tool, and their common other names.")
        case "system_inside":
            message = Say("{count} [conversation has|conversations have] a system turn in the middle and [is|are] left out.", count=count)
            return message, Say("Put the system turn first, or make it part of a question.")
        case "last_turn":
            message = Say("{count} [conversation does|conversations do] not end with the assistant and [is|are] left out.", count=count)
            return message, Say("Write the answer that is missing, or trim what follows the last answer.")
        case "role_order":
            message = Say(
                "{count} [conversation does|conversations do] not alternate between user and assistant and [is|are] left out.", count=count
            )
            return message, Say("Begin with the user, and put questions and answers in turns.")
    message = Say(
        "{count} [row does not fit the columns or holds|rows do not fit the columns or hold] something other than text, and [is|are] left out.",
        count=count,
    )
    return message, Say("Mend these rows, or leave them out.")


def left_out_finding(reason: str, rows: list[int]) -> dict[str, Any]:
    """The finding about rows that cannot be learned from, for a key of LEFT_OUT."""
    trim = "last_turn" if reason == "last_turn" else None
    return finding(LEFT_OUT[reason], "drop", rows, *_says(reason, len(rows)), trim=trim)


def trimmed_finding(trim: str, rows: list[int]) -> dict[str, Any]:
    """What was trimmed, as chosen; `trim` as `data.trim` takes it."""
    if trim == "whitespace":
        message = Say("{count} [row was|rows were] trimmed, as chosen: blank space before and after answers is gone.", count=len(rows))
    else:
        message = Say("{count} [row was|rows were] trimmed, as chosen: turns after the last answer are gone.", count=len(rows))
    code = "whitespace" if trim == "whitespace" else LEFT_OUT[trim]
    return finding(code, "warn", rows, message, Say("Your file stays as it is."), action="undo", trim=trim)


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
