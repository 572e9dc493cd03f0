"""The web app: five pages in two languages behind one door. Loads no torch."""

from __future__ import annotations

import warnings

import gradio as gr
from fastapi import FastAPI
from starlette.types import ASGIApp

from lora_ui.data import uploads
from lora_ui.home import Home
from lora_ui.ui import chat, data, door, runs, shell, ship, theme, train
from lora_ui.ui.words import LANGUAGES, Words

KEPT_CLOSED = 16
"""Closed pages whose sessions are kept, for one that was only out of reach."""
MODULES = {"data": data, "train": train, "runs": runs, "chat": chat, "ship": ship}


def blocks(home: Home) -> gr.Blocks:
    """Every page once per language; `door` chooses, by its address."""
    demo = gr.Blocks(title="LoRA UI", analytics_enabled=False, delete_cache=(3600, 86400))
    demo.queue(default_concurrency_limit=16)
    with demo:
        for language in LANGUAGES:
            t = Words(language)
            for name, module in MODULES.items():
                address = door.CHINESE[shell.ADDRESSES[name]] if language == "zh" else shell.ADDRESSES[name]
                _route(demo, t(f"{name}.name"), address.strip("/"))
                module.build(shell.top(demo, home, t, name))
        demo.unload(lambda: forget_closed(demo))
    return demo


def forget_closed(demo: gr.Blocks) -> None:
    """Drop the sessions of pages that were closed, the longest unused first. Gradio itself keeps each of them, about 2 MiB of a copy of
    every page's components, until there are ten thousand."""
    holder = demo.state_holder
    closed = [id for id, session in list(holder.session_data.items()) if session.is_closed]
    for id in closed[:-KEPT_CLOSED]:
        holder.session_data.pop(id, None)
        holder.time_last_used.pop(id, None)


def _route(demo: gr.Blocks, name: str, path: str) -> None:
    """What `Blocks.route` does, without leaving the context: each leaving builds the whole app anew, three seconds for ten pages."""
    if path:
        demo.pages.append((path, name, False))
        demo.current_page = path


def locked() -> gr.Blocks:
    """A Space without a password: one page that says how to set it."""
    demo = gr.Blocks(title="LoRA UI", analytics_enabled=False)
    with demo:
        for language in LANGUAGES:
            t = Words(language)
            shell.html(
                f'<div class="card" lang="{language}"><h1>{shell.esc(t("locked.title"))}</h1><p>{shell.esc(t("locked.how"))}</p></div>'
            )
    return demo


def web(demo: gr.Blocks, host: str, auth: list[tuple[str, str]] | None) -> ASGIApp:
    """What the server serves: Gradio behind the door. `auth`: (user, password) pairs, or None on a loopback address."""
    app = FastAPI(openapi_url=None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "SSR mode is not supported")  # we never asked for it
        gr.mount_gradio_app(
            app, demo, path="/", server_name=host, auth=auth, footer_links=[], run_history=False, enable_monitoring=False, show_error=False,
            max_file_size=uploads.limit(), ssr_mode=False, pwa=False, mcp_server=False,
            theme=theme.theme(), css=theme.css(), head=theme.head(),
        )  # fmt: skip
    demo.has_launched = True  # else Gradio takes any path a client names for one of ours (processing_utils._check_allowed)
    return door.Door(app, door.own_names(host))
