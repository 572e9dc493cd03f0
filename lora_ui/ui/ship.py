"""The Ship page: download the adapter, merge it into its base, publish either to the Hub.

Merging and publishing are jobs: what this page shows of them comes from disk, so it survives a reload. A token is read once from its
field, handed to the job, and the field is emptied; it is never kept.
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr

from lora_ui import card, errors, models, runs
from lora_ui.home import Home
from lora_ui.jobs import ENDED
from lora_ui.ui import browser, ship_cards, tokens
from lora_ui.ui.shell import Page, esc, html, run_of
from lora_ui.ui.words import Words

WHO = ("private", "public")
WHAT = ("adapter", "merged")
"""The first of each is what happens unless one asks otherwise."""

Run = dict[str, Any]


def build(page: Page) -> None:
    t = page.t
    page.title()
    with gr.Column(visible=False) as nothing:
        link = f'<a class="button primary" href="/runs">{esc(t("ship.nothing_action"))}</a>'
        html(f'<div class="empty"><p>{esc(t("ship.nothing"))}</p>{link}</div>')
    with gr.Column(visible=False, elem_classes="lu-ship") as there:
        p = _draw(page)
    p.nothing, p.there = nothing, there
    Shipping(page, p).wire()


def _draw(page: Page) -> SimpleNamespace:
    t, p = page.t, SimpleNamespace()
    with gr.Row(elem_classes="lu-choice"):
        p.run = gr.Dropdown([], label=t("ship.run"), elem_id="ship-run")
        p.truth = html()
    with gr.Row(elem_classes="lu-ways", equal_height=True):
        with gr.Column(elem_classes="lu-plain", min_width=280):
            with gr.Column(elem_classes="card"):
                html(f"<h2>{esc(t('ship.download'))}</h2>")
                p.download_says = html()
                p.inside = html()
                p.download_problem = html(visible=False)
                p.download = gr.Button(t("ship.download_action"), variant="primary", elem_id="download")
            with gr.Column(elem_classes="card"):
                html(f"<h2>{esc(t('ship.merge'))}</h2>")
                p.merge_says, p.merge_news = html(), html()
                p.merge_problem = html(visible=False)
                p.merge = gr.Button(t("ship.merge_action"), elem_id="merge")
                p.merge_stop = gr.Button(t("ship.cancel"), visible=False, variant="stop", elem_id="merge-stop")
        with gr.Column(elem_classes="card", min_width=280):
            _draw_publish(t, p)
    with gr.Accordion(t("ship.preview"), open=False, elem_id="card") as p.card_fold:
        html(f'<p class="muted">{esc(t("ship.preview_hint"))}</p>')
        p.card = gr.Code("", language="markdown", interactive=False, show_label=False, wrap_lines=True, max_lines=24, buttons=["copy"])
    html(f"<h2>{esc(t('ship.use'))}</h2>")
    p.code = {}
    for how, language in (("python", "python"), ("vllm", "shell"), ("ollama", "shell")):
        with gr.Accordion(t(f"ship.use.{how}"), open=False, elem_id=f"use-{how}"):
            html(f'<p class="muted">{esc(t(f"ship.use.{how}_hint"))}</p>')
            p.code[how] = gr.Code("", language=language, interactive=False, show_label=False, buttons=["copy"])
    return p


def _draw_publish(t: Words, p: SimpleNamespace) -> None:
    html(f"<h2>{esc(t('ship.publish'))}</h2>")
    p.publish_says = html()
    p.repo = gr.Textbox(label=t("ship.repo"), info=t("ship.repo_hint"), max_length=200, elem_id="repo")
    p.who = gr.Radio([(t(f"ship.{who}"), who) for who in WHO], value=WHO[0], label=t("ship.who"), elem_id="who")
    p.seen_by = html(_seen_by(t, WHO[0]))
    p.what = gr.Radio([(t(f"ship.{what}"), what) for what in WHAT], value=WHAT[0], label=t("ship.what"), elem_id="what")
    p.goes_up = html()
    p.token = gr.Textbox(label=t("ship.token"), info=t("ship.token_hint"), type="password", max_length=400, elem_id="token")
    p.publish_news = html()
    p.publish_problem = html(visible=False)
    p.publish = gr.Button(t("ship.publish_action"), elem_id="publish")
    p.publish_stop = gr.Button(t("ship.cancel"), visible=False, variant="stop", elem_id="publish-stop")


def _seen_by(t: Words, who: str) -> str:
    return f'<p class="muted">{esc(t(f"ship.seen_by.{who}"))}</p>'


def choices(home: Home) -> list[tuple[str, str]]:
    """Runs that have an adapter and are at rest, newest first."""
    return [(run["name"], run["id"]) for run in runs.list_runs(home) if run["state"] in ENDED and run["adapter_path"]]


def repo_name(name: str) -> str:
    """A run's name as the Hub takes it: letters, digits, -, _ and ."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:90] or "my-adapter"


