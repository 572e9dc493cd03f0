"""A worker that has loaded the libraries and waits: real processes, taken by a run, refused, killed, frozen, and left alone."""

import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from lora_ui import runs, settings, supervisor
from lora_ui.executors import standby
from lora_ui.executors.local import MARK, Local
from lora_ui.executors.standby import SWITCH, Standby, wanted
from lora_ui.home import Home, read_json
from lora_ui.supervisor import Supervisor
from tests.train.inside import folder_of, outcome
from tests.train.test_failures import limited, wide
from tests.train.test_supervised import state, ticked

pytestmark = pytest.mark.train
CANARY = "hf_canaryCANARYcanary0123456789"


@pytest.fixture
def boss(home, monkeypatch):
    monkeypatch.setenv(SWITCH, "on")
    boss = Supervisor(home, Local(), ["cpu"])
    yield boss
    boss.executor.warm(None, home.standby_log)
    for job in boss.jobs.all(states=("starting", "running")):
        boss.executor.sweep(boss._folder(job))


def queue(boss, raw, **params):
    return boss.jobs.submit("train", {**runs.asked(boss.home, raw), "env": {}, **params})


def loaded(boss) -> psutil.Process:
    """The process of a standby that has everything loaded."""
    ticked(boss, lambda: boss.executor._standby is not None and boss.executor._standby.ready())
    return psutil.Process(boss.executor._standby.pid)


