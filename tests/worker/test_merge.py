"""Merging in a real worker: what comes out loads with plain transformers and answers like the adapter on its base."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lora_ui import errors
from lora_ui.home import Home, write_json
from lora_ui.worker import load, merge, shards
from lora_ui.worker.job import Job, Stopped
from tests.tiny import HIDDEN, INNER, tiny_model, tiny_run
from tests.worker.working import start, until, work

RUN = "quiet-otter-000001"


def greedy(model: torch.nn.Module, prompt: torch.Tensor) -> list[int]:
    return model.generate(prompt, max_new_tokens=12, do_sample=False)[0].tolist()


@pytest.mark.parametrize(
    ("stored", "asked", "kept"), [("bfloat16", None, "BF16"), ("float32", None, "F32"), ("bfloat16", "float32", "F32")]
)
def test_the_merged_model_answers_like_the_adapter(tmp_path: Path, stored: str, asked: str | None, kept: str) -> None:
    home, base = Home.open(tmp_path / "home"), tiny_model(tmp_path / "base", dtype=stored, seed=3)
    run = tiny_run(home, RUN, base)
    outcome = work(home, "merge", {"run_id": RUN, "dtype": asked}, RUN)
    assert outcome["state"] == "finished", outcome
    merged = Path(outcome["result"]["path"])
    assert merged == run / "merged"
    check = outcome["result"]["check"]
    assert check["ok"]
    assert check["same_first_choice"] == check["prompts"] == 3
    assert (outcome["result"]["whole"] is not None) == (stored == "bfloat16" and asked == "float32")
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
    assert "v_proj.weight holds values that are no numbers" in str(outcome["error"]["cause"])
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


# weight after weight


class Watched(Job):
    """Notes the most anonymous memory of this process; asked to stop, it stops at its `stop_at`-th check."""

    most, checks, stop_at = 0, 0, 0

    def check(self) -> None:
        self.most, self.checks = max(self.most, anonymous()), self.checks + 1
        if self.checks == self.stop_at:
            self.stopping.set()
        super().check()


def anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def job(tmp_path: Path) -> Watched:
    write_json(tmp_path / "job.json", {"id": "merge-0", "kind": "merge", "run_id": RUN, "home": str(tmp_path), "params": {}})
    return Watched(tmp_path)


SIZES = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


def made(tmp_path: Path, adapter: dict[str, Any], dtype: torch.dtype = torch.bfloat16, most: str = "100KB", **config: Any) -> Path:
    """A base of several files and a trained-looking adapter for it, in `base` and `adapter`."""
    torch.manual_seed(0)
    told = {"model_type": "llama", **SIZES, "vocab_size": 300, "max_position_embeddings": 64, **config}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**told), dtype=dtype)
    model.save_pretrained(tmp_path / "base", max_shard_size=most)
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **{"r": 4, "target_modules": "all-linear", **adapter}))
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    wrapped.save_pretrained(tmp_path / "adapter")
    return tmp_path / "base"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: weight for path in folder.glob("*.safetensors") for name, weight in load_file(path).items()}


Case = namedtuple("Case", "adapter config whole", defaults=({}, {}, False))
CASES = {
    "plain": Case(),
    "rank-stable": Case({"use_rslora": True}),
    "DoRA": Case({"use_dora": True}),
    "ranks and strengths of their own": Case({"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"down_proj": 3}}),
    "a head that was trained whole": Case({"modules_to_save": ["lm_head"]}),
    "tied, with its embedding trained whole": Case(
        {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, {"tie_word_embeddings": True}
    ),
    "tied": Case({}, {"tie_word_embeddings": True}),
    "biases": Case({"bias": "all"}, {"model_type": "qwen2"}),
    "gpt2, whose weights lie the other way round": Case(
        {"fan_in_fan_out": True}, {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 2}
    ),
    "an adapter on the embedding": Case({"target_modules": ["embed_tokens", "q_proj"]}, {}, True),
    "experts": Case({"target_modules": ["q_proj"]}, {"model_type": "mixtral", "num_local_experts": 2}, True),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16], ids=["bf16", "fp32", "fp16"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bit_for_bit_what_peft_merges(tmp_path: Path, case: Case, dtype: torch.dtype) -> None:
    base = made(tmp_path, case.adapter, dtype, **case.config)
    model = merge.with_adapter(load.load_model(base, "auto"), tmp_path / "adapter")
    why = merge.save(model, base, tmp_path / "ours", job(tmp_path))
    assert (why is not None) == case.whole
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter").merge_and_unload()
    peft.save_pretrained(tmp_path / "theirs")
    ours, theirs = weights(tmp_path / "ours"), weights(tmp_path / "theirs")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name].dtype != theirs[name].dtype or not torch.equal(ours[name], theirs[name])] == []
    assert json.loads((tmp_path / "ours/config.json").read_text()) == json.loads((tmp_path / "theirs/config.json").read_text())
    assert not torch.equal(ours[changed := next(name for name in ours if "q_proj" in name or "c_attn.w" in name)], weights(base)[changed])


def test_several_files_with_an_index_load_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MOST", 60_000)
    base = made(tmp_path, {})
    model = merge.with_adapter(load.load_model(base, "auto"), tmp_path / "adapter")
    merge.save(model, base, tmp_path / "ours", job(tmp_path))
    files = sorted((tmp_path / "ours").glob("*.safetensors"))
    assert len(files) > 2 and all(path.stat().st_size < 70_000 for path in files)
    index = json.loads((tmp_path / "ours/model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == weights(base).keys() and set(index["weight_map"].values()) == {path.name for path in files}
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in weights(tmp_path / "ours").items())


def test_memory_holds_one_weight_at_a_time(tmp_path: Path) -> None:
    wide = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8, "num_key_value_heads": 8}
    base = made(tmp_path, {}, most="25MB", **wide)
    biggest = max(path.stat().st_size for path in base.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in base.glob("*.safetensors")) > 4 * biggest
    watched = job(tmp_path)
    before = anonymous()
    model = merge.with_adapter(load.load_model(base, "auto"), tmp_path / "adapter")
    merge.save(model, base, tmp_path / "ours", watched)
    assert watched.checks > 80 and watched.most - before < 2.2 * biggest


def test_another_format_takes_the_whole_model_and_says_so(tmp_path: Path) -> None:
    base = made(tmp_path, {})
    model = merge.with_adapter(load.load_model(base, torch.float32), tmp_path / "adapter")
    why = merge.save(model, base, tmp_path / "ours", job(tmp_path))
    assert "changed from BF16 to F32" in str(why)
    assert {weight.dtype for weight in weights(tmp_path / "ours").values()} == {torch.float32}


def test_a_disk_without_room_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = made(tmp_path, {})
    model = merge.with_adapter(load.load_model(base, "auto"), tmp_path / "adapter")
    full = shutil.disk_usage(tmp_path)._replace(free=50_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(errors.DiskFull):
        merge.save(model, base, tmp_path / "ours", job(tmp_path))
    assert not (tmp_path / "ours").exists()


def test_it_stops_between_two_weights(tmp_path: Path) -> None:
    base, watched = made(tmp_path, {}), job(tmp_path)
    model = merge.with_adapter(load.load_model(base, "auto"), tmp_path / "adapter")
    watched.stop_at = 4
    with pytest.raises(Stopped):
        merge.save(model, base, tmp_path / "ours", watched)
    assert watched.checks == 4
    assert json.loads((tmp_path / "heartbeat").read_text())["unit"] == "bytes"


def test_killed_at_any_moment_the_merge_before_is_whole(tmp_path: Path) -> None:
    """Killed as soon as the first bytes of the new one are there; then merged again, over what was left."""
    home, base = Home.open(tmp_path / "home"), tiny_model(tmp_path / "base")
    run = tiny_run(home, RUN, base)
    (run / "merged").mkdir()
    (run / "merged" / "model.safetensors").write_text("of the merge before")
    _, worker = start(home, "merge", {"run_id": RUN, "dtype": None}, RUN)
    until((run / ".tmp-merged").exists)
    worker.kill()
    worker.wait()
    there = (run / "merged" / "model.safetensors").read_bytes()
    assert there == b"of the merge before" or len(there) > 100_000
    assert work(home, "merge", {"run_id": RUN, "dtype": None}, RUN)["state"] == "finished"
    assert not (run / ".tmp-merged").exists() and (run / "merged" / "model.safetensors").stat().st_size > 100_000
