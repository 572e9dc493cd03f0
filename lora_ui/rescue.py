"""A database that cannot be read is set aside, never deleted, and the runs are found again from their folders."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from lora_ui import endings, errors, machine
from lora_ui.home import Home, write_json
from lora_ui.jobs import Jobs


def table(home: Home) -> Jobs:
    """The job table, checked; a damaged, emptied or lost one is made anew. Only for who holds the supervisor's lock.
    Raises DatabaseTooNew, DatabaseUnusable, DiskFull."""
    earlier = endings.said(home.rescued) or {}
    aside = earlier.get("aside") if (halfway := earlier.get("runs", 0) is None) else None
    try:
        jobs = Jobs(home.database)
        jobs.check()
    except errors.DatabaseDamaged:
        aside = set_aside(home).name
        jobs = Jobs(home.database)
    if aside is None and not halfway and not emptied(home, jobs):
        return jobs
    write_json(home.rescued, {"time": time.time(), "aside": aside, "runs": None})  # killed from here on, the next start goes on with it
    found = sum(_put_back(jobs, folder, "train") for folder in sorted(home.runs.iterdir()))
    for folder in sorted(home.runs.glob("*/jobs/*")):
        _put_back(jobs, folder, "")
    write_json(home.rescued, {"time": time.time(), "aside": aside, "runs": found})
    return jobs


def note(home: Home) -> dict[str, Any] | None:
    """`{time, aside, runs}` of the last rescue that nobody has read yet."""
    said = endings.said(home.rescued)
    return said if said and said["runs"] is not None else None


def dismiss(home: Home) -> None:
    """A person has read the note; the file that was set aside stays."""
    home.rescued.unlink(missing_ok=True)


def emptied(home: Home, jobs: Jobs) -> bool:
    """Whether runs lie in their folders that a table without a row must have held."""
    return not jobs.any() and any(home.runs.glob("*/job.json"))


def set_aside(home: Home) -> Path:
    """Rename the database and its journals, so that nothing of it is lost. Returns its new path."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    target = home.database.with_name(f"{home.database.name}.damaged-{stamp}")
    for ending in ("", "-wal", "-shm"):
        path = home.database.with_name(home.database.name + ending)
        if path.exists():
            os.replace(path, target.with_name(target.name + ending))
    return target


def _put_back(jobs: Jobs, folder: Path, kind: str) -> bool:
    """One row from `job.json`, `heartbeat` and `outcome.json`. False when the folder is no job's."""
    spec = endings.said(folder / "job.json")
    if spec is None or spec.get("id") != folder.name or (kind and spec.get("kind") != kind):
        return False
    outcome, beat = endings.said(folder / "outcome.json"), endings.said(folder / "heartbeat") or {}
    written = (folder / "job.json").stat().st_mtime
    row: dict[str, Any] = {
        "id": spec["id"],
        "kind": spec["kind"],
        "run_id": spec["run_id"],
        "name": spec.get("name") or spec["params"].get("header", {}).get("title") or spec["id"],
        "params": spec["params"],
        "created": spec.get("created", written),
        "started": written,
    }
    alive = beat.get("boot_id") == machine.boot_id() and machine.process_start(beat["pid"]) == beat["pid_start"]
    if outcome:
        row |= {"state": outcome["state"], "error": outcome["error"], "result": outcome["result"], "ended": outcome["time"]}
    elif alive:
        row |= {"state": "running", "lease": spec.get("lease"), **{name: beat[name] for name in ("pid", "pid_start", "boot_id")}}
    else:
        lost = errors.WorkerLost(step=endings.reached(folder), detail=endings.last_words(folder), kept=endings.kept(spec["kind"], folder))
        row |= {"state": "interrupted", "error": lost.as_dict(), "ended": written}
    jobs.put_back(row)
    return True
