"""What the person has chosen so far, from the browser's memory: the same for the Data page's preview and the Train page's form."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

import yaml

from lora_ui import machine, presets, settings
from lora_ui.errors import Say, UnknownPreset
from lora_ui.home import Home, default_root
from lora_ui.presets import Preset
from lora_ui.ui import trust


@dataclass(frozen=True)
class Draft:
    preset: Preset
    changes: dict[str, Any]
    """Nested partial settings over the preset's."""
    data: dict[str, Any]
    """source and mapping."""

    @property
    def raw(self) -> dict[str, Any]:
        return settings.merge(self.preset.settings, self.changes, {"data": self.data} if self.data else {})


def suggested(home: Home, rows: int) -> list[tuple[Preset, Say]]:
    """Presets for this machine and these rows, best first, each with its reason."""
    here = machine.look()
    memory = max((gpu.memory_bytes for gpu in here.gpus), default=None)
    return presets.suggest(presets.all_presets(home), here.device, memory, rows)


def of(home: Home, memory: dict[str, Any], rows: int) -> Draft:
    """`rows`: how many there are to learn from, for the preset that fits while none is chosen."""
    data = {"source": trust.source(home, memory["source"]), "mapping": memory.get("mapping") or {}} if memory.get("source") else {}
    try:
        preset = presets.get(home, memory["preset"]) if memory.get("preset") else suggested(home, rows)[0][0]
    except UnknownPreset:  # deleted since
        preset = suggested(home, rows)[0][0]
    return Draft(preset, trust.changes(memory.get("settings") or {}), data)


def left_out(memory: dict[str, Any]) -> dict[str, Any]:
    """The choice of rows made on the Data page, as partial settings: no form shows it, so every new draft takes it over."""
    group = (memory.get("settings") or {}).get("data", {})
    chosen = {key: group[key] for key in ("leave_out", "trim") if group.get(key) is not None}
    return {"data": chosen} if chosen else {}


def with_chosen(memory: dict[str, Any], **codes: list[str] | str | None) -> dict[str, Any]:
    """The memory with these choices of the Data page, by their names in `data`; None: with none of its own."""
    chosen = dict(memory.get("settings") or {})
    group = {key: value for key, value in chosen.pop("data", {}).items() if key not in codes}
    group |= {key: value for key, value in codes.items() if value is not None}
    return {**memory, "settings": {**chosen, **({"data": group} if group else {})}}


def with_other_data(memory: dict[str, Any]) -> dict[str, Any]:
    """What was left out or trimmed was so of other rows."""
    return with_chosen(memory, leave_out=None, trim=None)


def command(home: Home, draft: Draft, name: str) -> str:
    """The line that starts the same run from a terminal."""
    words = ["python", "-m", "lora_ui", "train", "--preset", draft.preset.name, "--data", draft.data.get("source", "DATA")]
    words += [part for role, column in draft.data.get("mapping", {}).items() for part in ("--map", f"{role}={column}")]
    words += ["--base-model", draft.raw.get("model", {}).get("base_model", "starter")]
    for group, values in draft.changes.items():
        for key, value in values.items():
            if (group, key) != ("model", "base_model"):
                words += ["--set", f"{group}.{key}={_yaml(value)}"]
    words += ["--name", name] if name else []
    words += ["--home", str(home.root)] if home.root != default_root().expanduser().resolve() else []
    return shlex.join(words)


def _yaml(value: Any) -> str:
    """One line that YAML reads back as the same value."""
    if isinstance(value, str) and "\n" not in value and yaml.safe_load(value) == value:
        return value
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
