"""The Data page: bring rows, see what was found in them and what a model would learn from them, then go on to Train."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from lora_ui import data, errors
from lora_ui.data import sources
from lora_ui.ui import draft, findings, looking, reading, report_card, tokens, trust
from lora_ui.ui.data_parts import Parts
from lora_ui.ui.report_card import ROLES
from lora_ui.ui.shell import Page, esc, panel
from lora_ui.ui.words import Words


def build(page: Page) -> None:
    page.title()
    parts = Parts(page)
    _wire_sources(page, parts)
    _wire_trims(page, parts)
    _wire_change(page, parts)
    looking.wire(page, parts)


def _wire_sources(page: Page, p: Parts) -> None:
    home, t, memory = page.home, page.t, page.memory

    show = functools.partial(_show, page, p)

    def upload(files: list[tuple[str, str]], remembered: dict[str, Any]) -> Iterator[dict[Any, Any]]:
        stored = [data.store_upload(home, Path(path), name) for path, name in files]
        if stored:
            yield from show("\n".join(stored), {}, remembered, t("shell.comma").join(name for _, name in files))

    def pasted(text: str, remembered: dict[str, Any]) -> Iterator[dict[Any, Any]]:
        name = t("data.paste_name")
        yield from show(data.store_text(home, text, name), {}, remembered, name)

    def example(remembered: dict[str, Any]) -> Iterator[dict[Any, Any]]:
        yield from show("example", {}, remembered, t("data.example_name"))

    def from_hub(request: gr.Request, asked: str, remembered: dict[str, Any]) -> Iterator[dict[Any, Any]]:
        name = _hub_name(asked)
        yield from show(name, {}, remembered, name, tokens.of(request))

    def by_hand(request: gr.Request, here: dict[str, Any], remembered: dict[str, Any], *chosen: str) -> Iterator[dict[Any, Any]]:
        mapping = {role: column for role, column in zip(ROLES, chosen) if column and column.strip()}
        yield from show(here["source"], mapping, remembered, here["name"], tokens.of(request))

    def again(request: gr.Request, here: dict[str, Any], remembered: dict[str, Any]) -> Iterator[dict[Any, Any]]:
        data.forget_mapping(home, here["source"], tokens.of(request) or None)
        yield from show(here["source"], {}, remembered, here["name"], tokens.of(request))

    def opened(remembered: dict[str, Any]) -> Any:
        said = f'<p class="muted">{esc(t("data.reading", name=remembered.get("data_name") or ""))}</p>'
        return gr.update(value=said, visible=True) if remembered.get("source") else gr.skip()

    def remembered_source(request: gr.Request, remembered: dict[str, Any]) -> dict[Any, Any]:
        """No stream: its end would come together with a visitor's first click."""
        shown: Iterator[dict[Any, Any]] = iter(())
        if request.query_params.get("example"):
            shown = example(remembered)
        elif remembered.get("source"):
            mapping, name = remembered.get("mapping") or {}, remembered.get("data_name") or ""
            shown = show(remembered["source"], mapping, remembered, name, tokens.of(request))
        return functools.reduce(lambda _, later: later, shown, {p.status: gr.skip()})

    outputs = [*p.shown, memory]
    page.on(p.file.upload, upload, [p.file, memory], outputs)
    page.on(p.paste.click, pasted, [p.text, memory], outputs)
    page.on(p.example.click, example, memory, outputs)
    page.on(functools.partial(gr.on, [p.read.click, p.hub.submit]), from_hub, [p.hub, memory], outputs)
    page.on(p.map.click, by_hand, [p.here, memory, *p.roles], outputs)
    page.on(p.recognise.click, again, [p.here, memory], outputs)
    # outside the queue: when a queued event ends while a click starts another, Gradio's browser side can lose the click's answer
    begun = page.on(page.demo.load, opened, memory, p.status)
    page.on(begun.then, remembered_source, memory, outputs)
    page.on(p.halt.click, threading.Event.set, p.halting)


def _wire_trims(page: Page, p: Parts) -> None:
    def wire(code: str) -> None:
        def trim(request: gr.Request, here: dict[str, Any], remembered: dict[str, Any]) -> Iterator[dict[Any, Any]]:
            """Read again with the rows of a finding trimmed, or as they are in the file."""
            codes = [c for c in here["trim"] if c != code] + ([] if code in here["trim"] else [code])
            remembered = draft.with_chosen(remembered, trim=codes)
            yield from _show(page, p, here["source"], here["mapping"], remembered, here["name"], tokens.of(request), about=code)

        page.on(p.board.places[code][3].click, trim, [p.here, page.memory], [*p.shown, page.memory])

    for code in findings.TRIMS:
        wire(code)


