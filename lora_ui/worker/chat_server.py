"""The chat's HTTP side, compatible with OpenAI's: `/v1/models`, `/v1/adapters`, `/v1/chat/completions` with streaming.

Loopback only. Every request needs the home's key and a Host of this machine; unknown fields are refused, so that no option is
silently without effect. Not here: the turns of several answers (switch.py), the prompt's tokens (render.py).
"""

from __future__ import annotations

import hmac
import json
import select
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tokenizers.decoders import DecodeStream
from transformers import PreTrainedTokenizerFast

from lora_ui import errors, hub
from lora_ui.errors import Say
from lora_ui.home import Home
from lora_ui.worker import checkpoints, load, render
from lora_ui.worker.switch import Answer, SwitchedModel

MOST_BYTES = 4 * 1024 * 1024


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: str


class Question(BaseModel):
    """The body of `/v1/chat/completions`. `model` is `base` or the name of an adapter that was added."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    model: str
    messages: list[Message] = Field(min_length=1)
    temperature: float = Field(1.0, ge=0, le=5)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: int = Field(512, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    stream: bool = False


class AdapterName(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str


class Chat:
    """One base model and who may be asked: `base`, and every adapter that was added."""

    def __init__(
        self, home: Home, base_model: str, folder: Path, tokenizer: PreTrainedTokenizerFast, model: SwitchedModel, stopping: threading.Event
    ):
        self.home, self.base_model, self.tokenizer, self.model, self.stopping = home, base_model, tokenizer, model, stopping
        self.template = "own" if tokenizer.chat_template else "chatml"
        self.ends = frozenset({tokenizer.eos_token_id, *load.end_tokens(folder)})
        self.context: int = getattr(model.model.config.get_text_config(), "max_position_embeddings", 4096)
        self.answers = self.tokens = 0
        self.idle_since: float | None = time.monotonic()

    def add_adapter(self, name: str) -> None:
        """`name`: a run's id, or `id@60` for its save point of step 60. Raises NoSuchJob, NothingTrained, AdapterUnsuitable, SavePointUnusable."""
        if name in self.model.adapters:
            return
        run_id, _, step = name.partition("@")
        folder = load.adapter_folder(self.home, run_id, self.base_model, self._save_point(run_id, step) if step else None)
        try:
            self.model.load(name, folder)
        except (ValueError, RuntimeError) as e:
            raise errors.AdapterUnsuitable(name=name, detail=hub.redact(str(e).split("\n")[0])) from e

    def _save_point(self, run_id: str, step: str) -> Path:
        """The folder of a save point, every file of it as its manifest says."""
        if not step.isdecimal() or len(step) > 18:
            raise errors.NoSuchJob(id=f"{run_id}@{step}")
        folder: Path = self.home.run(run_id) / "checkpoints" / f"step-{int(step):06d}"
        if problem := checkpoints.damage(folder):
            raise errors.SavePointUnusable(step=step, problem=problem)
        return folder

    def ask(self, question: Question) -> tuple[Answer, Generator[str]]:
        """The answer's state and its text, piece by piece. Raises ChatModelUnknown, PromptTooLong, ChatRequestRefused; the text raises ChatUnloaded
        when the chat is stopped meanwhile."""
        adapter = None if question.model == "base" else question.model
        if adapter and adapter not in self.model.adapters:
            raise errors.ChatModelUnknown(name=adapter, known=", ".join(["base", *self.model.adapters]))
        try:
            prompt = render.prompt_ids(self.tokenizer, [m.model_dump() for m in question.messages])
        except (render.Unrenderable, TemplateError) as e:
            raise errors.ChatRequestRefused(detail=Say("The model's chat template does not take it: {said}", said=str(e))) from e
        if len(prompt) >= self.context:
            raise errors.PromptTooLong(tokens=len(prompt), limit=self.context)
        most = min(question.max_tokens, self.context - len(prompt))
        answer = Answer(adapter, prompt, most, self.ends, question.temperature, question.top_p, question.seed)
        stops = [question.stop] if isinstance(question.stop, str) else question.stop or []
        if self.template == "chatml":
            stops = [*stops, "<|im_end|>"]
        return answer, self._text(answer, [s for s in stops if s])

    def _text(self, answer: Answer, stops: list[str]) -> Generator[str]:
        decoder, held = DecodeStream(skip_special_tokens=True), ""
        self.idle_since = None
        turns = self.model.answer(answer)
        try:
            for ids in turns:
                if self.stopping.is_set():
                    raise errors.ChatUnloaded()
                held += "".join(filter(None, (decoder.step(self.tokenizer.backend_tokenizer, id) for id in ids)))
                found = min((at for at in (held.find(stop) for stop in stops) if at >= 0), default=-1)
                if found >= 0:
                    answer.ended = "stop"
                    yield held[:found]
                    return
                keep = max((n for stop in stops for n in range(1, len(stop)) if held.endswith(stop[:n])), default=0)
                yield held[: len(held) - keep]
                held = held[len(held) - keep :]
            yield held
        finally:
            turns.close()
            self.answers += 1
            self.tokens += answer.tokens
            self.idle_since = time.monotonic() if self.model.answering == 0 else None

    def wait_for_answers(self, seconds: float) -> None:
        """Until those under way have said that they end."""
        until = time.monotonic() + seconds
        while self.model.answering and time.monotonic() < until:
            time.sleep(0.02)


