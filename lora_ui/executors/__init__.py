"""Where a worker runs. Every executor starts the same command: `python -m lora_ui.worker JOB_DIR`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from lora_ui.jobs import Job


class Executor(Protocol):
    def start(self, job: Job, folder: Path, token: str | None) -> tuple[int, float, str]:
        """Start the worker; returns its identity (pid, start time, boot id)."""

    def alive(self, job: Job) -> bool: ...

    def stop(self, job: Job, force: bool) -> None:
        """Ask (SIGTERM) or, with `force`, end the whole process group (SIGKILL)."""

    def how_it_ended(self, job: Job) -> str:
        """Exit code or signal in words; "unknown" when the worker was not started by this process."""
