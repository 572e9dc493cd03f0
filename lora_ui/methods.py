"""The ways to adapt a base model: partial settings under a name, and what each does not go with. All of it is data:
presets/methods.yaml. The page's choice, preflight, the worker, the card and the README read it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import yaml

from lora_ui import errors, fit, settings
from lora_ui.errors import Say
from lora_ui.home import REPOSITORY
from lora_ui.settings import Settings

MOVE_THE_BASE = ("pissa", "olora", "lora_ga")
"""First values that take a part out of the base; what is saved has twice the rank."""


@dataclass(frozen=True)
class Rule:
    """What a method does not go with: `when` holds `{key: values}`, or set, odd, wide instead of values (see `_holds`)."""

    when: dict[str, Any]
    why: str
    instead: str
    change: dict[str, Any]
    """Partial settings that mend it; empty where a person has to choose."""


@dataclass(frozen=True)
class Method:
    key: str
    title: str
    family: str
    does: str
    trades: str
    pick: str
    paper: str | None
    arxiv: str | None
    settings: dict[str, Any]
    """What makes it this method."""
    start: dict[str, Any]
    """Values that suit it."""
    refused: tuple[Rule, ...]
    idle: dict[str, str]

    @property
    def link(self) -> str | None:
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else None


@cache
def all_methods() -> dict[str, Method]:
    """Every method by its key, in the order of the list."""
    raw = yaml.safe_load((REPOSITORY / "presets" / "methods.yaml").read_text("utf-8"))
    return {key: _read(key, one) for key, one in raw.items()}


def _read(key: str, one: dict[str, Any]) -> Method:
    paper = one.pop("paper") or {}
    rules = tuple(Rule(**rule) for rule in one.pop("refused", ()))
    known = {"start": one.pop("start", {}), "idle": one.pop("idle", {})}
    return Method(key=key, paper=paper.get("title"), arxiv=paper.get("arxiv"), refused=rules, **known, **one)


def applied(chosen: Settings) -> list[Method]:
    """The methods that these settings are, plain LoRA only where nothing is more special."""
    found = [one for one in all_methods().values() if all(_holds(key, wanted, chosen, None) for key, wanted in _flat(one.settings))]
    return [one for one in found if one.key != "lora" or len(found) == 1] or [all_methods()["lora"]]


def choose(key: str, raw: dict[str, Any], preset: dict[str, Any]) -> dict[str, Any]:
    """`raw` made this method: what other methods are made of goes back to its default, what suits them to the `preset` (complete), and
    how the base is squeezed stays unless it makes the method."""
    method = all_methods()[key]
    defaults = {field.key: field.default for field in settings.fields()}
    made_of = {place: defaults[place] for one in all_methods().values() for place, _ in _flat(one.settings) if "model." not in place}
    suits = {place: _at(preset, place) for one in all_methods().values() for place, _ in _flat(one.start)}
    own = {place: value for place, value in _flat(method.settings) if value != "set"} | dict(_flat(method.start))
    if key == "lora" and raw.get("model", {}).get("load_in_4bit") is True:
        own["model.load_in_4bit"] = False  # it is QLoRA otherwise
    return settings.merge(raw, *({(at := place.split("."))[0]: {at[1]: value}} for place, value in {**suits, **made_of, **own}.items()))


def problems(chosen: Settings, config: dict[str, Any] | None) -> list[errors.LoraUIError]:
    """What the methods of these settings do not go with; `config`: the base's config.json, if it is known."""
    return [
        errors.MethodUnsuitable(method=method.title, why=Say(rule.why), instead=Say(rule.instead), change=rule.change)
        for method in applied(chosen)
        for rule in method.refused
        if all(_holds(key, wanted, chosen, config) for key, wanted in rule.when.items())
    ]


def idle(chosen: Settings) -> dict[str, Say]:
    """Key → why it changes nothing with the method of these settings."""
    return {key: Say(why) for method in applied(chosen) for key, why in method.idle.items()}


def _flat(groups: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(f"{group}.{name}", value) for group, values in groups.items() for name, value in values.items()]


def _at(groups: dict[str, Any], place: str) -> Any:
    group, _, name = place.partition(".")
    return groups[group][name]


def _value(chosen: Settings, place: str) -> Any:
    group, _, name = place.partition(".")
    return getattr(getattr(chosen, group), name)


def _holds(place: str, wanted: Any, chosen: Settings, config: dict[str, Any] | None) -> bool:
    """Whether a setting (or `model_type` of the base) is `wanted`: a value, one of a list, set (not its default), odd, wide (more than the
    smallest side of the weights that learn), twice wide (more than half of it), deep (more than their smallest input), or uneven (no divisor of all their inputs)."""
    value: Any = (config or {}).get("model_type") if place == "model_type" else _value(chosen, place)
    if wanted == "set":
        return bool(value != _value(Settings(), place))
    if wanted == "odd":
        return bool(value % 2)
    if wanted in ("wide", "twice wide", "deep", "uneven"):
        model = fit.shape(config or {})
        targets = (fit.adapted(model, chosen.adapter.target_modules) if model else None) or ()
        if wanted == "uneven":
            return any(one.inputs % value for one in targets)
        rank = 2 * value if wanted == "twice wide" else value
        return any(rank > one.inputs or (wanted != "deep" and rank > one.outputs) for one in targets)
    return bool(value in wanted if isinstance(wanted, list) else value == wanted)
