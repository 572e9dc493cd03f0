"""What a person calls data — a path, an upload, the example, a dataset on the Hub, or several of them — to files on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from lora_ui import errors
from lora_ui.data import hub_rows, uploads
from lora_ui.data.archives import NOT_ROWS, READABLE
from lora_ui.data.hub_rows import choose
from lora_ui.home import REPOSITORY, Home

__all__ = ["EXAMPLE", "choose", "hub_id", "hub_name", "locate"]
EXAMPLE = REPOSITORY / "presets" / "examples" / "lora-ui-help.jsonl"


def locate(home: Home, source: str, token: str | None = None) -> tuple[str, list[tuple[str, Path]]]:
    """(shown name, files as (name, path)). `source` is a file, a folder, `upload:<id>`, `example`, or a dataset on the Hub as
    hub_rows.py has it; several of them stand on lines of their own. Raises DataNotFound, EmptyData, and what the Hub says."""
    wanted = [line for line in source.splitlines() if line.strip()]
    if len(wanted) < 2 or _exists(source):
        return _locate(home, source.strip() if not _exists(source) else source, token)
    names, files = [], []
    for one in wanted:
        name, found = _locate(home, one, token)
        names.append(name)
        files += found
    return " + ".join(names[:3]) + (f" + {len(names) - 3} …" if len(names) > 3 else ""), files


def absolute(source: str) -> str:
    """The same source, with its paths from the root, so that it means the same in another folder."""
    lines = [source] if _exists(source) else [line.strip() for line in source.splitlines() if line.strip()]
    return "\n".join(str(Path(line).expanduser().resolve()) if _exists(line) else line for line in lines)


def _exists(source: str) -> bool:
    try:
        return Path(source).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # a name too long, a zero byte, a ~ of nobody
        return False


def _locate(home: Home, source: str, token: str | None) -> tuple[str, list[tuple[str, Path]]]:
    source = source.strip().strip("\"'“”")
    if source == "example":
        return EXAMPLE.name, [(EXAMPLE.name, EXAMPLE)]
    if source.startswith(uploads.PREFIX):
        name, path = uploads.find(home, source)
        return name, [(name, path)]
    try:
        path = Path(source).expanduser()
        if source and path.is_dir():
            return path.resolve().name, _folder(path)
        if source and path.exists():
            return path.name, [(path.name, path)]
    except (OSError, ValueError, RuntimeError):  # a name too long, a zero byte, a ~ of nobody
        raise errors.DataNotFound(name=source[:200]) from None
    if asked := hub_rows.parse(source):
        return str(asked), hub_rows.files(asked, token)
    raise errors.DataNotFound(name=source[:200] or "an empty name")


def hub_id(source: str) -> str | None:
    """`owner/name` from an id or a pasted address of a dataset's page."""
    found = hub_rows.parse(source)
    return found.id if found else None


def hub_name(source: str) -> str | None:
    """A source that names a dataset on the Hub with its revision, config and split, from the same or from a pasted address."""
    found = hub_rows.parse(source)
    return str(found) if found else None


def _folder(path: Path) -> list[tuple[str, Path]]:
    """The data files of a folder and its sub-folders by name; hidden files and links are not followed."""
    found = []
    for folder, folders, names in os.walk(path, followlinks=False):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            file = Path(folder) / name
            shown = file.relative_to(path).as_posix()
            if name.lower().endswith(READABLE) and not NOT_ROWS.search(shown) and not file.is_symlink():
                found.append((shown, file))
    if not found:
        raise errors.EmptyData(name=path.name)
    return sorted(found)