def serve(chat: Chat, key: str) -> ThreadingHTTPServer:
    """Listen on a free loopback port, each request in its own thread."""

    class Bound(Handler):
        pass

    Bound.chat, Bound.key = chat, key
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True, name="chat").start()
    return server


class Handler(BaseHTTPRequestHandler):
    chat: Chat
    key: str
    timeout = 30
    _streaming = False

    def do_GET(self) -> None:
        self._guarded(self._models if self.path == "/v1/models" else self._nothing_here)

    def do_POST(self) -> None:
        self._guarded({"/v1/adapters": self._adapter, "/v1/chat/completions": self._answer}.get(self.path, self._nothing_here))

    def _guarded(self, action: Any) -> None:
        """Run `action` for those who may ask; every failure leaves as OpenAI-style JSON."""
        port = self.connection.getsockname()[1]
        given = self.headers.get("Authorization", "").removeprefix("Bearer ").encode()
        try:
            if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
                self._fail(403, "forbidden_host", "This chat answers on 127.0.0.1 only.")
            elif not hmac.compare_digest(given, self.key.encode()):
                self._fail(401, "invalid_api_key", "The key is missing or wrong.")
            else:
                action()
        except ValidationError as e:
            wrong = "; ".join(f"{'.'.join(map(str, p['loc']))}: {p['msg']}" for p in e.errors())
            self._fail(400, "invalid_request_error", wrong or str(e))
        except errors.LoraUIError as e:
            self._fail(404 if isinstance(e, (errors.ChatModelUnknown, errors.NoSuchJob)) else 400, e.kind, str(e), e.as_dict())
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            pass  # the client left
        except Exception as e:
            print(hub.redact(traceback.format_exc()), flush=True)
            bug = errors.Bug(detail=hub.redact(f"{type(e).__name__}: {e}")[:400])
            self._fail(500, "internal_error", str(bug), bug.as_dict())

    def _nothing_here(self) -> None:
        self._fail(404, "not_found", f"There is nothing at {self.path}.")

    def _models(self) -> None:
        ids = ["base", *self.chat.model.adapters]
        self._json(200, {"object": "list", "data": [{"id": id, "object": "model", "owned_by": self.chat.base_model} for id in ids]})

    def _adapter(self) -> None:
        name = AdapterName.model_validate_json(self._body()).id
        self.chat.add_adapter(name)
        self._json(200, {"id": name, "object": "model"})

    def _answer(self) -> None:
        question = Question.model_validate_json(self._body())
        answer, text = self.chat.ask(question)
        head = {"id": f"chatcmpl-{uuid.uuid4().hex[:24]}", "created": int(time.time()), "model": answer.adapter or "base"}
        if question.stream:
            self._stream(head, answer, text)
            return
        whole = ""
        for piece in text:
            whole += piece
            if self._client_left():
                text.close()
                return
        message = {"index": 0, "message": {"role": "assistant", "content": whole}, "finish_reason": answer.ended}
        self._json(200, {**head, "object": "chat.completion", "choices": [message], **_usage(answer)})

    def _stream(self, head: dict[str, Any], answer: Answer, text: Generator[str]) -> None:
        self._headers(200, "text/event-stream")
        self._streaming = True
        head["object"] = "chat.completion.chunk"
        try:
            self._event({**head, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
            for piece in text:
                if self._client_left():
                    return
                if piece:
                    self._event({**head, "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
            self._event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": answer.ended}], **_usage(answer)})
            self.wfile.write(b"data: [DONE]\n\n")
        finally:
            text.close()

    def _client_left(self) -> bool:
        """A client that has sent its question says nothing more: readable means that it hung up."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and self.connection.recv(1, socket.MSG_PEEK) == b""

    def _body(self) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        if not self.headers.get("Content-Type", "").startswith("application/json") or not 0 < length <= MOST_BYTES:
            raise errors.ChatRequestRefused(detail=Say("Send JSON (Content-Type: application/json) of at most 4 MiB."))
        return self.rfile.read(length)

    def _event(self, value: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
        self.wfile.flush()

    def _json(self, code: int, value: dict[str, Any]) -> None:
        body = json.dumps(value).encode()
        self._headers(code, "application/json", len(body))
        self.wfile.write(body)

    def _fail(self, code: int, kind: str, message: str, own: dict[str, Any] | None = None) -> None:
        """As the whole reply, or, once an answer streams, as its last event. `own`: the failure with its parts, for our own clients."""
        problem = {"error": {"message": message, "type": kind, "code": code, "param": None, **({"lora_ui": own} if own else {})}}
        if self._streaming:
            self._event(problem)
        else:
            self._json(code, problem)

    def _headers(self, code: int, content: str, length: int | None = None) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content)
        self.send_header("Cache-Control", "no-store")
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """What people write stays out of the log."""


def _usage(answer: Answer) -> dict[str, Any]:
    prompt, said = len(answer.prompt), answer.tokens
    return {
        "usage": {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said},
        "tokens_per_second": answer.tokens_per_second,
    }
