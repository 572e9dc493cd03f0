"""Run the real worker process on a job folder, as an executor does."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_ui.home import REPOSITORY, Home, read_json, write_json

_numbers = itertools.count()


def start(
    home: Home, kind: str, params: dict[str, Any], run_id: str | None = None, token: str | None = None, dataset: str | None = None
) -> tuple[Path, subprocess.Popen[bytes]]:
    """The job's folder and its running process."""
    id = f"{kind}-{next(_numbers)}"
    folder = home.job(kind, id, run_id, dataset)
    folder.mkdir(parents=True)
    write_json(folder / "job.json", {"id": id, "kind": kind, "run_id": run_id, "home": str(home.root), "params": params})
    environment = {k: v for k, v in os.environ.items() if k != "HF_TOKEN"}
    environment |= {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    with open(folder / "log.txt", "ab") as log:
        command = [sys.executable, "-m", "lora_ui.worker", str(folder)]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=REPOSITORY, env=environment)
    assert worker.stdin is not None
    worker.stdin.write(json.dumps({"token": token}).encode() + b"\n")
    worker.stdin.close()
    return folder, worker


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Look again and again until `true()`; fails after `seconds`."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not true():
        assert time.monotonic() < deadline
        pause.wait(0.02)  # nobody sets it


def work(home: Home, kind: str, params: dict[str, Any], run_id: str | None = None, token: str | None = None) -> dict[str, Any]:
    """Run a job to its end; returns `outcome.json`."""
    folder, worker = start(home, kind, params, run_id, token)
    worker.wait(timeout=120)
    outcome = read_json(folder / "outcome.json")
    assert outcome, (folder / "log.txt").read_text()
    return outcome
