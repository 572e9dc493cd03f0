"""Memory and time in words: the verdict, what takes how much, and labels of presets and base models that carry both."""

from __future__ import annotations

from typing import Any

from lora_ui import memory, models, preflight, settings
from lora_ui.errors import LoraUIError, Say
from lora_ui.home import Home
from lora_ui.presets import Preset
from lora_ui.ui import base_models, draft
from lora_ui.ui.draft import Draft
from lora_ui.ui.shell import duration, esc
from lora_ui.ui.words import Words

FIRST = 3
"""Presets shown before "more"."""
Glances = dict[str, dict[str, Any]]


def sentences(t: Words, plan: dict[str, Any], elsewhere: bool) -> list[str]:
    """One line per place that was asked about, best first; empty when nothing can be said."""
    found = plan["memory"]
    if found is None:
        return [t("fit.unknown")]
    need = memory.gigabytes(found["predicted_bytes"])
    several = len(found["places"]) > 1
    lines = []
    for place in found["places"]:
        known = {"need": need, "there": memory.gigabytes(place["available_bytes"])}
        name = t("fit.elsewhere") if elsewhere else place["name"]
        lines.append((f"{name}: " if elsewhere or several else "") + t("fit." + place["verdict"], **known))
    return lines


def items(t: Words, plan: dict[str, Any]) -> str:
    """What takes how much at the worst moment of a step, as HTML."""
    found = plan["memory"]
    if found is None:
        return f'<p class="muted">{esc(t("fit.unknown"))}</p>'
    rows = "".join(
        f'<tr><th scope="row">{esc(t("fit.item." + name))}</th><td class="num">{esc(memory.gigabytes(size))}</td></tr>'
        for name, size in found["items"].items()
    )
    whole = f'<tr class="sum"><th scope="row">{esc(t("fit.item.all"))}</th><td class="num">{esc(memory.gigabytes(found["predicted_bytes"]))}</td></tr>'
    counted_in = f'<p class="muted">{esc(t.say(found["calibration"]))}</p>' if found["calibration"] else ""
    return f'<table class="facts">{rows}{whole}</table>{counted_in}'


def missing(t: Words, plan: dict[str, Any]) -> str:
    """How much is missing, and what follows."""
    found = plan["memory"]
    lacking = found["predicted_bytes"] - found["available_bytes"]
    known = {"need": memory.gigabytes(found["predicted_bytes"]), "there": memory.gigabytes(found["available_bytes"])}
    said = [t("fit.missing", missing=memory.gigabytes(lacking), **known), t("fit.ways_hint" if found["ways"] else "fit.no_way")]
    return "".join(f"<p>{esc(line)}</p>" for line in said)


def way(t: Words, one: dict[str, Any]) -> str:
    """A button's label."""
    said = t("fit.way", what=t.say(one["said"]), saves=memory.gigabytes(one["saves"]))
    return said if one["verdict"] == "fits" else t("fit.way_tight", way=said)


# lists whose labels carry time and fit


def of_preset(preset: Preset) -> str:
    """No base model is called like this."""
    return f"preset {preset.name}"


def glances(home: Home, now: Draft, found: list[Preset], token: str, gpu: int | None) -> Glances:
    """Of every preset, under `of_preset`, with the base model as it is; and of every listed base model, by its id, with the form as it is.
    Empty when the rows or the base model cannot be read, which the plan beside it says."""
    own = {"model": {"base_model": now.raw.get("model", {}).get("base_model", models.STARTER)}, "data": now.data}
    others: dict[str, tuple[dict[str, Any], models.BaseModel | None]] = {
        one.name: (settings.merge(now.raw, {"model": {"base_model": one.name}}), one) for one in models.catalogue(home)
    }
    others |= {of_preset(one): (now.raw if one.name == now.preset.name else settings.merge(one.settings, own), None) for one in found}
    try:
        return preflight.glances(home, now.raw, others, token or None, gpu)
    except LoraUIError:
        return {}


def preset_choices(
    t: Words, home: Home, now: Draft, rows: int, glances: Glances, everything: bool
) -> tuple[list[tuple[str, str]], int, int]:
    """(choices, how many are left out, how many of those do not fit): the best for machine and rows first, what does not fit last."""
    found = sorted(draft.suggested(home, rows), key=lambda pair: _verdict(glances, of_preset(pair[0])) == "no")
    shown = [pair for i, pair in enumerate(found) if everything or i < FIRST or pair[0].name == now.preset.name]
    hidden = [preset for preset, _ in found if preset.name not in {one.name for one, _ in shown}]
    labels = [(_preset(t, preset, reason, glances.get(of_preset(preset))), preset.name) for preset, reason in shown]
    return labels, len(hidden), sum(_verdict(glances, of_preset(preset)) == "no" for preset in hidden)


def _verdict(glances: Glances, name: str) -> str | None:
    return glances.get(name, {}).get("verdict")


def _preset(t: Words, preset: Preset, reason: Say, glance: dict[str, Any] | None) -> str:
    title, summary = t.preset(preset)
    words = t.say(reason)
    return "\n".join(filter(None, (" · ".join([title, *_told(t, glance)]), summary, words[:1].upper() + words[1:] + t("shell.stop"))))


def _told(t: Words, glance: dict[str, Any] | None) -> list[str]:
    """Time and verdict of one glance, as far as they are known."""
    if glance is None:
        return []
    time = duration(t, glance["seconds"]) if glance["seconds"] else t("fit.time_unknown")
    return [time, *([t("fit.badge." + glance["verdict"])] if glance["verdict"] else [])]


def model_choices(t: Words, home: Home, glances: Glances, found: list[models.BaseModel] | None = None) -> list[tuple[str, str]]:
    """What is on this machine, then what fits, then what is too big; within each by size."""
    listed = models.catalogue(home) if found is None else found
    order = {"fits": 0, "tight": 0, None: 1, "no": 2}
    if found is None:
        listed = sorted(listed, key=lambda one: one.parameters or 0)
    listed = sorted(listed, key=lambda one: (not one.local, one.kind != models.STARTER, order[_verdict(glances, one.name)]))
    return [(base_models.label(t, one, _verdict(glances, one.name)), one.name) for one in listed]


def decided(t: Words, plan: dict[str, Any], key: str, shown: Any) -> str:
    """What an empty box comes to."""
    known = plan["decisions"].get(key)
    return t("form.auto_is", value=shown(t, known["value"])) if known and known["value"] is not None else t("form.auto")
