"""Room on the disk: asked for before something large is written, and recognised when it runs out all the same."""

from __future__ import annotations

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora_ui import errors
from lora_ui.errors import Say

RESERVE = 50_000_000
"""Bytes that stay free for logs, the database and the next small file."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SIGNS = re.compile(
    rf"os error ({'|'.join(map(str, _FULL))})\b|PytorchStreamWriter failed|unexpected pos \d+ vs |file write failed|No space left on device"
)
"""What safetensors and torch, which write without Python, put into their own exceptions."""


def room(folder: Path, needed: int) -> None:
    """Raises DiskFull unless `needed` bytes and the reserve are free."""
    free = shutil.disk_usage(folder).free
    if free < needed + RESERVE:
        raise _full(folder, megabytes(needed + RESERVE))


def is_full(e: BaseException) -> bool:
    """Whether `e`, or what it came from, says that the disk, a quota or a file's size limit is full."""
    if (isinstance(e, OSError) and e.errno in _FULL) or _SIGNS.search(str(e)):
        return True
    return any(is_full(before) for before in (e.__cause__, e.__context__) if before is not None)


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """A full disk inside is DiskFull outside."""
    try:
        yield
    except Exception as e:
        if isinstance(e, errors.LoraUIError) or not is_full(e):
            raise
        raise _full(folder, Say("more")) from e


@contextmanager
def tolerated() -> Iterator[None]:
    """For what is good to have but not worth a run: a full disk inside is nothing outside."""
    try:
        yield
    except OSError as e:
        if not is_full(e):
            raise


def _full(folder: Path, needed: str) -> errors.DiskFull:
    return errors.DiskFull(needed=needed, free=megabytes(shutil.disk_usage(folder).free), where=str(folder))


def megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
