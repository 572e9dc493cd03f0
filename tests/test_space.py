"""What takes space, what is removed, and what never is."""

import os
import subprocess
import time

import pytest

from lora_ui import endings, errors, runs, space
from lora_ui.executors.local import Local
from lora_ui.jobs import Jobs
from lora_ui.supervisor import TIDY_SECONDS, Supervisor
from tests.ui import made

DAY = 24 * 3600.0


def dataset(home, digest, age):
    folder = home.dataset(digest)
    folder.mkdir(parents=True)
    (folder / "rows.parquet").write_bytes(os.urandom(20_000))
    os.utime(folder, (time.time() - age,) * 2)
    return folder


def test_the_trash_is_emptied_by_the_supervisor_after_seven_days(home):
    old, young, kept = (made.ended(home, "finished") for _ in range(3))
    for id in (old, young):
        runs.delete(home, id)
    with Jobs(home.database)._write() as db:
        db.execute("UPDATE jobs SET deleted = ? WHERE id = ?", (time.time() - 7 * DAY - 1, old))
    Supervisor(home, Local(), ["cpu"]).tick(time.time())
    assert [home.run(id).exists() for id in (old, young, kept)] == [False, True, True]
    with pytest.raises(errors.NoSuchJob):
        runs.show(home, old)
    assert runs.restore(home, young).id == young


def test_what_a_killed_prepare_left_behind_goes_and_what_a_living_one_fills_stays(home):
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead, living = (home.dataset("0" * 16) / "prepared" / f".tmp-{'1' * 16}-{pid}" for pid in (ended.pid, os.getpid()))
    for folder in (dead, living):
        folder.mkdir(parents=True)
    Supervisor(home, Local(), ["cpu"]).tick(time.time())
    assert (dead.exists(), living.exists()) == (False, True)


def test_a_removal_that_was_killed_is_finished_later_and_links_are_not_followed(home, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("mine")
    left = home.runs / ".gone-calm-owl-aaaaaa"
    left.mkdir()
    (left / "link").symlink_to(precious)
    boss = Supervisor(home, Local(), ["cpu"])
    boss.tick(time.time())
    assert not left.exists() and (precious / "thesis.txt").read_text() == "mine"
    left.mkdir()
    boss.tick(time.time() + 60)
    assert left.exists()
    boss.tick(time.time() + 61 + TIDY_SECONDS)
    assert not left.exists()


def test_a_run_of_the_trash_whose_merge_still_runs_stays(home):
    id = made.ended(home, "finished")
    there = Jobs(home.database)
    there.submit("merge", {"run_id": id}, run_id=id)
    there.delete(id)
    assert space.empty_trash(home, time.time() + 1) == [] and home.run(id).is_dir()


def test_only_old_rows_that_no_run_uses_go(home):
    used, trashed = "0" * 16, "1" * 16
    id = made.ended(home, "finished")
    with Jobs(home.database)._write() as db:
        db.execute("UPDATE jobs SET params = replace(params, ?, ?) WHERE id = ?", (used, trashed, id))
    runs.delete(home, id)
    made.ended(home, "finished")
    folders = [
        dataset(home, digest, age) for digest, age in ((used, 2 * DAY), (trashed, 2 * DAY), ("2" * 16, DAY / 2), ("3" * 16, 2 * DAY))
    ]
    sizes = space.report(home)
    assert sizes["unused"] >= 20_000 and sizes["datasets"] >= 80_000 and sizes["trash"] >= 30_000 and sizes["runs"] >= 30_000
    assert space.delete_unused_datasets(home) == sizes["unused"]
    assert [folder.exists() for folder in folders] == [True, True, True, False]


def test_a_run_that_is_not_in_the_trash_is_never_removed(home):
    id = made.ended(home, "finished")
    with pytest.raises(errors.IllegalMove):
        Jobs(home.database).remove(id)


def test_whether_runs_go_on_is_remembered(home):
    assert endings.goes_on(home)
    endings.set_goes_on(home, False)
    assert not endings.goes_on(home)


def test_a_run_that_is_taken_back_while_the_trash_is_emptied_stays_whole(home, monkeypatch):
    jobs = Jobs(home.database)
    kept, gone = (made.ended(home, "finished", f"run-{n}") for n in range(2))  # the newest goes first
    for id in (gone, kept):
        jobs.delete(id)
    remove = space._remove

    def meanwhile(folder):
        if folder == home.run(gone):
            jobs.restore(kept)  # in another tab
        remove(folder)

    monkeypatch.setattr(space, "_remove", meanwhile)
    assert space.empty_trash(home, time.time() + 1) == [gone]
    assert home.run(kept).is_dir() and not home.run(gone).exists()
