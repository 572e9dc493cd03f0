"""Merging weight after weight against loading, `merge_and_unload` and `save_pretrained`: the same 1.3 GB base of random weights in
seven files, a rank-16 adapter on every layer, by turns in processes of their own. Promise: the same bits, anonymous memory of at
most 2.2 files, at least twice as fast. Prints one line."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
ROUNDS = 3
SIZES = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 12, "num_attention_heads": 16, "num_key_value_heads": 8}


def make(at: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("llama", vocab_size=32000, tie_word_embeddings=True, **SIZES)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(at / "base", max_shard_size="200MB")
    wrapped = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    wrapped.save_pretrained(at / "adapter")


def anonymous() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def one(how: str, at: Path) -> None:
    """Merge once, the libraries imported before the clock starts; prints seconds, seconds of the processor, bytes."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from lora_ui.home import write_json
    from lora_ui.worker import load, merge
    from lora_ui.worker.job import Job

    write_json(at / "job.json", {"id": "merge", "kind": "merge", "run_id": "x", "home": str(at), "params": {}})
    before, most, ended = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.005):
            most[0] = max(most[0], anonymous())

    threading.Thread(target=watch, daemon=True).start()
    began, spent = time.monotonic(), time.process_time()
    if how == "ours":
        model = merge.with_adapter(load.load_model(at / "base", "auto", device="cpu"), at / "adapter")
        merge.save(model, at / "base", at / how, Job(at))
    else:
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(at / "base"), at / "adapter")
        model.merge_and_unload().save_pretrained(at / how)
    seconds, spent = time.monotonic() - began, time.process_time() - spent
    ended.set()
    print(json.dumps([seconds, spent, most[0] - before]))


def same(at: Path) -> bool:
    import torch
    from safetensors.torch import load_file

    ours, theirs = (
        {name: weight for path in (at / how).glob("*.safetensors") for name, weight in load_file(path).items()}
        for how in ("ours", "theirs")
    )
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name].view(torch.int16), theirs[name].view(torch.int16)) for name in ours)


def main() -> None:
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        at = Path(folder)
        make(at)
        told: dict[str, list[list[float]]] = {"ours": [], "theirs": []}
        for how in ("ours", "theirs") * ROUNDS:
            shutil.rmtree(at / how, ignore_errors=True)
            said = subprocess.run([sys.executable, __file__, how, folder], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            told[how].append(json.loads(said.stdout.splitlines()[-1]))
        files = [path.stat().st_size for path in (at / "base").glob("*.safetensors")]
        ratios = sorted(theirs[0] / ours[0] for ours, theirs in zip(told["ours"], told["theirs"]))
        (a, a_cpu, a_memory), (b, b_cpu, b_memory) = ([statistics.median(x) for x in zip(*told[how])] for how in ("ours", "theirs"))
        print(
            f"merge of {sum(files) / 1e9:.2f} GB in {len(files)} files: {a:.1f} s against {b:.1f} s, {statistics.median(ratios):.2f} times as fast "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f}); of the processor {a_cpu:.1f} s against {b_cpu:.1f} s ({b_cpu / a_cpu:.2f}); anonymous memory "
            f"{a_memory / 1e6:.0f} MB ({a_memory / max(files):.2f} files) against {b_memory / 1e6:.0f} MB; every bit the same: {same(at)}"
        )


if __name__ == "__main__":
    one(sys.argv[1], Path(sys.argv[2])) if len(sys.argv) > 1 else main()
