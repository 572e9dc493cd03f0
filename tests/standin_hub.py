"""A Hugging Face Hub of our own, over real HTTP on a free port of this machine, for tests of search, pull and push.

It speaks what huggingface_hub 2.4 asks of the Hub in LFS mode (HF_HUB_DISABLE_XET=1): who am I, create, preupload, LFS batch,
upload and verify, commit, info, tree, resolve with ranges, search. Uploads are kept only if their sha256 is the promised one.
Not covered: xet, pull requests, branches besides main, web pages.

Who may do what: WRITE_TOKEN writes to `user-a` and `team-b` and may read gated repositories; READ_TOKEN only reads, and gated
ones refuse it; any other token is unknown.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import math
import socket
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import uvicorn
import yaml
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

WRITE_TOKEN = "hf_writeStandinCanary0123456789abcdef"
READ_TOKEN = "hf_readStandinCanary0123456789abcdef"
ROLES = {WRITE_TOKEN: "write", READ_TOKEN: "read"}
USER, TEAM = "user-a", "team-b"
_LFS_NAMES = (".safetensors", ".gguf", ".bin", ".parquet", "tokenizer.json")
_DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Repo:
    kind: str
    id: str
    private: bool = False
    gated: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    @property
    def sha(self) -> str:
        return self.commits[-1][0]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]

    def commit(self, files: dict[str, bytes]) -> str:
        told = f"{self.kind}/{self.id}/{len(self.commits)}/{sorted((p, hashlib.sha256(d).hexdigest()) for p, d in files.items())}"
        self.commits.append((hashlib.sha1(told.encode()).hexdigest(), files))
        return self.sha

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision in ("main", "HEAD", "refs/heads/main"):
            return self.commits[-1]
        return next((c for c in self.commits if c[0] == revision), None)


@dataclass
class Logged:
    method: str
    path: str
    headers: dict[str, str]
    status: int


def is_lfs(path: str) -> bool:
    return path.endswith(_LFS_NAMES)


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def refusal(status: int, message: str, code: str = "") -> Response:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return JSONResponse({"error": message}, status, headers=headers)


class StandinHub:
    """`with StandinHub() as hub:` serves at `hub.url`. `hub.refuse["POST /api"] = 503` refuses what has that in it; 0 never answers."""

    write_token, read_token, user, team = WRITE_TOKEN, READ_TOKEN, USER, TEAM

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.log: list[Logged] = []
        self.refuse: dict[str, int] = {}
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(make_app(self), log_level="critical", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()
        self._socket.close()

    def add(self, kind: str, id: str, source: Path | dict[str, bytes], gated: bool = False, private: bool = False) -> Repo:
        """Put a repository there: `source` is a folder, or path -> bytes. `kind` is model or dataset."""
        if isinstance(source, Path):
            source = {p.relative_to(source).as_posix(): p.read_bytes() for p in sorted(source.rglob("*")) if p.is_file()}
        repo = self.repos[kind, id] = Repo(kind, id, private, gated)
        repo.commit(source)
        return repo

    def add_model(self, id: str, source: Path | dict[str, bytes], gated: bool = False, private: bool = False) -> Repo:
        return self.add("model", id, source, gated, private)

    def add_dataset(self, id: str, source: Path | dict[str, bytes], gated: bool = False, private: bool = False) -> Repo:
        return self.add("dataset", id, source, gated, private)

    def files(self, id: str, kind: str = "model") -> dict[str, bytes]:
        """path -> bytes of the newest commit."""
        return dict(self.repos[kind, id].files)


def role_of(request: Request) -> str | None:
    return ROLES.get(request.headers.get("authorization", "").removeprefix("Bearer "))


def front_matter(files: dict[str, bytes]) -> dict[str, Any]:
    parts = files.get("README.md", b"").decode().split("---")
    return (yaml.safe_load(parts[1]) or {}) if len(parts) > 2 and not parts[0].strip() else {}


def parameters(files: dict[str, bytes]) -> int:
    """Of all safetensors files together, from their headers; 0 when a file is none, as the Hub then gives no number."""
    total = 0
    for path, data in files.items():
        if path.endswith(".safetensors") and len(data) > 8:
            try:
                header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
            except ValueError:
                return 0
            total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total


def info(repo: Repo, sha: str, files: dict[str, bytes]) -> dict[str, Any]:
    card = front_matter(files)
    weights = parameters(files)
    return {
        "_id": git_oid(repo.id.encode())[:24],
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.id.partition("/")[0],
        "sha": sha,
        "private": repo.private,
        "gated": "manual" if repo.gated else False,
        "disabled": False,
        "tags": ["safetensors", "text-generation"] + ([f"license:{card['license']}"] if "license" in card else []),
        "pipeline_tag": "text-generation",
        "downloads": 0,
        "likes": 0,
        "lastModified": _DATE,
        "createdAt": _DATE,
        "cardData": card,
        "siblings": [{"rfilename": p} for p in files],
        **({"safetensors": {"parameters": {"F32": weights}, "total": weights}} if weights else {}),
    }


def entry(path: str, data: bytes) -> dict[str, Any]:
    sha256 = hashlib.sha256(data).hexdigest()
    lfs = {"lfs": {"oid": sha256, "size": len(data), "pointerSize": 130}} if is_lfs(path) else {}
    return {"type": "file", "path": path, "size": len(data), "oid": git_oid(data), **lfs}


def make_app(hub: StandinHub) -> FastAPI:
    app = FastAPI()

    @app.middleware("http")
    async def record(request: Request, follow: Any) -> Response:
        status = next((s for part, s in hub.refuse.items() if part in f"{request.method} {request.url.path}"), None)
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        if status == 0:
            hub.log.append(Logged(request.method, path, dict(request.headers), 0))
            await asyncio.Event().wait()
        answer = refusal(status, "refused for this test") if status else await follow(request)
        hub.log.append(Logged(request.method, path, dict(request.headers), answer.status_code))
        return answer

    add_accounts(app, hub)
    add_push(app, hub)
    add_lfs(app, hub)
    add_pull(app, hub)
    return app


def readable(hub: StandinHub, request: Request, kind: str, id: str, contents: bool = False) -> Repo | Response:
    """The repository if this token may see it (`contents`: may read its files), else the refusal that the Hub would give."""
    role, repo = role_of(request), hub.repos.get((kind, id))
    if role is None and request.headers.get("authorization"):
        return refusal(401, "Invalid credentials in Authorization header")
    if repo is None or (repo.private and role is None):
        return refusal(401 if role is None else 404, "Repository not found", "RepoNotFound")
    if contents and repo.gated and role != "write":
        return refusal(401 if role is None else 403, f"Access to {kind} {id} is restricted.", "GatedRepo")
    return repo


def add_accounts(app: FastAPI, hub: StandinHub) -> None:
    @app.get("/api/whoami-v2")
    async def whoami(request: Request) -> Any:
        role = role_of(request)
        if role is None:
            return refusal(401, "Invalid credentials in Authorization header")
        orgs = [{"type": "org", "name": TEAM, "roleInOrg": "write"}]
        auth = {"type": "access_token", "accessToken": {"displayName": "a token", "role": role}}
        return {"type": "user", "id": "1", "name": USER, "fullname": "User A", "orgs": orgs, "auth": auth}

    @app.post("/api/repos/create")
    async def create(request: Request) -> Any:
        asked = await request.json()
        owner = asked.get("organization") or USER
        if role_of(request) is None:
            return refusal(401, "Invalid credentials in Authorization header")
        if role_of(request) != "write" or owner not in (USER, TEAM):
            return refusal(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
        kind, id = asked.get("type") or "model", f"{owner}/{asked['name']}"
        url = f"{hub.url}/{'datasets/' if kind == 'dataset' else ''}{id}"
        if (kind, id) in hub.repos:
            return JSONResponse({"error": "You already created this repo", "url": url}, 409)
        hub.add(kind, id, {}, private=asked.get("visibility") == "private")
        return {"url": url, "name": id, "id": "0" * 24}

    @app.get("/api/{kind}s/{owner}/{name}/auth-check")
    @app.get("/api/{kind}s/{owner}/{name}/auth-check/write")
    async def auth_check(kind: str, owner: str, name: str, request: Request) -> Any:
        repo = readable(hub, request, kind, f"{owner}/{name}", contents=True)
        if isinstance(repo, Response):
            return repo
        if request.url.path.endswith("/write") and (role_of(request) != "write" or owner not in (USER, TEAM)):
            return refusal(403, "Forbidden: you must have write access")
        return {"success": True}

    @app.post("/api/validate-yaml")
    async def validate() -> Any:
        return {"errors": [], "warnings": []}


def add_push(app: FastAPI, hub: StandinHub) -> None:
    def writable(request: Request, kind: str, id: str) -> Repo | Response:
        repo = readable(hub, request, kind, id)
        if isinstance(repo, Repo) and (role_of(request) != "write" or id.partition("/")[0] not in (USER, TEAM)):
            return refusal(403, "Forbidden: you must have write access")
        return repo

    @app.post("/api/{kind}s/{owner}/{name}/preupload/{revision}")
    async def preupload(kind: str, owner: str, name: str, revision: str, request: Request) -> Any:
        repo = writable(request, kind, f"{owner}/{name}")
        if isinstance(repo, Response):
            return repo
        answers = []
        for file in (await request.json())["files"]:
            path = file["path"]
            answer = {"path": path, "uploadMode": "lfs" if is_lfs(path) else "regular", "shouldIgnore": False}
            if path in repo.files:
                data = repo.files[path]
                answer["oid"] = hashlib.sha256(data).hexdigest() if is_lfs(path) else git_oid(data)
            answers.append(answer)
        return {"files": answers, "commitOid": repo.sha}

    @app.post("/api/{kind}s/{owner}/{name}/commit/{revision:path}")
    async def commit(kind: str, owner: str, name: str, revision: str, request: Request) -> Any:
        repo = writable(request, kind, f"{owner}/{name}")
        if isinstance(repo, Response):
            return repo
        files = dict(repo.files)
        for line in (await request.body()).splitlines():
            said = json.loads(line)
            key, value = said["key"], said["value"]
            if key == "header" and value.get("parentCommit", repo.sha) != repo.sha:
                return refusal(412, "A commit has happened since. Please refresh and try again.")
            if key == "lfsFile" and value["oid"] not in hub.lfs:
                return refusal(400, f"LFS object {value['oid']} was never uploaded")
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = hub.lfs[value["oid"]]
            elif key == "deletedFile":
                files.pop(value["path"], None)
            elif key == "deletedFolder":
                files = {p: d for p, d in files.items() if not p.startswith(value["path"].rstrip("/") + "/")}
        oid = repo.commit(files)
        return {"success": True, "commitOid": oid, "commitUrl": f"{hub.url}/{repo.id}/commit/{oid}", "hookOutput": ""}


def add_lfs(app: FastAPI, hub: StandinHub) -> None:
    @app.post("/{owner}/{name}.git/info/lfs/objects/batch")
    @app.post("/datasets/{owner}/{name}.git/info/lfs/objects/batch")
    async def batch(owner: str, name: str, request: Request) -> Any:
        if role_of(request) != "write":
            return refusal(403, "Forbidden: you must have write access")
        objects = []
        for asked in (await request.json())["objects"]:
            here = f"{hub.url}/lfs/{asked['oid']}"
            new = {"actions": {"upload": {"href": here}, "verify": {"href": f"{here}/verify"}}}
            objects.append({"oid": asked["oid"], "size": asked["size"], **({} if asked["oid"] in hub.lfs else new)})
        return JSONResponse({"transfer": "basic", "objects": objects}, media_type="application/vnd.git-lfs+json")

    @app.put("/lfs/{oid}")
    async def upload(oid: str, request: Request) -> Response:
        data = await request.body()
        if hashlib.sha256(data).hexdigest() != oid:
            return refusal(400, "The sha256 of what came is not the promised one")
        hub.lfs[oid] = data
        return Response()

    @app.post("/lfs/{oid}/verify")
    async def verify(oid: str, request: Request) -> Response:
        asked = await request.json()
        return Response(status_code=200 if len(hub.lfs.get(oid, b"")) == asked["size"] else 404)


def add_pull(app: FastAPI, hub: StandinHub) -> None:
    @app.get("/api/{kind}s/{owner}/{name}")
    @app.get("/api/{kind}s/{owner}/{name}/revision/{revision:path}")
    async def about(kind: str, owner: str, name: str, request: Request, revision: str = "main") -> Any:
        repo = readable(hub, request, kind, f"{owner}/{name}")
        if isinstance(repo, Response):
            return repo
        at = repo.at(revision)
        return info(repo, *at) if at else refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    @app.get("/api/{kind}s/{owner}/{name}/tree/{revision}")
    @app.get("/api/{kind}s/{owner}/{name}/tree/{revision}/{folder:path}")
    async def tree(kind: str, owner: str, name: str, revision: str, request: Request, folder: str = "") -> Any:
        repo = readable(hub, request, kind, f"{owner}/{name}")
        if isinstance(repo, Response):
            return repo
        at = repo.at(revision)
        if at is None:
            return refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        found = [entry(p, d) for p, d in at[1].items() if not folder or p.startswith(folder.rstrip("/") + "/")]
        return found if found or not folder else refusal(404, "Entry not found", "EntryNotFound")

    @app.post("/api/{kind}s/{owner}/{name}/paths-info/{revision}")
    async def paths_info(kind: str, owner: str, name: str, revision: str, request: Request) -> Any:
        repo = readable(hub, request, kind, f"{owner}/{name}")
        if isinstance(repo, Response):
            return repo
        wanted = (await request.form()).getlist("paths")
        return [entry(p, d) for p, d in repo.files.items() if p in wanted]

    @app.get("/api/{kind}s")
    async def search(kind: str, search: str = "", limit: int = 100) -> Any:
        """As the Hub: the words in any place of the id, private ones left out."""
        found = (r for r in hub.repos.values() if r.kind == kind and not r.private and search.lower() in r.id.lower())
        return [info(r, r.sha, r.files) for r in found][:limit]

    @app.get("/api/models/{name}")
    async def without_owner(name: str, request: Request) -> Any:
        """Old ids such as `gpt2` moved to an owner; the Hub sends one on."""
        moved = next((id for kind, id in hub.repos if kind == "model" and id.endswith(f"/{name}")), None)
        return RedirectResponse(f"/api/models/{moved}", 307) if moved else refusal(401, "Repository not found", "RepoNotFound")

    @app.api_route("/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    async def resolve(owner: str, name: str, revision: str, path: str, request: Request) -> Response:
        return file_answer(hub, request, "model", f"{owner}/{name}", revision, path)

    @app.api_route("/datasets/{owner}/{name}/resolve/{revision}/{path:path}", methods=["GET", "HEAD"])
    async def resolve_dataset(owner: str, name: str, revision: str, path: str, request: Request) -> Response:
        return file_answer(hub, request, "dataset", f"{owner}/{name}", revision, path)


def file_answer(hub: StandinHub, request: Request, kind: str, id: str, revision: str, path: str) -> Response:
    repo = readable(hub, request, kind, id, contents=True)
    if isinstance(repo, Response):
        return repo
    at = repo.at(revision)
    if at is None:
        return refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    sha, files = at
    if path not in files:
        missing = refusal(404, "Entry not found", "EntryNotFound")
        missing.headers["X-Repo-Commit"] = sha
        return missing
    data = whole = files[path]
    oid = hashlib.sha256(whole).hexdigest() if is_lfs(path) else git_oid(whole)
    headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes", "ETag": f'"{oid}"'}
    if is_lfs(path):
        headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(whole))}
    status, asked = 200, request.headers.get("range", "")
    if asked.startswith("bytes="):
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first or 0), int(last) if last else len(whole) - 1
        data, status = whole[start : end + 1], 206
        headers["Content-Range"] = f"bytes {start}-{end}/{len(whole)}"
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers | {"Content-Length": str(len(data))})
    return Response(data, status, headers=headers, media_type="application/octet-stream")
