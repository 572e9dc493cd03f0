"""Asking on the Chat page: one question to one or two models, read as it is written, stopped, tried again, edited."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr

from lora_ui import chats, machine, runs
from lora_ui.home import Home
from lora_ui.jobs import Jobs
from lora_ui.ui import conversation
from lora_ui.ui.conversation import BASE, VIEWS, Turn
from lora_ui.ui.shell import Page, esc
from lora_ui.ui.words import Words

STARTER = "starter"
EVERY_SECONDS = 0.1
"""How often a growing answer is sent to the page."""

Updates = Iterator[dict[Any, Any]]
Kept = dict[str, Any]


def run_id_of(model: str) -> str:
    """A model is a run's id, or `id@60` for its save point of step 60."""
    return model.partition("@")[0]


def speakers(model: str, view: str) -> dict[str, str]:
    """Pane → the model asked there."""
    return {BASE: "base"} if model == STARTER else {pane: "base" if pane == BASE else model for pane in VIEWS[view]}


def titles(t: Words, home: Home, model: str, turns: list[Turn]) -> dict[str, str]:
    """Every model that is asked or has answered, as the worker names it → heading."""
    if model == STARTER:
        return {"base": t("chat.starter")}
    run = runs.show(home, run_id_of(model))
    there = {model, *(said["model"] for turn in turns for said in turn["answers"].values() if said["model"])}
    steps = {name: name.partition("@")[2] for name in there}
    yours = {n: t("chat.yours_point", name=run["name"], step=s) if s else t("chat.yours_title", name=run["name"]) for n, s in steps.items()}
    return {**yours, "base": t("chat.base_title", name=run["base_model"])}


def wire(page: Page, p: SimpleNamespace) -> None:
    """`p`: the parts of the Chat page, as `chat.py` drew them."""
    asking = Asking(page, p)
    outputs = [p.panes, p.leave, p.said, p.ask, p.clear, p.editing, p.note]
    context = [p.ask, p.point, p.view, p.said, p.store, *p.expert.values()]

    def asked(trigger: Callable[..., Any], fn: Callable[..., Updates], inputs: list[Any]) -> None:
        # the browser's store is written by an event of its own: changes that a stream makes to it in place are not saved
        page.on(
            page.on(trigger, fn, inputs, outputs, at=p.trouble, trigger_mode="multiple").then,
            keep,
            [p.said, p.store, p.ask],
            [p.store, p.ask],
            clears=False,
        )

    asked(p.ask.submit, asking.ask, [p.editing, *context])
    asked(p.panes.retry, asking.again, context)
    for stopped in (p.ask.stop, p.leave.click):
        page.on(stopped, asking.stop)
    page.on(p.panes.edit, asking.edit, [p.point, p.said, p.store], [p.ask, p.editing, p.note])
    for n, button in enumerate(p.chips):
        asked(button.click, asking.row(n), [p.rows, *context])


def keep(said: Kept, store: Kept, typed: str) -> Any:
    """The browser's memory with this conversation in it; and a question that could not be asked goes back into its box, unless something
    is typed there by now."""
    if not said:
        return gr.skip(), gr.skip()
    expert = {**store.get("expert", {}), said["run"]: said["expert"]}
    store = {**store, "expert": expert, "runs": {**store.get("runs", {}), said["run"]: said["turns"]}}
    return store, gr.update(value=said["back"]) if said["back"] and not typed else gr.skip()


