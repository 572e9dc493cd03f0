"""What the Data page consists of: the place to bring rows, what was found in them, the rows themselves, the columns by hand."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import gradio as gr
from gradio_client.utils import is_http_url_like

from lora_ui import data, errors
from lora_ui.ui import findings
from lora_ui.ui.report_card import ROLES
from lora_ui.ui.shell import Page, esc, html
from lora_ui.ui.words import Words

TEMPLATE = "{title}: {body}"
"""An example of columns that are joined."""
VIEWS = ("chat", "reading", "tokens")


class Upload(gr.File):
    """A box for files whose value is a list of (path, the name the person gave the file): Gradio rewrites names. It takes what was
    uploaded and nothing else: Gradio would also fetch an address that a visitor names."""

    is_template = True

    async def async_move_resource_to_block_cache(self, url_or_file_path: str | Path | None) -> str | None:
        if url_or_file_path is not None and is_http_url_like(str(url_or_file_path)):
            raise errors.DataNotFound(name=str(url_or_file_path))
        return await super().async_move_resource_to_block_cache(url_or_file_path)

    def preprocess(self, payload: Any) -> Any:
        return [(file.path, file.orig_name or Path(file.path).name) for file in payload.root] if payload else []


class Parts:
    """The page's components and its three states (see looking.py). `here`: source, mapping, name, digest, kept, first; raw, asked,
    leave_out, trim, row_limit, learn, system_prompt; findings (what was there before the last choice). `place`: at, view, of, counted, turn. `count`: asked, job, params, prepared, drawn, far."""

    def __init__(self, page: Page):
        t = page.t
        self.status = html(visible=False, elem_classes="lu-live")
        self.halt = gr.Button(t("data.halt"), visible=False, scale=0, min_width=160, elem_id="stop-reading")
        with gr.Column(elem_classes="lu-stack") as self.bring:
            self._draw_bring(t)
        with gr.Column(visible=False, elem_classes="lu-stack") as self.there:
            self._draw_there(t)
        with gr.Accordion(t("data.columns"), open=False, visible=False, elem_id="columns") as self.columns:
            self._draw_columns(t)
        with gr.Row(elem_classes="lu-sticky", visible=False) as self.foot:
            self.use = gr.Button(t("data.use"), variant="primary", elem_id="use-data")
        self.halting = gr.State(None)  # the threading.Event that ends the reading under way
        self.here, self.place, self.count = gr.State({}), gr.State({}), gr.State({})
        self.turn = gr.Textbox(visible=False)  # the turn of the place that the browser shows
        self.timer = gr.Timer(1)

    def _draw_bring(self, t: Words) -> None:
        lead = "data.lead_space" if os.environ.get("SPACE_ID") else "data.lead"
        html(f'<p class="lead">{esc(t(lead))}</p>')
        self.file = Upload(label=t("data.file"), height=160, elem_id="upload", file_types=None, file_count="multiple")
        with gr.Row(elem_classes="lu-line"):
            self.hub = gr.Textbox(label=t("data.hub"), placeholder=t("data.hub_hint"), max_lines=1, scale=3, elem_id="hub-data")
            self.read = gr.Button(t("data.hub_read"), scale=0, min_width=120)
        html(f'<p class="muted">{esc(t("data.formats"))}</p>')
        self.example = gr.Button(t("data.example", n=example_rows()), variant="primary", elem_id="example")
        with gr.Accordion(t("data.paste"), open=False, elem_id="paste"):
            self.text = gr.Textbox(label=t("data.paste_box"), info=t("data.paste_hint"), lines=6, max_lines=12, elem_id="paste-text")
            self.paste = gr.Button(t("data.paste_read"), scale=0, min_width=160)
        ways = "".join(
            f'<li><span class="way">{k}</span><div><strong>{esc(t(f"data.way_{k}"))}</strong><p class="muted">{esc(t(f"data.way_{k}_hint"))}</p></div></li>'
            for k in (1, 2, 3)
        )
        html(f'<ol class="ways">{ways}</ol>')

    def _draw_there(self, t: Words) -> None:
        with gr.Row(elem_classes="lu-line"):
            self.summary = html(scale=1)
            self.change = gr.Button(t("data.change"), scale=0, min_width=140, size="md")
        self.counts = html(elem_classes="lu-live")
        self.token_problem = html(visible=False)
        ways = [(t("data.layout_" + way), way) for way in ("chatml", "plain")]
        self.layout = gr.Radio(ways, label=t("data.layout"), info=t("data.layout_hint"), visible=False, elem_id="layout")
        self.board = findings.Board(t)
        with gr.Row(elem_classes="lu-line lu-view"):
            self.view = gr.Radio([(t("data.view_" + v), v) for v in VIEWS], value="chat", label=t("data.view"), scale=3)
            self.previous = gr.Button(t("data.previous"), size="sm", scale=0, min_width=100, elem_id="previous-row")
            self.next = gr.Button(t("data.next"), size="sm", scale=0, min_width=100, elem_id="next-row")
        self.row_problem = html(visible=False)
        self.row = html(elem_classes="lu-row", elem_id="row")
        with gr.Row(elem_classes="lu-line lu-jump"):
            self.shortest = gr.Button(t("data.shortest"), size="sm", scale=0, min_width=120)
            self.longest = gr.Button(t("data.longest"), size="sm", scale=0, min_width=120)
            self.random = gr.Button(t("data.random"), size="sm", scale=0, min_width=160)
            self.report = gr.Button(t("data.report"), size="sm", scale=0, min_width=180)
            self.report_json = gr.Button(t("data.report_json"), size="sm", scale=0, min_width=180)
            self.wanted = gr.Textbox(
                label=t("data.go_to"),
                placeholder=t("data.go_to"),
                show_label=False,
                container=False,
                max_lines=1,
                scale=0,
                min_width=140,
                elem_id="go-to-row",
            )
        with gr.Accordion(t("data.lengths"), open=False, elem_id="lengths"):
            self.lengths = html()

    def _draw_columns(self, t: Words) -> None:
        html(f'<p class="muted">{esc(t("data.columns_hint", template=TEMPLATE))}</p>')
        with gr.Row():
            with gr.Column(scale=1, elem_classes="lu-stack"):
                self.roles = [
                    gr.Dropdown([("", "")], label=t("role." + role), value="", allow_custom_value=True, elem_id=f"role-{role}")
                    for role in ROLES
                ]
            self.first = html(scale=1)
        with gr.Row(elem_classes="lu-line"):
            self.map = gr.Button(t("data.column_read"), scale=0, min_width=260, elem_id="read-columns")
            self.recognise = gr.Button(t("data.column_recognised"), scale=0, min_width=220)
            self.other = gr.Button(t("data.change"), scale=0, min_width=220, visible=False)

    @property
    def shown(self) -> list[Any]:
        """What a newly read source changes."""
        return [
            self.bring, self.status, self.halt, self.halting, self.file, self.token_problem, self.there, self.columns, self.foot, self.row,
            *self.roles, self.first, self.map, self.other, self.view, self.here, self.place, self.turn, self.summary, self.counts,
            self.lengths, self.layout, *self.board.parts,
        ]  # fmt: skip


@functools.cache
def example_rows() -> int:
    with data.EXAMPLE.open("rb") as f:
        return sum(1 for line in f if line.strip())
