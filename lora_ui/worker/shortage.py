"""Memory that runs out: recognised on GPUs and processors, said in words, and what to try next."""

from __future__ import annotations

import re
from typing import Any

from lora_ui.errors import Say
from lora_ui.presets import Decision

_SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "Cannot allocate memory", "std::bad_alloc", "ALLOC_FAILED")
AT_ONCE, PARTS = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
TESTED = "training.per_device_eval_batch_size"


def ran_out(e: BaseException) -> bool:
    """Whether `e` means that a GPU's or this machine's memory is full; torch says so in ordinary RuntimeErrors."""
    return isinstance(e, MemoryError) or (isinstance(e, RuntimeError | OSError | ImportError) and any(sign in str(e) for sign in _SIGNS))


def wanted(e: BaseException) -> Say:
    """How much was asked for, as far as the exception says."""
    size = re.search(r"[Tt]ried to allocate ([\d.]+ [KMGT]?i?B)", str(e))
    count = re.search(r"tried to allocate (\d+) bytes", str(e))
    if size or count:
        return Say("{size} more were asked for, and were not free.", size=size[1] if size else f"{int(count[1]) / 1e6:,.1f} MB")  # type: ignore[index]
    return Say("More was asked for than is free.")


def smaller(decided: dict[str, Any], step: int) -> dict[str, dict[str, Any]] | None:
    """Decisions for about a quarter as many rows at once, with the same rows per step; None when it is one row already.

    A quarter, because there is one attempt only.
    """
    at_once, tested = decided[AT_ONCE], decided.get(TESTED, 1)
    if at_once == 1 and tested == 1:
        return None
    rows = at_once * decided[PARTS]
    fewer = next(n for n in range(max(1, at_once // 4), 0, -1) if rows % n == 0)
    why = Say("memory ran out at step {step} with {before} at once; a step is still made of {rows}", step=step, before=at_once, rows=rows)
    made = {
        AT_ONCE: Decision(fewer, why),
        PARTS: Decision(rows // fewer, Say("{at_once} at once, {parts} times, make the {rows} of a step", at_once=fewer, parts=rows // fewer, rows=rows)),
        TESTED: Decision(1, Say("memory ran out at step {step}", step=step)),
    }  # fmt: skip
    return {key: decision.as_dict() for key, decision in made.items()}
