"""From submitting a run to its first step, with a standby and without, by turns, on a tiny model whose load is left out. Promise: at
most a quarter of the cold time. The tokens are prepared, as they are once a page has shown them. `--rounds N`."""

from __future__ import annotations

import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lora_ui import machine, metrics, runs, supervisor  # noqa: E402
from lora_ui.executors.standby import SWITCH  # noqa: E402
from lora_ui.home import Home  # noqa: E402
from lora_ui.jobs import ENDED  # noqa: E402
from tests.running import tiny_settings  # noqa: E402

ROUNDS = int(sys.argv[sys.argv.index("--rounds") + 1]) if "--rounds" in sys.argv else 5


def ended(home: Home, id: str) -> dict[str, Any]:
    while (there := runs.job(home, id))["state"] not in ENDED:
        time.sleep(0.02)
    assert there["state"] == "finished", runs.log(home, id, 40)
    return there


def seconds(home: Home, raw: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """From the submit to the end of step 1, less loading the model; and the phases."""
    began = time.time()
    run = runs.start(home, raw, None)
    phases = ended(home, run.id)["phases"]
    first = next(point["time"] for point in metrics.read(home.run(run.id) / "metrics.jsonl") if point["step"] == 1)
    return first - began - phases["load"], phases


def loaded(home: Home) -> None:
    """Wait until the standby has nothing more to load: it sleeps."""
    boss = psutil.Process(supervisor.living(home)["pid"])  # type: ignore[index]
    while True:
        there = [child for child in boss.children() if str(home.standby_log) in child.cmdline()]
        if there:
            before = sum(there[0].cpu_times()[:2])
            time.sleep(1)
            if before > 1 and sum(there[0].cpu_times()[:2]) == before:
                return
        time.sleep(0.1)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        raw = tiny_settings(Path(folder))(max_steps=1)
        homes = {way: Home.open(Path(folder) / way) for way in ("off", "on")}
        took: dict[str, list[float]] = {"off": [], "on": []}
        for way, home in homes.items():
            os.environ[SWITCH] = way
            supervisor.ensure(home)
            ended(home, runs.prepare(home, raw).id)
            seconds(home, raw)  # warm the page cache
        for _ in range(ROUNDS):
            for way, home in homes.items():
                os.environ[SWITCH] = way
                if way == "on":
                    loaded(home)
                took[way].append(seconds(home, raw)[0])
        shown = {way: seconds(home, raw)[1] for way, home in homes.items() if way == "off" or not loaded(home)}
        for home in homes.values():
            os.kill((supervisor.living(home) or {})["pid"], signal.SIGTERM)
    cold, warm = took["off"], took["on"]
    ratios = sorted(b / a for a, b in zip(cold, warm, strict=True))
    print(
        f"submit to first step, model load left out, {ROUNDS} rounds by turns on {machine.usable_cores()} cores: cold {statistics.median(cold):.2f} s, "
        f"standby {statistics.median(warm):.2f} s: ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )
    for way, phases in shown.items():
        print(f"  standby {way}: " + ", ".join(f"{name} {took:.2f}" for name, took in phases.items() if took))


if __name__ == "__main__":
    main()
