"""Presets: partial settings under a name, ours (presets/*.yaml) and the person's own (home.presets). And what `auto` comes to.

`decide` turns every `auto` into a value with its reason. Its words for packing: rows laid end to end fill *sequences* of
max_length tokens, and the trainer then counts sequences. "Rows per step" (global_batch_size) keeps meaning rows: it is turned
into as many sequences as hold about that many rows, at least one.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lora_ui import errors, settings
from lora_ui.errors import Say
from lora_ui.home import REPOSITORY, Home, write_text
from lora_ui.settings import Settings


@dataclass(frozen=True)
class Preset:
    name: str
    title: str
    summary: str
    sources: list[str]
    machine: str
    """any, cpu or gpu: where it makes sense."""
    min_rows: int | None
    max_rows: int | None
    settings: dict[str, Any]
    """Partial groups; what is not named keeps its default."""
    own: bool = False


def all_presets(home: Home) -> list[Preset]:
    """Ours in the order of the page, then the person's own by name. An own file that cannot be read is left out; `get` says why."""
    ours = {path.stem: _read(path, own=False) for path in _shipped()}
    own = []
    for path in sorted(home.presets.glob("*.yaml")):
        try:
            own.append(_read(path, own=True))
        except errors.LoraUIError:
            continue
    order = ("quick-check", "cpu", "balanced", "small-gpu", "tiny-data", "style", "knowledge", "long-context", "high-quality")
    return [
        ours[name] for name in sorted(ours, key=lambda name: (name not in order, order.index(name) if name in order else 0, name))
    ] + own


def _shipped() -> list[Path]:
    return [path for path in (REPOSITORY / "presets").glob("*.yaml") if path.stem not in ("models", "methods")]


def get(home: Home, name: str) -> Preset:
    """Raises UnknownPreset, and for a file that is there UnreadableSettingsFile or InvalidSettings."""
    for own, paths in ((False, _shipped()), (True, sorted(home.presets.glob("*.yaml")))):
        for path in paths:
            if path.stem == name:
                return _read(path, own)
    raise errors.UnknownPreset(name=name, known=", ".join(preset.name for preset in all_presets(home)))


def _read(path: Path, own: bool) -> Preset:
    groups = settings.read(path)
    settings.parse(groups)
    header = yaml.safe_load(path.read_text("utf-8")).get("preset") or {}
    if not isinstance(header, dict):
        raise errors.UnreadableSettingsFile(name=path.name, detail=Say("preset has to hold title and summary."))
    return Preset(
        name=path.stem,
        title=str(header.get("title") or path.stem),
        summary=str(header.get("summary") or ""),
        sources=[str(source) for source in header.get("sources") or []],
        machine=str(header.get("machine") or "any"),
        min_rows=header.get("min_rows"),
        max_rows=header.get("max_rows"),
        settings=groups,
        own=own,
    )


def save(home: Home, title: str, settings_raw: dict[str, Any]) -> Preset:
    """Keep these settings as an own preset; the base model and the data stay out, they are chosen anew each time. Raises InvalidSettings."""
    settings.parse(settings_raw)
    kept = {group: dict(values) for group, values in settings_raw.items()}
    for group, field in (("model", "base_model"), ("model", "revision"), ("data", "source"), ("data", "mapping")):
        kept.get(group, {}).pop(field, None)
    taken = {path.stem for path in (*_shipped(), *home.presets.glob("*.yaml"))}
    plain = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or "preset"
    name = next(name for name in (plain, *(f"{plain}-{n}" for n in range(2, 10_000))) if name not in taken)
    path = home.presets / f"{name}.yaml"
    header = {"title": title.strip() or name, "summary": "", "machine": "any", "sources": []}
    groups = {group: values for group, values in kept.items() if values}
    write_text(path, yaml.safe_dump({"preset": header, **groups}, sort_keys=False, allow_unicode=True))
    return _read(path, own=True)


def suggest(presets: list[Preset], machine_kind: str, gpu_memory: int | None, rows: int) -> list[tuple[Preset, Say]]:
    """All presets, the best for this machine (cpu, cuda or mps; memory in bytes) and this number of rows first, each with the reason."""
    judged = [(*_judge(preset, machine_kind, gpu_memory, rows), preset) for preset in presets]
    return [(preset, reason) for _, reason, preset in sorted(judged, key=lambda one: -one[0])]


