"""Takes the README's pictures from a running app: `python docs/screenshots.py http://127.0.0.1:7860 RUN`. RUN: a finished run of the example."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]


def settled(page: Page, address: str, shown: str) -> None:
    page.goto(address)
    page.locator(shown).first.wait_for()
    page.wait_for_timeout(2500)  # fonts and the chart


def main(url: str, run: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        page = browser.new_page(viewport={"width": 1200, "height": 860})
        page.goto(url)
        page.locator("#example").click()
        page.locator("#row").wait_for()
        page.wait_for_timeout(6000)
        page.screenshot(path=HERE / "data.png")
        page.locator("#use-data").click()
        page.locator("#plan").wait_for()
        page.wait_for_timeout(4000)
        page.screenshot(path=HERE / "train.png")
        settled(page, f"{url}/runs?run={run}", "#curve-loss, canvas, svg.marks")
        page.screenshot(path=HERE / "run.png")
        settled(page, f"{url}/ship?run={run}", "#download")
        page.screenshot(path=HERE / "ship.png")
        settled(page, f"{url}/chat?run={run}", "#chip-1")
        page.locator("#chip-1").click()
        page.locator("#panes").get_by_text("tokens/s").nth(1).wait_for(timeout=300_000)
        page.screenshot(path=HERE / "chat.png")
        phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark", locale="zh-CN")
        settled(phone, f"{url}/runs?run={run}", "h1")
        phone.screenshot(path=HERE / "phone.png")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
