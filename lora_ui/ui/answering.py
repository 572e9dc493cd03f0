"""Asking on the Chat page: one question to one or two models, read as it is written, stopped, tried again, edited."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr

from lora_ui import chats, runs
from lora_ui.home import Home
from lora_ui.jobs import BUSY, Jobs
from lora_ui.ui import conversation
from lora_ui.ui.conversation import BASE, VIEWS, Turn
from lora_ui.ui.shell import Page, esc
from lora_ui.ui.words import Words

STARTER = "starter"
EVERY_SECONDS = 0.1
"""How often a growing answer is sent to the page."""

Updates = Iterator[dict[Any, Any]]


def speakers(run_id: str, view: str) -> dict[str, str]:
    """Pane → the model asked there."""
    return {BASE: "base"} if run_id == STARTER else {pane: "base" if pane == BASE else run_id for pane in VIEWS[view]}


def titles(t: Words, home: Home, run_id: str) -> dict[str, str]:
    """Model, as the worker names it → heading."""
    if run_id == STARTER:
        return {"base": t("chat.starter")}
    run = runs.show(home, run_id)
    return {"base": t("chat.base_title", name=run["base_model"]), run_id: t("chat.yours_title", name=run["name"])}


def wire(page: Page, p: SimpleNamespace) -> None:
    """`p`: the parts of the Chat page, as `chat.py` drew them."""
    asking = Asking(page, p)
    outputs = [p.panes, p.said, p.ask, p.clear, p.editing, p.note]
    context = [p.ask, p.run, p.view, p.store, *p.expert.values()]

    def asked(trigger: Callable[..., Any], fn: Callable[..., Updates], inputs: list[Any]) -> None:
        # the browser's store is written by an event of its own: changes that a stream makes to it in place are not saved
        page.on(page.on(trigger, fn, inputs, outputs, at=p.trouble).then, keep, [p.said, p.store], p.store, clears=False)

    asked(p.ask.submit, asking.ask, [p.editing, *context])
    asked(p.panes.retry, asking.again, context)
    page.on(p.ask.stop, asking.stop, queue=False)
    page.on(p.panes.edit, asking.edit, [p.run, p.store], [p.ask, p.editing, p.note])
    for n, button in enumerate(p.chips):
        asked(button.click, asking.row(n), [p.rows, *context])


def keep(said: dict[str, Any], store: dict[str, Any]) -> Any:
    """The browser's memory with this conversation in it."""
    if not said:
        return gr.skip()
    expert = {**store.get("expert", {}), said["run"]: said["expert"]}
    return {**store, "expert": expert, "runs": {**store.get("runs", {}), said["run"]: said["turns"]}}


class Asking:
    """The events of one page. `stops`: browser session → the switch that ends its answer."""

    def __init__(self, page: Page, p: SimpleNamespace):
        self.p, self.home, self.t = p, page.home, page.t
        self.stops: dict[str | None, threading.Event] = {}

    def ask(
        self, request: gr.Request, editing: int | None, message: str, run_id: str, view: str, store: dict[str, Any], *expert: Any
    ) -> Updates:
        if not message.strip():
            yield {self.p.ask: gr.skip()}
            return
        before = _turns(store, run_id)[:editing]
        yield from self._answer(request, [*before, {"ask": message.strip(), "answers": {}}], "", run_id, view, store, expert)

    def again(self, request: gr.Request, message: str, run_id: str, view: str, store: dict[str, Any], *expert: Any) -> Updates:
        """The last question once more, with the next seed."""
        turns = _turns(store, run_id)
        last = {**turns[-1], "tries": turns[-1].get("tries", 0) + 1}
        yield from self._answer(request, [*turns[:-1], last], message, run_id, view, store, expert)

    def row(self, n: int) -> Callable[..., Updates]:
        """Asks the `n`th suggested row; what its data answers is shown below."""

        def ask_row(
            request: gr.Request, rows: list[dict[str, Any]], message: str, run_id: str, view: str, store: dict[str, Any], *expert: Any
        ) -> Updates:
            asked = {"ask": rows[n]["ask"], "wanted": rows[n]["wanted"], "answers": {}}
            yield from self._answer(request, [*_turns(store, run_id), asked], message, run_id, view, store, expert)

        return ask_row

    def stop(self, request: gr.Request) -> None:
        if stopping := self.stops.get(request.session_hash):
            stopping.set()

    def edit(self, run_id: str, store: dict[str, Any], event: gr.EventData) -> Any:
        place = int(event.turn)
        note = gr.update(value=f'<p class="note">{esc(self.t("chat.editing"))}</p>', visible=True)
        return _turns(store, run_id)[place]["ask"], place, note

    def _answer(
        self, request: gr.Request, turns: list[Turn], draft: str, run_id: str, view: str, store: dict[str, Any], expert: tuple[Any, ...]
    ) -> Updates:
        """Answer the last of `turns` in every pane. However it ends, the box takes questions again and what was said is kept."""
        if request.session_hash in self.stops:
            return  # one question at a time
        p, t, here = self.p, self.t, speakers(run_id, view)
        options = dict(zip(p.expert, expert))
        asked = turns[-1]["ask"]
        turns = [*turns[:-1], {**turns[-1], "answers": {pane: _blank() for pane in here}}]
        heads = titles(t, self.home, run_id)

        def state(wait: str = "") -> dict[Any, Any]:
            return {p.panes: conversation.draw(t, turns, here, heads, t("chat.empty"), wait)}

        def said() -> dict[Any, Any]:
            there = copy.deepcopy(turns[-conversation.MOST_TURNS :])  # Gradio sends what differs from the value before
            return {p.said: {"run": run_id, "turns": there, "expert": options}}

        stopping = self.stops[request.session_hash] = threading.Event()
        try:
            fresh = {
                p.ask: gr.update(value=draft, submit_btn=False, stop_btn=True),
                p.editing: None,
                p.note: gr.update(value="", visible=False),
            }
            yield {**state(t("chat.opening")), **said(), **fresh}
            at: chats.Endpoint | None = None
            for news in _opened(self.home, t, run_id, stopping):
                if isinstance(news, str):
                    yield state(news)
                else:
                    at = news
            if at is not None:
                for _ in _stream(at, turns, here, options, stopping):
                    yield state()
        except Exception:
            if not any(answer["text"] for answer in turns[-1]["answers"].values()):  # as before the question, which goes back into its box
                turns = _turns(store, run_id)
                yield {**state(), **said(), **self._ready(), p.ask: gr.update(value=draft or asked, submit_btn=True, stop_btn=False)}
            else:
                yield {**_close(turns), **state(), **said(), **self._ready()}
            raise
        finally:
            stopping.set()
            del self.stops[request.session_hash]
        yield {**_close(turns), **state(), **said(), **self._ready()}

    def _ready(self) -> dict[Any, Any]:
        return {self.p.ask: gr.update(submit_btn=True, stop_btn=False), self.p.clear: gr.update(visible=True)}


