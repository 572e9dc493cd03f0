"""`python -m lora_ui.worker JOB_DIR`: do one job, write `outcome.json` last, leave.

Every executor runs this same command. Output goes to the log file that the executor opened.
"""

from __future__ import annotations

import errno
import faulthandler
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_ui import errors, hub, machine
from lora_ui.home import write_json
from lora_ui.worker import disk, log, shortage
from lora_ui.worker.job import Again, Job, Stopped, token_from_stdin

KINDS = ("prepare", "train", "merge", "push", "chat")
AGAIN = "again"
_RESERVE = b"\0" * 65_536
"""Bytes held back on the disk, so that the last word can be written when it is full."""


def main(folder: Path, token: str | None, again: bool = False) -> int:
    job = Job(folder, token, again)
    job.stop_on_sigterm()

    def clean(text: str) -> str:
        return hub.redact(text.replace(job.token, "…") if job.token else text)

    said = log.take_over(folder / "log.txt", clean)
    reserve = folder / ".reserve"
    state, error, result = "finished", None, None
    try:
        with disk.tolerated():
            reserve.write_bytes(_RESERVE)
        job.beat()
        job.keep_beating()
        job.check()
        if job.kind not in KINDS:
            raise ValueError(job.kind)
        work = importlib.import_module(f"lora_ui.worker.{job.kind}")
        job.check()
        result = work.run(job)
    except Stopped as e:
        state, result = "stopped", (e.args[0] if e.args else None)
    except Again:
        said.end()
        _start_again(folder, job.token)
    except (Exception, SystemExit) as e:
        state, error = "failed", explain(e)
        print(report := traceback.format_exc())
        if not isinstance(e, errors.LoraUIError):
            error["traceback"] = clean(f"{machine.versions()}\n{report}")
        error = _cleaned(error, clean)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the last word is not broken off
    said.end()
    job.phase("ended")
    phases = {k: round(v, 3) for k, v in job.phases.items()}
    outcome = {"state": state, "error": error, "result": result, "phases": phases, "time": time.time()}
    reserve.unlink(missing_ok=True)
    write_json(folder / "outcome.json", outcome)
    return 0 if state in ("finished", "stopped") else 1


def explain(e: BaseException) -> dict[str, Any]:
    """Our own errors as they are, and known causes that reach us as ordinary exceptions. The rest is a bug of ours, and said so."""
    if isinstance(e, errors.LoraUIError):
        return e.as_dict()
    said = f"{type(e).__name__}: {e}".strip()[:400]
    if shortage.ran_out(e):
        return errors.MemoryFull(device=machine.look().name, detail=shortage.wanted(e)).as_dict()
    if disk.is_full(e):
        return errors.DiskFull(needed=errors.Say("more"), free="0 MB", where=str(getattr(e, "filename", None) or "?")).as_dict()
    if isinstance(e, OSError) and e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return errors.HomeUnusable(path=str(e.filename), detail=e.strerror).as_dict()
    if isinstance(e, ImportError):
        return errors.LibraryBroken(detail=said).as_dict()
    return errors.Bug(detail=said).as_dict()


def _cleaned(value: Any, clean: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        return {key: _cleaned(one, clean) for key, one in value.items()}
    return clean(value) if isinstance(value, str) else value


def _start_again(folder: Path, token: str | None) -> None:
    """The same process (pid, start time, log) with empty memory; the token goes along as it came, through standard input."""
    ours, theirs = os.pipe()
    os.write(theirs, json.dumps({"token": token}).encode() + b"\n")
    os.close(theirs)
    os.dup2(ours, 0)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # a GPU's memory is free once its driver's files are closed
    os.execv(sys.executable, [sys.executable, "-m", "lora_ui.worker", str(folder), AGAIN])


if __name__ == "__main__":
    faulthandler.enable()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os._exit(main(Path(sys.argv[1]), token_from_stdin(), AGAIN in sys.argv[2:]))  # a thread that waits for a Hub would keep this process
