"""Base models: the catalogue, the Hub, folders and GGUF files on this machine, and the starter, each described before it is loaded.

Nothing here loads weights or runs a model's code: what is known comes from config.json, file headers and the Hub's own answers.
Every way a name can be wrong is its own error. Fetching the weights is the worker's business.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import struct
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import yaml
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, RemoteEntryNotFoundError

from lora_ui import errors, hub
from lora_ui.errors import Say
from lora_ui.home import REPOSITORY, Home

STARTER = "starter"
STARTER_REPO = "HuggingFaceTB/SmolLM2-135M-Instruct"
_TEXT = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class BaseModel:
    """What is known of a base model; unknown is None."""

    name: str
    """As the person wrote it: starter, a Hub id, or a path."""
    kind: str
    """starter, hub, folder or gguf."""
    title: str
    parameters: int | None = None
    context: int | None = None
    """Tokens it can read at once."""
    licence: str | None = None
    gated: bool = False
    chat_template: bool | None = None
    local: bool = False
    """Its weights are already on this machine."""
    config: dict[str, Any] | None = None
    revision: str | None = None
    """The commit that a Hub id was resolved to."""
    path: str | None = None


def starter_folder(home: Home) -> Path:
    """Where the starter lies once it was made; a config.json in it means it is complete."""
    return home.models / STARTER


def catalogue(home: Home | None = None) -> list[BaseModel]:
    """The starter, then the models of presets/models.yaml. No network. With a home, `local` says whether the starter is made."""
    listed = [replace(model, local=_cached(model.name, None)) for model in _listed()]
    return [_starter(home), *listed]


@cache
def _listed() -> tuple[BaseModel, ...]:
    entries = yaml.safe_load((REPOSITORY / "presets" / "models.yaml").read_text("utf-8"))["models"]
    return tuple(BaseModel(name=e.pop("id"), kind="hub", **e) for e in entries)


def _starter(home: Home | None) -> BaseModel:
    like = next(model for model in _listed() if model.name == STARTER_REPO)
    made = home is not None and (starter_folder(home) / "config.json").is_file()
    title = "SmolLM2 135M Instruct (starter)"
    path = str(starter_folder(home)) if home is not None and made else None
    return replace(like, name=STARTER, kind="starter", title=title, local=made, path=path)


def known(home: Home, name: str, revision: str | None = None) -> BaseModel | None:
    """What can be said of `name` without asking the network: starter, path, this machine's Hub cache, catalogue. None if nothing."""
    name, from_address = _clean(name)
    if name == STARTER:
        return _starter(home)
    if _is_path(name):
        return _from_path(name)
    listed = next((model for model in _listed() if model.name == name), None)
    return _from_cache(name, revision or from_address) or listed


def find(home: Home, name: str, revision: str | None = None, token: str | None = None) -> BaseModel:
    """The one model that `name` means, resolved. Takes pasted quotes and Hub addresses.

    Raises InvalidModelName ModelNotFound RevisionNotFound GatedModel HubOffline HubUnwell TokenRejected UnsupportedModel
    NotATextModel OnlyPickleWeights OnlyAnAdapter ModelPathNotFound ModelFolderWithoutWeights.
    """
    name, from_address = _clean(name)
    revision = revision or from_address
    if name == STARTER:
        return _starter(home)
    if _is_path(name):
        return _from_path(name)
    if not is_hub_id(name):
        raise errors.InvalidModelName(name=name)
    try:
        return _from_hub(name, revision, token)
    except errors.HubOffline:
        cached = _from_cache(name, revision)
        if cached is None:
            raise
        return cached


def search(query: str, token: str | None = None, limit: int = 20) -> list[BaseModel]:
    """Text models with safetensors on the Hub, most used first. Raises HubOffline HubUnwell TokenRejected."""
    asked: list[tuple[str, Any]] = [("search", query.strip()), ("limit", limit), ("sort", "downloads")]
    asked += [("pipeline_tag", "text-generation"), ("filter", "safetensors")]
    asked += [("expand", field) for field in ("safetensors", "gated", "tags")]
    return [replace(_told(info, info["id"]), local=_cached(info["id"], None)) for info in hub.get("/api/models", token, params=asked)]


