"""What will and will not work here, and what is wrong with a home, for `python -m lora_ui doctor`.

What is safe is mended: a table of runs that is damaged or lost is made anew from the folders, a supervisor that hangs is ended (its
workers live on and are adopted), one that is missing is started, half-written files that nobody writes any more are removed.
"""

from __future__ import annotations

import os
import platform
import pwd
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lora_ui import errors, machine, models, rescue, supervisor
from lora_ui.endings import said
from lora_ui.home import Home, default_root
from lora_ui.jobs import BUSY, MIGRATIONS, WAITING, Jobs

LITTLE_BYTES = 200e6
"""With less than this free on the disk no save point fits."""
LEFT_SECONDS = 3600.0
"""Half-written files that nothing has touched for so long belong to nobody."""


def report(root: Path | None) -> dict[str, Any]:
    """`{machine, versions, home, notes, trouble}`; notes are sentences, trouble is a list of `{found, done, fix}`: `done` is what was
    mended, else None, and `fix` is what a person can do."""
    here = machine.look()
    notes: list[str] = []
    try:
        home = Home.open(root)
    except errors.HomeUnusable as e:
        at = root or default_root()
        place, trouble = {"path": str(at)}, [_unusable(e, at)]
    else:
        trouble = _examine(home)
        place, notes = _about(home)
    return {"machine": asdict(here), "versions": machine.versions(), "home": place, "notes": _notes(here) + notes, "trouble": trouble}


def _notes(here: machine.Machine) -> list[str]:
    notes = []
    if here.device == "cpu":
        notes.append("There is no GPU here: small models train in minutes to hours; 4-bit works, slowly.")
    if here.device == "mps":
        notes.append("4-bit and 8-bit do not work on Apple GPUs.")
    if here.gpus and here.gpus[0].capability < (8, 0):
        notes.append("This GPU is older than bfloat16: float16 is used.")
    if platform.system() == "Windows":
        notes.append("Windows is supported through WSL only.")
    return notes


def _about(home: Home) -> tuple[dict[str, Any], list[str]]:
    """What is in the home, and notes on it. A table that cannot be read is not counted: it stands among the trouble."""
    alive, left = supervisor.living(home), said(home.supervisor_lock) or {}
    ended = f" (process {left['pid']} has ended, its lock is free)" if "pid" in left else ""
    state = f"process {alive['pid']}" if alive else f"not running{ended}; it starts with the first job"
    about: dict[str, Any] = {"path": str(home.root), "free_bytes": home.free_bytes(), "supervisor": state, "jobs": None}
    notes: list[str] = []
    try:
        jobs = Jobs(home.database)
        about["jobs"] = len(jobs.all())
    except errors.LoraUIError:
        return about, notes
    if jobs.journal != "wal":
        notes.append(f"The home folder's file system cannot keep a write-ahead log; the database uses a {jobs.journal} journal instead.")
    if LITTLE_BYTES <= home.free_bytes() < 5e9:
        notes.append("Less than 5 GB is free on the home folder's disk.")
    there = (models.starter_folder(home) / "config.json").exists()
    notes.append("The starter model is on this machine." if there else "The starter model is fetched at its first use.")
    return about, notes


# what is wrong


def _trouble(found: str, fix: str | None = None, done: str | None = None) -> dict[str, str | None]:
    return {"found": found, "done": done, "fix": fix}


def _explained(e: errors.LoraUIError) -> dict[str, str | None]:
    return _trouble(f"{e.message} {e.cause}".strip(), e.fix)


def _examine(home: Home) -> list[dict[str, str | None]]:
    found = [*_owners(home), *_room(home)]
    try:
        found += _table(home)
        found += _unattended(home)
        found += _left_over(home)
    except errors.LoraUIError as e:  # a newer table, a full or read-only disk: nothing was changed
        found.append(_explained(e))
    return found


def _unusable(e: errors.HomeUnusable, root: Path) -> dict[str, str | None]:
    """Why a home cannot be written to, from the nearest folder that is there."""
    at = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    disk, owner = os.statvfs(at), at.stat().st_uid
    if not at.is_dir():
        return _trouble(f"{at} is a file, not a folder.", "Choose another home folder with --home.")
    if disk.f_flag & os.ST_RDONLY:
        return _trouble(
            f"The disk of {at} is read-only.",
            "Mount it for writing (a disk turns read-only by itself after an error: `dmesg` says so), or choose another home with --home.",
        )
    if not disk.f_bavail or not disk.f_favail:
        return _trouble(f"The disk of {at} is full.", "Free some space, or choose another home folder with --home.")
    if owner != os.geteuid() and os.geteuid():
        return _trouble(f"{at} belongs to {_name(owner)}; this is {_name(os.geteuid())}.", _chown(at, owner))
    return _explained(e)