def newest(run: Run, kind: str) -> dict[str, Any] | None:
    return next((job for job in run["jobs"] if job["kind"] == kind), None)


def _licence(home: Home, run: Run) -> str | None:
    try:
        known = models.known(home, run["base_model"], run["prepare"]["revision"])
    except errors.LoraUIError:  # its folder is gone; the adapter can still be shipped
        return None
    return known.licence if known else None


class Shipping:
    """What the page shows of one run, and its three ways out."""

    def __init__(self, page: Page, p: SimpleNamespace):
        self.page, self.p, self.home, self.t = page, p, page.home, page.t
        p.seen, p.beat = gr.State({}), gr.Timer(1.5, active=False)
        self.news = [
            p.merge_says,
            p.merge_news,
            p.merge,
            p.merge_stop,
            p.publish_news,
            p.publish,
            p.publish_stop,
            p.goes_up,
            p.code["ollama"],
            p.beat,
            p.seen,
        ]
        self.about = [p.truth, p.download_says, p.inside, p.publish_says, p.repo, p.code["python"], p.code["vllm"], p.download, page.memory]

    def read(self, run_id: str, what: str, memory: dict[str, Any], seen: dict[str, Any]) -> dict[Any, Any]:
        """What may have changed since the last look; only that is sent."""
        t, p, run = self.t, self.p, runs.show(self.home, run_id)
        merge, push = newest(run, "merge"), newest(run, "push")
        merging, pushing = (job is not None and job["state"] not in ENDED for job in (merge, push))
        filled = "primary" if memory.get("downloaded") == run_id and not pushing else "secondary"
        now: dict[str, Any] = {
            "merge_says": ship_cards.merge_says(t, run),
            "merge_news": ship_cards.merge_news(t, run, merge),
            "merge": {"visible": not merging, "value": t("ship.merge_again" if run["merged_path"] else "ship.merge_action")},
            "merge_stop": {"visible": merging},
            "publish_news": ship_cards.publish_news(t, push),
            "publish": {"visible": not pushing, "variant": filled},
            "publish_stop": {"visible": pushing},
            "goes_up": ship_cards.goes_up(t, run, what),
            "ollama": ship_cards.ollama(t, run),
            "ticking": merging or pushing,
        }
        fresh = {name: value for name, value in now.items() if seen.get(name) != value or seen.get("run") != run_id}
        parts = {**vars(p), "ollama": p.code["ollama"], "ticking": p.beat}
        changed = {
            parts[name]: gr.update(**value) if isinstance(value, dict) else value for name, value in fresh.items() if name != "ticking"
        }
        if "ticking" in fresh:
            changed[p.beat] = gr.Timer(active=now["ticking"])
        return {**changed, p.seen: {**seen, **fresh, "run": run_id}} if fresh else {p.seen: gr.skip()}

    def chosen(self, run_id: str, what: str, memory: dict[str, Any]) -> dict[Any, Any]:
        t, p, run = self.t, self.p, runs.show(self.home, run_id)
        got = memory.get("downloaded") == run_id
        return {
            **self.read(run_id, what, memory, {}),
            p.truth: ship_cards.truth(t, run),
            p.download_says: ship_cards.download_says(t, run),
            p.inside: ship_cards.files(t, t("ship.inside"), Path(run["adapter_path"])),
            p.publish_says: ship_cards.publish_says(t, _licence(self.home, run)),
            p.repo: repo_name(run["name"]),
            p.code["python"]: ship_cards.python(run),
            p.code["vllm"]: ship_cards.vllm(t, run),
            p.download: gr.update(variant="secondary" if got else "primary"),
            self.page.memory: {**memory, "run": run_id},
        }

    def opened(self, request: gr.Request, what: str, memory: dict[str, Any]) -> dict[Any, Any]:
        p, there = self.p, choices(self.home)
        if not there:
            return {p.nothing: gr.update(visible=True)}
        wanted, ids = run_of(request, memory), [id for _, id in there]
        run_id = wanted if wanted in ids else ids[0]
        shown = {p.run: gr.update(choices=there, value=run_id), p.there: gr.update(visible=True)}
        return {**self.chosen(run_id, what, memory), **shown}

    def merge(self, run_id: str, what: str, memory: dict[str, Any], seen: dict[str, Any]) -> dict[Any, Any]:
        runs.merge(self.home, run_id, uuid.uuid4().hex)
        return self.read(run_id, what, memory, seen)

    def publish(
        self, request: gr.Request, token: str, repo: str, who: str, run_id: str, what: str, memory: dict[str, Any], seen: dict[str, Any]
    ) -> dict[Any, Any]:
        runs.push(
            self.home,
            run_id,
            repo.strip(),
            uuid.uuid4().hex,
            merged=what == "merged",
            public=who == "public",
            token=tokens.of(request, token) or None,
        )
        return self.read(run_id, what, memory, seen)

    def preview(self, run_id: str, what: str, repo: str) -> str:
        """The model card as it would be published, front matter and all. Raises NothingTrained."""
        made, name = card.read(self.home, run_id), repo.strip()
        return card.write(made, name if "/" in name else f"your-name/{name}", what == "merged", made.asked["licence"])

    def preview_again(self, shown: str, run_id: str, what: str, repo: str) -> Any:
        return self.preview(run_id, what, repo) if shown else gr.skip()

    def stop(self, kind: str) -> Any:
        def stopped(run_id: str, what: str, memory: dict[str, Any], seen: dict[str, Any]) -> dict[Any, Any]:
            job = newest(runs.show(self.home, run_id), kind)
            if job and job["state"] not in ENDED:
                runs.stop(self.home, job["id"])
            return self.read(run_id, what, memory, seen)

        return stopped

    def downloaded(self, run_id: str, memory: dict[str, Any]) -> Any:
        """From now on the filled button is Publish."""
        return gr.update(variant="secondary"), gr.update(variant="primary"), {**memory, "downloaded": run_id}

    def wire(self) -> None:
        page, p = self.page, self.p
        context = [p.run, p.what, page.memory]
        now = [*context, p.seen]
        page.on(page.demo.load, self.opened, [p.what, page.memory], [*self.news, *self.about, p.run, p.nothing, p.there])
        picked = page.on(p.run.input, self.chosen, context, [*self.news, *self.about])
        picked.then(None, p.run, None, js="(run) => { history.replaceState(null, '', `/ship?run=${encodeURIComponent(run)}`) }")
        page.on(p.beat.tick, self.read, now, self.news, clears=False)
        page.on(p.what.input, self.read, now, self.news, clears=False)
        browser.saves(page, p.download, lambda run_id: runs.adapter_zip(self.home, run_id, browser.folder()), p.run, at=p.download_problem)
        page.on(
            p.download.click,
            self.downloaded,
            [p.run, page.memory],
            [p.download, p.publish, page.memory],
            at=p.download_problem,
            clears=False,
        )
        asked = [p.run, p.what, p.repo]
        page.on(p.card_fold.expand, self.preview, asked, p.card, at=p.publish_problem)
        page.on(p.card_fold.collapse, lambda: "", None, p.card, clears=False)
        for changed in (picked.then, p.what.input, p.repo.blur, p.repo.submit):
            page.on(changed, self.preview_again, [p.card, *asked], p.card, at=p.publish_problem)
        page.on(p.who.input, lambda who: _seen_by(self.t, who), p.who, p.seen_by, clears=False)
        page.on(p.merge.click, self.merge, now, self.news, at=p.merge_problem)
        page.on(p.merge_stop.click, self.stop("merge"), now, self.news, at=p.merge_problem)
        sent = page.on(p.publish.click, self.publish, [p.token, p.repo, p.who, *now], self.news, at=p.publish_problem)
        sent.then(lambda: "", None, p.token, queue=False, show_progress="hidden", api_visibility="private")  # whatever came of it
        page.on(p.publish_stop.click, self.stop("push"), now, self.news, at=p.publish_problem)
