"""The stand-in Hub, tried with the real huggingface_hub client: what goes up comes back, and wrong bytes are refused."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from tests.standin_hub import StandinHub


def test_a_folder_goes_up_and_comes_back(standin_hub: StandinHub, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nhello")
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 50_000)
    api = HfApi(endpoint=standin_hub.url, token=standin_hub.write_token)
    repo = f"{standin_hub.user}/quiet-otter"
    api.create_repo(repo, private=True)
    api.upload_folder(repo_id=repo, folder_path=folder)
    assert standin_hub.files(repo) == {p.name: p.read_bytes() for p in folder.iterdir()}
    assert standin_hub.repos["model", repo].private
    back = Path(snapshot_download(repo, endpoint=standin_hub.url, token=standin_hub.read_token, cache_dir=tmp_path / "cache"))
    assert {p.name: p.read_bytes() for p in back.iterdir()} == standin_hub.files(repo)
    assert any(r.method == "PUT" and r.path.startswith("/lfs/") for r in standin_hub.log)


def test_a_file_that_is_not_the_promised_one_is_refused(standin_hub: StandinHub) -> None:
    promised = hashlib.sha256(b"right").hexdigest()
    assert httpx2.put(f"{standin_hub.url}/lfs/{promised}", content=b"wrong").status_code == 400
    assert promised not in standin_hub.lfs


def test_datasets_ranges_and_search(standin_hub: StandinHub, tmp_path: Path) -> None:
    standin_hub.add_dataset("team-b/rows", {"rows.jsonl": b"0123456789"})
    standin_hub.add_model("team-b/small", {"config.json": b"{}"})
    answer = httpx2.get(f"{standin_hub.url}/datasets/team-b/rows/resolve/main/rows.jsonl", headers={"Range": "bytes=2-4"})
    assert (answer.status_code, answer.content) == (206, b"234")
    api = HfApi(endpoint=standin_hub.url)
    assert [m.id for m in api.list_models(search="SMALL", limit=3)] == ["team-b/small"]
    assert Path(api.hf_hub_download("team-b/rows", "rows.jsonl", repo_type="dataset", cache_dir=tmp_path)).read_bytes() == b"0123456789"


def test_refusals(standin_hub: StandinHub, tmp_path: Path) -> None:
    standin_hub.add_model("team-b/closed", {"config.json": b"{}"}, gated=True)
    readers = HfApi(endpoint=standin_hub.url, token=standin_hub.read_token)
    with pytest.raises(GatedRepoError):
        readers.hf_hub_download("team-b/closed", "config.json", cache_dir=tmp_path)
    with pytest.raises(RepositoryNotFoundError):
        readers.model_info("team-b/missing")
    with pytest.raises(RevisionNotFoundError):
        readers.model_info("team-b/closed", revision="no-such-branch")
    with pytest.raises(HfHubHTTPError):
        readers.create_repo("user-a/new")
    with pytest.raises(HfHubHTTPError):
        HfApi(endpoint=standin_hub.url, token="hf_unknown").whoami()
