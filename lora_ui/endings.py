"""Why a worker ended without a last word: its death certificate, written from outside. And what it had reached by then."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import psutil

from lora_ui import errors, machine
from lora_ui.home import Home, read_json, write_json
from lora_ui.jobs import Job

OUTSIDE = ("MachineRestarted", "KilledForMemory", "KilledFromOutside", "WorkerLost")
"""Deaths that the work itself did not cause: it can go on by itself."""
AGAIN = 3
"""How often it goes on by itself without getting any further."""
GOES_ON = ("train", "prepare", "merge", "evaluate", "export")
"""Kinds that go on by themselves; a push needs its token again, a chat is opened anew."""
_FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


def said(path: Path) -> dict[str, Any] | None:
    """A worker's file, or None when it is not there or holds no JSON object: one bad file must not end the supervisor."""
    try:
        read = read_json(path)
    except (OSError, ValueError):
        return None
    return read if isinstance(read, dict) else None


def goes_on(home: Home) -> bool:
    """Whether runs that died from outside go on by themselves in this home: the person's choice on the Runs page, on unless switched off."""
    return bool((said(home.preferences) or {}).get("goes_on", True))


def set_goes_on(home: Home, on: bool) -> None:
    write_json(home.preferences, {"goes_on": on})


def reached(folder: Path) -> int:
    """The last step that was made, or the newest save point: by this a run that dies again is judged."""
    beat = said(folder / "heartbeat") or {}
    steps = int(beat["done"]) if beat.get("unit") == "steps" else 0
    return max(steps, saved(folder) or 0)


def saved(folder: Path) -> int | None:
    """The step of a run's newest save point."""
    return max((int(p.name.removeprefix("step-")) for p in (folder / "checkpoints").glob("step-[0-9]*")), default=None)


def save_points(home: Home, id: str) -> list[int]:
    """The steps of a run's save points, newest first. One counts when its files are there in full; what is in them is checked where they are loaded."""
    found = []
    for folder in (home.run(id) / "checkpoints").glob("step-*"):
        manifest = read_json(folder / "manifest.json")
        if manifest and all(
            (folder / name).is_file() and (folder / name).stat().st_size == f["size"] for name, f in manifest["files"].items()
        ):
            found.append(int(manifest["step"]))
    return sorted(found, reverse=True)


def kept(kind: str, folder: Path) -> errors.Say:
    """What is safe, and where."""
    if kind != "train":
        return errors.Say("What was there before is as it was; resume starts this again.")
    if (step := saved(folder)) is None:
        return errors.Say("Nothing had been saved yet; resume starts it again.")
    return errors.Say(
        "Everything up to step {step} is saved in {folder}, the adapter too; resume goes on from there.", step=step, folder=str(folder)
    )


def certificate(job: Job, folder: Path, code: int | None) -> errors.LoraUIError:
    """`code`: the exit code, negative for a signal, None when nobody saw it end."""
    step, last, safe = reached(folder), last_words(folder), kept(job.kind, folder)
    if (job.boot_id and job.boot_id != machine.boot_id()) or (job.started or time.time()) < psutil.boot_time() - 1:
        return errors.MachineRestarted(step=step, kept=safe)
    if code is None:
        return errors.WorkerLost(step=step, detail=last, kept=safe)
    if code >= 0:
        return errors.WorkerDied(how=f"exit code {code}", detail=last, kept=safe)
    name = signal.Signals(-code).name
    if -code == signal.SIGKILL and machine.oom_kills() > (said(folder / "job.json") or {}).get("oom_kills", 0):
        return errors.KilledForMemory(step=step, kept=safe)
    if -code in _FROM_OUTSIDE:
        return errors.KilledFromOutside(signal=name, step=step, detail=last, kept=safe)
    return errors.WorkerDied(how=f"signal {name}", detail=last, kept=safe)


def last_words(folder: Path) -> str:
    try:
        lines = (folder / "log.txt").read_bytes()[-4000:].decode("utf-8", "replace").strip().splitlines()
    except FileNotFoundError:
        lines = []
    return f"Its last line was: {lines[-1][:300]}" if lines else "It wrote nothing to its log."


def may_go_on(job: Job, error: errors.LoraUIError, reached: int) -> bool:
    """Whether it goes on by itself: it died from outside, and went on by itself fewer than AGAIN times without getting further."""
    if error.kind not in OUTSIDE or job.kind not in GOES_ON or job.deleted is not None:
        return False
    fruitless = 0
    for earlier in reversed(job.interruptions):
        if not earlier["again"] or earlier["reached"] < reached:
            break
        fruitless += 1
    return fruitless < AGAIN
