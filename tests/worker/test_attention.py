"""Rows that lie end to end give the numbers that each gives alone, for every family that is trained so."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lora_ui import memory
from lora_ui.data import prepared
from lora_ui.home import Home, read_json, write_json
from lora_ui.memory import VARLEN
from lora_ui.presets import packed_sequences
from lora_ui.worker import attention
from tests.train.inside import folder_of, losses, train

LENGTHS = [5, 1, 200, 12]
"""Also longer than the sliding window, and a single token."""
SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
SIZES |= {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 7, "max_position_embeddings": 512}


@pytest.fixture(autouse=True, scope="module")
def known() -> None:
    attention.register()


def made(family: str, reads: str) -> Any:
    """The same random model each time, with a last layer that slides where the family has one."""
    sizes = {**SIZES, "layer_types": ["full_attention", "sliding_attention"]} if family == "gemma3_text" else SIZES
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes), attn_implementation=reads)


def rows() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(1, 64, (1, length), generator=draw) for length in LENGTHS]


def end_to_end(ids: list[torch.Tensor]) -> dict[str, Any]:
    """As TRL's collator hands rows over."""
    ends = torch.tensor([0, *LENGTHS]).cumsum(0).to(torch.int32)
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    longest = max(LENGTHS)
    kept = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    return {"input_ids": torch.cat(ids, 1), "position_ids": positions, "use_cache": False, **kept}


@pytest.mark.parametrize("family", sorted(memory.BY_ITSELF))
def test_each_row_reads_only_itself(family: str) -> None:
    ids = rows()
    alone, together = made(family, "eager"), made(family, VARLEN)
    expected = torch.cat([alone(one, use_cache=False).logits for one in ids], 1)
    found = together(**end_to_end(ids)).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    expected.square().mean().backward()
    found.square().mean().backward()
    for (name, one), two in zip(alone.named_parameters(), together.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-3, atol=1e-6, msg=lambda said, name=name: f"{name}: {said}")


def test_a_row_alone_is_itself_and_rows_beside_each_other_are_refused() -> None:
    alone, row = made("llama", VARLEN), rows()[3]
    torch.testing.assert_close(alone(row, use_cache=False).logits, made("llama", "eager")(row, use_cache=False).logits)
    with pytest.raises(ValueError, match="2 rows beside each other"):
        alone(torch.cat([row, row]), attention_mask=torch.ones(2, row.shape[1]), use_cache=False)


def test_a_row_changed_changes_no_other() -> None:
    model, before = made("llama", VARLEN), rows()
    after = [*before[:2], before[2].flip(1), before[3]]
    one, two = (model(**end_to_end(ids)).logits.split(LENGTHS, 1) for ids in (before, after))
    assert [torch.equal(a, b) for a, b in zip(one, two, strict=True)] == [True, True, False, True]


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_bfloat16_is_as_near_as_transformers_own(family: str) -> None:
    """To float32, with the same weights: of one family that slides, and one that does not."""
    ids, exact = rows(), made(family, "eager")
    expected = torch.cat([exact(one, use_cache=False).logits for one in ids], 1)
    usual = torch.cat([made(family, "sdpa").bfloat16()(one, use_cache=False).logits for one in ids], 1)
    found = made(family, VARLEN).bfloat16()(**end_to_end(ids)).logits
    assert (found - expected).abs().max() < 1.5 * (usual - expected).abs().max()


@pytest.mark.parametrize(
    ("device", "config", "expected"),
    [
        ("cpu", {"model_type": "llama"}, "varlen"),
        ("mps", {"model_type": "llama"}, "sdpa"),
        ("cpu", {"model_type": "gpt2"}, "sdpa"),
        ("cpu", {"model_type": "llama", "attention_dropout": 0.1}, "sdpa"),
        ("cpu", {"model_type": "gemma2"}, "eager"),
        ("cpu", {}, "sdpa"),
        ("cuda", {"model_type": "qwen3"}, "varlen"),
    ],
)
def test_what_reads_the_rows(device: str, config: dict[str, Any], expected: str) -> None:
    assert memory.attention(config, device, "bfloat16").value == expected
    assert memory.attention(config, "cuda", "float16").value != VARLEN


@pytest.mark.train
def test_training_packed_and_unpacked_is_training_with_padding(home: Home, tiny: Any) -> None:
    """All rows are in each step, so that all three see the same; in float32, where only the order of sums differs."""
    chosen = {"global_batch_size": 20, "per_device_train_batch_size": 4, "max_steps": 4}
    first = folder_of(home, tiny(**chosen, packing=False), "decides")
    train(first)
    made, asked = read_json(first / "decided.json"), read_json(first / "job.json")["params"]["prepare"]
    sequences = packed_sequences(prepared.summary(home, asked)["train_lengths"], 64)
    found = {}
    for reads, packing in (("sdpa", False), ("varlen", False), ("varlen", True)):
        raw = tiny(**chosen, packing=packing)
        folder = folder_of(home, raw, f"{reads}-{packing}".lower())
        settled = {"machine.dtype": "float32", "machine.attn_implementation": reads, "training.packing": packing}
        if packing:
            settled |= {"training.per_device_train_batch_size": 1, "training.gradient_accumulation_steps": sequences}
        write_json(folder / "decided.json", {**made, **{key: {**made[key], "value": value} for key, value in settled.items()}})
        train(folder)
        found[reads, packing] = losses(folder)
    padded = [[number or 0 for number in row] for row in found.pop(("sdpa", False))]
    assert len(padded) == 7
    for other in found.values():
        for one, two in zip(padded, other, strict=True):
            assert [number or 0 for number in two] == pytest.approx(one, rel=1e-5)
