"""One run, read downwards: rows, base model, adapter, trainer, saved adapter.

Not here: what the page showed (worker/prepare.py made the tokens), which values `auto` takes (presets.decide), how a save
point is written (worker/checkpoints.py).
"""

from __future__ import annotations

import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_ui import errors, machine, memory, methods, metrics, settings, settling
from lora_ui.data import prepared
from lora_ui.errors import Say
from lora_ui.home import read_json, write_json, write_text
from lora_ui.models import BaseModel
from lora_ui.presets import Decision
from lora_ui.worker import checkpoints, disk, shortage
from lora_ui.worker.job import Again, Job, Stopped

ATTENTION = "machine.attn_implementation"


def run(job: Job) -> dict[str, Any]:
    """Train the run in `job.folder`; returns the result that `show` reads. Raises Stopped (with a result) when asked to stop."""
    chosen = settings.parse(job.params["settings"])
    write_text(job.folder / "settings.yaml", settings.write(chosen, job.params["header"]))
    points = job.folder / "checkpoints"
    import torch

    job.check()  # each of these takes seconds on a slow disk
    from datasets import disable_progress_bars

    job.check()
    from lora_ui.worker import attention, load, prepare, speed
    from lora_ui.worker import methods as adapters
    from lora_ui.worker.callbacks import Watch
    from lora_ui.worker.trainer import SavingTrainer

    job.check()
    disable_progress_bars()
    here = machine.look()
    device = _device(here)
    here = replace(here, device=device)

    # The rows: the very tokens that the preview showed.
    job.phase("prepare")
    checkpoints.tidy(points)
    known = prepared.summary(job.home, job.params["prepare"])
    summary = known or prepare.make(job, job.params["prepare"])
    rows = prepared.folder(job.home, job.params["prepare"])
    cache = job.folder / ".cache"
    train_rows = _rows(rows / "train.parquet", cache)
    held_out = _rows(rows / "held_out.parquet", cache) if summary["held_out_rows"] else None

    job.phase("load")
    folder = load.local_folder(job, chosen.model.base_model, chosen.model.revision)
    base = BaseModel(name=chosen.model.base_model, kind="folder", title="", config=read_json(folder / "config.json"))
    for problem in methods.problems(chosen, base.config):
        raise problem

    # What the machine decides, once; a resumed run keeps it.
    said = read_json(job.folder / "decided.json") or _decide(job, chosen, summary, here, base, known is not None)
    decided = {key: value["value"] for key, value in said.items()}
    torch.set_num_threads(decided["machine.threads"])
    settings_digest = checkpoints.digest(job.params, decided)
    last_good, skipped = checkpoints.newest(points, settings_digest)
    _tell(job, said, last_good, skipped)
    dtype = getattr(torch, decided["machine.dtype"])
    tokenizer = load.load_tokenizer(folder)
    if tokenizer.chat_template is None and summary["template"] in prepare.LAYOUTS:
        tokenizer.chat_template = prepare.LAYOUTS[summary["template"]]
    attention.register()
    four = decided.get(memory.PRECISION, chosen.model.load_in_4bit)  # a run that began before this was decided does not say it
    model = load.load_model(folder, dtype, four, chosen.model.load_in_8bit, decided[ATTENTION])
    load.keep_gradients(model)
    torch.manual_seed(chosen.training.seed)
    model, first = adapters.adapt(job, model, chosen, train_rows, decided["total_steps"], last_good)
    load.spare_casts(model)
    trainable, everything = model.get_nb_trainable_parameters()

    arguments = _arguments(points / checkpoints.STAGING, chosen, decided, device, bool(held_out))
    _forget_later_points(job.folder / "metrics.jsonl", last_good)
    watch = Watch(job, chosen.evaluation.early_stopping_patience if held_out else 0)
    trainer = SavingTrainer(
        model=model,
        args=arguments,
        train_dataset=train_rows,
        eval_dataset=held_out,
        processing_class=tokenizer,
        callbacks=[watch, *adapters.callbacks(chosen)],
    )
    watch.full_speed = speed.full(job.home, here.name, decided, base, trainable, summary["train_lengths"])
    trainer.keep, trainer.watch, trainer.settings = chosen.training.save_total_limit, watch, settings_digest
    trainer.chosen, trainer.first = chosen, first
    trainer.base_model = chosen.model.base_model if job.params["base_kind"] == "hub" else None
    # TRL makes the adapters of a quantised base bfloat16: fp16's gradient scaler cannot take it, and numbers near one would stand still
    if dtype != torch.bfloat16 or not memory.narrow(settings.with_4bit(chosen, bool(four))):
        for parameter in trainer.model.parameters():
            parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data

    job.phase("first_step")
    job.check()
    try:
        if held_out and last_good is None:
            trainer.evaluate()  # step 0: the adapter starts at zero, so this is the base model
        trainer.go_on(last_good)
    except Stopped:
        if not trainer.testing:
            raise
        trainer.save()  # only the test is lost that was broken off
    except errors.LossDiverged:
        _halve_the_rate(job, said, decided.get("training.learning_rate", chosen.training.learning_rate), trainer.state.global_step)
        raise
    except Exception as e:
        if not shortage.ran_out(e):
            raise
        raise _out_of_memory(job, e, said, here.name, trainer.state.global_step) from e

    # Keep the best point if a save point of it exists, else the last.
    job.phase("save")
    best = points / f"step-{watch.best_step or 0:06d}"
    kept = best if not job.stopping.is_set() and checkpoints.damage(best) is None else checkpoints.points(points)[0]
    with disk.explained(job.folder):
        checkpoints.publish_adapter(kept, job.folder / "adapter", trainer.base_model)
    shutil.rmtree(cache, ignore_errors=True)
    shutil.rmtree(arguments.output_dir, ignore_errors=True)
    result = {
        **_losses(job.folder / "metrics.jsonl"),
        "step": trainer.state.global_step,
        "total_steps": trainer.state.max_steps,
        "saved_step": checkpoints.step_of(kept),
        "trainable_parameters": trainable,
        "all_parameters": everything,
        "memory": _memory(job, device),
        "adapter_path": str(job.folder / "adapter"),
        "base_model_path": str(folder),
        "resumed_from": last_good.name if last_good else None,
        "skipped_save_points": [{"name": name, "why": why.as_dict()} for name, why in skipped],
    }
    if job.stopping.is_set():
        raise Stopped(result)
    return result


