"""How long the rows are, as a picture: a histogram of tokens per row, with the longest length that is kept as a line.

The picture is an SVG without a view box: places across are per cent, so that its words keep their size on a phone.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet

from lora_ui.ui.charts import nice_end
from lora_ui.ui.shell import esc, number
from lora_ui.ui.words import Words

BARS = 32
TOP, HEIGHT, BOTTOM = 28, 152, 180
"""Pixels: where the highest bar ends, how high it is, where the axis is."""


@functools.lru_cache(8)
def _cut(folder: str) -> tuple[int, ...]:
    """How many tokens each row lost that lost some."""
    found: list[int] = []
    for split in ("train", "held_out"):
        path = Path(folder) / f"{split}.parquet"
        if path.is_file():
            found += [lost for lost in pyarrow.parquet.read_table(path, columns=["cut_tokens"])["cut_tokens"].to_pylist() if lost]
    return tuple(found)


def whole(summary: dict[str, Any], longest: int) -> Counter[int]:
    """How many rows have how many tokens, before any is cut at `longest`; `summary` as `runs.prepared` gives it."""
    counts = Counter(summary["lengths"])
    if summary["truncated"]:
        lost = _cut(summary["folder"])
        counts[longest] -= len(lost)
        counts.update(longest + more for more in lost)
    return +counts


def padding(counts: Counter[int], together: int) -> float:
    """Share of padding where `together` rows drawn by chance are filled up to the longest of them: 1 - mean / E[longest]."""
    rows, below, longest = counts.total(), 0, 0.0
    for length, count in sorted(counts.items()):
        longest += length * (((below + count) / rows) ** together - (below / rows) ** together)
        below += count
    return 1 - sum(length * count for length, count in counts.items()) / rows / longest


def cost(t: Words, summary: dict[str, Any], longest: int, decided: dict[str, Any]) -> str:
    """What rows side by side cost, what rows end to end cost, and how many steps a round takes; `decided` as `presets.decide` gives it."""
    learned, tokens = Counter(summary["train_lengths"]), summary["train_tokens"]
    together = decided["training.global_batch_size"].value
    packed = 1 - tokens / (longest * math.ceil(tokens / longest))
    shares = {"padded": f"{padding(learned, together):.0%}", "packed": f"{packed:.0%}"}
    how = t("data.packed" if decided["training.packing"].value else "data.side_by_side")
    steps = t("data.steps", n=number(decided["steps_per_round"].value), how=how)
    return f'<p class="num">{esc(t("data.padding", together=together, **shares))} {esc(steps)}</p>'


def picture(t: Words, summary: dict[str, Any], longest: int) -> str:
    """The sentence and the picture; `longest`: tokens at which rows are cut."""
    counts = whole(summary, longest)
    rows, kept = counts.total(), counts.total() - summary["truncated"]
    said = t("data.lengths_whole", length=number(longest), most=number(max(counts)), middle=number(_middle(counts)))
    if summary["truncated"]:
        share = f"{math.floor(1000 * kept / rows) / 10:g}"
        said = t("data.lengths_cut", length=number(longest), share=share, n=number(summary["truncated"]), most=number(max(counts)))
    return f'<p>{esc(said)}</p>{_svg(t, counts, longest, said)}<p class="muted">{esc(t("data.lengths_axis"))}</p>'


def _middle(counts: Counter[int]) -> int:
    left = (counts.total() + 1) // 2
    for length in sorted(counts):
        left -= counts[length]
        if left <= 0:
            return length
    raise AssertionError("no rows")


def _svg(t: Words, counts: Counter[int], longest: int, said: str) -> str:
    most = max(counts)
    shown = longest <= 4 * most  # a line far to the right would press all bars into a corner
    end = nice_end(max(min(most, 2 * longest), 1.1 * longest if shown else 0))
    # a bar ends at the line, so that none is both kept and cut
    width = longest / max(1, round(longest / (end / BARS))) if shown else end / BARS
    bars: Counter[int] = Counter()
    last = math.ceil(end / width) - 1
    for length, count in counts.items():
        bars[min(last, max(0, math.ceil(length / width) - 1))] += count
    end = width * (last + 1)
    highest = max(bars.values())
    drawn = []
    for bar, count in sorted(bars.items()):
        high = max(2.0, HEIGHT * count / highest)
        kind = "cut" if shown and bar * width >= longest else "kept"
        label = t(
            "data.lengths_bar", first=number(math.floor(bar * width) + 1), last=number(math.floor((bar + 1) * width)), n=number(count)
        )
        drawn.append(
            f'<rect class="{kind}" x="{100 * bar * width / end:.2f}%" y="{BOTTOM - high:.1f}" width="{85 * width / end:.2f}%" height="{high:.1f}">'
            f"<title>{esc(label)}</title></rect>"
        )
    line = _line(t, 100 * longest / end, longest) if shown else ""
    return (
        f'<svg class="lengths" width="100%" height="208" role="img" aria-label="{esc(said)}">{"".join(drawn)}'
        f'<line class="axis" x1="0" x2="100%" y1="{BOTTOM}" y2="{BOTTOM}"/>{_ticks(end, most)}{line}'
        f'<text x="0" y="14">{esc(t("data.lengths_highest", n=number(highest)))}</text></svg>'
    )


def _line(t: Words, at: float, longest: int) -> str:
    anchor, shift = ("end", -6) if at > 60 else ("start", 6)
    return (
        f'<line class="limit" x1="{at:.2f}%" x2="{at:.2f}%" y1="20" y2="{BOTTOM}"/>'
        f'<text class="limit" x="{at:.2f}%" dx="{shift}" y="32" text-anchor="{anchor}">{esc(t("data.lengths_line", n=number(longest)))}</text>'
    )


def _ticks(end: float, most: int) -> str:
    """Four to five round numbers along the axis; the last one says when longer rows stand in the last bar."""
    unit = 10 ** math.floor(math.log10(max(1.0, end / 4)))
    step = next(unit * k for k in (1, 2, 5, 10) if end / (unit * k) <= 5)
    ticks = [step * i for i in range(int(end / step) + 1) if step * i <= 0.93 * end]
    words = "".join(
        f'<text x="{100 * at / end:.2f}%" y="200" text-anchor="{"middle" if at else "start"}">{number(at)}</text>' for at in ticks
    )
    return words + (f'<text x="100%" y="200" text-anchor="end">≥ {number(end)}</text>' if most > end else "")
