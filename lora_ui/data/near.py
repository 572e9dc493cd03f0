"""Rows of one dataset that are nearly the same as a row of another: training rows against a file of held-out rows.

What is kept is the MinHashes of the other dataset, some 400 MB for a million rows of it; the rows themselves go by a thousand at a
time. What was found stands beside the rows, so that it is looked for once. Not here: rows of one dataset (duplicates.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from lora_ui.data import store
from lora_ui.data.duplicates import ALIKE, SAMPLE, bands, everywhere, signed
from lora_ui.home import Home

_MOST = 100
"""Rows with one band in common that a row is compared with."""


def near(home: Home, digest: str, other: str) -> Any:
    """Positions of the rows of `digest` that are nearly the same as a row of `other`. Raises DataNotFound."""
    path = home.dataset(digest) / f"near-{other}.npy"
    if not path.exists():
        found = _found(home, digest, other)
        part = path.with_suffix(f".{os.getpid()}.part")
        with part.open("wb") as file:
            np.save(file, found)
        part.replace(path)
    return np.load(path)


def _found(home: Home, digest: str, other: str) -> Any:
    common = everywhere(store.rows(home, digest, 0, SAMPLE))
    tested = [hashes[compared] for hashes, compared in (signed(rows, common) for rows in _portions(home, other))]
    signatures = np.unique(np.concatenate(tested), axis=0)
    sorted_bands = []
    for keys in bands(signatures):
        order = np.argsort(keys, kind="stable")
        sorted_bands.append((keys[order], order))
    found: list[int] = []
    start = 0
    for rows in _portions(home, digest):
        hashes, _ = signed(rows, common)
        hit = np.zeros(len(rows), bool)
        for keys, (known, order) in zip(bands(hashes), sorted_bands):
            first, last = np.searchsorted(known, keys, "left"), np.searchsorted(known, keys, "right")
            for at in np.flatnonzero((last > first) & ~hit).tolist():
                alike = signatures[order[first[at] : min(last[at], first[at] + _MOST)]] == hashes[at]
                hit[at] = alike.mean(axis=1).max() >= ALIKE
        found += (start + np.flatnonzero(hit)).tolist()
        start += len(rows)
    return np.array(found, np.int64)


def _portions(home: Home, digest: str) -> Iterator[list[dict[str, Any]]]:
    rows = store.every_row(home, digest)
    while portion := list(islice(rows, store.GROUP)):
        yield portion
