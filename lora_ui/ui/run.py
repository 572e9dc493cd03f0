"""One run's page, `/runs?run=ID`: what is true now, its curves, log, settings, and what can be done with it.

Ticks read the disk and touch only what changed; what opens, scrolls or takes focus is never redrawn by them. The timer stops
itself when the run has ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pandas as pd

from lora_ui import errors, metrics, presets, runs, settings
from lora_ui.home import Home
from lora_ui.ui import browser, charts, run_cards, tokens
from lora_ui.ui.shell import Page, esc, html, panel
from lora_ui.ui.words import Words

SIDE_CURVES = {"learning_rate": ".0e", "grad_norm": ".2f", "tokens_per_second": ".0f"}
NEWS = """watch('value', () => { element.querySelector('p').textContent = props.value; });"""
NEWS_PLACE = '<p class="sr-only" role="status" aria-live="polite"></p>'

Run = dict[str, Any]


def build(page: Page) -> None:
    lost = html(visible=False)
    with gr.Column(visible=False, elem_classes="lu-run") as view:
        parts = _draw(page)
    parts.view, parts.lost = view, lost
    _wire(page, parts)
    _wire_log(page, parts)
    _wire_actions(page, parts)


def id_of(request: gr.Request) -> str:
    """The run of this page. Raises NoSuchJob without one."""
    id = request.query_params.get("run")
    if not id:
        raise errors.NoSuchJob(id="")
    return id


def _draw(page: Page) -> SimpleNamespace:
    t, p = page.t, SimpleNamespace()
    html(f'<p><a href="/runs">{esc(t("runs.back"))}</a></p>')
    p.head, p.facts, p.bar, p.phases, p.truth = (html() for _ in range(5))
    p.trouble, p.onward = html(visible=False), html(visible=False)
    p.token = gr.Textbox(
        label=t("ship.token"), info=t("runs.token_hint"), type="password", max_length=400, visible=False, elem_id="resume-token"
    )
    with gr.Row(elem_classes="lu-actions"):
        p.go_on = gr.Button(t("runs.continue"), visible=False, variant="primary", elem_id="continue")
        p.fix = gr.Button(t("runs.fix_memory"), visible=False, elem_id="fix")
        p.stop = gr.Button(t("runs.stop"), visible=False, variant="stop", elem_id="stop")
        p.stop_hint = html(f'<p class="muted">{esc(t("runs.stop_hint"))}</p>', visible=False)
    with gr.Column(elem_classes="card lu-chart"):
        with gr.Row(elem_classes="lu-headline"):
            p.legend = html()
            p.every = gr.Checkbox(False, label=t("runs.every_step"), container=False, visible=False, elem_id="every-step")
        p.plot = _plot(t, "loss", ".2f", 300)
        p.blank = html(f'<p class="muted">{esc(t("runs.no_points"))}</p>', elem_classes="lu-blank")
        html(f'<p class="muted">{esc(t("runs.loss_hint"))}</p>')
    with gr.Accordion(t("runs.fold.more_curves"), open=False, elem_id="fold-curves"):
        p.side = {}
        for name, form in SIDE_CURVES.items():
            html(f'<h3>{esc(t("runs.axis." + name))}</h3><p class="muted">{esc(t("runs.hint." + name))}</p>')
            p.side[name] = _plot(t, name, form, 200)
        p.side_blank = html(f'<p class="muted">{esc(t("runs.no_points"))}</p>')
    with gr.Accordion(t("runs.fold.numbers"), open=False, elem_id="fold-numbers") as p.numbers_fold:
        p.numbers = gr.Dataframe(interactive=False, max_height=320, show_label=False, wrap=True)
    with gr.Accordion(t("runs.fold.log"), open=False, elem_id="fold-log") as p.log_fold:
        p.log = gr.Textbox(
            label=t("runs.log_label"), lines=16, max_lines=16, interactive=False, buttons=["copy"], elem_id="log", elem_classes="lu-log"
        )
        p.log_download = gr.Button(t("runs.log_download"), size="sm", elem_id="download-log")
    with gr.Accordion(t("runs.fold.settings"), open=False, elem_id="fold-settings"):
        html(f"<h3>{esc(t('runs.decided'))}</h3>")
        p.decisions = html()
        html(f"<h3>{esc(t('runs.chosen'))}</h3>")
        p.settings = html()
    with gr.Accordion(t("runs.fold.more"), open=False, elem_id="fold-more"):
        _draw_actions(t, p)
    p.news = gr.HTML("", html_template=NEWS_PLACE, js_on_load=NEWS, apply_default_css=False)
    return p


def _plot(t: Words, name: str, form: str, height: int) -> gr.LinePlot:
    colours = {t(f"runs.curve.{key}"): charts.COLOURS[key] for key in (charts.TRAINING, charts.BASE, charts.HELD_OUT)}
    return gr.LinePlot(
        x=t("runs.axis.step"), y=t(f"runs.axis.{name}"), color=t("runs.axis.series"), color_map={**colours, t("runs.curve.training_raw"): charts.COLOURS[charts.TRAINING]},
        colors_in_legend=[], height=height, y_axis_format=form, x_axis_format=",~f", container=False, show_label=False, visible=False, elem_id=f"curve-{name.replace('_', '-')}",
    )  # fmt: skip


def _draw_actions(t: Words, p: SimpleNamespace) -> None:
    with gr.Row(elem_classes="lu-actions"):
        p.copy = gr.Button(t("runs.copy"), elem_id="copy-run")
        p.recipe = gr.Button(t("runs.recipe"), elem_id="recipe")
    with gr.Row(elem_classes="lu-actions"):
        p.name = gr.Textbox(label=t("runs.rename_label"), max_length=200, elem_id="name")
        p.rename = gr.Button(t("runs.rename"), elem_id="rename")
    p.delete = gr.Button(t("runs.delete"), elem_id="delete")
    p.delete_hint = html(f'<p class="muted">{esc(t("runs.delete_busy"))}</p>', visible=False)
    with gr.Group(visible=False, elem_classes="card") as p.confirm:
        p.question = html()
        with gr.Row(elem_classes="lu-actions"):
            p.keep = gr.Button(t("runs.keep"), elem_id="keep")
            p.trash = gr.Button(t("runs.to_trash"), variant="stop", elem_id="to-trash")


def _wire(page: Page, p: SimpleNamespace) -> None:
    t, home = page.t, page.home
    p.beat = gr.Timer(2, active=False)
    p.seen = gr.State({})
    texts = {
        name: getattr(p, name) for name in ("head", "facts", "bar", "phases", "truth", "trouble", "onward", "news", "decisions", "settings")
    }
    switches = {name: getattr(p, name) for name in ("token", "go_on", "fix", "stop", "stop_hint", "delete", "delete_hint")}
    outputs = [*texts.values(), *switches.values(), p.legend, p.every, p.plot, p.blank, *p.side.values(), p.side_blank, p.beat, p.seen]

    def read(request: gr.Request, seen: dict[str, Any], every_step: bool) -> dict[Any, Any]:
        run = runs.show(home, id_of(request))
        now: dict[str, Any] = {
            **_texts(t, run),
            **_switches(t, run),
            "curves": _curves_mark(run, every_step),
            "ticking": run["state"] not in run_cards.ENDED,
        }
        fresh = {name: value for name, value in now.items() if seen.get(name) != value}
        changed: dict[Any, Any] = {texts[name]: value for name, value in fresh.items() if name in texts}
        changed |= {texts[name]: gr.update(value=fresh[name], visible=bool(fresh[name])) for name in ("trouble", "onward") if name in fresh}
        changed |= {switches[name]: gr.update(**value) for name, value in fresh.items() if name in switches}
        if "curves" in fresh:
            changed |= _curves(t, p, run, runs.curves(home, run["id"]), every_step)
        if "ticking" in fresh:
            changed[p.beat] = gr.Timer(active=now["ticking"])
        return {**changed, p.seen: {**seen, **fresh}} if fresh else {p.seen: gr.skip()}

    def opened(request: gr.Request, seen: dict[str, Any], every_step: bool, memory: dict[str, Any]) -> dict[Any, Any]:
        if not request.query_params.get("run"):
            return {p.seen: gr.skip()}
        try:
            run = runs.show(home, id_of(request))
        except errors.NoSuchJob as e:
            return {p.lost: gr.update(value=panel(t, e, actions=[(t("runs.see_all"), "/runs")]), visible=True)}
        found = {p.view: gr.update(visible=True), p.name: run["name"], page.memory: {**memory, "run": run["id"]}}
        return {**read(request, {}, every_step), **found}

    state = [p.seen, p.every]
    page.on(page.demo.load, opened, [*state, page.memory], [*outputs, p.lost, p.view, p.name, page.memory])
    page.on(p.beat.tick, read, state, outputs, clears=False)
    page.on(p.every.change, read, state, outputs, clears=False)
    _wire_verbs(page, p, read, outputs)

    def numbers(request: gr.Request) -> pd.DataFrame:
        return _numbers(t, runs.curves(home, id_of(request)))

    page.on(p.numbers_fold.expand, numbers, None, p.numbers)


def _wire_verbs(page: Page, p: SimpleNamespace, read: Callable[..., Any], outputs: list[Any]) -> None:
    """Stop, go on, rename: each does it and shows what is true then."""
    home, state = page.home, [p.seen, p.every]

    def stop(request: gr.Request, seen: dict[str, Any], every_step: bool) -> dict[Any, Any]:
        runs.stop(home, id_of(request))
        return read(request, seen, every_step)

    page.on(p.stop.click, stop, state, outputs)

    def resume(request: gr.Request, token: str, seen: dict[str, Any], every_step: bool) -> dict[Any, Any]:
        runs.resume(home, id_of(request), tokens.of(request, token) or None)
        return read(request, seen, every_step)

    sent = page.on(p.go_on.click, resume, [p.token, *state], outputs)
    sent.then(lambda: "", None, p.token, queue=False, show_progress="hidden", api_visibility="private")  # whatever came of it

    def rename(request: gr.Request, name: str, seen: dict[str, Any], every_step: bool) -> dict[Any, Any]:
        row = runs.rename(home, id_of(request), name)
        return {**read(request, seen, every_step), p.name: row.name}

    page.on(p.rename.click, rename, [p.name, *state], [*outputs, p.name])
    page.on(p.name.submit, rename, [p.name, *state], [*outputs, p.name])


def _texts(t: Words, run: Run) -> dict[str, str]:
    busy = run["state"] not in run_cards.ENDED
    close = f'<p class="muted">{esc(t("runs.close"))}</p>' if busy else ""
    failed = run["error"] and run["state"] in ("failed", "interrupted", "stopped")
    report = "\n".join(str(run["error"].get(part) or "") for part in ("kind", "message", "cause", "traceback")) if failed else ""
    return {
        "head": run_cards.head(t, run),
        "facts": run_cards.facts(t, run),
        "bar": run_cards.progress(t, run),
        "phases": run_cards.phases(t, run),
        "truth": f'<p class="truth">{esc(run_cards.truth(t, run))}</p>{run_cards.went_on(t, run)}{close}',
        "trouble": panel(t, run["error"], safe=t("runs.safe"), report=report.strip()) if failed else "",
        "onward": run_cards.next_steps(t, run),
        "news": run_cards.news(t, run),
        "decisions": run_cards.decisions(t, run),
        "settings": run_cards.settings(t, run),
    }


def _switches(t: Words, run: Run) -> dict[str, dict[str, Any]]:
    """Which buttons are there. One is filled at most: the fix where we know one, else going on."""
    state = run["state"]
    busy = state not in run_cards.ENDED
    fix = FIXES.get((run["error"] or {}).get("kind", "")) if state in ("failed", "interrupted") else None
    go_on = {"visible": state in ("failed", "stopped", "interrupted"), "variant": "secondary" if fix else "primary"}
    return {
        "token": {"visible": go_on["visible"] and (run["error"] or {}).get("kind") in ASKS_FOR_TOKEN},
        "go_on": {**go_on, "value": t("runs.continue" if state in ("stopped", "interrupted") else "runs.resume")},
        "fix": {"visible": bool(fix), "variant": "primary", "value": t(fix[0]) if fix else ""},
        "stop": {"visible": busy and not run["stop_asked"], "value": t("runs.cancel" if state == "queued" else "runs.stop")},
        "stop_hint": {"visible": state in ("starting", "running") and not run["stop_asked"]},
        "delete": {"visible": not busy or state == "queued"},
        "delete_hint": {"visible": state in ("starting", "running")},
    }


ASKS_FOR_TOKEN = ("TokenMissing", "TokenRejected", "GatedModel", "ModelNotFound", "HubRefused")
"""Failures that another try with a Hub token can mend."""


def _less_memory(run: Run) -> dict[str, Any]:
    """The cheapest way to less memory: one row at once; if that is so already, rows half as long."""
    chosen, training = run["settings"], run["settings"]["training"]
    if training["per_device_train_batch_size"] != 1:
        return {**chosen, "training": {**training, "per_device_train_batch_size": 1}}
    length = training["max_length"] if isinstance(training["max_length"], int) else 1024
    return {**chosen, "training": {**training, "max_length": max(32, length // 2)}}


def _half_rate(run: Run) -> dict[str, Any]:
    """Half of the rate that failed: its worker wrote down what going on would take."""
    half = {"learning_rate": run["decisions"]["training.learning_rate"]["value"]}
    return {**run["settings"], "training": {**run["settings"]["training"], **half}}


FIXES = {
    "OutOfMemory": ("runs.fix_memory", _less_memory),
    "KilledForMemory": ("runs.fix_memory", _less_memory),
    "LossDiverged": ("runs.fix_rate", _half_rate),
}
"""Failures whose fix is a new run with other settings: the button's word, and those settings."""


