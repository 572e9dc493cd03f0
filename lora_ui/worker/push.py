"""The `push` job: an adapter or a merged model to a repository on the Hugging Face Hub, in one commit. No torch.

Private unless asked otherwise. The large files go up first and the commit names them last, so a push that breaks off leaves the
repository as it was. The token lives in this process' memory alone. Only files named in `ADAPTER` or `MERGED` leave.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import RemoteEntryNotFoundError
from huggingface_hub.hf_api import RepoFile

from lora_ui import card, errors, hub
from lora_ui.errors import Say
from lora_ui.home import read_json
from lora_ui.worker import load
from lora_ui.worker.job import Job

TOKENIZER = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "LICENSE*"]
ADAPTER = ["adapter_config.json", "adapter_model.safetensors", *TOKENIZER]
WEIGHTS = ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json", "config.json", "generation_config.json"]
MERGED = [*WEIGHTS, *TOKENIZER]
_PATHS = {"_name_or_path", "name_or_path", "local_files_only", "is_local"}
"""What transformers writes about the folder that a configuration was read from."""


def run(job: Job) -> dict[str, Any]:
    """`{"url", "seconds", "check": {files, bytes, commit, private, verified}}`. `params`: run_id, repo, merged, public.

    Raises TokenMissing, TokenRejected, HubRefused, InvalidRepoName, RepoExists, RepoVisibility, NotMergedYet, NothingTrained, PublishedDiffers,
    HubOffline, HubUnwell, Stopped.
    """
    began = time.monotonic()
    run_id, merged, public = job.params["run_id"], job.params["merged"], job.params["public"]
    job.phase("check")
    repo = job.apart(lambda: hub.check_write(job.token, job.params["repo"]))["repo"]
    made = card.read(job.home, run_id)
    files = _files(job, merged, made)
    api = HfApi(token=job.token)
    with hub.explained(repo):
        head = job.apart(lambda: _prepare_repo(api, repo, run_id, public))
        readme = card.write(made, repo, merged, made.asked.get("licence"))
        files.append(CommitOperationAdd("README.md", readme.encode()))
        job.phase("upload")
        commit = _upload(job, api, repo, files, head)
        job.phase("check")
        check = _verify(api, repo, files, commit)
    return {"url": f"{hub.endpoint()}/{repo}", "seconds": round(time.monotonic() - began, 1), "check": check}


def _files(job: Job, merged: bool, made: card.Made) -> list[CommitOperationAdd]:
    """What leaves this machine, by name; the adapter's configuration names its base by Hub id, never by a path."""
    run = job.home.run(made.run_id)
    folder = run / "merged" if merged else load.adapter_folder(job.home, made.run_id)
    if not (folder / "config.json").is_file() and merged:
        raise errors.NotMergedYet(id=made.run_id)
    named = MERGED if merged else ADAPTER
    paths = [p for p in sorted(folder.iterdir()) if p.is_file() and any(fnmatch.fnmatchcase(p.name, pattern) for pattern in named)]
    return [CommitOperationAdd(p.name, _without_paths(p, made)) for p in paths]


def _without_paths(path: Path, made: card.Made) -> str | bytes:
    """The file itself, or its content where a configuration would name a folder of this machine."""
    if path.name == "adapter_config.json":
        changed = {**read_json(path), "base_model_name_or_path": made.base_id or made.base_title, "revision": made.revision}
    elif path.name in ("config.json", "tokenizer_config.json") and _PATHS.intersection(found := read_json(path)):
        changed = {key: value for key, value in found.items() if key not in _PATHS}
    else:
        return str(path)
    return (json.dumps(changed, indent=2, ensure_ascii=False) + "\n").encode()


def _prepare_repo(api: HfApi, repo: str, run_id: str, public: bool) -> str:
    """Create the repository, or accept one that is empty or was made from this run; its newest commit. Raises RepoExists, RepoVisibility."""
    api.create_repo(repo, private=not public, exist_ok=True)
    info = api.model_info(repo)
    there = {sibling.rfilename for sibling in info.siblings or []} - {".gitattributes"}
    if there and _made_from(api, repo) != run_id:
        raise errors.RepoExists(repo=repo)
    if public == bool(info.private):  # nothing becomes public, or goes to a public place, by a tick alone
        raise errors.RepoVisibility(repo=repo, is_now=Say("private") if info.private else Say("public"))
    assert info.sha is not None
    return info.sha


def _made_from(api: HfApi, repo: str) -> str | None:
    """The run that the card of a repository names as its own."""
    try:
        text = Path(api.hf_hub_download(repo, "README.md")).read_text("utf-8", "replace")
        return ModelCard(text, ignore_metadata_errors=True).data.to_dict().get(card.MARKER)
    except RemoteEntryNotFoundError:
        return None


def _upload(job: Job, api: HfApi, repo: str, files: list[CommitOperationAdd], head: str) -> str:
    """Large files one by one, then everything in one commit on top of `head`; the commit's id. From the commit on a first request to stop
    is not heard: what is published is said to be."""
    total, done = sum(file.upload_info.size for file in files), 0
    for file in files:
        job.check()
        job.progress(done, total, "bytes")
        job.apart(partial(api.preupload_lfs_files, repo, additions=[file]))
        done += file.upload_info.size
    job.check()
    names = {file.path_in_repo for file in files}
    ours = [*ADAPTER, *MERGED]
    before = [f.path for f in api.list_repo_tree(repo, revision=head) if isinstance(f, RepoFile)]
    gone = [p for p in before if p not in names and any(fnmatch.fnmatchcase(p, pattern) for pattern in ours)]
    operations: list[Any] = [*files, *(CommitOperationDelete(path) for path in gone)]
    commit = api.create_commit(repo, operations, commit_message="Publish with LoRA UI", parent_commit=head)
    job.progress(total, total, "bytes")
    return commit.oid


def _verify(api: HfApi, repo: str, files: list[CommitOperationAdd], commit: str) -> dict[str, Any]:
    """Ask the Hub for the checksums of what it now has. Raises PublishedDiffers."""
    there = {f.path: f for f in api.list_repo_tree(repo, revision=commit) if isinstance(f, RepoFile)}
    for file in files:
        found = there.get(file.path_in_repo)
        if found is None or not _same(file, found):
            raise errors.PublishedDiffers(repo=repo, detail=Say("{file} differs.", file=file.path_in_repo))
    sizes = {file.path_in_repo: file.upload_info.size for file in files}
    private = api.model_info(repo).private
    return {"files": len(sizes), "bytes": sum(sizes.values()), "commit": commit, "private": private, "verified": True}


def _same(file: CommitOperationAdd, found: RepoFile) -> bool:
    if found.lfs is not None:
        return found.lfs.sha256 == file.upload_info.sha256.hex()
    with file.as_file() as f:
        content = f.read()
    return found.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
