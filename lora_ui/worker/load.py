"""From what a person calls a base model to a folder of safetensors here, and from that folder to a tokenizer and a model.

Nothing here runs a model's own code or unpickles: only safetensors are read, `auto_map` is never followed, and `.py` and `.bin`
files are not even downloaded. Importing this module loads no torch; `load_model` and the making of a folder from a GGUF file do.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import snapshot_download
from tqdm import tqdm

from lora_ui import errors, hub, models
from lora_ui.errors import Say
from lora_ui.home import Home, read_json
from lora_ui.worker.job import Job

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

WORDS = ["config.json", "generation_config.json", "tokenizer*.json", "*.jinja", "special_tokens_map.json", "added_tokens.json"]
WORDS += ["vocab.json", "merges.txt", "tokenizer.model", "LICENSE*"]
WANTED = [*WORDS, "model*.safetensors", "model.safetensors.index.json"]
NOT_WANTED = ["*/*", "*.fp16.safetensors"]
"""Folders inside a repository hold other formats of the same weights (`original/`, `onnx/`)."""

KINDS = ("LORA", "ADALORA", "VERA", "OFT", "LOHA", "LOKR", "IA3", "HIRA", "MISS")
"""PEFT's names of the adapters that are trained here (worker/methods.py)."""


def local_folder(job: Job, base_model: str, revision: str | None) -> Path:
    """A folder that stock transformers loads, made or downloaded first if need be. Phases: download, convert, and then load.

    Raises what `models.find` raises, StarterUnavailable, UnsupportedModel, DiskFull, Stopped.
    """
    from lora_ui.worker import starter

    base = _find(job, base_model, revision)
    if base.kind == "starter":
        folder = starter.folder(job)
    elif base.kind == "hub":
        folder = snapshot(job, base.name, base.revision or revision)
    else:
        assert base.path is not None
        folder = starter.from_gguf(job, Path(base.path)) if base.kind == "gguf" else Path(base.path)
    job.phase("load")
    return folder


def tokenizer_folder(job: Job, base_model: str, revision: str | None) -> Path:
    """As `local_folder`, but of a Hub model only the tokenizer and configuration are fetched: rows are shown before gigabytes of
    weights are."""
    base = _find(job, base_model, revision)
    if base.kind == "hub":
        return snapshot(job, base.name, base.revision or revision, wanted=WORDS)
    return local_folder(job, base_model, revision)


def _find(job: Job, base_model: str, revision: str | None) -> models.BaseModel:
    return job.apart(lambda: models.find(job.home, base_model, revision, job.token))


def base_of_run(job: Job, run_id: str) -> Path:
    """The very folder that a run was trained on while it is still there, else the same model and commit once more."""
    run = job.home.run(run_id)
    used = ((read_json(run / "outcome.json") or {}).get("result") or {}).get("base_model_path")
    if used and (Path(used) / "config.json").is_file():
        return Path(used)
    asked = read_json(run / "job.json")["params"]
    return local_folder(job, asked["settings"]["model"]["base_model"], asked["prepare"]["revision"])


def adapter_folder(home: Home, run_id: str, base_model: str | None = None, folder: Path | None = None) -> Path:
    """A run's adapter, or the one in `folder`, checked to be of a kind that is offered, in safetensors (trained on `base_model`, if given).

    Raises NoSuchJob, NothingTrained, AdapterUnsuitable.
    """
    folder = folder or home.run(run_id) / "adapter"
    config = read_json(folder / "adapter_config.json")
    if config is None or not (folder / "adapter_model.safetensors").is_file():
        raise errors.NothingTrained(id=run_id, state="without an adapter")
    if config.get("peft_type") not in KINDS or config.get("auto_mapping") or config.get("megatron_config"):
        raise errors.AdapterUnsuitable(name=run_id, detail=Say("It is no adapter of a kind that is offered here."))
    trained_on = read_json(home.run(run_id) / "job.json")["params"]["settings"]["model"]["base_model"]
    if base_model not in (None, trained_on):
        raise errors.AdapterUnsuitable(name=run_id, detail=Say("It was trained on {model}.", model=trained_on))
    return folder


# Downloads