def _curves_mark(run: Run, every_step: bool) -> tuple[Any, ...]:
    """Changes whenever a curve gets a point."""
    return run["step"], run["train_loss"]["last"], run["eval_loss"]["last"], run["total_steps"], every_step


def _curves(t: Words, p: SimpleNamespace, run: Run, points: dict[str, charts.Points], every_step: bool) -> dict[Any, Any]:
    end = charts.nice_end(run["total_steps"] or run["step"] or 1)
    series = charts.loss_series(points, run["eval_loss"]["base"], end, every_step)
    names = {key: t(f"runs.curve.{key}") for key in series}
    if every_step:
        names[charts.TRAINING] = t("runs.curve.training_raw")
    legend = charts.legend([(key, names[key], f"{values[-1][1]:.2f}") for key, values in series.items()])
    begun = bool(points["loss"])
    axes = {"x": t("runs.axis.step"), "which": t("runs.axis.series")}
    table = charts.frame(series, names, y=t("runs.axis.loss"), **axes)
    changed: dict[Any, Any] = {
        p.legend: legend if begun else "",
        p.every: gr.update(visible=begun),
        p.plot: gr.LinePlot(table, x_lim=[0, end], visible=begun),
        p.blank: gr.update(visible=not begun),
        p.side_blank: gr.update(visible=not begun),
    }
    for name, plot in p.side.items():
        one = {charts.TRAINING: points[name]}
        table = charts.frame(one, {charts.TRAINING: t("runs.curve.training_raw")}, y=t(f"runs.axis.{name}"), **axes)
        changed[plot] = gr.LinePlot(table, x_lim=[0, end], visible=bool(points[name]))
    return changed


