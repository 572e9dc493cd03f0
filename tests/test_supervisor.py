"""The supervisor's tick, with an executor whose workers live and die on command; and the real process."""

import os
import signal
import stat
from dataclasses import replace

import psutil
import pytest

from lora_ui import endings, machine, supervisor
from lora_ui.home import Home, write_json
from lora_ui.jobs import BUSY
from lora_ui.supervisor import (
    ASLEEP_SECONDS,
    GRACE_SECONDS,
    LAST_SECONDS,
    LEARNED_GRACE_SECONDS,
    STALL_SECONDS,
    STARTING_SECONDS,
    Supervisor,
)


class Workers:
    """Ten lines that stand in for processes: alive until told otherwise."""

    def __init__(self):
        self.living, self.tokens, self.stops, self.swept, self.dumped, self.code = set(), {}, [], [], [], -9
        self.warmed = []

    def start(self, job, folder, token):
        self.living.add(job.id)
        self.tokens[job.id] = token
        return 4_000_000, 1.0, machine.boot_id()

    def warm(self, lease, log):
        self.warmed.append(lease)

    def alive(self, job):
        return job.id in self.living

    def stop(self, job, folder, force):
        self.stops.append((job.id, force))
        if force:
            self.living.discard(job.id)

    def sweep(self, folder):
        self.swept.append(folder)

    def dump(self, job, folder):
        self.dumped.append(job.id)

    def exit_code(self, job):
        return self.code


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


def test_a_worker_is_kept_warm_for_the_next_free_place(home, boss):
    boss.leases = ["gpu:1", "gpu:2"]
    boss.tick(1)
    first = boss.jobs.submit("train", {})
    boss.tick(2)
    boss.jobs.submit("train", {})
    boss.tick(3)
    finish(home, first)
    boss.executor.living.discard(first.id)
    boss.tick(4)
    assert boss.executor.warmed == ["gpu:1", "gpu:2", None, "gpu:1"]


def test_a_worker_without_a_last_word_is_interrupted_and_explained(home, boss):
    job = boss.jobs.submit("train", {})
    boss.tick(1)
    (home.run(job.id) / "log.txt").write_text("loading\nCUDA went away\n")
    boss.executor.living.clear()
    boss.executor.code = 3
    boss.tick(2)
    died = boss.jobs.get(job.id)
    assert died.state == "interrupted" and died.error["kind"] == "WorkerDied"
    assert "exit code 3" in died.error["message"] and "CUDA went away" in died.error["cause"]
    assert boss.executor.swept == [home.run(job.id)]


def test_an_outcome_of_an_earlier_attempt_is_not_believed(home, boss):
    job = boss.jobs.submit("train", {})
    boss.tick(1)
    finish(home, job, "failed", {"kind": "Bug"})
    boss.executor.living.clear()
    boss.tick(2)
    boss.jobs.resume(job.id)
    boss.tick(3)
    boss.executor.living.clear()
    boss.executor.code = -11
    boss.tick(4)
    assert "SIGSEGV" in boss.jobs.get(job.id).error["message"]


def test_stopping_asks_then_ends_the_process_group(home, boss):
    job = boss.jobs.submit("merge", {}, run_id=boss.jobs.submit("train", {}).id)
    boss.jobs.ask_to_stop(job.run_id)
    boss.tick(0)
    boss.jobs.ask_to_stop(job.id)
    boss.tick(10)
    boss.tick(10 + GRACE_SECONDS)
    assert boss.executor.stops == [(job.id, False)]
    boss.tick(11 + GRACE_SECONDS)
    boss.tick(12 + GRACE_SECONDS)
    assert boss.executor.stops == [(job.id, False), (job.id, False)]
    boss.tick(11 + GRACE_SECONDS + LAST_SECONDS)
    boss.tick(12 + GRACE_SECONDS + LAST_SECONDS)
    assert boss.executor.stops == [(job.id, False), (job.id, False), (job.id, True)]
    ended = boss.jobs.get(job.id)
    assert (ended.state, ended.error["kind"]) == ("stopped", "EndedByForce")


def test_a_run_that_has_learned_something_gets_the_time_to_save_it(home, boss):
    job = boss.jobs.submit("train", {})
    boss.tick(0)
    beat(home, job, 40, time=10)
    boss.jobs.ask_to_stop(job.id)
    for now in range(0, int(LEARNED_GRACE_SECONDS) + 1, 10):
        boss.tick(now)
    assert boss.executor.stops == [(job.id, False)]
    boss.tick(LEARNED_GRACE_SECONDS + 1)
    assert boss.executor.stops == [(job.id, False), (job.id, False)]


