"""Memory checked exactly, on the Train page: a bar while the dry run works, then its figures beside the estimate's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from lora_ui import exactly, memory
from lora_ui.home import Home
from lora_ui.ui.shell import esc
from lora_ui.ui.words import Words


def watched(t: Words, home: Home, raw: dict[str, Any], token: str | None, gpu: int | None, halt: threading.Event) -> Iterator[str]:
    """What the page says, again and again, until the answer or until `halt` is set. Raises what `exactly.of_plan` raises."""
    shown = ""
    for done, total, answer in exactly.of_plan(home, raw, token, gpu):
        said = _bar(t, done, total) if answer is None else table(t, answer)
        if halt.is_set():
            said = f'<p class="muted">{esc(t("exact.stopped"))}</p>'
        if said != shown:
            yield said
            shown = said
        if halt.is_set():
            return


def _bar(t: Words, done: int, total: int) -> str:
    said = t("exact.working")
    share = f'<div style="width:{100 * done / total:.0f}%"></div>' if total else '<div class="unknown"></div>'
    values = f' aria-valuenow="{100 * done / total:.0f}"' if total else ""
    bar = f'<div class="progress" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-label="{esc(said)}"{values}>{share}</div>'
    return f'<p class="muted">{esc(said)}</p>{bar}'


def table(t: Words, answer: dict[str, Any]) -> str:
    """The verdict by the exact figure, and each item as estimated and as found."""
    known = {"need": memory.gigabytes(answer["exact_bytes"]), "there": memory.gigabytes(answer["available_bytes"])}
    said = t("exact.says", verdict=t("fit." + answer["verdict"], **known))
    head = f'<tr><td></td><th scope="col">{esc(t("exact.estimated"))}</th><th scope="col">{esc(t("exact.found"))}</th></tr>'
    rows = [(t("fit.item." + name), pair) for name, pair in answer["items"].items()]
    rows.append((t("fit.item.all"), [answer["predicted_bytes"], answer["exact_bytes"]]))
    body = "".join(
        f'<tr><th scope="row">{esc(name)}</th>' + "".join(f'<td class="num">{esc(memory.gigabytes(size))}</td>' for size in pair) + "</tr>"
        for name, pair in rows
    )
    return f'<p class="num">{esc(said)}</p><table class="facts">{head}{body}</table>'