def _clean(name: str) -> tuple[str, str | None]:
    """The name without pasted decoration, and the revision if it was a Hub address with one."""
    name = name.strip().strip("\"'`“”<> ").rstrip("/")
    own_host = urlsplit(hub.endpoint()).netloc
    if re.match(r"(huggingface\.co|hf\.co)/", name):
        name = "https://" + name
    if not name.startswith(("http://", "https://", "hf://")):
        return name, None
    parts = urlsplit(name)
    if parts.scheme == "hf":
        return f"{parts.netloc}{parts.path}", None
    if parts.netloc not in ("huggingface.co", "www.huggingface.co", "hf.co", own_host):
        raise errors.InvalidModelName(name=name)
    pieces = [unquote(piece) for piece in parts.path.strip("/").split("/")]
    at = pieces[3] if len(pieces) > 3 and pieces[2] in ("tree", "blob", "resolve") else None
    return "/".join(pieces[:2]), at


def is_hub_id(name: str) -> bool:
    """Whether `name` can only mean a model on the Hub: not the starter, nothing on this machine, and a valid id."""
    return name != STARTER and hub.valid_id(name) and not _is_path(name)


def _is_path(name: str) -> bool:
    looks = name.startswith(("/", "./", "../", "~", ".\\")) or re.match(r"[A-Za-z]:\\", name) or name.endswith(".gguf")
    return bool(looks) or (name not in ("", ".") and Path(name).is_dir())


# Folders and files here


def _from_path(name: str) -> BaseModel:
    path = Path(name).expanduser()
    if not path.exists():
        raise errors.ModelPathNotFound(name=name)
    if path.is_file():
        if path.suffix != ".gguf":
            raise errors.InvalidModelName(name=name)
        return _from_gguf(name, path)
    _check_files(name, {p.name for p in path.iterdir()}, lambda file: _read(path / file))
    config = _read(path / "config.json")
    _check_text(name, config)
    return BaseModel(
        name=name,
        kind="folder",
        title=path.resolve().name,
        parameters=_count_folder(name, path),
        context=_context(config),
        chat_template=(path / "chat_template.jinja").is_file() or "chat_template" in _read(path / "tokenizer_config.json"),
        local=True,
        config=config,
        revision=_stamp(path),
        path=str(path.resolve()),
    )


def _stamp(path: Path) -> str:
    """Changes when the words of a local model do: rows prepared with an older tokenizer or template are made anew."""
    files = [path] if path.is_file() else [path / name for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")]
    about = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return "files-" + hashlib.sha256(repr(about).encode()).hexdigest()[:12]


def _read(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is none."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as e:
        detail = Say("{file} in it is not valid JSON: {problem}", file=path.name, problem=str(e))
        raise errors.ModelFolderWithoutWeights(name=str(path.parent), detail=detail) from None
    return value if isinstance(value, dict) else {}


def _check_files(name: str, files: set[str], read: Any) -> None:
    """Refuse what cannot be a base model by its file names. `read` gives the JSON object in one of them."""
    if "adapter_config.json" in files and "config.json" not in files:
        raise errors.OnlyAnAdapter(name=name, base_model=read("adapter_config.json").get("base_model_name_or_path") or "?")
    if not any(file.endswith(".safetensors") for file in files):
        pickles = sorted(file for file in files if file.endswith(_PICKLES))
        if pickles:
            raise errors.OnlyPickleWeights(name=name, files=", ".join(pickles[:3]))
        if any(file.endswith(".gguf") for file in files):
            raise errors.ModelFolderWithoutWeights(name=name, detail=Say("It holds .gguf files: name one of them by its full path."))
        raise errors.ModelFolderWithoutWeights(name=name, detail=Say("There are no .safetensors files in it."))
    if "config.json" not in files:
        raise errors.ModelFolderWithoutWeights(name=name, detail=Say("There is no config.json in it."))
    if not files.intersection(_TOKENIZERS):
        raise errors.ModelFolderWithoutWeights(name=name, detail=Say("There is no tokenizer in it (tokenizer.json)."))


def _check_text(name: str, config: dict[str, Any]) -> None:
    architectures = config.get("architectures") or []
    if architectures and not any(architecture.endswith(_TEXT) for architecture in architectures):
        raise errors.NotATextModel(name=name, architecture=architectures[0])


def _count_folder(name: str, path: Path) -> int:
    """Numbers in all shards, from their headers. Raises ModelFolderWithoutWeights when a shard is missing or damaged."""
    shards = set(_read(path / "model.safetensors.index.json").get("weight_map", {}).values())
    if missing := sorted(shard for shard in shards if not (path / shard).is_file()):
        raise errors.ModelFolderWithoutWeights(name=name, detail=Say("{file} is missing from it.", file=missing[0]))
    return sum(_count_shard(name, file) for file in sorted(path.glob("*.safetensors")))


def _count_shard(name: str, file: Path) -> int:
    try:
        with open(file, "rb") as f:
            (length,) = struct.unpack("<Q", f.read(8))
            if length > 100_000_000:  # the format's own limit: what follows is not a header
                raise ValueError
            header = json.loads(f.read(length))
        return sum(math.prod(tensor["shape"]) for key, tensor in header.items() if key != "__metadata__")
    except (ValueError, struct.error, KeyError, TypeError):
        raise errors.ModelFolderWithoutWeights(name=name, detail=Say("{file} in it is damaged.", file=file.name)) from None


def _context(config: dict[str, Any]) -> int | None:
    own = config.get("text_config", config)
    return own.get("max_position_embeddings") or own.get("n_positions")


_GGUF_CONFIG = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "max_position_embeddings": "context_length",
}


def _from_gguf(name: str, path: Path) -> BaseModel:
    """A GGUF file by its header: sizes as config.json would say them, for the families whose names agree."""
    from gguf import GGUFReader  # takes 0.2 s to import, and few runs start from such a file

    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, OSError):
        raise errors.ModelFolderWithoutWeights(name=name, detail=Say("It is not a GGUF file, or damaged.")) from None
    architecture = str(reader.fields["general.architecture"].contents())
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    found = {ours: reader.fields.get(f"{architecture}.{theirs}") for ours, theirs in _GGUF_CONFIG.items()}
    config: dict[str, Any] = {"model_type": architecture, **{key: field.contents() for key, field in found.items() if field}}
    if "token_embd.weight" in tensors:
        config["vocab_size"] = int(tensors["token_embd.weight"].shape[-1])
    config["tie_word_embeddings"] = "output.weight" not in tensors
    return BaseModel(
        name=name,
        kind="gguf",
        title=path.stem,
        parameters=sum(int(tensor.n_elements) for tensor in reader.tensors),
        context=config.get("max_position_embeddings"),
        licence=str(reader.fields["general.license"].contents()) if "general.license" in reader.fields else None,
        chat_template="tokenizer.chat_template" in reader.fields,
        local=True,
        config=config,
        revision=_stamp(path),
        path=str(path.resolve()),
    )


