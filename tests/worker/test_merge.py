"""Merging in a real worker: what comes out loads with plain transformers and answers like the adapter on its base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from lora_ui.home import Home
from tests.tiny import tiny_model, tiny_run
from tests.worker.working import work

RUN = "quiet-otter-000001"


def greedy(model: torch.nn.Module, prompt: torch.Tensor) -> list[int]:
    return model.generate(prompt, max_new_tokens=12, do_sample=False)[0].tolist()


@pytest.mark.parametrize(
    ("stored", "asked", "kept"), [("bfloat16", None, "BF16"), ("float32", None, "F32"), ("bfloat16", "float32", "F32")]
)
def test_the_merged_model_answers_like_the_adapter(tmp_path: Path, stored: str, asked: str | None, kept: str) -> None:
    home, base = Home.open(tmp_path / "home"), tiny_model(tmp_path / "base", dtype=stored)
    run = tiny_run(home, RUN, base)
    outcome = work(home, "merge", {"run_id": RUN, "dtype": asked}, RUN)
    assert outcome["state"] == "finished", outcome
    merged = Path(outcome["result"]["path"])
    assert merged == run / "merged"
    check = outcome["result"]["check"]
    assert check["ok"]
    assert check["same_first_choice"] == check["prompts"] == 3
    with safe_open(merged / "model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {kept}  # noqa: SIM118 - not a dict
    tokenizer = AutoTokenizer.from_pretrained(merged)
    question = [{"role": "user", "content": "What is the river?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    reference = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=kept_dtype(kept)), run / "adapter")
    assert greedy(AutoModelForCausalLM.from_pretrained(merged), prompt)[:14] == greedy(reference, prompt)[:14]
    assert (merged / "generation_config.json").read_bytes() == (base / "generation_config.json").read_bytes()
    assert (merged / "tokenizer.json").read_bytes() == (run / "adapter" / "tokenizer.json").read_bytes()
    assert not [path.name for path in merged.iterdir() if path.suffix in (".bin", ".pt") or path.name.startswith("adapter")]
    assert not [path for path in run.iterdir() if path.name.startswith(".tmp")]
    assert str(tmp_path) not in "".join(path.read_text() for path in merged.glob("*.json"))


def kept_dtype(kept: str) -> torch.dtype:
    return torch.bfloat16 if kept == "BF16" else torch.float32


def test_a_merge_again_replaces_the_first(tmp_path: Path) -> None:
    home, base = Home.open(tmp_path / "home"), tiny_model(tmp_path / "base")
    merged = tiny_run(home, RUN, base) / "merged"
    merged.mkdir()
    (merged / "left-over.txt").write_text("of the merge before")
    assert work(home, "merge", {"run_id": RUN, "dtype": None}, RUN)["state"] == "finished"
    assert (merged / "model.safetensors").is_file()
    assert not (merged / "left-over.txt").exists()


def test_an_adapter_that_holds_no_numbers_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    home, base = Home.open(tmp_path / "home"), tiny_model(tmp_path / "base")
    run = tiny_run(home, RUN, base)
    weights = run / "adapter" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4:] = b"\x00\x00\xc0\x7f"  # a float32 that is no number
    weights.write_bytes(content)
    outcome = work(home, "merge", {"run_id": RUN, "dtype": None}, RUN)
    assert (outcome["state"], outcome["error"]["kind"]) == ("failed", "MergeFailed")
    assert not (run / "merged").exists()
    assert not [path for path in run.iterdir() if path.name.startswith(".tmp")]


def test_a_run_without_an_adapter_or_with_another_kind_is_refused(tmp_path: Path) -> None:
    home, base = Home.open(tmp_path / "home"), tiny_model(tmp_path / "base")
    run = tiny_run(home, RUN, base)
    config = run / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "peft_type": "PROMPT_TUNING"}))
    assert work(home, "merge", {"run_id": RUN, "dtype": None}, RUN)["error"]["kind"] == "AdapterUnsuitable"
    config.unlink()
    assert work(home, "merge", {"run_id": RUN, "dtype": None}, RUN)["error"]["kind"] == "NothingTrained"
