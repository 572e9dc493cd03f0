"""The ways to adapt as data: each can be chosen, is recognised, and names only what exists; the card says them with their papers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from lora_ui import card, effects, methods, preflight, settings
from lora_ui.home import Home
from lora_ui.models import BaseModel
from tests.tiny import tiny_model, tiny_run

ALL = methods.all_methods()
DEFAULTS = settings.Settings().model_dump()
ONLY_LORA = {
    "use_dora": {"adapter": {"use_dora": True}},
    "use_rslora": {"adapter": {"use_rslora": True}},
    "first values": {"adapter": {"init_lora_weights": "pissa"}},
    "biases": {"adapter": {"bias": "all"}},
    "lora+": {"training": {"loraplus_lr_ratio": 2}},
}


def chosen(key: str, *over: dict[str, Any]) -> settings.Settings:
    return settings.parse(settings.merge(methods.choose(key, DEFAULTS, DEFAULTS), *over))


@pytest.mark.parametrize("key", ALL)
def test_a_method_that_is_chosen_is_the_one_and_plain_lora_takes_it_back(key: str) -> None:
    raw = methods.choose(key, DEFAULTS, DEFAULTS)
    assert methods.applied(settings.parse(raw))[-1].key == key
    assert methods.problems(settings.parse(raw), None) == []
    assert methods.choose("lora", raw, DEFAULTS) == DEFAULTS


def test_choosing_keeps_how_the_base_is_squeezed_and_gives_suiting_values_back() -> None:
    squeezed = settings.merge(DEFAULTS, {"model": {"load_in_4bit": True}})
    assert methods.choose("dora", squeezed, DEFAULTS)["model"]["load_in_4bit"] is True
    preset = settings.merge(DEFAULTS, {"adapter": {"r": 64, "use_dora": True}, "training": {"learning_rate": 1e-5}})
    vera = methods.choose("vera", preset, preset)
    assert (vera["adapter"]["r"], vera["adapter"]["use_dora"], vera["training"]["learning_rate"]) == (256, False, 4e-3)
    again = methods.choose("rslora", vera, preset)
    assert (again["adapter"]["r"], again["adapter"]["method"], again["training"]["learning_rate"]) == (64, "lora", 1e-5)


def test_methods_that_hold_together_are_all_named() -> None:
    both = chosen("pissa", {"adapter": {"use_rslora": True}})
    assert [one.key for one in methods.applied(both)] == ["rslora", "pissa"]
    assert [one.key for one in methods.applied(chosen("qlora"))] == ["qlora"]


def test_every_kind_of_adapter_is_offered_and_every_line_names_what_exists() -> None:
    kinds = next(field.choices for field in settings.fields() if field.key == "adapter.method")
    assert {one.settings["adapter"]["method"] for one in ALL.values() if "method" in one.settings.get("adapter", {})} == set(kinds)
    known = {field.key for field in settings.fields()} | {"model_type"}
    for one in ALL.values():
        assert all(part.endswith(".") for part in (one.does, one.trades, one.pick)), one.key
        assert {place for rule in one.refused for place in rule.when} | one.idle.keys() <= known
        assert one.arxiv is None or re.fullmatch(r"\d{4}\.\d{5}", one.arxiv)
        for rule in one.refused:
            settings.parse(settings.merge(DEFAULTS, rule.change))


@pytest.mark.parametrize("option", ONLY_LORA)
@pytest.mark.parametrize(
    "key", [key for key, one in ALL.items() if one.settings.get("adapter", {}).get("method", "lora") not in ("lora", "lorafa")]
)
def test_what_only_lora_has_is_refused_with_every_other_kind(key: str, option: str) -> None:
    found = methods.problems(chosen(key, ONLY_LORA[option]), None)
    assert ALL[key].title in [one.values["method"] for one in found]
    change = settings.merge(*(one.values["change"] for one in found))
    assert methods.problems(chosen(key, ONLY_LORA[option], change), None) == []


def test_what_a_method_does_not_read_is_out_of_reach() -> None:
    base = BaseModel(name="a/b", kind="hub", title="b", chat_template=False)
    assert effects.idle(chosen("ia3"), base)["adapter.target_modules"].startswith("this method always takes")
    assert "adapter.block_size" not in effects.idle(chosen("oft"), base)


def test_the_card_names_method_and_paper(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    base = tiny_model(tmp_path / "tiny")
    tiny_run(home, "run-1", base, adapter={"use_dora": True, "use_rslora": True})
    told = card.write(card.read(home, "run-1"), "team/river", False, None)
    assert "Method: rsLoRA (" in told and "DoRA (" in told and ALL["dora"].link in told
    assert "An adapter for" in told


def test_a_save_point_that_holds_first_values_is_counted_with_them() -> None:
    base = BaseModel(name="x", kind="folder", title="x")
    counts = {"trainable_parameters": 1_000_000, "all_parameters": 0}
    plain, moved = (preflight.needed_bytes(chosen(key), base, counts) - 200_000_000 for key in ("lora", "pissa"))
    assert moved == 2 * plain > 0
