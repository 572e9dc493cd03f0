"""A job as its worker sees it: the folder, what was asked, and how to say where it stands.

The worker owns the files of its job folder and never touches the database.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any, TypeVar

from lora_ui import machine
from lora_ui.home import Home, read_json, write_json
from lora_ui.worker import disk

T = TypeVar("T")


class Stopped(Exception):
    """The person asked this job to stop."""


class Again(Exception):
    """This worker has to start anew with the decisions that it has just changed."""


class Job:
    """`folder/job.json` read once; `phase` and `progress` write `folder/heartbeat`."""

    def __init__(self, folder: Path, token: str | None = None, again: bool = False):
        """`again`: this is the second attempt of the same start."""
        spec = read_json(folder / "job.json")
        self.again = again
        self.folder = folder
        self.id: str = spec["id"]
        self.kind: str = spec["kind"]
        self.run_id: str | None = spec["run_id"]
        self.home = Home(Path(spec["home"]))
        self.params: dict[str, Any] = spec["params"]
        self.token = token
        self.stopping = threading.Event()
        self.phases: dict[str, float] = {}
        self._lock = threading.Lock()
        self._phase, self._since = "import", time.monotonic()
        self._progress: dict[str, Any] = {}
        self._identity = {"pid": os.getpid(), "pid_start": machine.process_start(os.getpid()), "boot_id": machine.boot_id()}
        self._written = 0.0
        self.moved = time.time()
        """When the work itself last got further; the heartbeat thread also beats for work that hangs."""

    def check(self) -> None:
        """Raises Stopped once a stop was asked for. Call it wherever stopping is safe."""
        self.moved = time.time()
        if self.stopping.is_set():
            raise Stopped

    def apart(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises, in a thread of its own: a Hub that does not answer keeps nobody from stopping. Raises Stopped as
        soon as that is asked for; what then still waits ends with this process."""
        told: Future[T] = Future()

        def do() -> None:
            try:
                told.set_result(work())
            except BaseException as e:  # raised where it is waited for
                told.set_exception(e)

        threading.Thread(target=do, daemon=True).start()
        while not told.done():
            self.check()
            wait([told], timeout=0.1)
        return told.result()

    def phase(self, name: str) -> None:
        """End the phase before and start `name`; both are timed (seconds, summed over repeats)."""
        with self._lock:
            now = time.monotonic()
            self.phases[self._phase] = self.phases.get(self._phase, 0.0) + now - self._since
            self._phase, self._since, self._progress, self.moved = name, now, {}, time.time()
        self.beat()

    def progress(self, done: float, total: float, unit: str = "", since: float = 0) -> None:
        """Say how far this phase is; `since`: what was done when it began. Written at most four times a second, and at the end."""
        self._progress, self.moved = {"done": done, "total": total, "unit": unit, "since": since}, time.time()
        if done >= total or time.monotonic() - self._written > 0.25:
            self.beat()

    def beat(self) -> None:
        with self._lock:
            self._written = time.monotonic()
            phases = {**self.phases, self._phase: self.phases.get(self._phase, 0.0) + self._written - self._since}
            beat = {**self._identity, "time": time.time(), "moved": self.moved, "phase": self._phase, "phases": phases, **self._progress}
            with disk.tolerated():
                write_json(self.folder / "heartbeat", beat)

    def keep_beating(self, every: float = 5.0) -> None:
        """A thread that says "alive" through long steps."""

        def run() -> None:
            while not self._ended.wait(every):
                self.beat()

        self._ended = threading.Event()
        threading.Thread(target=run, daemon=True, name="heartbeat").start()

    def stop_on_sigterm(self) -> None:
        """SIGTERM asks, and the job ends at its next safe point; a second one ends it where it is. SIGUSR1 writes all stacks to
        `stack.txt`."""
        signal.signal(signal.SIGTERM, self._asked)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._stacks = open(self.folder / "stack.txt", "a")
        faulthandler.register(signal.SIGUSR1, self._stacks, all_threads=True)

    def _asked(self, *_: Any) -> None:
        if self.stopping.is_set():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is saved now is not broken off
            raise Stopped
        self.stopping.set()


def token_from_stdin() -> str | None:
    """The Hub token, if the supervisor handed one over: one JSON line, then the pipe is closed."""
    line = sys.stdin.readline()
    return json.loads(line).get("token") if line.strip() else None