def snapshot(job: Job, repo: str, revision: str | None, to: Path | None = None, wanted: list[str] = WANTED) -> Path:
    """Weights, tokenizer and configuration of a Hub model, or what `wanted` names; what is in the cache already is not fetched again."""
    job.phase("download")
    with hub.explained(repo, revision=revision):
        bar = type("Bar", (_Bar,), {"job": job})
        asked: dict[str, Any] = {"allow_patterns": wanted, "ignore_patterns": NOT_WANTED, "tqdm_class": bar, "local_dir": to}
        return Path(job.apart(lambda: snapshot_download(repo, revision=revision, token=job.token, **asked)))


class _Bar(tqdm):
    """Tells the job how far a download is, and ends it when the job is to stop."""

    job: Job

    def __init__(self, *args: Any, **kwargs: Any):
        with open(os.devnull, "w") as nowhere:
            super().__init__(*args, **{**kwargs, "file": nowhere, "disable": False, "mininterval": 1e9})

    def update(self, n: float | None = 1) -> None:
        self.job.check()
        self.n += n or 0
        if self.unit == "B":
            self.job.progress(self.n, self.total or 0, "bytes")

    def refresh(self, *_: Any, **__: Any) -> None:
        pass

    display = close = refresh


# From a folder to a tokenizer and a model


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of `tokenizer.json` with its chat template, if any; it always has an end and a padding token. Needs no torch.

    Raises ModelFolderWithoutWeights (no tokenizer.json), UnsupportedModel (no end-of-text token).
    """
    from transformers import PreTrainedTokenizerFast

    if not (folder / "tokenizer.json").is_file():
        raise errors.ModelFolderWithoutWeights(name=_title(folder), detail=Say("There is no tokenizer.json in it."))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    if tokenizer.eos_token is None:
        ids = end_tokens(folder)
        if not ids:
            raise errors.UnsupportedModel(name=_title(folder), detail=Say("Its tokenizer has no token that ends a text."))
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ids[0])
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def end_tokens(folder: Path) -> list[int]:
    """Ids after which the model has finished speaking, from generation_config.json and config.json."""
    found = [(read_json(folder / name) or {}).get("eos_token_id") for name in ("generation_config.json", "config.json")]
    flat = [id for value in found for id in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(id for id in flat if isinstance(id, int)))


def load_model(
    folder: Path,
    dtype: torch.dtype | str,
    load_in_4bit: bool = False,
    load_in_8bit: bool = False,
    attn_implementation: str = "sdpa",
    device: str | None = None,
) -> PreTrainedModel:
    """The model on `device`, else on this machine's: weight after weight from its mapped file to the device, never the whole of it in
    memory beside that; on a CPU, weights that keep their format stay in their files until they are read.
    `dtype` "auto" keeps the stored one. 4-bit is NF4 with double quantisation, computing in `dtype`. Raises UnsupportedModel."""
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantised = None
    if load_in_4bit:
        nf4: dict[str, Any] = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
        quantised = BitsAndBytesConfig(load_in_4bit=True, **nf4)
    elif load_in_8bit:
        quantised = BitsAndBytesConfig(load_in_8bit=True)
    device = device or ("cuda:0" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attn_implementation,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            **({"quantization_config": quantised} if quantised else {}),
            **({"device_map": {"": device}} if device != "cpu" else {}),
        )
    except SafetensorError as e:
        raise errors.ModelFileDamaged(name=_title(folder), detail=str(e)) from e
    except (ValueError, KeyError, ImportError) as e:
        raise errors.UnsupportedModel(name=_title(folder), detail=hub.redact(str(e).split("\n")[0])) from e


def keep_gradients(model: PreTrainedModel) -> None:
    """On processors with AVX512-BF16, bitsandbytes packs 4-bit weights at the first test, and from then on no gradient passes through
    them: what is trained afterwards is wrong without a word. A model that is to be trained stays as it is."""
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.support_avx512bf16_for_cpu = False


def spare_casts(model: torch.nn.Module) -> None:
    """Where numbers of 16 bits are calculated with, autocast gives adapters theirs; PEFT would first make a copy with 32 bits of whatever
    an adapted weight reads, keep it for the gradients, and have it made short again: the same numbers, at twice the memory. DoRA's
    lengths are taken of such copies."""
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer) and not module.lora_variant:
            module.cast_input_dtype_enabled = False


def _title(folder: Path) -> str:
    """The name a person knows: for a folder in the Hub's cache, owner/name."""
    named = folder.parent.parent.name
    return named.removeprefix("models--").replace("--", "/") if folder.parent.name == "snapshots" else folder.name
