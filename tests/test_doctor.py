"""`python -m lora_ui doctor` on broken homes, as a person runs it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lora_ui import machine, supervisor
from lora_ui.home import Home, write_json
from lora_ui.jobs import MIGRATIONS, Jobs
from tests.running import end_processes
from tests.test_rescue import OLDER, holes
from tests.ui import made

ROOT = Path(__file__).parent.parent


@pytest.fixture
def home(tmp_path):
    home = Home.open(tmp_path / "home")
    yield home
    end_processes(home)


def doctor(root, before="", json_too=True):
    """(exit code, the report): `before` are shell commands that run in a mount namespace of their own, with $HOME_FOLDER."""
    command = [sys.executable, "-m", "lora_ui", "doctor", "--home", str(root), *(["--json"] if json_too else [])]
    if before:
        command = ["unshare", "--mount", "sh", "-e", "-c", f'{before}; exec "$@"', "sh", *command]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "HOME_FOLDER": str(root)}, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout) if json_too else done.stdout


def test_a_good_home_has_no_trouble(home):
    made.ended(home, "finished")
    code, report = doctor(home.root)
    assert (code, report["trouble"], report["home"]["jobs"]) == (0, [], 1)


@pytest.mark.parametrize("damage", [holes, lambda path: path.write_bytes(b"no table" * 1000), Path.unlink], ids=["holes", "noise", "lost"])
@pytest.mark.parametrize("alive", [False, True], ids=["alone", "beside a supervisor"])
def test_a_damaged_table_is_made_anew_from_the_folders(home, damage, alive):
    id = made.ended(home, "finished")
    if alive:
        supervisor.ensure(home)
    with Jobs(home.database)._open() as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = (home.run(id) / "adapter" / "adapter_model.safetensors").read_bytes()
    damage(home.database)
    for ending in ("-wal", "-shm"):
        home.database.with_name(home.database.name + ending).unlink(missing_ok=True)
    code, said = doctor(home.root, json_too=False)
    assert code == 0 and home.rescued.exists(), said
    assert [(job.id, job.state) for job in Jobs(home.database).all()] == [(id, "finished")]
    assert (home.run(id) / "adapter" / "adapter_model.safetensors").read_bytes() == before
    if not alive:  # a living one may have mended it first
        assert "found: The list of runs" in said and "mended: " in said and "Runs found again from their folders: 1." in said
        assert damage is Path.unlink or len(list(home.root.glob("lora_ui.db.damaged-*"))) == 1
    assert doctor(home.root)[1]["trouble"] == []


def test_a_newer_table_is_named_and_left_alone(home):
    Jobs(home.database).submit("train", {})
    with Jobs(home.database)._open() as db:
        db.execute("PRAGMA user_version = 99")
    code, report = doctor(home.root)
    (trouble,) = report["trouble"]
    assert code == 1 and "newer LoRA UI" in trouble["found"] and trouble["fix"] and trouble["done"] is None
    assert report["home"]["jobs"] is None and not list(home.root.glob("*.damaged-*"))


def test_an_older_table_is_brought_to_this_version_and_said(home):
    db = sqlite3.connect(home.database)
    db.executescript(OLDER[-1].read_text())
    db.execute("UPDATE jobs SET state = 'stopped' WHERE state NOT IN ('finished', 'failed')")
    db.commit()
    db.close()
    code, report = doctor(home.root)
    assert code == 0 and [t["done"] for t in report["trouble"]] == [f"It is of version {len(MIGRATIONS)} now."]
    assert doctor(home.root)[1]["trouble"] == []


def test_a_supervisor_that_hangs_is_ended_and_work_that_waits_gets_another(home):
    supervisor.ensure(home)
    hung = psutil.Process(supervisor.living(home)["pid"])
    os.kill(hung.pid, signal.SIGSTOP)
    Jobs(home.database).submit("prepare", {"digest": "0" * 16})
    code, report = doctor(home.root)
    assert code == 0 and [t["done"].split(";")[0] for t in report["trouble"]] == ["Ended it", "Started it."]
    assert not hung.is_running() or hung.status() == psutil.STATUS_ZOMBIE
    assert supervisor.living(home)["pid"] != hung.pid


def test_a_lock_that_is_held_elsewhere_is_named_and_nobody_is_ended(home):
    holder = "import fcntl, sys, json, os; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); json.dump({'pid': os.getpid()}, f); f.flush(); print(flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", holder, home.supervisor_lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        other.stdout.readline()
        code, report = doctor(home.root)
        (trouble,) = report["trouble"]
        assert code == 1 and f"({other.pid}) holds its lock" in trouble["found"] and "Another machine" in trouble["fix"]
        assert other.poll() is None
    finally:
        other.communicate(b"\n")


def test_the_lock_of_a_supervisor_that_was_killed_is_said_to_be_free(home):
    supervisor.ensure(home)
    process = psutil.Process(supervisor.living(home)["pid"])
    os.kill(process.pid, signal.SIGKILL)
    process.wait(20)
    code, report = doctor(home.root)
    assert (code, report["trouble"]) == (0, [])
    assert f"process {process.pid} has ended, its lock is free" in report["home"]["supervisor"]


def supervisor_ends(home):
    with supervisor.alone(home) as held:
        assert held


def test_half_written_folders_go_once_nobody_can_be_writing_them(home):
    id = made.ended(home, "finished")
    old = [home.run(id) / ".tmp-merged", home.run(id) / "checkpoints" / ".staging", home.uploads / ".tmp-a"]
    for folder in (*old, home.uploads / ".tmp-young"):
        folder.mkdir(parents=True)
        (folder / "part").write_bytes(b"x" * 100)
    for folder in old:
        for path in (folder / "part", folder):
            os.utime(path, (time.time() - 4000,) * 2)
    busy = made.running(home)
    write_json(home.run(busy) / "heartbeat", {"pid": os.getpid()})
    with Jobs(home.database)._open() as db:  # this process stands for its worker
        born = machine.process_start(os.getpid()), machine.boot_id()
        db.execute("UPDATE jobs SET pid_start = ?, boot_id = ? WHERE id = ?", (*born, busy))
    doctor(home.root)
    assert all(folder.exists() for folder in old)
    supervisor_ends(home)
    Jobs(home.database).ended(busy, "finished", None, None)
    code, report = doctor(home.root)
    (trouble,) = report["trouble"]
    assert code == 0 and "3 half-written folders" in trouble["found"] and trouble["done"] == "Removed."
    assert not any(folder.exists() for folder in old) and (home.uploads / ".tmp-young" / "part").exists()
    assert (home.run(id) / "adapter").is_dir()


mounts = pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0, reason="needs the right to mount"
)


@mounts
def test_a_read_only_disk_is_named(home):
    made.ended(home, "finished")
    code, report = doctor(home.root, 'mount --bind "$HOME_FOLDER" "$HOME_FOLDER"; mount -o remount,ro,bind "$HOME_FOLDER"')
    (trouble,) = report["trouble"]
    assert code == 1 and trouble["found"] == f"The disk of {home.root} is read-only." and "--home" in trouble["fix"]


@mounts
@pytest.mark.parametrize("size", ["nr_inodes=3", "size=1m"], ids=["no folder fits", "little fits"])
def test_a_full_disk_is_named(home, size):
    fill = f'mount -t tmpfs -o {size} none "$HOME_FOLDER"; (head -c 900000 /dev/zero > "$HOME_FOLDER/fill") 2>/dev/null || true'
    code, report = doctor(home.root, fill)
    assert code == 1 and f"The disk of {home.root} is full" in report["trouble"][0]["found"]
    assert all(t["fix"] for t in report["trouble"])


def test_a_home_that_is_a_file_is_named(tmp_path):
    (tmp_path / "home").write_text("")
    code, report = doctor(tmp_path / "home")
    assert code == 1 and report["trouble"][0]["found"] == f"{tmp_path / 'home'} is a file, not a folder."


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_files_of_another_user_are_named(home):
    id = made.ended(home, "finished")
    os.chown(home.run(id), 12345, -1)
    code, report = doctor(home.root)
    (trouble,) = report["trouble"]
    assert code == 1 and trouble["found"] == f"{home.run(id)} belongs to user 12345; this is root."
    assert "sudo chown -R 0 " in trouble["fix"]
    write_json(home.preferences, {})
    for path in (home.root, *home.root.iterdir(), home.run(id)):
        os.chown(path, 12345, -1)
    assert doctor(home.root)[1]["trouble"] == []
