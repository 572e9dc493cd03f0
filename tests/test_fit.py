"""Counts from config.json against what PEFT itself counts on models without memory (meta device), and the time estimate."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lora_ui import fit, machine
from lora_ui import methods as refusals
from lora_ui.models import BaseModel
from lora_ui.settings import AdapterSettings, fields, parse
from lora_ui.worker import methods

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 64,
    "max_position_embeddings": 40,
}
GPT2 = {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
FALCON = {"model_type": "falcon", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 64}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, "model_type": "llama"},
    "llama tied, biased, no kv heads": {
        **{k: v for k, v in SMALL.items() if k != "num_key_value_heads"},
        "model_type": "llama",
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
    },
    "mistral": {**SMALL, "model_type": "mistral", "head_dim": 16},
    "granite": {**SMALL, "model_type": "granite", "attention_bias": True, "mlp_bias": True},
    "smollm3": {**SMALL, "model_type": "smollm3", "pad_token_id": 0},
    "qwen2": {**SMALL, "model_type": "qwen2"},
    "qwen3": {**SMALL, "model_type": "qwen3", "head_dim": 16},
    "qwen3 with the usual head": {**SMALL, "model_type": "qwen3"},
    "olmo2": {**SMALL, "model_type": "olmo2", "pad_token_id": 0},
    "phi3": {**SMALL, "model_type": "phi3", "pad_token_id": 0},
    "gemma": {**SMALL, "model_type": "gemma"},
    "gemma2": {**SMALL, "model_type": "gemma2", "head_dim": 8},
    "gemma3_text": {**SMALL, "model_type": "gemma3_text", "head_dim": 16},
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "vocab_size": 64},
    "gpt_neox": {**SMALL, "model_type": "gpt_neox"},
    "gpt_neox without bias": {**SMALL, "model_type": "gpt_neox", "attention_bias": False},
    "starcoder2": {**SMALL, "model_type": "starcoder2"},
    "falcon 7b": {**FALCON, "multi_query": True, "parallel_attn": True, "bias": False},
    "falcon 40b": {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": False},
    "falcon one norm": {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    "falcon rw": {**FALCON, "multi_query": False, "parallel_attn": False, "bias": True},
}
KINDS = next(field.choices for field in fields() if field.key == "adapter.method")
ADAPTERS = {
    "plain": AdapterSettings(r=4),
    "dora, all biases": AdapterSettings(r=4, use_dora=True, bias="all"),
    "own biases": AdapterSettings(r=4, bias="lora_only"),
    **{method: AdapterSettings(r=4, method=method, block_size=8) for method in KINDS},
}


def counted_by_peft(config: dict[str, Any], adapter: AdapterSettings) -> tuple[int, int]:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
        wrapped = methods.wrap(model, adapter, 10, low_cpu_mem_usage=True)
    return wrapped.get_nb_trainable_parameters()


def ours(config: dict[str, Any], adapter: AdapterSettings) -> tuple[int, int]:
    counts = fit.parameters(config, adapter)
    assert counts is not None
    return counts["trainable_parameters"], counts["all_parameters"]


COUNTED = [
    pytest.param(config, adapter, id=f"{family}-{method}")
    for family, config in CONFIGS.items()
    for method, adapter in ADAPTERS.items()
    if not refusals.problems(parse({"adapter": adapter.model_dump()}), config)
]


@pytest.mark.parametrize(("config", "adapter"), COUNTED)
def test_counts_are_pefts(config: dict[str, Any], adapter: AdapterSettings) -> None:
    assert ours(config, adapter) == counted_by_peft(config, adapter)


def test_every_family_and_method_is_compared_but_four_that_are_refused() -> None:
    assert len(COUNTED) == len(CONFIGS) * len(ADAPTERS) - 4


def test_every_known_family_is_compared_with_peft() -> None:
    assert {config["model_type"] for config in CONFIGS.values()} == {*fit.FAMILIES, *fit._BUILDERS}


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["self_attn.o_proj", "nowhere"], r".*\.(gate|up)_proj"])
def test_named_targets(targets: str | list[str]) -> None:
    adapter = AdapterSettings(r=4, target_modules=targets, use_dora=True)
    assert ours(CONFIGS["llama"], adapter) == counted_by_peft(CONFIGS["llama"], adapter)


def test_a_name_that_stands_twice_in_a_layer() -> None:
    adapter = AdapterSettings(r=4, target_modules=["c_proj"])
    assert ours(CONFIGS["gpt2"], adapter) == counted_by_peft(CONFIGS["gpt2"], adapter)


def test_gpt2_as_everybody_knows_it() -> None:
    counts = fit.parameters(GPT2, AdapterSettings(r=8, target_modules=["c_attn"]))
    assert counts is not None
    assert (counts["trainable_parameters"], counts["all_parameters"]) == (294_912, 124_734_720)
    assert f"{counts['share']:.4f}" == "0.2364"
    assert "r·(in + out): 8 × 3,072 in each of 12 layers = 294,912" in counts["explanation"]


@pytest.mark.parametrize(
    "adapter",
    [
        AdapterSettings(target_modules=["nowhere"]),
        AdapterSettings(target_modules=["embed_tokens", "q_proj"]),
        AdapterSettings(target_modules=r"model\.layers\.0\.self_attn\.q_proj"),
    ],
)
def test_what_cannot_be_counted_is_not_guessed(adapter: AdapterSettings) -> None:
    assert fit.parameters(CONFIGS["llama"], adapter) is None


@pytest.mark.parametrize(
    "config", [{}, {"model_type": "mamba"}, {"model_type": "llama", "hidden_size": 8}, {**SMALL, "model_type": "gemma3"}]
)
def test_unknown_families_and_missing_sizes(config: dict[str, Any]) -> None:
    assert fit.parameters(config, AdapterSettings()) is None


# Time


def on(device: str) -> machine.Machine:
    return replace(machine.look(), device=device)


STARTER = BaseModel(
    name="starter",
    kind="starter",
    title="",
    config={**CONFIGS["llama"], "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "vocab_size": 49152},
)


def test_a_cpu_is_measured_and_more_rows_take_longer() -> None:
    one = fit.estimate(STARTER, 4_884_480, 10_000, 1, on("cpu"))
    three = fit.estimate(STARTER, 4_884_480, 10_000, 3, on("cpu"))
    assert one["basis"] == "from this machine's measured speed"
    assert three["seconds"] - fit.START_SECONDS == pytest.approx(3 * (one["seconds"] - fit.START_SECONDS))


def test_a_gpu_promises_nothing_before_it_was_measured() -> None:
    assert fit.estimate(STARTER, 4_884_480, 10_000, 1, on("cuda")) == {"seconds": None, "basis": "unknown until the first steps"}
    measured = fit.estimate(STARTER, 4_884_480, 10_000, 2, on("cuda"), tokens_per_second=1_000)
    assert measured["seconds"] == fit.START_SECONDS + 20 and "measured" in measured["basis"]


def test_nothing_is_estimated_without_tokens_or_size() -> None:
    assert fit.estimate(STARTER, 1, None, 3, on("cpu"))["seconds"] is None
    assert fit.estimate(BaseModel(name="x", kind="hub", title="x"), None, 10_000, 1, on("cpu"))["seconds"] is None


def test_operations_follow_the_law_of_four() -> None:
    """2P forward, 2P backward through frozen weights, 6 for what learns; an unknown shape counts as 4P."""
    assert STARTER.config is not None
    model = fit.shape(STARTER.config)
    assert model is not None
    inside = sum(one.inputs * one.outputs for one in model.linears) * model.layers
    assert fit.step_flops(STARTER, 100) == 4 * (inside + model.head) + 600
    assert fit.step_flops(BaseModel(name="x", kind="hub", title="x", parameters=1000), 0) == 4000
