"""Files that a person dropped: kept under `uploads/<id>/` as `data` and `meta.json`. Their names are shown, never used as paths."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path

from lora_ui import errors
from lora_ui.data.recognise import ASSISTANT, USER
from lora_ui.errors import Say
from lora_ui.home import Home, read_json, write_json

PREFIX = "upload:"
KNOWN = {*USER, *ASSISTANT}
_TEXTS = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".md")


def limit() -> int:
    """Largest upload in bytes: LORA_UI_MAX_UPLOAD, else 2 GiB. Raises InvalidSettings."""
    said = os.environ.get("LORA_UI_MAX_UPLOAD", "")
    if said and not said.isdecimal():
        raise errors.InvalidSettings([Say("LORA_UI_MAX_UPLOAD: {said} is not a number of bytes", said=said)])
    return int(said or 2 * 2**30)


def store_upload(home: Home, path: Path, name: str) -> str:
    """Copy a file into the home; returns its source string `upload:<id>`. Raises UploadTooLarge, DiskFull, DataNotFound."""
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode):
        raise errors.DataNotFound(name=_shown(name))
    return _store(home, _shown(name), about.st_size, lambda target: shutil.copyfile(path, target, follow_symlinks=False))


def store_text(home: Home, text: str, name: str = "") -> str:
    """Keep text that was pasted; returns its source string `upload:<id>`. What it is — JSON, a table from a spreadsheet, or plain
    text — is told by how it begins, unless `name` ends in a known kind of file. Raises EmptyData, UnreadableEncoding, UploadTooLarge,
    DiskFull."""
    name = _shown(name or "text")
    if not text.strip():
        raise errors.EmptyData(name=name)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        raise errors.UnreadableEncoding(name=name, detail=Say("It holds half of a character.")) from None
    if not name.lower().endswith(_TEXTS):
        name += _suffix(text)
    return _store(home, name, len(data), lambda target: target.write_bytes(data))


def _suffix(text: str) -> str:
    if text.lstrip()[0] in "[{":
        return ".jsonl"
    lines = [line for line in text.strip().splitlines()[:20] if line.strip()]
    tabs = [line.count("\t") for line in lines]
    if len(lines) > 1 and min(tabs) > 0 and tabs.count(tabs[0]) > len(tabs) / 2:
        return ".tsv"
    header = [cell.strip().strip('"').lower() for cell in lines[0].split(",")]
    return ".csv" if len(lines) > 1 and len(header) > 1 and set(header) & KNOWN else ".txt"


def _store(home: Home, name: str, size: int, write: Callable[[Path], object]) -> str:
    if size > limit():
        raise errors.UploadTooLarge(name=name, size=_size(size), limit=_size(limit()))
    if size > home.free_bytes():
        raise errors.DiskFull(needed=_size(size), free=_size(home.free_bytes()), where=str(home.root))
    id = secrets.token_hex(8)
    staging = home.uploads / f".tmp-{id}"
    staging.mkdir()
    try:
        write(staging / "data")
        write_json(staging / "meta.json", {"name": name, "size": size, "created": time.time()})
        staging.rename(home.upload(id))
    except OSError as e:  # a quota, or somebody else filled the disk meanwhile
        if e.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise errors.DiskFull(needed=_size(size), free=_size(home.free_bytes()), where=str(home.root)) from e
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
    suffix = "".join(Path(name).suffixes[-2:])[-20:] if name.lower().endswith(".gz") else Path(name).suffix[:20]
    return name.removesuffix(suffix)[: 200 - len(suffix)] + suffix


def _size(size: int) -> str:
    for unit in ("bytes", "KB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000  # type: ignore[assignment]
    return f"{size:.1f} GB"
