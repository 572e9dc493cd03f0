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
from lora_ui.executors import standby
from lora_ui.executors.standby import BORN, MARK, Standby
from lora_ui.home import REPOSITORY
from lora_ui.jobs import Job

TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN")


def without_tokens(environment: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in environment.items() if k not in TOKENS}


class Local:
    """Remembers the processes it started, to learn their exit codes; others are known by identity alone."""

    def __init__(self) -> None:
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._standby: Standby | None = None
        self._hub: dict[str, str] = {}
        """The Hub's settings of the last job, which the next one will most likely have."""
        self._broken = False
        """A standby ended by itself; there is no other until a job has shown whether it can do better."""

    def start(self, job: Job, folder: Path, token: str | None) -> tuple[int, float, str]:
        environment = self._environment(job.lease, job.params.get("env", {}))
        child = self._taken(job, environment, folder, token) or self._started(environment, folder, token)
        self._children[job.id] = child
        return child.pid, machine.process_start(child.pid) or 0.0, machine.boot_id()

    def warm(self, lease: str | None, log: Path) -> None:
        ready = self._standby
        if ready is not None and not ready.alive():
            self._broken = True
        if lease is None or not standby.wanted(lease) or self._broken or not standby.room(ready is not None):
            self._let_go()
        elif ready is None or ready.environment != self._environment(lease, self._hub):
            self._let_go()
            try:
                self._standby = Standby(self._environment(lease, self._hub), log)
            except OSError:  # no room on the disk, too many processes: jobs start without it
                self._broken = True

    def _let_go(self) -> None:
        if self._standby is not None:
            self._standby.end()
            self._standby = None

    def _taken(self, job: Job, environment: dict[str, str], folder: Path, token: str | None) -> subprocess.Popen[bytes] | None:
        """The standby's process, if this job can have it. A job with a lease needs torch, and the place that a standby waits for."""
        if job.lease is None:
            return None
        self._hub, self._broken = job.params.get("env", {}), False
        ready, self._standby = self._standby, None
        return ready.take(environment, folder, token) if ready else None

    def _environment(self, lease: str | None, hub: dict[str, str]) -> dict[str, str]:
        """Of a worker, but for its mark."""
        return {
            **without_tokens(dict(os.environ)),
            **hub,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            "CUDA_VISIBLE_DEVICES": (lease or "").removeprefix("gpu:") if (lease or "").startswith("gpu:") else "",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONUNBUFFERED": "1",
        }

    def _started(self, environment: dict[str, str], folder: Path, token: str | None) -> subprocess.Popen[bytes]:
        with open(folder / "log.txt", "ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "lora_ui.worker", str(folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=REPOSITORY,
                env=environment | {MARK: str(folder)},
                start_new_session=True,
            )
        assert child.stdin is not None
        try:
            child.stdin.write(json.dumps({"token": token}).encode() + b"\n")
            child.stdin.close()
        except BrokenPipeError:
            pass  # it died at once; `alive` finds out
        return child

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
        born = folder / BORN
        marks = {str(folder), born.read_text() if born.is_file() else str(folder)}
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) in marks:
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
