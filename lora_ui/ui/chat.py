"""The Chat page: ask the base model and your adapter the same thing, side by side.

The model is loaded by the first question, in the chat's own worker; this page is its client (`chats.py`). What was said is
kept per run in the browser, not on the server.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import gradio as gr

from lora_ui import data, errors, runs
from lora_ui.data import prepared
from lora_ui.home import Home
from lora_ui.jobs import ENDED
from lora_ui.ui import answering, conversation
from lora_ui.ui.answering import STARTER, run_id_of, speakers, titles
from lora_ui.ui.conversation import VIEWS
from lora_ui.ui.shell import Page, esc, html, run_of
from lora_ui.ui.words import Words

CHIPS = 3
DEFAULTS = {"system": "", "temperature": 0.0, "top_p": 1.0, "longest": 256, "seed": 42}
ADDRESS = "(run) => { history.replaceState(null, '', `/chat?run=${encodeURIComponent(run)}`) }"

Store = dict[str, Any]


def build(page: Page) -> None:
    t = page.t
    page.title()
    store = gr.BrowserState({}, storage_key="lora-ui-chats", secret="lora-ui")  # not in a hidden column: it is read only where it is drawn
    draft = gr.BrowserState(
        {}, storage_key="lora-ui-chat-draft", secret="lora-ui"
    )  # apart: typing must not undo what an answer just stored
    with gr.Column(visible=False) as nothing:
        start = f'<a class="button primary" href="/chat?run={STARTER}">{esc(t("chat.nothing_action"))}</a>'
        html(f'<div class="empty"><p>{esc(t("chat.nothing"))}</p>{start}</div>')
    with gr.Column(visible=False, elem_classes="lu-chat") as talk:
        p = _draw(page)
    p.nothing, p.talk, p.store, p.draft = nothing, talk, store, draft
    Choice(page, p).wire()
    answering.wire(page, p)


def _draw(page: Page) -> SimpleNamespace:
    t, p = page.t, SimpleNamespace()
    with gr.Row(elem_classes="lu-choice"):
        p.run = gr.Dropdown([], label=t("chat.run"), elem_id="chat-run", scale=2)
        p.point = gr.Dropdown([], label=t("chat.point"), visible=False, elem_id="chat-point", scale=2)
        p.view = gr.Radio(
            [(t(f"chat.view.{view}"), view) for view in VIEWS], value="both", label=t("chat.view"), elem_id="chat-view", scale=2
        )
    p.truth, p.busy = html(), html(visible=False)
    p.panes = gr.HTML("", apply_default_css=False, js_on_load=conversation.CLICKS, elem_id="panes", max_height="60vh", autoscroll=True)
    p.leave = gr.Button(t("chat.leave"), visible=False, elem_id="leave")
    p.rows, p.editing, p.said = gr.State([]), gr.State(None), gr.State({})
    p.note = html(visible=False)
    with gr.Row(visible=False, elem_classes="lu-chips") as p.chip_row:
        html(f'<p class="muted">{esc(t("chat.never_seen"))}</p>')
        p.chips = [gr.Button("", size="sm", visible=False, elem_id=f"chip-{n}") for n in range(CHIPS)]
    p.trouble = html(visible=False)
    with gr.Row(elem_classes="lu-ask"):
        p.ask = gr.Textbox(
            placeholder=t("chat.ask"),
            label=t("chat.ask_label"),
            show_label=False,
            submit_btn=True,
            lines=1,
            max_lines=8,
            elem_id="ask",
            autofocus=False,
        )
    with gr.Accordion(t("chat.expert"), open=False, elem_id="chat-expert"):
        html(f'<p class="muted">{esc(t("chat.expert_hint"))}</p>')
        p.expert = {
            "system": gr.Textbox(label=t("chat.system"), info=t("chat.system_hint"), lines=2),
            "temperature": gr.Slider(0, 2, step=0.05, label=t("chat.temperature"), info=t("chat.temperature_hint"), buttons=["reset"]),
            "top_p": gr.Slider(0.05, 1, value=1, step=0.05, label=t("chat.top_p"), info=t("chat.top_p_hint"), buttons=["reset"]),
            "longest": gr.Slider(
                16,
                2048,
                value=256,
                step=16,
                label=t("chat.longest"),
                info=t("chat.longest_hint"),
                buttons=["reset"],
                elem_id="chat-longest",
            ),
            "seed": gr.Number(value=42, precision=0, minimum=0, maximum=2**31 - 1, label=t("chat.seed"), info=t("chat.seed_hint")),
        }
    p.clear = gr.Button(t("chat.clear"), size="sm", elem_id="chat-clear", visible=False)
    return p


# which run


def choices(home: Home, t: Words) -> list[tuple[str, str]]:
    """What one can talk with: runs that have an adapter, newest first, then the starter as it comes."""
    there = [(run["name"], run["id"]) for run in runs.list_runs(home) if run["state"] in ENDED and run["adapter_path"]]
    return [*there, (t("chat.starter"), STARTER)]


def held_out_questions(home: Home, run: dict[str, Any]) -> list[dict[str, Any]]:
    """Up to three `{row, ask, wanted}` from rows that this run never learned from; empty when there are none to ask."""
    asked = run["prepare"]
    try:
        kept = {row["row"] for row in prepared.read_rows(prepared.folder(home, asked), "held_out", 0, 12)}
        rows = [row for row in data.rows(home, asked["digest"]) if row["row"] in kept] if kept else []
    except errors.LoraUIError:  # the dataset was removed; the chat does not need it
        return []
    found = []
    for row in rows:
        said = {message["role"]: message["content"] for message in reversed(row.get("messages", []))}
        if said.get("user") and said.get("assistant"):
            found.append({"row": row["row"], "ask": said["user"], "wanted": said["assistant"]})
    return found[:CHIPS]


def points(t: Words, home: Home, run: dict[str, Any]) -> list[tuple[str, str]]:
    """What of a run one can talk with: the adapter that was kept, then its other save points."""
    kept, tests = run["saved_step"], {step: loss for step, loss in runs.curves(home, run["id"])["eval_loss"] if step > 0}
    best = bool(tests) and kept == min(tests, key=lambda step: tests[step])
    others = [(t("chat.point.step", step=n), f"{run['id']}@{n}") for n in runs.save_points(home, run["id"]) if n != kept]
    said = t("chat.point.best" if best else "chat.point.last", step=kept) if kept else t("chat.point.kept")
    return [(said, run["id"]), *others]


def _panes(t: Words, home: Home, model: str, view: str, store: Store) -> str:
    turns = store.get("runs", {}).get(run_id_of(model), [])
    return conversation.draw(t, turns, speakers(model, view), titles(t, home, model, turns), t("chat.empty"))


def remember(text: str) -> dict[str, str]:
    """A half-typed question survives a reload."""
    return {"text": text}


class Choice:
    """Which run is talked with, and what the page shows for it."""

    def __init__(self, page: Page, p: SimpleNamespace):
        self.page, self.p, self.home, self.t = page, p, page.home, page.t
        self.outputs = [
            p.panes,
            p.point,
            p.rows,
            p.chip_row,
            *p.chips,
            p.truth,
            p.view,
            p.clear,
            p.expert["system"],
            p.ask,
            page.memory,
            p.editing,
            p.note,
        ]

    def chosen(self, run_id: str, view: str, store: Store, memory: dict[str, Any]) -> dict[Any, Any]:
        t, p = self.t, self.p
        run = None if run_id == STARTER else runs.show(self.home, run_id)
        there = points(t, self.home, run) if run else [(t("chat.starter"), STARTER)]
        wanted = store.get("points", {}).get(run_id)
        model = wanted if wanted in [id for _, id in there] else run_id
        rows = held_out_questions(self.home, run) if run else []
        labels = [t("chat.chip", row=row["row"], text=_short(row["ask"])) for row in rows]
        return {
            p.panes: _panes(t, self.home, model, view, store),
            p.point: gr.update(choices=there, value=model, visible=len(there) > 1),
            p.rows: rows,
            p.chip_row: gr.update(visible=bool(rows)),
            **{chip: gr.update(value=labels[n] if n < len(labels) else "", visible=n < len(labels)) for n, chip in enumerate(p.chips)},
            p.truth: f"<p>{esc(t('chat.truth') if run else t('chat.truth_starter'))}</p>",
            p.view: gr.update(visible=run is not None),
            p.clear: gr.update(visible=bool(store.get("runs", {}).get(run_id))),
            p.expert["system"]: run["settings"]["data"]["system_prompt"] if run else "",
            p.ask: gr.update(placeholder=t("chat.ask") if run else t("chat.ask_one")),
            self.page.memory: {**memory, "run": run_id} if run else gr.skip(),
            p.editing: None,
            p.note: gr.update(value="", visible=False),
        }

    def opened(self, request: gr.Request, store: Store, draft: dict[str, str], memory: dict[str, Any]) -> dict[Any, Any]:
        p, there = self.p, choices(self.home, self.t)
        ids, asked, wanted = [id for _, id in there], request.query_params.get("run"), run_of(request, memory)
        run_id = wanted if wanted in ids else ids[0]
        if run_id == STARTER and asked != STARTER:
            return {p.nothing: gr.update(visible=True)}
        view = store.get("view", "both")
        found = self.chosen(run_id, view, store, memory)
        if asked and asked not in ids:
            found[p.note] = gr.update(value=f'<p class="note">{esc(self.t("chat.not_ready"))}</p>', visible=True)
        kept = {**DEFAULTS, "system": found.pop(p.expert["system"]), **store.get("expert", {}).get(run_id, {})}
        found |= {box: kept[name] for name, box in p.expert.items()}
        found[p.ask] = gr.update(value=draft.get("text", ""), placeholder=found[p.ask]["placeholder"])
        found |= {p.view: gr.update(value=view, visible=run_id != STARTER), p.run: gr.update(choices=there, value=run_id)}
        return {**found, p.talk: gr.update(visible=True)}

    def ticked(self, last: str) -> Any:
        """Whether a question would wait now."""
        now = answering.busy(self.home, self.t)
        return (gr.skip(), gr.skip()) if now == last else (gr.update(value=f'<p class="note">{esc(now)}</p>', visible=bool(now)), now)

    def looked(self, model: str, view: str, store: Store) -> Any:
        chosen = {**store.get("points", {}), run_id_of(model): model}
        return _panes(self.t, self.home, model, view, store), {**store, "view": view, "points": chosen}

    def cleared(self, model: str, view: str, store: Store) -> Any:
        store = {**store, "runs": {id: turns for id, turns in store.get("runs", {}).items() if id != run_id_of(model)}}
        return _panes(self.t, self.home, model, view, store), store, {}, gr.update(visible=False)

    def wire(self) -> None:
        page, p = self.page, self.p
        everything = [*self.outputs, p.nothing, p.talk, p.run, *[box for name, box in p.expert.items() if name != "system"]]
        page.on(page.demo.load, self.opened, [p.store, p.draft, page.memory], everything)
        seen = gr.State("")
        for moment in (page.demo.load, gr.Timer(3).tick):
            page.on(moment, self.ticked, seen, [p.busy, seen], clears=False)
        picked = page.on(p.run.input, self.chosen, [p.run, p.view, p.store, page.memory], self.outputs)
        picked.then(None, p.run, None, js=ADDRESS)
        for box in (p.view, p.point):
            page.on(box.input, self.looked, [p.point, p.view, p.store], [p.panes, p.store])
        page.on(p.ask.change, remember, p.ask, p.draft, clears=False, trigger_mode="always_last")
        page.on(p.clear.click, self.cleared, [p.point, p.view, p.store], [p.panes, p.store, p.said, p.clear])


def _short(text: str, most: int = 40) -> str:
    one_line = " ".join(text.split())
    return one_line if len(one_line) <= most else one_line[: most - 1].rstrip() + "…"