def _judge(preset: Preset, kind: str, memory: int | None, rows: int) -> tuple[int, Say]:
    gpu = kind != "cpu"
    if preset.machine == "gpu" and not gpu:
        return 0, Say("needs a GPU; this machine has none")
    if preset.settings.get("model", {}).get("load_in_4bit") is True and kind == "mps":
        return 0, Say("4-bit does not work on Apple GPUs")
    if preset.min_rows and rows < preset.min_rows:
        return 10, Say("wants {needed} rows or more; you have {rows}", needed=preset.min_rows, rows=rows)
    if preset.max_rows and rows > preset.max_rows:
        return 10, Say("meant for at most {most} rows; you have {rows}", most=preset.max_rows, rows=rows)
    if preset.machine == "cpu":
        if gpu:
            return 5, Say("meant for machines without a GPU")
        return 100, Say("made for this machine: it has no GPU")
    small = memory is not None and memory <= 13 * 1024**3
    best = {
        "small-gpu": (95 if small else 40, Say("fits into a small GPU")),
        "tiny-data": (90 if gpu else 60, Say("{rows} rows are few: it learns gently and stops in time", rows=rows)),
        "balanced": (50 if small else 80, Say("a good first run with {rows} rows", rows=rows)),
        "quick-check": (70, Say("shows in about a minute that everything works")),
    }
    if preset.name in best:
        return best[preset.name]
    return (45, Say("your own")) if preset.own else (30, Say("for its purpose: read its line"))


# What `auto` comes to


@dataclass(frozen=True)
class Decision:
    value: Any
    reason: Say

    def as_dict(self) -> dict[str, Any]:
        said = self.reason.as_dict()
        return {"value": self.value, "reason": said["text"], "template": said["template"], "values": said["values"]}


CHOSEN = Say("as set by the preset or by you")
FEWEST_STEPS = 30
"""Fewer corrections than this teach little, however many rows each of them saw."""


def held_out(chosen: Settings, rows: int) -> Decision:
    """How many of `rows` are kept aside: none when the test has rows of its own; else a tenth, at least 1, at most 200 (10 in a run
    with a step limit). What a person set is kept as it is; a share is at least one row and leaves one."""
    wanted = chosen.data.held_out_rows
    if chosen.data.held_out_source:
        return Decision(0, Say("none of these rows: the test has its own, {source}", source=chosen.data.held_out_source))
    if wanted != "auto" and 0 < wanted < 1:
        value = min(max(1, round(rows * wanted)), rows - 1)
        return Decision(value, Say("{value} of {rows}: the share {share} as set", value=value, rows=rows, share=f"{wanted:g}"))
    if wanted != "auto":
        return Decision(int(wanted), CHOSEN)
    if rows < 2:
        return Decision(0, Say("none, because there is only one row"))
    tenth = max(1, round(rows / 10))
    if chosen.training.max_steps > 0 and tenth > 10:
        return Decision(10, Say("10, because the run is short and a test should be too"))
    if tenth > 200:
        return Decision(200, Say("200, because more make the test slower, not better"))
    return Decision(tenth, Say("{value} of {rows}: a tenth, enough to tell learning from learning by heart", value=tenth, rows=rows))


def used_rows(chosen: Settings, used: int, rows: int) -> Decision:
    """How many of `rows` are used when some are left out or a limit is set."""
    if used == chosen.data.row_limit:
        return Decision(
            used, Say("{used} of {rows} rows, picked by chance with the seed {seed}", used=used, rows=rows, seed=chosen.data.split_seed)
        )
    return Decision(used, Say("{used} of {rows} rows; the others are left out, as chosen", used=used, rows=rows))


def packed_sequences(lengths: Sequence[int], max_length: int) -> int:
    """How many sequences of max_length hold rows of these lengths: TRL's packing (best fit, longest first, 1,000 rows at a time)."""
    count = 0
    for start in range(0, len(lengths), 1000):
        free: list[int] = []
        for length in sorted((min(n, max_length) for n in lengths[start : start + 1000]), reverse=True):
            if not length:
                continue
            fits = bisect_left(free, length)
            if fits < len(free):
                insort(free, free.pop(fits) - length)
            else:
                insort(free, max_length - length)
                count += 1
    return count


