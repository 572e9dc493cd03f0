"""What a handler can have the browser do: go to an address, save a file. An event that fails leaves both alone.

Each is an empty `gr.HTML` whose value is not drawn but watched. The values are addresses that we built, never other people's text.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr
from gradio.utils import get_upload_folder

from lora_ui.ui.shell import Page

_NOTHING = "<span hidden></span>"
_GO = "watch('value', () => { if (props.value) location.href = props.value; });"
_SAVE = """watch('value', () => {
  if (!props.value) return;
  const link = document.createElement('a');
  link.href = props.value;
  link.download = '';
  link.click();
});"""


def goes() -> gr.HTML:
    """Output an address of ours into it and the browser goes there."""
    return gr.HTML("", html_template=_NOTHING, js_on_load=_GO, apply_default_css=False)


def folder() -> Path:
    """An empty folder in Gradio's own cache, which is all that it serves: no folder of the home is opened to it."""
    made = Path(get_upload_folder()) / secrets.token_hex(16)
    made.mkdir(parents=True)
    return made


def saves(page: Page, button: gr.Button, make: Callable[..., Path], inputs: Any = None, at: gr.HTML | None = None, then: Any = None) -> Any:
    """On click, `make` writes a file into a fresh `folder()` and the browser saves it under its name; what `make` raises becomes a
    panel. Gradio removes the file after a day, and when the app ends. `then`: (component, its new value)."""
    carrier = gr.HTML("", html_template=_NOTHING, js_on_load=_SAVE, apply_default_css=False)

    @functools.wraps(make)
    def give(*args: Any) -> Any:
        made = str(make(*args))
        carrier.temp_files.add(made)
        address = f"/gradio_api/file={quote(made)}?{secrets.token_hex(4)}"
        return [address, then[1]] if then else address

    return page.on(button.click, give, inputs, [carrier, then[0]] if then else carrier, at=at)
