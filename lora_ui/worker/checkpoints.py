"""Save points that are whole or not there: `checkpoints/step-000040/` with a manifest of sizes and sha256.

transformers writes a checkpoint file by file into its final folder and later takes the highest number, complete or not.
Here the trainer writes into a staging folder; then every file is synced, the manifest written last, and the folder renamed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from trl import SFTTrainer

from lora_ui.home import read_json, write_json
from lora_ui.worker.callbacks import Watch

STAGING = ".staging"


class SavingTrainer(SFTTrainer):
    """SFTTrainer whose save points go through `commit`. `args.output_dir` has to be `checkpoints/.staging`."""

    keep: int
    watch: Watch

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        staged = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        (staged / "training_args.bin").unlink(missing_ok=True)  # a pickle with absolute paths; nothing here reads it
        commit(staged, staged.parent.parent, self.state.global_step)
        rotate(staged.parent.parent, self.keep, self.watch.best_step)


def commit(staged: Path, checkpoints: Path, step: int) -> Path:
    """Sync every file of `staged`, write its manifest, rename it to `checkpoints/step-NNNNNN`."""
    files = {str(p.relative_to(staged)): {"size": p.stat().st_size, "sha256": _sha256(p)} for p in sorted(staged.rglob("*")) if p.is_file()}
    for name in files:
        _sync(staged / name)
    write_json(staged / "manifest.json", {"step": step, "files": files})
    final = checkpoints / f"step-{step:06d}"
    if final.exists():
        shutil.rmtree(final)
    os.replace(staged, final)
    _sync(checkpoints)
    return final


def rotate(checkpoints: Path, keep: int, best_step: int | None) -> None:
    """Delete all but the newest `keep` save points and the best one."""
    for old in sorted(checkpoints.glob("step-*"))[:-keep]:
        if old.name != f"step-{best_step or 0:06d}":
            shutil.rmtree(old)


def newest(checkpoints: Path) -> tuple[Path | None, list[str]]:
    """The newest save point that verifies, and the names of newer ones that do not, with the reason."""
    skipped: list[str] = []
    for folder in sorted(checkpoints.glob("step-*"), reverse=True):
        problem = damage(folder)
        if problem is None:
            return folder, skipped
        skipped.append(f"{folder.name}: {problem}")
    return None, skipped


def damage(folder: Path) -> str | None:
    """What is wrong with a save point, or None when every file is as its manifest says."""
    manifest = read_json(folder / "manifest.json")
    if manifest is None:
        return "it has no manifest"
    for name, said in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != said["size"] or _sha256(path) != said["sha256"]:
            return f"{name} is damaged"
    return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