def decide(
    chosen: Settings,
    train_rows: int,
    held_out_rows: int,
    device: str,
    median_tokens: int | None,
    tokens: int | None = None,
    lengths: Sequence[int] | None = None,
    masked: bool = False,
) -> dict[str, Decision]:
    """Every value that may be `auto`, with its reason, under its key; besides them `training.gradient_accumulation_steps`,
    `steps_per_round` and `total_steps`.

    `device` is cpu, cuda or mps. `tokens`: of all training rows together; `lengths`: of each, which makes the count of packed
    sequences exact; without it they are ceil(tokens ÷ max_length). `masked`: rows of one sequence are kept apart by a mask, which is as
    large as the square of it. Values of `per_device_train_batch_size` and
    `gradient_accumulation_steps` are in what the trainer counts: sequences when packing, else rows.
    """
    training, rows = chosen.training, max(1, train_rows)
    limit = training.max_length
    tokens = sum(min(n, limit) for n in lengths) if lengths else tokens or (rows * min(median_tokens, limit) if median_tokens else None)
    rounds = _rounds(training.num_train_epochs, rows)
    sequences = packed_sequences(lengths, limit) if lengths else math.ceil(tokens / limit) if tokens else None
    packing = _packing(chosen, masked, median_tokens, sequences, rounds.value)
    pieces = max(1, min(rows, sequences or math.ceil(rows / 4))) if packing.value else rows
    batch = _batch(chosen, rows, pieces, rounds.value, device, median_tokens)
    at_once, accumulation = batch["training.per_device_train_batch_size"].value, batch["training.gradient_accumulation_steps"].value
    per_round = math.ceil(math.ceil(pieces / at_once) / accumulation)  # as transformers' Trainer counts
    limited = training.max_steps > 0
    total = training.max_steps if limited else math.ceil(rounds.value * per_round)
    said = Say("the step limit") if limited else Say("{rounds:g} rounds of {steps} steps", rounds=rounds.value, steps=per_round)
    return {
        "data.held_out_rows": Decision(held_out_rows, held_out(chosen, train_rows + held_out_rows).reason),
        "training.num_train_epochs": rounds,
        "training.packing": packing,
        **batch,
        "training.activation_checkpointing": _checkpointing(chosen, device),
        "model.load_in_4bit": _four_bits(chosen),
        **_cadence(chosen, total, held_out_rows, device),
        "steps_per_round": Decision(per_round, Say("all training rows once")),
        "total_steps": Decision(total, said),
    }


def _rounds(wanted: float | str, rows: int) -> Decision:
    if not isinstance(wanted, str):
        return Decision(wanted, CHOSEN)
    if rows < 100:
        return Decision(5, Say("5, because {rows} rows are very few and have to be seen more often", rows=rows))
    if rows < 2_000:
        return Decision(3, Say("3, because one round is not enough for {rows} rows and many more would learn them by heart", rows=rows))
    if rows < 20_000:
        return Decision(2, Say("2, because {rows} rows need little repeating", rows=rows))
    return Decision(1, Say("1, because {rows} rows are many: each is seen once", rows=rows))


def _packing(chosen: Settings, masked: bool, median: int | None, sequences: int | None, rounds: float) -> Decision:
    training = chosen.training
    if training.packing != "auto":
        return Decision(training.packing, CHOSEN)
    limit = training.max_length
    if limit > 4096 and masked:
        return Decision(False, Say("off, because attention over a packed row of {limit} tokens costs more than it saves", limit=limit))
    if median is not None and 2 * median > limit:
        return Decision(False, Say("off, because rows of about {median} tokens fill {limit} by themselves", median=median, limit=limit))
    if training.max_steps < 0 and sequences is not None and sequences * rounds < FEWEST_STEPS:
        return Decision(False, Say("off, because the rows would fill only {sequences} sequences: too few steps", sequences=sequences))
    if median is None:
        return Decision(
            True, Say("on, because rows are usually much shorter than {limit} tokens; settled when they are counted", limit=limit)
        )
    return Decision(True, Say("on, because rows of about {median} tokens would leave most of {limit} empty", median=median, limit=limit))