def beat(home, job, step, time, moved=None, seconds=1.0):
    """A heartbeat of a run at `step` that began at step 0, each step taking `seconds`."""
    said = {"pid": 4_000_000, "pid_start": 1.0, "boot_id": machine.boot_id(), "time": time, "moved": moved or time, "phase": "train"}
    progress = {"phases": {"train": seconds * step}, "done": step, "total": 100, "unit": "steps", "since": 0}
    write_json(home.run(job.id) / "heartbeat", {**said, **progress})


def die(boss, now, code=-9):
    boss.executor.living.clear()
    boss.executor.code = code
    boss.tick(now)


def test_two_hundred_waiting_jobs_drain_in_order(home, boss):
    queued = [boss.jobs.submit("train", {}).id for _ in range(200)]
    began = []
    for now in range(1, 203):
        boss.tick(now)
        for job in boss.jobs.all(states=BUSY):
            began.append(job.id)
            finish(home, job)
            boss.executor.living.discard(job.id)
    assert began == queued and {job.state for job in boss.jobs.all()} == {"finished"}


def test_a_run_that_was_killed_goes_on_by_itself_before_all_others(home, boss):
    job, waiting = boss.jobs.submit("train", {"token_handle": "used"}), boss.jobs.submit("train", {})
    boss.tokens["used"] = "hf_canary"
    boss.tick(1)
    beat(home, job, 40, time=2)
    die(boss, 3)
    again = boss.jobs.get(job.id)
    assert (again.state, again.attempt, again.error, again.params["token_handle"]) == ("running", 2, None, None)
    assert [(end["kind"], end["reached"]) for end in again.interruptions] == [("KilledFromOutside", 40)] and again.interruptions[0]["again"]
    assert boss.jobs.get(waiting.id).state == "queued"


def test_it_goes_on_three_times_without_getting_further_then_waits_for_a_person(home, boss):
    job = boss.jobs.submit("train", {})
    boss.tick(1)
    for step in (10, 20, 20, 20):
        beat(home, job, step, time=2)
        die(boss, 3)
        assert boss.jobs.get(job.id).state == "running"
    beat(home, job, 15, time=2)
    die(boss, 4)
    stuck = boss.jobs.get(job.id)
    assert (stuck.state, stuck.error["kind"], len(stuck.interruptions)) == ("interrupted", "KilledFromOutside", 5)
    boss.jobs.resume(job.id)
    boss.tick(5)
    die(boss, 6)
    assert boss.jobs.get(job.id).state == "running"


