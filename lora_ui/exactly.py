"""Memory checked exactly: the dry run of lora_ui/worker/dryrun.py in a process of its own, beside what the closed form says."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from lora_ui import calibration, errors, machine, memory, models, preflight, settings
from lora_ui.errors import Say
from lora_ui.home import REPOSITORY, Home
from lora_ui.memory import Place, Rows
from lora_ui.models import BaseModel
from lora_ui.settings import Settings

LONGEST = 600.0
"""Seconds after which a dry run is ended."""


Told = tuple[int, int, dict[str, Any] | None]


def of_plan(home: Home, raw: dict[str, Any], token: str | None, gpu_memory: int | None) -> Iterator[Told]:
    """`check` of what the Train page's form says. Raises what `preflight.ground` raises, and DryRunFailed."""
    on = preflight.ground(home, raw, token)
    yield from check(on.base, on.chosen, on.rows, on.places(gpu_memory)[0])


def of_fit(home: Home, raw: dict[str, Any], token: str | None, gpu_memory: int | None) -> Iterator[Told]:
    """`check` of what `python -m lora_ui fit` estimates. Raises what `models.find` raises, and DryRunFailed."""
    chosen = settings.parse(raw)
    base = models.known(home, chosen.model.base_model, chosen.model.revision)
    if base is None or base.config is None:
        base = models.find(home, chosen.model.base_model, chosen.model.revision, token)
    place = memory.another(gpu_memory) if gpu_memory else calibration.here(home, machine.look())[0]
    yield from check(base, chosen, Rows(1000, 100), place)


def check(base: BaseModel, chosen: Settings, rows: Rows, place: Place) -> Iterator[Told]:
    """(stages done, of how many, None) as it goes and at least twice a second, last with the answer: `exact_bytes`, `predicted_bytes`,
    `verdict` and `items`, each (bytes by the closed form, bytes by the dry run). Closing it ends the process. Raises DryRunFailed."""
    decided, needed = memory.settle(base, chosen, rows, place)
    if needed is None:
        raise errors.DryRunFailed(detail=Say("This family of models is not described here."))
    step = memory.step_of(base, chosen, decided, rows, place)
    taken = settings.with_4bit(chosen, decided[memory.PRECISION].value)
    asked = {"config": base.config, "settings": taken.model_dump(), "step": dataclasses.asdict(step)}
    done, total, result = 0, 0, None
    for line in _lines(json.dumps(asked)):
        told = json.loads(line) if line.startswith("{") else {}
        done, total, result = told.get("done", done), told.get("total", total), told.get("result", result)
        yield done, total, None
    if result is None:
        raise errors.DryRunFailed(detail=Say("Its process ended before it was done."))
    yield total, total, beside(needed, result, place)


def beside(needed: dict[str, int], measured: dict[str, int], place: Place) -> dict[str, Any]:
    """Item by item where the dry run has one; the rest of its peak is what is kept while learning and the loss together."""
    alike = ("weights", "adapter", "gradients", "optimizer")
    rest = measured["peak"] - measured["weights"] - measured["adapter"] - measured["optimizer"]
    exact = {name: measured[name] for name in alike}
    # gradients grow while what is kept shrinks: at the worst moment only some of them are there
    exact |= {"gradients": min(measured["gradients"], rest), "working": max(0, rest - measured["gradients"])}
    form = {name: needed[name] for name in alike} | {"working": needed["activations"] + needed["logits"]}
    aside: dict[str, int] = {name: size for name, size in needed.items() if name in ("context", "calibration", "margin")}
    items = {name: [size, exact[name]] for name, size in form.items()} | {name: [size, size] for name, size in aside.items()}
    return {
        "verdict": memory.verdict({**exact, **aside}, place),
        "predicted_bytes": sum(needed.values()),
        "exact_bytes": measured["peak"] + sum(aside.values()),
        "available_bytes": place.whole,
        "items": items,
    }


def _lines(asked: str) -> Iterator[str]:
    """What the dry run says, line by line, and an empty one whenever half a second brings none. Raises DryRunFailed when it takes too
    long; the process ends with this iterator."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    child = subprocess.Popen(
        [sys.executable, "-m", "lora_ui.worker.dryrun"], cwd=REPOSITORY, env=environment, text=True, bufsize=1, **pipes
    )
    assert child.stdin is not None and child.stdout is not None
    until = time.monotonic() + LONGEST
    try:
        with child.stdin as told:
            told.write(asked)
        while True:
            if time.monotonic() > until:
                raise errors.DryRunFailed(detail=Say("It took longer than {minutes} minutes.", minutes=round(LONGEST / 60)))
            if not select.select([child.stdout], [], [], 0.5)[0]:
                yield ""
            elif line := child.stdout.readline():
                yield line
            else:
                return
    finally:
        child.kill()
        child.wait()
        child.stdout.close()
