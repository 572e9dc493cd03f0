"""Reading that may take long: in a thread, with a bar that counts, ended when nobody waits for it any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from lora_ui import data
from lora_ui.ui.shell import esc, number
from lora_ui.ui.words import Words

PATIENCE = 0.3
"""Seconds after which a wait is shown, and between two looks at it."""


class Halted(Exception):
    """Nobody waits for the answer any more."""


def watched(t: Words, name: str, read: Callable[[data.Told], Any], halt: threading.Event) -> Iterator[tuple[str, Any]]:
    """(what the page says, None) while `read` works, then ("", its answer). `read` gets a function to tell how far it is, which ends
    the reading once `halt` is set or this iterator closed. Raises Halted, and what `read` raises."""
    far: tuple[str, int, int | None] = ("reading", 0, None)

    def told(phase: str, done: int, total: int | None) -> None:
        nonlocal far
        if halt.is_set():
            raise Halted
        far = (phase, done, total)

    pool = ThreadPoolExecutor(1)
    reading = pool.submit(read, told)
    try:
        while not wait([reading], PATIENCE).done and not halt.is_set():
            yield _bar(t, name, *far), None
        if halt.is_set():
            raise Halted
        yield "", reading.result()
    finally:
        halt.set()
        pool.shutdown(wait=False)  # it ends by itself the next time that it tells how far it is


def _bar(t: Words, name: str, phase: str, done: int, total: int | None) -> str:
    said = t("data." + phase, name=name)
    said += f" {t('data.rows', n=number(done))}" if done else ""
    share = f'<div style="width:{100 * done / total:.0f}%"></div>' if total else '<div class="unknown"></div>'
    values = f' aria-valuenow="{100 * done / total:.0f}"' if total else ""
    bar = f'<div class="progress" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-label="{esc(said)}"{values}>{share}</div>'
    return f'<p class="muted num">{esc(said)}</p>{bar}'
