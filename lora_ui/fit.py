"""What a run will train and how long it will take, before anything is loaded: from a model's config.json alone.

Parameters are counted as PEFT counts them (`get_nb_trainable_parameters`). Time on a CPU follows from the arithmetic of a step
and one quick measurement of this machine; on a GPU nothing is promised before the first steps have been measured.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from lora_ui import learned
from lora_ui.errors import Say
from lora_ui.machine import Machine
from lora_ui.models import BaseModel
from lora_ui.settings import AdapterSettings


@dataclass(frozen=True)
class Linear:
    """One weight of in × out numbers in every layer, under its name inside the layer."""

    name: str
    inputs: int
    outputs: int
    bias: bool = False


@dataclass(frozen=True)
class Shape:
    """A model as its numbers. `norms` and `norm_biases` are per layer; `outside` is all that is in no layer, but the untied head."""

    prefix: str
    layers: int
    linears: tuple[Linear, ...]
    norms: int
    norm_biases: int
    outside: int
    outside_biases: int
    head: int
    """vocabulary × width: what the last multiplication costs, tied or not."""
    tied: bool
    normed: int
    """Numbers of a token that the norms of one layer read."""
    kept: int
    """Numbers of a token that the feed-forward of one layer keeps for its gradients, besides what its weights read."""

    @property
    def width(self) -> int:
        return self.linears[0].inputs

    @property
    def heads(self) -> int:
        """Numbers of a token that the heads of attention give together."""
        start = self.linears[0].name.split(".")[0]
        return [one for one in self.linears if one.name.startswith(start)][-1].inputs

    @property
    def parameters(self) -> int:
        in_layer = sum(one.inputs * one.outputs + one.bias * one.outputs for one in self.linears) + self.norms + self.norm_biases
        return self.layers * in_layer + self.outside + self.outside_biases + (0 if self.tied else self.head)

    @property
    def biases(self) -> int:
        return self.layers * (sum(one.outputs for one in self.linears if one.bias) + self.norm_biases) + self.outside_biases


# Families: how config.json says what the weights are


@dataclass(frozen=True)
class Family:
    """A model family of the usual build: attention (q k v o) and a gated feed-forward, RMS norms. Names are config.json's keys."""

    tied: bool = False
    """What an absent tie_word_embeddings means."""
    head_dim: int | None = None
    """What an absent head_dim means; None: width ÷ heads."""
    norms: int = 2
    qk_norm: str = ""
    """head: over one head; all: over all heads."""
    qkv_bias: bool = False
    """Always a bias on q, k and v (Qwen2); otherwise attention_bias decides for all four."""
    fused: bool = False
    """q, k, v in one weight, and gate and up in one (Phi-3)."""


FAMILIES = {
    "llama": Family(),
    "mistral": Family(),
    "granite": Family(),
    "smollm3": Family(tied=True),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(head_dim=128, qk_norm="head"),
    "olmo2": Family(qk_norm="all"),
    "phi3": Family(fused=True),
    "gemma": Family(tied=True, head_dim=256),
    "gemma2": Family(tied=True, head_dim=256, norms=4),
    "gemma3_text": Family(tied=True, head_dim=256, norms=4, qk_norm="head"),
}


def _usual(family: Family, config: dict[str, Any]) -> Shape:
    width, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    size = config.get("head_dim") or family.head_dim or width // heads
    q, kv = heads * size, (config.get("num_key_value_heads") or heads) * size
    bias, mlp_bias = bool(config.get("attention_bias")), bool(config.get("mlp_bias"))
    o = Linear("self_attn.o_proj", q, width, bias)
    down = Linear("mlp.down_proj", inner, width, mlp_bias)
    linears: tuple[Linear, ...]
    if family.fused:
        linears = (Linear("self_attn.qkv_proj", width, q + 2 * kv), o, Linear("mlp.gate_up_proj", width, 2 * inner), down)
    else:
        into = bias or family.qkv_bias
        attention = (
            Linear("self_attn.q_proj", width, q, into),
            Linear("self_attn.k_proj", width, kv, into),
            Linear("self_attn.v_proj", width, kv, into),
            o,
        )
        linears = (*attention, Linear("mlp.gate_proj", width, inner, mlp_bias), Linear("mlp.up_proj", width, inner, mlp_bias), down)
    norms = family.norms * width + {"": 0, "head": 2 * size, "all": q + kv}[family.qk_norm]
    normed = family.norms * width + (q + kv if family.qk_norm else 0)
    head = config["vocab_size"] * width
    tied = config.get("tie_word_embeddings", family.tied)
    return Shape("model.layers", config["num_hidden_layers"], linears, norms, 0, head + width, 0, head, tied, normed, 3 * inner)


