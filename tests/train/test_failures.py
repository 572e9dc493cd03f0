"""Runs that fail, in the real worker process: memory and disks that are really full, numbers that are none, broken installations."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_ui import errors, metrics
from lora_ui.home import Home, read_json, write_json
from lora_ui.worker import checkpoints
from tests.tiny import tiny_model, tiny_run
from tests.train.inside import folder_of, interposed, losses, outcome, train, worker
from tests.train.test_checkpoints import assert_same_end, settings
from tests.worker.working import work

pytestmark = pytest.mark.train
TOKEN = "hf_canaryCANARYcanary0123456789"


def ended(folder: Path, **environment: str) -> dict[str, Any]:
    worker(folder, **environment).wait(120)
    return outcome(folder)


# memory


def wide(place: Path) -> dict[str, Any]:
    """256 rows of about 500 tokens, all at once: the activations of a step need about 2.5 GB, those of a quarter 0.6 GB."""
    raw = settings(place, max_steps=1, global_batch_size=256, per_device_train_batch_size=256, max_length=512, packing=False)
    lines = [f'"{n} {"qzx" * 70}?","{n} {"xjv" * 70}."' for n in range(256)]
    Path(raw["data"]["source"]).write_text("question,answer\n" + "\n".join(lines))
    raw["data"]["held_out_rows"] = 0
    return raw


def limited(place: Path, more: int) -> str:
    """Address space: `more` bytes than the worker has when it decides; the limit outlives a new start."""
    now = "int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()"
    return interposed(place / "limit", "os.rename", "decided.json", f"resource.setrlimit(resource.RLIMIT_AS, ({now} + {more},) * 2)")


def test_out_of_memory_starts_again_once_with_fewer_rows_and_the_same_step(tmp_path: Path) -> None:
    folder = folder_of(Home.open(tmp_path / "home"), wide(tmp_path), "wide")
    assert ended(folder, PYTHONPATH=limited(tmp_path, 1_200_000_000))["state"] == "finished", (folder / "log.txt").read_text()
    decided = read_json(folder / "decided.json")
    assert decided["training.per_device_train_batch_size"]["value"] == 64
    assert decided["training.gradient_accumulation_steps"]["value"] == 4
    said = "memory ran out at step 0 with 256 at once; a step is still made of 256"
    assert decided["training.per_device_train_batch_size"]["reason"] == said
    log = (folder / "log.txt").read_text()
    assert log.count("Out of memory at step 0.") == 1
    assert said in log
    reference = folder_of(Home.open(tmp_path / "home"), wide(tmp_path), "reference")
    train(reference)
    assert losses(folder)[0][1] == pytest.approx(losses(reference)[0][1], rel=1e-4)
    assert losses(folder)[0][2] == losses(reference)[0][2]


def test_out_of_memory_again_ends_with_its_name(tmp_path: Path) -> None:
    folder = folder_of(Home.open(tmp_path / "home"), wide(tmp_path), "wide")
    told = ended(folder, PYTHONPATH=limited(tmp_path, 300_000_000))
    assert (told["state"], told["error"]["kind"]) == ("failed", "OutOfMemory"), told
    assert told["error"]["values"]["step"] == 0
    assert "MB more were asked for" in told["error"]["cause"]
    assert (folder / "log.txt").read_text().count("Starting again, once") == 1


# numbers


def test_a_loss_that_is_no_number_between_two_points_is_not_saved(tmp_path: Path) -> None:
    raw = settings(tmp_path, max_steps=8, save_steps=1, logging_steps=100)
    base = Path(raw["model"]["base_model"])
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    weights = load_file(base / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    tokens = json.loads((base / "tokenizer.json").read_text())["model"]["vocab"]
    weights["model.embed_tokens.weight"][tokens["Z"]] = float("nan")
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    rows = Path(raw["data"]["source"])
    rows.write_text(rows.read_text().replace("river 3?", "river Z?"))
    raw["data"]["held_out_rows"] = 0
    folder = folder_of(Home.open(tmp_path / "home"), raw, "nan")
    with pytest.raises(errors.LossDiverged) as failed:
        train(folder)
    step = failed.value.values["step"]
    assert step > 1
    assert f"Everything up to step {step - 1} is saved." in failed.value.cause
    newest = checkpoints.points(folder / "checkpoints")[0]
    assert checkpoints.step_of(newest) == step - 1
    assert all(bool(torch.isfinite(w).all()) for w in load_file(newest / "adapter_model.safetensors").values())
    assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() == (newest / "adapter_model.safetensors").read_bytes()
    rate = read_json(folder / "decided.json")["training.learning_rate"]
    assert (rate["value"], f"at step {step}" in rate["reason"]) == (2.5e-3, True)


def test_going_on_takes_the_halved_rate_and_keeps_its_place_in_the_curve(tmp_path: Path) -> None:
    home, raw = Home.open(tmp_path / "home"), settings(tmp_path, save_total_limit=10)
    reference, folder = (folder_of(home, raw, id) for id in ("reference", "halved"))
    train(reference)
    shutil.copytree(reference / "checkpoints" / "step-000004", folder / "checkpoints" / "step-000004")
    decided = read_json(reference / "decided.json")
    write_json(folder / "decided.json", {**decided, "training.learning_rate": {"value": 2.5e-3, "reason": "half"}})
    assert train(folder)["resumed_from"] == "step-000004"
    rates, halved = (
        {row["step"]: row["learning_rate"] for row in metrics.read(f / "metrics.jsonl") if "loss" in row} for f in (reference, folder)
    )
    assert sorted(halved) == [5, 6, 7, 8]
    assert [halved[step] for step in (5, 6, 7, 8)] == pytest.approx([rates[step] / 2 for step in (5, 6, 7, 8)])


# disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 MB of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize(
    ("event", "suffix", "needed"),
    [("os.rename", "full/adapter", "90 MB"), ("os.mkdir", "checkpoint-4", "more"), ("os.rename", "step-000002", "more")],
    ids=["before", "while saving", "before the adapter is copied"],
)
def test_a_disk_that_fills_up_costs_no_save_point_and_the_run_goes_on_later(
    tmp_path: Path, small_disk: Path, event: str, suffix: str, needed: str
) -> None:
    raw = settings(tmp_path, max_steps=6, save_steps=2)
    reference = folder_of(Home.open(small_disk / "home"), raw, "reference")
    train(reference)
    folder, filler = folder_of(Home.open(small_disk / "home"), raw, "full"), small_disk / "filler"
    fill = f"os.system('cat /dev/zero > {filler} 2>/dev/null')"
    told = ended(folder, PYTHONPATH=interposed(tmp_path / "fill", event, suffix, fill))
    assert (told["state"], told["error"]["kind"]) == ("failed", "DiskFull"), told
    assert told["error"]["message"].startswith(f"There is not enough space on the disk: {needed} needed")
    assert [p.name for p in checkpoints.points(folder / "checkpoints")] == ["step-000002"]
    assert checkpoints.damage(folder / "checkpoints" / "step-000002") is None
    assert not [*folder.glob("checkpoints/.staging/checkpoint-*"), *folder.glob(".tmp-*")]
    assert not list(folder.glob(".heartbeat*"))
    filler.unlink()
    assert ended(folder)["result"]["resumed_from"] == "step-000002"
    assert_same_end(folder, reference)


def test_a_merge_on_a_full_disk_leaves_nothing_half_made(tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, base = Home.open(small_disk / "home"), tiny_model(tmp_path / "base")
    run = tiny_run(home, "quiet-otter-000001", base)
    fill = f"os.system('cat /dev/zero > {small_disk / 'filler'} 2>/dev/null')"
    monkeypatch.setenv("PYTHONPATH", interposed(tmp_path / "fill", "os.mkdir", ".tmp-merged", fill))
    told = work(home, "merge", {"run_id": run.name, "dtype": None}, run.name)
    assert (told["state"], told["error"]["kind"]) == ("failed", "DiskFull"), told
    assert not [p for p in run.iterdir() if "merged" in p.name]


def test_a_file_size_limit_is_a_full_disk_too(tmp_path: Path) -> None:
    folder = folder_of(Home.open(tmp_path / "home"), settings(tmp_path), "limited")
    path = interposed(tmp_path / "limit", "os.mkdir", "checkpoint-4", "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))")
    told = ended(folder, PYTHONPATH=path)
    assert (told["state"], told["error"]["kind"]) == ("failed", "DiskFull"), told
    assert checkpoints.points(folder / "checkpoints") == []
    assert not (folder / "adapter").exists()


def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    folder = folder_of(Home.open(tmp_path / "home"), settings(tmp_path), "silent")
    (folder / "log.txt").symlink_to("/dev/full")
    assert ended(folder)["state"] == "finished"
    assert len(metrics.read(folder / "metrics.jsonl")) > 8


# installation


def test_a_gpu_that_torch_cannot_use_is_named_instead_of_training_on_the_processor(tmp_path: Path) -> None:
    folder = folder_of(Home.open(tmp_path / "home"), settings(tmp_path), "gpu")
    told = ended(folder, CUDA_VISIBLE_DEVICES="GPU-00000000-0000-0000-0000-000000000000")
    assert (told["state"], told["error"]["kind"]) == ("failed", "GpuUnusable"), told
    assert told["error"]["cause"]


def test_a_library_that_does_not_load_is_named(tmp_path: Path) -> None:
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "peft.py").write_text("raise ImportError('cannot import name LoraConfig: version 0.1 is too old')")
    folder = folder_of(Home.open(tmp_path / "home"), settings(tmp_path), "broken")
    told = ended(folder, PYTHONPATH=str(tmp_path / "path"))
    assert told["error"]["kind"] == "LibraryBroken"
    assert "version 0.1 is too old" in told["error"]["cause"]


def test_damaged_model_files_are_named(tmp_path: Path) -> None:
    folder = folder_of(Home.open(tmp_path / "home"), settings(tmp_path), "damaged")
    os.truncate(tmp_path / "tiny" / "model.safetensors", 5000)
    told = ended(folder)
    assert told["error"]["kind"] == "ModelFileDamaged", told


def test_a_bug_comes_with_a_report_and_without_secrets(tmp_path: Path) -> None:
    folder = folder_of(Home.open(tmp_path / "home"), settings(tmp_path), "bug")
    raised = f"raise ZeroDivisionError('https://user:pw123456@hub/x?token={TOKEN} ' + repr(dict(os.environ)))"
    path = interposed(tmp_path / "bug", "os.rename", "decided.json", raised)
    told = ended(
        folder, PYTHONPATH=path, WANDB_API_KEY="key0123456789abcdef", AWS_SECRET_ACCESS_KEY="aws/0123456789+abcdef", MY_TOKEN=TOKEN
    )
    assert told["error"]["kind"] == "Bug"
    assert "ZeroDivisionError" in told["error"]["traceback"]
    assert "'torch':" in told["error"]["traceback"]
    everything = "".join(p.read_text("utf-8", "replace") for p in folder.rglob("*") if p.is_file())
    assert "ZeroDivisionError" in everything
    for secret in (TOKEN, "pw123456", "key0123456789abcdef", "aws/0123456789+abcdef"):
        assert secret not in everything
