"""Before a start: what will happen, in numbers, and what stands in the way.

`plan` is pure and fast enough to follow every edit of the form; it reads what is already on disk and asks the Hub at most
once for a base model that it does not know. What it cannot know it says is None.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ui import calibration, data, effects, errors, fit, learned, machine, memory, methods, models, presets, settings, settling, ways
from lora_ui.data import prepared, split
from lora_ui.home import Home
from lora_ui.jobs import Job, Jobs

_datasets: dict[str, data.Dataset] = {}
_bases: dict[tuple[str, str, str | None, bool], models.BaseModel] = {}


def dataset(home: Home, chosen: settings.Settings, token: str | None = None) -> data.Dataset:
    """The rows of these settings; a file that did not change since is not read again. Raises what `data.load` raises."""
    return _read(home, chosen.data.source, chosen, token)


def held_out_dataset(home: Home, chosen: settings.Settings, token: str | None = None) -> data.Dataset | None:
    """The rows of `data.held_out_source`, read with the same columns and trimmed alike; None without one. Raises what `data.load` raises."""
    return _read(home, chosen.data.held_out_source, chosen, token) if chosen.data.held_out_source else None


def _read(home: Home, source: str, chosen: settings.Settings, token: str | None) -> data.Dataset:
    mapping = {str(role): column for role, column in chosen.data.mapping.items()}
    paths = [*(Path(line.strip()).expanduser() for line in source.splitlines()), home.mappings]
    stamp = [(path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None for path in paths]
    memory = json.dumps([str(home.root), source, mapping, chosen.data.trim, stamp])
    if memory not in _datasets or not home.dataset(_datasets[memory].digest).is_dir():
        _datasets[memory] = data.load(home, source, mapping or None, token, trim=chosen.data.trim)
    return _datasets[memory]


def base_model(home: Home, chosen: settings.Settings, token: str | None = None) -> models.BaseModel:
    """The base model of these settings. Raises what `models.find` raises."""
    memory = (str(home.root), chosen.model.base_model, chosen.model.revision, token is not None)
    if memory in _bases:
        return _bases[memory]
    found = models.find(home, chosen.model.base_model, chosen.model.revision, token)
    if found.kind == "hub":  # what lies on this machine can change, and is quick to look at again
        _bases[memory] = found
    return found


def usable_rows(home: Home, chosen: settings.Settings, rows: data.Dataset) -> int:
    """How many rows are used, after what is left out and the row limit; a tokenizer may find more to leave out."""
    return split.usable(home, rows.digest, chosen.data.leave_out, chosen.data.row_limit)


def prepare_params(
    home: Home, chosen: settings.Settings, rows: data.Dataset, base: models.BaseModel, token: str | None = None
) -> dict[str, Any]:
    """What the `prepare` job is asked; the same question has the same answer on disk. Raises what reading the held-out rows raises."""
    apart = held_out_dataset(home, chosen, token)
    return {
        "digest": rows.digest,
        "base_model": chosen.model.base_model,
        "revision": base.revision,
        "max_length": chosen.training.max_length,
        "held_out_rows": presets.held_out(chosen, usable_rows(home, chosen, rows)).value,
        "split_seed": chosen.data.split_seed,
        "system_prompt": chosen.data.system_prompt,
        "learn": chosen.data.learn,
        "template_for_base": chosen.data.template_for_base,
        "leave_out": sorted(chosen.data.leave_out),
        "row_limit": chosen.data.row_limit,
        "held_out_digest": apart.digest if apart else None,
    }


@dataclass(frozen=True)
class Ground:
    """What a plan stands on: the rows as far as they are counted, the base model as far as it is known, this machine."""

    home: Home
    chosen: settings.Settings
    dataset: data.Dataset
    base: models.BaseModel
    unreachable: list[errors.LoraUIError]
    here: machine.Machine
    asked: dict[str, Any]
    summary: dict[str, Any] | None
    rows: memory.Rows

    def places(self, gpu_memory: int | None) -> list[memory.Place]:
        """Where it would run: what is here, or a GPU of that many bytes."""
        return [memory.another(gpu_memory)] if gpu_memory else calibration.here(self.home, self.here)


def ground(home: Home, raw: dict[str, Any], token: str | None = None) -> Ground:
    """Raises LoraUIError when the settings, the data or the base model cannot be read at all."""
    chosen = settings.parse(raw)
    rows = dataset(home, chosen, token)
    unreachable: list[errors.LoraUIError] = []
    try:
        base = base_model(home, chosen, token)
    except (errors.HubOffline, errors.GatedModel) as e:  # a listed model can be planned for, not started
        listed = models.known(home, chosen.model.base_model, chosen.model.revision)
        if listed is None:
            raise
        base, unreachable = listed, [e]
    asked = prepare_params(home, chosen, rows, base, token)
    summary = prepared.summary(home, asked)
    sides = _sides(home, chosen, usable_rows(home, chosen, rows), token)
    counted = memory.Rows.of(summary) if summary else memory.Rows(*sides)
    return Ground(home, chosen, rows, base, unreachable, machine.look(), asked, summary, counted)


def plan(home: Home, raw: dict[str, Any], token: str | None = None, gpu_memory: int | None = None) -> dict[str, Any]:
    """What these settings would do: rows, steps, tokens, time, parameters, memory, decisions with reasons, findings. `gpu_memory`:
    bytes of a GPU that is not here, to ask whether it would fit there. Raises what `ground` raises."""
    return planned(home, ground(home, raw, token), gpu_memory)


def planned(home: Home, on: Ground, gpu_memory: int | None = None) -> dict[str, Any]:
    """As `plan`, of what was looked up already."""
    chosen, base, summary, here = on.chosen, on.base, on.summary, on.here
    decided, needed = settling.settle(base, chosen, on.rows, on.places(None)[0])
    used = usable_rows(home, chosen, on.dataset)
    if used < on.dataset.report["kept"]:
        decided["data.row_limit"] = presets.used_rows(chosen, used, on.dataset.report["kept"])
    counts = fit.parameters(base.config, chosen.adapter) if base.config else None
    time = _time(on, chosen, base, decided, _finished(home))
    fits = memory_of(home, base, chosen, on.rows, on.places(gpu_memory))
    elsewhere = fits["decisions"] if fits and gpu_memory else {}
    return {
        "name": on.dataset.name,
        "digest": on.dataset.digest,
        "rows": on.dataset.report["kept"],
        "dropped": on.dataset.report["dropped"],
        "train_rows": on.rows.train,
        "held_out_rows": on.rows.held_out,
        "steps": decided["total_steps"].value,
        "epochs": _rounds(chosen, decided),
        "tokens": on.rows.tokens,
        "truncated": summary["truncated"] if summary else None,
        "seconds": time["seconds"],
        "basis": time["basis"].as_dict(),
        "trainable_parameters": counts["trainable_parameters"] if counts else None,
        "all_parameters": counts["all_parameters"] if counts else None,
        "adapter_bytes": saved_bytes(settings.with_4bit(chosen, decided[memory.PRECISION].value), counts, here.dtype) if counts else None,
        "share": counts["share"] if counts else None,
        "explanation": counts["explanation"].as_dict() if counts else None,
        "device": here.device,
        "device_name": here.name,
        "memory": fits,
        "predicted_bytes": memory.measurable(needed, here.device) if needed else None,
        "calibration": on.places(None)[0].factor,
        "decisions": {key: decision.as_dict() for key, decision in decided.items()} | elsewhere,
        "idle": {key: reason.as_dict() for key, reason in effects.idle(chosen, base).items()},
        "in_vain": {key: reason.as_dict() for key, reason in effects.in_vain(chosen, base).items()},
        "methods": [method.key for method in methods.applied(chosen)],
        "findings": [_finding(problem) for problem in problems(home, on)],
        "prepare": on.asked,
    }


def glances(
    home: Home,
    raw: dict[str, Any],
    others: dict[str, tuple[dict[str, Any], models.BaseModel | None]],
    token: str | None,
    gpu_memory: int | None,
) -> dict[str, dict[str, Any]]:
    """Verdict of other settings on the same rows, with a base model of their own, or with that of `raw` and then seconds too; None
    where nothing is known. Fast enough to follow every edit. Raises what `ground` raises."""
    on = ground(home, raw, token)
    places, before, said = on.places(gpu_memory), _finished(home), {}
    for name, (other, base) in others.items():
        chosen = settings.parse(other)
        verdicts = []
        for place in places:
            decided, needed = settling.settle(base or on.base, chosen, on.rows.rough(), place)
            verdicts += [memory.verdict(needed, place)] if needed else []
        seconds = _time(on, chosen, on.base, decided, before)["seconds"] if base is None else None
        said[name] = {"seconds": seconds, "verdict": min(verdicts, key=memory.VERDICTS.index, default=None)}
    return said


def _rounds(chosen: settings.Settings, decided: dict[str, presets.Decision]) -> float:
    """How often every row is seen: as decided, or until the step limit."""
    if chosen.training.max_steps > 0:
        return float(chosen.training.max_steps / decided["steps_per_round"].value)
    return float(decided["training.num_train_epochs"].value)


def _time(
    on: Ground, chosen: settings.Settings, base: models.BaseModel, decided: dict[str, presets.Decision], before: list[Job]
) -> dict[str, Any]:
    counts = fit.parameters(base.config, chosen.adapter) if base.config else None
    limit = chosen.training.max_length
    tokens = sum(min(length, limit) for length in on.rows.lengths) if on.rows.lengths else on.rows.tokens
    trainable = counts["trainable_parameters"] if counts else None
    return fit.estimate(base, trainable, tokens, _rounds(chosen, decided), on.here, _speed_before(before, chosen))


def memory_of(
    home: Home, base: models.BaseModel, chosen: settings.Settings, rows: memory.Rows, places: list[memory.Place]
) -> dict[str, Any] | None:
    """What a run takes in the best of `places`: `verdict, predicted_bytes, available_bytes, items, decisions` (what follows from that
    place), `places` (each with its own verdict) and, where it does not fit, `ways` (see `ways.Way`). None for a family whose shape is
    not known."""
    settled = [(*settling.settle(base, chosen, rows, place), place) for place in places]
    judged = [(memory.verdict(needed, place), decided, needed, place) for decided, needed, place in settled if needed]
    if not judged:
        return None
    verdict, decided, needed, best = min(judged, key=lambda one: memory.VERDICTS.index(one[0]))
    return {
        "verdict": verdict,
        "predicted_bytes": sum(needed.values()),
        "available_bytes": best.whole,
        "items": needed,
        "decisions": {key: decided[key].as_dict() for key in settling.BY_FIT},
        "calibration": said.as_dict() if (said := calibration.said(best)) else None,
        "places": [{"name": place.name, "available_bytes": place.whole, "verdict": one} for one, _, _, place in judged],
        "ways": [way.as_dict() for way in ways.ways(base, chosen, rows, best, models.catalogue(home))] if verdict == "no" else [],
    }


def _finished(home: Home) -> list[Job]:
    return Jobs(home.database).all("train", ("finished",))


def _speed_before(finished: list[Job], chosen: settings.Settings) -> float | None:
    """Useful tokens per second of the last of these runs with the same base model, precision and longest row."""

    def alike(raw: dict[str, Any]) -> list[Any]:
        return [raw["model"], raw["training"]["max_length"], raw["adapter"]["use_dora"], raw["adapter"].get("method", "lora")]

    wanted = alike(chosen.model_dump())
    same = (job for job in finished if job.result and alike(job.params["settings"]) == wanted)
    return next((job.result["tokens_per_second"] for job in same if job.result and job.result["tokens_per_second"]), None)


def _sides(home: Home, chosen: settings.Settings, used: int, token: str | None) -> tuple[int, int]:
    """(rows to learn from, rows to test on) as they will be, as far as that is known before they are counted."""
    apart = held_out_dataset(home, chosen, token)
    aside = presets.held_out(chosen, used).value
    return used - aside, apart.report["kept"] if apart else aside


def problems(home: Home, on: Ground) -> list[errors.LoraUIError]:
    """What makes a start pointless, most basic first."""
    chosen, base, found = on.chosen, on.base, [*on.unreachable]
    counts = fit.parameters(base.config, chosen.adapter) if base.config else None
    used = usable_rows(home, chosen, on.dataset)
    held_out = presets.held_out(chosen, used).value
    if used - held_out < 1:
        found.append(errors.NothingLeftToTrain(rows=used, held_out=held_out))
    needed, free = needed_bytes(chosen, base, counts), home.free_bytes()
    if needed > free:
        found.append(errors.DiskFull(needed=gigabytes(needed), free=gigabytes(free), where=str(home.root)))
    if not fit.has_targets(base.config, chosen.adapter.target_modules):
        found.append(
            errors.NoSuchModules(modules=chosen.adapter.target_modules, name=base.name, known=", ".join(fit.module_names(base.config)))
        )
    found += methods.problems(chosen, base.config)
    if chosen.training.optim.startswith(("adamw_8bit", "paged")) and machine.look().device == "mps":
        found.append(errors.NotOnThisDevice(what=chosen.training.optim, device="Apple GPUs"))
    if memory.quantised(chosen) and machine.look().device == "mps":
        found.append(errors.NotOnThisDevice(what="4-bit and 8-bit", device="Apple GPUs"))
    return found


def saved_bytes(chosen: settings.Settings, counts: dict[str, Any], dtype: str) -> int:
    """About how large the file of the adapter will be, trained in `dtype`: its numbers, twice where what it took out of the base is saved
    with it, and of AdaLoRA's those that are left."""
    share = 2.0 if chosen.adapter.init_lora_weights in methods.MOVE_THE_BASE else 1.0
    if chosen.adapter.method == "adalora":
        share = chosen.adapter.r / learned.first_rank(chosen.adapter.r)
    return round(share * counts["adapter_parameters"] * (2 if memory.narrow(chosen) and dtype == "bfloat16" else 4))


def needed_bytes(chosen: settings.Settings, base: models.BaseModel, counts: dict[str, Any] | None) -> int:
    """Disk a run takes: the base's download (2 bytes a parameter) if it is not here, and for each save point the adapter in
    float32 with two optimizer states (and, where it took a part out of the base, its first values and both as a plain adapter), plus the
    one being written; and 200 MB to spare."""
    parameters = (counts["all_parameters"] if counts else base.parameters) or 0
    trainable = counts["trainable_parameters"] if counts else 0
    download = 0 if base.local else 2 * parameters
    parts = 6 if chosen.adapter.init_lora_weights in methods.MOVE_THE_BASE else 3
    return download + trainable * 4 * parts * (chosen.training.save_total_limit + 2) + 200_000_000


def gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"


def _finding(problem: errors.LoraUIError) -> dict[str, Any]:
    return {"level": "error", **problem.as_dict()}