def _gpt2(config: dict[str, Any]) -> Shape:
    width = config.get("n_embd") or config["hidden_size"]
    inner = config.get("n_inner") or 4 * width
    linears = (
        Linear("attn.c_attn", width, 3 * width, True),
        Linear("attn.c_proj", width, width, True),
        Linear("mlp.c_fc", width, inner, True),
        Linear("mlp.c_proj", inner, width, True),
    )
    layers = config.get("n_layer") or config["num_hidden_layers"]
    positions = config.get("n_positions") or config["max_position_embeddings"]
    head = config["vocab_size"] * width
    tied = config.get("tie_word_embeddings", True)
    outside = head + positions * width + width
    return Shape("transformer.h", layers, linears, 2 * width, 2 * width, outside, width, head, tied, 2 * width, 4 * inner)


def _gpt_neox(config: dict[str, Any]) -> Shape:
    width, inner, bias = config["hidden_size"], config["intermediate_size"], config.get("attention_bias", True)
    linears = (
        Linear("attention.query_key_value", width, 3 * width, bias),
        Linear("attention.dense", width, width, bias),
        Linear("mlp.dense_h_to_4h", width, inner, True),
        Linear("mlp.dense_4h_to_h", inner, width, True),
    )
    head = config["vocab_size"] * width
    tied = config.get("tie_word_embeddings", False)
    return Shape(
        "gpt_neox.layers", config["num_hidden_layers"], linears, 2 * width, 2 * width, head + width, width, head, tied, 2 * width, inner
    )


def _starcoder2(config: dict[str, Any]) -> Shape:
    width, inner, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    size, bias = width // heads, config.get("use_bias", True)
    kv = config["num_key_value_heads"] * size
    linears = (
        Linear("self_attn.q_proj", width, width, bias),
        Linear("self_attn.k_proj", width, kv, bias),
        Linear("self_attn.v_proj", width, kv, bias),
        Linear("self_attn.o_proj", width, width, bias),
        Linear("mlp.c_fc", width, inner, bias),
        Linear("mlp.c_proj", inner, width, bias),
    )
    head = config["vocab_size"] * width
    tied = config.get("tie_word_embeddings", True)
    return Shape(
        "model.layers", config["num_hidden_layers"], linears, 2 * width, 2 * width, head + width, width, head, tied, 2 * width, inner
    )


def _falcon(config: dict[str, Any]) -> Shape:
    width, heads, bias = config["hidden_size"], config["num_attention_heads"], bool(config.get("bias"))
    inner, size = config.get("ffn_hidden_size") or 4 * width, width // heads
    new = bool(config.get("new_decoder_architecture"))
    if new:
        fused = ((config.get("num_kv_heads") or heads) * 2 + heads) * size
    else:
        fused = width + 2 * size if config.get("multi_query", True) else 3 * width
    linears = (
        Linear("self_attention.query_key_value", width, fused, bias),
        Linear("self_attention.dense", width, width, bias),
        Linear("mlp.dense_h_to_4h", width, inner, bias),
        Linear("mlp.dense_4h_to_h", inner, width, bias),
    )
    one_norm = config.get("num_ln_in_parallel_attn") == 1 if new else config.get("parallel_attn", True)
    norms = width if one_norm else 2 * width
    head = config["vocab_size"] * width
    tied = config.get("tie_word_embeddings", True)
    return Shape("transformer.h", config["num_hidden_layers"], linears, norms, norms, head + width, width, head, tied, norms, inner)


_BUILDERS: dict[str, Callable[[dict[str, Any]], Shape]] = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "starcoder2": _starcoder2,
    "falcon": _falcon,
}


def shape(config: dict[str, Any]) -> Shape | None:
    """The weights that a config.json describes; None for a family not known here, or when a size is missing."""
    name = config.get("model_type", "")
    try:
        if name in FAMILIES:
            return _usual(FAMILIES[name], config)
        return _BUILDERS[name](config) if name in _BUILDERS else None
    except (KeyError, TypeError, ZeroDivisionError):
        return None


# What the adapter adds


def adapted(model: Shape, wanted: str | list[str]) -> tuple[Linear, ...] | None:
    """The weights of one layer that get an adapter, by PEFT's rules; None where the answer differs between layers or lies outside them."""
    if wanted == "all-linear":
        return model.linears
    if isinstance(wanted, str):  # PEFT takes it for a pattern of the whole name
        per_layer = [
            tuple(one for one in model.linears if re.fullmatch(wanted, f"{model.prefix}.{layer}.{one.name}"))
            for layer in range(model.layers)
        ]
        return per_layer[0] if per_layer[0] and len(set(per_layer)) == 1 else None
    if any("embed" in name or name in ("wte", "wpe") for name in wanted):
        return None
    found = tuple(one for one in model.linears if any(one.name == name or one.name.endswith("." + name) for name in wanted))
    return found or None