def _batch(chosen: Settings, rows: int, pieces: int, rounds: float, device: str, median: int | None) -> dict[str, Decision]:
    """`pieces`: what the trainer counts in one round, sequences or rows."""
    training, in_piece = chosen.training, rows / pieces
    whole = training.global_batch_size
    given = training.per_device_train_batch_size
    if whole == "auto":
        usual = 8 if rows < 1_000 else 16 if rows < 20_000 else 32
        value = usual if training.max_steps > 0 else max(1, min(usual, int(rows * rounds / FEWEST_STEPS)))
        if given != "auto":
            value = math.ceil(value / given) * given
        reason = Say(
            "{value} rows a step: LoRA learns better from small steps, and there should be at least {steps}",
            value=value,
            steps=FEWEST_STEPS,
        )
        wanted = Decision(value, reason)
    else:
        wanted = Decision(whole, CHOSEN)
    step = max(1, round(wanted.value / in_piece)) if pieces < rows else wanted.value
    most = _most_at_once(training.max_length, device, median, packed=pieces < rows)
    if given == "auto":
        at_once = max(n for n in range(1, min(step, most) + 1) if step % n == 0)
        reason = Say("{value} in memory together on this kind of machine", value=at_once)
    elif pieces < rows:
        asked = max(1, min(step, round(given / in_piece)))
        at_once = max(n for n in range(1, asked + 1) if step % n == 0)
        reason = Say("{value} packed sequences, which hold about the {rows} rows that were set", value=at_once, rows=given)
    else:
        at_once, reason = min(given, step), CHOSEN
    parts = step // at_once
    in_words = Say("{step} packed sequences a step, of about {rows:.0f} rows each", step=step, rows=in_piece)
    if pieces == rows:
        in_words = _parts(at_once, parts)
    return {
        "training.global_batch_size": wanted,
        "training.per_device_train_batch_size": Decision(at_once, reason),
        "training.gradient_accumulation_steps": Decision(parts, in_words),
    }


def _parts(at_once: int, parts: int) -> Say:
    step = at_once * parts
    return Say("{at_once} rows at once, {parts} times, make the {step} of a step", at_once=at_once, parts=parts, step=step)


def split_again(decided: dict[str, Decision], at_once: int, reason: Say) -> dict[str, Decision]:
    """The same decisions with `at_once` in memory together, a divisor of the step: what a step holds, and so all else, stays."""
    batch, parts = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
    times = decided[batch].value * decided[parts].value // at_once
    said = decided[parts].reason if decided["training.packing"].value else _parts(at_once, times)
    return {**decided, batch: Decision(at_once, reason), parts: Decision(times, said)}


def _most_at_once(max_length: int, device: str, median: int | None, packed: bool) -> int:
    """A processor gains nothing from more than one full sequence; a GPU is busy from about 8,192 tokens on."""
    row = max_length if packed or median is None else min(max_length, 2 * median)
    if device == "cpu":
        return 1 if packed else max(1, min(4, 1024 // row))
    return max(1, min(16, 8192 // row))


def _checkpointing(chosen: Settings, device: str) -> Decision:
    wanted = chosen.training.activation_checkpointing
    if wanted != "auto":
        return Decision(wanted, CHOSEN)
    if device == "cpu" and chosen.training.max_length <= 2048:
        return Decision(False, Say("off, because this machine has more memory than speed"))
    return Decision(True, Say("on, because it saves memory and costs about a quarter of the speed"))


def _four_bits(chosen: Settings) -> Decision:
    wanted = chosen.model.load_in_4bit
    if wanted != "auto":
        return Decision(wanted, CHOSEN)
    return Decision(False, Say("off, because the memory of this family of models is not known here"))


def _cadence(chosen: Settings, total: int, held_out_rows: int, device: str) -> dict[str, Decision]:
    training = chosen.training
    warm = Decision(training.warmup_steps, CHOSEN)
    if training.warmup_steps == "auto":
        steps = min(100, round(total / 20)) if total >= 10 else 0
        warm = Decision(
            steps, Say("{value} of {total} steps: a twentieth, so that the first corrections are gentle", value=steps, total=total)
        )
    log = Decision(training.logging_steps, CHOSEN)
    if training.logging_steps == "auto":
        every = max(1, math.ceil(total / 300))
        log = Decision(every, Say("a point every {value} steps: about as many as the chart can show", value=every))
    tests = 4 if device == "cpu" else 8
    spaced = max(1, total // tests)  # rounded down, so that the last test is at the end or just before it
    test = Decision(chosen.evaluation.eval_steps, CHOSEN)
    if chosen.evaluation.eval_steps == "auto":
        reason = Say("every {value} steps: about {tests} tests in the whole run", value=spaced, tests=tests)
        test = Decision(spaced, reason if held_out_rows else Say("no tests, because no rows are kept aside"))
    point = Decision(training.save_steps, CHOSEN)
    if training.save_steps == "auto":
        every = test.value if held_out_rows else spaced
        reason = Say("every {value} steps, with each test, so that the best point can be kept", value=every)
        point = Decision(every, reason if held_out_rows else Say("every {value} steps, so that little is lost by a stop", value=every))
    return {
        "training.warmup_steps": warm,
        "training.logging_steps": log,
        "evaluation.eval_steps": test,
        "training.save_steps": point,
    }
