"""The supervisor: one process per home folder. It alone moves job states: claims, leases, starts, stops, reaps.

`tick(now)` is the whole loop body. It outlives the page and the terminal that started it, adopts workers that are still
alive when it starts, and leaves after ten idle minutes, or when its lock file is gone or replaced (so a newer version takes
over by removing the file). Hub tokens live in this process' memory only, from the asker's hand to the worker's stdin.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from lora_ui import __version__, endings, errors, machine, rescue, space
from lora_ui.executors import Executor
from lora_ui.executors.local import Local, without_tokens
from lora_ui.home import REPOSITORY, Home, read_json, write_json
from lora_ui.jobs import BUSY, WAITING, WITHOUT_LEASE, Job, Jobs

IDLE_SECONDS = 600.0
LEARNED_GRACE_SECONDS = 60.0
"""From asking a run that has learned something until it is told again: it finishes its step and saves."""
GRACE_SECONDS = 6.0
"""The same for everything else."""
LAST_SECONDS = 3.0
"""From telling it again, which ends it where it is, until it and all it started are killed."""
STALL_SECONDS, STALL_STEPS = 60.0, 10
"""No sign of life for the longer of the two (seconds, step times): stalled."""
ASLEEP_SECONDS = 30.0
"""A gap between two ticks in which this process was not awake either: nobody's silence counts before it."""
TIDY_SECONDS = 3600.0
STARTING_SECONDS = 20.0
"""A worker that was started says so within this time."""


