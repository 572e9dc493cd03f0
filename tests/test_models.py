"""Base models: the catalogue's facts, every way a name is given, every way it can be wrong."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from lora_ui import errors, fit, models
from lora_ui.home import Home
from tests.standin_hub import StandinHub
from tests.test_hub import offline

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 64,
}


def shard(shapes: dict[str, list[int]]) -> bytes:
    """A safetensors file of zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


def files(**changed: bytes | None) -> dict[str, bytes]:
    """A small model's files; `a__b=None` leaves out a.b, bytes put it there."""
    whole: dict[str, bytes] = {
        "config.json": json.dumps(LLAMA).encode(),
        "model.safetensors": shard({"a": [32, 8], "b": [8]}),
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b'{"chat_template": "{{ messages }}"}',
        "README.md": b"---\nlicense: apache-2.0\n---\n",
    }
    for name, data in changed.items():
        path = name.replace("__", ".")
        if data is None:
            del whole[path]
        else:
            whole[path] = data
    return whole


def folder(path: Path, contents: dict[str, bytes]) -> Path:
    path.mkdir(parents=True)
    for name, data in contents.items():
        (path / name).write_bytes(data)
    return path


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "home")


# The catalogue


def test_catalogue_has_the_starter_first_and_enough_to_choose_from(home: Home) -> None:
    listed = models.catalogue(home)
    assert listed[0].name == models.STARTER and listed[0].kind == "starter" and not listed[0].local
    assert len(listed) >= 16 and len({model.name for model in listed}) == len(listed)
    sizes = [model.parameters for model in listed if model.parameters]
    assert min(sizes) < 0.2e9 and max(sizes) > 69e9
    assert all(model.licence for model in listed)
    assert any(model.gated for model in listed) and any(model.chat_template is False for model in listed)


def test_catalogue_parameters_are_what_their_config_amounts_to(home: Home) -> None:
    counted = [(model, fit.shape(model.config)) for model in models.catalogue(home) if model.config]
    assert len(counted) >= 20
    for model, shape in counted:
        assert shape is not None and shape.parameters == model.parameters, model.name


def test_starter_is_local_once_it_is_made(home: Home) -> None:
    folder(models.starter_folder(home), {"config.json": b"{}"})
    starter = models.find(home, "starter")
    assert starter.local and starter.path == str(models.starter_folder(home)) and starter.config is not None


# The Hub


def test_find_on_the_hub(home: Home, standin_hub: StandinHub) -> None:
    repo = standin_hub.add_model("team-b/small", files())
    found = models.find(home, "team-b/small")
    assert (found.kind, found.name, found.revision, found.licence) == ("hub", "team-b/small", repo.sha, "apache-2.0")
    assert (found.parameters, found.context, found.chat_template, found.local) == (264, 64, True, False)
    assert found.config == LLAMA and not found.gated


@pytest.mark.parametrize(
    "pasted",
    [
        '  "team-b/small" ',
        "https://huggingface.co/team-b/small",
        "huggingface.co/team-b/small/",
        "https://huggingface.co/team-b/small/tree/main",
        "https://hf.co/team-b/small?library=peft",
        "small",
    ],
)
def test_pasted_names_and_old_ids_without_owner(home: Home, standin_hub: StandinHub, pasted: str) -> None:
    standin_hub.add_model("team-b/small", files())
    assert models.find(home, pasted).title == "team-b/small"


def test_an_address_names_its_revision(home: Home, standin_hub: StandinHub) -> None:
    repo = standin_hub.add_model("team-b/small", files())
    first = repo.sha
    repo.commit(files(chat_template__jinja=b"x"))
    assert models.find(home, f"https://huggingface.co/team-b/small/tree/{first}").revision == first
    assert models.find(home, "team-b/small").revision == repo.sha
    with pytest.raises(errors.RevisionNotFound, match="no-such"):
        models.find(home, "team-b/small", revision="no-such")


def test_a_wrong_id(home: Home, standin_hub: StandinHub) -> None:
    with pytest.raises(errors.ModelNotFound, match="team-b/smal"):
        models.find(home, "team-b/smal", token=standin_hub.read_token)
    with pytest.raises(errors.ModelNotFound):
        models.find(home, "team-b/smal")


@pytest.mark.parametrize("name", ["", "a b", "x/y/z", "https://example.org/a/b", "team-b/../etc", "ü/x"])
def test_what_cannot_be_a_name(home: Home, name: str) -> None:
    with pytest.raises(errors.InvalidModelName):
        models.find(home, name)


def test_gated_without_and_with_a_token_that_may(home: Home, standin_hub: StandinHub) -> None:
    standin_hub.add_model("team-b/closed", files(), gated=True)
    for token in (None, standin_hub.read_token):
        with pytest.raises(errors.GatedModel, match="team-b/closed"):
            models.find(home, "team-b/closed", token=token)
    assert models.find(home, "team-b/closed", token=standin_hub.write_token).gated


def test_private_needs_a_token(home: Home, standin_hub: StandinHub) -> None:
    standin_hub.add_model("user-a/mine", files(), private=True)
    with pytest.raises(errors.ModelNotFound):
        models.find(home, "user-a/mine")
    assert models.find(home, "user-a/mine", token=standin_hub.read_token).config == LLAMA


REFUSED = [
    ({"model__safetensors": None, "pytorch_model__bin": b"x"}, errors.OnlyPickleWeights),
    ({"model__safetensors": None}, errors.ModelFolderWithoutWeights),
    ({"model__safetensors": None, "small__gguf": b"x"}, errors.ModelFolderWithoutWeights),
    ({"config__json": None}, errors.ModelFolderWithoutWeights),
    ({"tokenizer__json": None}, errors.ModelFolderWithoutWeights),
    ({"config__json": None, "adapter_config__json": b'{"base_model_name_or_path": "team-b/base"}'}, errors.OnlyAnAdapter),
    ({"config__json": json.dumps({"architectures": ["BertForMaskedLM"]}).encode()}, errors.NotATextModel),
]


