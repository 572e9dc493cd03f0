"""Which rows are used and which are kept aside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lora_ui import data
from lora_ui.data.split import split, usable
from lora_ui.home import Home
from tests.data.test_checks import pair, prose, usual


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


def load(home: Home, folder: Path, rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data.load(home, folder / name).digest


def test_the_seed_alone_decides(home: Home, tmp_path: Path) -> None:
    digest = load(home, tmp_path, usual(40))
    first = split(home, digest, [], None, 6, 42)
    assert len(first.held_out) == 6 and first.used == list(range(40)) and not first.leaks
    assert split(home, digest, [], None, 6, 42) == first
    assert split(home, digest, [], None, 6, 43).held_out != first.held_out


def test_rows_that_belong_together_stay_on_one_side(home: Home, tmp_path: Path) -> None:
    rows = []
    for n in range(30):  # three rows with one opening, and one that is nearly the same as the first
        rows += [pair(f"About {prose(n, 6)}", prose(100 * n + k)) for k in range(3)]
        rows.append(pair(f"Tell {prose(n, 6)}", prose(100 * n) + " indeed"))
    digest = load(home, tmp_path, rows)
    for seed in range(5):
        aside = split(home, digest, [], None, 13, seed)
        assert len(aside.held_out) == 12
        assert {at // 4 for at in aside.held_out} & {at // 4 for at in aside.used if at not in aside.held_out} == set()
        assert aside.leaks == []


def test_one_opening_in_all_rows_is_split_row_by_row_and_told(home: Home, tmp_path: Path) -> None:
    digest = load(home, tmp_path, [pair("Write a poem.", prose(n)) for n in range(20)])
    found = split(home, digest, [], None, 4, 42)
    assert len(found.held_out) == 4 and len(found.leaks) == 16
    assert split(home, digest, ["leak"], None, 4, 42).used == sorted(found.held_out)


def test_rows_are_left_out_by_code_and_limited(home: Home, tmp_path: Path) -> None:
    rows = usual(30)
    rows[7], rows[8] = rows[1], pair(rows[8]["question"], "My key is AKIAABCDEFGHIJKLMNOP, keep it.")
    digest = load(home, tmp_path, rows)
    found = split(home, digest, ["duplicate", "secret", "language"], None, 0, 42)
    assert (found.left_out, found.over_limit) == ({"duplicate": [8], "secret": [9]}, 0)
    assert found.used == [at for at in range(30) if at not in (7, 8)]
    limited = split(home, digest, ["duplicate"], 10, 2, 42)
    assert (len(limited.used), limited.over_limit, len(limited.held_out)) == (10, 19, 2)
    assert limited.used == sorted(limited.used) and limited.held_out <= set(limited.used)
    assert [usable(home, digest, *asked) for asked in (([], None), (["duplicate"], None), (["duplicate"], 10), (["too_long"], 99))] == [
        30, 29, 10, 30,
    ]  # fmt: skip


def test_held_out_rows_of_their_own_and_leaks(home: Home, tmp_path: Path) -> None:
    rows = usual(20)
    digest = load(home, tmp_path, rows)
    tested = load(home, tmp_path, [rows[3], pair(rows[4]["question"], "Another."), pair(prose(900), prose(901))], "test.jsonl")
    found = split(home, digest, [], None, 0, 42, tested)
    assert (found.held_out, found.leaks, len(found.used)) == (frozenset(), [4, 5], 20)
    clean = split(home, digest, ["leak"], None, 0, 42, tested)
    assert (clean.leaks, clean.left_out, len(clean.used)) == ([], {"leak": [4, 5]}, 18)


def test_rows_that_are_nearly_the_same_as_held_out_ones_leak(home: Home, tmp_path: Path) -> None:
    told = prose(1, 1000)  # stands in every row, so it makes none of them alike
    rows = [pair(f"{told} {prose(n + 10, 20)}?", prose(n + 5000, 40)) for n in range(1100)]
    tests = [pair("Well, " + rows[n]["question"], rows[n]["answer"] + " indeed") for n in (3, 900, 1099)]
    tests += [pair(f"{told} {prose(n + 9000, 20)}?", prose(n + 90000, 40)) for n in range(100)]
    tests += [pair("Well, " + rows[7]["question"], prose(777, 40))]
    digest, tested = load(home, tmp_path, rows), load(home, tmp_path, tests, "test.jsonl")
    assert split(home, digest, [], None, 0, 42, tested).leaks == [4, 901, 1100]
    clean = split(home, digest, ["leak"], None, 0, 42, tested)
    assert (clean.leaks, clean.left_out, len(clean.used)) == ([], {"leak": [4, 901, 1100]}, 1097)
    short = load(home, tmp_path, [pair("Is it near?", "Yes."), pair("Is it far?", "No.")], "short.jsonl")  # too short to be compared
    assert split(home, digest, [], None, 0, 42, short).leaks == split(home, short, [], None, 0, 42, digest).leaks == []
