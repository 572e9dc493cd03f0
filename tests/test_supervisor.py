"""The supervisor's tick, with an executor whose workers live and die on command; and the real process."""

import os
import signal
import stat

import psutil
import pytest

from lora_ui import supervisor
from lora_ui.home import Home, write_json
from lora_ui.supervisor import OTHER_GRACE_SECONDS, STARTING_SECONDS, Supervisor


class Workers:
    """Ten lines that stand in for processes: alive until told otherwise."""

    def __init__(self):
        self.living, self.tokens, self.stops = set(), {}, []

    def start(self, job, folder, token):
        self.living.add(job.id)
        self.tokens[job.id] = token
        return 4_000_000, 1.0, "boot"

    def alive(self, job):
        return job.id in self.living

    def stop(self, job, force):
        self.stops.append((job.id, force))
        if force:
            self.living.discard(job.id)

    def how_it_ended(self, job):
        return "signal SIGKILL"


@pytest.fixture
def home(tmp_path):
    return Home.open(tmp_path / "home")


@pytest.fixture
def boss(home):
    return Supervisor(home, Workers(), ["cpu"])


def finish(home, job, state="finished", error=None, result=None):
    folder = home.job(job.kind, job.id, job.run_id, job.dataset)
    write_json(folder / "outcome.json", {"state": state, "error": error, "result": result, "phases": {}, "time": 0})


def test_a_run_starts_runs_and_ends_with_its_outcome(home, boss):
    job = boss.jobs.submit("train", {})
    boss.tick(1)
    assert boss.jobs.get(job.id).state == "running" and (home.run(job.id) / "job.json").exists()
    finish(home, job, result={"step": 3})
    boss.executor.living.clear()
    boss.tick(2)
    assert (boss.jobs.get(job.id).state, boss.jobs.get(job.id).result) == ("finished", {"step": 3})


def test_a_worker_without_a_last_word_is_interrupted_and_explained(home, boss):
    job = boss.jobs.submit("train", {})
    boss.tick(1)
    (home.run(job.id) / "log.txt").write_text("loading\nCUDA went away\n")
    boss.executor.living.clear()
    boss.tick(2)
    died = boss.jobs.get(job.id)
    assert died.state == "interrupted" and died.error["kind"] == "WorkerDied"
    assert "signal SIGKILL" in died.error["message"] and "CUDA went away" in died.error["cause"]


def test_an_outcome_of_an_earlier_attempt_is_not_believed(home, boss):
    job = boss.jobs.submit("train", {})
    boss.tick(1)
    finish(home, job, "failed", {"kind": "Bug"})
    boss.executor.living.clear()
    boss.tick(2)
    boss.jobs.resume(job.id)
    boss.tick(3)
    boss.executor.living.clear()
    boss.tick(4)
    assert boss.jobs.get(job.id).error["kind"] == "WorkerDied"


def test_stopping_asks_then_ends_the_process_group(home, boss):
    job = boss.jobs.submit("merge", {}, run_id=boss.jobs.submit("train", {}).id)
    boss.jobs.ask_to_stop(job.run_id)
    boss.tick(0)
    boss.jobs.ask_to_stop(job.id)
    boss.tick(10)
    boss.tick(10 + OTHER_GRACE_SECONDS)
    assert boss.executor.stops == [(job.id, False)]
    boss.tick(11 + OTHER_GRACE_SECONDS)
    boss.tick(12 + OTHER_GRACE_SECONDS)
    assert boss.executor.stops == [(job.id, False), (job.id, True)]
    assert boss.jobs.get(job.id).state == "stopped"


def test_a_chat_gives_way_to_a_run(home, boss):
    chat = boss.jobs.submit("chat", {})
    boss.tick(1)
    run = boss.jobs.submit("train", {})
    boss.tick(2)
    boss.tick(3)
    assert (chat.id, False) in boss.executor.stops
    finish(home, chat, "stopped")
    boss.executor.living.discard(chat.id)
    boss.tick(4)
    assert boss.jobs.get(run.id).state == "running"


def test_a_token_goes_to_the_worker_once_and_a_lost_one_is_said(home, boss):
    boss.tokens["handle"] = "hf_canary"
    job = boss.jobs.submit("push", {"token_handle": "handle"}, run_id=boss.jobs.submit("train", {}).id)
    boss.tick(1)
    assert boss.executor.tokens[job.id] == "hf_canary" and boss.tokens == {}
    lost = boss.jobs.submit("push", {"token_handle": "other"}, run_id=job.run_id)
    boss.tick(2)
    assert (boss.jobs.get(lost.id).state, boss.jobs.get(lost.id).error["kind"]) == ("interrupted", "TokenMissing")
    assert not any(b"hf_canary" in p.read_bytes() for p in home.root.rglob("*") if p.is_file())


def test_a_new_supervisor_adopts_a_worker_that_was_never_written_down(home, boss):
    job = boss.jobs.submit("train", {})
    claimed = boss.jobs.claim(["cpu"])
    home.run(job.id).mkdir()
    write_json(home.run(job.id) / "heartbeat", {"pid": 7, "pid_start": 1.0, "boot_id": "b", "time": claimed.started + 1})
    boss.executor.living.add(job.id)
    boss.tick(claimed.started + 2)
    assert (boss.jobs.get(job.id).state, boss.jobs.get(job.id).pid) == ("running", 7)


def test_a_job_claimed_by_a_supervisor_that_died_is_interrupted(boss):
    job = boss.jobs.submit("train", {})
    claimed = boss.jobs.claim(["cpu"])
    boss.tick(claimed.started + 1)
    assert boss.jobs.get(job.id).state == "starting"
    boss.tick(claimed.started + STARTING_SECONDS + 1)
    assert boss.jobs.get(job.id).state == "interrupted"


def test_it_is_idle_ten_minutes_after_its_last_job(boss):
    boss.jobs.submit("train", {})
    boss.tick(1000)
    assert not boss.idle(1000 + 599) and boss.idle(1000 + 601)


def test_one_process_per_home_that_survives_its_starter_and_leaves_when_its_lock_goes(home):
    supervisor.ensure(home)
    first = supervisor.living(home)
    supervisor.ensure(home)
    assert supervisor.living(home) == first
    process = psutil.Process(first["pid"])
    assert process.cmdline()[-1] == str(home.root) and os.getsid(first["pid"]) == first["pid"]
    assert stat.S_IMODE(home.supervisor_socket.stat().st_mode) == 0o600
    home.supervisor_lock.unlink()
    psutil.wait_procs([process], timeout=20)
    assert not process.is_running()


def test_a_supervisor_that_was_killed_is_replaced(home):
    supervisor.ensure(home)
    process = psutil.Process(supervisor.living(home)["pid"])
    os.kill(process.pid, signal.SIGKILL)
    process.wait(20)
    supervisor.ensure(home)
    again = supervisor.living(home)
    assert again["pid"] != process.pid
    os.kill(again["pid"], signal.SIGTERM)
    psutil.wait_procs([psutil.Process(again["pid"])], timeout=20)


def test_a_home_with_a_very_long_path_works(tmp_path):
    home = Home.open(tmp_path / ("long-" * 20) / ("folder-" * 10))
    supervisor.ensure(home)
    pid = supervisor.living(home)["pid"]
    assert psutil.pid_exists(pid) and len(str(home.supervisor_socket)) > 108
    os.kill(pid, signal.SIGTERM)
    psutil.wait_procs([psutil.Process(pid)], timeout=20)
