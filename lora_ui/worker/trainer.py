"""SFTTrainer whose steps leave out what brings nothing, whose save points are verified, and which goes on from one as if nothing had
happened."""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from trl import SFTTrainer

from lora_ui.home import read_json, write_json
from lora_ui.settings import Settings
from lora_ui.worker import checkpoints, disk, head, methods
from lora_ui.worker.callbacks import Watch

COUNTERS = "counters.json"


class SavingTrainer(SFTTrainer):
    """`args.output_dir` has to be `checkpoints/.staging`. Raises LossDiverged and DiskFull at a save; the points before stay."""

    _total_train_tokens: Any
    """A number, or one that is still on the device."""
    keep: int
    watch: Watch
    settings: str
    """Their digest."""
    base_model: str | None
    """The Hub's name of it, if it has one."""
    chosen: Settings = Settings()
    first: methods.Weights = {}
    """First values that were taken out of the base."""
    testing = False
    """Whether a test is under way, after the first step."""

    def __init__(self, *args: Any, **named: Any):
        super().__init__(*args, **named)
        model = self.model.train()  # a loaded base model is not yet, while PEFT's module around it is
        walk = model.train
        # Both are asked for at every micro-step, and are walks over thousands of modules
        self._numbers = model.num_parameters(exclude_embeddings=True)
        model.train = lambda mode=True: model if model.training == mode else walk(mode)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return int(6 * inputs["input_ids"].numel() * self._numbers)

    def go_on(self, point: Path | None) -> None:
        """Train to the end, from the start or from a save point. One of the last step is only loaded: transformers would train a step
        too many."""
        state = TrainerState.load_from_json(str(point / TRAINER_STATE_NAME)) if point else None
        if state is not None and (state.global_step >= state.max_steps or self.watch.enough):
            self._load_from_checkpoint(str(point))
            self.state, self._tr_loss = state, torch.tensor(0.0)
        else:
            self.train(resume_from_checkpoint=str(point) if point else None)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        self.optimizer = methods.optimizer(self, self.chosen)
        return super().create_optimizer(model)

    def evaluate(self, *args: Any, **named: Any) -> dict[str, float]:
        self.testing = self.state.global_step > 0
        found: dict[str, float] = super().evaluate(*args, **named)
        self.testing = False
        return found

    def compute_loss(self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        """TRL's, but what is only counted stays on the device until it is logged: each look at a number there waits for the GPU.
        `return_outputs` is never asked for with `prediction_loss_only`."""
        if self.aux_loss_enabled:  # experts: their own loss is added there
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        read = {name: value for name, value in inputs.items() if name != "attention_mask"}  # padding stands behind: nothing looks at it
        with head.here(self.args.device.type):
            found = model(**read, use_cache=False, fused_lm_head=True)
        likely, learned = found.log_probs, found.label_mask.sum()
        each = -likely * likely.exp().detach() if self.args.loss_type == "dft" else -likely
        loss = each.sum() / torch.as_tensor(learned if num_items_in_batch is None else num_items_in_batch).clamp(min=1)
        counted = self._metrics["train" if model.training else "eval"]
        for name, sums in (("entropy", found.entropy.detach().sum()), ("mean_token_accuracy", found.is_top1.sum())):
            counted[name].append(torch.where(learned > 0, sums / learned, 0.0))
        if model.training:
            mask = inputs.get("attention_mask")
            self._total_train_tokens += inputs["position_ids"].size(1) if mask is None else mask.sum()
        counted["num_tokens"] = [self._total_train_tokens]
        return loss

    def _read(self) -> None:
        """Numbers that stayed on the device."""
        self._total_train_tokens = int(self._total_train_tokens)
        for counted in self._metrics.values():
            for values in counted.values():
                fresh = [value for value in values if isinstance(value, torch.Tensor)]
                values[len(values) - len(fresh) :] = torch.stack(fresh).tolist() if fresh else []

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self._read()
        super().log(logs, start_time)

    def save(self) -> None:
        """A save point of this step."""
        self._save_checkpoint(self.model, None)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        staging = Path(self.args.output_dir)
        folder, step = staging.parent, self.state.global_step
        self.check_numbers()
        disk.room(folder.parent, 2 * self._size())
        staged = staging / f"checkpoint-{step}"
        try:
            with disk.explained(folder.parent):
                super()._save_checkpoint(model, trial)
                (staged / "training_args.bin").unlink(missing_ok=True)  # a pickle with absolute paths; nothing here reads it
                methods.keep(staged, self.model, self.first)
                write_json(staged / COUNTERS, self._counters())
                point = checkpoints.commit(staged, folder, step, self.settings)
                checkpoints.publish_adapter(point, folder.with_name("adapter"), self.base_model)
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        checkpoints.rotate(folder, self.keep, self.watch.best_step)

    def check_numbers(self) -> None:
        """Raises LossDiverged when the loss since the last point or any trained weight is no number."""
        numbers = [self._tr_loss, *(p for p in self.model.parameters() if p.requires_grad)]
        if not all(bool(torch.isfinite(one).all()) for one in numbers):
            raise self.watch.diverged(self.state.global_step)

    def _size(self) -> int:
        """Bytes of a save point: the adapter, two states of the optimizer for each weight, and the tokenizer."""
        adapter = 4 * sum(one.nbytes for one in self.first.values())
        return sum(p.numel() * (p.element_size() + 8) for p in self.model.parameters() if p.requires_grad) + adapter + 20_000_000

    def _counters(self) -> dict[str, Any]:
        """What the trainers count between two points and transformers does not save; floats come back bit for bit."""
        self._read()
        return {
            "num_tokens": self._total_train_tokens,
            "loss": self._tr_loss.item(),
            "last_logged": self._globalstep_last_logged,
            "metrics": self._metrics["train"],
        }

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """The last thing that is loaded before the first step of a resumed run."""
        super()._load_rng_state(checkpoint)
        counters = read_json(Path(checkpoint) / COUNTERS) if checkpoint else None
        if counters:  # save points of before version 0.2 have none
            self._total_train_tokens = counters["num_tokens"]
            self._tr_loss += counters["loss"]
            self._globalstep_last_logged = counters["last_logged"]
            self._metrics["train"] = defaultdict(list, counters["metrics"])

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """The learning rate is the one of now, which may be half of the one that was saved; where in its curve it is stays."""
        super()._load_optimizer_and_scheduler(checkpoint)
        assert self.optimizer is not None
        groups = self.optimizer.param_groups
        changed = self.args.learning_rate / groups[0]["initial_lr"]  # LoRA+ gives groups rates of their own, in a ratio that stays
        for group in groups:
            group["lr"], group["initial_lr"] = group["lr"] * changed, group["initial_lr"] * changed
        self.lr_scheduler.base_lrs = [group["initial_lr"] for group in groups]
        self.lr_scheduler._last_lr = [group["lr"] for group in groups]  # what the next point says

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """PEFT turns every loaded adapter to float32; TRL trains that of a quantised base in bfloat16."""
        before = {name: p.dtype for name, p in self.model.named_parameters() if p.requires_grad}
        if not methods.restore(self.model, Path(resume_from_checkpoint)):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        for name, parameter in self.model.named_parameters():
            if name in before:
                parameter.data = parameter.data.to(before[name])
