"""What will happen, in sentences, from `runs.plan`: the card beside the form on the Train page."""

from __future__ import annotations

from typing import Any

from lora_ui import settings
from lora_ui.ui import fitting, form
from lora_ui.ui.draft import Draft
from lora_ui.ui.shell import duration, esc, number, panel, size
from lora_ui.ui.words import Words

UNDO = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-undo]');
  if (button) trigger('undo', {key: button.dataset.undo});
});
"""


def sentences(t: Words, plan: dict[str, Any], max_length: int, elsewhere: bool) -> str:
    """`plan` as `runs.plan` gives it; `elsewhere`: memory was asked for a GPU that is not here."""
    lines = [_rows(t, plan), *_steps(t, plan)]
    if plan["tokens"] is not None:
        lines.append(t("train.will_tokens", n=number(plan["tokens"])))
    if plan["truncated"]:
        lines.append(t("train.will_cut", n=number(plan["truncated"]), length=number(max_length)))
    lines += fitting.sentences(t, plan, elsewhere)
    lines += [t("train.in_vain", what=_title(t, key), why=t.say(why)) for key, why in plan["in_vain"].items()]
    body = "".join(f"<p>{esc(line)}</p>" for line in lines)
    return f'<div class="num lu-plan">{body}{_parameters(t, plan)}</div>' + "".join(panel(t, finding) for finding in plan["findings"])


def _rows(t: Words, plan: dict[str, Any]) -> str:
    rounds = plan["epochs"] or 0
    learned = {"train": number(plan["train_rows"]), "held": number(plan["held_out_rows"])}
    if 0 < rounds < 1:
        return t("train.will_learn_part", seen=number(max(1, plan["train_rows"] * rounds)), **learned)
    learned["rounds"] = f"{rounds:.3g}"
    if not plan["held_out_rows"]:
        return t("train.will_learn_all", **learned)
    return t("train.will_learn_once" if plan["epochs"] == 1 else "train.will_learn", **learned)


def _steps(t: Words, plan: dict[str, Any]) -> list[str]:
    if plan["steps"] is None:
        return [t("train.will_counting")]
    device = plan["device_name"] if plan["device"] == "cuda" else t("train.device_" + plan["device"])
    if plan["seconds"] is None:
        return [t("train.will_steps_unknown", steps=number(plan["steps"]), device=device)]
    basis = t.say(plan["basis"])
    return [t("train.will_steps", steps=number(plan["steps"]), time=duration(t, plan["seconds"]), device=device, basis=basis)]


def _parameters(t: Words, plan: dict[str, Any]) -> str:
    if plan["trainable_parameters"] is None:
        return f"<p>{esc(t('train.will_parameters_unknown'))}</p>"
    share = f"{plan['share']:.4g}"
    said = t("train.will_parameters", trainable=number(plan["trainable_parameters"]), all=number(plan["all_parameters"]), share=share)
    said += " " + t("train.will_adapter", size=size(plan["adapter_bytes"]))
    return f'<p>{esc(said)}</p><p class="muted">{esc(t.say(plan["explanation"]))}</p>'


def changed(t: Words, now: Draft) -> str:
    """What differs from the preset: field, its value, and a button back to the preset's (`UNDO` tells the page which)."""
    found = [f for f in settings.fields() if f.name in now.changes.get(f.group, {}) and f.key not in form.ELSEWHERE]
    if not found:
        return f'<p class="muted">{esc(t("train.changed_none"))}</p>'
    was = form.full(now.preset.settings)
    items = "".join(
        f'<li>{esc(t.field(f)[0])} <b class="num">{esc(_short(t, now.changes[f.group][f.name]))}</b> '
        f'<button type="button" class="quiet" data-undo="{esc(f.key)}">{esc(t("train.undo", value=_short(t, was[f.group][f.name])))}</button></li>'
        for f in found
    )
    return f'<p class="muted">{esc(t("train.changed"))}</p><ul class="changes">{items}</ul>'


def _short(t: Words, value: Any) -> str:
    said = t("form.none") if value in (None, "") else t("form.auto") if value == "auto" else shown(t, value)
    return said if len(said) <= 40 else said[:39] + "…"


def _title(t: Words, key: str) -> str:
    return next(t.field(f)[0] for f in settings.fields() if f.key == key)


def decisions(t: Words, plan: dict[str, Any]) -> str:
    """Every value that was chosen by itself, with its reason."""
    titles = {f.key: t.field(f)[0] for f in settings.fields()}
    rows = [
        f'<dt>{esc(titles.get(key) or t("decided." + key))} <span class="key">{esc(key.split(".")[-1])}</span></dt>'
        f'<dd><span class="num">{esc(shown(t, decided["value"]))}</span><p class="muted">{esc(t.say(decided))}</p></dd>'
        for key, decided in plan["decisions"].items()
    ]
    return f'<dl class="decisions">{"".join(rows)}</dl>'


def shown(t: Words, value: Any) -> str:
    if isinstance(value, bool) or value == "half":
        return t("form." + {True: "on", False: "off"}.get(value, "half"))
    return (
        "?"
        if value is None
        else f"{value:,}"
        if isinstance(value, int)
        else form.shown_number(value)
        if isinstance(value, float)
        else str(value)
    )
