"""Hub tokens that people typed, kept for the browser they came from, in the memory of this process alone.

Never on disk, in the page or in what a browser stores: the browser holds a cookie that no script can read, which names nothing
but itself (`door.py` sets it). A restart, or HOURS without use, forgets.
"""

from __future__ import annotations

import threading
import time

import gradio as gr
from starlette.requests import cookie_parser

from lora_ui.ui.door import VISITOR

HOURS = 8
MOST = 1000
"""Visitors remembered at a time; the longest unused goes first."""
_lock = threading.Lock()
_kept: dict[tuple[str, str | None], tuple[str, float]] = {}
"""(cookie, who is signed in) → (token, when it was last used)."""


def keep(request: gr.Request, typed: str) -> None:
    """Keep what was typed; an emptied box forgets it. Without the cookie nothing is kept."""
    visitor, token = _visitor(request), clean(typed)
    if visitor is None:
        return
    with _lock:
        _kept.pop(visitor, None)
        if token:
            _kept[visitor] = (token, time.monotonic())
            while len(_kept) > MOST:
                del _kept[next(iter(_kept))]


def add(request: gr.Request, typed: str) -> None:
    """Keep what stands in the box when it is left; an empty one, as after a page change, forgets nothing."""
    if clean(typed):
        keep(request, typed)


def of(request: gr.Request, typed: str = "") -> str:
    """What was typed just now, else what is kept for this visitor, else nothing."""
    if token := clean(typed):
        return token
    visitor = _visitor(request)
    with _lock:
        if visitor is None or visitor not in _kept:
            return ""
        token, used = _kept.pop(visitor)
        if time.monotonic() - used > HOURS * 3600:
            return ""
        _kept[visitor] = (token, time.monotonic())
        return token


def clean(pasted: str) -> str:
    """People paste tokens with quotes and line ends around them."""
    return (pasted or "").strip().strip("\"'“”‘’").strip()


def _visitor(request: gr.Request) -> tuple[str, str | None] | None:
    cookie = cookie_parser(request.headers.get("cookie") or "").get(VISITOR)
    return (cookie, request.username) if cookie else None
