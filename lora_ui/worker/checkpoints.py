"""Save points that are whole or not there: `checkpoints/step-000040/` with a manifest of sizes and sha256.

transformers writes a checkpoint file by file into its final folder and later takes the highest number, complete or not.
Here the trainer (worker/trainer.py) writes into a staging folder; then every file is synced, the manifest written last, and the
folder renamed. Nothing of a save point is opened by anyone before its manifest was compared with its files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from lora_ui import errors, machine
from lora_ui.errors import Say
from lora_ui.home import read_json, write_json
from lora_ui.worker import place

STAGING = ".staging"
MANIFEST = "manifest.json"
_TO_GO_ON = ("*.pt", "*.pth", "trainer_state.json", "counters.json", "live.safetensors", MANIFEST, "README.md")
"""Files of a save point that only its run needs, and PEFT's card: ours is written when the adapter is published."""
_ON_THE_WAY = (
    "training.per_device_train_batch_size",
    "training.gradient_accumulation_steps",
    "training.per_device_eval_batch_size",
    "training.learning_rate",
)
"""Decisions that a run changes when its memory ran out or its loss was no number."""


def digest(params: dict[str, Any], decided: dict[str, Any]) -> str:
    """sha256 of everything that a step depends on: settings, rows, and what was decided for them."""
    ours = {key: value for key, value in decided.items() if key.startswith("training.") and key not in _ON_THE_WAY}
    if params["settings"]["model"]["load_in_4bit"] == "auto":
        ours["model.load_in_4bit"] = decided["model.load_in_4bit"]
    what = [params["settings"], params["prepare"], ours, decided["machine.dtype"]]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def commit(staged: Path, checkpoints: Path, step: int, settings: str) -> Path:
    """Write the manifest of `staged` and move it to `checkpoints/step-NNNNNN`, safely on the disk. `settings` is their digest."""
    files = {name: {"size": (staged / name).stat().st_size, "sha256": _sha256(staged / name)} for name in sorted(_files(staged))}
    write_json(staged / MANIFEST, {"step": step, "settings": settings, "versions": machine.versions(), "files": files})
    final = checkpoints / f"step-{step:06d}"
    place.publish(staged, final)
    return final


def publish_adapter(point: Path, target: Path, base_model: str | None) -> None:
    """What a save point has learned as a plain PEFT folder with tokenizer and template, whole or not there: usable however the run ends.
    `base_model`: its name on the Hub; without one PEFT's local path stays, which is where it is."""
    building = target.with_name(".tmp-adapter")
    shutil.rmtree(building, ignore_errors=True)
    try:
        shutil.copytree(point, building, ignore=shutil.ignore_patterns(*_TO_GO_ON))
        if base_model:
            config = read_json(building / "adapter_config.json")
            write_json(building / "adapter_config.json", {**config, "base_model_name_or_path": base_model})
        place.publish(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def rotate(checkpoints: Path, keep: int, best_step: int | None) -> None:
    """Delete all but the newest `keep` save points and the best one, each by moving it away first."""
    for old in points(checkpoints)[keep:]:
        if step_of(old) != best_step:
            away = checkpoints / STAGING / old.name
            away.parent.mkdir(exist_ok=True)
            os.replace(old, away)
            shutil.rmtree(away)


def tidy(checkpoints: Path) -> None:
    """Remove what a killed save or deletion left behind."""
    shutil.rmtree(checkpoints / STAGING, ignore_errors=True)


def points(checkpoints: Path) -> list[Path]:
    """All save points, the newest first, whole or not."""
    return sorted((p for p in checkpoints.glob("step-*") if re.fullmatch(r"step-\d+", p.name)), key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def newest(checkpoints: Path, settings: str) -> tuple[Path | None, list[tuple[str, Say]]]:
    """The newest save point that verifies, and (name, what is wrong) of newer ones, which are renamed to `damaged-…`.

    Raises OtherSettings when the newest one that is whole was made with other settings; nothing is changed then.
    """
    skipped: list[tuple[str, Say]] = []
    good = None
    for folder in points(checkpoints):
        problem = damage(folder)
        if problem is None:
            good = folder
            break
        skipped.append((folder.name, problem))
    if good is not None and read_json(good / MANIFEST).get("settings", settings) != settings:
        raise errors.OtherSettings(point=good.name)
    for name, _ in skipped:
        aside = checkpoints / f"damaged-{name}"
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(checkpoints / name, aside)
    return good, skipped


def damage(folder: Path) -> Say | None:
    """What is wrong with a save point, or None when its files are exactly those of its manifest."""
    try:
        manifest = read_json(folder / MANIFEST)
        if manifest is None:
            return Say("it has no list of its files")
        said = manifest["files"]
        for name in sorted(_files(folder) - {MANIFEST} ^ said.keys()):
            return Say("{file} is missing", file=name) if name in said else Say("{file} does not belong to it", file=name)
        for name, one in said.items():
            if (folder / name).stat().st_size != one["size"] or _sha256(folder / name) != one["sha256"]:
                return Say("{file} is damaged", file=name)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Say("{file} is damaged", file=MANIFEST)
    except OSError as e:
        return Say("it cannot be read ({why})", why=e.strerror)
    return None


def kept(checkpoints: Path) -> Say:
    """Which save point a failed run can go on from, as a sentence."""
    there = points(checkpoints)
    return Say("Everything up to step {step} is saved.", step=step_of(there[0])) if there else Say("Nothing had been saved yet.")


def _files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}


def _sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
