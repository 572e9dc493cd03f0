"""The `chat` job: a long-lived process with one base model, answering over HTTP on loopback until it is stopped or nobody writes.

`params`: base_model, revision, run_id (whose adapter to load first, or None), idle_seconds. Writes `endpoint.json` when ready.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path
from typing import Any

import torch

from lora_ui import errors, machine, memory
from lora_ui.errors import Say
from lora_ui.home import Home, read_json, write_json
from lora_ui.worker import load
from lora_ui.worker.chat_server import Chat, serve
from lora_ui.worker.job import Job
from lora_ui.worker.switch import SwitchedModel


def run(job: Job) -> dict[str, Any]:
    """Serve until idle: `{"reason": "idle", "answers": n, "tokens": n}`. Raises Stopped when asked to stop."""
    here = machine.look()
    torch.set_num_threads(here.cores)
    job.phase("load")
    run_id = job.params["run_id"]
    folder = load.local_folder(job, job.params["base_model"], job.params["revision"])
    tokenizer = load.load_tokenizer(folder)
    model = load.load_model(folder, dtype_for(here), *_squeezed(job, run_id))
    chat = Chat(job.home, job.params["base_model"], folder, tokenizer, SwitchedModel(model), job.stopping)
    if run_id:
        chat.add_adapter(run_id)
    job.check()
    server = serve(chat, key(job.home))
    job.phase("answer")
    write_json(
        job.folder / "endpoint.json", {"port": server.server_port, "base_model": job.params["base_model"], "template": chat.template}
    )
    try:
        while not job.stopping.wait(0.5):
            if chat.idle_since is not None and time.monotonic() - chat.idle_since > job.params["idle_seconds"]:
                return {"reason": "idle", "answers": chat.answers, "tokens": chat.tokens}
        job.check()
    finally:
        (job.folder / "endpoint.json").unlink()
        server.shutdown()
        chat.wait_for_answers(3.0)
    raise AssertionError("a stopping job raises Stopped")


def dtype_for(here: machine.Machine) -> torch.dtype:
    """float32 on a CPU without AMX, where 16-bit numbers are slower; bfloat16 where it is fast; else what the GPU has."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    return torch.bfloat16 if here.device == "cpu" and here.bf16_is_fast else torch.float32


def _squeezed(job: Job, run_id: str | None) -> tuple[bool, bool]:
    """4-bit or 8-bit as the run was trained: on its GPU the whole model may not fit. A CPU answers faster unsqueezed."""
    return trained_in(job.home, run_id) if run_id and torch.cuda.is_available() else (False, False)


def trained_in(home: Home, run_id: str) -> tuple[bool, bool]:
    """(4-bit, 8-bit) of the base model of a run."""
    chosen = read_json(home.run(run_id) / "job.json")["params"]["settings"]["model"]
    decided = read_json(home.run(run_id) / "decided.json")
    return decided[memory.PRECISION]["value"] if chosen["load_in_4bit"] == "auto" else chosen["load_in_4bit"], chosen["load_in_8bit"]


def key(home: Home) -> str:
    """The home's key for chats, made once: readable by its owner alone, and the same for every process that asks."""
    path: Path = home.chat_key
    if not path.exists():
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as f:
            f.write(secrets.token_urlsafe(32))
        try:
            os.link(beside, path)  # fails when another process was first
        except FileExistsError:
            pass
        finally:
            beside.unlink()
    if path.stat().st_mode & 0o077:
        raise errors.ChatUnavailable(detail=Say("{file} can be read by others; delete it, and a new one is made.", file=path.name))
    return path.read_text().strip()