def _numbers(t: Words, points: dict[str, charts.Points]) -> pd.DataFrame:
    """The curves as a table, for those who read rather than see."""
    columns = {"loss": "runs.curve.training_raw", "eval_loss": "runs.curve.held_out", "learning_rate": "runs.axis.learning_rate"}
    tables = [pd.Series(dict(metrics.thin(points[name])), name=t(word), dtype="float64") for name, word in columns.items()]
    table = pd.concat(tables, axis=1).sort_index()
    shown = table.map(lambda value: "" if math.isnan(value) else f"{value:.4g}")
    shown.insert(0, t("runs.axis.step"), [f"{step:g}" for step in table.index])
    return shown


def _wire_log(page: Page, p: SimpleNamespace) -> None:
    """The log is read only while its fold is open."""
    beat = gr.Timer(2, active=False)

    def read(request: gr.Request, shown: str) -> Any:
        text = runs.log(page.home, id_of(request)) or page.t("runs.log_empty")
        return gr.skip() if text == shown else text

    def unfold(request: gr.Request) -> Any:
        ended = runs.show(page.home, id_of(request))["state"] in run_cards.ENDED
        return runs.log(page.home, id_of(request)) or page.t("runs.log_empty"), gr.Timer(active=not ended)

    page.on(p.log_fold.expand, unfold, None, [p.log, beat])
    page.on(p.log_fold.collapse, lambda: gr.Timer(active=False), None, beat)
    page.on(beat.tick, read, p.log, p.log, clears=False)

    def file(request: gr.Request) -> Path:
        id = runs.show(page.home, id_of(request))["id"]
        target = browser.folder() / f"{id}-log.txt"
        target.write_text(runs.whole_log(page.home, id), "utf-8")
        return target

    browser.saves(page, p.log_download, file)


