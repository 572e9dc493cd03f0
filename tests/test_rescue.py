"""The database: older versions, newer ones, damage, disks that refuse; and two homes beside each other."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lora_ui import errors, jobs, machine, rescue, runs, supervisor
from lora_ui.home import Home, read_json, write_json
from lora_ui.jobs import MIGRATIONS, Jobs
from tests.running import end_processes
from tests.tiny import tiny_model, tiny_run
from tests.ui import made

OLDER = sorted((Path(__file__).parent / "fixtures").glob("schema_*.sql"))


def test_there_is_a_fixture_of_every_earlier_version():
    assert [path.stem for path in OLDER] == [f"schema_{n}" for n in range(1, len(MIGRATIONS))]


@pytest.mark.parametrize("dump", OLDER, ids=lambda path: path.stem)
def test_a_home_of_every_earlier_version_opens_with_all_it_held(tmp_path, dump):
    path = tmp_path / "lora_ui.db"
    db = sqlite3.connect(path)
    db.executescript(dump.read_text())
    db.close()
    there = Jobs(path)
    assert [job.id for job in there.all()] == ["keen-jay-cccccc", "deep-fox-bbbbbb", "calm-owl-aaaaaa"]
    assert [job.id for job in there.all(deleted=True)] == ["ruby-hare-dddddd"]
    assert there.get("calm-owl-aaaaaa").result == {"step": 60} and there.submit("train", {}, key="key-2").id == "keen-jay-cccccc"
    assert there.claim(["cpu"]).interruptions == [] and there.resume("deep-fox-bbbbbb").state == "queued"
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone()[0] == len(MIGRATIONS)
    db.close()


def test_a_newer_version_is_refused_with_words_and_left_alone(home):
    Jobs(home.database).submit("train", {})
    db = sqlite3.connect(home.database)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(errors.DatabaseTooNew, match="Its version is 99"):
        Jobs(home.database)
    with pytest.raises(errors.DatabaseTooNew):
        supervisor.ensure(home)
    assert not list(home.root.glob("*.damaged-*"))


def holes(path):
    """The second page of the file is nothing but zeros: a hole after a power loss."""
    with open(path, "r+b") as f:
        f.seek(4096)
        f.write(b"\0" * 4096)


@pytest.mark.parametrize(
    "damage", [holes, lambda path: path.write_bytes(b"not a database" * 1000), lambda path: path.write_bytes(b""), Path.unlink]
)
def test_a_damaged_table_is_set_aside_and_the_runs_are_found_again_from_their_folders(home, tmp_path, damage):
    tiny_run(home, "calm-owl-aaaaaa", tiny_model(tmp_path / "tiny"))
    failed = made.ended(home, "failed", step=8, error=errors.LossDiverged(step=8, kept=""))
    with Jobs(home.database)._open() as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    write_spec(home, failed)
    before = {path: path.read_bytes() for path in home.runs.rglob("*") if path.is_file()}
    damage(home.database)
    for ending in ("-wal", "-shm"):
        home.database.with_name(home.database.name + ending).unlink(missing_ok=True)
    there = rescue.table(home)
    assert {job.id: job.state for job in there.all()} == {"calm-owl-aaaaaa": "finished", failed: "failed"}
    assert runs.show(home, "calm-owl-aaaaaa")["step"] == 8
    assert {path: path.read_bytes() for path in home.runs.rglob("*") if path.is_file()} == before
    note = read_json(home.rescued)
    assert note["runs"] == 2 and (note["aside"] is None or (home.root / note["aside"]).exists())
    assert rescue.table(home).all() == there.all()


def test_a_rescue_that_was_killed_halfway_is_finished_by_the_next_start(home, monkeypatch):
    ids = {made.ended(home, "finished", f"run-{n}") for n in range(3)}
    home.database.write_bytes(b"not a database" * 1000)
    for ending in ("-wal", "-shm"):
        home.database.with_name(home.database.name + ending).unlink(missing_ok=True)
    put_back = Jobs.put_back

    def killed(self, row):
        put_back(self, row)
        raise KeyboardInterrupt

    monkeypatch.setattr(Jobs, "put_back", killed)
    with pytest.raises(KeyboardInterrupt):
        rescue.table(home)
    monkeypatch.undo()
    assert rescue.note(home) is None and len(Jobs(home.database).all()) == 1
    assert {job.id for job in rescue.table(home).all()} == ids
    note = rescue.note(home)
    assert note["runs"] == 3 and (home.root / note["aside"]).exists()
    rescue.dismiss(home)
    assert rescue.note(home) is None and {job.id for job in rescue.table(home).all()} == ids


def write_spec(home, id):
    """What the supervisor writes when it starts a job."""
    job = Jobs(home.database).get(id)
    write_json(home.run(id) / "job.json", {"id": id, "kind": "train", "run_id": None, "home": str(home.root), "params": job.params})


def test_a_run_that_lives_while_the_table_is_lost_is_found_living(home, tmp_path):
    id = made.running(home)
    write_spec(home, id)
    me = {"pid": os.getpid(), "pid_start": machine.process_start(os.getpid()), "boot_id": machine.boot_id()}
    write_json(home.run(id) / "heartbeat", {**read_json(home.run(id) / "heartbeat"), **me})
    home.database.unlink()
    assert (rescue.table(home).get(id).state, Jobs(home.database).get(id).pid) == ("running", os.getpid())


def test_a_supervisor_whose_table_is_damaged_under_it_goes_on_with_a_new_one(home, tmp_path):
    tiny_run(home, "calm-owl-aaaaaa", tiny_model(tmp_path / "tiny"))
    supervisor.ensure(home)
    pid = supervisor.living(home)["pid"]
    home.rescued.unlink(missing_ok=True)  # it found the run's folder without a row when it started
    home.database.write_bytes(b"no table " * 2000)
    for ending in ("-wal", "-shm"):
        home.database.with_name(home.database.name + ending).unlink(missing_ok=True)
    for _ in range(600):
        supervisor.tell(home, {})  # each wakes it for one tick
        if home.rescued.exists():
            break
    assert supervisor.living(home)["pid"] == pid
    assert [job.id for job in Jobs(home.database).all()] == ["calm-owl-aaaaaa"]


READS = "import sys; from pathlib import Path; from lora_ui.jobs import Jobs; Jobs(Path(sys.argv[1])).submit('train', {})"
FULL = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); "


def test_a_disk_that_takes_no_more_is_said_and_costs_no_row(home):
    there = Jobs(home.database)
    first = there.submit("train", {})
    ended = subprocess.run([sys.executable, "-c", FULL + READS, str(home.database)], capture_output=True, text=True)
    assert "DiskFull" in ended.stderr or "DatabaseUnusable" in ended.stderr, ended.stderr
    there.check()
    assert [job.id for job in there.all()] == [first.id]


def test_a_read_only_table_is_said(home):
    Jobs(home.database).submit("train", {})
    with pytest.raises(errors.DatabaseUnusable, match="readonly"), Jobs(home.database)._open() as db:
        db.execute("PRAGMA query_only = ON")
        db.execute("DELETE FROM jobs")


def test_a_table_that_somebody_holds_for_long_is_said(home, monkeypatch):
    there = Jobs(home.database)
    monkeypatch.setattr(jobs, "PATIENCE_SECONDS", 0.01)
    with there._write(), pytest.raises(errors.DatabaseUnusable, match="locked"):
        Jobs(home.database).submit("train", {})


def test_two_homes_two_supervisors_and_neither_touches_the_other(tmp_path):
    one, two = (Home.open(tmp_path / name) for name in ("one", "two"))
    try:
        for home in (one, two):
            supervisor.ensure(home)
        pids = [supervisor.living(home)["pid"] for home in (one, two)]
        assert len(set(pids)) == 2
        job = Jobs(one.database).submit("train", {})
        assert Jobs(two.database).all() == [] and Jobs(one.database).get(job.id).id == job.id
        end_processes(one)
        assert psutil.pid_exists(pids[1]) and supervisor.living(two)["pid"] == pids[1]
        supervisor.tell(two, {})
    finally:
        for home in (one, two):
            end_processes(home)