def _show(
    page: Page, p: Parts, source: str, mapping: dict[str, str], remembered: dict[str, Any], name: str, token: str = "", about: str = ""
) -> Iterator[dict[Any, Any]]:
    """Read `source` and show it, with a bar while that takes long; or what stands in the way. `about`: the place of the finding whose
    first row is shown first."""
    t = page.t
    read, halt = functools.partial(_read, page, p, source, mapping, remembered, token or None, about), threading.Event()
    try:
        for said, made in reading.watched(t, name, read, halt):
            if made is None:
                hidden = {part: gr.update(visible=False) for part in (p.bring, p.there, p.columns, p.foot)}
                shown = {p.status: gr.update(value=said, visible=True), p.halt: gr.update(value=t("data.halt"), visible=True)}
                yield {**hidden, **shown, p.halting: halt}
            else:
                yield {**made, p.halt: gr.update(visible=False)}
    except reading.Halted:
        said = f'<p class="muted">{esc(t("data.halted"))}</p>'
        yield {**_cleared(page, p, remembered), p.status: gr.update(value=said, visible=True)}
    except errors.LoraUIError as error:
        yield {**_not_read(page, p, source, mapping, error, token or None), p.halt: gr.update(visible=False)}


def _clears(page: Page, p: Parts) -> list[Any]:
    return [p.bring, p.status, p.halt, p.there, p.columns, p.foot, p.token_problem, p.file, p.here, page.memory]


def _cleared(page: Page, p: Parts, remembered: dict[str, Any]) -> dict[Any, Any]:
    """The page before anything was brought."""
    kept = {k: v for k, v in draft.with_other_data(remembered).items() if k not in ("source", "mapping", "data_name")}
    hidden = {part: gr.update(visible=False) for part in _clears(page, p)[1:7]}
    return {**hidden, p.bring: gr.update(visible=True), p.file: None, p.here: {}, page.memory: kept}


def _wire_change(page: Page, p: Parts) -> None:
    change = functools.partial(_cleared, page, p)
    page.on(functools.partial(gr.on, [p.change.click, p.other.click]), change, page.memory, _clears(page, p))
    p.use.click(None, None, None, js="() => { location.href = '/train' }", api_visibility="private")


def _hub_name(asked: str) -> str:
    """owner/name of what was typed or pasted. The box takes nothing else, so that no path of this machine can be read with it."""
    name = sources.hub_name(asked)
    if name is None or Path(name).exists():
        raise errors.DataNotFound(name=asked.strip() or "?")
    return name


def _read(
    page: Page, p: Parts, source: str, mapping: dict[str, str], remembered: dict[str, Any], token: str | None, about: str, told: data.Told
) -> dict[Any, Any]:
    home, t = page.home, page.t
    source = trust.source(home, source)
    if remembered.get("source") != source:
        remembered = draft.with_other_data(remembered)
    found = data.load(home, source, mapping or None, token, told, looking.trims(home, remembered, source, mapping))
    peeked = data.peek(home, source, token)
    name, kept = found.name, found.report["kept"]
    here = {"source": source, "mapping": mapping, "name": name, "digest": found.digest, "kept": kept, "first": peeked["first"]}
    here = looking.asked(home, remembered, here)
    now = looking.known(here, {})
    return {
        p.bring: gr.update(visible=False),
        p.status: gr.update(visible=False),
        p.there: gr.update(visible=True),
        p.foot: gr.update(visible=True),
        p.token_problem: gr.update(visible=False),
        **{p.here: here, **looking.moved(home, t, p, now, looking.at(looking.first_of(home, now, about), now, "chat"))},
        **{**looking.checked(home, t, p, now), p.counts: ""},
        p.view: "chat",
        page.memory: {**remembered, "source": source, "mapping": mapping, "data_name": name},
        **_columns(t, p, peeked, found.report["mapping"] or {}, opened=False),
    }


def _not_read(page: Page, p: Parts, source: str, mapping: dict[str, str], error: errors.LoraUIError, token: str | None) -> dict[Any, Any]:
    """The problem, and where columns are the problem, the place to say which is which."""
    shown = {
        p.status: gr.update(value=panel(page.t, error), visible=True),
        p.there: gr.update(visible=False),
        p.foot: gr.update(visible=False),
    }
    if isinstance(error, (errors.ColumnsNotRecognised, errors.MissingColumns)):
        peeked = data.peek(page.home, source, token)
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
    chosen = [mapping.get(role, "") for role in ROLES]
    return {
        p.columns: gr.update(visible=bool(peeked["columns"]), open=opened),
        **{box: gr.update(choices=choices, value=value) for box, value in zip(p.roles, chosen)},
        # said again, because Gradio drops the words of a button that it updates before it was ever drawn
        p.map: gr.update(value=t("data.column_read"), variant="primary" if opened else "secondary"),
        p.other: gr.update(value=t("data.change"), visible=opened),
        p.first: report_card.first_row(t, peeked["first"], chosen),
    }
