"""Real training on the CPU with the tiny model: what changed, what did not, what is left on disk."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import modeling_utils

from lora_ui import memory, metrics, runs
from lora_ui.home import read_json, write_json
from lora_ui.worker import chat, checkpoints
from tests.train import inside
from tests.train.inside import folder_of

pytestmark = pytest.mark.train


def fingerprints(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()}


def train(home, until, raw, **more):
    job = runs.start(home, raw, None, **more)
    there = until(job.id)
    assert there["state"] == "finished", runs.log(home, job.id, 40)
    return job.id, runs.show(home, job.id)


@pytest.mark.parametrize("precision", [{}, {"load_in_4bit": True}, {"load_in_8bit": True}], ids=["16-bit", "4-bit", "8-bit"])
def test_only_the_adapter_changes_and_stock_peft_loads_it(home, tiny, until, precision):
    raw = tiny(model=precision, max_steps=12)
    base = Path(raw["model"]["base_model"])
    before = fingerprints(base)
    _, shown = train(home, until, raw, name="<b>rivers</b>")

    assert fingerprints(base) == before
    adapter = Path(shown["adapter_path"])
    weights = load_file(adapter / "adapter_model.safetensors")
    assert weights and all("lora_A" in name or "lora_B" in name for name in weights)
    assert all(weight.abs().max() > 0 for name, weight in weights.items() if "lora_B" in name)
    assert not any(p.suffix in (".bin", ".pt", ".pth") for p in adapter.iterdir())
    assert shown["train_loss"]["last"] < shown["train_loss"]["first"]
    assert shown["eval_loss"]["best"] < shown["eval_loss"]["base"]
    assert (shown["step"], shown["total_steps"], shown["name"]) == (12, 12, "<b>rivers</b>")
    assert shown["trainable_parameters"] == sum(weight.numel() for weight in weights.values())

    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(shown["base_model_path"], dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = model(ids).logits
    adapted = PeftModel.from_pretrained(model, adapter)(ids).logits
    assert (plain - adapted).abs().max() > 1e-3


def test_a_run_leaves_the_files_of_the_contract(home, tiny, until):
    id, shown = train(home, until, tiny())
    folder = home.run(id)
    assert {"settings.yaml", "decided.json", "metrics.jsonl", "log.txt", "heartbeat", "outcome.json", "checkpoints", "adapter"} <= {
        p.name for p in folder.iterdir()
    }
    assert not [p for p in folder.rglob("*") if p.name.startswith((".tmp", ".staging", ".cache")) or p.name == "training_args.bin"]
    decided = json.loads((folder / "decided.json").read_text())
    assert all(entry["reason"] for entry in decided.values()) and decided["machine.device"]["value"] in ("cpu", "cuda", "mps")
    rows = metrics.read(folder / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in rows if "eval_loss" in row] == [0, 2, 4, 6]
    assert {"queue", "import", "load", "prepare", "first_step", "train", "save"} <= shown["phases"].keys()
    from lora_ui import settings

    assert settings.parse(settings.read(folder / "settings.yaml")).adapter.r == 4


def test_tokens_that_are_there_are_used_again_and_the_run_says_so(home, tiny):
    ways = []
    for id in ("first", "second"):
        folder = folder_of(home, tiny(max_steps=1), id)
        inside.train(folder)
        ways.append(read_json(folder / "decided.json")["data.tokens"]["value"])
    assert ways == ["made", "reused"]


def test_things_are_worked_out_twice_in_every_layer_every_second_or_none_with_the_same_losses(home, tiny, monkeypatch):
    """The tiny model has two layers."""
    times, seen = {}, {}
    again = modeling_utils.checkpoint
    monkeypatch.setattr(modeling_utils, "checkpoint", lambda *args, **kwargs: times.update({id: times[id] + 1}) or again(*args, **kwargs))
    for id, twice in (("none", False), ("half", "half"), ("all", True)):
        times[id] = 0
        folder = folder_of(home, tiny(max_steps=2, activation_checkpointing=twice), id)
        inside.train(folder)
        seen[id] = inside.losses(folder)
    assert times["none"] == 0 < times["half"] and times["all"] == 2 * times["half"]
    assert seen["none"] == seen["half"] == seen["all"]


def test_four_bits_are_loaded_where_they_were_decided(home, tiny):
    """On a processor they are not; what was decided is kept by a run that goes on, and a chat on a GPU loads the same."""
    folder, forced = (folder_of(home, tiny(model={"load_in_4bit": "auto"}, max_steps=1), id) for id in ("auto", "forced"))
    inside.train(folder)
    decided = read_json(folder / "decided.json")
    assert decided[memory.PRECISION]["value"] is False and "NVIDIA" in decided[memory.PRECISION]["reason"]
    write_json(forced / "decided.json", {**decided, memory.PRECISION: {**decided[memory.PRECISION], "value": True}})
    inside.train(forced)
    assert inside.losses(folder)[0][3] != inside.losses(forced)[0][3]  # of the base model, on the held-out rows
    assert [chat.trained_in(home, id) for id in ("auto", "forced")] == [(False, False), (True, False)]
    params = read_json(folder / "job.json")["params"]
    values = [{key: made["value"] for key, made in read_json(one / "decided.json").items()} for one in (folder, forced)]
    assert checkpoints.digest(params, values[0]) != checkpoints.digest(params, values[1])


def test_the_recipe_of_a_run_gives_the_same_run_again(home, tiny, until):
    first, _ = train(home, until, tiny())
    from lora_ui import settings

    second, _ = train(home, until, settings.read(home.run(first) / "settings.yaml"))
    losses = [[row["loss"] for row in metrics.read(home.run(id) / "metrics.jsonl") if "loss" in row] for id in (first, second)]
    assert losses[0] == losses[1]


def test_a_stopped_run_keeps_what_it_learned_and_goes_on_to_the_same_end(home, tiny, until):
    raw = tiny(max_steps=40, save_steps=100, packing=False)
    reference, _ = train(home, until, raw)
    job = runs.start(home, raw, None)
    until(job.id, lambda there: (there["done"] or 0) >= 3 and there["unit"] == "steps")
    runs.stop(home, job.id)
    stopped = until(job.id)
    assert stopped["state"] == "stopped" and 3 <= stopped["result"]["step"] < 40
    assert (home.run(job.id) / "adapter" / "adapter_model.safetensors").exists()
    runs.resume(home, job.id)
    assert until(job.id)["state"] == "finished"
    assert runs.show(home, job.id)["resumed_from"] == f"step-{stopped['result']['step']:06d}"
    both = [load_file(home.run(id) / "adapter" / "adapter_model.safetensors") for id in (reference, job.id)]
    assert all(torch.equal(both[0][name], both[1][name]) for name in both[0])
    points = [row["step"] for row in metrics.read(home.run(job.id) / "metrics.jsonl") if "loss" in row]
    assert points == list(range(1, 41))


def test_a_base_model_that_gives_no_numbers_is_named_before_anything_is_learned(home, tiny, until):
    raw = tiny()
    weights = Path(raw["model"]["base_model"]) / "model.safetensors"
    broken = load_file(weights)
    broken["model.norm.weight"][0] = float("nan")
    save_file(broken, weights, {"format": "pt"})
    there = until(runs.start(home, raw, None).id)
    assert there["state"] == "failed"
    assert there["error"]["kind"] == "NoNumbers" and "learning rate" not in there["error"]["cause"]


def test_prepared_rows_are_what_training_reads(home, tiny, until):
    raw = tiny()
    prepared = until(runs.prepare(home, raw).id)
    assert prepared["state"] == "finished"
    made = Path(runs.prepared(home, raw)["folder"])
    before = fingerprints(made)
    train(home, until, raw)
    assert fingerprints(made) == before
    assert runs.prepare(home, raw).id == prepared["id"]


def test_two_runs_share_one_cpu_one_after_the_other(home, tiny, until):
    first, second = runs.start(home, tiny(), "a"), runs.start(home, tiny(), "b")
    assert runs.start(home, tiny(), "a").id == first.id
    until(second.id)
    one, two = runs.show(home, first.id), runs.show(home, second.id)
    assert one["ended"] <= two["started"]
    assert read_json(home.run(second.id) / "outcome.json")["state"] == "finished"
