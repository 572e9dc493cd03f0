"""The Hugging Face Hub as seen by web and command line: one short question at a time, answered or refused within seconds.

Not here: downloads and uploads of weights, which workers do with huggingface_hub itself (inside `explained`, so that their
failures read the same). Tokens come as arguments and go nowhere else: no token given means none is sent, also when this
machine is logged in (`local_token` is how the command line asks for that one).
"""

from __future__ import annotations

import os
import queue
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants, get_session, get_token, hf_raise_for_status
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lora_ui import errors
from lora_ui.errors import Say

T = TypeVar("T")
PATIENCE = 8.0
"""Seconds a person waits at most for one answer; name look-ups that hang are inside it."""
_TIMEOUT = httpx2.Timeout(6.0, connect=4.0)


def endpoint() -> str:
    """The Hub's address, read at each call: huggingface_hub itself reads HF_ENDPOINT only once, at its import."""
    return (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")


def local_token() -> str | None:
    """HF_TOKEN or the one of `hf auth login` on this machine; for the command line only."""
    return get_token()


@contextmanager
def explained(name: str = "", kind: str = "model", revision: str | None = None) -> Iterator[None]:
    """Turn huggingface_hub's and the network's errors into ours. `kind` is model or dataset.

    A single missing file (RemoteEntryNotFoundError) passes through: whether that is a failure, the caller knows.
    """
    try:
        yield
    except RemoteEntryNotFoundError:
        raise
    except GatedRepoError as e:  # a subclass of RepositoryNotFoundError: first
        raise errors.GatedModel(name=name) from e
    except RevisionNotFoundError as e:
        raise errors.RevisionNotFound(name=name, revision=revision or "main") from e
    except RepositoryNotFoundError as e:
        raise _missing(name, kind) from e
    except HFValidationError as e:
        raise (errors.DataNotFound(name=name) if kind == "dataset" else errors.InvalidModelName(name=name)) from e
    except OfflineModeIsEnabled as e:
        raise errors.HubOffline(detail=Say("HF_HUB_OFFLINE is set.")) from e
    except (httpx2.TransportError, LocalEntryNotFoundError) as e:
        raise errors.HubOffline(detail=Say("There is no connection to {host}.", host=urlsplit(endpoint()).netloc)) from e
    except HfHubHTTPError as e:
        raise _refused(e) from e


def _missing(name: str, kind: str) -> errors.LoraUIError:
    return errors.DataNotFound(name=name) if kind == "dataset" else errors.ModelNotFound(name=name)


def _refused(e: HfHubHTTPError) -> errors.LoraUIError:
    status = e.response.status_code
    if status == 401:
        return errors.TokenRejected()
    if status == 429 or status >= 500:
        return errors.HubUnwell(status=status)
    return errors.HubRefused(detail=redact(e.server_message or e.response.reason_phrase or str(status)))


def get(
    path: str,
    token: str | None = None,
    name: str = "",
    kind: str = "model",
    revision: str | None = None,
    params: list[tuple[str, Any]] | None = None,
) -> Any:
    """The JSON at `path` of the Hub. No retries: a person waits. `name`, `kind` and `revision` are for the error's words.

    Raises as `explained`; HubOffline after PATIENCE seconds; ValueError when the answer is not JSON.
    """

    token = (token or "").strip()
    if token and not re.fullmatch(r"[!-~]+", token):  # an HTTP header cannot carry it, and the refusal would quote it
        raise errors.TokenRejected()
    headers = {"authorization": f"Bearer {token}"} if token else {}

    def ask() -> Any:
        answer = get_session().get(endpoint() + path, headers=headers, params=params, timeout=_TIMEOUT)
        hf_raise_for_status(answer)
        return answer.json()

    with explained(name, kind, revision):
        return _in_time(ask)


def reachable() -> bool:
    """Whether the Hub answers at all, within PATIENCE seconds."""
    try:
        with explained():
            _in_time(lambda: get_session().head(endpoint() + "/api/models", timeout=_TIMEOUT))
    except errors.HubOffline:
        return False
    return True


def _in_time(ask: Callable[[], T]) -> T:
    """What `ask` returns or raises; a timeout after PATIENCE. In a thread, because looking up a host name has no timeout of its own."""
    outcome: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            outcome.put((ask(), None))
        except BaseException as e:  # handed over to the waiting thread, which raises it
            outcome.put((None, e))

    threading.Thread(target=work, daemon=True).start()
    try:
        value, problem = outcome.get(timeout=PATIENCE)
    except queue.Empty:
        raise httpx2.ConnectTimeout("no answer in time") from None
    if problem is not None:
        raise problem
    return value  # type: ignore[return-value]


def whoami(token: str | None) -> dict[str, Any]:
    """`{"name", "orgs": [those this account may write to], "role": read|write|fineGrained}`. Raises TokenMissing TokenRejected HubOffline."""
    account = _account(token)
    orgs = [org["name"] for org in account.get("orgs", []) if org.get("roleInOrg") != "read"]
    return {"name": account["name"], "orgs": orgs, "role": _access(account).get("role", "read")}


def _account(token: str | None) -> dict[str, Any]:
    if not token:
        raise errors.TokenMissing()
    return get("/api/whoami-v2", token)


def _access(account: dict[str, Any]) -> dict[str, Any]:
    return account.get("auth", {}).get("accessToken", {})


def check_write(token: str | None, repo: str, kind: str = "model") -> dict[str, Any]:
    """Ask before anything is uploaded whether this token may write to `repo` (owner/name; a bare name means the token's account).

    Returns `{"repo", "exists"}`. Raises TokenMissing TokenRejected HubRefused InvalidRepoName HubOffline.
    """
    account = _account(token)
    repo = repo.strip() if "/" in repo else f"{account['name']}/{repo.strip()}"
    _check_repo_name(repo)
    owner = repo.partition("/")[0]
    access = _access(account)
    if access.get("role") == "read":
        raise errors.HubRefused(detail=Say("this token may only read."))
    writable = {account["name"], *(org["name"] for org in account.get("orgs", []) if org.get("roleInOrg") != "read")}
    if owner not in writable or not _scope_allows(access, owner, repo):
        raise errors.HubRefused(detail=Say("this token may not write to {owner}.", owner=owner))
    try:
        get(f"/api/{kind}s/{repo}/auth-check/write", token, repo, kind)
    except (errors.ModelNotFound, errors.DataNotFound):
        return {"repo": repo, "exists": False}
    return {"repo": repo, "exists": True}


def _scope_allows(access: dict[str, Any], owner: str, repo: str) -> bool:
    """A fine-grained token lists what it may write to; the others may write wherever their account may."""
    if access.get("role") != "fineGrained":
        return True
    scopes = access.get("fineGrained", {}).get("scoped", [])
    return any("repo.write" in s.get("permissions", []) and s.get("entity", {}).get("name") in (owner, repo) for s in scopes)


def _check_repo_name(repo: str) -> None:
    if repo.count("/") != 1 or not valid_id(repo):
        raise errors.InvalidRepoName(repo=repo)


def valid_id(name: str) -> bool:
    """Whether `name` has the form of a Hub id: owner/name, or a bare name as a few old models have."""
    usual = re.fullmatch(r"[A-Za-z0-9_][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?", name, re.ASCII)
    return bool(usual) and not ("--" in name or ".." in name or name.endswith((".git", "-", ".")))


def dataset_name(text: str) -> str:
    """`owner/name` from an id or a pasted address of a dataset's page; other text comes back without quotes, for `data.load` to judge."""
    text = text.strip().strip("\"'`“”<> ").rstrip("/")
    address = re.match(r"(?:https?://[^/]+/|huggingface\.co/|hf\.co/|hf://)?datasets/([^/?#]+/[^/?#]+)", text)
    return address[1] if address else text


_SECRETS = (
    (re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{4,}"), "hf_…"),
    (re.compile(r"\b(?:sk|ghp|gho|github_pat|glpat|xox[abpr])[-_][A-Za-z0-9_-]{10,}"), "…"),
    (re.compile(r"\bAKIA[0-9A-Z]{16}\b"), "AKIA…"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), r"\1 …"),
    (re.compile(r"(://[^/\s:@]+:)[^/\s@]+@"), r"\1…@"),
    (
        re.compile(
            r"(?i)\b((?:[a-z0-9]+[_-])*(?:token|password|passwd|secret|signature|(?:api|access|private)[_-]?key))"
            r"(['\"]?\s*[=:]\s*['\"]?)[^\s\"',;&]{4,}"
        ),
        r"\1\2…",
    ),
)


def redact(text: str) -> str:
    """The text without tokens, keys and passwords: for logs, messages and reports that leave this machine."""
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text
