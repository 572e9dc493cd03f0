"""Folders that are whole or not there: written to the disk first, then moved into place in one step."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def publish(made: Path, target: Path) -> None:
    """Move a finished folder to its place. At every instant, a power cut included, `target` is as before or as `made`."""
    for path in sorted(made.rglob("*"), reverse=True):
        sync(path)
    sync(made)
    if target.exists():
        _exchange(made, target)
        shutil.rmtree(made)
    else:
        os.replace(made, target)
    sync(target.parent)


def sync(path: Path) -> None:
    """A file's content, or the list of names in a folder, is on the disk when this returns."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _exchange(made: Path, target: Path) -> None:
    """Swap two folders in one step; where the system cannot, `target` is missing for an instant and the one before lies beside it."""
    if sys.platform == "linux":
        names = os.fsencode(made), os.fsencode(target)
        if ctypes.CDLL(None).renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
            return
    before = target.with_name(f".before-{target.name}")
    shutil.rmtree(before, ignore_errors=True)
    os.replace(target, before)
    os.replace(made, target)
    os.replace(before, made)
