"""What a person calls data — a path, an upload, the example, a dataset on the Hub — to files on this machine."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from lora_ui import errors, hub
from lora_ui.data import uploads
from lora_ui.data.read import SUFFIXES
from lora_ui.home import REPOSITORY, Home

EXAMPLE = REPOSITORY / "presets" / "examples" / "lora-ui-help.jsonl"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_HUB_ADDRESS = re.compile(r"(?:https?://)?(?:huggingface\.co|hf\.co)/datasets/([^/?#\s]+/[^/?#\s]+).*")
_NOT_ROWS = re.compile(r"(^|/)(\.|readme|licen[sc]e|dataset_infos?\.json|dataset_dict\.json|state\.json|requirements\.txt)", re.IGNORECASE)
_OTHER_SPLIT = re.compile(r"(^|[/_.-])(test|validation|valid|val|dev|eval)([/_.-]|$)", re.IGNORECASE)


def locate(home: Home, source: str, token: str | None = None) -> tuple[str, list[tuple[str, Path]]]:
    """(shown name, files as (name, path)). Raises DataNotFound, EmptyData, and what the Hub says."""
    source = source.strip().strip("\"'“”")
    if source == "example":
        return EXAMPLE.name, [(EXAMPLE.name, EXAMPLE)]
    if source.startswith(uploads.PREFIX):
        name, path = uploads.find(home, source)
        return name, [(name, path)]
    path = Path(source).expanduser()
    try:
        if source and path.is_dir():
            return path.resolve().name, _folder(path)
        if source and path.exists():
            return path.name, [(path.name, path)]
    except OSError:
        raise errors.DataNotFound(name=source[:200]) from None
    if id := hub_id(source):
        return id, _dataset(id, token)
    raise errors.DataNotFound(name=source or "an empty name")


def hub_id(source: str) -> str | None:
    """`owner/name` from an id or a pasted address of a dataset's page."""
    source = source.strip().strip("\"'“”")
    if address := _HUB_ADDRESS.fullmatch(source):
        source = address[1]
    source = source.removeprefix("datasets/")
    return source if _HUB_ID.fullmatch(source) else None


def _folder(path: Path) -> list[tuple[str, Path]]:
    """The data files of a folder and its sub-folders by name; hidden files and links are not followed."""
    found = []
    for folder, folders, names in os.walk(path, followlinks=False):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            file = Path(folder) / name
            shown = file.relative_to(path).as_posix()
            if name.lower().endswith(SUFFIXES) and not _NOT_ROWS.search(shown) and not file.is_symlink():
                found.append((shown, file))
    if not found:
        raise errors.EmptyData(name=path.name)
    return sorted(found)


def _dataset(id: str, token: str | None) -> list[tuple[str, Path]]:
    """The files of a Hub dataset: its train split when it names one, else all; else what the Hub itself converted to Parquet.

    A repository's own scripts are never run. Without the Hub, what was downloaded before is used.
    """
    try:
        for revision in ("main", "refs/convert/parquet"):
            about = hub.get(f"/api/datasets/{id}/revision/{quote(revision, safe='')}", token, id, kind="dataset")
            if chosen := choose([file["rfilename"] for file in about["siblings"]]):
                return [(name, _download(id, name, revision, token)) for name in chosen]
    except errors.RevisionNotFound:
        raise errors.EmptyData(name=id) from None
    except errors.HubOffline:
        if cached := _downloaded(id):
            return cached
        raise
    raise errors.EmptyData(name=id)


def _download(id: str, name: str, revision: str, token: str | None) -> Path:
    """By the revision's name and not its commit: only then does the cache know later, without the Hub, which files are its newest."""
    with hub.explained(id, "dataset"):
        return Path(hf_hub_download(id, name, repo_type="dataset", revision=revision, token=token or False, endpoint=hub.endpoint()))


def _downloaded(id: str) -> list[tuple[str, Path]]:
    try:
        folder = Path(snapshot_download(id, repo_type="dataset", local_files_only=True))
    except LocalEntryNotFoundError:
        return []
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return [(name, folder / name) for name in choose(names)]


def choose(names: list[str]) -> list[str]:
    """Of a repository's files those to learn from: one kind, one subset, the train split."""
    rows = [n for n in names if n.lower().endswith(SUFFIXES) and not _NOT_ROWS.search(n)]
    train = [n for n in rows if "train" in n.lower()] or [n for n in rows if not _OTHER_SPLIT.search(n)] or rows
    suffix = next((s for s in (".parquet", *SUFFIXES) if any(n.lower().endswith(s) for n in train)), "")
    train = sorted(n for n in train if n.lower().endswith(suffix))
    folders = list(dict.fromkeys(n.rpartition("/")[0] for n in train))
    folder = next((f for f in folders if f in ("", "data", "default", "default/train")), folders[0] if folders else "")
    return [n for n in train if n.rpartition("/")[0] == folder]
