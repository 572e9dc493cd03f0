"""The pages in this process on a free port, over a home that the test fills; no supervisor moves its runs."""

import socket
import threading
import time

import httpx
import pytest
import uvicorn

from lora_ui.ui import app
from lora_ui.ui.words import Words
from tests.browser.conftest import chromium
from tests.browser.conftest import visit as visit

__all__ = ["app_of", "chromium", "t", "visit"]


@pytest.fixture(params=["en", "zh"])
def t(request):
    return Words(request.param)


class Served:
    def __init__(self, home):
        self.home = home
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = uvicorn.Server(uvicorn.Config(app.web(app.blocks(home), "127.0.0.1", None), port=self.port, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        wait, deadline = threading.Event(), time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                httpx.get(self.url, trust_env=False)
                return
            except httpx.TransportError:
                wait.wait(0.05)
        raise AssertionError("the page did not come up")

    def end(self):
        self.server.should_exit = True
        self.thread.join(20)


@pytest.fixture
def app_of():
    """`app_of(home)`: the pages of that home."""
    served = []

    def serve(home):
        served.append(Served(home))
        return served[-1]

    yield serve
    for one in served:
        one.end()


@pytest.fixture(name="app")
def _app():
    """`visit` asks for it; these tests serve their own home."""
