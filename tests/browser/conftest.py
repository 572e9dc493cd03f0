"""A real app in its own process, an empty home, a stand-in Hub, headless Chromium. A console error fails the test."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

from lora_ui.home import Home
from lora_ui.ui.words import Words
from tests.running import end_processes

ROOT = Path(__file__).parent.parent.parent
expect.set_options(timeout=60_000)  # a busy machine is slow, not wrong
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]
LEAVING = ("net::ERR_", "AbortError: signal is aborted", "Connection errored out")
"""What the console says when a page is left, or its server restarted, while a tick is under way."""
LANGUAGE = {"en": "en-US", "zh": "zh-CN"}


class App:
    """The web app as a person starts it; `start` again after `kill` is a restart on the same home."""

    def __init__(self, home: Path, hub: str):
        self.home, self.hub = Home.open(home), hub
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "HF_ENDPOINT": self.hub, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(self.home.root / "hf")}
        environment.pop("HF_TOKEN", None)
        with open(self.home.root / "web.txt", "ab") as log:
            command = [sys.executable, "app.py", "--port", str(self.port), "--home", str(self.home.root)]
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        wait, deadline = threading.Event(), time.monotonic() + 180  # a busy machine is slow, not wrong
        while time.monotonic() < deadline:
            try:
                if httpx.get(self.url, follow_redirects=True, trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                wait.wait(0.05)
        self.kill()
        raise AssertionError((self.home.root / "web.txt").read_text())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)


@pytest.fixture(scope="module")
def app(tmp_path_factory, shared_hub):
    app = App(tmp_path_factory.mktemp("browser") / "home", shared_hub.url)
    yield app
    app.kill()
    end_processes(app.home)


@pytest.fixture(scope="module")
def shared_hub():
    from tests.standin_hub import StandinHub

    with StandinHub() as hub:
        yield hub


@pytest.fixture(scope="module")
def chromium():
    assert CHROMIUM, "install chromium: these tests click in a real browser"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def visit(app, chromium, request):
    """`visit(width=, language=, dark=)` -> (page, words): a visitor of their own; console errors are collected and fail the test."""
    contexts, wrong = [], []

    def open_one(width=1280, height=900, language="en", dark=False):
        context = chromium.new_context(
            viewport={"width": width, "height": height},
            locale=LANGUAGE[language],
            color_scheme="dark" if dark else "light",
            accept_downloads=True,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: (wrong.append(f"a dialog opened: {dialog.message}"), dialog.dismiss()))
        return page, Words(language)

    yield open_one
    for number, context in enumerate(contexts):
        if context.pages and (folder := os.environ.get("LORA_UI_SCREENSHOTS")):  # what the pages looked like at the end, to look at by hand
            context.pages[0].screenshot(path=f"{folder}/{request.node.name}-{number}.png", full_page=True)
        context.close()
    assert [line for line in wrong if not any(said in line for said in LEAVING)] == []
