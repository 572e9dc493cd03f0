"""What every page shares: the bar at the top, the strip that says what runs now, the problem panel, and the page's memory.

How a page module is written (`data.py`, `train.py`, `runs.py`, `chat.py`, `ship.py`):
- It has one function `build(page: Page) -> None`. It is called twice, once per language, inside the page's route; the bar,
  the strip and `page.problem` (an empty place for problems) are drawn already. Closures hold `t = page.t`: there is no other language state.
- Words: `t("runs.title")` from `words.yaml`, one line per word under the page's heading; `t.say(say_or_dict)` for sentences of the core;
  never a literal label. Headings: `page.title()` draws the h1 from `<name>.title`.
- Events: `page.on(button.click, fn, inputs, outputs, **options)`, for load `page.on(page.demo.load, …)`, for ticks
  `page.on(timer.tick, fn, …, clears=False)`. It adds `page.problem` to the outputs: a LoraUIError becomes a panel there, anything
  unexpected the same panel with a report; success empties it (unless clears=False). `fn` returns one value per output, a dict, or `gr.skip()`.
- HTML: `html(value)` makes a `gr.HTML` with our sheet; everything from people goes through `esc(text)` and only into `value`.
  Classes in `page.css`: card, row, pill (+ state name: running…), muted, key, num, learned, progress, button / button primary (links), panel.
- Memory: `page.memory` is a `gr.BrowserState` dict shared by all pages (`source`, `mapping`, `preset`, `settings`, `run`; never a token):
  take it as an input, return `{**memory, "run": id}` as an output. The address wins: `run_of(request, memory)`.
- Moving on: `browser.goes()`. Addresses in links are the English ones (`/runs?run=`): the door sends a Chinese reader on to `/zh-runs?run=`.
"""

from __future__ import annotations

import functools
import html as escaping
import inspect
import json
import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from lora_ui import errors, machine, runs
from lora_ui.home import Home
from lora_ui.jobs import BUSY, WAITING, Jobs
from lora_ui.ui.words import Words

log = logging.getLogger(__name__)
ADDRESSES = {"data": "/", "train": "/train", "runs": "/runs", "chat": "/chat", "ship": "/ship"}
KEYS = {"send": "Enter", "line": "Shift + Enter", "stop": "Esc", "rows": "← →", "list": "?"}
MARKS = {"queued": "○", "starting": "◐", "running": "◐", "finished": "✓", "stopped": "■", "failed": "✕", "interrupted": "↯"}


def esc(text: Any) -> str:
    """Text of other people, made harmless for HTML."""
    return escaping.escape(str(text), quote=True)


def html(value: str = "", **options: Any) -> gr.HTML:
    return gr.HTML(value, apply_default_css=False, padding=False, js_on_load=None, **options)


def number(value: float) -> str:
    """12,345: whole, with separators."""
    return f"{value:,.0f}"


