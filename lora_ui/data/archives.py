"""Archives to the files in them: .gz and .zip, unpacked into a folder of ours, within limits.

The names in an archive are shown and never used as paths, so none can lead outside; links in it are not followed. What is counted
is what really comes out, not what the archive says of itself. An archive in an archive stays packed, but for a .gz in a .zip.
"""

from __future__ import annotations

import errno
import gzip
import re
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lora_ui import errors
from lora_ui.data.raw import check_swelling
from lora_ui.data.read import SUFFIXES
from lora_ui.errors import Say
from lora_ui.home import Home

ARCHIVES = (".zip", ".gz")
READABLE = (*SUFFIXES, *ARCHIVES)
NOT_ROWS = re.compile(
    r"(^|/)(\.|__macosx/|readme|licen[sc]e|dataset_infos?\.json|dataset_dict\.json|state\.json|requirements\.txt)", re.IGNORECASE
)
"""Files beside the rows, by their path from the folder or archive that they lie in."""
TOTAL_LIMIT = 16 * 2**30
MEMBERS_LIMIT = 10_000
_PIECE = 2**20
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile, NotImplementedError, RuntimeError, ValueError, OSError)


@contextmanager
def unpacked(home: Home, files: list[tuple[str, Path]]) -> Iterator[list[tuple[str, Path]]]:
    """The files, with those in archives in place of the archives, as long as the context lasts. Raises BrokenArchive,
    ArchiveTooLarge, EmptyData, DiskFull, DataNotFound."""
    if not any(name.lower().endswith(ARCHIVES) for name, _ in files):
        yield files
        return
    with tempfile.TemporaryDirectory(prefix=".tmp-unpacked-", dir=home.root) as folder:
        found: list[tuple[str, Path]] = []
        allowance = _Allowance(home, Path(folder))
        for name, path in files:
            found += list(_open(name, path, allowance)) if name.lower().endswith(ARCHIVES) else [(name, path)]
        yield found


@dataclass
class _Allowance:
    """What may still be unpacked, into `folder`."""

    home: Home
    folder: Path
    total: int = 0
    members: int = 0

    def write(self, name: str, packed: int, file: IO[bytes]) -> Path:
        """`packed`: bytes that it takes in the archive."""
        self.members += 1
        path, size = self.folder / f"{self.members:06d}", 0
        if self.members > MEMBERS_LIMIT:
            raise errors.ArchiveTooLarge(name=name, detail=Say("It holds more than {limit} files.", limit=f"{MEMBERS_LIMIT:,}"))
        with path.open("wb") as out:
            while piece := file.read(_PIECE):
                size, self.total = size + len(piece), self.total + len(piece)
                if self.total > TOTAL_LIMIT:
                    raise errors.ArchiveTooLarge(name=name, detail=Say("More than {limit} GiB came out.", limit=TOTAL_LIMIT // 2**30))
                check_swelling(name, size, packed)
                if self.home.free_bytes() < 10 * _PIECE:
                    raise errors.DiskFull(needed=Say("more"), free="0 MB", where=str(self.home.root))
                out.write(piece)
        return path


def _open(name: str, path: Path, allowance: _Allowance) -> Iterator[tuple[str, Path]]:
    if not stat.S_ISREG(path.stat().st_mode):
        raise errors.DataNotFound(name=name)
    if not path.stat().st_size:
        raise errors.EmptyData(name=name)
    try:
        if name.lower().endswith(".gz"):
            yield _gunzip(name, path, allowance)
            return
        with zipfile.ZipFile(path) as archive:
            yield from _members(name, archive, allowance)
    except _DAMAGED as e:
        if isinstance(e, OSError) and e.errno == errno.ENOSPC:
            raise  # our own disk: said where the whole is kept
        said = f"{type(e).__name__}: {e}".split("\n")[0][:200]
        raise errors.BrokenArchive(name=name, detail=Say("It is damaged, or locked with a password: {said}", said=said)) from None


def _gunzip(name: str, path: Path, allowance: _Allowance) -> tuple[str, Path]:
    with gzip.open(path) as file:
        return name[:-3], allowance.write(name, path.stat().st_size, file)  # type: ignore[arg-type]


def _members(name: str, archive: zipfile.ZipFile, allowance: _Allowance) -> Iterator[tuple[str, Path]]:
    members = [m for m in archive.infolist() if _is_rows(m)]
    if not members:
        raise errors.EmptyData(name=name)
    for member in sorted(members, key=lambda m: m.filename):
        with archive.open(member) as file:
            path = allowance.write(name, member.compress_size, file)
        if member.filename.lower().endswith(".gz"):
            yield _gunzip(member.filename, path, allowance)
        else:
            yield member.filename, path


def _is_rows(member: zipfile.ZipInfo) -> bool:
    link = stat.S_ISLNK(member.external_attr >> 16)
    return (
        not member.is_dir() and not link and member.filename.lower().endswith((*SUFFIXES, ".gz")) and not NOT_ROWS.search(member.filename)
    )
