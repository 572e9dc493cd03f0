"""The form: every setting has a box, and what a person types comes back as the setting it means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from lora_ui import errors, presets, settings
from lora_ui.home import Home
from lora_ui.ui import draft, form
from lora_ui.ui.words import Words


@pytest.fixture
def controls() -> list[form.Control]:
    with gr.Blocks():
        return form.draw(Words("en"), form.PLAIN) + form.draw(Words("en"))


def field(key: str) -> settings.SettingsField:
    return next(f for f in settings.fields() if f.key == key)


def test_every_setting_has_exactly_one_place(controls: list[form.Control]) -> None:
    drawn = [c.field.key for c in controls]
    assert sorted([*drawn, *form.ELSEWHERE]) == sorted(f.key for f in settings.fields())


def test_plain_fields_are_the_ones_of_the_design(controls: list[form.Control]) -> None:
    assert {f.key for f in settings.fields() if not f.ui.advanced} == {*form.PLAIN, "model.base_model", "data.source"}


def test_each_box_shows_label_key_and_hint(controls: list[form.Control]) -> None:
    for control in controls:
        assert control.box.label == control.field.title
        assert f"`{control.field.name}`" in control.box.info
        assert control.field.description in control.box.info


@pytest.mark.parametrize(
    "name", ["cpu", "balanced", "small-gpu", "tiny-data", "quick-check", "high-quality", "long-context", "style", "knowledge"]
)
def test_what_a_preset_says_survives_the_boxes(controls: list[form.Control], tmp_path: Path, name: str) -> None:
    preset = presets.get(Home.open(tmp_path), name).settings
    boxes = form.write(controls, preset)
    assert form.changes(form.read(controls, boxes), preset) == {}
    assert settings.parse(form.read(controls, boxes)) == settings.parse(preset)


@pytest.mark.parametrize(
    "text", ["2e-4", "0.0002", "0,0002", "2·10⁻⁴", "2 x 10^-4", " 2 × 10^−4 ", "２ｅ－４", "０．０００２", "2×10−4", "2*10^-4", "2⋅10⁻⁴"]
)
def test_a_small_number_is_read_however_it_is_written(text: str) -> None:
    assert form.from_box(field("training.learning_rate"), text) == 2e-4


def test_a_bare_power_and_a_plain_ten_are_not_confused() -> None:
    rate, rounds = field("training.learning_rate"), field("training.num_train_epochs")
    assert [form.from_box(rate, text) for text in ("10⁻⁴", "10^-4", "1e-4")] == [1e-4] * 3
    assert [form.from_box(rounds, text) for text in ("10", "104", "10^2")] == [10, 104, 100]


@pytest.mark.parametrize(
    ("key", "typed", "left"),
    [("training.learning_rate", "2·10⁻⁴", "2e-4"), ("training.num_train_epochs", " ", "")],
)
def test_a_number_box_is_left_in_one_way_of_writing(key: str, typed: str, left: str) -> None:
    assert form.tidy(field(key), typed) == left


@pytest.mark.parametrize(("key", "typed"), [("training.learning_rate", "fast"), ("training.num_train_epochs", "2")])
def test_a_box_that_says_it_well_or_cannot_be_read_is_not_written_into(key: str, typed: str) -> None:
    assert form.tidy(field(key), typed) == gr.skip()


def test_a_small_number_is_written_back_short() -> None:
    assert form.to_box(field("training.learning_rate"), 0.0002) == "2e-4"
    assert form.to_box(field("training.learning_rate"), 0.0015) == "0.0015"


@pytest.mark.parametrize(
    ("key", "typed", "meant"),
    [
        ("training.num_train_epochs", "", "auto"),
        ("training.num_train_epochs", "3", 3),
        ("training.num_train_epochs", "2.5", 2.5),
        ("data.held_out_rows", "  ", "auto"),
        ("training.packing", "on", True),
        ("training.packing", "auto", "auto"),
        ("model.revision", "", None),
        ("training.neftune_noise_alpha", "", None),
        ("adapter.target_modules", "all-linear", "all-linear"),
        ("adapter.target_modules", "q_proj, v_proj", ["q_proj", "v_proj"]),
        ("adapter.init_lora_weights", "True", True),
        ("adapter.init_lora_weights", "gaussian", "gaussian"),
    ],
)
def test_what_is_typed_is_what_is_meant(key: str, typed: Any, meant: Any) -> None:
    value = form.from_box(field(key), typed)
    assert value == meant
    assert type(value) is type(meant)


def test_wrong_values_reach_the_check_and_are_named_together(controls: list[form.Control]) -> None:
    boxes = dict(zip([c.field.key for c in controls], form.write(controls, {})))
    boxes.update({"training.learning_rate": "fast", "adapter.r": -1, "training.max_length": None})
    with pytest.raises(errors.InvalidSettings) as refused:
        settings.parse(form.read(controls, list(boxes.values())))
    for key in ("training.learning_rate", "adapter.r", "training.max_length"):
        assert key in refused.value.message


def test_the_command_gives_the_same_settings(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    changes = {
        "adapter": {"r": 8, "target_modules": ["q_proj", "v_proj"]},
        "training": {"learning_rate": 1e-5, "packing": False, "num_train_epochs": 2},
        "data": {"system_prompt": "Answer: yes or no.\nAlways 'short'."},
        "model": {"base_model": "a/b"},
    }
    now = draft.Draft(presets.get(home, "cpu"), changes, {"source": "upload:x", "mapping": {"user": "my question", "assistant": "a"}})
    words = _split(draft.command(home, now, "<b>$(x)</b>"))
    assert words[:4] == ["python", "-m", "lora_ui", "train"]
    given = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    raw = settings.merge(now.preset.settings, settings.from_assignments(given), {"model": {"base_model": "a/b"}})
    wanted = settings.merge(now.raw, {"data": {"source": "", "mapping": {}}})
    assert settings.parse(raw) == settings.parse(wanted)
    assert [words[i + 1] for i, word in enumerate(words) if word == "--map"] == ["user=my question", "assistant=a"]
    assert words[words.index("--name") + 1] == "<b>$(x)</b>"
    assert words[words.index("--home") + 1] == str(home.root)


def _split(line: str) -> list[str]:
    import shlex

    return shlex.split(line)


def test_a_draft_without_a_choice_takes_what_suits_this_machine(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    assert draft.of(home, {}, 200).preset == draft.suggested(home, 200)[0][0]
    assert draft.of(home, {"preset": "deleted-since"}, 200).preset == draft.suggested(home, 200)[0][0]
    assert draft.of(home, {"preset": "style", "settings": {"adapter": {"r": 4}}}, 200).raw["adapter"]["r"] == 4
