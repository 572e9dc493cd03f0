"""A dataset on the Hugging Face Hub to files on this machine: `owner/name[@revision][:config][/split]`, or a pasted address.

`owner/name` · `owner/name@v1.0` · `owner/name:french` · `owner/name:french/test` · `owner/name:/test` · `owner/name@v1.0:french/test`.
Which files belong to a config and a split, the card says (`configs:`), else their names and folders; else what the Hub itself
converted to Parquet. A repository's own scripts are never run. Without the Hub, what was downloaded before is used.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import yaml
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from lora_ui import errors, hub
from lora_ui.data.archives import NOT_ROWS, READABLE
from lora_ui.errors import Say

_ID = r"[A-Za-z0-9][\w.-]*/[\w.-]+"
_SOURCE = re.compile(rf"(?P<id>{_ID})(?:@(?P<revision>[^\s:@]+))?(?::(?P<config>[^\s:/]*)(?:/(?P<split>[^\s:/]+))?)?")
_ADDRESS = re.compile(
    r"(?:(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf://)?datasets/(?P<id>[^/?#\s@:]+/[^/?#\s@:]+)(?P<rest>[^\s]*)"
)
_OTHER_SPLIT = re.compile(r"(^|[/_.-])(test|validation|valid|val|dev|eval)([/_.-]|$)", re.IGNORECASE)
_SPLITS = {"validation": "validation|valid|val|dev|eval", "valid": "validation|valid|val|dev", "val": "validation|valid|val|dev"}
_CONVERTED = "refs/convert/parquet"


@dataclass(frozen=True)
class HubSource:
    """`path` is a file or folder of the repository, from an address that names one; then config and split do not count."""

    id: str
    revision: str = ""
    config: str = ""
    split: str = ""
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"hf.co/datasets/{self.id}/tree/{quote(self.revision or 'main', safe='')}/{quote(self.path)}"
        part = f":{self.config}" + (f"/{self.split}" if self.split else "") if self.config or self.split else ""
        return self.id + (f"@{self.revision}" if self.revision else "") + part


def parse(text: str) -> HubSource | None:
    """What was typed or pasted, or None when it names no dataset."""
    text = text.strip().strip("\"'“”`<> ")
    found = _ADDRESS.fullmatch(text)
    if found:
        rest = unquote(found["rest"].split("?")[0].split("#")[0]).strip("/")
        if not rest or rest[0] not in "@:":
            return _address(found["id"], rest.split("/") if rest else [])
        text = found["id"] + rest
    source = _SOURCE.fullmatch(text)
    return HubSource(**{key: value or "" for key, value in source.groupdict().items()}) if source else None


def _address(id: str, rest: list[str]) -> HubSource | None:
    if not re.fullmatch(_ID, id):
        return None
    kind, *parts = rest or [""]
    if kind == "viewer" and parts:
        return HubSource(id, config="" if parts[0] == "default" else parts[0], split=parts[1] if len(parts) > 1 else "")
    if kind in ("tree", "blob", "resolve", "raw") and parts:
        size = 3 if parts[0] == "refs" and len(parts) > 2 else 1
        revision = "/".join(parts[:size])
        return HubSource(id, revision="" if revision == "main" else revision, path="/".join(parts[size:]))
    return HubSource(id)


def files(source: HubSource, token: str | None) -> list[tuple[str, Path]]:
    """(name, file) of the rows. Raises EmptyData, DatasetPartNotFound, RevisionNotFound, and what the Hub says."""
    known: list[str] = []
    try:
        for revision in [source.revision or "main"] + ([] if source.revision or source.path else [_CONVERTED]):
            about = hub.get(
                f"/api/datasets/{source.id}/revision/{quote(revision, safe='')}", token, source.id, kind="dataset", revision=revision
            )
            names = [file["rfilename"] for file in about["siblings"]]
            card = _download(source.id, "README.md", revision, token) if "README.md" in names else None
            if chosen := select(names, source, card.read_text("utf-8", "replace") if card else ""):
                return [(name, _download(source.id, name, revision, token)) for name in chosen]
            known = known or _parts(names)
    except errors.RevisionNotFound:
        if source.revision:
            raise
    except errors.HubOffline:
        if cached := _downloaded(source):
            return cached
        raise
    if wanted := source.path or "/".join(part for part in (source.config, source.split) if part):
        raise errors.DatasetPartNotFound(name=source.id, wanted=wanted, known=", ".join(known[:20]) or "-")
    raise errors.EmptyData(name=source.id)


def _download(id: str, name: str, revision: str, token: str | None) -> Path:
    """By the revision's name and not its commit: only then does the cache know later, without the Hub, which files are its newest."""
    with hub.explained(id, "dataset"):
        return Path(hf_hub_download(id, name, repo_type="dataset", revision=revision, token=token or False, endpoint=hub.endpoint()))


