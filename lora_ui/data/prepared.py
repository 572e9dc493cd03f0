"""Where the tokens of a dataset for one base model lie, and how to read them: for page, runs and worker alike. No torch."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from lora_ui import machine
from lora_ui.data.store import read_slice
from lora_ui.home import Home, read_json

ASKED = ("digest", "base_model", "revision", "max_length", "held_out_rows", "split_seed", "system_prompt")
CHOSEN: dict[str, Any] = {"learn": "all", "template_for_base": "chatml", "leave_out": [], "row_limit": None, "held_out_digest": None}
"""What `params` may hold besides, and what it means when it does not."""
FIRST = 200
"""Rows in `first.parquet`, which is there long before the rest of a large file."""
STAGING = ".tmp-"
"""Before the key and the process that fills it."""
_FORM = 2
"""Raised when rendering changes, so that older tokens are made anew."""


def key(params: dict[str, Any]) -> str:
    """16 hex characters of what a `prepare` job is asked; other keys of `params` do not count."""
    chosen = {**CHOSEN, **params}
    asked = json.dumps([_FORM, *(chosen[name] for name in (*ASKED, *CHOSEN))], ensure_ascii=False)
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def folder(home: Home, params: dict[str, Any]) -> Path:
    """Holds train.parquet, held_out.parquet and summary.json once the job has finished, and first.parquet soon after it began."""
    return home.dataset(params["digest"]) / "prepared" / key(params)


def remove_left_over(home: Home) -> None:
    """Half-made folders of prepares that were killed: the process that each one names is gone."""
    for left in home.datasets.glob(f"*/prepared/{STAGING}*"):
        pid = left.name.rpartition("-")[2]
        if pid.isdecimal() and machine.process_start(int(pid)) is None:
            shutil.rmtree(left, ignore_errors=True)


def summary(home: Home, params: dict[str, Any]) -> dict[str, Any] | None:
    """What `worker/prepare.py` counted, or None while it has not finished."""
    found = read_json(folder(home, params) / "summary.json")
    assert found is None or isinstance(found, dict)
    return found


def has_first(home: Home, params: dict[str, Any]) -> bool:
    """Whether `read_first` has rows already."""
    return (folder(home, params) / "first.parquet").exists()


def read_first(home: Home, params: dict[str, Any]) -> list[dict[str, Any]]:
    """The first rows as `read_rows` gives them, with their `split`, while the job still works on the rest; empty before."""
    return read_slice(folder(home, params) / "first.parquet", 0, None) if has_first(home, params) else []


def read_rows(folder: Path, split: str, start: int = 0, count: int | None = None) -> list[dict[str, Any]]:
    """Rows of `split` (train or held_out): row, input_ids, labels (-100: only read), text, starts, ends, cut_tokens.

    `starts[i]:ends[i]` are the characters of token i in `text`; what follows the last token was cut off.
    """
    path = folder / f"{split}.parquet"
    return read_slice(path, start, count) if path.exists() else []
