"""A supervisor in this process over real workers: several at once, frozen ones, killed ones, and what they leave behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from lora_ui import machine, runs
from lora_ui.executors.local import MARK, Local
from lora_ui.home import read_json, write_json
from lora_ui.supervisor import GRACE_SECONDS, LAST_SECONDS, STALL_SECONDS, Supervisor

pytestmark = pytest.mark.train
LONG = {"max_steps": 100_000, "save_steps": 20, "logging_steps": 50}


@pytest.fixture
def boss(home):
    boss = Supervisor(home, Local(), ["cpu:0", "cpu:1"])  # two places to work, as two GPUs would be
    yield boss
    for job in boss.jobs.all(states=("starting", "running")):
        boss.executor.sweep(boss._folder(job))


@pytest.fixture
def queue(home, boss, tiny):
    def add(**training):
        return boss.jobs.submit("train", {**runs.asked(home, tiny(**training)), "env": {}})

    return add


def ticked(boss, when, seconds=120):
    """Tick with the true time until `when()` holds."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not when():
        assert time.monotonic() < deadline, [
            (job.id, job.state, job.error, runs.job(boss.home, job.id)["phase"]) for job in boss.jobs.all()
        ]
        boss.tick(time.time())
        pause.wait(0.05)  # nobody sets it


def state(boss, job):
    return boss.jobs.get(job.id).state


def learning(boss, job):
    return lambda: runs.job(boss.home, job.id)["phase"] == "train"


def test_a_run_sees_its_own_gpu_alone(boss, queue):
    boss.leases = ["gpu:1"]
    job = queue(**LONG)
    boss.tick(time.time())
    assert boss.jobs.get(job.id).lease == "gpu:1"
    assert psutil.Process(boss.jobs.get(job.id).pid).environ()["CUDA_VISIBLE_DEVICES"] == "1"


def test_two_runs_side_by_side_and_a_third_that_waits(boss, queue):
    first, second, third = queue(**LONG), queue(**LONG), queue(max_steps=2)
    ticked(boss, lambda: learning(boss, first)() and learning(boss, second)())
    one, two = boss.jobs.get(first.id), boss.jobs.get(second.id)
    assert {one.lease, two.lease} == {"cpu:0", "cpu:1"} and state(boss, third) == "queued"
    assert os.getsid(one.pid) == one.pid
    boss.jobs.ask_to_stop(first.id)
    ticked(boss, lambda: state(boss, third) == "finished")
    assert boss.jobs.get(third.id).attempt == 1 and state(boss, first) == "stopped" and state(boss, second) == "running"
    assert (boss.home.run(first.id) / "adapter").is_dir()


def test_a_frozen_worker_is_stalled_with_its_stacks_and_a_stop_still_keeps_what_it_learned(boss, queue):
    job = queue(**LONG)
    ticked(boss, learning(boss, job))
    process = psutil.Process(boss.jobs.get(job.id).pid)
    process.suspend()
    now = time.time()
    for later in range(0, int(STALL_SECONDS) + 30, 10):
        boss.tick(now + later)
    shown = runs.show(boss.home, job.id)
    assert shown["stalled"] and shown["state"] == "running"
    runs_folder = boss.home.run(job.id)
    boss.jobs.ask_to_stop(job.id)
    ticked(boss, lambda: state(boss, job) == "stopped")
    assert (runs_folder / "adapter").is_dir() and boss.jobs.get(job.id).error is None
    assert "most recent call first" in (runs_folder / "stack.txt").read_text()  # it was awake again when faulthandler's signal reached it


def test_a_run_that_ends_without_a_last_word_leaves_an_adapter_that_merges(boss, queue):
    job = queue(**LONG)
    folder = boss.home.run(job.id)
    ticked(boss, lambda: (folder / "adapter").is_dir())
    boss.jobs.ask_to_stop(job.id)
    os.kill(boss.jobs.get(job.id).pid, signal.SIGKILL)
    ticked(boss, lambda: state(boss, job) == "stopped")
    assert not [path for path in folder.iterdir() if path.name.startswith((".tmp", ".reserve"))]
    shown = runs.show(boss.home, job.id)
    newest = folder / "checkpoints" / f"step-{shown['save_point']:06d}"
    assert (folder / "adapter/adapter_model.safetensors").read_bytes() == (newest / "adapter_model.safetensors").read_bytes()
    assert not [path.name for path in (folder / "adapter").iterdir() if path.suffix in (".pt", ".pth") or "manifest" in path.name]
    merge = boss.jobs.submit("merge", {"run_id": job.id, "dtype": None, "env": {}}, run_id=job.id)
    ticked(boss, lambda: state(boss, merge) == "finished")


