"""What the trainer tells us: points for the curves, progress, and when to end early."""

from __future__ import annotations

import math
import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from lora_ui import errors, metrics
from lora_ui.worker import checkpoints, disk
from lora_ui.worker.job import Job

STEADY_AFTER = 2
"""Steps left out of tokens per second: the first ones warm caches and compile."""


class Watch(TrainerCallback):
    """Writes `metrics.jsonl`, reports progress, passes a stop on to the trainer, and ends a run whose loss is no number."""

    def __init__(self, job: Job, patience: int):
        self.job, self.patience = job, patience
        self.best: tuple[float, int] | None = None
        self.tests_since_best = 0
        self.full_speed: float | None = None
        """Tokens per second if this machine did nothing but multiply."""
        self.train_seconds = 0.0
        self.began_at: int | None = None
        """The first step that this process made; not 1 when the run is resumed."""
        for row in metrics.read(job.folder / "metrics.jsonl"):  # of a run that is resumed
            if row.get("eval_loss") is not None:
                self._tested(row["eval_loss"], row["step"])
        self._unwritten: list[dict[str, Any]] = []
        """Points for which the disk had no room; they are written with a later one."""
        self._step_began = 0.0
        self._tokens_at: float | None = None
        self._seconds_at = 0.0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._step_began = time.monotonic()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.train_seconds += time.monotonic() - self._step_began
        if self.began_at is None:
            self.began_at = state.global_step
            self.job.phase("train")
        self.job.progress(state.global_step, state.max_steps, "steps", since=self.began_at)
        if state.global_step == state.max_steps and args.eval_strategy != "no":
            control.should_evaluate = True  # the last step is tested whatever the cadence
        if self.job.stopping.is_set():
            control.should_training_stop = control.should_save = True

    def on_prediction_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.job.moved = time.time()
        if state.global_step == 0:  # nothing is learned yet; later a test is finished first, unless a stop is asked for again
            self.job.check()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any], **_: Any) -> None:
        row = {"step": state.global_step, "time": time.time(), **logs}
        if "loss" in logs and (speed := self._speed(state.global_step, logs.get("num_tokens"))):
            row["tokens_per_second"] = speed
            row |= {"peak_share": round(speed / self.full_speed, 4)} if self.full_speed else {}
        self._unwritten.append(row)
        with disk.tolerated():
            while self._unwritten:
                metrics.append(self.job.folder / "metrics.jsonl", self._unwritten[0])
                del self._unwritten[0]
        for name in ("loss", "eval_loss"):
            if name in logs and not math.isfinite(logs[name]):
                raise self.diverged(state.global_step) if state.global_step > 1 else errors.NoNumbers()

    def diverged(self, step: int) -> errors.LossDiverged:
        return errors.LossDiverged(step=step, kept=checkpoints.kept(self.job.folder / "checkpoints"))

    def _speed(self, step: int, num_tokens: float | None) -> float | None:
        """Useful tokens per second of training steps since the last point; tests and saves do not count."""
        if num_tokens is None or step < STEADY_AFTER:
            return None
        before, since = self._tokens_at, self.train_seconds - self._seconds_at
        self._tokens_at, self._seconds_at = num_tokens, self.train_seconds
        return round((num_tokens - before) / since, 2) if before is not None and since > 0 else None

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float], **_: Any
    ) -> None:
        self._tested(metrics["eval_loss"], state.global_step)
        if self.enough:
            control.should_training_stop = control.should_save = True

    def _tested(self, loss: float, step: int) -> None:
        if self.best is None or loss < self.best[0]:
            self.best, self.tests_since_best = (loss, step), 0
        else:
            self.tests_since_best += 1

    @property
    def enough(self) -> bool:
        """Whether as many tests in a row as the person allows were no better."""
        return 0 < self.patience <= self.tests_since_best

    @property
    def best_step(self) -> int | None:
        return self.best[1] if self.best else None