def _rows(path: Path, cache: Path) -> Any:
    """The tokens and labels of one split, on disk."""
    from datasets import Dataset

    return Dataset.from_parquet(str(path), columns=["input_ids", "labels"], cache_dir=str(cache))


def _arguments(output: Path, chosen: settings.Settings, decided: dict[str, Any], device: str, tested: bool) -> Any:
    """Everything that the trainer is told, each value that we rely on by name."""
    from trl import SFTConfig

    took = chosen.training.model_dump(exclude={"global_batch_size"}) | {
        key.removeprefix("training."): value for key, value in decided.items() if key.startswith("training.")
    }
    end_to_end = decided[ATTENTION] == memory.VARLEN
    if end_to_end and not took["packing"]:
        took["max_length"] = None  # rows were cut when they were prepared
    twice = took.pop("activation_checkpointing")
    return SFTConfig(
        output_dir=str(output),
        **{k: v for k, v in took.items() if k in SFTConfig.__dataclass_fields__ and k != "save_total_limit"},
        eval_strategy="steps" if tested else "no",
        eval_steps=decided["evaluation.eval_steps"] if tested else None,
        padding_free=end_to_end,
        eval_packing=False,
        prediction_loss_only=True,
        save_strategy="steps",
        save_total_limit=None,
        load_best_model_at_end=False,
        bf16=decided["machine.dtype"] == "bfloat16",
        fp16=decided["machine.dtype"] == "float16",
        use_cpu=device == "cpu",
        dataloader_pin_memory=device == "cuda",
        accelerator_config={"non_blocking": device == "cuda"},  # rows go over while the GPU works
        data_seed=chosen.training.seed,
        activation_checkpointing=bool(twice),
        activation_checkpointing_kwargs={"use_reentrant": False, "every_n_layers": memory.EVERY[twice] or 1},
        logging_first_step=True,
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        push_to_hub=False,
    )


def _decide(
    job: Job, chosen: settings.Settings, summary: dict[str, Any], here: machine.Machine, base: BaseModel, reused: bool
) -> dict[str, Any]:
    """Every automatic value with its reason, written to `decided.json`. `reused`: the tokens were there before."""
    place = replace(memory.here(here)[0], factor=job.params.get("calibration", 1.0))
    made, _ = settling.settle(base, chosen, memory.Rows.of(summary), place)
    together = _tested_at_once(made, chosen, summary, here.device)
    before = Say("the rows were turned into tokens before, for the same base model and the same settings")
    made["data.tokens"] = Decision("reused", before) if reused else Decision("made", Say("the rows were turned into tokens by this run"))
    made[shortage.TESTED] = Decision(together, Say("tests take no more tokens at once than a step of training"))
    made |= {**_machine_decisions(here), ATTENTION: memory.attention(base.config, here.device, here.dtype)}
    said = {key: decision.as_dict() for key, decision in made.items()}
    write_json(job.folder / "decided.json", said)
    return said


def _tested_at_once(made: dict[str, Decision], chosen: settings.Settings, summary: dict[str, Any], device: str) -> int:
    """Held-out rows in memory together: no more tokens than in a training step, which fits."""
    at_once, longest = int(made[shortage.AT_ONCE].value), max(summary["lengths"], default=1)
    together = at_once * chosen.training.max_length // longest if made["training.packing"].value else at_once
    return max(1, min(4 if device == "cpu" else 8, together))


