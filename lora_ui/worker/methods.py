"""From the settings of an adapter to what PEFT trains, and what the kinds of adapters need besides: first values, optimizers, and what a
save point holds so that a run goes on exactly and the adapter fits the untouched base.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    HiraConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    MissConfig,
    OFTConfig,
    PeftConfig,
    PeftModel,
    VeraConfig,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer
from peft.tuners.adalora import AdaLoraModel
from peft.tuners.lora.layer import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, Trainer, TrainerCallback

from lora_ui import errors, fit
from lora_ui.errors import Say
from lora_ui.home import read_json, write_json
from lora_ui.learned import first_rank, ia3
from lora_ui.methods import MOVE_THE_BASE
from lora_ui.settings import AdapterSettings, Settings
from lora_ui.worker import first_values
from lora_ui.worker.job import Job

LIVE = "live.safetensors"
"""What a save point holds besides the adapter, for the run that goes on from it."""
Weights = dict[str, torch.Tensor]


def config(adapter: AdapterSettings, model: PreTrainedModel, steps: int) -> PeftConfig:
    """PEFT's own configuration of this adapter on `model`, for a run of `steps`. First values that move the base are set afterwards, by
    `adapt`. Raises UnsupportedModel for IA³ on a family whose weights are not known."""
    rank, alpha, dropout = adapter.r, adapter.lora_alpha, adapter.lora_dropout
    usual: dict[str, Any] = {"task_type": "CAUSAL_LM", "target_modules": adapter.target_modules}
    match adapter.method:
        case "adalora":
            steps = max(2, steps)
            first, when = first_rank(rank), {"tinit": steps // 10, "tfinal": max(1, 3 * steps // 10), "total_step": steps}
            return AdaLoraConfig(init_r=first, target_r=rank, lora_alpha=alpha, lora_dropout=dropout, **when, **usual)
        case "vera":
            return VeraConfig(r=rank, vera_dropout=dropout, **usual)
        case "oft":
            return OFTConfig(oft_block_size=adapter.block_size, **usual)
        case "loha":
            return LoHaConfig(r=rank, alpha=alpha, **usual)
        case "lokr":
            return LoKrConfig(r=rank, alpha=alpha, **usual)
        case "ia3":
            shape = fit.shape(model.config.to_dict())
            if shape is None:
                raise errors.UnsupportedModel(
                    name=model.config.model_type, detail=Say("Its keys and values are not known, which IA³ needs.")
                )
            names = [one.name for one in ia3(shape)]
            return IA3Config(task_type="CAUSAL_LM", target_modules=names, feedforward_modules=names[-1:])
        case "hira":
            return HiraConfig(r=rank, hira_dropout=dropout, **usual)
        case "miss":
            return MissConfig(r=rank, miss_dropout=dropout, **usual)
    chosen = adapter.model_dump(exclude={"method", "block_size"})
    if adapter.init_lora_weights in (*MOVE_THE_BASE, "eva"):
        chosen["init_lora_weights"] = True
    return LoraConfig(task_type="CAUSAL_LM", **chosen)


def wrap(model: PreTrainedModel, adapter: AdapterSettings, steps: int, low_cpu_mem_usage: bool = False) -> PeftModel:
    """`model` with an adapter of which only that learns which should."""
    adapted = get_peft_model(model, config(adapter, model, steps), low_cpu_mem_usage=low_cpu_mem_usage)
    for name, parameter in adapted.named_parameters():
        if adapter.method == "lorafa" and "lora_A" in name:
            parameter.requires_grad_(False)
    return adapted


def adapt(job: Job, model: Any, chosen: Settings, rows: Any, steps: int, point: Path | None) -> tuple[PeftModel, Weights]:
    """(`model` with its adapter, the first values where they were taken out of the base). A run that goes on from `point` takes the
    same out again and does not look at `rows` a second time. Raises MethodUnsuitable, Stopped."""
    if not point:
        first_values.look(job, model, chosen.adapter, rows)
    adapted = wrap(model, chosen.adapter, steps)
    if chosen.adapter.init_lora_weights == "eva" and not point:
        first_values.eva(job, adapted, rows)
    if chosen.adapter.init_lora_weights not in MOVE_THE_BASE:
        return adapted, {}
    if point:
        first = _live(point, "first.")
        set_peft_model_state_dict(adapted, first)
    layers = [module for module in adapted.modules() if isinstance(module, LoraLayer)]
    for done, layer in enumerate(layers):
        job.check()
        if not point:
            first_values.of(layer, str(chosen.adapter.init_lora_weights))
        _take_out(layer)
        job.progress(done + 1, len(layers), "layers")
    saved = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    return adapted, {name: weight.detach().cpu().clone() for name, weight in saved.items() if ".lora_A." in name or ".lora_B." in name}


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


class Allocate(TrainerCallback):
    """AdaLoRA takes rank away after each step, while the gradients are there."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        model.base_model.update_and_allocate(state.global_step)


def callbacks(chosen: Settings) -> list[TrainerCallback]:
    return [Allocate()] if chosen.adapter.method == "adalora" else []


# Save points


def keep(staged: Path, model: PeftModel, first: Weights) -> None:
    """Make the adapter that PEFT saved in `staged` one that fits the untouched base, and put what only the run itself needs beside it."""
    if isinstance(model.base_model, AdaLoraModel):
        _keep_ranks(staged, model)
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


def _keep_ranks(staged: Path, model: PeftModel) -> None:
    """AdaLoRA's matrices with the rank that was taken from them, which may come back, and what it knows about their use."""
    allocator = model.base_model.rankallocator
    known = {"now": _learning(model), "ipt": allocator.exp_avg_ipt, "unc": allocator.exp_avg_unc}
    flat = {f"{kind}.{name}": one.detach().cpu().contiguous() for kind, ones in known.items() for name, one in ones.items()}
    save_file(flat, staged / LIVE, {"rank_pattern": json.dumps(model.peft_config["default"].rank_pattern)})


def _learning(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    return {name.removeprefix("base_model.model."): p for name, p in model.named_parameters() if p.requires_grad}


def _both(name: str, now: torch.Tensor, first: Weights) -> torch.Tensor:
    """What was learned, less what was there first: twice the rank."""
    if name not in first:
        return now
    return torch.cat([now, first[name]], 0) if ".lora_A." in name else torch.cat([now, -first[name]], 1)


def restore(model: PeftModel, point: Path) -> bool:
    """Put what `keep` left in a save point back; False where the adapter itself is all there is."""
    if not (point / LIVE).is_file():
        return False
    if isinstance(model.base_model, AdaLoraModel):
        with torch.no_grad():
            for name, parameter in _learning(model).items():
                parameter.copy_(_live(point, "now.")[name])
        allocator, device = model.base_model.rankallocator, model.device
        ipt, unc = ({name: one.to(device) for name, one in _live(point, kind).items()} for kind in ("ipt.", "unc."))
        allocator.ipt, allocator.exp_avg_ipt, allocator.exp_avg_unc = dict.fromkeys(ipt), ipt, unc
        with safe_open(point / LIVE, "pt") as file:
            model.peft_config["default"].rank_pattern = json.loads(file.metadata()["rank_pattern"])
    else:
        set_peft_model_state_dict(model, _live(point, "now."))
    return True


def _live(point: Path, prefix: str) -> Weights:
    return {name.removeprefix(prefix): one for name, one in load_file(point / LIVE).items() if name.startswith(prefix)}
