"""What was found in the data, as HTML: the summary line, the findings, the token counts, and the first row by its columns."""

from __future__ import annotations

from typing import Any

from lora_ui import settings
from lora_ui.data import convert
from lora_ui.ui import saved_report
from lora_ui.ui.shell import esc, number
from lora_ui.ui.words import Words

ROLES = ("user", "assistant", "context", "system", "text", "messages")
STEPS = {"done": "✓", "look": "!", "now": "→"}
MARKS = {"error": "✕", "drop": "✕", "warn": "!", "trimmed": "✓"}


def summary(t: Words, name: str, report: dict[str, Any], findings: list[dict[str, Any]], ready: int) -> str:
    """`findings` as `findings.listed` gives them; `ready`: rows that are used, of all rows of the report."""
    worth = sum(f["severity"] == "warn" and not f["chosen"] and f["action"] != "undo" for f in findings)
    marks = [f'<span class="pill finished"><span aria-hidden="true">✓</span> {esc(t("data.ready", n=number(ready)))}</span>']
    if worth:
        marks.append(f'<span class="pill warn"><span aria-hidden="true">!</span> {esc(t("data.worth_a_look", n=number(worth)))}</span>')
    if left := report["rows"] - ready:
        marks.append(f'<span class="pill failed"><span aria-hidden="true">✕</span> {esc(t("data.left_out", n=number(left)))}</span>')
    kind = saved_report.kind(t, report)
    why = t.say(report["why"]) if report["why"] else ""
    return (
        f'{_steps(t, bool(worth or left))}<div class="facts-head">'
        f'<p><strong class="name">{esc(name)}</strong> · {esc(t("data.rows", n=number(report["rows"])))} · {esc(kind)}</p>'
        f'<p class="muted">{esc(why)}</p><p class="pills">{"".join(marks)}</p></div>'
    )


def _steps(t: Words, look: bool) -> str:
    """Bring, check, see: where the person is; `look`: the check found something."""
    steps = (("data.step_bring", "done"), ("data.step_check", "look" if look else "done"), ("data.step_see", "now"))
    lines = [
        f'<li class="{state}"{" aria-current=step" if state == "now" else ""}><span aria-hidden="true">{STEPS[state]}</span> {esc(t(key))}</li>'
        for key, state in steps
    ]
    return f'<ol class="steps">{"".join(lines)}</ol>'


def finding(t: Words, finding: dict[str, Any]) -> str:
    """What, where, and what to do; `finding` as `findings.listed` gives it."""
    numbers = ", ".join(map(str, finding["rows"]))
    if (more := (finding["count"] or 0) - len(finding["rows"])) > 0:
        numbers = t("data.and_more", rows=numbers, n=number(more))
    where = t("data.found_row" if finding["count"] == 1 else "data.found_rows", rows=numbers) if finding["rows"] else ""
    severity = "drop" if finding["chosen"] else "trimmed" if finding["action"] == "undo" else finding["severity"]
    look = {"error": "failed", "drop": "failed", "warn": "warn", "trimmed": "finished"}[severity]
    mark = f'<span class="pill {look}"><span aria-hidden="true">{MARKS[severity]}</span> {esc(t("data.severity." + severity))}</span>'
    message = t("data.chosen", what=t("data.kind_of." + finding["code"])) if finding["chosen"] else t.say(finding["message"])
    fix = "" if finding["chosen"] else f'<p class="muted">{esc(t.say(finding["fix"]))}</p>'
    return f'<div class="finding">{mark}<div><p>{esc(message)} <span class="muted">{esc(where)}</span></p>{fix}</div></div>'


def counts(t: Words, summary: dict[str, Any], raw: dict[str, Any]) -> str:
    chosen = settings.parse(raw)
    length = number(chosen.training.max_length)
    cut = (
        t("data.tokens_cut", n=number(summary["truncated"]), length=length)
        if summary["truncated"]
        else t("data.tokens_whole", length=length)
    )
    total = t("data.tokens", total=number(summary["tokens"]["total"]), trained=number(summary["tokens"]["trained"]))
    how = t("data.template_" + summary["template"], model=summary["base_model"])
    return (
        f'<p class="num">{esc(t("data.tokens_line", total=total, cut=cut))}</p><p class="muted">{esc(t("data.tokens_hint"))} {esc(how)}</p>'
    )


def first_row(t: Words, first: list[dict[str, Any]], chosen: list[Any]) -> str:
    parts = [
        f'<dt>{esc(t("role." + role))}</dt><dd class="pre">{esc(_filled(first[0], spec)[:600])}</dd>'
        for role, spec in zip(ROLES, chosen)
        if spec and first
    ]
    body = f"<dl>{''.join(parts)}</dl>" if parts else f'<p class="muted">{esc(t("data.nothing_chosen"))}</p>'
    return f'<div class="card"><h3>{esc(t("data.first_row"))}</h3>{body}</div>'


def _filled(row: dict[str, Any], spec: str) -> str:
    """What a column or a template over columns holds in this row."""
    try:
        found = convert.value(row, spec, optional=True)
    except convert.LeftOut:
        return ""
    return "" if found is None else str(found)
