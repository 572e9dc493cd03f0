"""Rows that say the same: word for word, all but word for word, and different answers to one prompt.

What is kept of a row is 8-byte hashes and, for longer ones, a MinHash of its runs of three words: a million rows take some
300 MB. Words in nearly every row (an instruction repeated in each) do not count. Not here: what is said about them (checks.py).
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from rensa import RMinHash

HASHES = 64
BANDS = 8
ALIKE = 0.85
"""Share of runs of words that two rows have in common, as estimated, to be nearly the same."""
ENOUGH = 12
"""Runs of words that a row needs to be compared; shorter ones are the same only when their words are."""
_RUN = 3
SAMPLE = 500
"""First rows by which it is told what stands in nearly every row."""
_EVERYWHERE = 0.2
_WORDS = re.compile(r"[㐀-鿿가-힣ぁ-ヿ]|[^\W㐀-鿿가-힣ぁ-ヿ]+")
_SEED = 42
_MIX = np.uint64(0x9E3779B97F4A7C15)


def content(row: dict[str, Any]) -> tuple[str, str, str]:
    """(opening: all before the first answer; prompt: all before the last answer; that answer) as text; three times the text of a
    row that is no conversation."""
    if "text" in row:
        return row["text"], row["text"], row["text"]
    told = [f"{m['role']}: {m.get('content') or ''}{m.get('tool_calls') or ''}" for m in row["messages"]]
    answers = [i for i, m in enumerate(row["messages"]) if m["role"] == "assistant"] or [len(told)]
    return "\n".join(told[: answers[0]]), "\n".join(told[: answers[-1]]), "\n".join(told[answers[-1] :])


class Duplicates:
    """Takes rows one by one (`add`), then tells who repeats whom. Positions count from 0."""

    def __init__(self) -> None:
        self.openings, self.prompts, self.answers, self.words = array("q"), array("q"), array("q"), array("q")
        self._signatures = bytearray()
        self._compared: list[Any] = []
        self._waiting: list[list[str]] = []
        self._common: set[str] | None = None

    def add(self, row: dict[str, Any]) -> None:
        opening, prompt, answer = content(row)
        self.openings.append(number(opening))
        self.prompts.append(number(prompt))
        self.answers.append(number(answer))
        words = _words(row)
        self.words.append(number(" ".join(words)))
        self._waiting.append(_runs(words))
        if len(self._waiting) >= SAMPLE:
            self._sign()

    def _sign(self) -> None:
        """MinHashes of the rows that wait. What is common is what is common among the first rows."""
        if self._common is None:
            self._common = _everywhere(self._waiting)
        signatures, compared = _signed(self._waiting, self._common)
        self._signatures += signatures.tobytes()
        self._compared.append(compared)
        self._waiting = []

    def repeats(self) -> Any:
        """For each row whether an earlier one is the same word for word."""
        return _repeated(_both(self.prompts, self.answers))

    def groups(self) -> tuple[Any, Any]:
        """(group of each row: same opening or nearly the same words; whether nearly the same as an earlier row)."""
        if self._waiting:
            self._sign()
        count = len(self.words)
        parent = np.arange(count)
        for of in (np.frombuffer(self.openings, np.int64), np.frombuffer(self.words, np.int64)):
            for one, other in _neighbours(of):
                _join(parent, one, other)
        near = _repeated(np.frombuffer(self.words, np.int64).copy())
        for one, other in self._alike():
            near[max(one, other)] = True
            _join(parent, one, other)
        return np.array([_root(parent, i) for i in range(count)], np.int64), near & ~self.repeats()

    def _alike(self) -> Iterator[tuple[int, int]]:
        """Pairs of positions whose signatures agree in one band and, over all, in ALIKE of their hashes."""
        if not self._signatures:
            return
        signatures = np.frombuffer(self._signatures, np.uint32).reshape(-1, HASHES)
        compared = np.flatnonzero(np.concatenate(self._compared))
        for keys in bands(signatures, compared):
            for one, other in _neighbours(keys):
                pair = compared[one], compared[other]
                if np.mean(signatures[pair[0]] == signatures[pair[1]]) >= ALIKE:
                    yield int(pair[0]), int(pair[1])

    def conflicts(self) -> list[int]:
        """Positions of rows whose prompt has different answers."""
        prompts, answers = np.frombuffer(self.prompts, np.int64), np.frombuffer(self.answers, np.int64)
        order = np.lexsort((answers, prompts))
        sorted_prompts, sorted_answers = prompts[order], answers[order]
        differs = (sorted_prompts[1:] == sorted_prompts[:-1]) & (sorted_answers[1:] != sorted_answers[:-1])
        return np.flatnonzero(np.isin(prompts, np.unique(sorted_prompts[1:][differs]))).tolist()


def everywhere(rows: list[dict[str, Any]]) -> set[str]:
    """Runs of words that stand in so many of these rows that they do not count; `rows` are the first SAMPLE of a dataset."""
    return _everywhere([_runs(_words(row)) for row in rows])


def signed(rows: list[dict[str, Any]], common: set[str]) -> tuple[Any, Any]:
    """(MinHashes, a row of HASHES numbers each; whether the row has enough words to be compared)."""
    return _signed([_runs(_words(row)) for row in rows], common)


def bands(signatures: Any, rows: Any = slice(None)) -> Iterator[Any]:
    """For each band, a number per row (of those chosen) that is the same where the band is."""
    width = HASHES // BANDS
    for begin in range(0, HASHES, width):
        keys = np.zeros(len(signatures[rows, 0]), np.uint64)
        for at in range(begin, begin + width):
            keys = (keys ^ signatures[rows, at]) * _MIX
        yield keys


def _words(row: dict[str, Any]) -> list[str]:
    return _WORDS.findall(_spoken(row).lower())


def _runs(words: list[str]) -> list[str]:
    return [" ".join(words[i : i + _RUN]) for i in range(len(words) - _RUN + 1)] if len(words) > ENOUGH else []


def _everywhere(waiting: list[list[str]]) -> set[str]:
    often = Counter(run for runs in waiting for run in set(runs))
    return {run for run, count in often.items() if count > _EVERYWHERE * len(waiting)} if len(waiting) >= 100 else set()


def _signed(waiting: list[list[str]], common: set[str]) -> tuple[Any, Any]:
    if common:
        waiting = [[run for run in runs if run not in common] for runs in waiting]
    rows = RMinHash.digest_matrix_from_token_sets(waiting, HASHES, _SEED).to_rows()
    return np.array(rows, np.uint32).reshape(-1, HASHES), np.array([len(runs) >= ENOUGH for runs in waiting], bool)


def number(text: str) -> int:
    """A 64-bit hash that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little", signed=True)


