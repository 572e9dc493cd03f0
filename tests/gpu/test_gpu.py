"""What only an NVIDIA GPU can show: the run gets one GPU, calculates there, and gives its memory back. `make gpu`."""

import pynvml
import pytest

from lora_ui import machine, runs
from lora_ui.home import read_json

pytestmark = pytest.mark.gpu


def used_bytes() -> int:
    pynvml.nvmlInit()
    try:
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)
    finally:
        pynvml.nvmlShutdown()


@pytest.mark.parametrize("precision", [{}, {"load_in_4bit": True}, {"load_in_8bit": True}], ids=["16-bit", "4-bit", "8-bit"])
def test_a_run_learns_on_the_gpu_and_gives_its_memory_back(home, tiny, until, precision):
    before = used_bytes()
    job = runs.start(home, tiny(model=precision, max_steps=12), None)
    assert until(job.id)["state"] == "finished", runs.log(home, job.id, 40)
    shown = runs.show(home, job.id)
    decided = read_json(home.run(job.id) / "decided.json")
    assert decided["machine.device"]["value"] == "cuda"
    assert decided["machine.dtype"]["value"] == ("bfloat16" if machine.look().gpus[0].capability >= (8, 0) else "float16")
    assert shown["train_loss"]["last"] < shown["train_loss"]["first"] and 0 < shown["memory"]["measured_bytes"] < 2**33
    assert used_bytes() - before < 64 * 2**20


def test_two_runs_on_one_gpu_go_one_after_the_other(home, tiny, until):
    first, second = (runs.start(home, tiny(), None) for _ in range(2))
    until(second.id)
    if len(machine.look().gpus) == 1:
        assert runs.show(home, first.id)["ended"] <= runs.show(home, second.id)["started"]
    else:
        assert runs.show(home, second.id)["started"] < runs.show(home, first.id)["ended"]