class Supervisor:
    def __init__(self, home: Home, executor: Executor, leases: list[str], jobs: Jobs | None = None):
        self.home = home
        self.jobs = jobs or Jobs(home.database)
        self.executor = executor
        self.leases = leases
        self.tokens: dict[str, str] = {}
        self.busy_at = time.time()
        self.asked: dict[str, tuple[float, int]] = {}
        """When each was first asked to stop, and how many of the three steps were taken."""
        self.awake_since = self.ticked = self.tidied = 0.0

    def tick(self, now: float) -> None:
        if now - self.ticked > ASLEEP_SECONDS or now < self.ticked:
            self.awake_since = now
        self.ticked = now
        for job in self.jobs.all(states=BUSY) + self.jobs.all(states=BUSY, deleted=True):
            self._look_after(job, now)
        self._make_way()
        while claimed := self.jobs.claim(self.leases):
            self._start(claimed)
        busy = self.jobs.all(states=BUSY) + self.jobs.all(states=BUSY, deleted=True)
        if self.jobs.queue() or busy:
            self.busy_at = now
        taken = {job.lease for job in busy}
        self.executor.warm(next((lease for lease in self.leases if lease not in taken), None), self.home.standby_log)
        if now - self.tidied > TIDY_SECONDS:
            self.tidied = now
            try:
                space.finish_removals(self.home)
                space.empty_trash(self.home, now - space.KEPT_SECONDS)
            except OSError as e:  # what cannot be removed must not end the runs
                print(f"Tidying up: {e}", flush=True)

    def idle(self, now: float) -> bool:
        return now - self.busy_at > IDLE_SECONDS

    def _folder(self, job: Job) -> Path:
        return self.home.job(job.kind, job.id, job.run_id, job.dataset)

    def _start(self, job: Job) -> None:
        handle = job.params.get("token_handle")
        token = self.tokens.pop(handle, None) if handle else None
        if handle and token is None:
            return self.jobs.ended(job.id, "interrupted", errors.TokenMissing().as_dict(), None)
        folder = self._folder(job)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for stale in ("outcome.json", "heartbeat"):
                (folder / stale).unlink(missing_ok=True)
            spec = {"id": job.id, "kind": job.kind, "run_id": job.run_id, "home": str(self.home.root), "params": job.params}
            known = {"name": job.name, "created": job.created, "lease": job.lease, "oom_kills": machine.oom_kills()}
            write_json(folder / "job.json", {**spec, **known})
            self.jobs.started(job.id, *self.executor.start(job, folder, token))
        except OSError as e:
            died = errors.WorkerDied(how="it could not be started", detail=e.strerror or str(e), kept=endings.kept(job.kind, folder))
            self.jobs.ended(job.id, "failed", died.as_dict(), None)

    def _look_after(self, job: Job, now: float) -> None:
        if job.pid is None:
            return self._adopt(job, now)
        if not self.executor.alive(job):
            return self._bury(job)
        self._watch(job, now)
        if job.stop_asked is not None:
            self._stop(job, now)

    def _stop(self, job: Job, now: float) -> None:
        """Three steps: ask; tell it again, which ends it where it is; end it and everything it started."""
        first, taken = self.asked.get(job.id, (now, 0))
        beat = endings.said(self._folder(job) / "heartbeat") or {}
        learned = job.kind == "train" and beat.get("phase") in ("train", "save") and job.stalled is None
        grace = LEARNED_GRACE_SECONDS if learned else GRACE_SECONDS
        due = 1 + (now - first > grace) + (now - first > grace + LAST_SECONDS)
        if due > taken or due == 3:
            self.executor.stop(job, self._folder(job), force=due == 3)
        self.asked[job.id] = (first, due)

    def _watch(self, job: Job, now: float) -> None:
        """Mark a worker that shows no sign of life, or whose steps have stopped, and keep the stacks of its threads."""
        beat = endings.said(self._folder(job) / "heartbeat") or {"time": job.started or now}
        last, step_seconds = beat["time"], 0.0
        if beat.get("unit") == "steps" and beat["done"] > beat["since"]:
            step_seconds = beat["phases"].get("train", 0.0) / (beat["done"] - beat["since"])
            last = beat["moved"]
        patience = max(STALL_SECONDS, STALL_STEPS * step_seconds)
        if now - max(last, self.awake_since) <= patience:
            if job.stalled is not None and now - last <= patience:
                self.jobs.stall(job.id, None)
        elif job.stalled is None:
            self.jobs.stall(job.id, last)
            if "pid" in beat:
                self.executor.dump(job, self._folder(job))

    def _adopt(self, job: Job, now: float) -> None:
        """Claimed by a supervisor that died before it could write down the worker: the worker's own heartbeat says who it is."""
        beat = read_json(self._folder(job) / "heartbeat")
        if beat and beat["time"] > (job.started or now):
            self.jobs.started(job.id, beat["pid"], beat["pid_start"], beat["boot_id"])
        elif now - (job.started or now) > STARTING_SECONDS:
            self._bury(job)

    def _bury(self, job: Job) -> None:
        """The worker is gone: its last word is `outcome.json`; without one it died, and this says of what."""
        folder = self._folder(job)
        outcome, code = endings.said(folder / "outcome.json"), self.executor.exit_code(job)
        self.executor.sweep(folder)
        (folder / ".reserve").unlink(missing_ok=True)
        _, taken = self.asked.pop(job.id, (0.0, 0))
        if job.stop_asked is not None and not outcome:
            forced = errors.EndedByForce(step=endings.reached(folder), kept=endings.kept(job.kind, folder))
            return self.jobs.ended(job.id, "stopped", forced.as_dict() if taken == 3 else None, None)
        if outcome and (outcome["state"] != "stopped" or job.stop_asked is not None or job.kind not in endings.GOES_ON):
            return self.jobs.ended(job.id, outcome["state"], outcome["error"], outcome["result"])
        died = endings.certificate(job, folder, -signal.SIGTERM if outcome else code)
        reached = endings.reached(folder)
        again = endings.goes_on(self.home) and endings.may_go_on(job, died, reached)
        no_token = {"token_handle": None} if reached and job.params.get("token_handle") else {}  # its base model is here by now
        self.jobs.interrupted(job.id, died.as_dict(), reached, time.time() if again else None, {**job.params, **no_token})

    def _make_way(self) -> None:
        """A chat holds a lease only while nothing else wants it."""
        waiting = [job for job in self.jobs.queue() if job.kind not in WITHOUT_LEASE]
        busy = [job for job in self.jobs.all(states=BUSY) if job.lease]
        if waiting and len(busy) >= len(self.leases):
            for chat in busy:
                if chat.kind == "chat" and chat.stop_asked is None:
                    self.jobs.ask_to_stop(chat.id)
                    break


def _address(home: Home, folder_fd: int) -> str:
    """Unix socket paths end at about 100 characters; through the folder's descriptor any home works (Linux)."""
    plain = str(home.supervisor_socket)
    return plain if len(plain.encode()) < 100 else f"/proc/self/fd/{folder_fd}/{home.supervisor_socket.name}"


def _listen(home: Home) -> socket.socket:
    home.supervisor_socket.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    folder_fd = os.open(home.root, os.O_RDONLY)
    mask = os.umask(0o177)
    try:
        server.bind(_address(home, folder_fd))
    finally:
        os.umask(mask)
        os.close(folder_fd)
    server.listen(16)
    return server


def _receive(server: socket.socket, tokens: dict[str, str]) -> None:
    """One message: `{}` only wakes the loop, `{handle, token}` hands a token over."""
    connection, _ = server.accept()
    with connection:
        connection.settimeout(2)
        try:
            message: dict[str, Any] = json.loads(connection.makefile().readline() or "{}")
            if "handle" in message:
                tokens[message["handle"]] = message["token"]
            connection.sendall(b"ok\n")
        except (OSError, ValueError):
            pass  # a caller that hung up is its own problem; the next one is served


