"""What was found in the data, each with its buttons: look at its rows, leave them out, use them again.

The board has a fixed number of places, so that a button keeps its place and its focus when what it says changes.
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

PLACES = 20
ORDER = ("error", "drop", "warn")


class Board:
    """Places for findings: (row, words, show button, leave-out button) each; `parts` are all its components."""

    def __init__(self, t: Words) -> None:
        self.places = []
        with gr.Column(visible=False, elem_classes="lu-findings", elem_id="findings") as self.all:
            html(f'<h2>{esc(t("data.findings"))}</h2><p class="muted">{esc(t("data.findings_hint"))}</p>')
            for at in range(PLACES):
                with gr.Row(visible=False, elem_classes="lu-finding", elem_id=f"finding-{at}") as place:
                    words = html(elem_classes="finding-words")
                    show = gr.Button(t("data.show_rows"), size="sm", scale=0, min_width=150)
                    leave = gr.Button(t("data.use_again"), size="sm", scale=0, min_width=150)
                self.places.append((place, words, show, leave))
        self.parts = [self.all, *(part for place in self.places for part in place)]

    def show(self, t: Words, found: list[dict[str, Any]]) -> dict[Any, Any]:
        """Updates for all parts; the least grave findings beyond the last place are left out."""
        shown: dict[Any, Any] = {self.all: gr.update(visible=bool(found))}
        for at, (place, words, show, leave) in enumerate(self.places):
            if at >= len(found):
                shown[place] = gr.update(visible=False)
                continue
            one = found[at]
            label = t("data.use_again") if one["chosen"] else t("data.leave_out", n=number(one["count"]))
            shown[place] = gr.update(visible=True)
            shown[words] = report_card.finding(t, one)
            # the words are said each time, because Gradio drops those of a button that it updates before it was ever drawn
            shown[show] = gr.update(value=t("data.show_rows"), visible=one["shown"])
            shown[leave] = gr.update(value=label, visible=one["action"] == "drop")
        return shown


def listed(home: Home, here: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(findings of the report and of the prepared summary, worst first; the last ones by code that could be left out). In `here`,
    `leave_out` are the chosen codes and `known` what this gave before. Each finding has besides `chosen`, and `shown`: whether its
    rows can be shown."""
    summary = here.get("prepared") or {"findings": [], "left_out": {}}
    # what the summary says about rows that are left out by choice is said here by the finding itself
    own = [f for f in summary["findings"] if "code" not in f["message"]["values"]]
    found = [{**f, "chosen": False} for f in [*data.open(home, here["digest"]).report["findings"], *own]]
    known = {**here.get("known", {}), **{f["code"]: f for f in found if f["action"] == "drop"}}
    chosen = {code: known.get(code) or _unknown(code) for code in here["leave_out"]}
    counts = {code: summary["left_out"].get(code, f["count"]) for code, f in chosen.items()}
    found = [f for f in found if not (f["action"] == "drop" and f["code"] in chosen)]
    found += [{**f, "count": counts[code], "chosen": True} for code, f in chosen.items() if counts[code] is None or counts[code]]
    numbers = set(checks.marks(home, here["digest"])["row"].tolist())
    found = [{**f, "shown": bool(numbers.intersection(f["rows"]))} for f in found]
    order = [*known]  # a finding stays where it is when it is chosen
    found.sort(key=lambda f: (ORDER.index(f["severity"]), order.index(f["code"]) if f["action"] == "drop" and f["code"] in order else 99))
    return found, known


def _unknown(code: str) -> dict[str, Any]:
    """A code that was chosen before its rows were counted."""
    return {"code": code, "severity": "warn", "count": None, "rows": [], "message": None, "fix": None, "action": "drop"}


def positions(home: Home, digest: str, finding: dict[str, Any]) -> list[int]:
    """Positions of the rows that a finding means: all where the checks know them, else those that it names."""
    marks = checks.marks(home, digest)
    if finding["action"] == "drop" and finding["code"] in checks.FLAGS:
        return np.flatnonzero(marks[finding["code"]]).tolist()
    return np.flatnonzero(np.isin(marks["row"], finding["rows"])).tolist()


def ready(home: Home, here: dict[str, Any]) -> int:
    """How many rows can be used: as counted, or as the checks have it while nothing was counted."""
    if summary := here.get("prepared"):
        return int(summary["train_rows"] + (0 if summary["own_held_out"] else summary["held_out_rows"]))
    return split.usable(home, here["digest"], here["leave_out"], here.get("row_limit"))
