"""Settings that change nothing: told with their reason, and only then."""

from __future__ import annotations

from typing import Any

import pytest

from lora_ui import effects, settings
from lora_ui.models import BaseModel, catalogue

STARTER = catalogue()[0]
ON_THE_HUB = BaseModel(name="a/b", kind="hub", title="b", chat_template=False)


@pytest.mark.parametrize(
    ("raw", "base", "key"),
    [
        ({"training": {"lr_scheduler_type": "constant"}}, ON_THE_HUB, "training.warmup_steps"),
        ({"training": {"max_steps": 10}}, ON_THE_HUB, "training.num_train_epochs"),
        ({"data": {"held_out_rows": 0}}, ON_THE_HUB, "evaluation.early_stopping_patience"),
        ({"data": {"held_out_rows": 0}}, ON_THE_HUB, "data.split_seed"),
        ({"data": {"held_out_source": "test.jsonl"}}, ON_THE_HUB, "data.held_out_rows"),
        ({}, STARTER, "data.template_for_base"),
        ({}, STARTER, "model.revision"),
        ({"adapter": {"method": "lorafa"}}, ON_THE_HUB, "training.optim"),
        ({"adapter": {"method": "oft"}}, ON_THE_HUB, "adapter.r"),
    ],
)
def test_what_changes_nothing_is_named(raw: dict[str, Any], base: BaseModel, key: str) -> None:
    assert key in effects.idle(settings.parse(raw), base)
    assert key not in effects.idle(settings.parse({}), ON_THE_HUB)


def test_what_is_not_known_of_a_base_model_takes_nothing_away() -> None:
    unknown = BaseModel(name="a/b", kind="hub", title="b")
    assert effects.idle(settings.parse({}), unknown).keys() == effects.idle(settings.parse({}), None).keys() == {"adapter.block_size"}


def test_every_condition_names_settings_that_exist() -> None:
    assert {key for one in effects.IDLE for key in one.keys} <= {f.key for f in settings.fields()}


def test_only_what_was_set_is_told() -> None:
    constant = {"training": {"lr_scheduler_type": "constant"}}
    assert effects.in_vain(settings.parse(constant), ON_THE_HUB) == {}
    told = effects.in_vain(settings.parse(settings.merge(constant, {"training": {"warmup_steps": 10}})), ON_THE_HUB)
    assert told == {"training.warmup_steps": "the learning-rate curve is constant, which has no warm-up"}
