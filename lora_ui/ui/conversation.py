"""A conversation with one or two models at once: its memory, its HTML, and two answers read side by side.

A turn is `{"ask": text, "answers": {pane: answer}}` with panes `base` and `yours`; an answer is
`{"text", "speed": tokens/s or None, "tokens", "model": who answered, "state": writing|done|stopped}`. All of it is plain JSON, so
that the browser can keep it. Everything said is shown letter by letter, as the model wrote it: gr.Chatbot would read it as HTML
and Markdown, even with `render_markdown=False`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

from lora_ui.ui.shell import esc, number
from lora_ui.ui.words import Words

BASE, YOURS = "base", "yours"
VIEWS = {"both": (BASE, YOURS), YOURS: (YOURS,), BASE: (BASE,)}
"""What the page's switch shows → its panes."""
MOST_TURNS = 30
"""Kept per run in the browser, whose storage is small."""

Turn = dict[str, Any]

CLICKS = """
let turns = 0;
watch('value', () => {
  const there = element.querySelectorAll('.turn');
  if (turns && there.length > turns) there[there.length - 1].scrollIntoView({block: 'nearest'});
  turns = there.length;
});
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button) return;
  if (button.dataset.act !== 'copy') { trigger(button.dataset.act, {turn: Number(button.dataset.turn)}); return; }
  navigator.clipboard.writeText(button.closest('.answer').querySelector('.text').textContent).then(() => { button.textContent = button.dataset.done; });
});
"""
"""Edit and try again go to the page's 'edit' and 'retry' events; copying stays in the browser."""


def messages(turns: list[Turn], pane: str, system: str) -> list[dict[str, str]]:
    """What the model of `pane` reads: the system prompt, its own earlier answers, and the last question."""
    said = [{"role": "system", "content": system}] if system.strip() else []
    for turn in turns[:-1]:
        if turn["answers"].get(pane, {}).get("text"):
            said += [{"role": "user", "content": turn["ask"]}, {"role": "assistant", "content": turn["answers"][pane]["text"]}]
    return [*said, {"role": "user", "content": turns[-1]["ask"]}]


def merged(
    streams: dict[str, Iterator[dict[str, Any]]], stopping: threading.Event
) -> Generator[tuple[str, dict[str, Any]] | None, None, None]:
    """(name, piece) from several streams as they come, None when a tenth of a second brought nothing. Setting `stopping`, or
    closing this, ends them all. Raises what a stream raises."""
    pieces: queue.Queue[tuple[str, dict[str, Any] | BaseException | None]] = queue.Queue()
    over = threading.Event()

    def pump(name: str, stream: Any) -> None:
        try:
            with closing(stream):
                for piece in stream:
                    if over.is_set():
                        break
                    pieces.put((name, piece))
            pieces.put((name, None))
        except BaseException as error:  # handed to the reader below
            pieces.put((name, error))

    for name, stream in streams.items():
        threading.Thread(target=pump, args=(name, stream), daemon=True, name=f"answer-{name}").start()
    open_ones = len(streams)
    try:
        while open_ones and not stopping.is_set():
            try:
                name, piece = pieces.get(timeout=0.1)
            except queue.Empty:
                yield None
                continue
            if isinstance(piece, BaseException):
                raise piece
            if piece is None:
                open_ones -= 1
            else:
                yield name, piece
    finally:
        over.set()


def draw(
    t: Words, turns: list[Turn], speakers: dict[str, str], titles: dict[str, str], empty: str, wait: str = "", over: bool = True
) -> str:
    """The conversation as HTML. `speakers`: pane → the model asked there; `titles`: model → heading, an answer's own being that of the
    model which the worker says has answered; `wait`: a sentence in open answers while nothing is written yet; `over`: nothing is being answered, so the last can be tried again."""
    heads = "".join(f'<h2 class="pane-title {pane}">{esc(titles[model])}</h2>' for pane, model in speakers.items())
    drawn = "".join(_turn(t, place, turn, speakers, titles, wait, over and place == len(turns) - 1) for place, turn in enumerate(turns))
    nothing = f'<p class="muted nothing">{esc(empty)}</p>'
    return (
        f'<div class="conversation panes-{len(speakers)}"><div class="pane-heads">{heads}</div>'
        f'<div role="log" aria-live="off" aria-label="{esc(t("chat.log"))}">{drawn or nothing}</div></div>'
    )


def _turn(t: Words, place: int, turn: Turn, speakers: dict[str, str], titles: dict[str, str], wait: str, last: bool) -> str:
    edit = _button("edit", t("chat.edit"), place)
    wanted = (
        f'<p class="wanted"><span class="muted">{esc(t("chat.wanted"))}</span> <span dir="auto">{esc(turn["wanted"])}</span></p>'
        if turn.get("wanted")
        else ""
    )
    asked = f'<div class="ask"><p class="text" dir="auto">{esc(turn["ask"])}</p>{edit}</div>'
    answers = "".join(_answer(t, place, turn["answers"].get(pane), pane, model, titles, wait, last) for pane, model in speakers.items())
    return f'<section class="turn">{asked}<div class="answers">{answers}</div>{wanted}</section>'


def _answer(
    t: Words, place: int, answer: dict[str, Any] | None, pane: str, model: str, titles: dict[str, str], wait: str, last: bool
) -> str:  # fmt: skip
    if answer is None:
        return f'<article class="answer {pane}"><p class="muted">{esc(t("chat.not_asked"))}</p></article>'
    by = answer["model"] or model
    head = f'<h3 class="answer-title{" other" if by != model else ""}">{esc(titles.get(by, by))}</h3>'
    writing = answer["state"] == "writing"
    silence = (wait or t("chat.writing")) if writing else t("chat.nothing_said")
    text = f'<p class="text" dir="auto">{esc(answer["text"])}</p>' if answer["text"] else f'<p class="muted">{esc(silence)}</p>'
    return f'<article class="answer {pane}">{head}{text}<footer>{_notes(t, place, answer, last)}</footer></article>'


def _notes(t: Words, place: int, answer: dict[str, Any], last: bool) -> str:
    """Under an answer: how fast it was, copy, and for the last one try again."""
    if answer["state"] == "writing":
        return f"<span>{esc(t('chat.writing'))}</span>" if answer["text"] else ""
    notes = [f"<span>{esc(t('chat.stopped'))}</span>"] if answer["state"] == "stopped" else []
    if answer["speed"]:
        speed = number(answer["speed"]) if answer["speed"] >= 10 else f"{answer['speed']:.1f}"
        notes.append(f'<span class="num">{esc(t("chat.speed", n=speed))}</span>')
    notes += [_button("copy", t("chat.copy"), place, t("panel.copied"))] if answer["text"] else []
    notes += [_button("retry", t("chat.retry"), place)] if last else []
    return "".join(notes)


def _button(act: str, label: str, place: int, done: str = "") -> str:
    return f'<button type="button" class="quiet" data-act="{act}" data-turn="{place}" data-done="{esc(done)}">{esc(label)}</button>'