def _machine_decisions(here: machine.Machine) -> dict[str, Decision]:
    """What the machine settles alone: number format and threads."""
    why = {
        ("cuda", "bfloat16"): Say("this GPU calculates in bfloat16 at full speed"),
        ("cuda", "float16"): Say("this GPU is older than bfloat16"),
        ("cpu", "bfloat16"): Say("this CPU has AMX, which makes bfloat16 several times faster than float32"),
        ("cpu", "float32"): Say("this CPU has no AMX, so bfloat16 would be slower than float32"),
        ("mps", "float32"): Say("float32 is what works everywhere on this kind of device"),
    }
    return {
        "machine.device": Decision(here.device, Say("it is what this machine has: {name}", name=here.name)),
        "machine.dtype": Decision(here.dtype, why[here.device, here.dtype]),
        "machine.threads": Decision(here.cores, Say("this machine lets a run use {cores} cores", cores=here.cores)),
    }


def _device(here: machine.Machine) -> str:
    """cuda, mps or cpu. Raises GpuUnusable when this job was given a GPU that torch cannot use: training on the CPU instead would take
    days without a word."""
    import torch

    if os.environ.get("CUDA_VISIBLE_DEVICES"):
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as e:
            raise errors.GpuUnusable(device=here.name, detail=str(e).split("\n")[0]) from e
    return "cuda" if torch.cuda.is_available() else "cpu" if here.device == "cuda" else here.device


def _tell(job: Job, said: dict[str, Any], last_good: Path | None, skipped: list[tuple[str, Say]]) -> None:
    """Where this run goes on and what it left out, in the log and among the decisions."""
    for name, why in skipped:
        print(f"Left out the save point {name}: {why}.", flush=True)
    if last_good or skipped:
        found = last_good.name if last_good else "step-000000"
        why = Say("the newest save point that is whole")
        if skipped:
            names = ", ".join(f"{name} ({problem})" for name, problem in skipped)
            why = Say("the newest save point that is whole; left out: {names}", names=names)
        print(f"Going on from {found}.", flush=True)
        write_json(job.folder / "decided.json", {**said, "machine.resumed_from": Decision(found, why).as_dict()})


def _halve_the_rate(job: Job, said: dict[str, Any], rate: float, step: int) -> None:
    """For when the person goes on: with the same rate the same step would fail again."""
    half = Decision(rate / 2, Say("half of {rate:g}, with which the loss stopped being a number at step {step}", rate=rate, step=step))
    write_json(job.folder / "decided.json", {**said, "training.learning_rate": half.as_dict()})


def _out_of_memory(job: Job, e: Exception, said: dict[str, Any], device: str, step: int) -> Exception:
    """Again, with fewer rows at once decided, on the first attempt of this worker where that is possible; else OutOfMemory."""
    job.check()
    fewer = shortage.smaller({key: value["value"] for key, value in said.items()}, step)
    if job.again or fewer is None:
        return errors.OutOfMemory(device=device, step=step, detail=shortage.wanted(e))
    write_json(job.folder / "decided.json", {**said, **fewer})
    print(f"Out of memory at step {step}. {shortage.wanted(e)} Starting again, once, with fewer rows at a time:", flush=True)
    for key, made in fewer.items():
        print(f"  {key} = {made['value']}: {made['reason']}", flush=True)
    return Again()


def _forget_later_points(path: Path, last_good: Path | None) -> None:
    """A resumed run repeats the steps after its save point: their old points would stand twice."""
    step = checkpoints.step_of(last_good) if last_good else -1
    metrics.rewrite(path, [row for row in metrics.read(path) if row["step"] <= step])


def _losses(path: Path) -> dict[str, Any]:
    """The figures `show` prints, from the points on disk."""
    rows = metrics.read(path)
    train = [row["loss"] for row in rows if row.get("loss") is not None]
    tests = [(row["step"], row["eval_loss"]) for row in rows if row.get("eval_loss") is not None]
    after = [loss for step, loss in tests if step > 0]
    return {
        "train_loss": {"first": train[0] if train else None, "last": train[-1] if train else None},
        "eval_loss": {
            "base": tests[0][1] if tests and tests[0][0] == 0 else None,
            "first": after[0] if after else None,
            "best": min(after, default=None),
            "last": after[-1] if after else None,
        },
        "tokens_per_second": metrics.middle(rows, "tokens_per_second"),
    }


def _memory(job: Job, device: str) -> dict[str, Any]:
    """What was said before and what it took; with the kind of device and what was counted in, for the next estimate here."""
    said = {"predicted_bytes": job.params.get("predicted_bytes"), "measured_bytes": _peak_bytes(device)}
    return {**said, "device": device, "factor": job.params.get("calibration", 1.0)}


def _peak_bytes(device: str) -> int:
    """Peak GPU memory that torch held, or this process' peak resident memory on a CPU."""
    import torch

    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if os.uname().sysname == "Darwin" else 1024)
