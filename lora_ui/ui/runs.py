"""The Runs page: all runs, those waiting in line, the trash; with `?run=ID` the page of one run (`run.py`).

What is true is read from disk on a timer. Cards change in place, so that the list keeps focus; it is drawn anew only when a
run comes, goes or changes its state.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from lora_ui import errors, rescue, runs
from lora_ui.home import Home
from lora_ui.jobs import ENDED, Job, Jobs
from lora_ui.ui import browser, run, run_cards, storage
from lora_ui.ui.shell import Page, esc, html
from lora_ui.ui.words import Words

SHOWN = 20
"""Runs on the page, before it is asked for all: each is read from its folder."""
_ENDED: dict[Path, tuple[Job, tuple[dict[str, Any], list[tuple[float, float]]]]] = {}
"""By folder: the row as it was when the folder was read, and what was read."""
IN_PLACE = """
watch('value', () => {
  for (const run of JSON.parse(props.value || '[]')) {
    const card = document.querySelector(`[data-run="${run.id}"]`);
    if (!card) continue;
    const bar = card.querySelector('.progress');
    if (bar) { bar.setAttribute('aria-valuenow', run.percent); bar.setAttribute('aria-valuetext', run.said); bar.firstElementChild.style.width = `${run.percent}%`; }
    card.querySelector('[data-live=said]').textContent = run.said;
    card.querySelector('[data-live=loss]').textContent = run.loss;
    card.querySelector('[data-live=spark]').innerHTML = run.spark;
  }
});
"""
"""Changes the cards of running runs without redrawing the list. Its values are our own words and numbers, and a drawing."""


def build(page: Page) -> None:
    t = page.t
    with gr.Column(visible=False, elem_classes="lu-list") as overview:
        with gr.Row(elem_classes="lu-headline"):
            page.title()
            new = html(f'<a class="button" href="/train">{esc(t("runs.new"))}</a>')
        rescued, understood = html(visible=False), gr.Button(t("runs.rescued_ok"), visible=False, size="sm", elem_id="rescued-ok")
        notice = html(visible=False)
        undo = gr.Button(t("runs.undo"), visible=False, size="sm", elem_id="undo")
        cards = html(elem_id="runs")
        live = gr.HTML("[]", html_template="<span hidden></span>", js_on_load=IN_PLACE, apply_default_css=False)
        waiting = gr.State([])
        trash = gr.State([])
        _queue(page, waiting)
        _trash(page, trash)
        foot = html(elem_classes="muted")
        storage.build(page)
    seen = gr.State("")
    beat = gr.Timer(2, active=False)
    run.build(page)

    def listing(request: gr.Request, last: str) -> dict[Any, Any]:
        there, points = read(page.home, "all" in request.query_params)
        moving = [run_cards.live(t, entry, points[entry["id"]]) for entry in there if entry["state"] == "running"]
        now = repr([(e["id"], e["name"], e["state"], e["queue_position"], e["stop_asked"], e["error"]) for e in there])
        if now == last:
            return {live: json.dumps(moving)} if moving else {seen: gr.skip()}
        return {
            seen: now,
            live: json.dumps(moving),
            cards: _cards(t, there, points),
            waiting: [(entry["id"], entry["name"], entry["queue_position"]) for entry in there if entry["state"] == "queued"],
            new: gr.update(visible=bool(there)),
            foot: _foot(t, page.home, len(there)),
        }

    def opened(request: gr.Request, last: str) -> dict[Any, Any]:
        if request.query_params.get("run"):
            return {overview: gr.update(visible=False), beat: gr.Timer(active=False)}
        shown = {overview: gr.update(visible=True), beat: gr.Timer(active=True)}
        if note := rescue.note(page.home):
            shown |= {rescued: gr.update(value=_rescued(t, note), visible=True), understood: gr.update(visible=True)}
        if request.query_params.get("trash") is not None:
            gone = [(entry["id"], entry["name"]) for entry in runs.list_runs(page.home, deleted=True)]
            return {**shown, beat: gr.Timer(active=False), trash: gone, cards: _trash_head(t, len(gone)), new: gr.update(visible=False)}
        return {**shown, **_notice(page, request, notice, undo), **listing(request, "")}

    def take_back(request: gr.Request) -> str:
        return f"/runs?run={runs.restore(page.home, request.query_params['moved']).id}"

    def dismissed() -> Any:
        rescue.dismiss(page.home)
        return gr.update(visible=False), gr.update(visible=False)

    outputs = [overview, cards, live, waiting, trash, new, foot, notice, undo, seen, beat, rescued, understood]
    page.on(page.demo.load, opened, seen, outputs, queue=True)  # both queued: only then does Gradio tell `draw` that the line changed
    page.on(beat.tick, listing, seen, outputs, clears=False, queue=True)
    page.on(undo.click, take_back, None, browser.goes())
    page.on(understood.click, dismissed, None, [rescued, understood])


def read(home: Home, every: bool = False) -> tuple[list[dict[str, Any]], dict[str, list[tuple[float, float]]]]:
    """The runs on the page, newest first, each as `runs.show`, and the loss of each."""
    jobs = Jobs(home.database)
    rows = jobs.all("train") if every else jobs.shown(SHOWN)
    waiting = [job.id for job in jobs.queue()] if any(row.state == "queued" for row in rows) else []
    looks = [_look(home, row, waiting) for row in rows]
    return [entry for entry, _ in looks], {entry["id"]: points for entry, points in looks}


def _look(home: Home, row: Job, waiting: list[str]) -> tuple[dict[str, Any], list[tuple[float, float]]]:
    """One run and its loss; the folder of one that has ended is read again only when its row has changed."""
    kept = _ENDED.get(home.run(row.id))
    if kept and kept[0] == row:
        return kept[1]
    run, curves = runs.glance(home, row, waiting)
    look = run, curves["loss"]
    if row.state in ENDED:
        _ENDED[home.run(row.id)] = (row, look)
    return look


def _rescued(t: Words, note: dict[str, Any]) -> str:
    """The list was made anew from the folders: when, what is back, what is lost, where the damaged file is."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(note["time"]))
    said = [t("runs.rescued", when=when), t("runs.rescued_found", n=note["runs"]), t("runs.rescued_lost")]
    if note["aside"]:
        said.append(t("runs.rescued_aside", name=note["aside"]))
    return f'<div class="note" role="status">{"".join(f"<p>{esc(line)}</p>" for line in said)}</div>'


