"""Columns that were chosen by hand, kept in the home and used again for a file with the same columns."""

from __future__ import annotations

import hashlib
import json

from lora_ui.home import Home, read_json, write_json

_LIMIT = 1000


def _key(columns: list[str]) -> str:
    return hashlib.sha256(json.dumps(sorted(columns)).encode()).hexdigest()[:16]


def saved(home: Home, columns: list[str]) -> dict[str, str] | None:
    """Role -> column or template, as chosen for a file with these columns, in whatever order; None when none was."""
    found = (read_json(home.mappings) or {}).get(_key(columns))
    return dict(found) if found else None


def save(home: Home, columns: list[str], mapping: dict[str, str]) -> None:
    """The oldest are forgotten beyond the limit."""
    known = {key: value for key, value in (read_json(home.mappings) or {}).items() if key != _key(columns)}
    known[_key(columns)] = mapping
    write_json(home.mappings, dict(list(known.items())[-_LIMIT:]))


def forget(home: Home, columns: list[str]) -> None:
    known = read_json(home.mappings) or {}
    if known.pop(_key(columns), None):
        write_json(home.mappings, known)
