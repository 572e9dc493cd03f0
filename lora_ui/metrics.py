"""Append and tail `metrics.jsonl`: one object per logged step, with the trainer's own keys; NaN and infinity as null."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

from lora_ui.home import write_text


def append(path: Path, row: dict[str, Any]) -> None:
    """Add one line, whole or not at all (OSError). `row` holds `step`, `time` (seconds since the epoch) and the trainer's keys."""
    line = _line(row).encode()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        before = os.fstat(fd).st_size
        if os.write(fd, line) < len(line):  # the disk became full on the way
            os.ftruncate(fd, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(fd)


def rewrite(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace all lines in one step."""
    write_text(path, "".join(map(_line, rows)))


def _line(row: dict[str, Any]) -> str:
    return json.dumps({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}) + "\n"


def read(path: Path) -> list[dict[str, Any]]:
    """All rows; a last line that is still being written is left for the next read."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.split("\n")[:-1] if line]


def middle(rows: list[dict[str, Any]], name: str) -> float | None:
    """The median of a figure that not every row has."""
    known = sorted(row[name] for row in rows if row.get(name))
    return known[len(known) // 2] if known else None


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
