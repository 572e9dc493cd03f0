"""Switching in place, where an adapter brings biases of its own along, or is of a kind that stands alone."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from lora_ui.settings import AdapterSettings
from lora_ui.worker import methods
from lora_ui.worker.switch import Answer, SwitchedModel, pick
from tests.tiny import tiny_model

PROMPT = [5, 6, 7]


def with_biases(folder: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=100, attention_bias=True, initializer_range=0.5, **sizes))
    model.save_pretrained(folder)
    return folder


def adapter(base: Path, folder: Path, bias: str) -> Path:
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules="all-linear", bias=bias))
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=2.0 if name.endswith("bias") else 0.3)
    model.save_pretrained(folder)
    return folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([PROMPT])).logits[0, -1]


def test_biases_are_switched_with_their_adapter(tmp_path: Path) -> None:
    base = with_biases(tmp_path / "base")
    folders = {bias: adapter(base, tmp_path / bias, bias) for bias in ("none", "all", "lora_only")}
    expected: dict[str | None, torch.Tensor] = {None: logits(AutoModelForCausalLM.from_pretrained(base))}
    for name, folder in folders.items():
        expected[name] = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder))
    switched = SwitchedModel(AutoModelForCausalLM.from_pretrained(base))
    switched.load("none", folders["none"])
    for name in ("all", None, "none", "lora_only", None, "all", "none", None):
        if name:
            switched.load(name, folders[name])
        answer = Answer(name, PROMPT, most=1, ends=frozenset(), temperature=0)
        assert list(switched.answer(answer)) == [[int(expected[name].argmax())]]
        assert torch.allclose(logits(switched.model), expected[name], atol=1e-4), name


def test_an_adapter_of_any_kind_takes_its_turn(tmp_path: Path) -> None:
    """Of these kinds PEFT holds one at a time; who is asked is loaded anew, also between two pieces of answers."""
    base = tiny_model(tmp_path / "base")
    expected: dict[str | None, torch.Tensor] = {None: logits(AutoModelForCausalLM.from_pretrained(base))}
    folders = {}
    for kind in ("lora", "vera", "oft", "adalora", "ia3", "miss"):
        made = AutoModelForCausalLM.from_pretrained(base)
        model = methods.wrap(made, AdapterSettings(method=kind, r=4, block_size=16), 10)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.3 * torch.randn_like(parameter)
        folders[kind] = tmp_path / kind
        model.save_pretrained(folders[kind])
        expected[kind] = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folders[kind]))
    switched = SwitchedModel(AutoModelForCausalLM.from_pretrained(base))
    for kind, folder in folders.items():
        switched.load(kind, folder)
    assert list(switched.adapters) == list(folders)
    for name in ("lora", None, "vera", "adalora", None, "oft", "ia3", "lora", "miss", None):
        answer = Answer(name, PROMPT, most=1, ends=frozenset(), temperature=0)
        assert list(switched.answer(answer)) == [[int(expected[name].argmax())]], name
        assert torch.allclose(logits(switched.model), expected[name], atol=1e-4), name
    one, other = (switched.answer(Answer(name, PROMPT, most=3, ends=frozenset(), temperature=0)) for name in ("vera", "oft"))
    assert next(one) and next(other)
    assert sum(len(said) for said in one) == 2


def test_pick_draws_only_from_the_likeliest_tokens() -> None:
    scores = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    chance = torch.Generator().manual_seed(0)
    assert {pick(scores, 1.0, 0.75, chance) for _ in range(200)} == {0, 1}
    assert {pick(scores, 1.0, 1.0, chance) for _ in range(400)} == {0, 1, 2, 3}
    assert pick(scores, 0, 1.0, chance) == 0