def _notice(page: Page, request: gr.Request, notice: gr.HTML, undo: gr.Button) -> dict[Any, Any]:
    """After a delete the address carries the run, so that Undo is still there after a reload."""
    moved = request.query_params.get("moved")
    if not moved:
        return {}
    try:
        gone = runs.show(page.home, moved)
    except errors.NoSuchJob:
        return {}
    if not gone["deleted"]:
        return {}
    said = page.t("runs.moved", name=gone["name"])
    return {notice: gr.update(value=f'<p class="note" role="status">{esc(said)}</p>', visible=True), undo: gr.update(visible=True)}


def _cards(t: Words, there: list[dict[str, Any]], points: dict[str, Any]) -> str:
    if not there:
        return f'<div class="empty"><p>{esc(t("runs.none"))}</p><a class="button primary" href="/?example=1">{esc(t("runs.none_action"))}</a></div>'
    items = "".join(f"<li>{run_cards.card(t, entry, points[entry['id']])}</li>" for entry in there)
    return f'<ul class="run-list">{items}</ul>'


def _trash_head(t: Words, count: int) -> str:
    said = t("runs.trash_hint") if count else t("runs.trash_none")
    return f'<p><a href="/runs">{esc(t("runs.back"))}</a></p><h2>{esc(t("runs.trash_title"))}</h2><p class="muted">{esc(said)}</p>'


def _foot(t: Words, home: Home, shown: int) -> str:
    kept, deleted = Jobs(home.database).counts()
    older = f'<p><a href="/runs?all">{esc(t("runs.older", n=kept - shown))}</a></p>' if kept > shown else ""
    return older + (f'<p><a href="/runs?trash">{esc(t("runs.trash", n=deleted))}</a></p>' if deleted else "")


def _queue(page: Page, waiting: gr.State) -> None:
    """Real buttons for the runs in line; drawn anew only when the line changes."""
    t = page.t

    @gr.render(inputs=waiting, show_progress="hidden")
    def draw(line: list[tuple[str, str, int]]) -> None:
        if line:
            html(f"<h2>{esc(t('runs.waiting'))}</h2>")
        for id, name, place in sorted(line, key=lambda entry: entry[2]):
            with gr.Row(elem_classes="lu-run-line"):
                html(f'<p><b>{esc(name)}</b> <span class="muted">{esc(run_cards.in_line(t, {"queue_position": place}))}</span></p>')
                if place > 1:
                    _act(page, gr.Button(t("runs.run_next"), size="sm"), runs.run_next, id)
                _act(page, gr.Button(t("runs.cancel"), size="sm"), runs.stop, id)


def _trash(page: Page, trash: gr.State) -> None:
    t = page.t
    reload = browser.goes()

    @gr.render(inputs=trash, show_progress="hidden")
    def draw(gone: list[tuple[str, str]]) -> None:
        for id, name in gone:
            with gr.Row(elem_classes="lu-run-line"):
                html(f"<p><b>{esc(name)}</b></p>")
                _act(page, gr.Button(t("runs.restore"), size="sm"), runs.restore, id, reload)


def _act(page: Page, button: gr.Button, verb: Callable[..., Any], id: str, onward: gr.HTML | None = None) -> None:
    """A button that does one thing to one run; the next tick shows it, or the browser goes to the run."""

    def act() -> Any:
        verb(page.home, id)
        return f"/runs?run={id}" if onward else None

    page.on(button.click, act, None, onward)
