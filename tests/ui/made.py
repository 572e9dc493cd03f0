"""A home with runs in every state, written as the table and the workers write them; no model is involved."""

from __future__ import annotations

import math
import os
import time
from typing import Any

from lora_ui import errors, metrics, settings
from lora_ui.home import Home, write_json
from lora_ui.jobs import Job, Jobs

HOSTILE = "<b>${alert(1)}</b>"
STEPS = 69


def submit(home: Home, name: str = "", rows: int = 199, **training: Any) -> Job:
    chosen = settings.parse({"data": {"source": "example"}, "training": training})
    params = {
        "settings": chosen.model_dump(),
        "header": {"title": name, "from": "cpu", "data": "cooking.jsonl", "digest": "0" * 16, "revision": None},
        "prepare": {
            "digest": "0" * 16,
            "base_model": "starter",
            "revision": None,
            "max_length": 512,
            "held_out_rows": 20,
            "split_seed": 42,
            "system_prompt": "",
        },
        "licence": "apache-2.0",
        "base_kind": "starter",
        "preset": "cpu",
        "data": {"name": "cooking.jsonl", "rows": rows, "train_rows": rows - 20, "held_out_rows": 20},
        "estimate_seconds": 540.0,
    }
    return Jobs(home.database).submit("train", params, None, None, name)


def points(home: Home, id: str, upto: int, start: float = 2.4, best: float = 1.2) -> None:
    path = home.run(id) / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    for step in range(upto + 1):
        loss = best + (start - best) * math.exp(-step / 20) + 0.08 * math.sin(step * 7)
        if step % 10 == 0:
            metrics.append(path, {"step": step, "time": time.time(), "eval_loss": loss - 0.02})
        if step:
            row = {
                "loss": loss,
                "learning_rate": 2e-4 * (1 - step / STEPS),
                "grad_norm": 1.5 + math.sin(step),
                "tokens_per_second": 118 + step % 5,
                "peak_share": 0.31,
            }
            metrics.append(path, {"step": step, "time": time.time(), **row})


def claim(home: Home, id: str) -> None:
    """Start the run, as the supervisor does; the line has to be empty before it."""
    jobs = Jobs(home.database)
    claimed = jobs.claim([f"cpu:{id}"])
    assert claimed and claimed.id == id
    jobs.started(id, os.getpid(), 0.0, "boot")


def running(home: Home, name: str = "", step: int = 43) -> str:
    id = submit(home, name).id
    claim(home, id)
    points(home, id, step)
    beat(home, id, step)
    write_json(home.run(id) / "decided.json", DECIDED)
    return id


def beat(home: Home, id: str, step: int) -> None:
    timed = {"import": 6.1, "prepare": 1.2, "load": 2.3, "first_step": 9.0, "train": 7.2 * step}
    write_json(
        home.run(id) / "heartbeat", {"time": time.time(), "phase": "train", "phases": timed, "done": step, "total": STEPS, "unit": "steps"}
    )


def ended(home: Home, state: str, name: str = "", step: int = STEPS, best: float = 1.2, error: errors.LoraUIError | None = None) -> str:
    id = submit(home, name).id
    claim(home, id)
    points(home, id, step, best=best)
    write_json(home.run(id) / "decided.json", DECIDED)
    timed = {"import": 6.1, "prepare": 1.2, "load": 2.3, "first_step": 9.0, "train": 7.2 * step, "save": 0.8}
    spec = {"id": id, "kind": "train", "run_id": None, "home": str(home.root), "params": Jobs(home.database).get(id).params}
    write_json(home.run(id) / "job.json", spec)
    result = {"step": step, "total_steps": STEPS, "saved_step": 60, "tokens_per_second": 118.0} if state != "failed" else None
    write_json(home.run(id) / "outcome.json", {"state": state, "error": None, "result": result, "phases": timed, "time": time.time()})
    if state in ("finished", "stopped"):
        (home.run(id) / "adapter").mkdir()
        (home.run(id) / "adapter" / "adapter_model.safetensors").write_bytes(os.urandom(30_000))
        (home.run(id) / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 16}')
    (home.run(id) / "log.txt").write_text("".join(f"line {n} of the log\n" for n in range(700)))
    Jobs(home.database).ended(id, state, {**error.as_dict(), "traceback": "Traceback: …"} if error else None, result)
    return id


DECIDED = {
    "training.packing": {"value": True, "reason": "rows are short (median 96 of 512)", "template": "rows are short (median {a} of {b})", "values": {"a": 96, "b": 512}},
    "machine.dtype": {"value": "float32", "reason": "this CPU has no AMX, so bfloat16 would be slower than float32",
                      "template": "this CPU has no AMX, so bfloat16 would be slower than float32", "values": {}},
}  # fmt: skip


def every_state(home: Home) -> dict[str, str]:
    """One run of each kind; the running one holds the CPU, two wait."""
    made = {
        "finished": ended(home, "finished", "amber-finch"),
        "worse": ended(home, "finished", "tidy-newt", best=2.9),
        "failed": ended(home, "failed", HOSTILE, step=8, error=errors.OutOfMemory(device="the GPU", step=8, detail="CUDA out of memory.")),
        "stopped": ended(home, "stopped", "calm-owl", step=40),
        "interrupted": ended(
            home,
            "interrupted",
            "swift-hare",
            step=40,
            error=errors.WorkerDied(how="signal 9", detail="It wrote nothing to its log.", kept=""),
        ),
        "running": running(home, "quiet-otter"),
    }
    return {**made, "queued": submit(home, "rust-wren").id, "second": submit(home, "noble-ibis").id}