def test_a_newer_save_point_is_progress(home, boss):
    job = boss.jobs.submit("train", {})
    boss.tick(1)
    for step in range(1, 8):
        (home.run(job.id) / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
        die(boss, step + 1)
        assert boss.jobs.get(job.id).state == "running"


def test_going_on_can_be_switched_off_and_a_crash_of_its_own_waits(home, boss):
    job = boss.jobs.submit("train", {})
    boss.tick(1)
    write_json(home.preferences, {"goes_on": False})
    die(boss, 2)
    assert boss.jobs.get(job.id).state == "interrupted"
    write_json(home.preferences, {"goes_on": True})
    for code in (1, -11, -6):
        boss.jobs.resume(job.id)
        boss.tick(3)
        die(boss, 4, code)
        assert (boss.jobs.get(job.id).state, boss.jobs.get(job.id).error["kind"]) == ("interrupted", "WorkerDied")


def test_a_run_whose_token_is_gone_says_so_instead_of_going_on(boss):
    boss.tokens["used"] = "hf_canary"
    job = boss.jobs.submit("train", {"token_handle": "used"})
    boss.tick(1)
    die(boss, 2)
    there = boss.jobs.get(job.id)
    assert (there.state, there.error["kind"]) == ("interrupted", "TokenMissing")


def test_a_worker_that_the_system_asked_to_end_was_not_stopped_by_a_person(home, boss):
    job = boss.jobs.submit("train", {})
    boss.tick(1)
    finish(home, job, "stopped")
    die(boss, 2, 0)
    assert boss.jobs.get(job.id).state == "running"
    assert boss.jobs.get(job.id).interruptions[0]["kind"] == "KilledFromOutside"


@pytest.mark.parametrize(
    ("code", "boot", "kills", "kind"),
    [
        (-9, None, 0, "KilledFromOutside"),
        (-9, None, -1, "KilledForMemory"),
        (-15, None, -1, "KilledFromOutside"),
        (None, None, 0, "WorkerLost"),
        (None, "before", 0, "MachineRestarted"),
        (-11, None, -1, "WorkerDied"),
    ],
)
def test_each_end_has_its_own_certificate(home, boss, code, boot, kills, kind):
    """`kills`: how many fewer the kernel had killed for memory when the worker started."""
    job = boss.jobs.submit("train", {})
    boss.tick(1)
    boss.jobs.started(job.id, 1, 1.0, machine.boot_id())
    spec = endings.said(home.run(job.id) / "job.json")
    write_json(home.run(job.id) / "job.json", {**spec, "oom_kills": machine.oom_kills() + kills})
    there = replace(boss.jobs.get(job.id), boot_id=boot or machine.boot_id())
    made = endings.certificate(there, home.run(job.id), code)
    assert made.kind == kind and made.message and "Nothing had been saved yet" in made.fix
    (home.run(job.id) / "checkpoints" / "step-000040").mkdir(parents=True)
    made = endings.certificate(there, home.run(job.id), code)
    assert f"Everything up to step 40 is saved in {home.run(job.id)}, the adapter too" in made.fix
    assert "What was there before is as it was" in endings.certificate(replace(there, kind="merge"), home.run(job.id), code).fix


def test_no_sign_of_life_is_said_with_the_stacks_kept_and_taken_back_when_it_moves(home, boss):
    job = boss.jobs.submit("train", {})
    boss.tick(1000)
    beat(home, job, 10, time=1000)
    ticks(boss, 1000, 1000 + STALL_SECONDS)
    assert boss.jobs.get(job.id).stalled is None and boss.executor.dumped == []
    ticks(boss, 1000 + STALL_SECONDS, 1100 + STALL_SECONDS)
    assert boss.jobs.get(job.id).stalled == 1000 and boss.executor.dumped == [job.id]
    beat(home, job, 11, time=1160)
    boss.tick(1101 + STALL_SECONDS)
    assert boss.jobs.get(job.id).stalled is None


def test_work_that_hangs_while_its_heart_beats_is_stalled_after_ten_steps_time(home, boss):
    job = boss.jobs.submit("train", {})
    boss.tick(1000)
    for now in range(1000, 1320, 10):
        beat(home, job, 10, time=now, moved=1000, seconds=30)
        boss.tick(now)
        assert (boss.jobs.get(job.id).stalled is not None) == (now > 1300)


def test_a_machine_that_slept_and_a_clock_that_jumps_stall_nothing(home, boss):
    job = boss.jobs.submit("train", {})
    boss.tick(1000)
    beat(home, job, 10, time=1000)
    boss.tick(1000 + ASLEEP_SECONDS + 100_000)
    assert boss.jobs.get(job.id).stalled is None
    boss.tick(500)
    assert boss.jobs.get(job.id).stalled is None and boss.jobs.get(job.id).state == "running"


def ticks(boss, start, end):
    now = start
    while now <= end:
        boss.tick(now)
        now += 10


def test_a_heartbeat_full_of_holes_ends_nobody(home, boss):
    job = boss.jobs.submit("train", {})
    boss.tick(1)
    (home.run(job.id) / "heartbeat").write_bytes(b"\0" * 100)
    (home.run(job.id) / "outcome.json").write_bytes(b"")
    boss.tick(2)
    die(boss, 3)
    assert boss.jobs.get(job.id).state == "running"


def test_a_run_that_ended_while_nobody_watched_is_believed_once_and_for_all(home, boss):
    job = boss.jobs.submit("train", {})
    boss.tick(1)
    finish(home, job, result={"step": 3})
    boss.executor.living.clear()
    boss.executor.code = None
    later = Supervisor(home, boss.executor, ["cpu"])
    later.tick(2)
    there = later.jobs.get(job.id)
    assert (there.state, there.result, there.attempt) == ("finished", {"step": 3}, 1)
    for again in (later, boss, Supervisor(home, boss.executor, ["cpu"])):
        again.tick(3)
    assert later.jobs.get(job.id) == there


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
    write_json(home.run(job.id) / "heartbeat", {"pid": 7, "pid_start": 1.0, "boot_id": machine.boot_id(), "time": claimed.started + 1})
    boss.executor.living.add(job.id)
    boss.tick(claimed.started + 2)
    assert (boss.jobs.get(job.id).state, boss.jobs.get(job.id).pid) == ("running", 7)


def test_a_job_claimed_by_a_supervisor_that_died_is_interrupted(boss):
    job = boss.jobs.submit("train", {})
    claimed = boss.jobs.claim(["cpu"])
    boss.tick(claimed.started + 1)
    assert boss.jobs.get(job.id).state == "starting"
    boss.executor.code = None
    boss.tick(claimed.started + STARTING_SECONDS + 1)
    assert boss.jobs.get(job.id).interruptions[0]["kind"] == "WorkerLost"
    assert boss.executor.swept == [boss.home.run(job.id)]


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
