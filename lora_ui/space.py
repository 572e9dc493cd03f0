"""What takes space in a home, the trash that is emptied later, and what may go because nothing uses it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

from lora_ui import errors
from lora_ui.data import prepared
from lora_ui.home import Home
from lora_ui.jobs import BUSY, WAITING, Jobs

KEPT_SECONDS = 7 * 24 * 3600.0
"""How long a deleted run can still be restored."""
YOUNG_SECONDS = 24 * 3600.0
"""Rows read within the last day may still be open on a page."""


def report(home: Home) -> dict[str, int]:
    """Bytes on disk by kind, and what is free. Walks every folder: not for a page that ticks."""
    jobs = Jobs(home.database)
    trash = sum(_size(home.run(job.id)) for job in jobs.all("train", deleted=True))
    return {
        "runs": _size(home.runs) - trash,
        "trash": trash,
        "models": _size(home.models),
        "datasets": _size(home.datasets),
        "unused": sum(_size(folder) for folder in unused_datasets(home)),
        "uploads": _size(home.uploads),
        "free": home.free_bytes(),
    }


def empty_trash(home: Home, before: float) -> list[str]:
    """Remove for good the runs deleted before this time: the row first, which is refused for one that was taken back meanwhile.
    Returns their ids."""
    jobs, gone = Jobs(home.database), []
    for job in jobs.all("train", deleted=True):
        busy = jobs.all(states=(*WAITING, *BUSY), run_id=job.id)
        if job.deleted is not None and job.deleted < before and not busy:
            try:
                jobs.remove(job.id)
            except errors.IllegalMove:
                continue
            _remove(home.run(job.id))
            gone.append(job.id)
    return gone


def unused_datasets(home: Home) -> list[Path]:
    """Folders of rows that no run in the list or the trash learned from, and that are older than a day."""
    jobs = Jobs(home.database)
    used: set[str] = set()
    for job in [*jobs.all("train"), *jobs.all("train", deleted=True), *jobs.all("prepare", (*WAITING, *BUSY))]:
        used |= set(_digests(job.params))
    old = time.time() - YOUNG_SECONDS
    return [folder for folder in sorted(home.datasets.iterdir()) if folder.name not in used and folder.stat().st_mtime < old]


def delete_unused_datasets(home: Home) -> int:
    """Remove rows that nothing uses; the files they were read from stay. Returns how many bytes that freed."""
    folders = unused_datasets(home)
    freed = sum(map(_size, folders))
    for folder in folders:
        _remove(folder)
    return freed


def _digests(params: dict[str, Any]) -> list[str]:
    asked = {**params, **params.get("prepare", {})}
    return [asked[name] for name in ("digest", "held_out_digest") if asked.get(name)]


def _remove(folder: Path) -> None:
    """Out of sight at once, then gone; killed in between, the rest goes with the next start of the supervisor."""
    if folder.exists():
        leaving = folder.with_name(f".gone-{folder.name}")
        shutil.rmtree(leaving, ignore_errors=True)
        os.replace(folder, leaving)
        shutil.rmtree(leaving, ignore_errors=True)  # what is left goes with the next tidying


def finish_removals(home: Home) -> None:
    """What a killed removal, or a killed prepare, left behind."""
    prepared.remove_left_over(home)
    for left in (*home.runs.glob(".gone-*"), *home.datasets.glob(".gone-*")):
        shutil.rmtree(left, ignore_errors=True)


def _size(folder: Path) -> int:
    """Bytes on disk, links not followed; what vanishes meanwhile counts nothing."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(at, name)).st_blocks * 512  # noqa: PTH118
            except OSError:
                continue
    return total
