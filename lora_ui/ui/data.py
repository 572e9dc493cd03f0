"""The Data page: bring rows, see what was found in them and what a model would learn from them, then go on to Train."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from lora_ui import data, errors, runs, settings
from lora_ui.data import sources
from lora_ui.home import Home
from lora_ui.ui import draft, findings, lengths, report_card, row_view, trust
from lora_ui.ui.report_card import ROLES
from lora_ui.ui.shell import Page, esc, html, panel
from lora_ui.ui.words import Words

VIEWS = ("chat", "reading", "tokens")


class Upload(gr.File):
    """A box for files whose value is a list of (path, the name the person gave the file): Gradio rewrites names."""

    is_template = True

    def preprocess(self, payload: Any) -> Any:
        return [(file.path, file.orig_name or Path(file.path).name) for file in payload.root] if payload else []


class Parts:
    """The page's components; `here` is what is shown now: source, mapping, name, digest, kept, at, first; leave_out and findings (see
    findings.py); of (place of a finding, which of its rows, how many); raw, job and prepared of the token count."""

    def __init__(self, page: Page):
        t = page.t
        self.status = html(visible=False, elem_classes="lu-live")
        with gr.Column(elem_classes="lu-stack") as self.bring:
            self._draw_bring(t)
        with gr.Column(visible=False, elem_classes="lu-stack") as self.there:
            self._draw_there(t)
        with gr.Accordion(t("data.columns"), open=False, visible=False, elem_id="columns") as self.columns:
            self._draw_columns(t)
        with gr.Row(elem_classes="lu-sticky", visible=False) as self.foot:
            self.use = gr.Button(t("data.use"), variant="primary", elem_id="use-data")
        self.here = gr.State({})
        self.timer = gr.Timer(1.5, active=False)

    def _draw_bring(self, t: Words) -> None:
        lead = "data.lead_space" if os.environ.get("SPACE_ID") else "data.lead"
        html(f'<p class="lead">{esc(t(lead))}</p>')
        self.file = Upload(label=t("data.file"), height=160, elem_id="upload", file_types=None, file_count="multiple")
        with gr.Row(elem_classes="lu-line"):
            self.hub = gr.Textbox(label=t("data.hub"), placeholder=t("data.hub_hint"), max_lines=1, scale=3, elem_id="hub-data")
            self.read = gr.Button(t("data.hub_read"), scale=0, min_width=120)
        html(f'<p class="muted">{esc(t("data.formats"))}</p>')
        self.example = gr.Button(t("data.example", n=_example_rows()), variant="primary", elem_id="example")
        with gr.Accordion(t("data.paste"), open=False, elem_id="paste"):
            self.text = gr.Textbox(label=t("data.paste_box"), info=t("data.paste_hint"), lines=6, max_lines=12, elem_id="paste-text")
            self.paste = gr.Button(t("data.paste_read"), scale=0, min_width=160)
        ways = "".join(
            f'<li><span class="way">{k}</span><div><strong>{esc(t(f"data.way_{k}"))}</strong><p class="muted">{esc(t(f"data.way_{k}_hint"))}</p></div></li>'
            for k in (1, 2, 3)
        )
        html(f'<ol class="ways">{ways}</ol>')

    def _draw_there(self, t: Words) -> None:
        with gr.Row(elem_classes="lu-line"):
            self.summary = html(scale=1)
            self.change = gr.Button(t("data.change"), scale=0, min_width=140, size="md")
        self.counts = html(elem_classes="lu-live")
        self.token_problem = html(visible=False)
        self.board = findings.Board(t)
        with gr.Row(elem_classes="lu-line lu-view"):
            self.view = gr.Radio([(t("data.view_" + v), v) for v in VIEWS], value="chat", label=t("data.view"), scale=3)
            self.previous = gr.Button(t("data.previous"), size="sm", scale=0, min_width=100, elem_id="previous-row")
            self.next = gr.Button(t("data.next"), size="sm", scale=0, min_width=100, elem_id="next-row")
        self.row = html(elem_classes="lu-row", elem_id="row")
        with gr.Row(elem_classes="lu-line"):
            self.shortest = gr.Button(t("data.shortest"), size="sm", scale=0, min_width=120)
            self.longest = gr.Button(t("data.longest"), size="sm", scale=0, min_width=120)
            self.random = gr.Button(t("data.random"), size="sm", scale=0, min_width=160)
        with gr.Accordion(t("data.lengths"), open=False, elem_id="lengths"):
            self.lengths = html()

    def _draw_columns(self, t: Words) -> None:
        html(f'<p class="muted">{esc(t("data.columns_hint"))}</p>')
        with gr.Row():
            with gr.Column(scale=1, elem_classes="lu-stack"):
                self.roles = [gr.Dropdown([("", "")], label=t("role." + role), value="", elem_id=f"role-{role}") for role in ROLES]
            self.first = html(scale=1)
        with gr.Row(elem_classes="lu-line"):
            self.map = gr.Button(t("data.column_read"), scale=0, min_width=260, elem_id="read-columns")
            self.recognise = gr.Button(t("data.column_recognised"), scale=0, min_width=220)
            self.other = gr.Button(t("data.change"), scale=0, min_width=220, visible=False)

    @property
    def shown(self) -> list[Any]:
        """What a newly read source changes."""
        return [
            self.bring, self.status, self.there, self.columns, self.foot, self.row, *self.roles, self.first, self.map, self.other, self.view,
            *self.checked,
        ]  # fmt: skip

    @property
    def checked(self) -> list[Any]:
        """What follows from the findings, from what is left out, and from the token count."""
        return [self.here, self.summary, self.counts, self.lengths, *self.board.parts]


@functools.cache
def _example_rows() -> int:
    with data.EXAMPLE.open("rb") as f:
        return sum(1 for line in f if line.strip())


def build(page: Page) -> None:
    page.title()
    parts = Parts(page)
    _wire_sources(page, parts)
    _wire_change(page, parts)
    _wire_findings(page, parts)
    _wire_rows(page, parts)


def _wire_sources(page: Page, p: Parts) -> None:
    home, t, memory = page.home, page.t, page.memory

    def show(source: str, mapping: dict[str, str], remembered: dict[str, Any], name: str) -> Iterator[dict[Any, Any]]:
        yield {
            p.status: gr.update(value=f'<p class="muted">{esc(t("data.reading", name=name))}</p>', visible=True),
            p.there: gr.update(visible=False),
        }
        try:
            yield _read(home, t, p, trust.source(home, source), mapping, remembered, memory)
        except errors.LoraUIError as error:
            yield _not_read(page, p, source, mapping, error)

    def upload(files: list[tuple[str, str]], remembered: dict[str, Any]) -> Iterator[dict[Any, Any]]:
        stored = [data.store_upload(home, Path(path), name) for path, name in files]
        if stored:
            yield from show("\n".join(stored), {}, remembered, t("shell.comma").join(name for _, name in files))

    def pasted(text: str, remembered: dict[str, Any]) -> Iterator[dict[Any, Any]]:
        name = t("data.paste_name")
        yield from show(data.store_text(home, text, name), {}, remembered, name)

    def example(remembered: dict[str, Any]) -> Iterator[dict[Any, Any]]:
        yield from show("example", {}, remembered, t("data.example_name"))

    def from_hub(asked: str, remembered: dict[str, Any]) -> Iterator[dict[Any, Any]]:
        name = _hub_name(asked)
        yield from show(name, {}, remembered, name)

    def by_hand(here: dict[str, Any], remembered: dict[str, Any], *chosen: str) -> Iterator[dict[Any, Any]]:
        mapping = {role: column for role, column in zip(ROLES, chosen) if column}
        yield from show(here["source"], mapping, remembered, here["name"])

    def again(here: dict[str, Any], remembered: dict[str, Any]) -> Iterator[dict[Any, Any]]:
        data.forget_mapping(home, here["source"])
        yield from show(here["source"], {}, remembered, here["name"])

    def remembered_source(request: gr.Request, remembered: dict[str, Any]) -> Iterator[dict[Any, Any]]:
        if request.query_params.get("example"):
            yield from example(remembered)
        elif remembered.get("source"):
            yield from show(remembered["source"], remembered.get("mapping") or {}, remembered, remembered.get("data_name") or "")
        else:  # a stream that says nothing would empty the memory in the browser
            yield {p.status: gr.skip()}

    outputs = [*p.shown, memory]
    prepare = functools.partial(_wire_prepare, page, p)
    prepare(page.on(p.file.upload, upload, [p.file, memory], outputs))
    prepare(page.on(p.paste.click, pasted, [p.text, memory], outputs))
    prepare(page.on(p.example.click, example, memory, outputs))
    prepare(page.on(functools.partial(gr.on, [p.read.click, p.hub.submit]), from_hub, [p.hub, memory], outputs))
    prepare(page.on(p.map.click, by_hand, [p.here, memory, *p.roles], outputs))
    prepare(page.on(p.recognise.click, again, [p.here, memory], outputs))
    prepare(page.on(page.demo.load, remembered_source, memory, outputs))
    _wire_change(page, p)


def _wire_change(page: Page, p: Parts) -> None:
    memory = page.memory

    def change(remembered: dict[str, Any]) -> dict[Any, Any]:
        kept = {k: v for k, v in draft.with_left_out(remembered, None).items() if k not in ("source", "mapping", "data_name")}
        hidden = {part: gr.update(visible=False) for part in (p.status, p.there, p.columns, p.foot, p.token_problem)}
        return {**hidden, p.bring: gr.update(visible=True), p.file: None, p.here: {}, memory: kept, p.timer: gr.Timer(active=False)}

    cleared = [p.bring, p.status, p.there, p.columns, p.foot, p.token_problem, p.file, p.here, memory, p.timer]
    page.on(functools.partial(gr.on, [p.change.click, p.other.click]), change, memory, cleared)
    p.use.click(None, None, None, js="() => { location.href = '/train' }", api_visibility="private")


def _hub_name(asked: str) -> str:
    """owner/name of what was typed or pasted. The box takes nothing else, so that no path of this machine can be read with it."""
    name = sources.hub_name(asked)
    if name is None or Path(name).exists():
        raise errors.DataNotFound(name=asked.strip() or "?")
    return name


def _read(
    home: Home, t: Words, p: Parts, source: str, mapping: dict[str, str], remembered: dict[str, Any], memory: gr.BrowserState
) -> dict[Any, Any]:
    found = data.load(home, source, mapping or None)
    peeked = data.peek(home, source)
    if remembered.get("source") != source:  # what was left out was left out of other rows
        remembered = draft.with_left_out(remembered, None)
    here = {
        "source": source,
        "mapping": mapping,
        "name": found.name,
        "digest": found.digest,
        "kept": found.report["kept"],
        "at": 0,
        "first": peeked["first"],
    }
    here["raw"] = _raw(home, remembered, here)
    return {
        p.bring: gr.update(visible=False),
        p.status: gr.update(visible=False),
        p.there: gr.update(visible=True),
        p.foot: gr.update(visible=True),
        **_checked(home, t, p, here),
        p.counts: "",
        p.row: row_view.row(home, t, here, "chat"),
        p.view: "chat",
        memory: {**remembered, "source": source, "mapping": mapping, "data_name": found.name},
        **_columns(t, p, peeked, found.report["mapping"] or {}, opened=False),
    }


def _checked(home: Home, t: Words, p: Parts, here: dict[str, Any]) -> dict[Any, Any]:
    """`here`, what its settings (`raw`) leave out, and all that follows from it on the page."""
    chosen = settings.parse(here["raw"])
    here = {**here, "leave_out": chosen.data.leave_out, "row_limit": chosen.data.row_limit}
    found = findings.listed(home, here)
    here = {**here, "findings": found}
    summary, report = here.get("prepared"), data.open(home, here["digest"]).report
    wait = f'<p class="muted">{esc(t("data.lengths_wait"))}</p>'
    return {
        p.here: here,
        p.summary: report_card.summary(t, here["name"], report, list(found.values()), findings.ready(home, here)),
        p.counts: report_card.counts(t, summary, here["raw"]) if summary else gr.skip(),
        p.lengths: lengths.picture(t, summary, chosen.training.max_length) if summary else wait,
        **p.board.show(t, found),
    }


def _not_read(page: Page, p: Parts, source: str, mapping: dict[str, str], error: errors.LoraUIError) -> dict[Any, Any]:
    """The problem, and where columns are the problem, the place to say which is which."""
    shown = {
        p.status: gr.update(value=panel(page.t, error), visible=True),
        p.there: gr.update(visible=False),
        p.foot: gr.update(visible=False),
    }
    if isinstance(error, (errors.ColumnsNotRecognised, errors.MissingColumns)):
        peeked = data.peek(page.home, source)
        here = {"source": source, "mapping": mapping, "name": peeked["name"], "first": peeked["first"]}
        return {
            **shown,
            p.bring: gr.update(visible=False),
            p.here: here,
            **_columns(page.t, p, peeked, mapping or peeked["guess"], opened=True),
        }
    return {**shown, p.bring: gr.update(visible=True), p.columns: gr.update(visible=False), p.here: {}}


def _columns(t: Words, p: Parts, peeked: dict[str, Any], mapping: dict[str, str], opened: bool) -> dict[Any, Any]:
    choices = [(t("data.column_none"), ""), *((str(c), str(c)) for c in peeked["columns"])]
    chosen = [mapping.get(role) if mapping.get(role) in peeked["columns"] else "" for role in ROLES]
    return {
        p.columns: gr.update(visible=bool(peeked["columns"]), open=opened),
        **{box: gr.update(choices=choices, value=value) for box, value in zip(p.roles, chosen)},
        # said again, because Gradio drops the words of a button that it updates before it was ever drawn
        p.map: gr.update(value=t("data.column_read"), variant="primary" if opened else "secondary"),
        p.other: gr.update(value=t("data.change"), visible=opened),
        p.first: report_card.first_row(t, peeked["first"], chosen),
    }


# tokens


def _raw(home: Home, remembered: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    """The draft of the Train page with this data; a draft that cannot be read does not stand in the preview's way."""
    mine = {**remembered, "source": here["source"], "mapping": here["mapping"]}
    raw = draft.of(home, mine, here["kept"]).raw
    try:
        settings.parse(raw)
    except errors.InvalidSettings:
        return draft.of(home, {**mine, "settings": draft.left_out(remembered)}, here["kept"]).raw
    return raw