def size(count: float) -> str:
    """Bytes for people: 19 MB."""
    units = ["B", "KB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.1f} {units[0]}" if count < 10 and units[0] not in ("B", "KB") else f"{count:.0f} {units[0]}"


def duration(t: Words, seconds: float) -> str:
    """A time a person can plan with: 40 s, 9 min, 1 h 20 min."""
    if seconds < 60:
        return t("time.seconds", n=max(1, round(seconds)))
    minutes = round(seconds / 60)
    return t("time.minutes", n=minutes) if minutes < 60 else t("time.hours", h=minutes // 60, m=minutes % 60)


def pill(t: Words, state: str) -> str:
    """A state as mark, word and colour."""
    return f'<span class="pill {esc(state)}"><span aria-hidden="true">{MARKS[state]}</span> {esc(t("state." + state))}</span>'


def panel(
    t: Words, error: errors.LoraUIError | dict[str, Any], safe: str | None = None, actions: Sequence[tuple[str, str]] = (), report: str = ""
) -> str:
    """A problem on the page: what happened, why, what is safe, what to do; `actions` are (label, address); `report` is folded."""
    said = {part: esc(text).replace("\n", "<br>") for part, text in t.error(error).items()}
    lines = [f'<p class="what"><span aria-hidden="true">✕</span> {said["message"]}</p>']
    lines += [f"<p>{said['cause']}</p>"] if said["cause"] else []
    lines += [f"<p>{esc(safe)}</p>"] if safe else []
    lines += [f'<p class="fix">{said["fix"]}</p>'] if said["fix"] else []
    links = "".join(f'<a class="button" href="{esc(address)}">{esc(label)}</a>' for label, address in actions)
    lines += [f'<p class="actions">{links}</p>'] if links else []
    if report:
        copy = f'<button type="button" class="button" data-copy="{esc(report)}" data-done="{esc(t("panel.copied"))}">{esc(t("panel.copy"))}</button>'
        lines.append(f"<details><summary>{esc(t('panel.details'))}</summary><pre>{esc(report)}</pre>{copy}</details>")
    return f'<div class="panel" role="alert">{"".join(lines)}</div>'


def problem_of(t: Words, error: Exception) -> str:
    """The panel for whatever was raised."""
    if isinstance(error, errors.LoraUIError):
        return panel(t, error)
    log.error("unexpected, shown on the page", exc_info=error)
    report = "".join(traceback.format_exception(error))
    return panel(t, errors.Bug(detail=f"{type(error).__name__}: {error}"), safe=t("panel.safe"), report=report)


@dataclass
class Page:
    name: str
    home: Home
    t: Words
    demo: gr.Blocks
    problem: gr.HTML
    memory: gr.BrowserState

    def title(self) -> None:
        html(f"<h1>{esc(self.t(self.name + '.title'))}</h1>")

    def on(
        self, trigger: Callable[..., Any], fn: Callable[..., Any], inputs: Any = None, outputs: Any = None, *,
        clears: bool = True, at: gr.HTML | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """Wire an event so that every way it ends is a sentence on the page; `at` is another place for its problem. Only streams go
        through Gradio's queue: when one queued event ends while another begins, the answer of the other can be lost."""
        outputs = list(outputs) if isinstance(outputs, (list, tuple)) else [outputs] if outputs is not None else []
        answer = _guarded(fn, outputs, at or self.problem, self.t, clears)
        queue = inspect.isgeneratorfunction(answer)
        options = {"show_progress": "hidden", "api_visibility": "private", "queue": queue, **options}
        return trigger(answer, inputs, [*outputs, at or self.problem], **options)


def _guarded(fn: Callable[..., Any], outputs: list[Any], place: gr.HTML, t: Words, clears: bool) -> Callable[..., Any]:
    calm = gr.update(value="", visible=False) if clears else gr.skip()

    def answer(result: Any) -> Any:
        if isinstance(result, dict) and "__type__" not in result and any(key in outputs for key in result):
            return {**result, place: calm}
        if isinstance(result, dict) and result.get("__type__") == "update" and len(outputs) != 1:
            return [*[result] * len(outputs), calm]
        return [*([] if not outputs else [result] if len(outputs) == 1 else result), calm]

    def failed(error: Exception) -> list[Any]:
        return [*[gr.skip()] * len(outputs), gr.update(value=problem_of(t, error), visible=True)]

    if inspect.isgeneratorfunction(fn):

        @functools.wraps(fn)
        def stream(*args: Any, **named: Any) -> Iterator[Any]:
            try:
                for result in fn(*args, **named):
                    yield answer(result)
            except Exception as error:  # every failure becomes a panel; problem_of logs what nobody foresaw
                yield failed(error)

        return stream

    @functools.wraps(fn)
    def once(*args: Any, **named: Any) -> Any:
        try:
            return answer(fn(*args, **named))
        except Exception as error:  # as above
            return failed(error)

    return once


def run_of(request: gr.Request, memory: dict[str, Any] | None) -> str | None:
    """Which run this page is about: the address, then the browser's memory; None: the page takes the newest."""
    return request.query_params.get("run") or (memory or {}).get("run")


def top(demo: gr.Blocks, home: Home, t: Words, name: str) -> Page:
    """Draw the bar and the strip; the first thing on every page."""
    html(_bar(t, name), elem_classes="lu-bar")
    strip = html(_strip(home, t), elem_classes="lu-strip")
    problem = html(visible=False, elem_classes="lu-problem")
    memory = gr.BrowserState({}, storage_key="lora-ui", secret="lora-ui")
    page = Page(name, home, t, demo, problem, memory)
    seen = gr.State("")

    def tick(last: str) -> Any:
        now = _strip(home, t)
        return (gr.skip(), gr.skip()) if now == last else (now, now)

    page.on(gr.Timer(3).tick, tick, seen, [strip, seen], clears=False)
    page.on(demo.load, tick, seen, [strip, seen], clears=False)
    title = json.dumps(f"{t(name + '.name')} · LoRA UI")
    demo.load(None, None, None, js=f"() => window.loraUi.page({title}, '{'zh-CN' if t.language == 'zh' else 'en'}')")
    return page


def _bar(t: Words, name: str) -> str:
    links = "".join(
        f'<a href="{address}"{" aria-current=page" if key == name else ""}>{esc(t(key + ".name"))}</a>'
        for key, address in ADDRESSES.items()
    )
    other = "zh" if t.language == "en" else "en"
    return (
        f'<a class="skip" href="#content">{esc(t("shell.skip"))}</a><header><a class="wordmark" href="/">LoRA<span>UI</span></a>'
        f'<nav aria-label="{esc(t("shell.pages"))}">{links}</nav><div class="tools">'
        f'<a class="tool" data-keep-query href="?lang={other}" lang="{other}" hreflang="{other}">{esc(t("shell.other_language"))}</a>'
        f'<button type="button" class="tool keys" data-keys aria-label="{esc(t("shell.keys"))}" title="{esc(t("shell.keys"))}">?</button>'
        f'<button type="button" class="tool" data-theme-toggle aria-label="{esc(t("shell.theme"))}" title="{esc(t("shell.theme"))}">'
        f'{_SUN}</button></div></header><span id="content" tabindex="-1"></span>{_keys(t)}'
    )


def _keys(t: Words) -> str:
    """What the keyboard does, opened by `?`."""
    rows = "".join(f"<dt><kbd>{esc(key)}</kbd></dt><dd>{esc(t('shell.keys.' + name))}</dd>" for name, key in KEYS.items())
    return (
        f'<dialog id="keys" aria-label="{esc(t("shell.keys"))}"><div><h2>{esc(t("shell.keys"))}</h2><dl>{rows}</dl>'
        f'<p class="muted">{esc(t("shell.keys_hint"))}</p><button type="button" class="button">{esc(t("shell.close"))}</button></div></dialog>'
    )


_SUN = (
    '<svg width="16" height="16" viewBox="0 0 16 16" fill="none" stroke="currentColor" stroke-width="1.5" aria-hidden="true">'
    '<circle cx="8" cy="8" r="5.2"/><path d="M8 2.8a5.2 5.2 0 0 1 0 10.4z" fill="currentColor"/></svg>'
)


def _strip(home: Home, t: Words) -> str:
    """What is true now: the run that works, or one that waits; and the machine. `data-title` goes to the browser's tab."""
    found = machine.look()
    where = found.name if found.device == "cuda" else t("machine." + found.device)
    free = max((gpu.free_bytes for gpu in found.gpus), default=found.free_bytes)
    # whole steps of GiB, so that the strip does not change every tick
    here = f'<span class="muted num">{esc(where)} · {esc(t("shell.free", n=round(free / machine.GIB)))}</span>'
    jobs = Jobs(home.database)
    working = jobs.all("train", BUSY) or jobs.all("train", WAITING)
    if not working:
        return f'<div class="strip"><span class="muted">{esc(t("shell.idle"))}</span>{here}</div>'
    busy = runs.show(home, working[0].id)
    news = _share(busy)
    title = esc(f"{news} · {busy['name']}" if news else f"{MARKS[busy['state']]} {busy['name']}")
    left = f" · {esc(duration(t, busy['eta_seconds']))}" if busy.get("eta_seconds") else ""
    return (
        f'<div class="strip" data-title="{title}"><a href="/runs?run={esc(busy["id"])}">{pill(t, busy["state"])} {esc(busy["name"])} '
        f'<span class="num">{esc(news)}{left}</span></a>{here}</div>'
    )


def _share(run: dict[str, Any]) -> str:
    done, total = run.get("done"), run.get("total")
    return f"{100 * done / total:.0f} %" if done and total else ""
