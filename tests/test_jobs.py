"""The job table: moves, leases, keys, order."""

import threading

import pytest

from lora_ui import errors
from lora_ui.jobs import Jobs


@pytest.fixture
def jobs(tmp_path):
    return Jobs(tmp_path / "lora_ui.db")


def test_the_same_key_gives_the_same_job_even_from_fifty_threads_at_once(jobs):
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.append(jobs.submit("train", {}, key="one").id)) for _ in range(50)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(made) == 50 and len(set(made)) == 1
    assert jobs.submit("train", {}, key="two").id != made[0]
    assert len(jobs.all()) == 2


def test_two_claims_never_share_a_lease_and_waiting_jobs_go_in_order(jobs):
    first, second, third = (jobs.submit("train", {}) for _ in range(3))
    assert [jobs.claim(["gpu:a", "gpu:b"]).id for _ in range(2)] == [first.id, second.id]
    assert jobs.claim(["gpu:a", "gpu:b"]) is None
    assert {jobs.get(first.id).lease, jobs.get(second.id).lease} == {"gpu:a", "gpu:b"}
    jobs.ended(first.id, "finished", None, {"x": 1})
    assert jobs.claim(["gpu:a", "gpu:b"]).id == third.id
    assert jobs.get(third.id).lease == "gpu:a" and jobs.get(first.id).result == {"x": 1}


def test_prepare_and_push_pass_a_busy_machine(jobs):
    jobs.submit("train", {})
    jobs.submit("train", {})
    push = jobs.submit("push", {})
    jobs.claim(["cpu"])
    assert jobs.claim(["cpu"]).id == push.id
    assert jobs.get(push.id).lease is None


def test_run_next_puts_a_waiting_run_first(jobs):
    first, second = jobs.submit("train", {}), jobs.submit("train", {})
    jobs.run_next(second.id)
    assert [job.id for job in jobs.queue()] == [second.id, first.id]


def test_a_waiting_job_stops_at_once_and_a_running_one_is_asked_once(jobs):
    waiting, busy = jobs.submit("train", {}), jobs.submit("train", {})
    assert jobs.ask_to_stop(waiting.id).state == "stopped"
    jobs.claim(["cpu"])
    asked = jobs.ask_to_stop(busy.id).stop_asked
    assert jobs.ask_to_stop(busy.id).stop_asked == asked and jobs.get(busy.id).state == "starting"


def test_illegal_moves_are_refused_by_name(jobs):
    job = jobs.submit("train", {})
    with pytest.raises(errors.IllegalMove, match="queued; it cannot be resumed"):
        jobs.resume(job.id)
    jobs.claim(["cpu"])
    with pytest.raises(errors.IllegalMove, match="starting; it cannot be deleted"):
        jobs.delete(job.id)
    jobs.ended(job.id, "finished", None, None)
    for act in (jobs.resume, jobs.ask_to_stop, jobs.run_next):
        with pytest.raises(errors.IllegalMove, match="finished"):
            act(job.id)
    jobs.ended(job.id, "failed", None, None)
    assert jobs.get(job.id).state == "finished"
    with pytest.raises(errors.NoSuchJob):
        jobs.get("../../etc/passwd")


def test_resume_goes_back_into_the_queue_and_counts_attempts(jobs):
    job = jobs.submit("train", {"a": 1})
    jobs.claim(["cpu"])
    jobs.ended(job.id, "interrupted", {"kind": "WorkerDied"}, None)
    again = jobs.resume(job.id, token_handle="h")
    assert (again.state, again.error, again.params) == ("queued", None, {"a": 1, "token_handle": "h"})
    assert jobs.claim(["cpu"]).attempt == 2


def test_the_trash_hides_and_gives_back(jobs):
    job = jobs.submit("train", {})
    jobs.delete(job.id)
    assert jobs.all() == [] and jobs.queue() == [] and [j.id for j in jobs.all(deleted=True)] == [job.id]
    jobs.restore(job.id)
    assert [j.id for j in jobs.all()] == [job.id]


def test_the_database_waits_for_the_disk(jobs):
    with jobs._open() as db:
        assert jobs.journal == "wal" and db.execute("PRAGMA synchronous").fetchone()[0] == 2


def test_the_jobs_of_a_run_are_found_without_reading_the_table(jobs):
    with jobs._open() as db:
        asked = db.execute("EXPLAIN QUERY PLAN SELECT * FROM jobs WHERE deleted IS NULL AND run_id = 'a' ORDER BY created DESC")
        assert "by_run" in " ".join(row["detail"] for row in asked)


def test_what_is_shown_is_the_newest_and_whatever_works_or_waits_first(jobs):
    made = [jobs.submit("train", {}).id for _ in range(12)]
    for id in made[1:]:
        jobs.ask_to_stop(id)
    jobs.claim(["cpu"])
    line = [jobs.submit("train", {}).id for _ in range(6)]
    jobs.submit("merge", {}, run_id=made[3])
    jobs.delete(made[11])
    assert [job.id for job in jobs.shown(2)] == [line[5], line[4], line[1], line[0], made[0]]
    assert jobs.counts() == (17, 1)
