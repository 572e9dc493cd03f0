"""Presets are real plans; what `auto` comes to is sensible, agrees with trainer and packing, and says why."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl import pack_dataset

from lora_ui import errors, presets, settings
from lora_ui.home import Home
from lora_ui.presets import Preset, decide, held_out
from lora_ui.settings import Settings

OURS = ["quick-check", "cpu", "balanced", "small-gpu", "tiny-data", "style", "knowledge", "long-context", "high-quality"]
GIB = 1024**3


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


def plan(home: Home, name: str, **changes: Any) -> Settings:
    return settings.parse(settings.merge(presets.get(home, name).settings, changes))


def values(decided: dict[str, presets.Decision]) -> dict[str, Any]:
    return {key: decision.value for key, decision in decided.items()}


# The files


def test_all_nine_are_there_in_order_and_name_their_sources(home: Home) -> None:
    listed = presets.all_presets(home)
    assert [preset.name for preset in listed] == OURS
    for preset in listed:
        chosen = settings.parse(preset.settings)
        assert preset.title and preset.summary and preset.sources and not preset.own
        assert preset.machine in ("any", "cpu", "gpu")
        assert chosen.adapter.target_modules == "all-linear"
        assert 1e-4 <= chosen.training.learning_rate <= 1e-3
        assert not preset.settings.get("data") and "base_model" not in preset.settings.get("model", {})


def test_what_sets_them_apart(home: Home) -> None:
    assert plan(home, "small-gpu").model.load_in_4bit
    assert plan(home, "tiny-data").evaluation.early_stopping_patience > 0
    assert plan(home, "long-context").training.max_length == 8192
    assert plan(home, "high-quality").adapter.use_dora and plan(home, "high-quality").adapter.use_rslora
    assert plan(home, "knowledge").adapter.r > plan(home, "style").adapter.r


def test_unknown_and_broken_presets(home: Home) -> None:
    with pytest.raises(errors.UnknownPreset, match="quick-check, cpu"):
        presets.get(home, "cpuu")
    with pytest.raises(errors.UnknownPreset):
        presets.get(home, "models")
    (home.presets / "typo.yaml").write_text("training: {learning_rat: 1}")
    (home.presets / "torn.yaml").write_text("training: [")
    (home.presets / "head.yaml").write_text("preset: nonsense\n")
    assert [preset.name for preset in presets.all_presets(home)] == OURS
    with pytest.raises(errors.InvalidSettings, match=r"did you mean training\.learning_rate"):
        presets.get(home, "typo")
    for name in ("torn", "head"):
        with pytest.raises(errors.UnreadableSettingsFile):
            presets.get(home, name)


def test_save_and_read_again(home: Home) -> None:
    raw = {"model": {"base_model": "team-b/x", "load_in_4bit": True}, "data": {"source": "a.csv"}, "training": {"learning_rate": 3e-4}}
    saved = presets.save(home, "Mein <b>Stil</b> 你好", raw)
    assert saved.name == "mein-b-stil-b" and saved.title == "Mein <b>Stil</b> 你好" and saved.own
    assert saved.settings == {"model": {"load_in_4bit": True}, "training": {"learning_rate": 3e-4}}
    assert presets.get(home, saved.name) == saved and presets.all_presets(home)[-1] == saved
    assert presets.save(home, "Mein <b>Stil</b>", raw).name == "mein-b-stil-b-2"
    assert presets.save(home, "cpu", {}).name == "cpu-2"
    assert presets.save(home, "你好", {}).name == "preset"
    with pytest.raises(errors.InvalidSettings):
        presets.save(home, "wrong", {"training": {"max_steps": 0}})


def test_the_recipe_of_a_run_is_a_preset_again(home: Home) -> None:
    (home.presets / "again.yaml").write_text(settings.write(Settings(), {"title": "Again"}))
    assert presets.get(home, "again").title == "Again"


# Suggestions


@pytest.mark.parametrize(
    ("kind", "memory", "rows", "best"),
    [
        ("cpu", None, 200, "cpu"),
        ("cpu", None, 8, "quick-check"),
        ("cuda", 80 * GIB, 2_000, "balanced"),
        ("cuda", 8 * GIB, 2_000, "small-gpu"),
        ("cuda", 80 * GIB, 60, "tiny-data"),
        ("mps", None, 2_000, "balanced"),
    ],
)
def test_the_best_comes_first_with_its_reason(home: Home, kind: str, memory: int | None, rows: int, best: str) -> None:
    suggested = presets.suggest(presets.all_presets(home), kind, memory, rows)
    assert suggested[0][0].name == best
    assert len(suggested) == len(OURS) and all(reason.template for _, reason in suggested)


def test_what_needs_a_gpu_comes_last_without_one(home: Home) -> None:
    suggested = presets.suggest(presets.all_presets(home), "cpu", None, 1_000)
    assert {preset.name for preset, _ in suggested[-4:]} == {"balanced", "small-gpu", "long-context", "high-quality"}
    assert suggested[-1][1] == "needs a GPU; this machine has none"


def test_own_presets_are_suggested_too() -> None:
    own = Preset("mine", "Mine", "", [], "any", None, None, {}, own=True)
    assert presets.suggest([own], "cpu", None, 10) == [(own, "your own")]


# Held-out rows


@pytest.mark.parametrize(("rows", "kept"), [(1, 0), (2, 1), (9, 1), (200, 20), (1_234, 123), (100_000, 200)])
def test_a_tenth_is_held_out(rows: int, kept: int) -> None:
    assert held_out(Settings(), rows).value == kept


def test_held_out_as_asked_and_in_a_short_run() -> None:
    assert held_out(settings.parse({"data": {"held_out_rows": 0}}), 50).value == 0
    assert held_out(settings.parse({"data": {"held_out_rows": 70}}), 50).value == 70
    assert held_out(settings.parse({"training": {"max_steps": 10}}), 5_000).value == 10


# What auto comes to


def test_every_auto_field_is_decided_with_a_reason(home: Home) -> None:
    for name in OURS:
        for device in ("cpu", "cuda", "mps"):
            for median in (None, 1, 130, 5_000):
                decided = decide(plan(home, name), 180, 20, device, median)
                assert {field.key for field in settings.fields() if field.auto} <= decided.keys()
                for key, decision in decided.items():
                    assert decision.value != "auto" and decision.reason.template, key
                    said = decision.as_dict()
                    assert said["template"].format(**said["values"]) == said["reason"]


def test_the_cpu_plan_for_200_short_rows(home: Home) -> None:
    """The size the whole app is tried with: about 70,000 tokens, so ten minutes at 120 tokens a second."""
    decided = values(decide(plan(home, "cpu"), 180, 20, "cpu", 130, 180 * 130))
    assert decided["training.packing"] is True and decided["training.activation_checkpointing"] is False
    assert decided["training.num_train_epochs"] == 3
    assert decided["training.per_device_train_batch_size"] == decided["training.gradient_accumulation_steps"] == 1
    assert decided["steps_per_round"] == 23 and decided["total_steps"] == 69
    assert decided["training.logging_steps"] == 1 and 0 < decided["training.warmup_steps"] < 10
    tested = range(decided["evaluation.eval_steps"], 70, decided["evaluation.eval_steps"])
    assert 3 <= len(tested) <= 5 and tested[-1] >= 66
    assert decided["training.save_steps"] == decided["evaluation.eval_steps"]


@pytest.mark.parametrize("rows", [3, 12, 30, 60, 150, 600, 5_000, 50_000])
def test_auto_gives_enough_steps_of_a_sensible_size(rows: int) -> None:
    for device in ("cpu", "cuda"):
        decided = values(decide(Settings(), rows, 1, device, 130))
        assert decided["total_steps"] >= min(presets.FEWEST_STEPS, rows * 5), (rows, device)
        assert 1 <= decided["training.global_batch_size"] <= 32
    assert values(decide(Settings(), rows, 1, "cpu", 130))["training.num_train_epochs"] in (1, 2, 3, 5)


def test_packing_keeps_the_meaning_of_rows_per_step() -> None:
    """2,000 rows of 128 tokens at 1,024: eight rows a sequence, so 16 rows a step are two sequences."""
    chosen = settings.parse({"training": {"global_batch_size": 16, "max_length": 1024}})
    decided = values(decide(chosen, 2_000, 200, "cuda", 128, lengths=[128] * 2_000))
    assert decided["training.per_device_train_batch_size"] * decided["training.gradient_accumulation_steps"] == 2
    assert decided["steps_per_round"] == 125


def test_packed_counts_are_trls() -> None:
    draw = random.Random(1)
    for most in (40, 90, 300):
        lengths = [draw.randint(0, most) for _ in range(2_300)]
        packed = pack_dataset(Dataset.from_dict({"input_ids": [[7] * n for n in lengths]}), 128, "bfd")
        assert presets.packed_sequences(lengths, 128) == len(packed)


def test_without_packing_a_step_is_its_rows() -> None:
    chosen = settings.parse({"training": {"packing": False, "global_batch_size": 12, "max_length": 256}})
    decided = values(decide(chosen, 100, 10, "cpu", 100))
    assert decided["training.per_device_train_batch_size"] * decided["training.gradient_accumulation_steps"] == 12
    assert decided["steps_per_round"] == math.ceil(100 / 12)


def test_what_a_person_set_is_kept_and_said_so() -> None:
    training = {"num_train_epochs": 2, "packing": False, "warmup_steps": 0.1, "global_batch_size": 8, "per_device_train_batch_size": 2}
    training |= {"activation_checkpointing": True, "logging_steps": 7, "save_steps": 9}
    decided = decide(settings.parse({"training": training, "evaluation": {"eval_steps": 5}}), 100, 10, "cpu", 100)
    for key, value in training.items():
        assert decided[f"training.{key}"].value == value and decided[f"training.{key}"].reason == presets.CHOSEN
    assert decided["evaluation.eval_steps"].value == 5
    assert decided["training.gradient_accumulation_steps"].value == 4


def test_a_step_limit_wins() -> None:
    decided = decide(settings.parse({"training": {"max_steps": 10}}), 5_000, 10, "cpu", 130)
    assert decided["total_steps"].value == 10 and decided["total_steps"].reason == "the step limit"


def test_packing_is_left_off_when_it_would_not_help() -> None:
    chosen = settings.parse({"training": {"max_length": 512}})
    assert "fill 512 by themselves" in decide(chosen, 900, 90, "cuda", 400)["training.packing"].reason
    assert "too few steps" in decide(chosen, 12, 1, "cuda", 60)["training.packing"].reason
    long = settings.parse({"training": {"max_length": 8192}})
    assert "costs more than it saves" in decide(long, 9_000, 90, "cuda", 400, masked=True)["training.packing"].reason
    assert decide(long, 9_000, 90, "cuda", 400)["training.packing"].value is True


def test_no_held_out_rows_no_tests_but_save_points() -> None:
    decided = decide(settings.parse({"data": {"held_out_rows": 0}}), 900, 0, "cuda", 130)
    assert decided["evaluation.eval_steps"].reason == "no tests, because no rows are kept aside"
    assert 0 < decided["training.save_steps"].value <= decided["total_steps"].value


def test_no_rows_left_does_not_crash() -> None:
    assert decide(Settings(), 0, 5, "cpu", None)["total_steps"].value >= 1