def tell(home: Home, message: dict[str, str]) -> None:
    """Send one message to the living supervisor and wait for its word. Raises OSError when there is none."""
    folder_fd = os.open(home.root, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(5)
            client.connect(_address(home, folder_fd))
            client.sendall(json.dumps(message).encode() + b"\n")
            client.makefile().readline()
    finally:
        os.close(folder_fd)


def living(home: Home) -> dict[str, Any] | None:
    """`{pid, version}` of the supervisor that holds the lock, or None."""
    try:
        with open(home.supervisor_lock) as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                said: dict[str, Any] | None = json.loads(f.read() or "{}")
                return said
    except FileNotFoundError:
        return None


def ensure(home: Home, timeout: float = 30.0) -> None:
    """A supervisor of this version is alive when this returns. Raises SupervisorDidNotStart."""
    there = living(home)
    if there and there.get("version") != __version__:
        home.supervisor_lock.unlink(missing_ok=True)
    child = None if there and there.get("version") == __version__ else _spawn(home)
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            return tell(home, {})
        except OSError:
            if child is None and not living(home):
                child = _spawn(home)
            elif child is not None and child.poll() is not None and not living(home):
                break
            time.sleep(0.05)
    Jobs(home.database).any()  # a table that cannot be used says so itself
    code = child.poll() if child is not None else None
    raise errors.SupervisorDidNotStart(detail=f"It ended with code {code}." if code is not None else "It did not answer.")


def watch_over(home: Home, every: float = 5.0) -> None:
    """A thread of the page: while there is work, a supervisor that was killed is replaced."""

    def look() -> None:
        while not threading.Event().wait(every):
            try:
                if Jobs(home.database).all(states=(*WAITING, *BUSY)) and not living(home):
                    ensure(home)
            except errors.LoraUIError as e:
                print(e, flush=True)  # the next look tries again

    threading.Thread(target=look, daemon=True, name="supervisor").start()


def _spawn(home: Home) -> subprocess.Popen[bytes]:
    with open(home.supervisor_log, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "lora_ui.supervisor", str(home.root)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=REPOSITORY,
            env=without_tokens(dict(os.environ)),
            start_new_session=True,
        )


@contextmanager
def alone(home: Home, patience: float = 5.0) -> Iterator[bool]:
    """Hold the supervisor's lock, having ended whoever held it; workers live on and the next supervisor adopts them. False when it is
    held by no process of this machine."""
    with open(home.supervisor_lock, "a+") as lock:
        held = _locked(lock)
        for number in (signal.SIGTERM, signal.SIGKILL):  # its lock is what tells: who started it may never ask how it ended
            if not held and (pid := _pid(home)):
                os.kill(pid, number)
                held = _locked(lock, patience)
        yield held


def _pid(home: Home) -> int | None:
    """Of the living supervisor: the number alone may be another machine's."""
    try:
        process = psutil.Process((living(home) or {})["pid"])
        return process.pid if process.cmdline()[-2:] == ["lora_ui.supervisor", str(home.root)] else None
    except (KeyError, psutil.Error):
        return None


def main(root: Path) -> None:
    home = Home.open(root)
    lock = open(home.supervisor_lock, "a+")
    if not _locked(lock):
        return  # another one is alive
    lock.truncate(0)
    lock.write(json.dumps({"pid": os.getpid(), "version": __version__}))
    lock.flush()
    leaving: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: leaving.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    supervisor = Supervisor(home, Local(), machine.look().leases, rescue.table(home))
    server = _listen(home)
    while not leaving and _still_ours(lock, home.supervisor_lock):
        try:
            supervisor.tick(time.time())
        except errors.DatabaseDamaged as e:
            print(e, flush=True)
            supervisor.jobs = rescue.table(home)
        except (errors.DatabaseUnusable, errors.DiskFull) as e:
            print(e, flush=True)  # the next tick looks again
        if supervisor.idle(time.time()):
            break
        if select.select([server], [], [], 0.5)[0]:
            _receive(server, supervisor.tokens)


def _locked(lock: Any, patience: float = 0.4) -> bool:
    """Take the lock; a moment's patience, because `living` holds it for an instant to look."""
    for _ in range(int(patience / 0.02)):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.02)
    return False


def _still_ours(lock: Any, path: Path) -> bool:
    try:
        return os.fstat(lock.fileno()).st_ino == os.stat(path).st_ino
    except FileNotFoundError:
        return False


if __name__ == "__main__":
    main(Path(sys.argv[1]))