DEAF = """
import signal, subprocess, sys, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "1000"])
strayed = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print(child.pid, strayed.pid, flush=True)
threading.Event().wait()
"""


def test_a_worker_that_does_not_hear_is_killed_with_all_it_started_and_says_so(home, boss):
    job = boss.jobs.submit("train", {})
    claimed = boss.jobs.claim(boss.leases)
    environment = {**os.environ, MARK: str(home.run(job.id))}
    (home.run(job.id) / "checkpoints" / "step-000040").mkdir(parents=True)
    deaf = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE, env=environment, start_new_session=True)
    all_of_it = [psutil.Process(pid) for pid in (deaf.pid, *map(int, deaf.stdout.readline().split()))]
    boss.jobs.started(claimed.id, deaf.pid, machine.process_start(deaf.pid), machine.boot_id())
    boss.jobs.ask_to_stop(job.id)
    now = time.time()
    for later in (0, GRACE_SECONDS + 1, GRACE_SECONDS + LAST_SECONDS + 1):
        boss.tick(now + later)
        assert state(boss, job) == "running"
    ticked(boss, lambda: state(boss, job) == "stopped", 20)
    error = boss.jobs.get(job.id).error
    assert (error["kind"], error["values"]["step"]) == ("EndedByForce", 40)
    psutil.wait_procs(all_of_it, timeout=10)
    assert not [p for p in all_of_it if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_a_second_request_ends_work_that_does_not_look_up(boss, queue):
    """While the libraries are imported nobody asks whether to stop; the second signal ends it there."""
    job = queue(**LONG)
    boss.tick(time.time())
    ticked(boss, lambda: (boss.home.run(job.id) / "heartbeat").exists())
    boss.jobs.ask_to_stop(job.id)
    now = time.time()
    boss.tick(now)
    boss.tick(now + GRACE_SECONDS + 1)
    ticked(boss, lambda: state(boss, job) == "stopped", 20)
    assert boss.jobs.get(job.id).error is None


def test_a_restarted_machine_is_said_and_the_run_goes_on(boss, queue):
    job = queue(max_steps=40, save_steps=5)
    ticked(boss, lambda: list((boss.home.run(job.id) / "checkpoints").glob("step-*")))
    there = boss.jobs.get(job.id)
    os.kill(there.pid, signal.SIGKILL)
    with boss.jobs._write() as db:
        db.execute("UPDATE jobs SET boot_id = 'before' WHERE id = ?", (job.id,))
    again = Supervisor(boss.home, Local(), ["cpu"])
    ticked(again, lambda: state(again, job) == "finished")
    shown = runs.show(boss.home, job.id)
    assert [end["kind"] for end in shown["interruptions"]] == ["MachineRestarted"] and shown["resumed_from"]


GROUPS = Path("/sys/fs/cgroup/memory") if Path("/sys/fs/cgroup/memory").is_dir() else Path("/sys/fs/cgroup")
IN_A_SMALL_GROUP = """
import os, sys, threading, time
from pathlib import Path
from lora_ui import machine
from lora_ui.executors.local import Local
from lora_ui.home import Home, write_json
from lora_ui.supervisor import Supervisor
Path(sys.argv[2], "cgroup.procs").write_text(str(os.getpid()))
home = Home(Path(sys.argv[1]))
write_json(home.preferences, {"goes_on": False})
boss = Supervisor(home, Local(), ["cpu"])
while any(job.state not in ("failed", "interrupted", "finished") for job in boss.jobs.all()):
    boss.tick(time.time())
    threading.Event().wait(0.05)
"""


@pytest.fixture
def small_group():
    """A control group with 160 MB of memory: enough for the supervisor, not for torch."""
    group = GROUPS / f"lora-ui-test-{os.getpid()}"
    try:
        group.mkdir()
        limit = group / ("memory.limit_in_bytes" if GROUPS.name == "memory" else "memory.max")
        limit.write_text(str(160 * 2**20))
    except OSError:
        pytest.skip("no control group can be made here")
    yield group
    group.rmdir()


def test_the_kernels_killing_for_memory_is_called_by_its_name(boss, queue, small_group):
    job = queue(**LONG)
    subprocess.run([sys.executable, "-c", IN_A_SMALL_GROUP, str(boss.home.root), str(small_group)], check=True, timeout=120)
    ended = boss.jobs.get(job.id)
    assert (ended.state, ended.error["kind"]) == ("interrupted", "KilledForMemory"), ended.error
    spec = read_json(boss.home.run(job.id) / "job.json")
    assert spec["oom_kills"] == 0
    write_json(boss.home.run(job.id) / "job.json", {**spec, "oom_kills": machine.oom_kills()})
