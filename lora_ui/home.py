"""Every path on disk, in one place. Holds no state but the root."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ui import errors

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,80}")
REPOSITORY = Path(__file__).resolve().parent.parent
"""Where `presets/` lies: the checkout that this package runs from."""


def default_root() -> Path:
    """`LORA_UI_HOME`, else `/data/lora-ui` on a Space with storage, else `~/.lora-ui`."""
    if named := os.environ.get("LORA_UI_HOME"):
        return Path(named)
    if os.environ.get("SPACE_ID") and os.access("/data", os.W_OK):
        return Path("/data/lora-ui")
    return Path.home() / ".lora-ui"


@dataclass(frozen=True)
class Home:
    """The home folder. Ids that come from outside go through `_safe`: a path is never built from a client's text."""

    root: Path

    @classmethod
    def open(cls, root: Path | str | None = None) -> Home:
        """Create the folders. Raises HomeUnusable."""
        home = cls(Path(root or default_root()).expanduser().resolve())
        try:
            if not home.root.exists():
                home.root.mkdir(parents=True, mode=0o700)
            for folder in (home.root, home.uploads, home.datasets, home.runs, home.models, home.chats, home.presets):
                folder.mkdir(parents=True, exist_ok=True)
            probe = home.root / ".writable"
            probe.touch()
            probe.unlink(missing_ok=True)
        except OSError as e:
            raise errors.HomeUnusable(path=str(home.root), detail=e.strerror or str(e)) from e
        return home

    database = property(lambda self: self.root / "lora_ui.db")
    uploads = property(lambda self: self.root / "uploads")
    datasets = property(lambda self: self.root / "datasets")
    runs = property(lambda self: self.root / "runs")
    models = property(lambda self: self.root / "models")
    chats = property(lambda self: self.root / "chat")
    presets = property(lambda self: self.root / "presets")
    preferences = property(lambda self: self.root / "preferences.json")
    rescued = property(lambda self: self.root / "rescued.json")
    mappings = property(lambda self: self.root / "mappings.json")
    peaks = property(lambda self: self.root / "peaks.json")
    chat_key = property(lambda self: self.root / "chat.key")
    supervisor_lock = property(lambda self: self.root / "supervisor.lock")
    supervisor_log = property(lambda self: self.root / "supervisor.txt")
    standby_log = property(lambda self: self.root / "standby.txt")
    supervisor_socket = property(lambda self: self.root / "supervisor.sock")

    def upload(self, id: str) -> Path:
        return self.uploads / _safe(id)

    def dataset(self, digest: str) -> Path:
        return self.datasets / _safe(digest)

    def run(self, id: str) -> Path:
        return self.runs / _safe(id)

    def chat(self, id: str) -> Path:
        return self.chats / _safe(id)

    def job(self, kind: str, id: str, run_id: str | None, dataset: str | None = None) -> Path:
        """The one folder that a job's worker writes to."""
        if kind == "train":
            return self.run(id)
        if kind == "chat":
            return self.chat(id)
        if kind == "prepare":
            assert dataset is not None
            return self.dataset(dataset) / "jobs" / _safe(id)
        assert run_id is not None
        return self.run(run_id) / "jobs" / _safe(id)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free


def _safe(id: str) -> str:
    if not _ID.fullmatch(id):
        raise errors.NoSuchJob(id=id)
    return id


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all: written beside the target, fsynced, renamed over it."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    write_text(path, text)


def write_text(path: Path, text: str) -> None:
    """Whole or not at all, as `write_json`."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")  # threads of one page write at once, too
    try:
        with open(beside, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)  # of a full disk
        raise


def read_json(path: Path) -> Any:
    """The parsed file, or None when it is not there."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