def _owners(home: Home) -> list[dict[str, str | None]]:
    """Files of another user, which this one or that one cannot write."""
    paths = [home.root, *home.root.iterdir(), *home.runs.iterdir()]
    owners = {path.lstat().st_uid: path for path in paths}
    if len(owners) == 1 and (os.geteuid() in owners or not os.geteuid()):
        return []
    other = next(uid for uid in owners if uid != os.geteuid())
    return [_trouble(f"{owners[other]} belongs to {_name(other)}; this is {_name(os.geteuid())}.", _chown(home.root, other))]


def _chown(path: Path, owner: int) -> str:
    return f"Run LoRA UI as {_name(owner)}, or take it over: sudo chown -R {os.geteuid()} {path}"


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _room(home: Home) -> list[dict[str, str | None]]:
    free = home.free_bytes()
    if free >= LITTLE_BYTES:
        return []
    found = f"The disk of {home.root} is full: {free / 1e6:.0f} MB are free. Nothing can be saved."
    return [_trouble(found, "Empty the trash (Runs page, Disk space and restarts), free some space, or choose another home with --home.")]


def _table(home: Home) -> list[dict[str, str | None]]:
    """The table of runs and the process that keeps it. Raises DatabaseTooNew, DatabaseUnusable, DiskFull."""
    found, there, version = [], supervisor.living(home), _version(home.database)
    silent = bool(there) and not _answers(home)
    try:
        jobs = Jobs(home.database)
        jobs.check()
        broken = "The list of runs is empty or lost, but runs lie in their folders." if rescue.emptied(home, jobs) else ""
    except errors.DatabaseDamaged as e:
        broken = f"{e.message} {e.cause}"
    if version and version < len(MIGRATIONS) and not broken:
        found.append(
            _trouble(f"The list of runs was of an older LoRA UI (version {version}).", done=f"It is of version {len(MIGRATIONS)} now.")
        )
    if not silent and not broken:
        return found
    with supervisor.alone(home) as held:
        fix = None if held else "Another machine or container uses this home folder: end it there, then run this again."
        if silent and there:
            done = "Ended it; runs that are training go on, and the next one takes them over." if held else None
            found.append(_trouble(f"The background process that runs jobs ({there['pid']}) holds its lock and does not answer.", fix, done))
        if broken:
            found.append(_trouble(broken, fix, _rescued(home) if held else None))
    return found


def _rescued(home: Home) -> str:
    rescue.table(home)
    note = said(home.rescued) or {}
    aside = f"The file is kept as {note['aside']}. " if note.get("aside") else ""
    return f"{aside}Runs found again from their folders: {note.get('runs', 0)}. Those that waited and had never started are lost: start them again."


def _version(path: Path) -> int | None:
    """Of the table, before it is opened and brought to ours; None when there is none that can be read."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
            return int(db.execute("PRAGMA user_version").fetchone()[0])
    except sqlite3.Error:
        return None


def _answers(home: Home) -> bool:
    try:
        supervisor.tell(home, {})
    except OSError:
        return False
    return True


def _unattended(home: Home) -> list[dict[str, str | None]]:
    """Work that nobody looks after."""
    work = Jobs(home.database).all(states=(*WAITING, *BUSY))
    if not work or supervisor.living(home):
        return []
    found = f"{len(work)} {'job waits or works' if len(work) == 1 else 'jobs wait or work'}, and no background process looks after them."
    try:
        supervisor.ensure(home)
    except errors.SupervisorDidNotStart as e:
        return [_trouble(f"{found} {e.cause}", f"Look at {home.supervisor_log}.")]
    return [_trouble(found, done="Started it.")]


def _left_over(home: Home) -> list[dict[str, str | None]]:
    """Half-written folders of something that was killed. While a job works, any may be its own."""
    if Jobs(home.database).all(states=BUSY):
        return []
    old = time.time() - LEFT_SECONDS
    left = [path for name in (".tmp-*", ".staging") for path in sorted(home.root.rglob(name)) if _touched(path) < old]
    for path in left:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    count = f"{len(left)} half-written {'folder' if len(left) == 1 else 'folders'}"
    return [_trouble(f"{count} of something that was killed: {left[0].relative_to(home.root)}.", done="Removed.")] if left else []


def _touched(path: Path) -> float:
    """When anything in it was last written to, in seconds since the epoch."""
    return max(p.lstat().st_mtime for p in (path, *path.rglob("*")))