def _turns(store: dict[str, Any], run_id: str) -> list[Turn]:
    return store.get("runs", {}).get(run_id, [])


def _blank() -> dict[str, Any]:
    return {"text": "", "speed": None, "tokens": 0, "model": None, "state": "writing"}


def _close(turns: list[Turn]) -> dict[Any, Any]:
    """What is still open was stopped. Returns no updates."""
    for said in turns[-1]["answers"].values():
        said["state"] = "stopped" if said["state"] == "writing" else said["state"]
    return {}


def _opened(home: Home, t: Words, run_id: str, stopping: threading.Event) -> Iterator[str | chats.Endpoint]:
    """Sentences while the model is loaded, then its address. Ends without one when the person stops it meanwhile."""
    job = runs.open_chat(home, run_id)
    began, wait = time.monotonic(), 0.0
    while not stopping.wait(wait):
        at, wait = chats.endpoint(home, Jobs(home.database).get(job.id)), 0.25
        if at is not None:
            if run_id != STARTER:
                chats.add_adapter(at, run_id)
            yield at
            return
        yield _waiting(home, t, runs.job(home, job.id), time.monotonic() - began)
    if Jobs(home.database).get(job.id).state == "queued":
        runs.stop(home, job.id)


def _waiting(home: Home, t: Words, job: dict[str, Any], seconds: float) -> str:
    if job["state"] == "queued":
        busy = next((run["name"] for run in runs.list_runs(home) if run["state"] in BUSY), None)
        return t("chat.wait.busy", name=busy) if busy else t("chat.wait.queue", n=f"{seconds:.0f}")
    if job["phase"] == "download" and job["total"]:
        return t("chat.wait.download", percent=f"{100 * job['done'] / job['total']:.0f}")
    return t("chat.wait.load", n=f"{seconds:.0f}")


def _stream(
    at: chats.Endpoint, turns: list[Turn], here: dict[str, str], options: dict[str, Any], stopping: threading.Event
) -> Iterator[None]:
    """Fill the last turn's answers as they are written; yields when there is something new to show. Another try takes the next seed."""
    seed = int(options["seed"] or 0) + turns[-1].get("tries", 0)
    chosen = (float(options["temperature"]), float(options["top_p"]), int(options["longest"]), seed)
    asked = {pane: conversation.messages(turns, pane, options["system"] or "") for pane in here}
    streams = {pane: chats.stream(at, model, asked[pane], *chosen) for pane, model in here.items()}
    shown = 0.0
    for news in conversation.merged(streams, stopping):
        if news is not None:
            pane, piece = news
            said = turns[-1]["answers"][pane]
            said["text"] += piece.get("text", "")
            if piece.get("done"):
                said |= {"speed": piece["tokens_per_second"], "tokens": piece["tokens"], "model": piece["model"], "state": "done"}
        if time.monotonic() - shown > EVERY_SECONDS:
            shown = time.monotonic()
            yield