@pytest.mark.parametrize(("changed", "expected"), REFUSED)
def test_repositories_that_are_no_base_model(
    home: Home, standin_hub: StandinHub, changed: dict[str, bytes | None], expected: type[errors.LoraUIError]
) -> None:
    standin_hub.add_model("team-b/odd", files(**changed))
    with pytest.raises(expected, match="team-b/odd"):
        models.find(home, "team-b/odd")


@pytest.mark.parametrize(("changed", "expected"), REFUSED)
def test_folders_that_are_no_base_model(
    home: Home, tmp_path: Path, changed: dict[str, bytes | None], expected: type[errors.LoraUIError]
) -> None:
    with pytest.raises(expected):
        models.find(home, str(folder(tmp_path / "odd", files(**changed))))


def test_search_finds_by_words_and_says_what_is_known(standin_hub: StandinHub) -> None:
    standin_hub.add_model("team-b/small-llama", files())
    standin_hub.add_model("team-b/other", files(), gated=True)
    found = models.search(" Small ")
    assert [(model.name, model.parameters, model.licence, model.gated) for model in found] == [
        ("team-b/small-llama", 264, "apache-2.0", False)
    ]
    asked = standin_hub.log[-1].path
    assert "filter=safetensors" in asked and "expand=gated" in asked


# Without the Hub


def test_offline_is_said_and_the_starter_still_works(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    with pytest.raises(errors.HubOffline):
        models.find(home, "team-b/small")
    with pytest.raises(errors.HubOffline):
        models.search("small")
    assert models.find(home, "starter").kind == "starter"
    listed = models.known(home, "Qwen/Qwen3-0.6B")
    assert listed is not None and listed.config is not None
    assert models.known(home, "team-b/never-heard-of") is None


def test_what_was_downloaded_before_is_found_offline(home: Home, standin_hub: StandinHub, tmp_path: Path) -> None:
    repo = standin_hub.add_model("team-b/small", files())
    code = """
import sys
from huggingface_hub import snapshot_download
from lora_ui import models
from lora_ui.home import Home
import os
if sys.argv[2] == "download":
    snapshot_download("team-b/small")
found = models.find(Home(sys.argv[1]), "team-b/small")
print(found.local, found.revision, found.kind, found.parameters)
"""
    env = {**os.environ, "HF_HOME": str(tmp_path / "cache")}
    for mode in ("download", "offline"):
        env |= {"HF_HUB_OFFLINE": "1"} if mode == "offline" else {}
        ran = subprocess.run([sys.executable, "-c", code, str(home.root), mode], env=env, capture_output=True, text=True, check=True)
        assert ran.stdout.split() == ["True", repo.sha, "hub", "264"], ran.stderr


# Folders and GGUF files


def test_a_folder(home: Home, tmp_path: Path) -> None:
    path = folder(tmp_path / "mine", files())
    found = models.find(home, f'"{path}"')
    assert (found.kind, found.title, found.parameters, found.context, found.local) == ("folder", "mine", 264, 64, True)
    assert found.chat_template and found.path == str(path)


def test_a_folder_with_a_missing_or_damaged_shard(home: Home, tmp_path: Path) -> None:
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode()
    path = folder(tmp_path / "half", files(model__safetensors__index__json=index))
    with pytest.raises(errors.ModelFolderWithoutWeights, match=r"model-1\.safetensors is missing"):
        models.find(home, str(path))
    path = folder(tmp_path / "torn", files(model__safetensors=b"\xff" * 40))
    with pytest.raises(errors.ModelFolderWithoutWeights, match="damaged"):
        models.find(home, str(path))
    path = folder(tmp_path / "odd", files(config__json=b"{broken"))
    with pytest.raises(errors.ModelFolderWithoutWeights, match=r"config\.json in it is not valid JSON"):
        models.find(home, str(path))


def test_a_path_with_nothing_there(home: Home, tmp_path: Path) -> None:
    for name in (str(tmp_path / "nothing"), "./nothing", "nothing.gguf"):
        with pytest.raises(errors.ModelPathNotFound, match="nothing"):
            models.find(home, name)


def test_a_gguf_file(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_block_count(2)
    writer.add_feed_forward_length(16)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_chat_template("{{ messages }}")
    writer.add_tensor("token_embd.weight", np.zeros((32, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = models.find(home, str(path))
    assert (found.kind, found.title, found.parameters, found.context, found.chat_template) == ("gguf", "small", 256, 64, True)
    assert found.config is not None and found.config["vocab_size"] == 32 and found.config["tie_word_embeddings"]
    assert fit.shape(found.config) is not None


def test_a_file_that_is_no_model(home: Home, tmp_path: Path) -> None:
    fake = tmp_path / "fake.gguf"
    fake.write_bytes(b"not a model at all, only a name" * 10)
    with pytest.raises(errors.ModelFolderWithoutWeights, match="not a GGUF file"):
        models.find(home, str(fake))
    (tmp_path / "rows.csv").write_text("a,b")
    with pytest.raises(errors.InvalidModelName):
        models.find(home, str(tmp_path / "rows.csv"))


def test_is_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder(tmp_path / "here", {}))
    (tmp_path / "here" / "mine").mkdir()
    assert models.is_hub_id("owner/name") and models.is_hub_id("gpt2")
    assert not any(models.is_hub_id(name) for name in ("starter", "mine", "/abs/path", "x.gguf", "a b"))
