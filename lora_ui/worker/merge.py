"""The `merge` job: a run's adapter worked into a fresh copy of its base model, checked, and saved as an ordinary model folder.

Always onto the unquantised base: a 4-bit base would be rounded a second time, and on some CPUs its packed bytes are misread. The
base stays in its files, from where the system reads what is needed; weight after weight is merged by PEFT and written, so that
memory holds one of them at a time. What cannot be done like this is merged as a whole, and the result says why.
"""

from __future__ import annotations

import gc
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora.layer import Linear, LoraLayer
from safetensors import safe_open

from lora_ui import errors, machine
from lora_ui.errors import Say
from lora_ui.worker import disk, load, place, render, shards
from lora_ui.worker.job import Job

PROMPTS = ("Who are you?", "Write one sentence about the sea.", "What is 12 times 12?")
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference of any next-token logit, as a share of their spread: what rounding the sum once to this format can do."""


def run(job: Job) -> dict[str, Any]:
    """`{"path", "seconds", "check", "whole"}`; `whole`: why the whole model was in memory (a Say), None where it was not. `params`:
    run_id, dtype (None keeps the base's stored one).

    Raises NothingTrained, MergeFailed, DiskFull, Stopped; nothing is left in `merged/` then.
    """
    began = time.monotonic()
    threads = machine.look().cores
    torch.set_num_threads(threads)
    run_id, dtype = job.params["run_id"], job.params["dtype"] or "auto"
    run_folder = job.home.run(run_id)
    job.phase("load")
    adapter = load.adapter_folder(job.home, run_id)
    folder = load.base_of_run(job, run_id)
    tokenizer = load.load_tokenizer(folder)
    prompts = [render.prompt_ids(tokenizer, [{"role": "user", "content": text}]) for text in PROMPTS]
    model = with_adapter(load.load_model(folder, dtype, device="cpu"), adapter)
    stored = model.get_base_model().dtype
    expected = _next_logits(model, prompts)
    job.check()

    job.phase("merge")
    building = run_folder / ".tmp-merged"
    shutil.rmtree(building, ignore_errors=True)
    try:
        with disk.explained(run_folder):
            whole = save(model, folder, building, job)
            _copy_beside(adapter, folder, building)
        del model
        gc.collect()
        job.check()
        job.phase("check")
        torch.set_num_threads(threads)
        check = compare(expected, _next_logits(load.load_model(building, "auto", device="cpu").eval(), prompts), stored)
        if not check["ok"]:
            said = Say("Its next-token scores differ from the adapter's by {max_difference} ({tolerance} is allowed).", **check)
            raise errors.MergeFailed(detail=said)
        place.publish(building, run_folder / "merged")
    finally:
        shutil.rmtree(building, ignore_errors=True)
    result = {"path": str(run_folder / "merged"), "seconds": round(time.monotonic() - began, 1), "check": check}
    return {**result, "whole": whole.as_dict() if whole else None}


def with_adapter(base: Any, adapter: Path) -> PeftModel:
    """Not with PEFT's `low_cpu_mem_usage`, which rounds the adapter to the format of the base."""
    return PeftModel.from_pretrained(base, str(adapter), torch_device="cpu").eval()


def save(model: PeftModel, folder: Path, building: Path, job: Job) -> Say | None:
    """Write `model` (the base in `folder` with its adapter; unusable afterwards) merged into the new folder `building`, bit for bit as
    `merge_and_unload` and `save_pretrained` do. Returns why the whole model was in memory, or None. Raises MergeFailed, DiskFull, Stopped."""
    layers = {name: module for name, module in model.get_base_model().named_modules() if isinstance(module, LoraLayer)}
    usual = bool(layers) and all(type(layer) is Linear and not any(layer.lora_bias.values()) for layer in layers.values())
    try:
        plain = model.merge_and_unload(adapter_names=[] if usual else None)  # merging none of them only takes the layers out
    except ValueError as e:
        raise errors.MergeFailed(detail=str(e)) from e
    weights, there = _weights(plain), _stored(folder)
    disk.room(building.parent, sum(weight.nbytes for weight in weights.values()))
    building.mkdir()
    if usual and weights.keys() <= there.keys():
        torch.set_num_threads(1)  # several wait for each other longer than one weight takes (benchmarks/merge.py)
        todo = {f"{name}.weight": layer for name, layer in layers.items()}
        space = torch.empty(2, max((weights[name].numel() for name in todo), default=0))
        shards.write(weights, lambda name: _merged(name, weights[name], todo.get(name), space), building, job)
        plain.config.dtype = str(plain.dtype).removeprefix("torch.")
        plain.config.architectures = [type(plain).__name__]
        plain.config.save_pretrained(building)
        return _converted(weights, there)
    for layer in layers.values() if usual else ():
        layer.merge()
    for name, weight in weights.items():
        _check_numbers(name, weight)
    plain.save_pretrained(building)
    return Say("The whole model was in memory, because this adapter or the base's files do not allow to merge weight after weight.")


@torch.inference_mode()
def _merged(name: str, weight: torch.Tensor, layer: Linear | None, space: torch.Tensor) -> torch.Tensor:
    """`weight` with what its layer adds, rounded once; the model itself stays in its files. `space`: float32 numbers, twice as many as
    the largest weight has: new memory for each costs as much as the arithmetic. Raises MergeFailed."""
    if layer is None:
        return weight
    if layer.lora_variant:  # DoRA: PEFT works it out, on a copy
        inner = layer.get_base_layer()
        before, inner.weight.data = inner.weight.data, weight.clone()
        layer.merge()
        merged, inner.weight.data = inner.weight.data, before
        _check_numbers(name, merged)
        return merged
    a, b = (one[layer.active_adapter[0]].weight for one in (layer.lora_A, layer.lora_B))
    if a.dtype == b.dtype == torch.float32 and not layer.fan_in_fan_out:  # as PEFT does, one rounding after the other
        delta, before = (one[: weight.numel()].view_as(weight) for one in space)
        torch.mm(b, a, out=delta).mul_(layer.scaling[layer.active_adapter[0]]).add_(before.copy_(weight))
    else:
        delta = layer.get_delta_weight(layer.active_adapter[0]).add_(weight)
    merged = delta.to(weight.dtype, copy=True)  # the space is used again while this is written
    _check_numbers(name, merged)
    return merged


def _check_numbers(name: str, weight: torch.Tensor) -> None:
    if weight.is_floating_point() and not all(bool(torch.isfinite(end)) for end in torch.aminmax(weight)):
        raise errors.MergeFailed(detail=Say("The merged weight {name} holds values that are no numbers.", name=name))


def _weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What is saved of a model, tied weights once, under their names."""
    twice = {name for name, _ in model.named_parameters(remove_duplicate=False)} - {name for name, _ in model.named_parameters()}
    return {name: weight for name, weight in model.state_dict().items() if name not in twice}


def _stored(folder: Path) -> dict[str, str]:
    """Names and number formats of the weights in a folder, from the heads of its files."""
    found: dict[str, str] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - not a dict
    return found


def _converted(weights: dict[str, torch.Tensor], there: dict[str, str]) -> Say | None:
    """Most weights in another format than in their files cannot stay there."""
    changed = [name for name, weight in weights.items() if shards.DTYPES[weight.dtype] != there[name]]
    if 2 * sum(weights[name].nbytes for name in changed) <= sum(weight.nbytes for weight in weights.values()):
        return None
    one = changed[0]
    known = {"stored": there[one], "dtype": shards.DTYPES[weights[one].dtype]}
    return Say("The whole model was in memory, because its numbers were changed from {stored} to {dtype}.", **known)


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