# The Hub and its cache on this machine


def _from_hub(name: str, revision: str | None, token: str | None) -> BaseModel:
    at = f"/revision/{quote(revision, safe='')}" if revision else ""
    info = hub.get(f"/api/models/{name}{at}", token, name, revision=revision)
    real, sha = info["id"], info["sha"]  # an old id without owner is sent on to the real one
    files = {sibling["rfilename"] for sibling in info.get("siblings", [])}

    def read(file: str) -> dict[str, Any]:
        try:
            return hub.get(f"/{real}/resolve/{sha}/{file}", token, real)
        except (RemoteEntryNotFoundError, ValueError):
            raise errors.UnsupportedModel(name=real, detail=Say("Its {file} cannot be read.", file=file)) from None

    _check_files(real, files, read)
    config = read("config.json")
    _check_text(real, config)
    template = "chat_template.jinja" in files or ("tokenizer_config.json" in files and "chat_template" in read("tokenizer_config.json"))
    told = _told(info, name)
    return replace(told, context=_context(config), chat_template=template, config=config, revision=sha, local=_cached(real, sha))


def _told(info: dict[str, Any], name: str) -> BaseModel:
    """What one answer of the Hub's API says of a model."""
    tags = info.get("tags") or []
    weights = info.get("safetensors") or {}
    return BaseModel(
        name=name,
        kind="hub",
        title=info["id"],
        parameters=weights.get("total"),
        licence=next((tag.removeprefix("license:") for tag in tags if tag.startswith("license:")), None),
        gated=bool(info.get("gated")),
    )


def _cache_file(name: str, file: str, revision: str | None) -> Path | None:
    try:
        found = try_to_load_from_cache(name, file, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _cached(name: str, revision: str | None) -> bool:
    """Whether config and all weights of a Hub id lie complete in this machine's Hub cache."""
    if _cache_file(name, "config.json", revision) is None:
        return False
    index = _cache_file(name, "model.safetensors.index.json", revision)
    shards = set(_read(index).get("weight_map", {}).values()) if index else {"model.safetensors"}
    return bool(shards) and all(_cache_file(name, shard, revision) for shard in shards)


def _from_cache(name: str, revision: str | None) -> BaseModel | None:
    if not _cached(name, revision):
        return None
    config = _cache_file(name, "config.json", revision)
    assert config is not None
    listed = next((model for model in _listed() if model.name == name), None)
    found = _from_path(str(config.parent))
    sha = config.parent.name  # the cache names a snapshot's folder by its commit
    licence = listed.licence if listed else None
    return replace(found, name=name, kind="hub", title=listed.title if listed else name, licence=licence, revision=sha, path=None)
