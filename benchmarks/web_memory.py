"""Resident memory of the page's process: when it answers, and after every page was opened in both languages in headless Chromium, with a
thousand rows read and a finished run. Promise: under 400 MiB. Needs a chromium program. `--rounds N`. Prints one line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import psutil
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from lora_ui import supervisor  # noqa: E402
from lora_ui.home import Home, write_json  # noqa: E402
from lora_ui.ui.door import CHINESE  # noqa: E402
from tests.tiny import tiny_model, tiny_run  # noqa: E402

RUN = "calm-otter-000001"
ROUNDS = int(sys.argv[sys.argv.index("--rounds") + 1]) if "--rounds" in sys.argv else 3
OFFLINE = {"HF_HUB_OFFLINE": "1", "PIP_NO_INDEX": "1"}
"""The rows are counted in a process of their own; here that fails soon instead of fetching a model."""


def mebibytes(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 2**20


def opened(url: str, rows: Path) -> None:
    """Every page, with and without a run where it makes a difference, each until nothing more is asked for."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for locale in ("en-US", "zh-CN"):
            page = browser.new_context(locale=locale).new_page()
            page.goto(url)
            page.locator("#upload input[type=file]").set_input_files(rows)
            page.locator("#row").get_by_text("What is in shed").first.wait_for(timeout=120_000)
            for address in CHINESE if locale == "en-US" else CHINESE.values():
                for asked in ("", f"?run={RUN}"):
                    page.goto(url + address + asked)
                    page.locator("h1:visible").first.wait_for(timeout=60_000)
                    page.wait_for_timeout(1500)
        browser.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Home.open(Path(folder) / "home")
        run = tiny_run(home, RUN, tiny_model(Path(folder) / "tiny"))
        write_json(run / "decided.json", {})
        rows = Path(folder) / "rows.jsonl"
        lines = ({"question": f"What is in shed {n}?", "answer": f"Shed {n} holds {n * 7} ropes."} for n in range(1000))
        rows.write_text("\n".join(map(json.dumps, lines)))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        command = [sys.executable, "app.py", "--port", url.rpartition(":")[2], "--home", str(home.root)]
        app = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **OFFLINE}, stdout=subprocess.DEVNULL)
        try:
            while True:
                try:
                    if httpx.get(url, timeout=30, trust_env=False, follow_redirects=True).status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.05)
            process = psutil.Process(app.pid)
            told = [mebibytes(process)]
            for _ in range(ROUNDS):
                opened(url, rows)
                told.append(mebibytes(process))
        finally:
            app.terminate()
            app.wait()
            os.kill((supervisor.living(home) or {})["pid"], signal.SIGTERM)
        each = ", ".join(f"{size:.0f}" for size in told[1:])
        print(f"the page's process: {told[0]:.0f} MiB when it answers; all pages in both languages, {ROUNDS} times: {each} MiB")


if __name__ == "__main__":
    main()
