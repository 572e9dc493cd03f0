"""What dies does not take a run with it: real processes, really killed."""

import os
import signal

import psutil
import pytest
import torch
from safetensors.torch import load_file

from lora_ui import metrics, runs, supervisor
from lora_ui.jobs import Jobs

pytestmark = pytest.mark.train


def weights(home, id):
    return load_file(home.run(id) / "adapter" / "adapter_model.safetensors")


def test_a_killed_supervisor_is_replaced_and_the_living_worker_adopted(home, tiny, until):
    job = runs.start(home, tiny(max_steps=300, save_steps=300, logging_steps=50), None)
    until(job.id, lambda there: there["phase"] == "train")
    worker = Jobs(home.database).get(job.id).pid
    os.kill(supervisor.living(home)["pid"], signal.SIGKILL)
    supervisor.ensure(home)
    assert Jobs(home.database).get(job.id).pid == worker
    there = until(job.id)
    assert (there["state"], there["error"]) == ("finished", None)
    assert len(Jobs(home.database).all("train")) == 1


def test_a_killed_worker_goes_on_by_itself_to_the_same_weights(home, tiny, until):
    raw = tiny(max_steps=60, save_steps=10, packing=False)
    reference = runs.start(home, raw, None)
    until(reference.id)
    job = runs.start(home, raw, None)
    until(job.id, lambda there: (there["done"] or 0) >= 15 and there["unit"] == "steps")
    os.kill(Jobs(home.database).get(job.id).pid, signal.SIGKILL)
    there = until(job.id)
    assert there["state"] == "finished" and [end["kind"] for end in there["interruptions"]] == ["KilledFromOutside"]
    assert runs.show(home, job.id)["resumed_from"].startswith("step-0000")
    one, two = weights(home, reference.id), weights(home, job.id)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert [row["step"] for row in metrics.read(home.run(job.id) / "metrics.jsonl") if "loss" in row] == list(range(1, 61))


def test_a_run_stopped_while_it_loads_ends_at_once_and_leaves_no_process(home, tiny, until):
    job = runs.start(home, tiny(max_steps=500), None)
    until(job.id, lambda there: there["state"] == "running")
    pid = Jobs(home.database).get(job.id).pid
    runs.stop(home, job.id)
    assert until(job.id, seconds=60)["state"] == "stopped"
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    assert not (home.run(job.id) / "adapter").exists()
