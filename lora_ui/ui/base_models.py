"""Base models in words: the label of one in a list, and the line about the chosen one."""

from __future__ import annotations

from typing import Any

from lora_ui import errors, models
from lora_ui.home import Home
from lora_ui.ui.shell import esc, number, panel, size
from lora_ui.ui.words import Words


def label(t: Words, model: models.BaseModel, verdict: str | None) -> str:
    """Name, size, licence, where it is and whether it fits."""
    parts = [
        model.title,
        _count(model.parameters),
        t("fit.badge." + verdict) if verdict else None,
        size(2 * model.parameters) if model.parameters and not model.local else None,
        model.licence,
        t("train.gated") if model.gated else None,
        t("train.here") if model.local else None,
    ]
    return " · ".join(part for part in parts if part)


def _count(parameters: int | None) -> str | None:
    """135 M, 7.6 B: how model sizes are written."""
    if not parameters:
        return None
    return f"{parameters / 1e9:.1f}B" if parameters >= 999.5e6 else f"{parameters / 1e6:.0f}M"


def facts(t: Words, home: Home, chosen: dict[str, Any], token: str) -> tuple[str, bool]:
    """(HTML of what is known of the chosen base model, whether its owner asks for a licence). `chosen`: the settings' model group."""
    try:
        model = models.known(home, chosen.get("base_model", models.STARTER), chosen.get("revision"))
        model = model or models.find(home, chosen["base_model"], chosen.get("revision"), token or None)
    except errors.GatedModel as error:
        return panel(t, error), True
    except errors.LoraUIError as error:
        return panel(t, error), False
    bits = [
        f'<span class="mono">{esc(model.name)}</span>',
        esc(t("train.parameters", n=_count(model.parameters))) if model.parameters else "",
        esc(size(2 * model.parameters)) if model.parameters and not model.local else "",
        esc(t("train.context", n=number(model.context))) if model.context else "",
        esc(t("train.chat_model" if model.chat_template else "train.plain_model")) if model.chat_template is not None else "",
        f'<span class="pill">{esc(model.licence)}</span>' if model.licence else "",
        f'<span class="pill warn">{esc(t("train.gated"))}</span>' if model.gated else "",
        f'<span class="pill {"finished" if model.local else ""}">{esc(t("train.here" if model.local else "train.download"))}</span>',
    ]
    return f'<p class="muted facts-line num">{" · ".join(bit for bit in bits if bit)}</p>', model.gated
