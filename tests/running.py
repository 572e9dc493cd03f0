"""Real workers: every run here goes through the supervisor, a process of its own, and the files it leaves."""

import os
import signal
import threading
import time

import psutil
import pytest

from lora_ui import runs, supervisor
from lora_ui.home import Home
from lora_ui.jobs import ENDED
from tests.tiny import tiny_model

ROWS = [(f"What is the name of river {n}?", f"The river is number {n} of the mill.") for n in range(24)]


@pytest.fixture
def home(tmp_path):
    home = Home.open(tmp_path / "home")
    yield home
    end_processes(home)


def end_processes(home: Home) -> None:
    """Ask the supervisor to go, then end whatever worker of this home is left."""
    there = supervisor.living(home)
    if there:
        os.kill(there["pid"], signal.SIGTERM)
        psutil.wait_procs([psutil.Process(there["pid"])], timeout=20)
    for process in psutil.process_iter(["cmdline"]):
        if any(str(home.root) in part for part in process.info["cmdline"] or []):
            process.kill()
            process.wait(20)


@pytest.fixture
def tiny(tmp_path):
    """`raw(**training)`: settings that train the tiny model on 24 rows in a few steps."""
    return tiny_settings(tmp_path)


def tiny_settings(tmp_path):
    base = tiny_model(tmp_path / "tiny")
    data = tmp_path / "rivers.csv"
    data.write_text("question,answer\n" + "\n".join(f'"{q}","{a}"' for q, a in ROWS))

    def raw(model=None, adapter=None, evaluation=None, **training):
        return {
            "model": {"base_model": str(base), **(model or {})},
            "data": {"source": str(data), "held_out_rows": 4},
            "adapter": {"r": 4, **(adapter or {})},
            "training": {
                "max_steps": 6,
                "learning_rate": 5e-3,
                "max_length": 64,
                "global_batch_size": 4,
                "logging_steps": 1,
                "save_steps": 2,
                **training,
            },
            "evaluation": {"eval_steps": 2, **(evaluation or {})},
        }

    return raw


@pytest.fixture
def until(home):
    """Wait until a job satisfies a condition (default: has ended); returns how it stands."""

    def wait(id, when=lambda there: there["state"] in ENDED, seconds=240):
        deadline = time.monotonic() + seconds
        pause = threading.Event()
        while time.monotonic() < deadline:
            there = runs.job(home, id)
            if when(there):
                return there
            assert there["state"] not in ENDED, there
            pause.wait(0.05)  # nobody sets it: a short wait between two looks at the disk
        raise AssertionError(f"still {there['state']}, {there['phase']}: {runs.log(home, id, 30)}")

    return wait
