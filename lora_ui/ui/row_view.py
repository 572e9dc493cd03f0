"""Where a row stands in the data and how the page shows it: by position, by length, by what became of it when it was prepared."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pyarrow.parquet

from lora_ui import data
from lora_ui.data import prepared
from lora_ui.home import Home, read_json
from lora_ui.ui import rows as row_html
from lora_ui.ui.shell import esc, number
from lora_ui.ui.words import Words

_DRAW = {"reading": row_html.reading, "tokens": row_html.tokens}


@functools.lru_cache(8)
def ends(home: Home, digest: str) -> tuple[int, int]:
    """Positions of the rows with the fewest and the most characters."""
    rows = data.every_row(home, digest)
    lengths = [len(row["text"]) if "text" in row else sum(len(m.get("content") or "") for m in row["messages"]) for row in rows]
    return lengths.index(min(lengths)), lengths.index(max(lengths))


@functools.lru_cache(8)
def places(folder: str) -> dict[int, tuple[str, int]]:
    """Row number → (split, index in it) of a prepared folder. Held-out rows from a file of their own have numbers of their own."""
    found = {}
    own = (read_json(Path(folder) / "summary.json") or {}).get("own_held_out")
    for split in ("train",) if own else ("train", "held_out"):
        path = Path(folder) / f"{split}.parquet"
        if path.is_file():
            numbers = pyarrow.parquet.read_table(path, columns=["row"])["row"].to_pylist()
            found.update({row: (split, index) for index, row in enumerate(numbers)})
    return found


def stage(home: Home, here: dict[str, Any]) -> str | None:
    """Which tokens there are: of the `whole` data, of its `first` rows, or none yet."""
    if here["prepared"]:
        return "whole"
    return "first" if here["first"] and prepared.has_first(home, here["first"]) else None


def _early(home: Home, here: dict[str, Any], number: int) -> dict[str, Any] | None:
    """The tokens of a row while the rest is still counted, if it is one of the first."""
    first = prepared.read_first(home, here["first"]) if here["first"] else []
    return next((row for row in first if row["row"] == number), None)


def row(home: Home, t: Words, here: dict[str, Any], at: dict[str, Any]) -> str:
    """The row at that place and in its view, with where it stands above and the legend below; see looking.py for `here` and `at`."""
    view = at["view"]
    found = data.rows(home, here["digest"], at["at"], 1)[0]
    where = t("data.where", row=number(found["row"]), at=number(at["at"] + 1), n=number(here["kept"]))
    marks = f'<strong class="num">{esc(where)}</strong>'
    if of := at["of"]:
        marks += f' <span class="num">{esc(t("data.of_finding", at=number(of[1] + 1), n=number(of[2])))}</span>'
    summary = here["prepared"]
    place = places(summary["folder"]).get(found["row"]) if summary else None
    if summary and place is None:
        marks += f' <span class="pill failed"><span aria-hidden="true">✕</span> {esc(t("data.severity.drop"))}</span>'
    if place and place[0] == "held_out":
        marks += f' <span class="pill queued">{esc(t("data.kept_aside"))}</span>'
    learned = prepared.read_rows(Path(summary["folder"]), place[0], place[1], 1)[0] if summary and place else None
    if view == "chat":
        body = row_html.chat(t, found, here["learn"], here["system_prompt"], learned)
    elif summary is None:
        early = _early(home, here, found["row"])
        body = _DRAW[view](t, early, set()) if early else f'<p class="muted">{esc(t("data.view_wait"))}</p>'
    elif learned is None:
        body = f'<p class="muted">{esc(t("data.view_left_out"))}</p>'
    else:
        body = _DRAW[view](t, learned, set(summary["special_ids"]))
    return f'<p class="row-head">{marks} <span class="muted">{esc(t("data.truth"))}</span></p>{body}{row_html.legend(t)}'
