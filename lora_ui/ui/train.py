"""The Train page: a base model, a preset, a few plain fields, everything else folded; what will happen in sentences; Start."""

from __future__ import annotations

import functools
import secrets
from typing import Any

import gradio as gr

from lora_ui import data, errors, models, preflight, presets, runs, settings
from lora_ui.home import Home
from lora_ui.ui import base_models, browser, draft, form, plan_card, trust
from lora_ui.ui.draft import Draft
from lora_ui.ui.shell import Page, esc, html, number, panel
from lora_ui.ui.words import Words

FIRST = 3
"""Presets shown before "more"."""


class Parts:
    """The page's components. `memory` is read and written by every edit, so that a half-filled form survives."""

    def __init__(self, page: Page):
        t = page.t
        with gr.Column(visible=False, elem_classes="lu-stack") as self.empty:
            html(f'<p class="lead">{esc(t("train.no_data"))}</p>')
            with gr.Row(elem_classes="lu-line"):
                self.example = gr.Button(t("train.use_example"), variant="primary", scale=0, min_width=200, elem_id="use-example")
                html(f'<a class="button" href="/">{esc(t("train.go_data"))}</a>')
        with gr.Row(visible=False, elem_classes="lu-split") as self.form:
            with gr.Column(scale=3, elem_classes="lu-stack", min_width=320):
                self._draw_form(t)
            with gr.Column(scale=2, elem_classes="lu-aside", min_width=320):
                self._draw_plan(t)
        self.key = gr.State("")
        self.waiting = gr.State(None)
        self.timer = gr.Timer(1.5, active=False)
        self.onward = browser.goes()

    def _draw_form(self, t: Words) -> None:
        self.teaching = html()
        with gr.Column(elem_classes="lu-card"):
            html(f"<h2>{esc(t('train.model'))}</h2>")
            self.model = gr.Dropdown(
                [], label=t("train.model_box"), info=t("train.model_hint"), allow_custom_value=True, filterable=True, elem_id="base-model"
            )
            self.facts = html()
            self.token = gr.Textbox(label=t("train.token"), info=t("train.token_hint"), type="password", visible=False, elem_id="hub-token")
            with gr.Accordion(t("train.search"), open=False):
                with gr.Row(elem_classes="lu-line"):
                    self.query = gr.Textbox(label=t("train.search_box"), max_lines=1, scale=3)
                    self.search = gr.Button(t("train.search_go"), scale=0, min_width=120)
                self.found = gr.Radio([], label=t("train.found"), info=t("train.found_hint"), visible=False)
                self.search_problem = html(visible=False)
        with gr.Column(elem_classes="lu-card"):
            html(f"<h2>{esc(t('train.preset'))}</h2>")
            self.preset = gr.Radio(
                [], label=t("train.preset_box"), info=t("train.preset_hint"), elem_classes="lu-presets", elem_id="preset"
            )
            self.more = gr.Button(visible=False, size="sm", min_width=160)
        with gr.Column(elem_classes="lu-card"):
            html(f"<h2>{esc(t('train.adjust'))}</h2>")
            with gr.Row(elem_classes="lu-fields"):
                self.controls = form.draw(t, form.PLAIN)
                self.name = gr.Textbox(
                    label=t("train.run_name"), info=t("train.run_name_hint"), max_lines=1, elem_id="run-name", min_width=280
                )
        with gr.Accordion(t("train.expert", n=0), open=False, elem_id="expert") as self.expert:
            with gr.Row(elem_classes="lu-line"):
                gr.Textbox(label=t("train.find"), placeholder=t("train.find_hint"), max_lines=1, elem_id="find-setting", scale=3)
                self.reset = gr.Button(t("train.reset"), scale=0, min_width=180)
            self.controls += form.draw(t)

    def _draw_plan(self, t: Words) -> None:
        with gr.Column(elem_classes="lu-card"):
            html(f"<h2>{esc(t('train.will'))}</h2>")
            self.plan = html(elem_id="plan")
            self.changed = html()
            self.start = gr.Button(t("train.start"), variant="primary", elem_id="start")
            html(f'<p class="muted">{esc(t("train.goes_on"))}</p>')
        with gr.Accordion(t("train.why"), open=False):
            self.why = html()
        with gr.Accordion(t("train.command"), open=False):
            self.command = gr.Code(
                label=t("train.command_box"), language="shell", interactive=False, buttons=["copy"], wrap_lines=True, lines=3, max_lines=12
            )
        with gr.Accordion(t("train.save_preset"), open=False), gr.Row(elem_classes="lu-line"):
            self.preset_title = gr.Textbox(label=t("train.save_preset_name"), max_lines=1, scale=3)
            self.save = gr.Button(t("train.save_preset_go"), scale=0, min_width=120)

    @property
    def boxes(self) -> list[Any]:
        return [control.box for control in self.controls]

    @property
    def edited(self) -> list[Any]:
        """What follows every edit."""
        return [self.plan, self.changed, self.start, self.why, self.command, self.expert, self.waiting, self.timer, *self._automatic]

    @property
    def _automatic(self) -> list[Any]:
        return [c.box for c in self.controls if c.field.auto and c.field.kind in ("integer", "number")]


