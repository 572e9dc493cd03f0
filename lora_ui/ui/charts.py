"""Curves as numbers and as markup: smoothing, thinning, the data frame behind a LinePlot, legend rows and sparklines.

Pure functions: the plots themselves are drawn by the run page. Colours are the theme's three, one meaning each.
"""

from __future__ import annotations

import math
from html import escape

import pandas as pd

from lora_ui import metrics
from lora_ui.ui import theme

TRAINING, HELD_OUT, BASE = "training", "held_out", "base"
COLOURS = {key: theme.TOKENS[token][0] for key, token in ((TRAINING, "curve-train"), (HELD_OUT, "curve-held-out"), (BASE, "curve-base"))}
MOST_POINTS = 300

Points = list[tuple[float, float]]


def smooth(points: Points, share: float = 0.05) -> Points:
    """Bias-corrected running mean over about `share` of the points: the first value is the first point itself."""
    keep = 1 - 1 / max(1.0, len(points) * share)
    mean, weight, out = 0.0, 0.0, []
    for step, value in points:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        out.append((step, mean / weight))
    return out


def nice_end(steps: float) -> float:
    """The right end of the x axis: the next multiple of 1, 2 or 5 times a power of ten that leaves at most a tenth free."""
    if steps <= 10:
        return max(1.0, math.ceil(steps))
    unit = 10 ** math.floor(math.log10(steps) - 1)
    return next(math.ceil(steps / (unit * k)) * unit * k for k in (5, 2, 1) if math.ceil(steps / (unit * k)) * unit * k <= steps * 1.1)


def frame(series: dict[str, Points], names: dict[str, str], x: str, y: str, which: str) -> pd.DataFrame:
    """Rows for a LinePlot: columns `x`, `y`, `which`; at most 300 points a series, drawn in the order given (the last one on top)."""
    rows = [(step, value, names[key]) for key, points in series.items() for step, value in metrics.thin(points, MOST_POINTS)]
    table = pd.DataFrame(rows, columns=[x, y, which])
    return table.astype({x: "float64", y: "float64", which: "str"})


def loss_series(curves: dict[str, Points], base: float | None, total: float, every_step: bool) -> dict[str, Points]:
    """Training (smoothed unless `every_step`), the base model's held-out loss as a level line, held-out as measured and last, hence on top."""
    train = curves["loss"]
    series = {TRAINING: train if every_step else smooth(train)}
    if base is not None:
        series[BASE] = [(0.0, base), (total, base)]
    series[HELD_OUT] = curves["eval_loss"]
    return {key: points for key, points in series.items() if points}


def legend(entries: list[tuple[str, str, str]]) -> str:
    """A row above a chart of (key, name, latest value as text): swatch, name, value."""
    items = "".join(
        f'<li><span class="swatch" style="background:{COLOURS[key]}" aria-hidden="true"></span>{escape(name)} <b>{escape(latest)}</b></li>'
        for key, name, latest in entries
    )
    return f'<ul class="legend">{items}</ul>'


def sparkline(points: Points, label: str, width: int = 120, height: int = 28) -> str:
    """An inline SVG line of `points` in one colour, its last point marked; empty with fewer than two points."""
    points = metrics.thin(points, 60)
    if len(points) < 2:
        return ""
    (x0, x1), (y0, y1) = ((min(v), max(v)) for v in zip(*points, strict=True))
    pad = 3
    place = [
        (
            pad + (x - x0) / ((x1 - x0) or 1) * (width - 2 * pad),
            height - pad - (y - y0) / ((y1 - y0) or 1) * (height - 2 * pad),
        )
        for x, y in points
    ]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in place)
    (ex, ey) = place[-1]
    return (
        f'<svg class="spark" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{escape(label)}">'
        f'<polyline points="{line}" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linejoin="round"/>'
        f'<circle cx="{ex:.1f}" cy="{ey:.1f}" r="2.5" fill="currentColor"/></svg>'
    )
