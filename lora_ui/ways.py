"""What a person can change so that a run fits: each way really estimated, the cheapest for the result first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lora_ui import memory, methods, settings, settling
from lora_ui.errors import Say
from lora_ui.memory import Place, Rows
from lora_ui.models import BaseModel
from lora_ui.settings import Settings

SHORTEST = 256
"""Tokens a row is not cut below to save memory."""
LEAST = 50_000_000
"""Bytes that a way has to save to be worth a line."""


@dataclass(frozen=True)
class Way:
    said: Say
    change: dict[str, Any]
    """Partial settings."""
    saves: int
    needs: int
    """Bytes."""
    verdict: str

    def as_dict(self) -> dict[str, Any]:
        return {"said": self.said.as_dict(), "change": self.change, "saves": self.saves, "needs": self.needs, "verdict": self.verdict}


def ways(base: BaseModel, chosen: Settings, rows: Rows, place: Place, others: list[BaseModel]) -> list[Way]:
    """Changes that make it fit, each kind in the order of its cost. Where none is enough by itself, all of them together and the
    largest open model of `others` that fits; empty where nothing helps, and for an unknown family."""
    rows = rows.rough()
    _, now = settling.settle(base, chosen, rows, place)
    if now is None:
        return []
    found: list[Way] = []
    together: dict[str, Any] = {}
    cut = False
    for said, change in _changes(chosen, rows, place):
        way = _tried(base, chosen, rows, place, said, change, sum(now.values()))
        if way is None or way.saves < LEAST:
            continue
        together = settings.merge(together, change)
        if way.verdict != "no" and not (cut and "max_length" in change.get("training", {})):
            found.append(way)
            cut = cut or "max_length" in change.get("training", {})
    if not found:
        both = _tried(base, chosen, rows, place, Say("All that saves memory, together"), together, sum(now.values()))
        smaller = _smaller_model(chosen, rows, place, others, sum(now.values()))
        found = [way for way in (both, smaller) if way and way.verdict != "no"]
    return found


def _tried(base: BaseModel, chosen: Settings, rows: Rows, place: Place, said: Say, change: dict[str, Any], before: int) -> Way | None:
    changed = settings.parse(settings.merge(chosen.model_dump(), change))
    _, needed = settling.settle(base, changed, rows, place)
    if needed is None or methods.problems(changed, base.config):
        return None
    total = sum(needed.values())
    return Way(said, change, before - total, total, memory.verdict(needed, place))


def _changes(chosen: Settings, rows: Rows, place: Place) -> Iterator[tuple[Say, dict[str, Any]]]:
    """First what costs nothing but time."""
    training, adapter = chosen.training, chosen.adapter
    if isinstance(training.per_device_train_batch_size, int) and training.per_device_train_batch_size > 1:
        yield Say("Fewer rows at once, as many in a step"), {"training": {"per_device_train_batch_size": "auto"}}
    if training.activation_checkpointing in (False, "half"):
        yield Say("Time for memory: on"), {"training": {"activation_checkpointing": True}}
    if "8bit" not in training.optim and place.device == "cuda":
        yield Say("The optimizer in 8 bits"), {"training": {"optim": "paged_adamw_8bit"}}
    if chosen.model.load_in_4bit is False and place.device != "mps":
        yield Say("The base model in 4 bits"), {"model": {"load_in_4bit": True, "load_in_8bit": False}}
    if adapter.r > 8:
        alpha = max(1, round(adapter.lora_alpha * 8 / adapter.r))
        yield Say("Rank 8 instead of {rank}", rank=adapter.r), {"adapter": {"r": 8, "lora_alpha": alpha}}
    length = min(training.max_length, rows.longest or training.max_length)
    for shorter in (1 << power for power in range(length.bit_length() - 1, SHORTEST.bit_length() - 2, -1)):
        if length / 8 <= shorter < length:
            yield Say("Rows cut at {length} tokens", length=shorter), {"training": {"max_length": shorter}}


def _smaller_model(chosen: Settings, rows: Rows, place: Place, others: list[BaseModel], before: int) -> Way | None:
    for other in sorted((one for one in others if not one.gated), key=lambda one: -(one.parameters or 0)):
        change = {"model": {"base_model": other.name, "revision": None}}
        way = _tried(other, chosen, rows, place, Say("{model} instead", model=other.title), change, before)
        if way and way.verdict == "fits":
            return way
    return None
