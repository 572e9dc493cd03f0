"""The job table: states, moves, leases, migrations. SQLite, one short transaction a call.

Web and command line write intents (`submit`, `ask_to_stop`, `resume`, `delete`…); the supervisor alone moves states
(`claim`, `started`, `ended`). A row is never removed to be started.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_ui import errors

WAITING, BUSY, ENDED = ("queued",), ("starting", "running"), ("finished", "failed", "stopped", "interrupted")
RESUMABLE = ("failed", "stopped", "interrupted")
WITHOUT_LEASE = ("prepare", "push")
"""Kinds that use neither GPU nor a CPU for long; they run beside anything."""

_ADJECTIVES = [
    "amber",
    "brave",
    "calm",
    "clever",
    "crisp",
    "deep",
    "eager",
    "fair",
    "gentle",
    "golden",
    "happy",
    "keen",
    "light",
    "lucky",
    "mellow",
    "misty",
    "neat",
    "noble",
    "polar",
    "proud",
    "quick",
    "quiet",
    "rapid",
    "ruby",
    "rust",
    "silver",
    "sunny",
    "swift",
    "tidy",
    "warm",
    "wise",
]
_ANIMALS = [
    "badger",
    "beaver",
    "bison",
    "crane",
    "crow",
    "dove",
    "eagle",
    "egret",
    "falcon",
    "finch",
    "fox",
    "gull",
    "hare",
    "heron",
    "ibis",
    "jay",
    "kite",
    "lark",
    "lynx",
    "marten",
    "mole",
    "newt",
    "otter",
    "owl",
    "panda",
    "puffin",
    "raven",
    "robin",
    "seal",
    "stoat",
    "swan",
    "tern",
    "vole",
    "wren",
]


@dataclass(frozen=True)
class Job:
    """One row. Times are seconds since the epoch. `run_id` is the run that a merge or push belongs to."""

    id: str
    kind: str
    run_id: str | None
    name: str
    state: str
    params: dict[str, Any]
    place: float
    created: float
    queued: float
    started: float | None
    ended: float | None
    attempt: int
    stop_asked: float | None
    pid: int | None
    pid_start: float | None
    boot_id: str | None
    lease: str | None
    error: dict[str, Any] | None
    result: dict[str, Any] | None
    deleted: float | None

    @property
    def dataset(self) -> str | None:
        return self.params.get("digest")


def _create(db: sqlite3.Connection) -> None:
    db.execute(
        """CREATE TABLE jobs (
            id TEXT PRIMARY KEY, kind TEXT NOT NULL, run_id TEXT REFERENCES jobs(id), name TEXT NOT NULL, key TEXT UNIQUE,
            state TEXT NOT NULL, params TEXT NOT NULL, place REAL NOT NULL, created REAL NOT NULL, queued REAL NOT NULL, started REAL, ended REAL,
            attempt INTEGER NOT NULL DEFAULT 0, stop_asked REAL, pid INTEGER, pid_start REAL, boot_id TEXT, lease TEXT,
            error TEXT, result TEXT, deleted REAL)"""
    )
    db.execute("CREATE UNIQUE INDEX one_job_a_lease ON jobs(lease) WHERE state IN ('starting', 'running') AND lease IS NOT NULL")
    db.execute("CREATE INDEX by_state ON jobs(state, place)")


MIGRATIONS = [_create]
"""Applied once each, in order; never edited after a release."""


class Jobs:
    """The table at `path`. Safe to use from several processes and threads: each call opens its own connection."""

    def __init__(self, path: Path):
        self.path = path
        with self._write() as db:
            done = db.execute("PRAGMA user_version").fetchone()[0]
            for number, migrate in enumerate(MIGRATIONS[done:], done + 1):
                migrate(db)
                db.execute(f"PRAGMA user_version = {number}")

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        db.row_factory = sqlite3.Row
        self.journal = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        db.execute("PRAGMA synchronous = FULL")
        return db

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        db = self._connect()
        try:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        finally:
            db.close()

    def _read(self, sql: str, *values: Any) -> list[Job]:
        db = self._connect()
        try:
            return [_job(row) for row in db.execute(sql, values)]
        finally:
            db.close()

    # what anyone may do

    def submit(self, kind: str, params: dict[str, Any], key: str | None = None, run_id: str | None = None, name: str = "") -> Job:
        """Queue a job. The same `key` again gives the job it made the first time."""
        with self._write() as db:
            if key and (row := db.execute("SELECT * FROM jobs WHERE key = ?", (key,)).fetchone()):
                return _job(row)
            words = f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_ANIMALS)}"
            id = f"{words if kind == 'train' else kind}-{secrets.token_hex(3 if kind == 'train' else 5)}"
            now = time.time()
            db.execute(
                "INSERT INTO jobs (id, kind, run_id, name, key, state, params, place, created, queued) VALUES (?, ?, ?, ?, ?, 'queued', ?, ?, ?, ?)",
                (id, kind, run_id, name or words, key, json.dumps(params), now, now, now),
            )
            return _job(db.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone())

    def get(self, id: str) -> Job:
        """Raises NoSuchJob."""
        found = self._read("SELECT * FROM jobs WHERE id = ?", id)
        if not found:
            raise errors.NoSuchJob(id=id)
        return found[0]

    def all(self, kind: str | None = None, states: tuple[str, ...] = (), run_id: str | None = None, deleted: bool = False) -> list[Job]:
        """Newest first."""
        sql = f"SELECT * FROM jobs WHERE deleted IS {'NOT ' if deleted else ''}NULL"
        values: list[Any] = []
        if kind:
            sql, values = sql + " AND kind = ?", [*values, kind]
        if run_id:
            sql, values = sql + " AND run_id = ?", [*values, run_id]
        if states:
            sql, values = sql + f" AND state IN ({','.join('?' * len(states))})", [*values, *states]
        return self._read(sql + " ORDER BY created DESC", *values)

    def queue(self) -> list[Job]:
        """Waiting jobs in the order they will start."""
        return self._read("SELECT * FROM jobs WHERE state = 'queued' AND deleted IS NULL ORDER BY place")

    def ask_to_stop(self, id: str) -> Job:
        """A queued job ends at once; a busy one is ended by the supervisor. Asking twice changes nothing. Raises IllegalMove once it has ended."""
        with self._write() as db:
            job = self._must(db, id, "stopped", (*WAITING, *BUSY), "waiting or running")
            if job.state == "queued":
                db.execute("UPDATE jobs SET state = 'stopped', ended = ? WHERE id = ?", (time.time(), id))
            elif job.stop_asked is None:
                db.execute("UPDATE jobs SET stop_asked = ? WHERE id = ?", (time.time(), id))
        return self.get(id)

    def resume(self, id: str, **changed: Any) -> Job:
        """Back into the queue, keeping what was made; `changed` replaces params (a new token's handle). Raises IllegalMove."""
        with self._write() as db:
            now = time.time()
            job = self._must(db, id, "resumed", RESUMABLE, "failed, stopped or interrupted")
            db.execute(
                "UPDATE jobs SET state = 'queued', params = ?, place = ?, queued = ?, ended = NULL, stop_asked = NULL, error = NULL, deleted = NULL"
                " WHERE id = ?",
                (json.dumps({**job.params, **changed}), now, now, id),
            )
        return self.get(id)

    def delete(self, id: str) -> Job:
        """Into the trash: the files stay until it is emptied. Raises IllegalMove while it is busy."""
        with self._write() as db:
            job = self._must(db, id, "deleted", (*WAITING, *ENDED), "not running")
            if job.state == "queued":
                db.execute("UPDATE jobs SET state = 'stopped', ended = ? WHERE id = ?", (time.time(), id))
            db.execute("UPDATE jobs SET deleted = ? WHERE id = ?", (time.time(), id))
        return self.get(id)

    def restore(self, id: str) -> Job:
        with self._write() as db:
            db.execute("UPDATE jobs SET deleted = NULL WHERE id = ?", (id,))
        return self.get(id)

    def rename(self, id: str, name: str) -> Job:
        with self._write() as db:
            db.execute("UPDATE jobs SET name = ? WHERE id = ?", (name, id))
        return self.get(id)

    def run_next(self, id: str) -> Job:
        """To the head of the queue. Raises IllegalMove unless it waits."""
        with self._write() as db:
            self._must(db, id, "put first", WAITING, "waiting")
            db.execute("UPDATE jobs SET place = (SELECT min(place) FROM jobs WHERE state = 'queued') - 1 WHERE id = ?", (id,))
        return self.get(id)

    def _must(self, db: sqlite3.Connection, id: str, wanted: str, states: tuple[str, ...], legal: str) -> Job:
        row = db.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
        if row is None:
            raise errors.NoSuchJob(id=id)
        if row["state"] not in states:
            raise errors.IllegalMove(id=id, state=row["state"], wanted=wanted, legal=legal)
        return _job(row)

    # what only the supervisor does

    def claim(self, leases: list[str]) -> Job | None:
        """Move the first waiting job that can have a lease now to `starting`. `leases` are all of this machine, such as `gpu:0` or `cpu`."""
        with self._write() as db:
            taken = {row[0] for row in db.execute("SELECT lease FROM jobs WHERE state IN ('starting', 'running')")}
            free = next((lease for lease in leases if lease not in taken), None)
            for row in db.execute("SELECT * FROM jobs WHERE state = 'queued' AND deleted IS NULL ORDER BY place").fetchall():
                needs_none = row["kind"] in WITHOUT_LEASE
                if needs_none or free:
                    db.execute(
                        "UPDATE jobs SET state = 'starting', started = ?, attempt = attempt + 1, lease = ?, pid = NULL, result = NULL WHERE id = ?",
                        (time.time(), None if needs_none else free, row["id"]),
                    )
                    return _job(db.execute("SELECT * FROM jobs WHERE id = ?", (row["id"],)).fetchone())
        return None

    def started(self, id: str, pid: int, pid_start: float, boot_id: str) -> None:
        with self._write() as db:
            db.execute(
                "UPDATE jobs SET state = 'running', pid = ?, pid_start = ?, boot_id = ? WHERE id = ? AND state = 'starting'",
                (pid, pid_start, boot_id, id),
            )

    def ended(self, id: str, state: str, error: dict[str, Any] | None, result: dict[str, Any] | None) -> None:
        with self._write() as db:
            db.execute(
                "UPDATE jobs SET state = ?, ended = ?, error = ?, result = ?, lease = NULL, pid = NULL, stop_asked = NULL"
                " WHERE id = ? AND state IN ('starting', 'running')",
                (state, time.time(), json.dumps(error) if error else None, json.dumps(result) if result else None, id),
            )


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    del values["key"]
    for name in ("params", "error", "result"):
        values[name] = json.loads(values[name]) if values[name] else None
    return Job(**values)
