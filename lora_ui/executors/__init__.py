"""Where a worker runs. Every executor starts the same command, `python -m lora_ui.worker JOB_DIR`, or has it done by a standby."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from lora_ui.jobs import Job


class Executor(Protocol):
    def start(self, job: Job, folder: Path, token: str | None) -> tuple[int, float, str]:
        """Start the worker; returns its identity (pid, start time, boot id)."""

    def warm(self, lease: str | None, log: Path) -> None:
        """Keep a worker ready, as far as this machine allows it, for the job that will hold `lease`; None: keep none."""

    def alive(self, job: Job) -> bool: ...

    def stop(self, job: Job, folder: Path, force: bool) -> None:
        """Ask (waking it if it was frozen), or, with `force`, end it and every process it started."""

    def sweep(self, folder: Path) -> None:
        """End whatever a worker of `folder` left behind."""

    def dump(self, job: Job, folder: Path) -> None:
        """Have the stacks of all its threads written to `folder/stack.txt`, as far as that is possible."""

    def exit_code(self, job: Job) -> int | None:
        """Negative for a signal; None when the worker was not started by this process."""
