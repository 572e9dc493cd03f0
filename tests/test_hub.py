"""hub.py against the stand-in Hub: who am I, may I write, each failure its own words, nothing secret in what is said."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from lora_ui import errors, hub
from tests.standin_hub import StandinHub


def test_whoami_says_name_teams_and_role(standin_hub: StandinHub) -> None:
    assert hub.whoami(standin_hub.write_token) == {"name": standin_hub.user, "orgs": [standin_hub.team], "role": "write"}
    assert hub.whoami(standin_hub.read_token)["role"] == "read"


def test_no_token_and_a_wrong_token(standin_hub: StandinHub) -> None:
    with pytest.raises(errors.TokenMissing):
        hub.whoami(None)
    for wrong in ("hf_nobody", "hf_nö", "hf_no\nbody"):
        with pytest.raises(errors.TokenRejected):
            hub.whoami(wrong)


def test_only_the_token_given_is_sent(standin_hub: StandinHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", standin_hub.write_token)
    hub.get("/api/models")
    assert "authorization" not in standin_hub.log[-1].headers
    assert hub.local_token() == standin_hub.write_token


def test_check_write_of_a_new_and_an_old_repository(standin_hub: StandinHub) -> None:
    standin_hub.add_model("team-b/old", {})
    assert hub.check_write(standin_hub.write_token, "team-b/old") == {"repo": "team-b/old", "exists": True}
    assert hub.check_write(standin_hub.write_token, "new") == {"repo": "user-a/new", "exists": False}


def test_check_write_refuses_before_anything_is_uploaded(standin_hub: StandinHub) -> None:
    with pytest.raises(errors.HubRefused, match="only read"):
        hub.check_write(standin_hub.read_token, "user-a/new")
    with pytest.raises(errors.HubRefused, match="not write to stranger"):
        hub.check_write(standin_hub.write_token, "stranger/new")
    for name in ("a b", "user-a/../x", "user-a/x/y", "user-a/" + "x" * 97, "user-a/x.git", ""):
        with pytest.raises(errors.InvalidRepoName):
            hub.check_write(standin_hub.write_token, name)


@pytest.mark.parametrize(
    ("status", "expected"), [(503, errors.HubUnwell), (429, errors.HubUnwell), (401, errors.TokenRejected), (403, errors.HubRefused)]
)
def test_refusals_of_the_hub(standin_hub: StandinHub, status: int, expected: type[errors.LoraUIError]) -> None:
    standin_hub.refuse["/api/models"] = status
    with pytest.raises(expected):
        hub.get("/api/models", standin_hub.write_token)


def test_fine_grained_tokens_write_only_where_they_may() -> None:
    scoped = [{"entity": {"name": "team-b"}, "permissions": ["repo.content.read", "repo.write"]}]
    access = {"role": "fineGrained", "fineGrained": {"scoped": scoped}}
    assert hub._scope_allows(access, "team-b", "team-b/x")
    assert not hub._scope_allows(access, "user-a", "user-a/x")


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")


def test_without_a_network_the_answer_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    began = time.monotonic()
    with pytest.raises(errors.HubOffline, match=r"127\.0\.0\.1"):
        hub.get("/api/models")
    assert not hub.reachable()
    assert time.monotonic() - began < 3


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(errors.HubOffline):
            hub.get("/api/models")


def test_reachable(standin_hub: StandinHub) -> None:
    assert hub.reachable()


@pytest.mark.parametrize(
    "secret",
    [
        "hf_abcdefghijklmnop",
        "Authorization: Bearer abcdef123456",
        "https://me:s3cretpw@host/x",
        "password=hunter22",
        "HF_TOKEN=abcdefgh",
        '"api_key": "abcdefgh"',
        "sk-abcdefghijklmnop",
        "ghp_abcdefghijklmnop",
        "AKIAABCDEFGHIJKLMNOP",
    ],
)
def test_redact(secret: str) -> None:
    shown = hub.redact(f"before {secret} after")
    assert shown.startswith("before ") and shown.endswith(" after") and secret not in shown
    for part in ("abcdefgh", "ABCDEFGH", "hunter22", "s3cretpw", "abcdef123456"):
        assert part not in shown


def test_redact_leaves_ordinary_words() -> None:
    line = "num_tokens: 12345, tokenizer.json, tokens/s 118.2, user:password format, a secret recipe"
    assert hub.redact(line) == line


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("owner/rows", "owner/rows"),
        (' "owner/rows" ', "owner/rows"),
        ("https://huggingface.co/datasets/owner/rows/viewer?x=1", "owner/rows"),
        ("huggingface.co/datasets/owner/rows", "owner/rows"),
        ("datasets/owner/rows", "owner/rows"),
        ("rows.csv", "rows.csv"),
    ],
)
def test_dataset_name(text: str, name: str) -> None:
    assert hub.dataset_name(text) == name


def test_every_error_of_these_modules_is_raised_with_all_its_values() -> None:
    """A message whose template lacks a value would itself crash when it is needed."""
    made: list[Callable[[], errors.LoraUIError]] = [
        lambda: errors.InvalidModelName(name="x"),
        lambda: errors.RevisionNotFound(name="x", revision="y"),
        lambda: errors.HubUnwell(status=503),
        lambda: errors.GatedModel(name="x"),
    ]
    for make in made:
        assert "{" not in str(make())
