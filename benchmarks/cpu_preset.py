"""The cpu preset on the shipped 200 rows with the starter: what it said before, what it took. Promise: about ten minutes on 2 cores."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cli = [sys.executable, "-m", "lora_ui"]
        began = time.monotonic()
        train = [
            "train",
            "--preset",
            "cpu",
            "--data",
            "presets/examples/lora-ui-help.jsonl",
            "--base-model",
            "starter",
            "--home",
            folder,
            "--json",
        ]
        done = subprocess.run([*cli, *train], cwd=ROOT, check=True, capture_output=True, text=True)
        seconds = time.monotonic() - began
        run = json.loads(
            subprocess.run(
                [*cli, "show", json.loads(done.stdout)["id"], "--home", folder, "--json"],
                cwd=ROOT,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )
        (Path(folder) / "supervisor.lock").unlink()
        ratio = run["seconds"] / run["estimate_seconds"]
        print(
            f"cpu preset: {seconds:.0f} s from the command to its end (making the starter included), the run {run['seconds']:.0f} s, said before "
            f"{run['estimate_seconds']:.0f} s (ratio {ratio:.2f}); {run['tokens_per_second']:.0f} useful tokens/s; "
            f"held-out loss {run['eval_loss']['base']:.2f} -> {run['eval_loss']['best']:.2f}; peak {run['memory']['measured_bytes'] / 2**30:.1f} GiB"
        )


if __name__ == "__main__":
    main()
