"""What follows an edit on the Train page: the plan in sentences, lists with time and fit, ways to make it fit, marks on the fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gradio as gr

from lora_ui import errors, memory, methods, models, runs, settings
from lora_ui.home import Home
from lora_ui.jobs import BUSY, WAITING
from lora_ui.ui import draft, fitting, form, learn, plan_card
from lora_ui.ui.draft import Draft
from lora_ui.ui.shell import esc, panel
from lora_ui.ui.train_parts import Parts
from lora_ui.ui.words import Words


@dataclass(frozen=True)
class Edit:
    """The form at one moment."""

    now: Draft
    rows: int
    name: str
    token: str
    gpu: str
    """A memory size as typed; empty: this machine."""
    waiting: str | None
    """The job that counts tokens."""
    drawn: dict[str, Any]
    """What was last drawn: `presets`, `models`, `marks`, and whether `everything` of the presets is shown."""

    @property
    def size(self) -> int | None:
        return memory.read_size(self.gpu)


def follow(t: Words, p: Parts, home: Home, edit: Edit) -> dict[Any, Any]:
    now = edit.now
    lists, drawn = _lists(t, p, home, edit)
    shown = {
        **lists,
        p.changed: plan_card.changed(t, now),
        p.expert: gr.update(label=t("train.expert", n=_expert_changes(now))),
        p.command: draft.command(home, now, edit.name),
    }
    try:
        plan = runs.plan(home, now.raw, edit.token or None, edit.size)
        job = _count_tokens(home, now, plan, edit.waiting)
    except errors.LoraUIError as error:
        blocked = gr.update(value=t("train.start_blocked"), interactive=False, visible=True)
        silent = {
            p.mend: gr.update(visible=False),
            p.see: gr.update(visible=False),
            p.short: gr.update(visible=False),
            p.items: "",
            p.learn: "",
            p.offered: [],
        }
        quiet = {p.waiting: None, p.timer: gr.Timer(active=False), p.drawn: drawn}
        return {**shown, **silent, **quiet, p.plan: panel(t, error), p.start: blocked}
    about, drawn["method"] = _method(t, p, plan, edit.drawn.get("method"))
    marks, drawn["marks"] = _marks(t, p, now, plan, edit.drawn.get("marks", {}))
    wrong_size = bool(edit.gpu.strip()) and edit.size is None
    return {
        **shown,
        **_start(t, p, plan),
        **_mend(t, p, plan),
        **about,
        p.plan: plan_card.sentences(t, plan, settings.parse(now.raw).training.max_length, elsewhere=edit.size is not None),
        p.items: fitting.items(t, plan),
        p.exact: "",
        p.gpu: gr.update(info=t("fit.another_wrong" if wrong_size else "fit.another_hint")),
        p.why: plan_card.decisions(t, plan),
        p.learn: _lesson(t, home, now, plan),
        p.waiting: job,
        p.timer: gr.Timer(active=job is not None),
        p.drawn: drawn,
        **marks,
    }


def _lesson(t: Words, home: Home, now: Draft, plan: dict[str, Any]) -> str:
    chosen = settings.parse(now.raw)
    return learn.panel(t, models.known(home, chosen.model.base_model, chosen.model.revision), chosen, plan)


def _expert_changes(now: Draft) -> int:
    keys = {f"{group}.{field}" for group, values in now.changes.items() for field in values}
    return len(keys - {*form.PLAIN, *form.ELSEWHERE})


def _method(t: Words, p: Parts, plan: dict[str, Any], before: str | None) -> tuple[dict[Any, Any], str]:
    """(the choice and the lines about it, where they are not drawn yet; its key): the form may have been changed field by field."""
    key = plan["methods"][-1]
    if key == before:
        return {}, key
    method = methods.all_methods()[key]
    _, _, does, trades, pick = t.method(method)
    paper = f' <a href="{method.link}" target="_blank" rel="noopener">{esc(t("train.method_paper"))}</a>' if method.link else ""
    said = f'<p>{esc(does)} {esc(trades)}</p><p class="muted">{esc(t("train.method_pick", pick=pick))}{paper}</p>'
    return {p.method: gr.update(value=key), p.about: said}, key


def _mend(t: Words, p: Parts, plan: dict[str, Any]) -> dict[Any, Any]:
    """A button for what stands in the way and can be changed by one click."""
    found = next((one["values"] for one in plan["findings"] if one["values"].get("change")), None)
    if found is None:
        return {p.mend: gr.update(visible=False)}
    return {p.mend: gr.update(value=t.say(found["instead"]), visible=True), p.mending: found["change"]}


def _start(t: Words, p: Parts, plan: dict[str, Any]) -> dict[Any, Any]:
    """Start, or where it does not fit the way to the ways."""
    short, blocked = plan["memory"] is not None and plan["memory"]["verdict"] == "no", bool(plan["findings"])
    label = t("train.start_blocked" if blocked else "train.start")
    offered = plan["memory"]["ways"][: len(p.ways)] if short else []
    see = t("fit.see", n=len(offered)) if offered else t("fit.see_none")
    buttons = {
        button: gr.update(value=fitting.way(t, offered[i]), visible=True) if i < len(offered) else gr.update(visible=False)
        for i, button in enumerate(p.ways)
    }
    return {
        p.start: gr.update(value=label, interactive=not blocked, visible=blocked or not short),
        p.see: gr.update(value=see, visible=short and not blocked),
        p.anyway: gr.update(visible=not blocked),
        p.short: gr.update(visible=short),
        p.short_of: fitting.missing(t, plan) if short else "",
        p.offered: [one["change"] for one in offered],
        **buttons,
    }


def _lists(t: Words, p: Parts, home: Home, edit: Edit) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Presets and base models with time and fit, where they differ from what was drawn."""
    now, drawn = edit.now, dict(edit.drawn)
    found = [preset for preset, _ in draft.suggested(home, edit.rows)]
    glances = fitting.glances(home, now, found, edit.token, edit.size)
    presets, more, unfit = fitting.preset_choices(t, home, now, edit.rows, glances, drawn.get("everything", False))
    listed = fitting.model_choices(t, home, glances)
    lists: dict[Any, Any] = {}
    if presets != drawn.get("presets"):
        rest = t("train.more_presets_unfit", n=more, unfit=unfit) if unfit else t("train.more_presets", n=more)
        lists[p.preset] = gr.update(choices=presets, value=now.preset.name)
        lists[p.more] = gr.update(value=rest, visible=more > 0)
    if listed != drawn.get("models"):
        lists[p.model] = gr.update(choices=listed)
    return lists, {**drawn, "presets": presets, "models": listed}