def _wire_prepare(page: Page, p: Parts, after: Any) -> None:
    home, t = page.home, page.t

    def start(here: dict[str, Any], remembered: dict[str, Any]) -> dict[Any, Any]:
        if not here.get("digest"):
            return {p.timer: gr.Timer(active=False)}
        here = {**here, "raw": _raw(home, remembered, here), "prepared": None, "job": None}
        job = runs.prepare(home, here["raw"])
        if job.state == "finished" and (summary := runs.prepared(home, here["raw"])):
            return {**_checked(home, t, p, {**here, "prepared": summary}), p.timer: gr.Timer(active=False)}
        model = settings.parse(here["raw"]).model.base_model
        wait = f'<p class="muted">{esc(t("data.counting", model=model))}</p>'
        return {p.here: {**here, "job": job.id}, p.counts: wait, p.timer: gr.Timer(active=True)}

    # outside the queue: when one queued event ends while a click starts another, Gradio's browser side can lose the click's answer
    page.on(after.then, start, [p.here, page.memory], [*p.checked, p.timer], at=p.token_problem, queue=False)


# findings


def _wire_findings(page: Page, p: Parts) -> None:
    home, t, memory = page.home, page.t, page.memory

    def show(place: str, here: dict[str, Any], view: str) -> tuple[Any, Any]:
        """The first row of a finding; the next one when its rows are being shown already."""
        rows = findings.positions(home, here["digest"], here["findings"][place]) if place in here["findings"] else []
        if not rows:
            return gr.skip(), gr.skip()
        before = here.get("of") or (None, -1, 0)
        which = (before[1] + 1) % len(rows) if before[0] == place else 0
        now = {**here, "at": rows[which], "of": (place, which, len(rows))}
        return now, row_view.row(home, t, now, view)

    def choose(code: str, here: dict[str, Any], remembered: dict[str, Any], view: str) -> dict[Any, Any]:
        """Leave the rows of a finding out, or use them again."""
        codes = [c for c in here["leave_out"] if c != code]
        codes += [] if code in here["leave_out"] else [code]
        remembered = draft.with_left_out(remembered, codes)
        now = {**here, "raw": _raw(home, remembered, here), "prepared": None, "of": None}
        return {memory: remembered, **_checked(home, t, p, now), p.row: row_view.row(home, t, now, view)}

    to_row = "() => document.getElementById('row').scrollIntoView({block: 'nearest'})"
    for place, (_, _, rows, choice) in p.board.places.items():
        shown = page.on(rows.click, functools.partial(show, place), [p.here, p.view], [p.here, p.row])
        shown.then(None, None, None, js=to_row, api_visibility="private")
        if place in findings.CODES:
            chosen = page.on(choice.click, functools.partial(choose, place), [p.here, memory, p.view], [memory, *p.checked, p.row])
            _wire_prepare(page, p, chosen)


