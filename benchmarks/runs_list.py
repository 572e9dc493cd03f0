"""The list of the Runs page with 1,000 finished runs against 10: what a tick reads, what a page that opens reads and draws. Wanted: under 2."""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from lora_ui.home import Home
from lora_ui.ui import runs
from lora_ui.ui.words import Words
from tests.ui import made

FEW, MANY, ROUNDS = 10, 1000, 15


def looked(home: Home, every: bool, draw: bool) -> float:
    """Seconds of one look: a tick only reads; the list is drawn when it opens or changes."""
    began = time.monotonic()
    there, points = runs.read(home, every)
    if draw:
        runs._cards(Words("en"), there, points)
        runs._foot(Words("en"), home, len(there))
    return time.monotonic() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        few, many = (Home.open(Path(name) / str(count)) for count in (FEW, MANY))
        for home, count in ((few, FEW), (many, MANY)):
            for n in range(count):
                made.ended(home, "finished", f"run-{n}")
        for said, every, rounds, cold, draw in (
            ("the app's first look", False, ROUNDS, True, True),
            ("the page opens again", False, ROUNDS, False, True),
            ("a tick", False, ROUNDS, False, False),
            ("all of them asked for, a tick", True, 3, False, False),
        ):
            pairs = [(looked(few, every, draw), looked(many, every, draw))]
            for _ in range(rounds):  # by turns: other work slows both
                if cold:
                    runs._ENDED.clear()
                pairs.append((looked(few, every, draw), looked(many, every, draw)))
            del pairs[0]
            short, long = (statistics.median(times) for times in zip(*pairs))
            print(f"{said}: {FEW} runs {short * 1000:.1f} ms, {MANY} runs {long * 1000:.1f} ms, {long / short:.2f} times as long")


if __name__ == "__main__":
    main()
