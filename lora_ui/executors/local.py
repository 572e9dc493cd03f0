"""Workers as processes of this machine: each in its own session, output to a file, one GPU visible."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from lora_ui import machine
from lora_ui.home import REPOSITORY
from lora_ui.jobs import Job

MARK = "LORA_UI_JOB"
"""In the environment of a worker and all it starts: its job folder. By this they are found, whatever session they are in."""
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
            MARK: str(folder),
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

    def stop(self, job: Job, folder: Path, force: bool) -> None:
        if job.pid is None or not self.alive(job):
            return
        try:
            if force:
                os.killpg(job.pid, signal.SIGKILL)
                self.sweep(folder)
            else:
                os.kill(job.pid, signal.SIGTERM)
                os.kill(job.pid, signal.SIGCONT)  # one that was frozen wakes up and hears the first
        except ProcessLookupError:
            pass  # it ended between the look and the call

    def sweep(self, folder: Path) -> None:
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(folder):
                    process.kill()
            except (psutil.Error, OSError):
                continue  # somebody else's, or gone already

    def dump(self, job: Job, folder: Path) -> None:
        if job.pid is None or not self.alive(job):
            return
        os.kill(job.pid, signal.SIGUSR1)  # faulthandler writes, unless the process is frozen
        if spy := shutil.which("py-spy"):
            with open(folder / "stack.txt", "ab") as file:
                asked = [spy, "dump", "--nonblocking", "--pid", str(job.pid)]
                try:
                    subprocess.run(asked, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=10)
                except subprocess.TimeoutExpired:
                    pass  # what it wrote so far is kept

    def exit_code(self, job: Job) -> int | None:
        child = self._children.pop(job.id, None)
        return child.poll() if child else None
