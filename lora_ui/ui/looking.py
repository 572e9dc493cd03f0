"""Looking at data that was read: its findings, its rows, and the token count, which comes after them.

Three states, each written by one kind of event, so that none can undo another's: `here` (which data, what is left out of it) by reading
and choosing, `place` (which row is shown) by moving, `count` (the token count) by the timer alone. What is drawn follows from all three.
"""

from __future__ import annotations

import functools
import json
import random
import time
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from lora_ui import data, errors, machine, memory, models, runs, settings
from lora_ui.data import checks
from lora_ui.home import Home
from lora_ui.jobs import BUSY, WAITING
from lora_ui.models import BaseModel
from lora_ui.ui import browser, draft, findings, lengths, report_card, row_view, saved_report, tokens
from lora_ui.ui.data_parts import Parts
from lora_ui.ui.shell import Page, esc, number, panel, problem_of
from lora_ui.ui.words import Words


def asked(home: Home, remembered: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    """`here` with the settings that the Train page would start with, and what these leave out; `asked` tells one count from the next."""
    raw = _raw(home, remembered, here)
    chosen = settings.parse(raw).data
    mine = {name: getattr(chosen, name) for name in ("leave_out", "trim", "row_limit", "learn", "system_prompt", "template_for_base")}
    return {**here, **mine, "raw": raw, "asked": time.time_ns()}


def _raw(home: Home, remembered: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    """The draft of the Train page with this data; a draft that cannot be read does not stand in the preview's way."""
    mine = {**remembered, "source": here["source"], "mapping": here["mapping"]}
    raw = draft.of(home, mine, here["kept"]).raw
    try:
        settings.parse(raw)
    except errors.InvalidSettings:
        return draft.of(home, {**mine, "settings": draft.left_out(remembered)}, here["kept"]).raw
    return raw


def trims(home: Home, remembered: dict[str, Any], source: str, mapping: dict[str, str]) -> list[str]:
    """What the settings trim, before the rows are read."""
    raw = _raw(home, remembered, {"source": source, "mapping": mapping, "kept": 0})
    return list(settings.parse(raw).data.trim)


def at(row: int, now: dict[str, Any], view: str, of: tuple[str, int, int] | None = None) -> dict[str, Any]:
    """A place in the data: the position of a row, how it is shown, and as which of a finding's rows (its place on the board, which, how
    many). `counted`: whether it was drawn with a token count; `now` as `known` gives it. The view stands here because the one that the
    timer brings along is as old as its question. `turn` goes to the browser beside what is drawn: until the timer brings it along, the
    drawing is still under way and would undo what the timer draws."""
    return {"at": row, "view": view, "of": of, "counted": now["prepared"] is not None, "turn": str(time.time_ns())}


def moved(home: Home, t: Words, p: Parts, now: dict[str, Any], place: dict[str, Any]) -> dict[Any, Any]:
    """A row is shown; `now` as `known` gives it."""
    return {p.place: place, p.turn: place["turn"], p.row: row_view.row(home, t, now, place)}


def first_of(home: Home, now: dict[str, Any], place: str) -> int:
    """The position of the first row of the finding at a place of the board; of the first row where there is none. `now` as `known` gives it."""
    one = findings.listed(home, now).get(place)
    return ([*findings.positions(home, now["digest"], one), 0] if one else [0])[0]


def known(here: dict[str, Any], count: dict[str, Any]) -> dict[str, Any]:
    """`here` with `prepared`, what was counted for it, or None while it is not, and `first`, what the count was asked (see
    `data.prepared.read_first`), or None before it began."""
    mine = count if count.get("asked") == here["asked"] else {}
    return {**here, "prepared": mine.get("prepared"), "first": mine.get("params")}


def checked(home: Home, t: Words, p: Parts, here: dict[str, Any]) -> dict[Any, Any]:
    """All that the page says about the data as a whole; `here` as `known` gives it."""
    found = findings.listed(home, here)
    summary, report = here["prepared"], data.open(home, here["digest"]).report
    wait = f'<p class="muted">{esc(t("data.lengths_wait"))}</p>'
    return {
        p.summary: report_card.summary(t, here["name"], report, list(found.values()), findings.ready(home, here)),
        p.counts: report_card.counts(t, summary, here["raw"]) if summary else gr.skip(),
        p.lengths: _lengths(home, t, here["raw"], summary) if summary else wait,
        p.layout: gr.update(visible=summary["template"] in ("chatml", "named"), value=here["template_for_base"]) if summary else gr.skip(),
        **p.board.show(t, found),
    }


def _lengths(home: Home, t: Words, raw: dict[str, Any], summary: dict[str, Any]) -> str:
    chosen = settings.parse(raw)
    base = models.known(home, chosen.model.base_model, chosen.model.revision) or BaseModel(name="", kind="hub", title="")
    decided, _ = memory.settle(base, chosen, memory.Rows.of(summary), memory.here(machine.look())[0])
    longest = chosen.training.max_length
    return lengths.picture(t, summary, longest) + lengths.cost(t, summary, longest, decided)


def wire(page: Page, p: Parts) -> None:
    _wire_count(page, p)
    _wire_findings(page, p)
    _wire_rows(page, p)


def _wire_count(page: Page, p: Parts) -> None:
    home, t = page.home, page.t

    def tick(request: gr.Request, here: dict[str, Any], place: dict[str, Any], count: dict[str, Any], shown: str) -> dict[Any, Any]:
        if "asked" not in here or shown != place["turn"]:
            return {p.count: gr.skip()}
        changed: dict[Any, Any] = {}
        if count.get("asked") != here["asked"]:
            count, changed = _begin(home, t, p, here, tokens.of(request) or None)
        elif count["job"]:
            count, changed = _follow(home, t, p, here, count, tokens.of(request) or None)
        now = known(here, count)
        stage = row_view.stage(home, now)
        if stage and not place["counted"] and count["drawn"] != (place["turn"], stage):
            count = {**count, "drawn": (place["turn"], stage)}
            row, before = (row_view.row(home, t, then, place) for then in (now, known(here, {})))
            changed |= {p.count: count, p.row: row if row != before else gr.skip()}
        return changed or {p.count: gr.skip()}

    counted = [p.count, p.row, p.token_problem, p.summary, p.counts, p.lengths, p.layout, *p.board.parts]
    page.on(p.timer.tick, tick, [p.here, p.place, p.count, p.turn], counted, clears=False)


def _begin(home: Home, t: Words, p: Parts, here: dict[str, Any], token: str | None) -> tuple[dict[str, Any], dict[Any, Any]]:
    """The state of a count that was asked for, and what the page says about it."""
    count: dict[str, Any] = {"asked": here["asked"], "job": None, "params": None, "prepared": None, "drawn": None, "far": None}
    try:
        job = runs.prepare(home, here["raw"], token)
    except Exception as error:  # whatever it is, it is said once: the timer must not ask again every second
        return count, {p.count: count, p.counts: "", p.token_problem: gr.update(value=problem_of(t, error), visible=True)}
    now, changed = _follow(home, t, p, here, {**count, "job": job.id, "params": job.params}, token)
    return now, {p.token_problem: gr.update(visible=False), **changed}


def _follow(
    home: Home, t: Words, p: Parts, here: dict[str, Any], count: dict[str, Any], token: str | None
) -> tuple[dict[str, Any], dict[Any, Any]]:
    """The same for a count whose job was started."""
    job = runs.job(home, count["job"])
    if job["state"] in (*WAITING, *BUSY):
        model, far = settings.parse(here["raw"]).model.base_model, (job["done"], job["total"])
        if far == count["far"]:
            return count, {}
        said = t("data.counting", model=model)
        said += f" {t('data.counted', done=number(far[0]), total=number(far[1]))}" if far[0] else ""
        count = {**count, "far": far}
        return count, {p.count: count, p.counts: f'<p class="muted num">{esc(said)}</p>'}
    if job["error"]:
        count = {**count, "job": None}
        return count, {p.count: count, p.counts: "", p.token_problem: gr.update(value=panel(t, job["error"]), visible=True)}
    if (summary := runs.prepared(home, here["raw"], token)) is None:  # another page stopped it
        return _begin(home, t, p, here, token)
    count = {**count, "job": None, "prepared": summary}
    return count, {p.count: count, **checked(home, t, p, known(here, count))}


def _wire_findings(page: Page, p: Parts) -> None:
    home, t, memory, moving = page.home, page.t, page.memory, [p.place, p.turn, p.row]

    def show(name: str, here: dict[str, Any], place: dict[str, Any], count: dict[str, Any], view: str) -> dict[Any, Any]:
        """The first row of a finding; the next one when its rows are being shown already."""
        now = known(here, count)
        found = findings.listed(home, now)
        rows = findings.positions(home, here["digest"], found[name]) if name in found else []
        if not rows:
            return {p.place: gr.skip()}
        before = place["of"] or (None, -1, 0)
        which = (before[1] + 1) % len(rows) if before[0] == name else 0
        return moved(home, t, p, now, at(rows[which], now, view, (name, which, len(rows))))

    def choose(
        code: str, here: dict[str, Any], place: dict[str, Any], count: dict[str, Any], remembered: dict[str, Any], view: str
    ) -> dict[Any, Any]:
        """Leave the rows of a finding out, or use them again."""
        codes = [c for c in here["leave_out"] if c != code]
        codes += [] if code in here["leave_out"] else [code]
        return again(draft.with_chosen(remembered, leave_out=codes), here, place, count, view)

    def lay_out(
        way: str, here: dict[str, Any], place: dict[str, Any], count: dict[str, Any], remembered: dict[str, Any], view: str
    ) -> dict[Any, Any]:
        """Write conversations another way for a base model without a template."""
        return again(draft.with_chosen(remembered, template_for_base=way), here, place, count, view)

    def again(remembered: dict[str, Any], here: dict[str, Any], place: dict[str, Any], count: dict[str, Any], view: str) -> dict[Any, Any]:
        """The page after a choice: the tokens are counted anew."""
        here = {**asked(home, remembered, here), "findings": findings.listed(home, known(here, count))}
        now = known(here, {})
        place = at(place["at"], now, view)
        return {
            **{memory: remembered, p.here: here, **moved(home, t, p, now, place)},
            **checked(home, t, p, now),
        }

    chosen = [memory, p.here, *moving, p.summary, p.counts, p.lengths, p.layout, *p.board.parts]
    page.on(p.layout.input, lay_out, [p.layout, p.here, p.place, p.count, memory, p.view], chosen)
    to_row = "() => document.getElementById('row').scrollIntoView({block: 'nearest'})"
    for name, (_, _, rows, _, choice) in p.board.places.items():
        shown = page.on(rows.click, functools.partial(show, name), [p.here, p.place, p.count, p.view], moving)
        shown.then(None, None, None, js=to_row, api_visibility="private")
        if name in findings.CODES:
            page.on(choice.click, functools.partial(choose, name), [p.here, p.place, p.count, memory, p.view], chosen)


def _wire_rows(page: Page, p: Parts) -> None:
    home, t, moving = page.home, page.t, [p.place, p.turn, p.row]

    def move(step: str, here: dict[str, Any], place: dict[str, Any], count: dict[str, Any], view: str) -> dict[Any, Any]:
        last = here["kept"] - 1
        places = {
            "next": lambda: min(last, place["at"] + 1), "previous": lambda: max(0, place["at"] - 1),
            "random": lambda: random.randint(0, last), "stay": lambda: place["at"],
            "shortest": lambda: row_view.ends(home, here["digest"])[0], "longest": lambda: row_view.ends(home, here["digest"])[1],
        }  # fmt: skip
        now = known(here, count)
        return moved(home, t, p, now, at(places[step](), now, view, place["of"] if step == "stay" else None))

    for trigger, step in (
        (p.next.click, "next"), (p.previous.click, "previous"), (p.random.click, "random"),
        (p.shortest.click, "shortest"), (p.longest.click, "longest"), (p.view.input, "stay"),
    ):  # fmt: skip
        page.on(trigger, functools.partial(move, step), [p.here, p.place, p.count, p.view], moving)

    def go_to(wanted: str, here: dict[str, Any], count: dict[str, Any], view: str) -> dict[Any, Any]:
        asked_for = wanted.strip().lstrip("#")
        found = (
            np.flatnonzero(checks.marks(home, here["digest"])["row"] == int(asked_for))
            if asked_for.isdecimal() and len(asked_for) < 19
            else np.empty(0)
        )
        if not len(found):
            raise errors.NoSuchRow(row=asked_for or "?")
        now = known(here, count)
        return moved(home, t, p, now, at(int(found[0]), now, view))

    page.on(p.wanted.submit, go_to, [p.wanted, p.here, p.count, p.view], moving, at=p.row_problem)

    def report(kind: str, here: dict[str, Any], count: dict[str, Any]) -> Path:
        made = browser.folder() / f"report.{kind}"
        said = runs.counted(data.open(home, here["digest"]).report, known(here, count)["prepared"])
        made.write_text(saved_report.page(said, t) if kind == "html" else json.dumps(said, indent=1, ensure_ascii=False), "utf-8")
        return made

    for button, kind in ((p.report, "html"), (p.report_json, "json")):
        browser.saves(page, button, functools.partial(report, kind), [p.here, p.count])

    def first_row(here: dict[str, Any], *chosen: str) -> str:
        return report_card.first_row(t, here.get("first") or [], list(chosen))

    for box in p.roles:
        page.on(box.input, first_row, [p.here, *p.roles], p.first, clears=False)
