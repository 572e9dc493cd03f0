"""The job table: states, moves, leases, migrations. SQLite, one short transaction a call.

Web and command line write intents (`submit`, `ask_to_stop`, `resume`, `delete`…); the supervisor alone moves states
(`claim`, `started`, `interrupted`, `ended`). A row is never removed to be started.
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

PATIENCE_SECONDS = 30.0
"""How long a call waits for others to let go of the table."""

_ADJECTIVES = [
    "amber", "brave", "calm", "clever", "crisp", "deep", "eager", "fair", "gentle", "golden", "happy", "keen", "light", "lucky",
    "mellow", "misty", "neat", "noble", "polar", "proud", "quick", "quiet", "rapid", "ruby", "rust", "silver", "sunny", "swift",
    "tidy", "warm", "wise",
]  # fmt: skip
_ANIMALS = [
    "badger", "beaver", "bison", "crane", "crow", "dove", "eagle", "egret", "falcon", "finch", "fox", "gull", "hare", "heron",
    "ibis", "jay", "kite", "lark", "lynx", "marten", "mole", "newt", "otter", "owl", "panda", "puffin", "raven", "robin", "seal",
    "stoat", "swan", "tern", "vole", "wren",
]  # fmt: skip


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
    interruptions: list[dict[str, Any]]
    """`{time, kind, reached, again}` for each time it died: the class of the error, the last step or save point, and when it went
    on by itself (None: it did not)."""
    stalled: float | None
    """Since when a busy job has shown no sign of life."""

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


def _add_interruptions(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE jobs ADD COLUMN interruptions TEXT NOT NULL DEFAULT '[]'")
    db.execute("ALTER TABLE jobs ADD COLUMN stalled REAL")
    db.execute("CREATE INDEX by_age ON jobs(kind, created)")


def _find_by_run(db: sqlite3.Connection) -> None:
    db.execute("CREATE INDEX by_run ON jobs(run_id) WHERE run_id IS NOT NULL")


_FIRST = "(SELECT coalesce(min(place), 0) - 1 FROM jobs WHERE state = 'queued')"
"""The place before everything that waits."""
MIGRATIONS = [_create, _add_interruptions, _find_by_run]
"""Applied once each, in order; never edited after a release."""


class Jobs:
    """The table at `path`. Safe to use from several processes and threads: each call opens its own connection.

    Any call can raise DatabaseDamaged, DatabaseUnusable (locked for long, read-only) or DiskFull.
    """

    def __init__(self, path: Path):
        """Raises DatabaseTooNew, too."""
        self.path = path
        if self._version() < len(MIGRATIONS):
            with self._write() as db:
                done = db.execute("PRAGMA user_version").fetchone()[0]
                for number, migrate in enumerate(MIGRATIONS[done:], done + 1):
                    migrate(db)
                    db.execute(f"PRAGMA user_version = {number}")

    def _version(self) -> int:
        with self._open() as db:
            done = int(db.execute("PRAGMA user_version").fetchone()[0])
        if done > len(MIGRATIONS):
            raise errors.DatabaseTooNew(path=str(self.path), theirs=done, ours=len(MIGRATIONS))
        return done

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection of its own; what SQLite says is said in our words."""
        db = None
        try:
            db = sqlite3.connect(self.path, timeout=PATIENCE_SECONDS, isolation_level=None)
            db.row_factory = sqlite3.Row
            self.journal = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            db.execute("PRAGMA synchronous = FULL")
            yield db
        except sqlite3.DatabaseError as e:
            raise _explained(e, self.path) from e
        finally:
            if db is not None:
                db.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._open() as db:
            try:
                db.execute("BEGIN IMMEDIATE")
                yield db
                db.execute("COMMIT")
            except BaseException:
                if db.in_transaction:
                    db.execute("ROLLBACK")
                raise

    def _read(self, sql: str, *values: Any) -> list[Job]:
        with self._open() as db:
            return [_job(row) for row in db.execute(sql, values)]

    def check(self) -> None:
        """Read the whole file once. Raises DatabaseDamaged."""
        with self._open() as db:
            said = [row[0] for row in db.execute("PRAGMA quick_check(3)")]
        if said != ["ok"]:
            raise errors.DatabaseDamaged(path=str(self.path), detail=said[0])

    # what anyone may do

    def submit(self, kind: str, params: dict[str, Any], key: str | None = None, run_id: str | None = None, name: str = "") -> Job:
        """Queue a job. The same `key` again gives the job it made the first time."""
        with self._write() as db:
            key = key or None
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

    def shown(self, most: int) -> list[Job]:
        """The newest runs, at most so many; those that work, and the first that wait, whatever their age. Newest first."""
        newest = "SELECT id FROM jobs WHERE kind = 'train' AND deleted IS NULL ORDER BY created DESC LIMIT ?"
        of_state = "SELECT id FROM jobs WHERE +kind = 'train' AND deleted IS NULL AND state"  # + has it go by the state's index
        return self._read(
            f"SELECT * FROM jobs WHERE id IN (SELECT * FROM ({newest}) UNION {of_state} IN ('starting', 'running')"
            f" UNION SELECT * FROM ({of_state} = 'queued' ORDER BY place LIMIT ?)) ORDER BY created DESC",
            most,
            most,
        )

    def counts(self) -> tuple[int, int]:
        """How many runs there are, and how many are in the trash."""
        with self._open() as db:
            every, kept = db.execute("SELECT count(*), count(*) FILTER (WHERE deleted IS NULL) FROM jobs WHERE kind = 'train'").fetchone()
        return kept, every - kept

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
            db.execute(f"UPDATE jobs SET place = {_FIRST} WHERE id = ?", (id,))
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
                        "UPDATE jobs SET state = 'starting', started = ?, attempt = attempt + 1, lease = ?, pid = NULL, result = NULL, stalled = NULL"
                        " WHERE id = ?",
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

    def stall(self, id: str, since: float | None) -> None:
        with self._write() as db:
            db.execute("UPDATE jobs SET stalled = ? WHERE id = ?", (since, id))

    def interrupted(self, id: str, error: dict[str, Any], reached: int, again: float | None, params: dict[str, Any]) -> None:
        """A busy job died. With `again` (the time) it goes back to the head of the queue at once, else it waits for a person."""
        with self._write() as db:
            job = self._must(db, id, "interrupted", BUSY, "starting or running")
            history = [*job.interruptions, {"time": time.time(), "kind": error["kind"], "reached": reached, "again": again}]
            db.execute(
                f"UPDATE jobs SET state = ?, ended = ?, queued = coalesce(?, queued), place = {_FIRST}, error = ?, interruptions = ?, params = ?,"
                " result = NULL, lease = NULL, pid = NULL, stop_asked = NULL, stalled = NULL WHERE id = ?",
                (
                    "queued" if again else "interrupted",
                    None if again else time.time(),
                    again,
                    None if again else json.dumps(error),
                    json.dumps(history),
                    json.dumps(params),
                    id,
                ),
            )

    def any(self) -> bool:
        """Whether there has ever been a job."""
        with self._open() as db:
            return db.execute("SELECT 1 FROM jobs LIMIT 1").fetchone() is not None

    def put_back(self, row: dict[str, Any]) -> None:
        """A row read from its folder, after the table was lost; one that is there already stays as it is."""
        place = {"place": row["created"], "queued": row["created"]}
        values = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in {**row, **place}.items()}
        with self._write() as db:
            marks = ", ".join("?" * len(values))
            db.execute(f"INSERT OR IGNORE INTO jobs ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))

    def remove(self, id: str) -> None:
        """Forget a job of the trash, and what belongs to it; its files have to be gone. Raises IllegalMove unless it is in the trash."""
        with self._write() as db:
            if self._must(db, id, "removed", ENDED, "not running").deleted is None:
                raise errors.IllegalMove(id=id, state="kept", wanted="removed", legal="in the trash")
            db.execute("DELETE FROM jobs WHERE id = ? OR run_id = ?", (id, id))

    def ended(self, id: str, state: str, error: dict[str, Any] | None, result: dict[str, Any] | None) -> None:
        with self._write() as db:
            db.execute(
                "UPDATE jobs SET state = ?, ended = ?, error = ?, result = ?, lease = NULL, pid = NULL, stop_asked = NULL, stalled = NULL"
                " WHERE id = ? AND state IN ('starting', 'running')",
                (state, time.time(), json.dumps(error) if error else None, json.dumps(result) if result else None, id),
            )


def _explained(e: sqlite3.DatabaseError, path: Path) -> Exception:
    """What a person can do about it; a mistake in our SQL stays what it is."""
    code = getattr(e, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "no such table" in str(e):  # the file was emptied, or is another one
        return errors.DatabaseDamaged(path=str(path), detail=str(e))
    if code == sqlite3.SQLITE_FULL:
        return errors.DiskFull(needed="more", free="0", where=str(path.parent))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM):
        return errors.DatabaseUnusable(path=str(path), detail=str(e))
    return e


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    del values["key"]
    for name in ("params", "error", "result", "interruptions"):
        values[name] = json.loads(values[name]) if values[name] else None
    return Job(**values)
