"""The Train page: a base model, a preset, a few plain fields, everything else folded; what will happen in sentences; Start.

Here events meet functions. What stands on the page is in train_parts.py, what follows an edit in following.py.
"""

from __future__ import annotations

import functools
import secrets
import threading
from collections.abc import Iterator
from typing import Any

import gradio as gr

from lora_ui import data, memory, methods, models, preflight, presets, runs, settings
from lora_ui.home import Home
from lora_ui.jobs import BUSY, WAITING
from lora_ui.ui import base_models, checking, draft, fitting, form, tokens, trust
from lora_ui.ui.draft import Draft
from lora_ui.ui.following import Edit, follow
from lora_ui.ui.shell import Page, esc, number
from lora_ui.ui.train_parts import Parts
from lora_ui.ui.words import Words

TO_WAYS = """() => {
  const ways = document.getElementById('ways');
  ways.scrollIntoView({block: 'center'});
  ways.querySelector('button')?.focus({preventScroll: true});
}"""


def build(page: Page) -> None:
    page.title()
    parts = Parts(page)
    _wire_opening(page, parts)
    _wire_edits(page, parts)
    _wire_presets(page, parts)
    _wire_models(page, parts)
    _wire_exact(page, parts)
    _wire_start(page, parts)


# opening


def _wire_opening(page: Page, p: Parts) -> None:
    home, t, memory = page.home, page.t, page.memory

    def opened(request: gr.Request, remembered: dict[str, Any], typed: str) -> dict[Any, Any]:
        token = tokens.of(request, typed)
        if not remembered.get("source"):
            return {p.empty: gr.update(visible=True), p.form: gr.update(visible=False)}
        rows = _kept(home, remembered, token)
        now = draft.of(home, remembered, rows)
        gpu = remembered.get("gpu") or ""
        followed = follow(t, p, home, Edit(now, rows, remembered.get("name") or "", token, gpu, None, {}))
        values = [*form.write(p.controls, now.raw), now.raw.get("model", {}).get("base_model", models.STARTER), gpu]
        boxes = {box: {**followed.pop(box, gr.update()), "value": value} for box, value in zip([*p.boxes, p.model, p.gpu], values)}
        return {
            p.empty: gr.update(visible=False),
            p.form: gr.update(visible=True),
            p.key: secrets.token_hex(8),
            p.name: remembered.get("name") or "",
            p.teaching: _teaching(t, remembered.get("data_name") or now.data["source"], rows),
            **boxes,
            **_facts(t, p, home, now, token),
            **followed,
            memory: {**remembered, "preset": now.preset.name},
        }

    outputs = [p.empty, p.form, p.key, p.name, p.teaching, p.facts, p.token, *p.edited, memory]
    page.on(page.demo.load, opened, [memory, p.token], outputs)

    def example(remembered: dict[str, Any]) -> dict[str, Any]:
        return {**remembered, "source": "example", "mapping": {}, "data_name": data.load(home, "example").name}

    used = page.on(p.example.click, example, memory, memory)
    page.on(used.then, opened, [memory, p.token], outputs)


def _kept(home: Home, remembered: dict[str, Any], token: str) -> int:
    """Rows that can be learned from. Raises what reading data raises."""
    raw = {"data": {"source": trust.source(home, remembered["source"]), "mapping": remembered.get("mapping") or {}}}
    return int(preflight.dataset(home, settings.parse(raw), token or None).report["kept"])


def _teaching(t: Words, name: str, rows: int) -> str:
    return f'<p class="lead">{esc(t("train.teaching", name=name, n=number(rows)))} <a href="/">{esc(t("train.change"))}</a></p>'


# base models


def _facts(t: Words, p: Parts, home: Home, now: Draft, token: str) -> dict[Any, Any]:
    """The line about the base model; the token field stands below it when its owner asks for a licence."""
    said, gated = base_models.facts(t, home, now.raw.get("model", {}), token)
    hint = "train.token_kept" if token else "train.token_hint"
    return {p.facts: said, p.token: gr.update(visible=gated or bool(token), info=t(hint))}


def _wire_models(page: Page, p: Parts) -> None:
    home, t = page.home, page.t

    def search(request: gr.Request, query: str, typed: str) -> Any:
        found = models.search(query, tokens.of(request, typed) or None)
        return gr.update(
            choices=fitting.model_choices(t, home, {}, found),
            visible=True,
            value=None,
            info=t("train.found_hint" if found else "train.found_none"),
        )

    for trigger in (p.search.click, p.query.submit):
        page.on(trigger, search, [p.query, p.token], p.found, at=p.search_problem)

    def take(name: str) -> Any:
        return name, gr.update(visible=False)

    taken = page.on(p.found.input, take, p.found, [p.model, p.found])
    page.on(taken.then, _edited(page, p), _inputs(page, p), _outputs(page, p))


