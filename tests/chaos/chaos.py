"""Kill and stop real processes at random instants and look at what is left. `make chaos` runs many; the suite runs a few.

A run that is killed has to end with the losses of a reference run that nobody touched, step for step, and the same adapter,
byte for byte. Nothing may be left behind: no process, no save point that does not verify.
"""

from __future__ import annotations

import collections
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from lora_ui import metrics, runs, supervisor
from lora_ui.executors.local import MARK
from lora_ui.home import REPOSITORY, Home, read_json
from lora_ui.jobs import ENDED, Jobs
from lora_ui.supervisor import GRACE_SECONDS, LAST_SECONDS, LEARNED_GRACE_SECONDS

SLACK_SECONDS = 15.0
"""On top of the deadline of a stop: this machine may be busy."""


class Chaos:
    """`raw`: settings of a run of some seconds. `counts` says what happened."""

    def __init__(self, home: Home, raw: dict[str, Any], seed: int, web: bool):
        self.home, self.raw, self.draw = home, raw, random.Random(seed)
        self.jobs = Jobs(home.database)
        self.counts: collections.Counter[str] = collections.Counter()
        self.slowest_stop = 0.0
        self._pause = threading.Event()
        self.web = self._start_web() if web else None
        self.reference = runs.start(home, raw, None).id
        self.wait(self.reference)
        self.expected = self.losses(self.reference)

    # looking

    def losses(self, id: str) -> list[tuple[int, float | None, float | None]]:
        """What this run measured, step by step; the time and the speed differ from run to run."""
        return [
            (row["step"], row.get("loss"), row.get("eval_loss"))
            for row in metrics.read(self.home.run(id) / "metrics.jsonl")
            if "loss" in row or "eval_loss" in row
        ]

    def adapter(self, id: str) -> str:
        return _digest(self.home.run(id) / "adapter" / "adapter_model.safetensors")

    def check(self, id: str) -> None:
        """A run that has ended after kills is the reference's twin."""
        assert self.losses(id) == self.expected, (id, self.losses(id), self.expected)
        assert self.adapter(id) == self.adapter(self.reference), id
        self.check_save_points(id)
        self.counts["runs equal to the reference"] += 1

    def check_save_points(self, id: str) -> None:
        for folder in (self.home.run(id) / "checkpoints").glob("step-*"):
            for name, said in read_json(folder / "manifest.json")["files"].items():
                assert _digest(folder / name) == said["sha256"], (folder, name)
            self.counts["save points verified"] += 1

    def workers(self) -> list[psutil.Process]:
        """Every living process of a job of this home, whoever started it."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK, "").startswith(str(self.home.root)) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found

    def wait(self, id: str, seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while self.jobs.get(id).state not in ENDED:
            assert time.monotonic() < deadline, (runs.job(self.home, id), runs.log(self.home, id, 20))
            self.rest(0.05)

    def rest(self, seconds: float) -> None:
        self._pause.wait(seconds)  # nobody sets it

    # killing

    def kill(self, kills: int) -> None:
        """One run after the other, killed at random instants until `kills` are used up; each has to end as the reference did."""
        while kills:
            id = runs.start(self.home, self.raw, None).id
            while (job := self.jobs.get(id)).state != "finished":
                if job.state in ENDED:
                    assert job.state == "interrupted" and job.error and job.error["message"], job
                    self.counts["resumed by hand after three fruitless attempts"] += 1
                    runs.resume(self.home, id)
                elif kills and job.pid:
                    kills -= self._kill_once(id)
                else:
                    self.rest(0.05)
            self.check(id)
            self.counts["went on by itself"] += sum(1 for end in self.jobs.get(id).interruptions if end["again"])
            assert not self.workers(), self.workers()

    def _kill_once(self, id: str) -> int:
        victims = {"worker": 20, "worker that learns": 25, "worker inside a save": 25, "supervisor": 20, "web": 10 if self.web else 0}
        victim = self.draw.choices(list(victims), list(victims.values()))[0]
        if victim == "worker inside a save":
            self._until_saving(id)
        elif victim == "worker that learns":
            self._until(id, lambda: runs.job(self.home, id)["phase"] == "train", 1.0)
        else:
            self.rest(self.draw.expovariate(1 / 2.5))
        job = self.jobs.get(id)
        if victim == "web":
            assert self.web
            self.web.kill()
            self.web.wait(20)
            self.web = self._start_web()
        elif victim == "supervisor":
            there = supervisor.living(self.home)
            if not there:
                return 0
            os.kill(there["pid"], signal.SIGKILL)
            psutil.wait_procs([psutil.Process(there["pid"])] if psutil.pid_exists(there["pid"]) else [], timeout=20)
            if not self.web:
                supervisor.ensure(self.home)  # as the next page or command would
        else:
            alive = [process for process in self.workers() if process.pid == job.pid]
            if not alive:
                return 0
            alive[0].kill()
        self.counts[f"killed: {victim}"] += 1
        return 1

    def _until_saving(self, id: str) -> None:
        staging = self.home.run(id) / "checkpoints" / ".staging"
        self._until(id, lambda: any(staging.glob("*")), 0.06)

    def _until(self, id: str, when: Callable[[], bool], later: float) -> None:
        """An instant within so many seconds after `when`, or the end of the run."""
        deadline = time.monotonic() + 20
        while not when() and self.jobs.get(id).state not in ENDED and time.monotonic() < deadline:
            self.rest(0.0005)
        self.rest(self.draw.uniform(0, later))

    # stopping

    def stop(self, stops: int) -> None:
        """Jobs that are asked to stop at a random instant: they end within their deadline and leave nothing."""
        for _ in range(stops):
            if self.draw.random() < 0.8:
                job = runs.start(self.home, {**self.raw, "training": {**self.raw["training"], "max_steps": 100_000}}, None)
            else:
                job = runs.merge(self.home, self.reference, None)
            self.rest(self.draw.uniform(0, 7))
            if (before := self.jobs.get(job.id)).state not in ENDED:
                runs.stop(self.home, job.id)
            asked = time.monotonic()
            self.wait(job.id, LEARNED_GRACE_SECONDS + LAST_SECONDS + SLACK_SECONDS)
            took, there = time.monotonic() - asked, self.jobs.get(job.id)
            learned = runs.job(self.home, job.id)["phases"].get("train")
            assert learned or took < GRACE_SECONDS + LAST_SECONDS + SLACK_SECONDS, (took, before.state)
            assert there.state == "stopped" or (job.kind == "merge" and there.state == "finished"), there
            assert not self.workers(), self.workers()
            if job.kind == "train":
                self.check_save_points(job.id)
            self.slowest_stop = max(self.slowest_stop, took)
            self.counts[f"stopped: {job.kind} while {before.state}"] += 1

    # the page

    def _start_web(self) -> subprocess.Popen[bytes]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with open(self.home.root / "web.txt", "ab") as log:
            command = [sys.executable, "app.py", "--port", str(port), "--home", str(self.home.root)]
            return subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)

    def end(self) -> None:
        if self.web:
            self.web.kill()
            self.web.wait(20)


def _digest(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
