"""What a plan and a prepare job make of the choices about rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lora_ui import preflight, presets, settings
from lora_ui.home import Home
from tests.data.test_checks import pair, prose, usual
from tests.data.test_split import load
from tests.tiny import tiny_model


@pytest.fixture
def planned(tmp_path: Path) -> Any:
    home, base = Home.open(tmp_path / "home"), tiny_model(tmp_path / "base")
    rows = usual(40)
    rows[7] = rows[1]
    load(home, tmp_path, rows)
    load(home, tmp_path, [pair(prose(n), "So.") for n in (900, 901, 902)], "test.jsonl")

    def plan(**chosen: Any) -> dict[str, Any]:
        raw = {"model": {"base_model": str(base)}, "data": {"source": str(tmp_path / "rows.jsonl"), **chosen}}
        return preflight.plan(home, raw)

    return plan


def test_rows_that_are_left_out_or_over_the_limit_do_not_count(planned: Any) -> None:
    plan = planned(leave_out=["duplicate"])
    assert (plan["rows"], plan["train_rows"], plan["held_out_rows"]) == (40, 35, 4)
    assert plan["decisions"]["data.row_limit"]["reason"] == "39 of 40 rows; the others are left out, as chosen"
    plan = planned(row_limit=10, split_seed=7)
    assert (plan["train_rows"], plan["held_out_rows"], plan["prepare"]["row_limit"]) == (9, 1, 10)
    assert plan["decisions"]["data.row_limit"]["reason"] == "10 of 40 rows, picked by chance with the seed 7"
    assert "data.row_limit" not in planned()["decisions"]


def test_a_share_is_held_out_or_a_file_of_its_own(planned: Any, tmp_path: Path) -> None:
    plan = planned(held_out_rows=0.25)
    assert (plan["train_rows"], plan["held_out_rows"]) == (30, 10)
    assert plan["decisions"]["data.held_out_rows"]["reason"] == "10 of 40: the share 0.25 as set"
    plan = planned(held_out_source=str(tmp_path / "test.jsonl"))
    assert (plan["train_rows"], plan["held_out_rows"], plan["prepare"]["held_out_rows"]) == (40, 3, 0)
    assert len(plan["prepare"]["held_out_digest"]) == 16 and not plan["findings"]


def test_a_share_leaves_at_least_a_row_on_each_side() -> None:
    for share, rows, value in ((0.001, 10, 1), (0.99, 3, 2), (0.5, 2, 1)):
        assert presets.held_out(settings.parse({"data": {"held_out_rows": share}}), rows).value == value
