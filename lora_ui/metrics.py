"""Append and tail `metrics.jsonl`: one object per logged step, with the trainer's own keys; NaN and infinity as null."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def append(path: Path, row: dict[str, Any]) -> None:
    """Add one line. `row` holds `step`, `time` (seconds since the epoch) and the trainer's keys."""
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
    with open(path, "a", encoding="utf-8") as f:
        f.write(json.dumps(clean) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """All rows; a last line that is still being written is left for the next read."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1] if line]


def thin(points: list[tuple[float, float]], most: int = 300) -> list[tuple[float, float]]:
    """At most `most` (x, y) points: each bucket keeps its lowest and its highest, so that no spike disappears."""
    if len(points) <= most:
        return points
    size = math.ceil(len(points) / (most // 2))
    kept: list[tuple[float, float]] = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        kept += sorted({min(bucket, key=lambda p: p[1]), max(bucket, key=lambda p: p[1])})
    return kept
