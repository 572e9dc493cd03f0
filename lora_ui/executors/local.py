"""Workers as processes of this machine: each in its own session, output to a file, one GPU visible."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from lora_ui import machine
from lora_ui.home import REPOSITORY
from lora_ui.jobs import Job

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN")


def without_tokens(environment: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in environment.items() if k not in TOKENS}


class Local:
    """Remembers the processes it started, to learn their exit codes; others are known by identity alone."""

    def __init__(self) -> None:
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, job: Job, folder: Path, token: str | None) -> tuple[int, float, str]:
        environment = without_tokens(dict(os.environ)) | job.params.get("env", {})
        environment |= {
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": (job.lease or "").removeprefix("gpu:") if (job.lease or "").startswith("gpu:") else "",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONUNBUFFERED": "1",
        }
        with open(folder / "log.txt", "ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "lora_ui.worker", str(folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                env=environment,
                start_new_session=True,
            )
        self._children[job.id] = child
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps({"token": token}).encode() + b"\n")
            child.stdin.close()
        except BrokenPipeError:
            pass  # it died at once; `alive` finds out
        return child.pid, machine.process_start(child.pid) or 0.0, machine.boot_id()

    def alive(self, job: Job) -> bool:
        child = self._children.get(job.id)
        if child is not None and child.pid == job.pid:
            return child.poll() is None
        if job.pid is None or job.boot_id != machine.boot_id():
            return False
        start = machine.process_start(job.pid)
        return start is not None and job.pid_start is not None and abs(start - job.pid_start) < 0.05

    def stop(self, job: Job, force: bool) -> None:
        if job.pid is None or not self.alive(job):
            return
        try:
            if force:
                os.killpg(job.pid, signal.SIGKILL)
            else:
                os.kill(job.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass  # it ended between the look and the call

    def how_it_ended(self, job: Job) -> str:
        child = self._children.pop(job.id, None)
        code = child.poll() if child else None
        if code is None:
            return "unknown"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
