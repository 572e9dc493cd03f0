"""Checking and tokenising 100,000 rows against `datasets.map` + `apply_chat_template` on the same rows, each in a process of its own.

Prints rows a second, peak memory and the ratios. Ours does more in its time: it also finds what is learned, where each token stands
in the text, and writes both. Wanted: at least as fast, at most half the memory. ROWS=1000000 for more rows; `ours` leaves the peer out.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
ROWS = int(os.environ.get("ROWS", "100000"))


def write(folder: Path) -> None:
    """Rows with about 70 words each, and a tokenizer with a vocabulary of their words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from tests.tiny import CHATML, SPECIAL

    draw = random.Random(0)
    letters = "abcdefghijklmnoprstuvw"
    words = ["".join(draw.choices(letters, k=draw.randint(2, 9))) for _ in range(20_000)]
    with open(folder / "rows.jsonl", "w") as f:
        for n in range(ROWS):
            question, answer = (" ".join(draw.choices(words, k=k)) for k in (20, 50))
            turns = [{"role": "user", "content": f"{question} {n}?"}, {"role": "assistant", "content": answer + "."}]
            f.write(json.dumps({"messages": turns}) + "\n")
    base = folder / "base"
    base.mkdir()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=16_000, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((" ".join(words[i : i + 50]) for i in range(0, len(words), 50)), trainer)
    tokenizer.save(str(base / "tokenizer.json"))
    named = {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (base / "tokenizer_config.json").write_text(json.dumps(named))
    (base / "chat_template.jinja").write_text(CHATML)
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048}
    (base / "config.json").write_text(json.dumps(config))
    (base / "model.safetensors").write_bytes(b"\x02\x00\x00\x00\x00\x00\x00\x00{}")


def peer(folder: Path) -> float:
    """What a training script does: load, lay out and tokenise row by row."""
    from datasets import Dataset
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    began = time.monotonic()
    rows = Dataset.from_json(str(folder / "rows.jsonl"), cache_dir=str(folder / "cache"))
    made = rows.map(lambda row: tokenizer.apply_chat_template(row["messages"], return_dict=True), remove_columns=["messages"])
    assert len(made) == ROWS
    return time.monotonic() - began


def read(folder: Path) -> float:
    """From jsonl to canonical rows on disk."""
    from lora_ui.data import store
    from lora_ui.home import Home

    began = time.monotonic()
    assert store.load(Home.open(folder / "home"), folder / "rows.jsonl").report["kept"] == ROWS
    return time.monotonic() - began


def check(folder: Path) -> float:
    """The checks alone: rows are on disk already."""
    from lora_ui.data import checks
    from lora_ui.home import Home

    home = Home.open(folder / "home")
    began = time.monotonic()
    checks.check(home, next(home.datasets.iterdir()).name)
    return time.monotonic() - began


def tokenise(folder: Path) -> float:
    from lora_ui.home import Home, write_json
    from lora_ui.worker import prepare
    from lora_ui.worker.job import Job

    home = Home.open(folder / "home")
    digest = next(home.datasets.iterdir()).name
    asked = {"digest": digest, "base_model": str(folder / "base"), "revision": None, "max_length": 1024, "held_out_rows": 200}
    params = {**asked, "split_seed": 42, "system_prompt": ""}
    at = home.job("prepare", "prepare-1", None, digest)
    at.mkdir(parents=True, exist_ok=True)
    write_json(at / "job.json", {"id": "prepare-1", "kind": "prepare", "run_id": None, "home": str(home.root), "params": params})
    began = time.monotonic()
    assert prepare.run(Job(at))["rows"] == ROWS
    return time.monotonic() - began


def measured(what: str, folder: Path) -> dict[str, Any]:
    command = [sys.executable, __file__, what, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main(stages: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        ways = {}
        for what in stages:
            ways[what] = figures = measured(what, folder)
            print(f"{what:9} {ROWS / figures['seconds']:8,.0f} rows/s   {figures['peak_mb']:6,.0f} MB at most", flush=True)
        for what in ("check", "tokenise") if "peer" in ways else ():
            speed = ways["peer"]["seconds"] / ways[what]["seconds"]
            print(f"{what}: {speed:.2f} × as fast as the peer, with {ways[what]['peak_mb'] / ways['peer']['peak_mb']:.2f} × its memory")


STAGES = {"peer": peer, "read": read, "check": check, "tokenise": tokenise}

if __name__ == "__main__":
    if len(sys.argv) == 3:
        seconds = STAGES[sys.argv[1]](Path(sys.argv[2]))
        print(json.dumps({"seconds": seconds, "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
    else:
        main(tuple(STAGES)[1:] if sys.argv[1:] == ["ours"] else tuple(STAGES))