# edits


def _inputs(page: Page, p: Parts) -> list[Any]:
    return [page.memory, p.waiting, p.drawn, p.preset, p.model, p.name, p.token, p.gpu, *p.boxes]


def _outputs(page: Page, p: Parts) -> list[Any]:
    return [page.memory, p.facts, p.token, *p.edited]


def _now(home: Home, p: Parts, remembered: dict[str, Any], preset: str, model: str, values: tuple[Any, ...]) -> Draft:
    """The draft as the form shows it."""
    chosen = presets.get(home, preset)
    raw = settings.merge(form.read(p.controls, list(values)), {"model": {"base_model": (model or "").strip()}})
    changes = settings.merge(form.changes(raw, chosen.settings), draft.left_out(remembered))
    source = trust.source(home, remembered["source"]) if remembered.get("source") else ""
    return Draft(chosen, changes, {"source": source, "mapping": remembered.get("mapping") or {}})


def _edited(page: Page, p: Parts) -> Any:
    home, t = page.home, page.t

    def edited(
        request: gr.Request,
        remembered: dict[str, Any],
        waiting: Any,
        drawn: dict[str, Any],
        preset: str,
        model: str,
        name: str,
        typed: str,
        gpu: str,
        *values: Any,
    ) -> dict[Any, Any]:
        token = tokens.of(request, typed)
        now = _now(home, p, remembered, preset, model, values)
        before = (remembered.get("settings") or {}).get("model", {}), remembered.get("preset")
        same_model = before == (now.changes.get("model", {}), preset)
        return {
            page.memory: {**remembered, "preset": preset, "settings": now.changes, "name": name, "gpu": gpu},
            **({} if same_model and not token else _facts(t, p, home, now, token)),
            **follow(t, p, home, Edit(now, _kept(home, remembered, token), name, token, gpu, waiting, drawn)),
        }

    return edited


def _wire_edits(page: Page, p: Parts) -> None:
    home = page.home
    edited = _edited(page, p)
    for trigger, kept in ((p.token.input, tokens.keep), (p.token.blur, tokens.add)):
        done = page.on(trigger, kept, p.token, None, trigger_mode="always_last")
        page.on(done.then, edited, _inputs(page, p), _outputs(page, p))
    boxes = (p.model, p.name, p.gpu, *p.boxes)
    # typing, and leaving a text box: what a browser fills in by itself is no typing. One event for all, so that an older answer never comes last
    moments = [*(box.input for box in boxes), *(box.blur for box in boxes if isinstance(box, gr.Textbox))]
    page.on(functools.partial(gr.on, moments), edited, _inputs(page, p), _outputs(page, p), trigger_mode="always_last")

    for control in p.controls:
        if control.field.kind in ("integer", "number") and isinstance(control.box, gr.Textbox):
            page.on(control.box.blur, functools.partial(form.tidy, control.field), control.box, control.box, clears=False)

    def counted(request: gr.Request, *inputs: Any) -> dict[Any, Any]:
        if inputs[1] and runs.job(home, inputs[1])["state"] in (*WAITING, *BUSY):
            return {p.waiting: gr.skip()}
        return edited(request, *inputs)

    page.on(p.timer.tick, counted, _inputs(page, p), _outputs(page, p), clears=False)

    def undo(preset: str, event: gr.EventData) -> dict[Any, Any]:
        """One field back to the preset."""
        control = next(c for c in p.controls if c.field.key == event.key)
        values = form.full(presets.get(home, preset).settings)
        return {control.box: form.to_box(control.field, values[control.field.group][control.field.name])}

    undone = page.on(p.changed.undo, undo, p.preset, p.boxes)
    page.on(undone.then, edited, _inputs(page, p), _outputs(page, p))

    def take(which: int, offered: list[dict[str, Any]], model: str, *values: Any) -> dict[Any, Any]:
        """One of the ways to make it fit."""
        raw = settings.merge(form.read(p.controls, list(values)), offered[which])
        return {p.model: raw["model"].get("base_model", model), **dict(zip(p.boxes, form.write(p.controls, raw)))}

    for which, button in enumerate(p.ways):
        taken = page.on(button.click, functools.partial(take, which), [p.offered, p.model, *p.boxes], [p.model, *p.boxes])
        page.on(taken.then, edited, _inputs(page, p), _outputs(page, p))

    def adapt(key: str, preset: str, *values: Any) -> dict[Any, Any]:
        """Everything that makes it this method."""
        raw = methods.choose(key, form.read(p.controls, list(values)), form.full(presets.get(home, preset).settings))
        return dict(zip(p.boxes, form.write(p.controls, raw)))

    adapted = page.on(p.method.input, adapt, [p.method, p.preset, *p.boxes], p.boxes)
    page.on(adapted.then, edited, _inputs(page, p), _outputs(page, p))

    def mend(change: dict[str, Any], *values: Any) -> dict[Any, Any]:
        raw = settings.merge(form.read(p.controls, list(values)), change)
        return dict(zip(p.boxes, form.write(p.controls, raw)))

    mended = page.on(p.mend.click, mend, [p.mending, *p.boxes], p.boxes)
    page.on(mended.then, edited, _inputs(page, p), _outputs(page, p))
    p.see.click(None, None, None, js=TO_WAYS)


