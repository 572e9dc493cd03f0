"""From the settings of an adapter to what PEFT trains, and what the kinds of adapters need besides: first values, optimizers, and what a
save point holds so that a run goes on exactly and the adapter fits the untouched base.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer
from peft.tuners.lora.layer import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import Trainer

from lora_ui.home import read_json, write_json
from lora_ui.methods import MOVE_THE_BASE
from lora_ui.settings import AdapterSettings, Settings
from lora_ui.worker.job import Job

LIVE = "live.safetensors"
"""What a save point holds besides the adapter, for the run that goes on from it."""
Weights = dict[str, torch.Tensor]


def config(adapter: AdapterSettings) -> PeftConfig:
    """PEFT's own configuration of this adapter. First values that move the base are set afterwards, by `adapt`."""
    chosen = adapter.model_dump(exclude={"method"})
    if adapter.init_lora_weights in MOVE_THE_BASE:
        chosen["init_lora_weights"] = True
    return LoraConfig(task_type="CAUSAL_LM", **chosen)


def adapt(job: Job, model: Any, chosen: Settings, point: Path | None) -> tuple[PeftModel, Weights]:
    """(`model` with its adapter, the first values where they were taken out of the base). A run that goes on from `point` takes the
    same out again. Raises Stopped."""
    adapted = get_peft_model(model, config(chosen.adapter))
    if chosen.adapter.method == "lorafa":
        for name, parameter in adapted.named_parameters():
            if "lora_A" in name:
                parameter.requires_grad_(False)
    if chosen.adapter.init_lora_weights not in MOVE_THE_BASE:
        return adapted, {}
    if point:
        first = _live(point, "first.")
        set_peft_model_state_dict(adapted, first)
    layers = [module for module in adapted.modules() if isinstance(module, LoraLayer)]
    for done, layer in enumerate(layers):
        job.check()
        if not point:
            _first_values(layer, str(chosen.adapter.init_lora_weights))
        _take_out(layer)
        job.progress(done + 1, len(layers), "layers")
    saved = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return adapted, {name: weight.detach().cpu().clone() for name, weight in saved.items() if ".lora_A." in name or ".lora_B." in name}


def _first_values(layer: LoraLayer, init: str) -> None:
    """PEFT's own, which are not rounded to the format of the base when they come after the adapter was made. The base stays."""
    base = layer.get_base_layer()
    before = base.weight.data
    if init == "pissa":
        layer.pissa_init("default", init)
    else:
        base.weight.data = before.clone()  # PEFT works in it
        layer.olora_init("default")
    base.weight.data = before


@torch.no_grad()
def _take_out(layer: LoraLayer) -> None:
    """What the first values add, out of the base: together they are the base again."""
    base = layer.get_base_layer()
    added = layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    base.weight.data = (base.weight.data.float() - (added.T if layer.fan_in_fan_out else added)).to(base.weight.dtype)


def optimizer(trainer: Trainer, chosen: Settings) -> torch.optim.Optimizer | None:
    """That of LoRA-FA or LoRA+; None: the trainer's own."""
    args = trainer.args
    if chosen.adapter.method == "lorafa":
        return create_lorafa_optimizer(trainer.model, chosen.adapter.r, chosen.adapter.lora_alpha, args.learning_rate, args.weight_decay)
    if chosen.training.loraplus_lr_ratio is None:
        return None
    kind, how = trainer.get_optimizer_cls_and_kwargs(args, trainer.model)
    ratio = chosen.training.loraplus_lr_ratio
    return create_loraplus_optimizer(trainer.model, kind, loraplus_lr_ratio=ratio, loraplus_weight_decay=args.weight_decay, **how)


# Save points


def keep(staged: Path, first: Weights) -> None:
    """Make the adapter that PEFT saved in `staged` one that fits the untouched base, and put what only the run itself needs beside it."""
    if not first:
        return
    path = staged / "adapter_model.safetensors"
    now = load_file(path)
    save_file({f"now.{name}": one for name, one in now.items()} | {f"first.{name}": one for name, one in first.items()}, staged / LIVE)
    save_file({name: _both(name, one, first) for name, one in now.items()}, path, {"format": "pt"})
    told = read_json(staged / "adapter_config.json")
    scale = told["lora_alpha"] / (math.sqrt(told["r"]) if told["use_rslora"] else told["r"])
    twice = {"r": 2 * told["r"], "lora_alpha": scale * 2 * told["r"], "use_rslora": False}
    write_json(staged / "adapter_config.json", {**told, **twice})


def _both(name: str, now: torch.Tensor, first: Weights) -> torch.Tensor:
    """What was learned, less what was there first: twice the rank."""
    if name not in first:
        return now
    return torch.cat([now, first[name]], 0) if ".lora_A." in name else torch.cat([now, -first[name]], 1)


def restore(model: PeftModel, point: Path) -> bool:
    """Put what `keep` left in a save point back; False where the adapter itself is all there is."""
    if not (point / LIVE).is_file():
        return False
    set_peft_model_state_dict(model, _live(point, "now."))
    return True


def _live(point: Path, prefix: str) -> Weights:
    return {name.removeprefix(prefix): one for name, one in load_file(point / LIVE).items() if name.startswith(prefix)}
