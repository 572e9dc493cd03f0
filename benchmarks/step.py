"""Training steps against peers on this processor: the starter, rows of mixed length, the same optimisation settings, by turns.

Ours is the real run (command line, supervisor, worker). Peers: TRL as it comes (only what the settings below name, and the number
format: TRL's own default of bfloat16 where the processor has AMX, else float32, without which it does not start); TRL tuned by hand
(packing, no checkpointing, 16-bit weights where there is AMX); with `--peer PYTHON`, LLaMA-Factory 0.9.5 from the environment of that
interpreter (`--install FOLDER` makes one). Prints useful tokens (those of the rows, not padding) per second of training and their ratios with spread, and with
`--loss ROWS` the held-out loss of each after one pass over these. `--lock FILE` is held for a round at a time.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lora_ui import machine  # noqa: E402

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
RANK, ALPHA, RATE, ROWS, LENGTH = 16, 32, 8e-4, 8, 512
AMX = machine.look().bf16_is_fast
FACTORY = ["llamafactory==0.9.5", "torch==2.13.0", "torchvision==0.28.0", "torchaudio==2.11.0"]


def make_rows(tokenizer: Any) -> list[dict[str, str]]:
    """200 questions with answers of mixed length: about 100 tokens with the question in the middle, up to 512."""
    shipped = [json.loads(line) for line in (ROOT / "presets/examples/lora-ui-help.jsonl").read_text("utf-8").splitlines()]
    sentences = [part + "." for row in shipped for part in row["answer"].replace("\n", " ").rstrip(".").split(". ")]
    draw, made = random.Random(0), []
    for row in shipped:
        wanted, answer = min(505, max(60, int(draw.lognormvariate(4.6, 0.55)))), ""
        start = draw.randrange(len(sentences))
        for place in range(len(sentences)):
            longer = f"{answer} {sentences[(start + place) % len(sentences)]}".strip()
            if answer and tokens(tokenizer, row["question"], longer) > wanted:
                break
            answer = longer
        made.append({"question": row["question"], "answer": answer})
    return made


def chat(question: str, answer: str) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]


def tokens(tokenizer: Any, question: str, answer: str) -> int:
    return len(tokenizer.apply_chat_template(chat(question, answer), return_dict=False))


# Each of these is a process of its own and prints {"seconds": of training, "adapter": folder} last


def ours(model: Path, data: Path, out: Path) -> dict[str, Any]:
    home = model.parent.parent
    chosen = {
        "data.held_out_rows": 0,
        "data.system_prompt": SYSTEM,
        "adapter.r": RANK,
        "adapter.lora_alpha": ALPHA,
        "training.learning_rate": RATE,
        "training.lr_scheduler_type": "linear",
        "training.warmup_steps": 0,
        "training.num_train_epochs": 1,
        "training.global_batch_size": ROWS,
        "training.max_length": LENGTH,
        "training.packing": "true",
        "training.save_steps": 500,
        "training.logging_steps": 10,
    }
    cli = [sys.executable, "-m", "lora_ui"]
    sets = [part for key, value in chosen.items() for part in ("--set", f"{key}={value}")]
    train = [*cli, "train", "--data", str(data), "--base-model", "starter", "--home", str(home), "--json", *sets]
    done = subprocess.run(train, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    show = [*cli, "show", json.loads(done.stdout)["id"], "--home", str(home), "--json"]
    run = json.loads(subprocess.run(show, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return {"seconds": run["phases"]["first_step"] + run["phases"]["train"], "adapter": run["adapter_path"]}


def trl(model: Path, data: Path, out: Path, tuned: bool) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    rows = [json.loads(line) for line in data.read_text("utf-8").splitlines()]
    made = Dataset.from_list(
        [{"prompt": chat(row["question"], row["answer"])[:2], "completion": chat(row["question"], row["answer"])[2:]} for row in rows]
    )
    more: dict[str, Any] = {"bf16": AMX}
    base: Any = str(model)
    if tuned:  # two packed sequences hold about the rows of a step
        more |= {"packing": True, "activation_checkpointing": False, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16 if AMX else torch.float32)
    else:
        more |= {"per_device_train_batch_size": ROWS}
    trainer = SFTTrainer(
        base,
        args=SFTConfig(str(out), learning_rate=RATE, num_train_epochs=1, max_length=LENGTH, use_cpu=True, disable_tqdm=True, **more),
        train_dataset=made,
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear"),
    )
    seconds = trainer.train().metrics["train_runtime"]
    trainer.save_model(str(out))
    return {"seconds": seconds, "adapter": str(out)}


def factory(model: Path, data: Path, out: Path, python: Path) -> dict[str, Any]:
    out.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in data.read_text("utf-8").splitlines()]
    (out / "rows.json").write_text(json.dumps([{"instruction": row["question"], "input": "", "output": row["answer"]} for row in rows]))
    (out / "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "rows.json"}}))
    asked = {
        "model_name_or_path": str(model),
        "template": "chatml",
        "default_system": SYSTEM,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": RANK,
        "lora_alpha": ALPHA,
        "lora_target": "all",
        "dataset": "rows",
        "dataset_dir": str(out),
        "cutoff_len": LENGTH,
        "learning_rate": RATE,
        "num_train_epochs": 1,
        "per_device_train_batch_size": ROWS,
        "output_dir": str(out / "adapter"),
        "use_cpu": True,
        "bf16": AMX,
        "report_to": "none",
    }
    (out / "asked.yaml").write_text(json.dumps(asked))  # JSON is YAML
    command = [str(python.parent / "llamafactory-cli"), "train", str(out / "asked.yaml")]
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "DISABLE_VERSION_CHECK": "1", "HF_HUB_OFFLINE": "1"})
    said = json.loads((out / "adapter" / "train_results.json").read_text())
    return {"seconds": said["train_runtime"], "adapter": str(out / "adapter")}


def loss(model: Path, data: Path, adapter: str) -> float:
    """Mean over the answers' tokens of the rows in `data`, in float32."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), adapter).eval()
    total, count = 0.0, 0
    for line in data.read_text("utf-8").splitlines():
        row = json.loads(line)
        whole = chat(row["question"], row["answer"])
        asked = len(tokenizer.apply_chat_template(whole[:2], add_generation_prompt=True, return_dict=False))
        ids = torch.tensor([tokenizer.apply_chat_template(whole, return_dict=False)[:LENGTH]])
        labels = ids.clone()
        labels[:, :asked] = -100
        learned = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            total, count = total + float(loaded(input_ids=ids, labels=labels).loss) * learned, count + learned
    return total / count