class Asking:
    """The events of one page. `stops`: browser session → the switch that ends its answer."""

    def __init__(self, page: Page, p: SimpleNamespace):
        self.p, self.home, self.t = p, page.home, page.t
        self.stops: dict[str | None, threading.Event] = {}

    def ask(
        self, request: gr.Request, editing: int | None, message: str, model: str, view: str, said: Kept, store: Kept, *expert: Any
    ) -> Updates:
        if not message.strip():
            yield {self.p.ask: gr.skip()}
            return
        before = _turns(said, store, model)
        asked = {"ask": message.strip(), "answers": {}}
        yield from self._answer(request, before, [*before[:editing], asked], "", model, view, expert)

    def again(self, request: gr.Request, message: str, model: str, view: str, said: Kept, store: Kept, *expert: Any) -> Updates:
        """The last question once more, with the next seed."""
        before = _turns(said, store, model)
        last = {**before[-1], "tries": before[-1].get("tries", 0) + 1}
        yield from self._answer(request, before, [*before[:-1], last], message, model, view, expert)

    def row(self, n: int) -> Callable[..., Updates]:
        """Asks the `n`th suggested row; what its data answers is shown below."""

        def ask_row(
            request: gr.Request, rows: list[dict[str, Any]], message: str, model: str, view: str, said: Kept, store: Kept, *expert: Any
        ) -> Updates:
            before = _turns(said, store, model)
            asked = {"ask": rows[n]["ask"], "wanted": rows[n]["wanted"], "answers": {}}
            yield from self._answer(request, before, [*before, asked], message, model, view, expert)

        return ask_row

    def stop(self, request: gr.Request) -> None:
        if stopping := self.stops.get(request.session_hash):
            stopping.set()

    def edit(self, model: str, said: Kept, store: Kept, event: gr.EventData) -> Any:
        place = int(event.turn)
        note = gr.update(value=f'<p class="note">{esc(self.t("chat.editing"))}</p>', visible=True)
        return _turns(said, store, model)[place]["ask"], place, note

    def _answer(
        self, request: gr.Request, before: list[Turn], turns: list[Turn], draft: str, model: str, view: str, expert: tuple[Any, ...]
    ) -> Updates:
        """Answer the last of `turns` in every pane; `before` is what stood there. However it ends, the box takes questions again and
        what was said is kept."""
        if request.session_hash in self.stops:
            return  # one question at a time
        p, t, here = self.p, self.t, speakers(model, view)
        options = dict(zip(p.expert, expert))
        asked = turns[-1]["ask"]
        turns = [*turns[:-1], {**turns[-1], "answers": {pane: _blank() for pane in here}}]
        heads = titles(t, self.home, model, turns)

        def state(wait: str = "", over: bool = False) -> dict[Any, Any]:
            return {p.panes: conversation.draw(t, turns, here, heads, t("chat.empty"), wait, over)}

        def said(back: str = "") -> dict[Any, Any]:
            there = copy.deepcopy(turns[-conversation.MOST_TURNS :])  # Gradio sends what differs from the value before
            return {p.said: {"run": run_id_of(model), "turns": there, "expert": options, "back": back}}

        stopping = self.stops[request.session_hash] = threading.Event()
        try:
            fresh = {
                p.ask: gr.update(value=draft, submit_btn=False, stop_btn=True),
                p.editing: None,
                p.note: gr.update(value="", visible=False),
            }
            yield {**state(t("chat.opening")), **said(), **fresh}
            at: chats.Endpoint | None = None
            for news in _opened(self.home, t, model, stopping):
                if isinstance(news, str):
                    yield {**state(news), p.leave: gr.update(visible=True)}
                else:
                    at = news
            if at is not None:
                yield {p.leave: gr.update(visible=False)}
                for _ in _stream(at, turns, here, options, stopping):
                    yield state()
        except Exception:
            if not any(answer["text"] for answer in turns[-1]["answers"].values()):  # as before the question, which goes back into its box
                turns = before
                yield {**state(over=True), **said(asked if not draft else ""), **self._ready()}
            else:
                yield {**_close(turns), **state(over=True), **said(), **self._ready()}
            raise
        finally:
            stopping.set()
            del self.stops[request.session_hash]
        yield {**_close(turns), **state(over=True), **said(), **self._ready()}

    def _ready(self) -> dict[Any, Any]:
        p = self.p
        return {p.ask: gr.update(submit_btn=True, stop_btn=False), p.clear: gr.update(visible=True), p.leave: gr.update(visible=False)}


def _turns(said: Kept, store: Kept, model: str) -> list[Turn]:
    """What was said so far with this run: as this page knows it, for the browser's store hears of an answer a moment later."""
    run = run_id_of(model)
    return said["turns"] if said.get("run") == run else store.get("runs", {}).get(run, [])


def _blank() -> dict[str, Any]:
    return {"text": "", "speed": None, "tokens": 0, "model": None, "state": "writing"}


def _close(turns: list[Turn]) -> dict[Any, Any]:
    """What is still open was stopped. Returns no updates."""
    for said in turns[-1]["answers"].values():
        said["state"] = "stopped" if said["state"] == "writing" else said["state"]
    return {}


def _opened(home: Home, t: Words, model: str, stopping: threading.Event) -> Iterator[str | chats.Endpoint]:
    """Sentences while the model is loaded, then its address. Ends without one when the person stops it meanwhile."""
    job = runs.open_chat(home, run_id_of(model))
    began, wait = time.monotonic(), 0.0
    while not stopping.wait(wait):
        at, wait = chats.endpoint(home, Jobs(home.database).get(job.id)), 0.25
        if at is not None:
            if model != STARTER:
                chats.add_adapter(at, model)
            yield at
            return
        yield _waiting(t, runs.job(home, job.id), time.monotonic() - began)
    if Jobs(home.database).get(job.id).state == "queued":
        runs.stop(home, job.id)


def busy(home: Home, t: Words) -> str:
    """The sentence that this machine trains and questions wait; empty when they need not."""
    name = runs.in_the_way(home)
    return t("chat.busy.gpu" if machine.look().gpus else "chat.busy.cpu", name=name) if name else ""


def _waiting(t: Words, job: dict[str, Any], seconds: float) -> str:
    if job["state"] == "queued":
        return t("chat.wait.queue", n=f"{seconds:.0f}")
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