def module_names(config: dict[str, Any] | None) -> list[str]:
    """Names that `target_modules` can hold for this family; empty for unknown ones."""
    model = shape(config) if config else None
    return sorted({one.name.split(".")[-1] for one in model.linears}) if model else []


def has_targets(config: dict[str, Any] | None, wanted: str | list[str]) -> bool:
    """Whether named modules exist in the model; True where that cannot be told from config.json (patterns, embeddings, unknown families)."""
    names = module_names(config)
    if not names or isinstance(wanted, str) or any("embed" in name or name in ("wte", "wpe") for name in wanted):
        return True
    model = shape(config or {})
    return bool(model and adapted(model, wanted))


def parameters(config: dict[str, Any], adapter: AdapterSettings) -> dict[str, Any] | None:
    """How many numbers learn, of how many, as PEFT counts them: `trainable_parameters`, `adapter_parameters` (with those that stay
    still), `all_parameters` (base and adapter), `share` (percent) and `explanation` (Say). None for families or targets that cannot be
    counted from config.json."""
    model = shape(config)
    targets = adapted(model, adapter.target_modules) if model else None
    if model is None or targets is None:
        return None
    learns, still, said = learned.numbers(adapter, model, targets)
    own_biases = model.layers * sum(one.outputs for one in targets if one.bias)
    biases = {"none": 0, "all": model.biases, "lora_only": own_biases}[adapter.bias]
    trainable, total = learns + biases, model.parameters + learns + still
    return {
        "trainable_parameters": trainable,
        "adapter_parameters": learns + still + learned.shared(adapter, targets),
        "all_parameters": total,
        "share": 100 * trainable / total,
        "explanation": said if not biases else Say("{said} And {biases:,} biases.", said=said, biases=biases),
    }


# How long

CPU_EFFICIENCY = 0.3
"""Share of the machine's matrix speed that a training step reaches: 0.42 bare, less what trainer, tests and neighbours take
(measured on 2 cores with SmolLM2-135M, packed to 1,024 tokens)."""
START_SECONDS = 25.0
"""Importing the libraries and loading the model, on a CPU."""


def estimate(
    base: BaseModel,
    trainable: int | None,
    tokens_per_round: float | None,
    rounds: float,
    machine: Machine,
    tokens_per_second: float | None = None,
) -> dict[str, Any]:
    """`{"seconds": float | None, "basis": Say}` for a whole run. `tokens_per_second` (useful tokens) is a measured speed, if there is one."""
    if tokens_per_round is None:
        return {"seconds": None, "basis": Say("unknown until the rows are counted")}
    tokens = tokens_per_round * rounds
    if tokens_per_second:
        return {"seconds": START_SECONDS + tokens / tokens_per_second, "basis": Say("from the speed measured here before")}
    if machine.device != "cpu":
        return {"seconds": None, "basis": Say("unknown until the first steps")}
    flops = step_flops(base, trainable)
    if flops is None:
        return {"seconds": None, "basis": Say("unknown until the first steps")}
    speed = cpu_flops() * CPU_EFFICIENCY / flops
    return {"seconds": START_SECONDS + tokens / speed, "basis": Say("from this machine's measured speed")}


def step_flops(base: BaseModel, trainable: int | None, context: float = 0, twice: float = 0) -> float | None:
    """Operations per trained token: 2 forward and 2 backward for every number that multiplies (frozen weights need no gradient of
    their own), 6 for every number that learns, and attention to `context` tokens on average, forward and twice backward. `twice`: the
    share of layers that are worked out again in the backward pass."""
    model = shape(base.config) if base.config else None
    if model is not None:
        inside = model.layers * sum(one.inputs * one.outputs for one in model.linears)
        seen = 4.0 * model.layers * model.heads * context
        return 4.0 * (inside + model.head) + 3 * seen + 6.0 * (trainable or 0) + (2.0 * inside + seen) * twice
    return 4.0 * base.parameters + 6.0 * (trainable or 0) if base.parameters else None


@cache
def cpu_flops() -> float:
    """Operations per second of this machine's cores together, in fp32 matrix products. Takes about 0.1 s, once."""
    size = 1024
    a = np.random.default_rng(0).random((size, size), dtype=np.float32)
    fastest = min(_seconds(a) for _ in range(10))
    return 2.0 * size**3 / fastest


def _seconds(a: np.ndarray[Any, Any]) -> float:
    started = time.perf_counter()
    a @ a
    return time.perf_counter() - started
