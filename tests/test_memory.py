"""The closed form of memory against real steps over tensors without numbers (worker/dryrun.py), and what is made of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lora_ui import machine, memory, presets, settings, settling, ways
from lora_ui.machine import GIB
from lora_ui.memory import Place, Rows, Step
from lora_ui.models import BaseModel, catalogue
from lora_ui.presets import Decision
from lora_ui.worker import dryrun


def llama(layers: int, width: int, inner: int, heads: int, kv: int, words: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers, "vocab_size": words}
    return {
        "model_type": "llama",
        **sizes,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "max_position_embeddings": 32768,
        **more,
    }


SMALL = llama(8, 576, 1536, 9, 3, 49152, tie_word_embeddings=True)
EIGHT_B = llama(8, 4096, 14336, 32, 8, 128256)
SEVENTY_B = llama(4, 8192, 28672, 64, 8, 128256)
QWEN3 = {**llama(8, 2560, 9728, 32, 8, 151936, head_dim=128, tie_word_embeddings=True), "model_type": "qwen3"}
GEMMA = {**llama(8, 1152, 6912, 4, 1, 262144, head_dim=256), "model_type": "gemma3_text"}
PHI3 = {**llama(6, 3072, 8192, 24, 8, 200064, pad_token_id=0), "model_type": "phi3"}
FOUR_BIT: dict[str, Any] = {"model": {"load_in_4bit": True}}
GRID = [
    (SMALL, 2, 1024, False, "bfloat16", {}),
    (SMALL, 1, 1024, False, "float32", {}),
    (SMALL, 4, 512, True, "float32", {}),
    (SMALL, 1, 8192, False, "bfloat16", {}),
    (EIGHT_B, 1, 4096, False, "bfloat16", {}),
    (EIGHT_B, 4, 2048, True, "bfloat16", {}),
    (EIGHT_B, 2, 1024, False, "bfloat16", FOUR_BIT),
    (SEVENTY_B, 1, 2048, True, "bfloat16", FOUR_BIT),
    (QWEN3, 2, 1024, False, "bfloat16", {}),
    (QWEN3, 4, 1024, False, "bfloat16", {"adapter": {"target_modules": ["q_proj", "v_proj"]}}),
    (QWEN3, 2, 1024, False, "bfloat16", {"adapter": {"use_dora": True, "r": 64}}),
    (GEMMA, 2, 1024, True, "bfloat16", {"adapter": {"r": 256}}),
    (PHI3, 2, 1024, False, "bfloat16", {}),
    (EIGHT_B, 4, 2048, 2, "bfloat16", {}),
    (SEVENTY_B, 1, 2048, 2, "bfloat16", FOUR_BIT),
    ({**QWEN3, "num_hidden_layers": 7}, 2, 1024, 2, "bfloat16", {}),
    (QWEN3, 2, 512, False, "bfloat16", {"adapter": {"method": "lorafa"}}),
    (SMALL, 4, 512, True, "bfloat16", {"adapter": {"method": "adalora"}}),
    (QWEN3, 2, 512, False, "bfloat16", {"adapter": {"method": "vera", "r": 256}}),
    (QWEN3, 2, 512, False, "bfloat16", {"adapter": {"method": "oft"}}),
    (SMALL, 2, 512, False, "float32", {"adapter": {"method": "loha"}}),
    (QWEN3, 2, 512, False, "bfloat16", {"adapter": {"method": "lokr"}}),
    (QWEN3, 4, 512, True, "bfloat16", {"adapter": {"method": "ia3"}}),
    (QWEN3, 2, 512, False, "bfloat16", {"adapter": {"method": "hira"}}),
    (QWEN3, 2, 512, False, "bfloat16", {"adapter": {"method": "miss"}}),
]


def base(config: dict[str, Any]) -> BaseModel:
    return BaseModel(name="x", kind="hub", title="x", config=config)


@pytest.mark.parametrize(
    ("config", "rows", "length", "checkpointing", "dtype", "groups"),
    GRID,
    ids=[f"{c['model_type']} {c['hidden_size']} {r}x{n} {('kept', 'twice', 'half')[k]} {d} {g}" for c, r, n, k, d, g in GRID],
)
def test_the_closed_form_agrees_with_the_judge(
    config: dict[str, Any], rows: int, length: int, checkpointing: int, dtype: str, groups: dict[str, Any]
) -> None:
    agrees(config, settings.parse(groups), Step(rows, length, checkpointing, "cuda" if dtype == "bfloat16" else "cpu", dtype))


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_a_mask_is_counted_where_one_is_needed(packed: bool) -> None:
    """On GPUs older than FlashAttention; of packed sequences together it covers all."""
    step = Step(2, 1024, False, "cuda", "float16", attention="sdpa", packed=packed)
    agrees(SMALL, settings.parse({}), step)
    of_one = memory.items(base(SMALL), settings.parse({}), replace(step, rows=1))
    of_two = memory.items(base(SMALL), settings.parse({}), step)
    assert of_one and of_two and (of_two["activations"] > 2.05 * of_one["activations"]) is packed


def agrees(config: dict[str, Any], chosen: settings.Settings, step: Step) -> None:
    measured = dryrun.measure(config, chosen, step)["peak"]
    needed = memory.items(base(config), chosen, step)
    assert needed is not None
    tensors = sum(needed.values()) - needed["context"] - needed["margin"]
    assert tensors == pytest.approx(measured, rel=0.1)
    assert tensors + needed["margin"] >= measured


def test_weights_follow_the_count_from_config() -> None:
    step = Step(1, 1024, False, "cuda", "bfloat16")
    for model in catalogue():
        if not model.config or not model.parameters:
            continue
        needed = memory.items(model, settings.parse({}), step)
        assert needed is not None and needed["weights"] == 2 * model.parameters
        squeezed = memory.items(model, settings.parse(FOUR_BIT), step)
        assert squeezed is not None and squeezed["weights"] < needed["weights"]


def test_an_unknown_family_is_not_guessed() -> None:
    unknown = base({"model_type": "mamba"})
    assert memory.items(unknown, settings.parse({}), Step(1, 16, False, "cpu", "float32")) is None
    decided, needed = settling.settle(unknown, settings.parse({}), Rows(100, 10), gpu(8))
    assert needed is None and decided["total_steps"].value > 0
    assert ways.ways(unknown, settings.parse({}), Rows(100, 10), gpu(8), []) == []


def gpu(size: float) -> Place:
    return memory.another(int(size * GIB))


def test_the_verdict_knows_what_others_hold_and_its_margin() -> None:
    needed = {"weights": 10 * GIB, "margin": GIB}
    assert memory.verdict(needed, gpu(11)) == "fits"
    assert memory.verdict(needed, replace(gpu(11), free=GIB)) == "tight"
    assert memory.verdict(needed, gpu(10.5)) == "tight"
    assert memory.verdict(needed, gpu(9.9)) == "no"


QWEN3_8B = next(model for model in catalogue() if model.name == "Qwen/Qwen3-8B")
ROWS = Rows(2000, 200, median=900, longest=2000, tokens=1_800_000)


def values(raw: dict[str, Any], size: float) -> dict[str, Any]:
    decided, _ = settling.settle(QWEN3_8B, settings.parse(raw), ROWS, gpu(size))
    return {key: decision.value for key, decision in decided.items()}


def test_what_is_decided_follows_the_memory_and_keeps_the_step() -> None:
    raw = {"training": {"max_length": 2048, "global_batch_size": 16, "packing": False}}
    whole, half, less, little = (values(raw, size) for size in (140, 64, 40, 20))
    batch, parts, twice = "training.per_device_train_batch_size", "training.gradient_accumulation_steps", memory.CHECKPOINTING
    assert [one[twice] for one in (whole, half, less, little)] == [False, False, "half", True]
    assert whole[batch] > half[batch] and half[batch] * 2000 >= settling.BUSY
    for one in (whole, half, less, little):
        assert one[batch] * one[parts] == 16
        assert one["total_steps"] == whole["total_steps"]


def precision(bits: Any, size: float, device: str = "cuda", **model: Any) -> Decision:
    place = replace(gpu(size), device=device)
    decided, needed = settling.settle(QWEN3_8B, settings.parse({"model": {"load_in_4bit": bits, **model}}), ROWS, place)
    by_hand = settings.with_4bit(settings.parse({"model": model}), decided[memory.PRECISION].value)
    assert needed == settling.settle(QWEN3_8B, by_hand, ROWS, place)[1]  # what is said is said of what was decided
    return decided[memory.PRECISION]


def test_four_bits_are_taken_where_sixteen_do_not_fit_and_only_there() -> None:
    enough, little = precision("auto", 24), precision("auto", 12)
    assert enough.value is False and "of 24.0 GB is enough with 16 bits" in enough.reason
    assert little.value is True and "of 12.0 GB with 16 bits" in little.reason
    assert precision("auto", 12, load_in_8bit=True).value is False
    assert precision("auto", 12, device="cpu").value is False
    assert precision("auto", 12, device="mps").value is False
    for person in (True, False):
        assert [precision(person, size).value for size in (8, 140)] == [person, person]
        assert precision(person, 8).reason == presets.CHOSEN
    assert all("4 bits" not in way.said for size in (8, 12, 24) for way in found({"model": {"load_in_4bit": "auto"}}, size))


def test_what_a_person_set_is_kept_though_it_does_not_fit() -> None:
    raw = {"training": {"max_length": 2048, "per_device_train_batch_size": 8, "activation_checkpointing": False, "packing": False}}
    kept = values(raw, 8)
    assert kept["training.per_device_train_batch_size"] == 8 and kept[memory.CHECKPOINTING] is False


def test_each_reason_names_the_memory() -> None:
    decided, _ = settling.settle(QWEN3_8B, settings.parse({"training": {"max_length": 2048}}), ROWS, gpu(20))
    assert "of 20.0 GB would be needed" in decided[memory.CHECKPOINTING].reason


def found(raw: dict[str, Any], size: float, model: BaseModel = QWEN3_8B) -> list[ways.Way]:
    return ways.ways(model, settings.parse(raw), ROWS, gpu(size), catalogue())


def test_every_way_really_fits_when_it_is_taken() -> None:
    raw = {"training": {"max_length": 2048, "per_device_train_batch_size": 8, "activation_checkpointing": False, "packing": False}}
    offered = found(raw, 24)
    assert offered
    for way in offered:
        taken = settings.parse(settings.merge(raw, way.change))
        model = next(
            (one for one in catalogue() if one.name == taken.model.base_model and "base_model" in way.change.get("model", {})), QWEN3_8B
        )
        _, needed = settling.settle(model, taken, ROWS, gpu(24))
        assert needed is not None and sum(needed.values()) == way.needs
        assert memory.verdict(needed, gpu(24)) == way.verdict != "no"


def test_where_no_change_is_enough_all_together_or_a_smaller_model_is_offered() -> None:
    model = next(model for model in catalogue() if model.name == "Qwen/Qwen3-32B")
    (way,) = found({"training": {"max_length": 2048}}, 8, model)
    chosen = next(model for model in catalogue() if model.name == way.change["model"]["base_model"])
    assert way.verdict == "fits" and not chosen.gated
    assert found({}, 0.5) == []


def test_a_model_behind_a_licence_is_not_offered_instead() -> None:
    big, small = (next(model for model in catalogue() if model.name == name) for name in ("Qwen/Qwen3-32B", "Qwen/Qwen3-0.6B"))
    offered = [ways.ways(big, settings.parse({}), ROWS, gpu(8), [replace(small, gated=gated)]) for gated in (False, True)]
    assert [len(one) for one in offered] == [1, 0]


def test_a_smaller_rank_keeps_the_strength() -> None:
    rank = next(
        change
        for said, change in ways._changes(settings.parse({"adapter": {"r": 64, "lora_alpha": 128}}), ROWS, gpu(8))
        if "adapter" in change
    )
    assert rank == {"adapter": {"r": 8, "lora_alpha": 16}}


def test_this_machine_is_a_place() -> None:
    look = machine.look()
    places = memory.here(look)
    assert places[0].whole == look.whole_bytes and places[0].dtype == look.dtype
    gpus = [machine.Gpu("a", "Big", 80 * GIB, 70 * GIB, (9, 0)), machine.Gpu("b", "Small", 8 * GIB, 8 * GIB, (7, 5))]
    two = memory.here(replace(look, device="cuda", gpus=gpus))
    assert [(place.name, place.whole) for place in two] == [("Small", 8 * GIB), ("Big", 80 * GIB)]


def test_a_method_that_cannot_read_a_squeezed_base_never_gets_one() -> None:
    wanted = {"model": {"load_in_4bit": "auto"}}
    decided, _ = settling.settle(QWEN3_8B, settings.parse(wanted), ROWS, gpu(12))
    assert decided[memory.PRECISION].value is True
    for init in ({"init_lora_weights": "pissa"}, {"method": "ia3"}):
        chosen = settings.parse({**wanted, "adapter": init})
        decided, _ = settling.settle(QWEN3_8B, chosen, ROWS, gpu(12))
        assert decided[memory.PRECISION].value is False and "does not go with it" in decided[memory.PRECISION].reason
        offered = ways.ways(QWEN3_8B, settings.parse({"adapter": init}), ROWS, gpu(14), [])
        assert [way for way in offered if way.change.get("model", {}).get("load_in_4bit")] == []
