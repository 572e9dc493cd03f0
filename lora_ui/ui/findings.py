"""What was found in the data, each with its buttons: look at its rows, leave them out, use them again, trim them, undo that.

Every finding that can be left out has a place of its own on the page, so that a click means what was read even when the token count
has just brought more findings, and a button keeps its focus when its words change.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
import numpy as np

from lora_ui import data
from lora_ui.data import checks, split
from lora_ui.home import Home
from lora_ui.ui import report_card
from lora_ui.ui.shell import esc, html, number
from lora_ui.ui.words import Words

CODES = (*checks.FLAGS, "special_token", "too_long", "leak")
"""What `data.leave_out` takes."""
GRAVE = tuple(f"grave-{at}" for at in range(8))
OTHER = tuple(f"other-{at}" for at in range(8))
TRIMS = ("last_turn", "whitespace")
"""What `data.trim` takes; also the places of these findings, before and after."""
PLACES = (*GRAVE, TRIMS[0], *CODES, *OTHER)


class Board:
    """Places for findings, worst first: `places` has for each the row, its words, the buttons to show, to trim and to leave out. `parts` are all."""

    def __init__(self, t: Words) -> None:
        self.places: dict[str, tuple[Any, Any, Any, Any, Any]] = {}
        with gr.Column(visible=False, elem_classes="lu-findings", elem_id="findings") as self.all:
            html(f'<h2>{esc(t("data.findings"))}</h2><p class="muted">{esc(t("data.findings_hint"))}</p>')
            for name in PLACES:
                with gr.Row(visible=False, elem_classes="lu-finding", elem_id=f"finding-{name}") as place:
                    words = html(elem_classes="finding-words")
                    show = gr.Button(t("data.show_rows"), size="sm", scale=0, min_width=150)
                    trim = gr.Button(t("data.untrim"), size="sm", scale=0, min_width=150, visible=name in TRIMS)
                    choice = gr.Button(t("data.use_again"), size="sm", scale=0, min_width=150, visible=name in CODES)
                self.places[name] = (place, words, show, trim, choice)
        self.parts = [self.all, *(part for place in self.places.values() for part in place)]

    def show(self, t: Words, found: dict[str, dict[str, Any]]) -> dict[Any, Any]:
        """Updates for all parts; `found` as `listed` gives it."""
        shown: dict[Any, Any] = {self.all: gr.update(visible=bool(found))}
        for name, (place, words, show, trim, choice) in self.places.items():
            if name not in found:
                shown[place] = gr.update(visible=False)
                continue
            one = found[name]
            shown[place] = gr.update(visible=True)
            shown[words] = report_card.finding(t, one)
            # the words are said each time, because Gradio drops those of a button that it updates before it was ever drawn
            shown[show] = gr.update(value=t("data.show_rows"), visible=one["shown"])
            trimmed = one["action"] == "undo"
            if name in TRIMS:
                said = t("data.untrim") if trimmed else t("data.trim", n=number(one["count"]))
                shown[trim] = gr.update(value=said, visible=not one["chosen"])
            if name in CODES:
                said = t("data.use_again") if one["chosen"] else t("data.leave_out", n=number(one["count"]))
                shown[choice] = gr.update(value=said, visible=not trimmed)
        return shown


def listed(home: Home, here: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The findings of the report and of the prepared summary by their place on the board. In `here`, `leave_out` are the chosen codes
    `prepared` the summary or None, and `findings` what this gave before. Each finding has besides `chosen`, and `shown`: whether its rows can be shown."""
    summary = here["prepared"] or {"findings": [], "left_out": {}}
    # what the summary says about rows that are left out by choice is said here by the finding itself
    own = [f for f in summary["findings"] if "code" not in f["message"]["values"]]
    found = [*data.open(home, here["digest"]).report["findings"], *own]
    before = {code: f for code, f in here.get("findings", {}).items() if code in CODES}
    placed = {f["trim"]: f for f in found if f.get("trim")}
    placed |= dict(zip(GRAVE, (f for f in found if f["severity"] != "warn" and not f.get("trim"))))
    choices = {f["code"]: f for f in found if f["action"] == "drop"}
    for code in CODES:
        if code in here["leave_out"]:
            one = choices.get(code) or before.get(code) or _unknown(code)
            count = summary["left_out"].get(code, one["count"])
            if count != 0 and (count or not here["prepared"]) and placed.get(code, one)["action"] == "drop":
                placed[code] = {**one, "count": count, "chosen": True}
        elif code in choices:
            placed[code] = choices[code]
    placed |= dict(zip(OTHER, (f for f in found if f["severity"] == "warn" and f["action"] is None)))
    numbers = set(checks.marks(home, here["digest"])["row"].tolist())
    return {place: {"chosen": False, **f, "shown": bool(numbers.intersection(f["rows"]))} for place, f in placed.items()}


def _unknown(code: str) -> dict[str, Any]:
    """A code that was chosen before its rows were counted."""
    return {"code": code, "severity": "warn", "count": None, "rows": [], "message": None, "fix": None, "action": "drop", "trim": None}


def positions(home: Home, digest: str, finding: dict[str, Any]) -> list[int]:
    """Positions of the rows that a finding means: all where the checks know them, else those that it names."""
    marks = checks.marks(home, digest)
    if finding["action"] == "drop" and finding["code"] in checks.FLAGS:
        return np.flatnonzero(marks[finding["code"]]).tolist()
    return np.flatnonzero(np.isin(marks["row"], finding["rows"])).tolist()


def ready(home: Home, here: dict[str, Any]) -> int:
    """How many rows can be used: as counted, or as the checks have it while nothing was counted."""
    if summary := here["prepared"]:
        return int(summary["train_rows"] + (0 if summary["own_held_out"] else summary["held_out_rows"]))
    return split.usable(home, here["digest"], here["leave_out"], here.get("row_limit"))
