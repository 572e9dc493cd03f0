"""What will and will not work here, for `python -m lora_ui doctor`."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

from lora_ui import machine, models, supervisor
from lora_ui.home import Home
from lora_ui.jobs import Jobs


def report(home: Home) -> dict[str, Any]:
    """`{machine, versions, home, notes}`; notes are sentences."""
    here = machine.look()
    jobs = Jobs(home.database)
    jobs.queue()
    alive = supervisor.living(home)
    notes = []
    if here.device == "cpu":
        notes.append("There is no GPU here: small models train in minutes to hours; 4-bit works, slowly.")
    if here.device == "mps":
        notes.append("4-bit and 8-bit do not work on Apple GPUs.")
    if here.gpus and here.gpus[0].capability < (8, 0):
        notes.append("This GPU is older than bfloat16: float16 is used.")
    if platform.system() == "Windows":
        notes.append("Windows is supported through WSL only.")
    if jobs.journal != "wal":
        notes.append(f"The home folder's file system cannot keep a write-ahead log; the database uses a {jobs.journal} journal instead.")
    if home.free_bytes() < 5e9:
        notes.append("Less than 5 GB is free on the home folder's disk.")
    notes.append(
        "The starter model is on this machine."
        if (models.starter_folder(home) / "config.json").exists()
        else "The starter model is fetched at its first use."
    )
    return {
        "machine": asdict(here),
        "versions": machine.versions(),
        "home": {
            "path": str(home.root),
            "free_bytes": home.free_bytes(),
            "supervisor": f"process {alive['pid']}" if alive else "not running; it starts with the first job",
            "jobs": len(jobs.all()),
        },
        "notes": notes,
    }
