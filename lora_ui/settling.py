"""What is chosen by what fits: 4 bits or 16, how much is in memory together, and what is worked out twice."""

from __future__ import annotations

from dataclasses import replace

from lora_ui import memory, methods, presets, settings
from lora_ui.errors import Say
from lora_ui.memory import Place, Rows, Step
from lora_ui.models import BaseModel
from lora_ui.presets import Decision
from lora_ui.settings import Settings

ROOM = 0.9
"""Share of a memory that is filled by choice; what is held in pieces of many sizes cannot fill all of it."""
BUSY = 2048
"""Tokens together that keep a GPU at work."""
BY_FIT = (memory.PRECISION, memory.CHECKPOINTING, "training.per_device_train_batch_size", "training.gradient_accumulation_steps")
"""What follows from the memory of a place."""


def settle(base: BaseModel, chosen: Settings, rows: Rows, place: Place) -> tuple[dict[str, Decision], dict[str, int] | None]:
    """(`presets.decide`, with 4 bits or not, what is in memory together and whether things are worked out twice chosen by what fits
    there; the bytes this takes, None for an unknown family). What a step holds stays as it was; what a person set is kept."""
    masked = place.device != "cpu" and memory.attention(base.config, place.device, place.dtype).value != memory.VARLEN
    decided = presets.decide(chosen, rows.train, rows.held_out, place.device, rows.median, rows.tokens, rows.lengths, masked)
    first = memory.step_of(base, chosen, decided, rows, place)
    formats = _formats(chosen, place)
    if memory.items(base, formats[0], first) is None:
        return decided, None
    fixed = chosen.training.activation_checkpointing != "auto"
    tries = [replace(first, checkpointing=n) for n in ((first.checkpointing,) if fixed else memory.EVERY.values())]
    if chosen.training.per_device_train_batch_size == "auto":
        tries = [smaller for one in tries for smaller in _smaller(one, decided, first, fixed)]
    room = ROOM * place.whole
    both = [(form, one) for form in formats for one in tries]
    taken, found = next(((form, one) for form, one in both if _total(base, form, one) <= room), both[-1])
    if chosen.model.load_in_4bit == "auto":
        leanest = _total(base, formats[0], tries[-1])
        decided = {
            **decided,
            memory.PRECISION: _four_bits(taken, leanest if taken is not formats[0] else _total(base, taken, found), place),
        }
    if found.rows != first.rows:
        said = Say("{value} in memory together: more would not fit into {room}", value=found.rows, room=memory.gigabytes(place.whole))
        decided = presets.split_again(decided, found.rows, said)
    if not fixed:
        lean = replace(found, checkpointing=0)
        decided = {**decided, memory.CHECKPOINTING: _checkpointing(found.checkpointing, _total(base, taken, lean), place)}
    return decided, memory.items(base, taken, found)


def _smaller(step: Step, decided: dict[str, Decision], first: Step, fixed: bool) -> list[Step]:
    """The same with fewer rows at once, down to one; where things could be worked out twice instead, not below what keeps a GPU busy."""
    whole = first.rows * decided["training.gradient_accumulation_steps"].value
    counts = [n for n in range(first.rows, 0, -1) if whole % n == 0]
    busy = [n for n in counts if n == first.rows or n * step.length >= BUSY]
    return [replace(step, rows=n) for n in (counts if step.checkpointing == 1 or fixed else busy)]


def _formats(chosen: Settings, place: Place) -> list[Settings]:
    """The settings with the base model as it is, and where that is to be decided also in 4 bits."""
    if chosen.model.load_in_4bit != "auto":
        return [chosen]
    refused = methods.problems(settings.with_4bit(chosen, True), None)
    squeezable = place.device == "cuda" and not chosen.model.load_in_8bit and not refused
    return [settings.with_4bit(chosen, four) for four in ((False, True) if squeezable else (False,))]


def _four_bits(taken: Settings, whole: int, place: Place) -> Decision:
    """`whole`: bytes with 16 bits, at its leanest where that does not fit."""
    known = {"needed": memory.gigabytes(whole), "room": memory.gigabytes(place.whole)}
    if taken.model.load_in_4bit:
        return Decision(True, Say("on, because even at its leanest it would need about {needed} of {room} with 16 bits", **known))
    if taken.model.load_in_8bit:
        return Decision(False, Say("off, because 8 bits are set"))
    if place.device != "cuda":
        return Decision(False, Say("off: it comes by itself only where there is an NVIDIA GPU"))
    if refused := methods.problems(settings.with_4bit(taken, True), None):
        return Decision(False, Say("off, because {method} does not go with it", method=refused[0].values["method"]))
    return Decision(False, Say("off, because about {needed} of {room} is enough with 16 bits", **known))


def _checkpointing(every: int, without: int, place: Place) -> Decision:
    known = {"needed": memory.gigabytes(without), "room": memory.gigabytes(place.whole)}
    if every == 1:
        return Decision(
            True, Say("on, because without it about {needed} of {room} would be needed; it costs about a quarter of the speed", **known)
        )
    if every:
        return Decision(
            "half",
            Say(
                "in every second layer, because without it about {needed} of {room} would be needed; in all of them it would cost twice as much time",
                **known,
            ),
        )
    return Decision(False, Say("off, because about {needed} of {room} is enough without it", **known))


def _total(base: BaseModel, chosen: Settings, step: Step) -> int:
    return sum((memory.items(base, chosen, step) or {}).values())
