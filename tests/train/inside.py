"""A training run in a folder of its own, without a supervisor: the worker's code in this process, or as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from lora_ui import metrics, runs
from lora_ui.home import REPOSITORY, Home, read_json, write_json
from lora_ui.worker.job import Job


def folder_of(home: Home, raw: dict[str, Any], id: str) -> Path:
    """The run's folder with its `job.json`, as the supervisor leaves it for the worker."""
    on = runs.startable(home, raw)
    params = {
        "settings": on.chosen.model_dump(),
        "header": {"title": id, "from": None, "data": on.dataset.name, "digest": on.dataset.digest, "revision": on.base.revision},
        "prepare": on.asked,
        "base_kind": on.base.kind,
    }
    folder = home.run(id)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "job.json", {"id": id, "kind": "train", "run_id": None, "home": str(home.root), "params": params})
    return folder


def train(folder: Path) -> dict[str, Any]:
    """In this process; returns the result. Resumes when there are save points."""
    from lora_ui.worker import train

    return train.run(Job(folder))


def worker(folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    """The real worker process on this folder; its log goes to `log.txt`."""
    command = [sys.executable, "-m", "lora_ui.worker", str(folder)]
    given = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
    with open(folder / "log.txt", "ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=REPOSITORY, env={**os.environ, **given, **environment}
        )
    assert process.stdin is not None
    process.stdin.write(json.dumps({"token": None}).encode() + b"\n")
    process.stdin.close()
    return process


def interposed(place: Path, event: str, suffix: str, action: str) -> str:
    """A PYTHONPATH whose Python does `action` once, at the first audit event of this name with an argument that ends so."""
    place.mkdir(parents=True, exist_ok=True)
    code = f"""
import os, resource, sys
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])  # an allocation that fails in another thread ends the process at once
done = []
def hook(event, args):
    if event == {event!r} and not done and any(str(one).endswith({suffix!r}) for one in args):
        done.append(event)
        {action}
sys.addaudithook(hook)
"""
    (place / "sitecustomize.py").write_text(code)
    return str(place)


def outcome(folder: Path) -> dict[str, Any]:
    told = read_json(folder / "outcome.json")
    assert told, (folder / "log.txt").read_text()
    return told


def losses(folder: Path) -> list[tuple[Any, ...]]:
    """(step, loss, tokens seen, held-out loss) of every point."""
    rows = metrics.read(folder / "metrics.jsonl")
    return [(row["step"], *(row.get(name) for name in ("loss", "num_tokens", "eval_loss"))) for row in rows if "train_loss" not in row]
