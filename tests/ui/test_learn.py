"""The figures that explain LoRA are those of the model and settings on the form."""

import re

import pytest

from lora_ui import fit, memory, settings
from lora_ui.memory import Step
from lora_ui.models import BaseModel
from lora_ui.ui import learn
from lora_ui.ui.words import Words

CONFIG = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


def drawn(language="en", config=CONFIG, **adapter):
    chosen, base = settings.parse({"adapter": adapter}), BaseModel(name="x", kind="hub", title="x", config=config)
    items = memory.items(base, chosen, Step(1, 512, False, "cpu", "float32"))
    plan = {"trainable_parameters": None, "memory": None}
    if items:
        plan = {**fit.parameters(config, chosen.adapter), "memory": {"items": items}}
    return learn.panel(Words(language), base, chosen, plan)


def test_each_figure_is_counted_from_the_model():
    said = drawn(r=8, lora_alpha=16)
    assert "1,536 × 576 = 884,736" in said and "16,896 numbers, 1.9 % of W" in said
    assert "With alpha 16 and rank 8 that is 2." in said
    assert "2,442,240" in said and "134,515,008" in said and "2.0 GB" in said
    assert "33,792 numbers" in drawn(r=16)


def test_the_volume_of_rank_stable_scaling_falls_with_the_square_root():
    assert "that is 8." in drawn(r=16, lora_alpha=32, use_rslora=True) and "that is 2." in drawn(r=16, lora_alpha=32)


@pytest.mark.parametrize("rank", [1, 16, 100, 1024])
def test_every_bar_is_inside_its_line(rank):
    for language in ("en", "zh"):
        shares = re.findall(r'<rect class="\w+" x="([\d.]+)%" width="([\d.]+)%"', drawn(language, r=rank, lora_alpha=64))
        assert len(shares) >= 6 + 6 + 3 and all(float(x) + float(width) <= 100.001 for x, width in shares)


def test_a_family_that_is_not_described_is_said():
    assert "not described here" in drawn(config={"model_type": "mamba"})
