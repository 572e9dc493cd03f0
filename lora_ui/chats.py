"""The chat worker's client: opening a chat, finding its address, streaming an answer. Shared by page and command line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from lora_ui import errors
from lora_ui.home import Home, read_json
from lora_ui.jobs import BUSY, ENDED, Job, Jobs


@dataclass(frozen=True)
class Endpoint:
    """Where a chat worker listens, loopback only, and the home's key for it."""

    url: str
    key: str
    base_model: str


def endpoint(home: Home, job: Job) -> Endpoint | None:
    """The address of a running chat, or None while it loads. Raises what ended it: ChatUnloaded, or the worker's own failure."""
    if job.state in ENDED:
        raise errors.again(job.error) if job.error else errors.ChatUnloaded()
    said = read_json(home.chat(job.id) / "endpoint.json") if job.state == "running" else None
    return Endpoint(f"http://127.0.0.1:{said['port']}", home.chat_key.read_text().strip(), said["base_model"]) if said else None


def same_base(home: Home, params: dict[str, Any]) -> Job | None:
    """A chat that is loading or answering with this base model already."""
    for job in Jobs(home.database).all("chat", (*BUSY, "queued")):
        if job.stop_asked is None and all(job.params[k] == params[k] for k in ("base_model", "revision")):
            return job
    return None


def add_adapter(at: Endpoint, name: str) -> None:
    """Load a run's adapter (its id), or its save point of step 60 (`id@60`), beside the base model; again is harmless. Raises what the worker says, ChatUnavailable when it says nothing."""
    try:
        reply = httpx.post(f"{at.url}/v1/adapters", json={"id": name}, headers=_headers(at), timeout=120, trust_env=False)
    except httpx.HTTPError as e:
        raise errors.ChatUnavailable(detail=type(e).__name__) from None
    if reply.status_code != 200:
        raise _said(reply.content)


def stream(
    at: Endpoint,
    model: str,
    messages: list[dict[str, str]],
    temperature: float = 0.7,
    top_p: float = 0.9,
    max_tokens: int = 512,
    seed: int | None = None,
) -> Iterator[dict[str, Any]]:
    """`{"text": piece}` as it is written, last `{"done": True, "tokens": n, "tokens_per_second": x, "model": who}`. Closing the
    iterator stops the answer. `model` is `base` or an adapter that was added. Raises what the worker says (PromptTooLong, ChatUnloaded, …),
    ChatUnavailable when it says nothing."""
    body = {
        "model": model,
        "messages": messages,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "seed": seed,
        "stream": True,
    }
    try:
        with httpx.stream("POST", f"{at.url}/v1/chat/completions", json=body, headers=_headers(at), timeout=300, trust_env=False) as reply:
            if reply.status_code != 200:
                raise _said(reply.read())
            for line in reply.iter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise _said(line.removeprefix("data: "))
                if chunk.get("choices") and (piece := chunk["choices"][0]["delta"].get("content")):
                    yield {"text": piece}
                if usage := chunk.get("usage"):
                    tokens = usage["completion_tokens"]
                    yield {"done": True, "tokens": tokens, "tokens_per_second": chunk["tokens_per_second"], "model": chunk["model"]}
    except httpx.HTTPError as e:
        raise errors.ChatUnavailable(detail=type(e).__name__) from None


def _headers(at: Endpoint) -> dict[str, str]:
    return {"Authorization": f"Bearer {at.key}"}


def _said(reply: str | bytes) -> errors.LoraUIError:
    """The failure in the worker's JSON, in its own words."""
    said = json.loads(reply)["error"]
    return errors.again(said["lora_ui"]) if "lora_ui" in said else errors.ChatRequestRefused(detail=said["message"])


def hub_environment() -> dict[str, str]:
    """`HF_ENDPOINT` and the other Hub settings of the asker travel with its job; tokens never do."""
    kept = ("HF_ENDPOINT", "HF_HOME")
    return {k: v for k, v in os.environ.items() if (k in kept or k.startswith("HF_HUB_")) and "TOKEN" not in k}
