"""The `merge` job: a run's adapter worked into a fresh copy of its base model, checked, and saved as an ordinary model folder.

Always onto the unquantised base: a 4-bit base would be rounded a second time, and on some CPUs its packed bytes are misread.
"""

from __future__ import annotations

import gc
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from lora_ui import errors, machine
from lora_ui.errors import Say
from lora_ui.worker import disk, load, place, render
from lora_ui.worker.job import Job

PROMPTS = ("Who are you?", "Write one sentence about the sea.", "What is 12 times 12?")
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference of any next-token logit, as a share of their spread: what rounding the sum once to this format can do."""


def run(job: Job) -> dict[str, Any]:
    """`{"path", "seconds", "check"}`. `params`: run_id, dtype (None keeps the base's stored one).

    Raises NothingTrained, MergeFailed, Stopped; nothing is left in `merged/` then.
    """
    began = time.monotonic()
    torch.set_num_threads(machine.look().cores)
    run_id, dtype = job.params["run_id"], job.params["dtype"] or "auto"
    run_folder = job.home.run(run_id)
    job.phase("load")
    adapter = load.adapter_folder(job.home, run_id)
    folder = load.base_of_run(job, run_id)
    job.phase("load")
    tokenizer = load.load_tokenizer(folder)
    prompts = [render.prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in PROMPTS]
    model = PeftModel.from_pretrained(load.load_model(folder, dtype), str(adapter)).eval()
    expected = _next_logits(model, prompts)
    job.check()

    job.phase("merge")
    try:
        merged = model.merge_and_unload(safe_merge=True)
    except ValueError as e:
        raise errors.MergeFailed(detail=str(e)) from e
    stored = merged.dtype
    building = run_folder / ".tmp-merged"
    shutil.rmtree(building, ignore_errors=True)
    try:
        job.check()
        job.phase("save")
        with disk.explained(run_folder):
            merged.save_pretrained(building)
            _copy_beside(adapter, folder, building)
        del model, merged
        gc.collect()
        job.check()
        job.phase("check")
        check = compare(expected, _next_logits(load.load_model(building, "auto").eval(), prompts), stored)
        if not check["ok"]:
            said = Say("Its next-token scores differ from the adapter's by {max_difference} ({tolerance} is allowed).", **check)
            raise errors.MergeFailed(detail=said)
        place.publish(building, run_folder / "merged")
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return {"path": str(run_folder / "merged"), "seconds": round(time.monotonic() - began, 1), "check": check}


@torch.inference_mode()
def _next_logits(model: Any, prompts: list[list[int]]) -> list[torch.Tensor]:
    """For each prompt the logits of the token that would come next, float32 on the CPU."""
    ids = [torch.tensor([prompt], device=model.device) for prompt in prompts]
    return [model(input_ids=one, logits_to_keep=1).logits[0, -1].float().cpu() for one in ids]


def compare(expected: list[torch.Tensor], got: list[torch.Tensor], stored: torch.dtype) -> dict[str, Any]:
    """Adapter-on-base against the saved merged model. A different first choice counts only where it is no tie within `tolerance`."""
    spread = max(float(e.max() - e.min()) for e in expected)
    difference = float(torch.stack([(e - g).abs().max() for e, g in zip(expected, got)]).max())  # unlike Python's, this max keeps a NaN
    allowed = TOLERANCE[stored] * spread
    return {
        "ok": difference <= allowed,  # also false when either is no number
        "prompts": len(expected),
        "same_first_choice": sum(int(e.argmax() == g.argmax()) for e, g in zip(expected, got)),
        "max_difference": round(difference, 5),
        "tolerance": round(allowed, 5),
        "dtype": str(stored).removeprefix("torch."),
    }


def _copy_beside(adapter: Path, base: Path, into: Path) -> None:
    """The tokenizer as trained, byte for byte, and the base's generation settings."""
    for path in adapter.iterdir():
        if path.is_file() and not path.name.startswith(("adapter_", "README")):
            shutil.copyfile(path, into / path.name)
    if (base / "generation_config.json").is_file():
        shutil.copyfile(base / "generation_config.json", into / "generation_config.json")
    for licence in base.glob("LICENSE*"):
        shutil.copyfile(licence, into / licence.name)