def _spoken(row: dict[str, Any]) -> str:
    """What user and assistant say; a system prompt is the same in many rows."""
    return str(row["text"]) if "text" in row else "\n".join(m.get("content") or "" for m in row["messages"] if m["role"] != "system")


def _both(prompts: array[int], answers: array[int]) -> Any:
    mixed = np.frombuffer(prompts, np.uint64) * _MIX
    return (mixed ^ np.frombuffer(answers, np.uint64)).astype(np.int64)


def _repeated(values: Any) -> Any:
    """Whether the same value stood earlier."""
    first = np.unique(values, return_index=True)[1]
    repeated = np.ones(len(values), bool)
    repeated[first] = False
    return repeated


def _neighbours(values: Any) -> Iterator[tuple[int, int]]:
    """Each position with the one before it that has the same value."""
    order = np.argsort(values, kind="stable")
    same = np.flatnonzero(values[order][1:] == values[order][:-1])
    for at in same.tolist():
        yield int(order[at]), int(order[at + 1])


def _root(parent: Any, at: int) -> int:
    while parent[at] != at:
        parent[at] = parent[parent[at]]
        at = int(parent[at])
    return at


def _join(parent: Any, one: int, other: int) -> None:
    first, second = sorted((_root(parent, one), _root(parent, other)))
    parent[second] = first
