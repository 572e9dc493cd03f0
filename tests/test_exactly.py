"""The exact check: a real process that goes through two steps, its progress, its end, and what is made of its figures."""

from __future__ import annotations

from typing import Any

import psutil
import pytest

from lora_ui import errors, exactly, memory, settings
from lora_ui.memory import Rows
from lora_ui.models import BaseModel
from lora_ui.worker import dryrun

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
}
ROWS = Rows(40, 4, median=50, longest=100, tokens=2000)
PLACE = memory.another(8 * 2**30)
CHOSEN = settings.parse({"training": {"max_length": 128}})


def base(**config: Any) -> BaseModel:
    return BaseModel(name="x", kind="folder", title="x", config={**CONFIG, **config})


def children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "lora_ui.worker.dryrun" in one.cmdline()]


def test_it_says_how_far_it_is_and_answers_as_the_dry_run_does_here() -> None:
    told = list(exactly.check(base(), CHOSEN, ROWS, PLACE))
    assert {done for done, total, _ in told if total} == set(range(dryrun.STAGES + 1))
    answer = told[-1][2]
    assert answer is not None and all(found is None for _, _, found in told[:-1])
    decided, needed = memory.settle(base(), CHOSEN, ROWS, PLACE)
    assert needed is not None
    measured = dryrun.measure(CONFIG, CHOSEN, memory.step_of(base(), CHOSEN, decided, ROWS, PLACE))
    assert answer["exact_bytes"] == measured["peak"] + needed["context"] + needed["margin"]
    assert answer["predicted_bytes"] == sum(needed.values()) == sum(form for form, _ in answer["items"].values())
    assert answer["exact_bytes"] == sum(found for _, found in answer["items"].values())
    assert answer["items"]["weights"] == [needed["weights"], measured["weights"]] and answer["verdict"] == "fits"
    assert children() == []


def test_who_no_longer_waits_ends_it() -> None:
    checking = exactly.check(base(num_hidden_layers=200), CHOSEN, ROWS, PLACE)
    next(checking)
    assert len(children()) == 1
    checking.close()
    assert children() == []


def test_it_ends_by_itself_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exactly, "LONGEST", 0.0)
    with pytest.raises(errors.DryRunFailed, match="longer than 0 minutes"):
        list(exactly.check(base(), CHOSEN, ROWS, PLACE))
    assert children() == []


def test_a_dry_run_that_cannot_be_made_is_said() -> None:
    with pytest.raises(errors.DryRunFailed, match="ended before"):
        list(exactly.check(base(hidden_act="no such function"), CHOSEN, ROWS, PLACE))
    with pytest.raises(errors.DryRunFailed, match="not described"):
        list(exactly.check(base(model_type="mamba"), CHOSEN, ROWS, PLACE))


def test_it_is_made_with_four_bits_where_they_were_decided() -> None:
    wide = base(hidden_size=1024, intermediate_size=4096)
    told = [
        list(exactly.check(wide, settings.parse({"model": {"load_in_4bit": bits}}), ROWS, memory.another(2**20)))[-1][2]
        for bits in ("auto", True)
    ]
    assert told[0] == told[1] and told[0] is not None


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "paged_adamw_8bit", "adafactor"])
@pytest.mark.parametrize("squeezed", ["load_in_4bit", "load_in_8bit", None])
def test_each_item_is_the_estimates(optim: str, squeezed: str | None) -> None:
    """What can be counted without a step agrees to a percent; a squeezed base's small weights are rounded up."""
    chosen = settings.parse({"training": {"optim": optim}, "model": {squeezed: True} if squeezed else {}, "adapter": {"r": 8}})
    config = {**CONFIG, "hidden_size": 512, "intermediate_size": 2048, "vocab_size": 8000}
    step = memory.Step(1, 64, False, "cuda", "bfloat16")
    measured = dryrun.measure(config, chosen, step)
    needed = memory.items(BaseModel(name="x", kind="folder", title="x", config=config), chosen, step)
    assert needed is not None
    for name in ("weights", "gradients", "optimizer"):
        assert measured[name] == pytest.approx(needed[name], rel=0.02, abs=1000), name