def _wire_presets(page: Page, p: Parts) -> None:
    home, t, memory = page.home, page.t, page.memory
    edited = _edited(page, p)

    def choose(remembered: dict[str, Any], preset: str) -> dict[Any, Any]:
        """A preset replaces what the form says, but for the base model, which is chosen beside it, and the rows left out."""
        model = (remembered.get("settings") or {}).get("model", {}).get("base_model")
        kept = settings.merge({"model": {"base_model": model}} if model else {}, draft.left_out(remembered))
        fresh = settings.merge(presets.get(home, preset).settings, kept)
        return {memory: {**remembered, "preset": preset, "settings": kept}, **dict(zip(p.boxes, form.write(p.controls, fresh)))}

    for trigger in (p.preset.input, p.reset.click):
        chosen = page.on(trigger, choose, [memory, p.preset], [memory, *p.boxes])
        page.on(chosen.then, edited, _inputs(page, p), _outputs(page, p))

    everything = page.on(p.more.click, lambda drawn: {**drawn, "everything": True}, p.drawn, p.drawn)
    page.on(everything.then, edited, _inputs(page, p), _outputs(page, p))

    def save(request: gr.Request, remembered: dict[str, Any], title: str) -> dict[Any, Any]:
        rows = _kept(home, remembered, tokens.of(request))
        raw = {group: values for group, values in draft.of(home, remembered, rows).raw.items() if group != "data"}
        made = presets.save(home, title, raw)
        gr.Info(t("train.preset_saved", name=made.title))
        choice = gr.update(choices=[(made.title, made.name)], value=made.name)
        return {memory: {**remembered, "preset": made.name, "settings": draft.left_out(remembered)}, p.preset_title: "", p.preset: choice}

    saved = page.on(p.save.click, save, [memory, p.preset_title], [memory, p.preset_title, p.preset])
    page.on(saved.then, edited, _inputs(page, p), _outputs(page, p))


# memory, exactly


def _wire_exact(page: Page, p: Parts) -> None:
    home, t = page.home, page.t

    def check(
        request: gr.Request, remembered: dict[str, Any], preset: str, model: str, typed: str, gpu: str, *values: Any
    ) -> Iterator[dict[Any, Any]]:
        raw, halt = _now(home, p, remembered, preset, model, values).raw, threading.Event()
        over = {p.check: gr.update(visible=True), p.exact_stop: gr.update(visible=False)}
        try:
            for said in checking.watched(t, home, raw, tokens.of(request, typed) or None, memory.read_size(gpu), halt):
                yield {p.exact: said, p.checking: halt, p.check: gr.update(visible=False), p.exact_stop: gr.update(visible=True)}
        except Exception:
            yield {**over, p.exact: ""}
            raise
        yield over

    asked = [page.memory, p.preset, p.model, p.token, p.gpu, *p.boxes]
    page.on(p.check.click, check, asked, [p.exact, p.checking, p.check, p.exact_stop], at=p.exact_problem)
    page.on(p.exact_stop.click, threading.Event.set, p.checking)


# start


def _wire_start(page: Page, p: Parts) -> None:
    home, t, memory = page.home, page.t, page.memory

    def go(
        request: gr.Request, remembered: dict[str, Any], key: str, preset: str, model: str, name: str, typed: str, *values: Any
    ) -> tuple[Any, ...]:
        now = _now(home, p, remembered, preset, model, values)
        job = runs.start(home, now.raw, key, name=name.strip(), preset=preset, token=tokens.of(request, typed) or None)
        return {**remembered, "run": job.id, "name": ""}, secrets.token_hex(8), f"/runs?run={job.id}"

    p.start.click(
        lambda: gr.update(value=t("train.starting")), None, p.start, queue=False, show_progress="hidden", api_visibility="private"
    )
    asked = [memory, p.key, p.preset, p.model, p.name, p.token, *p.boxes]
    started = page.on(functools.partial(gr.on, [p.start.click, p.anyway.click]), go, asked, [memory, p.key, p.onward])
    page.on(started.then, lambda: gr.update(value=t("train.start")), None, p.start, clears=False)
