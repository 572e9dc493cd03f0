"""What stands on the Train page, and where. What happens to it is in train.py."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lora_ui.methods import all_methods
from lora_ui.ui import browser, form, plan_card
from lora_ui.ui.shell import Page, esc, html
from lora_ui.ui.words import Words

WAYS = 5
"""Most changes offered at a time."""


class Parts:
    """The page's components. `memory` is read and written by every edit, so that a half-filled form survives."""

    def __init__(self, page: Page):
        t = page.t
        with gr.Column(visible=False, elem_classes="lu-stack") as self.empty:
            html(f'<p class="lead">{esc(t("train.no_data"))}</p>')
            with gr.Row(elem_classes="lu-line"):
                self.example = gr.Button(t("train.use_example"), variant="primary", scale=0, min_width=200, elem_id="use-example")
                html(f'<a class="button" href="/">{esc(t("train.go_data"))}</a>')
        with gr.Row(visible=False, elem_classes="lu-split") as self.form:
            with gr.Column(scale=3, elem_classes="lu-stack", min_width=320):
                self._draw_form(t)
            with gr.Column(scale=2, elem_classes="lu-aside", min_width=320):
                self._draw_plan(t)
        self.key = gr.State("")
        self.drawn = gr.State({})
        """What was last drawn of lists and marks, so that an edit touches only what changed."""
        self.waiting = gr.State(None)
        self.timer = gr.Timer(1.5, active=False)
        self.onward = browser.goes()

    def _draw_form(self, t: Words) -> None:
        self.teaching = html()
        with gr.Column(elem_classes="lu-card"):
            html(f"<h2>{esc(t('train.model'))}</h2>")
            self.model = gr.Dropdown(
                [], label=t("train.model_box"), info=t("train.model_hint"), allow_custom_value=True, filterable=True, elem_id="base-model"
            )
            self.facts = html()
            self.token = gr.Textbox(label=t("train.token"), info=t("train.token_hint"), type="password", visible=False, elem_id="hub-token")
            with gr.Accordion(t("train.search"), open=False):
                with gr.Row(elem_classes="lu-line"):
                    self.query = gr.Textbox(label=t("train.search_box"), max_lines=1, scale=3)
                    self.search = gr.Button(t("train.search_go"), scale=0, min_width=120)
                self.found = gr.Radio([], label=t("train.found"), info=t("train.found_hint"), visible=False)
                self.search_problem = html(visible=False)
        with gr.Column(elem_classes="lu-card"):
            html(f"<h2>{esc(t('train.preset'))}</h2>")
            self.preset = gr.Radio(
                [], label=t("train.preset_box"), info=t("train.preset_hint"), elem_classes="lu-presets", elem_id="preset"
            )
            self.more = gr.Button(visible=False, size="sm", min_width=160)
        with gr.Column(elem_classes="lu-card"):
            html(f"<h2>{esc(t('train.adjust'))}</h2>")
            self.method = gr.Dropdown(
                [(t("train.method_one", title=t.method(one)[0], family=t.method(one)[1]), key) for key, one in all_methods().items()],
                label=t("train.method"),
                info=t("train.method_hint"),
                elem_id="method",
            )
            self.about = html(elem_id="method-about")
            with gr.Row(elem_classes="lu-fields"):
                self.controls = form.draw(t, form.PLAIN)
                self.name = gr.Textbox(
                    label=t("train.run_name"), info=t("train.run_name_hint"), max_lines=1, max_length=200, elem_id="run-name", min_width=280
                )
        with gr.Accordion(t("train.expert", n=0), open=False, elem_id="expert") as self.expert:
            with gr.Row(elem_classes="lu-line"):
                gr.Textbox(label=t("train.find"), placeholder=t("train.find_hint"), max_lines=1, elem_id="find-setting", scale=3)
                self.reset = gr.Button(t("train.reset"), scale=0, min_width=180)
            self.controls += form.draw(t)

    def _draw_plan(self, t: Words) -> None:
        with gr.Column(elem_classes="lu-card"):
            html(f"<h2>{esc(t('train.will'))}</h2>")
            self.plan = html(elem_id="plan")
            self.changed = gr.HTML("", apply_default_css=False, js_on_load=plan_card.UNDO, elem_id="changed")
            self.mend = gr.Button(visible=False, elem_classes="lu-way", elem_id="mend")
            self.start = gr.Button(t("train.start"), variant="primary", elem_id="start")
            self.see = gr.Button(visible=False, variant="primary", elem_id="see-ways")
            html(f'<p class="muted">{esc(t("train.goes_on"))}</p>')
        with gr.Column(elem_classes="lu-card", elem_id="ways", visible=False) as self.short:
            html(f"<h2>{esc(t('fit.ways'))}</h2>")
            self.short_of = html()
            self.ways = [gr.Button(visible=False, elem_classes="lu-way") for _ in range(WAYS)]
            self.anyway = gr.Button(t("fit.anyway"), size="sm", elem_id="start-anyway")
        self.offered = gr.State([])
        self.mending = gr.State({})  # partial settings that take away what stands in the way
        with gr.Accordion(t("fit.items"), open=False, elem_id="memory-items"):
            self.items = html()
            html(f'<p class="muted">{esc(t("exact.hint"))}</p>')
            self.exact = html(elem_id="exact")
            self.exact_problem = html(visible=False)
            self.check = gr.Button(t("exact.check"), size="sm", elem_id="check-exactly")
            self.exact_stop = gr.Button(t("exact.stop"), size="sm", visible=False, elem_id="stop-checking")
            self.checking = gr.State(None)  # the threading.Event that ends the check under way
            self.gpu = gr.Textbox(label=t("fit.another"), info=t("fit.another_hint"), max_lines=1, elem_id="another-gpu")
        with gr.Accordion(t("train.why"), open=False):
            self.why = html()
        with gr.Accordion(t("learn.title"), open=False, elem_id="learn"):
            self.learn = html()
        with gr.Accordion(t("train.command"), open=False):
            self.command = gr.Code(
                label=t("train.command_box"), language="shell", interactive=False, buttons=["copy"], wrap_lines=True, lines=3, max_lines=12
            )
        with gr.Accordion(t("train.save_preset"), open=False), gr.Row(elem_classes="lu-line"):
            self.preset_title = gr.Textbox(label=t("train.save_preset_name"), max_lines=1, scale=3)
            self.save = gr.Button(t("train.save_preset_go"), scale=0, min_width=120)

    @property
    def boxes(self) -> list[Any]:
        return [control.box for control in self.controls]

    @property
    def edited(self) -> list[Any]:
        """What follows every edit."""
        told = [
            self.plan,
            self.method,
            self.about,
            self.changed,
            self.mend,
            self.mending,
            self.start,
            self.see,
            self.short,
            self.short_of,
            self.anyway,
            *self.ways,
            self.offered,
            self.items,
            self.exact,
            self.gpu,
            self.learn,
        ]
        return [
            *told,
            self.preset,
            self.more,
            self.model,
            self.drawn,
            self.why,
            self.command,
            self.expert,
            self.waiting,
            self.timer,
            *self.boxes,
        ]

    @property
    def automatic(self) -> list[Any]:
        return [c.box for c in self.controls if c.field.auto and c.field.kind in ("integer", "number")]
