"""The fold under the list of runs: what takes space, the trash and unused rows, and whether runs go on by themselves.

Sizes are counted when the fold opens and after a removal, never on a tick.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from lora_ui import endings, runs
from lora_ui.ui.shell import Page, esc, html, size
from lora_ui.ui.words import Words

KINDS = ("runs", "trash", "models", "datasets", "uploads", "free")


def build(page: Page) -> None:
    t, home = page.t, page.home
    with gr.Accordion(t("space.title"), open=False, elem_id="fold-space") as fold:
        table = html()
        with gr.Row(elem_classes="lu-actions"):
            empty = gr.Button(t("space.empty"), visible=False, size="sm", elem_id="empty-trash")
            unused = gr.Button(visible=False, size="sm", elem_id="delete-unused")
        with gr.Group(visible=False, elem_classes="card") as confirm:
            html(f"<p>{esc(t('space.empty_ask'))}</p>")
            with gr.Row(elem_classes="lu-actions"):
                keep = gr.Button(t("runs.keep"), size="sm", elem_id="keep-trash")
                sure = gr.Button(t("space.empty_sure"), variant="stop", size="sm", elem_id="empty-sure")
        goes_on = gr.Checkbox(label=t("space.goes_on"), info=t("space.goes_on_hint"), elem_id="goes-on")

    def counted() -> dict[Any, Any]:
        sizes = runs.space_report(home)
        return {
            table: _table(t, sizes),
            empty: gr.update(visible=sizes["trash"] > 0),
            unused: gr.update(visible=sizes["unused"] > 0, value=t("space.unused", size=size(sizes["unused"]))),
            confirm: gr.update(visible=False),
        }

    def emptied() -> dict[Any, Any]:
        runs.empty_trash(home)
        return counted()

    def removed() -> dict[Any, Any]:
        runs.delete_unused_datasets(home)
        return counted()

    shown = [table, empty, unused, confirm]
    page.on(fold.expand, lambda: {**counted(), goes_on: endings.goes_on(home)}, None, [*shown, goes_on])
    page.on(empty.click, lambda: (gr.update(visible=True), gr.update(visible=False)), None, [confirm, empty])
    page.on(keep.click, lambda: (gr.update(visible=False), gr.update(visible=True)), None, [confirm, empty])
    page.on(sure.click, emptied, None, shown)
    page.on(unused.click, removed, None, shown)
    page.on(goes_on.input, lambda on: endings.set_goes_on(home, on), goes_on)


def _table(t: Words, sizes: dict[str, int]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{esc(t("space." + kind))}</th><td class="num">{esc(size(sizes[kind]))}</td></tr>' for kind in KINDS
    )
    return f'<div class="wide"><table class="facts"><tbody>{rows}</tbody></table></div>'