def _downloaded(source: HubSource) -> list[tuple[str, Path]]:
    try:
        folder = Path(snapshot_download(source.id, repo_type="dataset", revision=source.revision or "main", local_files_only=True))
    except LocalEntryNotFoundError:
        return []
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    card = folder / "README.md"
    return [(name, folder / name) for name in select(names, source, card.read_text("utf-8", "replace") if card.exists() else "")]


def select(names: list[str], source: HubSource, card: str = "") -> list[str]:
    """Of a repository's files those that `source` asks for; without a config and a split, the default config's train split."""
    rows = [n for n in names if n.lower().endswith(READABLE) and not NOT_ROWS.search(n)]
    if source.path:
        return sorted(n for n in rows if n == source.path or n.startswith(source.path.rstrip("/") + "/"))
    if chosen := _by_card(rows, source, card):
        return chosen
    if source.config:
        rows = [n for n in rows if source.config in n.split("/")[:-1]] or [n for n in rows if _stem(n) == source.config]
    if source.split:
        pattern = re.compile(rf"(^|[/_.-])({_SPLITS.get(source.split, re.escape(source.split))})([/_.-]|$)", re.IGNORECASE)
        rows = [n for n in rows if pattern.search(n)]
        return _one_kind(rows)
    return choose(rows)


def _stem(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]


def choose(names: list[str]) -> list[str]:
    """Of a repository's files those to learn from: one kind, one subset, the train split."""
    rows = [n for n in names if n.lower().endswith(READABLE) and not NOT_ROWS.search(n)]
    return _one_kind([n for n in rows if "train" in n.lower()] or [n for n in rows if not _OTHER_SPLIT.search(n)] or rows)


def _one_kind(names: list[str]) -> list[str]:
    suffix = next((s for s in (".parquet", *READABLE) if any(n.lower().endswith(s) for n in names)), "")
    names = sorted(n for n in names if n.lower().endswith(suffix))
    folders = list(dict.fromkeys(n.rpartition("/")[0] for n in names))
    folder = next((f for f in folders if f in ("", "data", "default", "default/train")), folders[0] if folders else "")
    return [n for n in names if n.rpartition("/")[0] == folder]


def _by_card(rows: list[str], source: HubSource, card: str) -> list[str]:
    """Files by the `configs` of the dataset card; [] when it has none or they do not say."""
    configs = {name: patterns for name, default, patterns in _configs(card)}
    default = next((name for name, default, _ in _configs(card) if default), "default")
    chosen = configs.get(source.config) if source.config else configs.get(default) or next(iter(configs.values()), None)
    if not chosen:
        return []
    split = source.split or ("train" if "train" in chosen else next(iter(chosen)))
    matching = [re.compile(_glob(pattern)) for pattern in chosen.get(split, [])]
    return sorted(n for n in rows if any(pattern.fullmatch(n) for pattern in matching))


def _configs(card: str) -> list[tuple[str, bool, dict[str, list[str]]]]:
    """(config, whether it is the default, split -> file patterns) of a card's front matter, in all the ways it may be written."""
    head = re.match(r"\s*---\s*\n(.*?)\n---", card[:200_000], re.DOTALL)
    try:
        about = yaml.safe_load(head[1]) if head else None
    except (yaml.YAMLError, ValueError, RecursionError):
        return []
    listed = about.get("configs") if isinstance(about, dict) else None
    return [
        (str(c.get("config_name", "default")), bool(c.get("default")), splits)
        for c in (listed if isinstance(listed, list) else [])
        if isinstance(c, dict) and (splits := _patterns(c.get("data_files")))
    ]


def _patterns(given: Any) -> dict[str, list[str]]:
    if isinstance(given, str):
        return {"train": [given]}
    if isinstance(given, dict):
        given = [{"split": split, "path": path} for split, path in given.items()]
    found: dict[str, list[str]] = {}
    for one in given if isinstance(given, list) else []:
        split, path = (str(one.get("split", "train")), one.get("path")) if isinstance(one, dict) else ("train", one)
        found.setdefault(split, []).extend(str(p).removeprefix("./") for p in (path if isinstance(path, list) else [path]) if p)
    return found


def _glob(pattern: str) -> str:
    pieces = re.split(r"(\*\*/?|\*|\?)", pattern)
    return "".join({"**": ".*", "**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}.get(piece, re.escape(piece)) for piece in pieces)


def _parts(names: list[str]) -> list[str]:
    return sorted(n for n in names if n.lower().endswith(READABLE) and not NOT_ROWS.search(n)) or [str(Say("no files of rows"))]