def _marks(t: Words, p: Parts, now: Draft, plan: dict[str, Any], before: dict[str, Any]) -> tuple[dict[Any, Any], dict[str, Any]]:
    """(updates of the boxes that look different now, how each box looks): changed, without effect, and what `automatic` comes to."""
    after, updates = {}, {}
    for control in p.controls:
        field = control.field
        changed = field.name in now.changes.get(field.group, {})
        idle = t.say(plan["idle"][field.key]) if field.key in plan["idle"] else ""
        empty = fitting.decided(t, plan, field.key, plan_card.shown) if control.box in p.automatic else None
        after[field.key] = looks = (changed, idle, empty)
        if looks != before.get(field.key, (False, "", None)):
            updates[control.box] = {**form.marked(t, field, changed, idle), **({"placeholder": empty} if empty else {})}
    return updates, after


def _count_tokens(home: Home, now: Draft, plan: dict[str, Any], waiting: str | None) -> str | None:
    """The job that counts tokens, where the plan lacks them and the model needs no large download for it; its elder is stopped."""
    model = settings.parse(now.raw).model
    known = models.known(home, model.base_model, model.revision)
    if plan["tokens"] is not None or known is None or not (known.local or known.kind == models.STARTER):
        return None
    job = runs.prepare(home, now.raw)
    if waiting and waiting != job.id and runs.job(home, waiting)["state"] in (*WAITING, *BUSY):
        runs.stop(home, waiting)
    return job.id if job.state in (*WAITING, *BUSY) else None
