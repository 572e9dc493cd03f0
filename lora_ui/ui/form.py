"""The settings form, made from `settings.fields()`: which box a field gets, and how its value comes and goes.

An empty box means `auto` where the field has it. Boxes carry no bounds of their own: every wrong value is named by
`settings.parse`, all at once and in our words.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lora_ui import settings
from lora_ui.settings import SettingsField
from lora_ui.ui.shell import esc, html
from lora_ui.ui.words import Words

PLAIN = ("training.num_train_epochs", "training.max_length", "data.held_out_rows")
ELSEWHERE = ("model.base_model", "data.source", "data.mapping", "data.leave_out", "data.trim", "data.held_out_source")
"""Chosen by their own parts of the pages."""
SUPERSCRIPTS = str.maketrans("⁻", "-")
"""The rest of a raised number NFKC lowers; this sign it would make a minus of another kind."""
SIGNS = str.maketrans({"−": "-", "–": "-", "，": ".", ",": ".", "。": ".", "・": "·", "⋅": "·"})


@dataclass(frozen=True)
class Control:
    field: SettingsField
    box: Any


def draw(t: Words, keys: tuple[str, ...] | None = None) -> list[Control]:
    """Boxes for these keys, or, without keys, for everything that has no place elsewhere, group by group."""
    if keys is not None:
        by_key = {f.key: f for f in settings.fields()}
        return [Control(by_key[key], _box(t, by_key[key])) for key in keys]
    drawn = []
    for group in settings.Settings.model_fields:
        fields = [f for f in settings.fields() if f.group == group and f.key not in (*PLAIN, *ELSEWHERE)]
        with gr.Column(elem_classes="lu-group"):
            html(f"<h3>{esc(t('form.group.' + group))}</h3>")
            with gr.Row(elem_classes="lu-fields"):
                drawn += [Control(field, _box(t, field)) for field in fields]
    return drawn


def _box(t: Words, field: SettingsField) -> Any:
    about = {
        "label": t.field(field)[0],
        "info": info(t, field),
        "elem_id": f"set-{field.group}-{field.name}",
        "elem_classes": "lu-field",
        "min_width": 280,
    }
    value = to_box(field, field.default)
    if field.kind == "choice":
        return gr.Dropdown([(str(c), str(c)) for c in field.choices], value=value, **about)
    if field.kind == "switch" and field.auto:
        return gr.Dropdown([(t("form." + c), c) for c in ("auto", "on", *field.choices, "off")], value=value, **about)
    if field.kind == "switch":
        return gr.Checkbox(value=value, **about)
    if _is_number_box(field):
        return gr.Number(value=value, step=field.ui.step or 1, **about)
    if field.name == "system_prompt":
        return gr.Textbox(value=value, lines=2, max_lines=6, **about)
    empty = t("form.auto") if field.auto else t("form.none") if field.optional else None
    return gr.Textbox(value=value, max_lines=1, placeholder=empty, **about)


def info(t: Words, field: SettingsField, idle: str = "") -> str:
    """Key and hint; `idle`: why the setting changes nothing now."""
    said = f"`{field.name}` {t.field(field)[1]}"
    return f"{said} {t('form.idle', why=idle)}" if idle else said


def marked(t: Words, field: SettingsField, changed: bool, idle: str) -> dict[str, Any]:
    """How the box looks: with a bar when it differs from the preset, out of reach with the reason when it changes nothing now."""
    return gr.update(elem_classes=["lu-field", *(["lu-changed"] if changed else [])], interactive=not idle, info=info(t, field, idle))


def _is_number_box(field: SettingsField) -> bool:
    """The rest is text: a number box cannot be empty, and shows 2e-4 badly."""
    return field.kind == "integer" and not field.auto and not field.optional


def to_box(field: SettingsField, value: Any) -> Any:
    """A setting as its box shows it."""
    if field.kind == "choice":
        return str(value)
    if field.kind == "switch":
        return {True: "on", False: "off"}.get(value, value) if field.auto else value
    if _is_number_box(field):
        return value
    if field.kind in ("number", "integer"):
        return "" if value in ("auto", None) else shown_number(value)
    return ", ".join(value) if isinstance(value, list) else value or ""


def from_box(field: SettingsField, value: Any) -> Any:
    """What a box holds as a setting; what cannot be read stays as it is, for `settings.parse` to name."""
    if field.kind == "choice":
        return {str(c): c for c in field.choices}.get(value, value)
    if field.kind == "switch":
        return {"on": True, "off": False}.get(value, value) if field.auto else value
    if value is None or not str(value).strip():
        return "auto" if field.auto else None if field.optional or field.kind != "text" else ""
    if field.kind in ("number", "integer"):
        number = read_number(value)
        return int(number) if isinstance(number, float) and number.is_integer() else number
    if field.kind == "list":
        names = [name.strip() for name in str(value).split(",") if name.strip()]
        return names[0] if names in (["all-linear"],) else names
    return value


def read_number(text: Any) -> Any:
    """2e-4, 0.0002, 0,0002, 2·10⁻⁴, 2 x 10^-4, 10⁻⁴ and full-width forms are all read; anything else comes back as it is."""
    plain = unicodedata.normalize("NFKC", str(text).translate(SUPERSCRIPTS)).strip().translate(SIGNS)
    plain = re.sub(r"^(?:(.+?)\s*[·×x*]\s*)?10\s*(?:\^|(?=-))\s*(-?\d+)$", lambda found: f"{found[1] or 1}e{found[2]}", plain)
    try:
        return float(plain)
    except ValueError:
        return text


def tidy(field: SettingsField, typed: Any) -> Any:
    """What a box shows when it is left: the number that was understood, written one way. What is no number stays, and nothing is
    written that stands there already: the person may be typing again."""
    value = from_box(field, typed)
    shown = typed if isinstance(value, str) and value != "auto" else to_box(field, value)
    return gr.skip() if shown == typed else shown


def shown_number(value: float) -> str:
    """0.0002 as 2e-4, 0.05 as 0.05."""
    if value and abs(value) < 0.001:
        mantissa, exponent = f"{value:.12e}".split("e")
        return f"{float(mantissa):.12g}e{int(exponent)}"
    return f"{value:.12g}"


def read(controls: list[Control], values: list[Any]) -> dict[str, Any]:
    """All boxes as nested raw settings."""
    raw: dict[str, Any] = {}
    for control, value in zip(controls, values):
        raw.setdefault(control.field.group, {})[control.field.name] = from_box(control.field, value)
    return raw


def full(raw: dict[str, Any]) -> dict[str, Any]:
    """Defaults under a partial raw: every field has a value."""
    defaults: dict[str, Any] = {}
    for field in settings.fields():
        defaults.setdefault(field.group, {})[field.name] = field.default
    return settings.merge(defaults, raw)


def write(controls: list[Control], raw: dict[str, Any]) -> list[Any]:
    """Values for the boxes from partial raw settings."""
    known = full(raw)
    return [to_box(c.field, known[c.field.group][c.field.name]) for c in controls]


def changes(raw: dict[str, Any], preset: dict[str, Any]) -> dict[str, Any]:
    """The part of `raw` that differs from the preset over the defaults."""
    start = full(preset)
    return {
        group: differing
        for group, values in raw.items()
        if (differing := {name: value for name, value in values.items() if value != start[group][name]})
    }
