"""Files that a person dropped: kept under `uploads/<id>/` as `data` and `meta.json`. Their names are shown, never used as paths."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import stat
import time
from pathlib import Path

from lora_ui import errors
from lora_ui.home import Home, read_json, write_json

PREFIX = "upload:"


def limit() -> int:
    """Largest upload in bytes: LORA_UI_MAX_UPLOAD, else 2 GiB."""
    return int(os.environ.get("LORA_UI_MAX_UPLOAD") or 2 * 2**30)


def store_upload(home: Home, path: Path, name: str) -> str:
    """Copy a file into the home; returns its source string `upload:<id>`. Raises UploadTooLarge, DiskFull, DataNotFound."""
    name = _shown(name)
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode):
        raise errors.DataNotFound(name=name)
    if about.st_size > limit():
        raise errors.UploadTooLarge(name=name, size=_size(about.st_size), limit=_size(limit()))
    if about.st_size > home.free_bytes():
        raise errors.DiskFull(needed=_size(about.st_size), free=_size(home.free_bytes()), where=str(home.root))
    id = secrets.token_hex(8)
    staging = home.uploads / f".tmp-{id}"
    staging.mkdir()
    try:
        shutil.copyfile(path, staging / "data", follow_symlinks=False)
        write_json(staging / "meta.json", {"name": name, "size": about.st_size, "created": time.time()})
        staging.rename(home.upload(id))
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return PREFIX + id


def find(home: Home, source: str) -> tuple[str, Path]:
    """(the person's name for it, where its bytes are). Raises DataNotFound."""
    try:
        folder = home.upload(source.removeprefix(PREFIX))
    except errors.NoSuchJob:
        raise errors.DataNotFound(name=source) from None
    meta = read_json(folder / "meta.json")
    if meta is None:
        raise errors.DataNotFound(name=source)
    return meta["name"], folder / "data"


def _shown(name: str) -> str:
    """The name on one line and of a bearable length, with its suffix; nothing else is changed."""
    name = re.sub(r"[\x00-\x1f\x7f\u2028\u2029]+", " ", name).strip() or "file"
    suffix = Path(name).suffix[:20]
    return name.removesuffix(suffix)[: 200 - len(suffix)] + suffix


def _size(size: int) -> str:
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:.1f} GB"
