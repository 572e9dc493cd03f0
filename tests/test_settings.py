"""Settings: bounds, hints, layers, `--set`, the recipe; and the spelling of PEFT and TRL."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from lora_ui import errors, settings


def problems(raw):
    with pytest.raises(errors.InvalidSettings) as caught:
        settings.parse(raw)
    return caught.value.values["problems"].splitlines()


def test_every_wrong_field_is_named_at_once_with_what_it_takes():
    said = problems({"adapter": {"r": -1}, "training": {"learning_rate": "fast", "max_steps": 0}, "evaluation": {"eval_stepz": 3}})
    assert said == [
        "adapter.r: -1 cannot be used; it takes a whole number from 1 to 1024",
        "training.max_steps: 0 cannot be used; it takes a whole number from -1 to 1e+07",
        "training.learning_rate: 'fast' cannot be used; it takes a number above 0, to 1",
        "evaluation.eval_stepz: there is no such field; did you mean evaluation.eval_steps?",
    ]


def test_a_misspelt_group_and_a_field_in_the_wrong_group_are_hinted():
    assert problems({"trainin": {}}) == ["trainin: there is no such field; did you mean training?"]
    assert problems({"training": {"lora_alpha": 4}}) == ["training.lora_alpha: there is no such field; did you mean adapter.lora_alpha?"]


def test_contradictions_are_refused():
    assert "choose one" in problems({"model": {"load_in_4bit": True, "load_in_8bit": True}})[0]
    assert "multiple" in problems({"training": {"global_batch_size": 10, "per_device_train_batch_size": 4}})[0]
    assert "lm_head" in problems({"adapter": {"target_modules": ["lm_head"]}})[0]


def test_infinity_and_nan_are_refused():
    assert problems({"training": {"learning_rate": float("nan")}}) and problems({"training": {"max_grad_norm": "inf"}})


def test_numbers_as_people_write_them():
    assert settings.parse({"training": {"learning_rate": "2e-4"}}).training.learning_rate == 0.0002
    assert settings.parse({"training": {"warmup_steps": "auto"}}).training.warmup_steps == "auto"


def test_held_out_rows_are_a_count_or_a_share():
    taken = [settings.parse({"data": {"held_out_rows": value}}).data.held_out_rows for value in ("auto", 0, 7, "0.25", 100_000)]
    assert taken == ["auto", 0, 7, 0.25, 100_000] and [type(value) for value in taken] == [str, int, int, float, int]
    for wrong in (1.5, -1, "1e9"):
        assert problems({"data": {"held_out_rows": wrong}})[0].startswith("data.held_out_rows: ")


def test_what_is_left_out_is_named_by_its_code():
    assert settings.parse({"data": {"leave_out": None}}).data.leave_out == []
    raw = settings.from_assignments(["data.leave_out=secret,duplicate"])
    assert settings.parse(raw).data.leave_out == ["secret", "duplicate"]
    said = problems({"data": {"leave_out": ["duplicates"]}})
    assert len(said) == 1 and "one of duplicate, near_duplicate" in said[0]


def test_assignments_are_yaml_and_commas_make_lists_where_a_list_is_meant():
    raw = settings.from_assignments(
        ["adapter.target_modules=q_proj,v_proj", "training.learning_rate=2e-4", "model.load_in_4bit=true", "training.num_train_epochs=2"]
    )
    chosen = settings.parse(raw)
    assert chosen.adapter.target_modules == ["q_proj", "v_proj"]
    assert chosen.training.learning_rate == 2e-4 and chosen.model.load_in_4bit is True and chosen.training.num_train_epochs == 2
    assert settings.parse(settings.from_assignments(["adapter.target_modules=all-linear"])).adapter.target_modules == "all-linear"
    assert settings.parse(settings.from_assignments(["adapter.target_modules=c_attn"])).adapter.target_modules == ["c_attn"]
    with pytest.raises(errors.InvalidSettings, match="write --set group"):
        settings.from_assignments(["learning_rate"])


def test_a_recipe_read_back_is_the_same_settings(tmp_path: Path):
    chosen = settings.parse({"adapter": {"r": 4}, "data": {"mapping": {"user": "q", "assistant": "a"}}})
    path = tmp_path / "settings.yaml"
    path.write_text(settings.write(chosen, {"title": "<b>x</b>"}))
    assert settings.parse(settings.read(path)) == chosen
    assert yaml.safe_load(path.read_text())["preset"] == {"title": "<b>x</b>"}
    path.write_text("[1, 2")
    with pytest.raises(errors.UnreadableSettingsFile, match="cannot be read"):
        settings.read(path)


def test_layers_win_field_by_field():
    assert settings.merge({"adapter": {"r": 1, "lora_alpha": 2}}, {"adapter": {"r": 8}}) == {"adapter": {"r": 8, "lora_alpha": 2}}


def test_settings_that_an_earlier_version_wrote_mean_the_same():
    """`fixtures/settings_1.json`: all fields of a run's settings before `data.trim` and the methods were there."""
    old = json.loads((Path(__file__).parent / "fixtures/settings_1.json").read_text())
    now = settings.parse(old).model_dump()
    assert now == settings.merge(now, old)
    new = {group: values.keys() - old[group].keys() for group, values in now.items() if values.keys() - old[group].keys()}
    assert new == {"data": {"trim"}, "adapter": {"method", "block_size"}, "training": {"loraplus_lr_ratio"}} and now["data"]["trim"] == []
    assert (now["adapter"]["method"], now["training"]["loraplus_lr_ratio"]) == ("lora", None)


def test_groups_keep_the_spelling_of_peft_and_trl():
    from peft import LoraConfig
    from trl import SFTConfig

    ours = {
        "training.global_batch_size",
        "adapter.method",
        "adapter.block_size",
        "training.loraplus_lr_ratio",
    }  # neither SFTConfig nor LoraConfig has them
    lora = {f.name for f in dataclasses.fields(LoraConfig)}
    sft = {f.name for f in dataclasses.fields(SFTConfig)}
    wrong = [
        f.key
        for f in settings.fields()
        if f.key not in ours and ((f.group == "adapter" and f.name not in lora) or (f.group == "training" and f.name not in sft))
    ]
    assert wrong == []
    assert {"eval_steps"} <= sft


def test_every_field_says_what_it_is():
    found = settings.fields()
    assert len(found) == 47
    assert all(f.title and f.description.endswith((".", "!")) for f in found)
    assert sorted(f.name for f in found if not f.ui.advanced) == ["base_model", "held_out_rows", "max_length", "num_train_epochs", "source"]