def gone(process: psutil.Process) -> bool:
    psutil.wait_procs([process], timeout=20)
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def threads_nice(pid: int) -> set[int]:
    """Of all its threads: field 19 of proc(5)'s stat."""
    lines = [path.read_text().rpartition(")")[2].split() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return {int(fields[16]) for fields in lines}


def asleep(process: psutil.Process) -> bool:
    """Torch is loaded, and so is everything else: the thread that did it has ended."""
    return process.memory_info().rss > 300 * 2**20 and threads_nice(process.pid) == {psutil.Process().nice()}


def test_a_run_in_a_standby_is_the_run_of_a_cold_worker(home, boss, tiny):
    first = loaded(boss)
    assert os.getsid(first.pid) == first.pid and first.cwd() == str(Path.cwd())
    cold = queue(boss, tiny(max_steps=2))
    boss.tick(time.time())
    assert boss.jobs.get(cold.id).pid == first.pid and boss.executor._standby is None
    boss.executor.sweep(home.run(cold.id))  # finds it by the mark it was born with, and kills it
    ticked(boss, lambda: boss.jobs.get(cold.id).interruptions, 20)
    ticked(boss, lambda: state(boss, cold) == "finished")  # nothing is lost: it went on in a cold worker
    assert [end["kind"] for end in boss.jobs.get(cold.id).interruptions] == ["KilledFromOutside"]

    second = loaded(boss)
    assert threads_nice(second.pid) == {psutil.Process().nice()}
    boss.tokens["handle"] = CANARY
    warm = queue(boss, tiny(max_steps=2), token_handle="handle")
    boss.tick(time.time())
    there = boss.jobs.get(warm.id)
    assert there.pid == second.pid and there.pid_start == pytest.approx(second.create_time(), abs=0.05)
    seen = Path(f"/proc/{second.pid}/environ").read_bytes() + Path(f"/proc/{second.pid}/cmdline").read_bytes()
    assert CANARY.encode() not in seen
    ticked(boss, lambda: state(boss, warm) == "finished")
    assert not [path for path in home.root.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    weights = [home.run(job.id) / "adapter" / "adapter_model.safetensors" for job in (cold, warm)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert "'train_loss'" in (home.run(warm.id) / "log.txt").read_text()
    assert boss.executor._standby.pid != second.pid


def older(boss, process):
    """As after an update: what a cold worker would load is newer than what this one has loaded."""
    boss.executor._standby._code = [(path, changed - 1, size) for path, changed, size in boss.executor._standby._code]


REFUSED = {
    "another-hub": ({"env": {"HF_ENDPOINT": "http://127.0.0.1:9"}}, lambda boss, process: None),
    "other-code": ({}, older),
    "killed": ({}, lambda boss, process: process.kill()),
    "frozen": ({}, lambda boss, process: process.suspend()),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_job_that_cannot_have_it_starts_cold_and_it_is_gone(boss, tiny, why):
    process, (params, change) = loaded(boss), REFUSED[why]
    job = queue(boss, tiny(max_steps=1), **params)
    change(boss, process)
    boss.tick(time.time())
    assert state(boss, job) == "running" and boss.jobs.get(job.id).pid != process.pid and gone(process)
    environment = psutil.Process(boss.jobs.get(job.id).pid).environ()
    assert environment[MARK] == str(boss.home.run(job.id))
    assert environment.get("HF_ENDPOINT") == params.get("env", os.environ).get("HF_ENDPOINT")


def test_one_that_is_not_ready_is_not_waited_for_and_the_next_has_the_settings_of_the_last_job(boss):
    for params in ({"env": {}}, {"env": {"HF_ENDPOINT": "http://127.0.0.1:9"}}):
        ticked(boss, lambda: boss.executor._standby is not None)
        early = psutil.Process(boss.executor._standby.pid)
        job = boss.jobs.submit("chat", {**params, "run_id": None})
        boss.tick(time.time())
        assert boss.jobs.get(job.id).pid != early.pid and gone(early) and boss.executor._standby is None
        boss.executor.sweep(boss._folder(job))
    ticked(boss, lambda: boss.executor._standby is not None)
    assert psutil.Process(boss.executor._standby.pid).environ()["HF_ENDPOINT"] == "http://127.0.0.1:9"


def test_it_sees_the_gpu_of_the_next_job_alone_and_is_there_only_for_a_free_one(boss, monkeypatch):
    monkeypatch.delenv(SWITCH)
    boss.leases = ["gpu:GPU-1", "gpu:GPU-2"]
    boss.tick(time.time())
    one = psutil.Process(boss.executor._standby.pid)
    assert one.environ()["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    boss.jobs.submit("chat", {"run_id": None})
    boss.jobs.claim(boss.leases)
    boss.tick(time.time())
    two = psutil.Process(boss.executor._standby.pid)
    assert two.environ()["CUDA_VISIBLE_DEVICES"] == "GPU-2" and gone(one)
    boss.jobs.submit("chat", {"run_id": None})
    boss.jobs.claim(boss.leases)
    boss.tick(time.time())
    assert boss.executor._standby is None and gone(two)


def test_only_beside_a_gpu_unless_a_person_says_otherwise(monkeypatch):
    monkeypatch.delenv(SWITCH, raising=False)
    assert [wanted(lease) for lease in ("gpu:1", "mps", "cpu")] == [True, False, False]
    monkeypatch.setenv(SWITCH, "on")
    assert wanted("cpu")
    monkeypatch.setenv(SWITCH, "off")
    assert not wanted("gpu:1")


def test_it_needs_room_and_gives_it_back(boss, monkeypatch):
    monkeypatch.setattr(standby, "START_BYTES", 2**60)
    boss.tick(time.time())
    assert boss.executor._standby is None
    monkeypatch.setattr(standby, "START_BYTES", 0)
    boss.tick(time.time())
    process = psutil.Process(boss.executor._standby.pid)
    monkeypatch.setattr(standby, "STAY_BYTES", 2**60)
    monkeypatch.setattr(standby, "START_BYTES", 2**60)
    boss.tick(time.time())
    assert boss.executor._standby is None and gone(process)


def test_one_that_ends_by_itself_is_not_started_again_and_again(boss):
    boss.tick(time.time())
    psutil.Process(boss.executor._standby.pid).kill()
    psutil.wait_procs([psutil.Process(boss.executor._standby.pid)], timeout=20)
    for _ in range(3):
        boss.tick(time.time())
        assert boss.executor._standby is None


def test_it_leaves_with_its_supervisor(home, monkeypatch):
    monkeypatch.setenv(SWITCH, "on")
    supervisor.ensure(home)
    there = psutil.Process(supervisor.living(home)["pid"])
    pause, children, deadline = threading.Event(), [], time.monotonic() + 60
    while not children and time.monotonic() < deadline:
        pause.wait(0.05)  # nobody sets it
        children = [child for child in there.children() if str(home.standby_log) in child.cmdline()]
    assert len(children) == 1
    while not asleep(children[0]) and time.monotonic() < deadline:
        pause.wait(0.05)
    there.send_signal(signal.SIGKILL)
    assert gone(children[0])


def test_out_of_memory_in_a_standby_starts_again_as_an_ordinary_worker(tmp_path):
    half = settings.merge(wide(tmp_path), {"training": {"global_batch_size": 128, "per_device_train_batch_size": 128}})
    folder = folder_of(Home.open(tmp_path / "home"), half, "half")
    limit = {"PYTHONPATH": limited(tmp_path, 700_000_000), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, **limit}
    ready = Standby(environment, tmp_path / "standby.txt")
    pause = threading.Event()
    while not ready.ready():
        assert ready.alive(), (tmp_path / "standby.txt").read_text()
        pause.wait(0.05)  # nobody sets it
    child = ready.take(environment, folder, None)
    assert child is not None and child.wait(120) == 0
    assert outcome(folder)["state"] == "finished" and (folder / "log.txt").read_text().count("Starting again, once") == 1
    assert read_json(folder / "decided.json")["training.per_device_train_batch_size"]["value"] == 32