def build(page: Page) -> None:
    page.title()
    parts = Parts(page)
    _wire_opening(page, parts)
    _wire_edits(page, parts)
    _wire_models(page, parts)
    _wire_start(page, parts)


# opening


def _wire_opening(page: Page, p: Parts) -> None:
    home, t, memory = page.home, page.t, page.memory

    def opened(remembered: dict[str, Any], token: str) -> dict[Any, Any]:
        if not remembered.get("source"):
            return {p.empty: gr.update(visible=True), p.form: gr.update(visible=False)}
        rows = _kept(home, remembered)
        now = draft.of(home, remembered, rows)
        followed = _follow(t, p, home, now, remembered.get("name") or "", token, None)
        boxes = {box: {**followed.pop(box, gr.update()), "value": value} for box, value in zip(p.boxes, form.write(p.controls, now.raw))}
        return {
            p.empty: gr.update(visible=False),
            p.form: gr.update(visible=True),
            p.key: secrets.token_hex(8),
            p.name: remembered.get("name") or "",
            p.teaching: _teaching(t, remembered.get("data_name") or now.data["source"], rows),
            p.model: gr.update(choices=base_models.choices(t, home), value=now.raw.get("model", {}).get("base_model", models.STARTER)),
            **_preset_boxes(t, p, home, rows, now, everything=False),
            **boxes,
            **_facts(t, p, home, now, token),
            **followed,
            memory: {**remembered, "preset": now.preset.name},
        }

    outputs = [
        p.empty,
        p.form,
        p.key,
        p.name,
        p.teaching,
        p.model,
        p.preset,
        p.more,
        *p.boxes,
        p.facts,
        p.token,
        *_but(p.edited, p.boxes),
        memory,
    ]
    page.on(page.demo.load, opened, [memory, p.token], outputs)

    def example(remembered: dict[str, Any]) -> dict[str, Any]:
        return {**remembered, "source": "example", "mapping": {}, "data_name": data.load(home, "example").name}

    used = page.on(p.example.click, example, memory, memory)
    page.on(used.then, opened, [memory, p.token], outputs)


def _but(some: list[Any], others: list[Any]) -> list[Any]:
    return [part for part in some if part not in others]


def _kept(home: Home, remembered: dict[str, Any]) -> int:
    """Rows that can be learned from. Raises what reading data raises."""
    raw = {"data": {"source": trust.source(home, remembered["source"]), "mapping": remembered.get("mapping") or {}}}
    return int(preflight.dataset(home, settings.parse(raw)).report["kept"])


def _teaching(t: Words, name: str, rows: int) -> str:
    return f'<p class="lead">{esc(t("train.teaching", name=name, n=number(rows)))} <a href="/">{esc(t("train.change"))}</a></p>'