def _wire_actions(page: Page, p: SimpleNamespace) -> None:
    t, home, onward = page.t, page.home, browser.goes()

    def recipe(request: gr.Request) -> Path:
        run = runs.show(home, id_of(request))
        target = browser.folder() / f"{run['id']}.yaml"
        target.write_text(settings.write(settings.parse(run["settings"]), {"title": run["name"], "from": run["preset"]}), "utf-8")
        return target

    browser.saves(page, p.recipe, recipe)

    def copy(request: gr.Request, memory: dict[str, Any]) -> Any:
        run = runs.show(home, id_of(request))
        return _draft(home, memory, run, run["settings"]), "/train"

    def mend(request: gr.Request, memory: dict[str, Any]) -> Any:
        run = runs.show(home, id_of(request))
        if (fix := FIXES.get((run["error"] or {"kind": ""})["kind"])) is None:  # it went on since, from another tab
            raise errors.IllegalMove(id=run["id"], state=run["state"], wanted="mended", legal="failed")
        return _draft(home, memory, run, fix[1](run)), "/train"

    page.on(p.copy.click, copy, page.memory, [page.memory, onward])
    page.on(p.fix.click, mend, page.memory, [page.memory, onward])

    def ask(request: gr.Request) -> Any:
        run = runs.show(home, id_of(request))
        return gr.update(visible=True), f"<p>{esc(t('runs.delete_ask', name=run['name']))}</p>", gr.update(visible=False)

    def away(request: gr.Request) -> str:
        return f"/runs?moved={runs.delete(home, id_of(request)).id}"

    page.on(p.delete.click, ask, None, [p.confirm, p.question, p.delete])
    page.on(p.keep.click, lambda: (gr.update(visible=False), gr.update(visible=True)), None, [p.confirm, p.delete])
    page.on(p.trash.click, away, None, onward)


def _draft(home: Home, memory: dict[str, Any], run: Run, chosen: dict[str, Any]) -> dict[str, Any]:
    """The Train page's half-filled form: this run's preset and what differs from it."""
    try:
        usual = settings.parse(presets.get(home, run["preset"] or "").settings).model_dump()
    except errors.UnknownPreset:
        usual = {}
    changes = {
        group: {
            name: value
            for name, value in of_group.items()
            if usual.get(group, {}).get(name, of_group) != value and name not in ("source", "mapping")
        }
        for group, of_group in chosen.items()
    }
    data = {"source": chosen["data"]["source"], "mapping": chosen["data"]["mapping"]}
    return {**memory, **data, "preset": run["preset"] if usual else None, "settings": {group: of for group, of in changes.items() if of}}
