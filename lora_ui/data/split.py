"""Which rows are used, and which of them are kept aside: after what a person left out, a row limit, and a fair split.

Rows that belong together (the same opening, nearly the same words) stay on one side, so that the test is no repetition. The same
seed gives the same rows. Positions count the dataset's rows from 0.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lora_ui.data.checks import FLAGS, marks
from lora_ui.data.near import near
from lora_ui.home import Home


@dataclass(frozen=True)
class Split:
    """`used`: positions in order; `held_out`: those of them kept aside; `left_out`: row numbers by code; `over_limit`: how many rows
    the limit left out; `leaks`: numbers of training rows that a held-out row repeats (same opening or same words,
    and nearly the same words where the test is a dataset of its own)."""

    used: list[int]
    held_out: frozenset[int]
    left_out: dict[str, list[int]]
    over_limit: int
    leaks: list[int]


def usable(home: Home, digest: str, leave_out: Sequence[str], row_limit: int | None) -> int:
    """How many rows can be used before a tokenizer has looked at them. Raises DataNotFound."""
    if not set(leave_out) & set(FLAGS):
        return min(len(marks(home, digest)["row"]), row_limit or 2**62)
    return min(int(_kept(marks(home, digest), leave_out).sum()), row_limit or 2**62)


def split(
    home: Home,
    digest: str,
    leave_out: Sequence[str],
    row_limit: int | None,
    held_out_rows: int,
    seed: int,
    held_out_digest: str | None = None,
) -> Split:
    """`held_out_rows` of these rows are kept aside, fewer where groups do not add up; with `held_out_digest` the test is all rows
    of that dataset. Leaks are taken out of training when `leave_out` names `leak`. Raises DataNotFound."""
    seen = marks(home, digest)
    kept = _kept(seen, leave_out)
    left_out = {code: seen["row"][seen[code]].tolist() for code in leave_out if code in FLAGS and seen[code].any()}
    used = np.flatnonzero(kept)
    over_limit = 0
    if row_limit is not None and len(used) > row_limit:
        over_limit = len(used) - row_limit
        used = np.array(sorted(random.Random(seed).sample(used.tolist(), row_limit)), np.int64)
    aside = _aside(used, seen["group"], held_out_rows, seed)
    tested = marks(home, held_out_digest) if held_out_digest else {k: seen[k][sorted(aside)] for k in ("opening", "words")}
    alike = near(home, digest, held_out_digest) if held_out_digest else np.empty(0, np.int64)  # groups see to it otherwise
    leaking = _leaks(seen, np.array([at for at in used.tolist() if at not in aside], np.int64), tested, alike)
    if "leak" in leave_out and len(leaking):
        left_out["leak"] = seen["row"][leaking].tolist()
        used, leaking = np.setdiff1d(used, leaking), leaking[:0]
    return Split(used.tolist(), frozenset(aside), left_out, over_limit, seen["row"][leaking].tolist())


def _kept(seen: dict[str, Any], leave_out: Sequence[str]) -> Any:
    kept = np.ones(len(seen["row"]), bool)
    for code in set(leave_out) & set(FLAGS):
        kept &= ~seen[code]
    return kept


def _aside(used: Any, groups: Any, count: int, seed: int) -> set[int]:
    """Positions of whole groups, in an order drawn by chance, as long as they fit into `count`; when not even half of `count` can
    be filled so (one opening in nearly all rows, say), single rows."""
    _, firsts, group, sizes = np.unique(groups[used], return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(firsts).tolist()
    random.Random(seed).shuffle(order)
    taken: list[int] = []
    left = count
    for one in order:
        if not left:
            break
        if sizes[one] <= left:
            taken.append(one)
            left -= int(sizes[one])
    if 2 * left > count:
        return set(random.Random(seed).sample(used.tolist(), min(count, len(used))))
    return set(used[np.isin(group, taken)].tolist())


def _leaks(seen: dict[str, Any], training: Any, tested: dict[str, Any], alike: Any) -> Any:
    """Positions of training rows with an opening or the words of a tested one, or that are among those `alike`."""
    repeated = np.isin(seen["opening"][training], tested["opening"]) | np.isin(seen["words"][training], tested["words"])
    repeated |= np.isin(training, alike)
    return training[repeated]