def _preset_boxes(t: Words, p: Parts, home: Home, rows: int, now: Draft, everything: bool) -> dict[Any, Any]:
    """The presets that suit best, or all of them; the chosen one is always among them."""
    found = draft.suggested(home, rows)
    shown = [pair for i, pair in enumerate(found) if everything or i < FIRST or pair[0].name == now.preset.name]
    choices = [("\n".join([*filter(None, t.preset(preset)), _sentence(t, t.say(reason))]), preset.name) for preset, reason in shown]
    more = len(found) - len(shown)
    return {
        p.preset: gr.update(choices=choices, value=now.preset.name),
        p.more: gr.update(value=t("train.more_presets", n=more), visible=more > 0),
    }


def _sentence(t: Words, words: str) -> str:
    return words[:1].upper() + words[1:] + t("shell.stop")


# base models


def _facts(t: Words, p: Parts, home: Home, now: Draft, token: str) -> dict[Any, Any]:
    """The line about the base model; the token field stands below it when its owner asks for a licence."""
    said, gated = base_models.facts(t, home, now.raw.get("model", {}), token)
    return {p.facts: said, p.token: gr.update(visible=gated or bool(token))}


def _wire_models(page: Page, p: Parts) -> None:
    home, t = page.home, page.t

    def search(query: str, token: str) -> Any:
        found = models.search(query, token or None)
        return gr.update(
            choices=base_models.choices(t, home, found),
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
    return [page.memory, p.waiting, p.preset, p.model, p.name, p.token, *p.boxes]


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

    def edited(remembered: dict[str, Any], waiting: Any, preset: str, model: str, name: str, token: str, *values: Any) -> dict[Any, Any]:
        now = _now(home, p, remembered, preset, model, values)
        before = (remembered.get("settings") or {}).get("model", {}), remembered.get("preset")
        same_model = before == (now.changes.get("model", {}), preset)
        return {
            page.memory: {**remembered, "preset": preset, "settings": now.changes, "name": name},
            **({} if same_model and not token else _facts(t, p, home, now, token)),
            **_follow(t, p, home, now, name, token, waiting),
        }

    return edited


def _wire_edits(page: Page, p: Parts) -> None:
    home, t, memory = page.home, page.t, page.memory
    edited = _edited(page, p)
    for box in (p.model, p.name, p.token, *p.boxes):
        # typing, and leaving a text box: what a browser fills in by itself is no typing
        trigger = functools.partial(gr.on, [box.input, box.blur]) if isinstance(box, gr.Textbox) else box.input
        page.on(trigger, edited, _inputs(page, p), _outputs(page, p), trigger_mode="always_last")

    def choose(remembered: dict[str, Any], preset: str) -> dict[Any, Any]:
        """A preset replaces what the form says, but for the base model, which is chosen beside it, and the rows left out."""
        model = (remembered.get("settings") or {}).get("model", {}).get("base_model")
        kept = settings.merge({"model": {"base_model": model}} if model else {}, draft.left_out(remembered))
        fresh = settings.merge(presets.get(home, preset).settings, kept)
        return {memory: {**remembered, "preset": preset, "settings": kept}, **dict(zip(p.boxes, form.write(p.controls, fresh)))}

    for trigger in (p.preset.input, p.reset.click):
        chosen = page.on(trigger, choose, [memory, p.preset], [memory, *p.boxes])
        page.on(chosen.then, edited, _inputs(page, p), _outputs(page, p))

    def everything(remembered: dict[str, Any]) -> dict[Any, Any]:
        rows = _kept(home, remembered)
        return _preset_boxes(t, p, home, rows, draft.of(home, remembered, rows), everything=True)

    page.on(p.more.click, everything, memory, [p.preset, p.more])

    def counted(*inputs: Any) -> dict[Any, Any]:
        if inputs[1] and runs.job(home, inputs[1])["state"] in ("queued", "starting", "running"):
            return {p.waiting: gr.skip()}
        return edited(*inputs)

    page.on(p.timer.tick, counted, _inputs(page, p), _outputs(page, p), clears=False, queue=False)

    def save(remembered: dict[str, Any], title: str) -> dict[Any, Any]:
        rows = _kept(home, remembered)
        raw = {group: values for group, values in draft.of(home, remembered, rows).raw.items() if group != "data"}
        made = presets.save(home, title, raw)
        gr.Info(t("train.preset_saved", name=made.title))
        fresh = {**remembered, "preset": made.name, "settings": draft.left_out(remembered)}
        now = draft.of(home, fresh, rows)
        return {
            memory: fresh,
            p.preset_title: "",
            **_preset_boxes(t, p, home, rows, now, everything=False),
        }

    saved = page.on(p.save.click, save, [memory, p.preset_title], [memory, p.preset_title, p.preset, p.more])
    page.on(saved.then, edited, _inputs(page, p), _outputs(page, p))


def _follow(t: Words, p: Parts, home: Home, now: Draft, name: str, token: str, waiting: str | None) -> dict[Any, Any]:
    """Everything that follows an edit: the sentences, the count of changes, the command, and the token count where it is missing."""
    keys = {f"{group}.{field}" for group, values in now.changes.items() for field in values}
    changed = len(keys - {*form.PLAIN, *form.ELSEWHERE})
    shown = {
        p.changed: plan_card.changed(t, now.changes),
        p.expert: gr.update(label=t("train.expert", n=changed)),
        p.command: draft.command(home, now, name),
    }
    try:
        plan = runs.plan(home, now.raw, token or None)
        job = _count_tokens(home, now, plan, waiting)
    except errors.LoraUIError as error:
        blocked = gr.update(value=t("train.start_blocked"), interactive=False)
        return {**shown, p.plan: panel(t, error), p.start: blocked, p.waiting: None, p.timer: gr.Timer(active=False)}
    ready = gr.update(value=t("train.start_blocked" if plan["findings"] else "train.start"), interactive=not plan["findings"])
    automatic = {c.box: gr.update(placeholder=_decided(t, plan, c.field.key)) for c in p.controls if c.box in p._automatic}
    return {
        **shown,
        p.plan: plan_card.sentences(t, plan, settings.parse(now.raw).training.max_length),
        p.start: ready,
        p.why: plan_card.decisions(t, plan),
        p.waiting: job,
        p.timer: gr.Timer(active=job is not None),
        **automatic,
    }


def _decided(t: Words, plan: dict[str, Any], key: str) -> str:
    decided = plan["decisions"].get(key)
    return t("form.auto_is", value=plan_card.shown(t, decided["value"])) if decided and decided["value"] is not None else t("form.auto")


def _count_tokens(home: Home, now: Draft, plan: dict[str, Any], waiting: str | None) -> str | None:
    """The job that counts tokens, where the plan lacks them and the model needs no large download for it; its elder is stopped."""
    model = settings.parse(now.raw).model
    known = models.known(home, model.base_model, model.revision)
    if plan["tokens"] is not None or known is None or not (known.local or known.kind == models.STARTER):
        return None
    job = runs.prepare(home, now.raw)
    if waiting and waiting != job.id and runs.job(home, waiting)["state"] in ("queued", "starting", "running"):
        runs.stop(home, waiting)
    return job.id if job.state in ("queued", "starting", "running") else None


# start


def _wire_start(page: Page, p: Parts) -> None:
    home, t, memory = page.home, page.t, page.memory

    def go(remembered: dict[str, Any], key: str, preset: str, model: str, name: str, token: str, *values: Any) -> tuple[Any, ...]:
        now = _now(home, p, remembered, preset, model, values)
        job = runs.start(home, now.raw, key, name=name.strip(), preset=preset, token=token or None)
        return {**remembered, "run": job.id, "name": ""}, secrets.token_hex(8), f"/runs?run={job.id}"

    p.start.click(
        lambda: gr.update(value=t("train.starting")), None, p.start, queue=False, show_progress="hidden", api_visibility="private"
    )
    started = page.on(p.start.click, go, [memory, p.key, p.preset, p.model, p.name, p.token, *p.boxes], [memory, p.key, p.onward])
    page.on(started.then, lambda: gr.update(value=t("train.start")), None, p.start, clears=False)
