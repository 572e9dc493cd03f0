"""The train page."""

from lora_ui.ui.shell import Page


def build(page: Page) -> None:
    page.title()
