"""What ended runs measured enters the estimate: only here, only of this kind of device, within bounds, and said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lora_ui import calibration, machine, memory, preflight, runs, settings
from lora_ui.home import Home
from lora_ui.jobs import Jobs
from lora_ui.memory import Step
from lora_ui.models import catalogue, find
from lora_ui.ui import fitting
from lora_ui.ui.words import Words
from tests.tiny import tiny_model
from tests.ui import made


def ran(home: Home, ratio: float, device: str = "cpu", factor: float = 1.0, state: str = "finished") -> None:
    """A run that used `ratio` times what was estimated before `factor` was counted in."""
    id = made.submit(home).id
    made.claim(home, id)
    told = {"predicted_bytes": round(factor * 2e9), "measured_bytes": round(ratio * 2e9), "device": device, "factor": factor}
    Jobs(home.database).ended(id, state, None, {"memory": told, "tokens_per_second": None})


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


def factor(home: Home, device: str = "cpu") -> float:
    return calibration.factor(Jobs(home.database).all("train", ("finished", "stopped")), device)


def test_two_runs_are_not_enough_and_three_give_their_median(home: Home) -> None:
    for ratio in (1.02, 1.04):
        ran(home, ratio)
    assert factor(home) == 1
    ran(home, 1.2)
    assert factor(home) == 1.04
    assert factor(home, "cuda") == 1


def test_what_was_counted_in_before_is_not_counted_in_again(home: Home) -> None:
    for before in (1.0, 1.04, 1.04):
        ran(home, 1.04, factor=before)
    assert factor(home) == 1.04


def test_it_is_bounded_and_small_differences_are_none(home: Home) -> None:
    for _ in range(3):
        ran(home, 9.0)
    assert factor(home) == calibration.BOUNDS[1]
    for _ in range(7):
        ran(home, 0.1)
    assert factor(home) == calibration.BOUNDS[0]
    for _ in range(10):
        ran(home, 1.004)
    assert factor(home) == 1, "only the newest are asked"


def test_runs_without_figures_say_nothing(home: Home) -> None:
    for _ in range(3):
        id = made.ended(home, "finished")
        assert Jobs(home.database).get(id).result
    assert factor(home) == 1


def test_the_estimate_grows_by_what_runs_measure_of_it_and_says_so(home: Home, tmp_path: Path) -> None:
    base = find(home, str(tiny_model(tmp_path / "base")))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"What is {n}?", "answer": f"The number {n}."}) + "\n" for n in range(40)))
    raw: dict[str, Any] = {"model": {"base_model": base.name}, "data": {"source": str(rows)}}
    before, told = preflight.plan(home, raw), runs.fit_report(home, raw)
    assert before["memory"]["calibration"] is None and before["calibration"] == 1 and told["calibration"] is None
    device = machine.look().device
    for _ in range(3):
        ran(home, 1.04, device)
    plan, report = preflight.plan(home, raw), runs.fit_report(home, raw)
    assert plan["predicted_bytes"] == pytest.approx(1.04 * before["predicted_bytes"], abs=2)
    assert plan["memory"]["predicted_bytes"] == sum(plan["memory"]["items"].values()) > before["memory"]["predicted_bytes"]
    assert report["items"]["calibration"] == pytest.approx(0.04 * memory.measurable(told["items"], device), abs=2)
    assert plan["calibration"] == runs.asked(home, raw)["calibration"] == 1.04
    assert "4 % more memory than estimated" in fitting.items(Words("en"), plan) and "多 4 %" in fitting.items(Words("zh"), plan)
    assert report["calibration"]["text"].startswith("On this machine runs used 4 % more")
    there = preflight.plan(home, {**raw, "model": {"base_model": base.name, "load_in_4bit": "auto"}}, gpu_memory=8 * 2**30)
    elsewhere = there["memory"]
    assert elsewhere["calibration"] is None and "calibration" not in elsewhere["items"]
    assert "of 8.0 GB is enough with 16 bits" in there["decisions"][memory.PRECISION]["reason"]  # of the GPU that was asked about


def test_less_is_counted_in_too() -> None:
    place = memory.Place("x", "cuda", "bfloat16", 10**10, 10**10, factor=0.95)
    assert str(calibration.said(place)).startswith("On this machine runs used 5 % less")
    base = next(model for model in catalogue() if model.name == "Qwen/Qwen3-0.6B")
    plain = memory.items(base, settings.parse({}), Step(1, 512, False, "cuda", "bfloat16"))
    less = memory.items(base, settings.parse({}), Step(1, 512, False, "cuda", "bfloat16", 0.95))
    assert plain and less and less["calibration"] == pytest.approx(-0.05 * memory.measurable(plain, "cuda"), abs=2)
    assert less["context"] == plain["context"]
