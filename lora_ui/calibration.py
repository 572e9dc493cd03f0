"""What the runs that ended on this machine say about the estimate of memory: how much more, or less, they really used."""

from __future__ import annotations

import statistics
from dataclasses import replace

from lora_ui import memory
from lora_ui.errors import Say
from lora_ui.home import Home
from lora_ui.jobs import Job, Jobs
from lora_ui.machine import Machine
from lora_ui.memory import Place

ENOUGH, LATEST = 3, 10
"""Runs that have to agree before anything is counted in, and how many of the newest are asked."""
BOUNDS = 0.9, 1.3
"""No history makes an estimate smaller or larger than this: one odd run must not let everything fit, or nothing."""


def factor(ended: list[Job], device: str) -> float:
    """Median of measured ÷ estimated (before calibration) of the newest runs on this kind of device, within `BOUNDS`; 1 where too few
    have ended, or where it is less than a percent."""
    known = [(job.result or {}).get("memory") or {} for job in ended]
    ratios = [
        one["measured_bytes"] / (one["predicted_bytes"] / one.get("factor", 1.0))
        for one in known
        if one.get("device") == device and one.get("predicted_bytes") and one.get("measured_bytes")
    ]
    if len(ratios) < ENOUGH:
        return 1.0
    middle = round(min(max(statistics.median(ratios[:LATEST]), BOUNDS[0]), BOUNDS[1]), 3)
    return middle if abs(middle - 1) >= 0.01 else 1.0


def here(home: Home, machine: Machine) -> list[Place]:
    """`memory.here`, each place with what its kind of device has shown so far."""
    ended = Jobs(home.database).all("train", ("finished", "stopped"))
    return [replace(place, factor=factor(ended, place.device)) for place in memory.here(machine)]


def said(place: Place) -> Say | None:
    """In words, that and how much is counted in; None where nothing is."""
    if place.factor == 1:
        return None
    if place.factor > 1:
        return Say(
            "On this machine runs used {percent} % more memory than estimated; this is counted in.",
            percent=f"{100 * (place.factor - 1):.0f}",
        )
    return Say(
        "On this machine runs used {percent} % less memory than estimated; this is counted in.", percent=f"{100 * (1 - place.factor):.0f}"
    )