# The rounds


def apart(kind: str, *arguments: object) -> Any:
    """What `kind` prints last, in a process of its own that starts with nothing but this machine's cores."""
    asked = [sys.executable, str(Path(__file__).resolve()), kind, *map(str, arguments)]
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def install(folder: Path) -> Path:
    """LLaMA-Factory in an environment of its own."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([folder / "bin/python", "-m", "pip", "install", "--quiet", *FACTORY], check=True)
    return folder / "bin/python"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--rows", type=int, default=48, help="how many rows a round learns")
    parser.add_argument(
        "--loss", type=int, default=0, help="compare the held-out loss, too, after one pass over so many rows (at most 180)"
    )
    parser.add_argument("--peer", type=Path, help="a Python with LLaMA-Factory 0.9.5")
    parser.add_argument("--install", type=Path, help="make an environment with LLaMA-Factory 0.9.5 here")
    parser.add_argument("--home", type=Path, help="one whose starter is made already")
    parser.add_argument("--lock", type=Path, default=Path(os.devnull))
    asked = parser.parse_args()
    peer = install(asked.install) if asked.install else asked.peer
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        home = asked.home or folder / "home"
        model = home / "models/starter"
        if not model.exists():
            subprocess.run([sys.executable, "-m", "lora_ui", "prepare", "--data", "presets/examples/lora-ui-help.jsonl", "--base-model", "starter", "--home", home], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        try:
            compare(folder, model, asked, peer)
        finally:
            (home / "supervisor.lock").unlink(missing_ok=True)  # sends the supervisor home


def compare(folder: Path, model: Path, asked: argparse.Namespace, peer: Path | None) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = make_rows(tokenizer)
    lengths = [tokens(tokenizer, row["question"], row["answer"]) for row in rows]
    print(f"{len(rows)} rows, median {statistics.median(lengths):.0f} tokens, longest {max(lengths)}", flush=True)
    names = [*(["factory"] if peer else []), "trl", "tuned", "ours"]
    held_out, learned = folder / "held_out.jsonl", folder / "rows.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows[180:]))

    def turn(name: str, count: int, number: int) -> tuple[float, str]:
        learned.write_text("".join(json.dumps(row) + "\n" for row in rows[:count]))
        out = folder / f"{name}-{number}"
        done = apart(name, model, learned, out, *([peer] if name == "factory" else []))
        return sum(lengths[:count]) / done["seconds"], done["adapter"]

    speeds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(asked.rounds):
        with open(asked.lock, "r+" if asked.lock.is_file() else "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX) if asked.lock.is_file() else None
            for name in names[number % len(names) :] + names[: number % len(names)]:
                speeds[name].append(turn(name, asked.rows, number)[0])
        print(f"round {number + 1}: " + ", ".join(f"{name} {speeds[name][-1]:.0f}" for name in names) + " useful tokens/s", flush=True)
    for name in names[:-1] if asked.rounds else []:
        ratios = sorted(mine / theirs for mine, theirs in zip(speeds["ours"], speeds[name], strict=True))
        print(f"ours against {name}: {statistics.median(ratios):.2f} times ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    for name in names if asked.loss else []:
        with open(asked.lock, "r+" if asked.lock.is_file() else "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX) if asked.lock.is_file() else None
            speed, adapter = turn(name, asked.loss, -1)
            print(f"{name}: held-out loss {apart('loss', model, held_out, adapter):.4f} after {sum(lengths[: asked.loss]):,} tokens, {speed:.0f} of them a second", flush=True)  # fmt: skip


if __name__ == "__main__":
    kinds = {"ours": ours, "trl": lambda *a: trl(*a, tuned=False), "tuned": lambda *a: trl(*a, tuned=True)}
    if len(sys.argv) > 1 and sys.argv[1] in kinds:
        print(json.dumps(kinds[sys.argv[1]](*map(Path, sys.argv[2:]))))
    elif len(sys.argv) > 1 and sys.argv[1] == "factory":
        print(json.dumps(factory(*map(Path, sys.argv[2:]))))
    elif len(sys.argv) > 1 and sys.argv[1] == "loss":
        print(json.dumps(loss(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])))
    else:
        main()
