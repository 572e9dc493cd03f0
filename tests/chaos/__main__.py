"""`python -m tests.chaos [--kills 300] [--stops 100] [--seed N]`: prints the counts; exits with an error when a promise broke."""

import argparse
import random
import tempfile
import time
from pathlib import Path

from lora_ui.home import Home
from tests.chaos.chaos import Chaos
from tests.running import end_processes, tiny_settings


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill and stop real processes at random instants.")
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--stops", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    asked = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lora-ui-chaos-") as folder:
        home = Home.open(Path(folder) / "home")
        raw = tiny_settings(Path(folder))
        chaos = Chaos(home, raw(max_steps=150, save_steps=5, packing=False), asked.seed, web=True)
        try:
            chaos.kill(asked.kills)
            chaos.stop(asked.stops)
        finally:
            chaos.end()
            end_processes(home)
            print(f"seed {asked.seed}, {time.monotonic() - began:.0f} s, slowest stop {chaos.slowest_stop:.1f} s")
            for what, count in sorted(chaos.counts.items()):
                print(f"{count:6} {what}")


if __name__ == "__main__":
    main()