# rows


def _wire_rows(page: Page, p: Parts) -> None:
    home, t = page.home, page.t

    def tick(here: dict[str, Any], view: str) -> dict[Any, Any]:
        job = runs.job(home, here["job"]) if here.get("job") else None
        if job is None:
            return {p.timer: gr.Timer(active=False)}
        if job["state"] in ("queued", "starting", "running"):
            return {p.timer: gr.skip()}
        if job["error"]:
            problem = gr.update(value=panel(t, job["error"]), visible=True)
            return {p.here: {**here, "job": None}, p.counts: "", p.timer: gr.Timer(active=False), p.token_problem: problem}
        now = {**here, "job": None, "prepared": runs.prepared(home, here["raw"])}
        shown = row_view.row(home, t, now, view) if view != "chat" or now["leave_out"] else gr.skip()
        calm = {p.timer: gr.Timer(active=False), p.token_problem: gr.update(visible=False)}
        return {p.counts: "", **_checked(home, t, p, now), p.row: shown, **calm}

    page.on(p.timer.tick, tick, [p.here, p.view], [*p.checked, p.row, p.timer, p.token_problem], clears=False, queue=False)

    def move(step: str, here: dict[str, Any], view: str) -> tuple[Any, Any]:
        last = here["kept"] - 1
        places = {
            "next": lambda: min(last, here["at"] + 1), "previous": lambda: max(0, here["at"] - 1),
            "random": lambda: random.randint(0, last), "stay": lambda: here["at"],
            "shortest": lambda: row_view.ends(home, here["digest"])[0], "longest": lambda: row_view.ends(home, here["digest"])[1],
        }  # fmt: skip
        now = {**here, "at": places[step](), "of": here.get("of") if step == "stay" else None}
        return now, row_view.row(home, t, now, view)

    for trigger, step in (
        (p.next.click, "next"), (p.previous.click, "previous"), (p.random.click, "random"),
        (p.shortest.click, "shortest"), (p.longest.click, "longest"), (p.view.input, "stay"),
    ):  # fmt: skip
        page.on(trigger, functools.partial(move, step), [p.here, p.view], [p.here, p.row])

    def first_row(here: dict[str, Any], *chosen: str) -> str:
        return report_card.first_row(t, here.get("first") or [], list(chosen))

    for box in p.roles:
        page.on(box.input, first_row, [p.here, *p.roles], p.first, clears=False)
