"""What only an NVIDIA GPU can show: the run gets one GPU, calculates there, and gives its memory back. `make gpu`."""

import pynvml
import pytest

from lora_ui import machine, memory, runs
from lora_ui.home import read_json
from lora_ui.worker import attention

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


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_rows_end_to_end_are_each_row_alone(family: str) -> None:
    """FlashAttention through torch against the padded calculation in float32, with and without a sliding window."""
    import torch

    from tests.worker.test_attention import end_to_end, made, rows

    attention.register()
    ids, exact = [one.cuda() for one in rows()], made(family, "eager").cuda()
    expected = torch.cat([exact(one, use_cache=False).logits for one in ids], 1)
    usual = torch.cat([made(family, "sdpa").cuda().bfloat16()(one, use_cache=False).logits for one in ids], 1)
    told = {name: one.cuda() if isinstance(one, torch.Tensor) else one for name, one in end_to_end(ids).items()}
    found = made(family, memory.VARLEN).cuda().bfloat16()(**told).logits
    assert (found - expected).abs().max() < 1.5 * (usual - expected).abs().max()


def test_two_runs_on_one_gpu_go_one_after_the_other(home, tiny, until):
    first, second = (runs.start(home, tiny(), None) for _ in range(2))
    until(second.id)
    if len(machine.look().gpus) == 1:
        assert runs.show(home, first.id)["ended"] <= runs.show(home, second.id)["started"]
    else:
        assert runs.show(home, second.id)["started"] < runs.show(home, first.id)["ended"]
