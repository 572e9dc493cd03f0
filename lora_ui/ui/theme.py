"""Looks: the Gradio theme's variables. What Gradio has no variable for is in `page.css`; both take their colours from TOKENS."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
from gradio.themes.utils.fonts import Font, LocalFont

TOKENS = {
    "canvas": ("#FAFAF9", "#131316"),
    "surface": ("#FFFFFF", "#1C1C21"),
    "sunken": ("#F4F4F2", "#26262C"),
    "ink": ("#1C1B1A", "#F2F1EF"),
    "ink-2": ("#55524D", "#B4B2AD"),
    "line": ("#E2E1DD", "#34343B"),
    "edge": ("#8C8A84", "#77777F"),
    "accent": ("#4338CA", "#A5B0FF"),
    "accent-hover": ("#3730A3", "#BEC6FF"),
    "on-accent": ("#FFFFFF", "#131316"),
    "learned": ("#FFE79A", "#574500"),
    "learned-ink": ("#3D2F00", "#FFECB0"),
    "queued": ("#475569", "#CBD5E1"),
    "queued-fill": ("#F1F5F9", "#2A303A"),
    "running": ("#1D4ED8", "#93C0FF"),
    "running-fill": ("#E8F0FF", "#17294A"),
    "finished": ("#15703C", "#7FDCA0"),
    "finished-fill": ("#E6F5EB", "#12301E"),
    "stopped": ("#6B4E00", "#F0CC6B"),
    "stopped-fill": ("#FBF2D9", "#352A0B"),
    "failed": ("#B3261E", "#FFB0A8"),
    "failed-fill": ("#FDECEA", "#431916"),
    "interrupted": ("#8A3FA8", "#E0B0F5"),
    "interrupted-fill": ("#F7ECFB", "#371D42"),
    "curve-train": ("#7D8590", "#7D8590"),
    "curve-held-out": ("#3B82F6", "#3B82F6"),
    "curve-base": ("#D9730D", "#D9730D"),
}
"""Name → (light, dark). In CSS: `var(--lu-name)`. Contrast was measured for every pair that meets."""

FOLDER = Path(__file__).parent
CHINESE = ("PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC")


def css() -> str:
    light, dark = ("".join(f"--lu-{name}:{pair[i]};" for name, pair in TOKENS.items()) for i in (0, 1))
    return f":root{{{light}}}\n.dark{{{dark}}}\n" + (FOLDER / "page.css").read_text("utf-8")


def head() -> str:
    return f"<script>{(FOLDER / 'page.js').read_text('utf-8')}</script>"


def _pairs(**chosen: str) -> dict[str, str]:
    """Gradio wants each colour twice, the second with `_dark`; our CSS variables change by themselves."""
    return {name + suffix: f"var(--lu-{token})" for name, token in chosen.items() for suffix in ("", "_dark")}


def theme() -> gr.themes.Base:
    chinese = [Font(name) for name in CHINESE]
    weights = (400, 700)  # Gradio's own SemiBold files lack most Latin letters, so 600 is drawn with Bold
    made = gr.themes.Base(
        spacing_size=gr.themes.sizes.spacing_md,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
        font=[LocalFont("IBM Plex Sans", weights=weights), *chinese, Font("system-ui"), Font("sans-serif")],
        font_mono=[LocalFont("IBM Plex Mono", weights=weights), *chinese, Font("monospace")],
    )
    made.set(**_colours())
    made.set(**_sizes())
    made.name = "lora-ui"  # Gradio reads it when it starts and stops on None
    return made


def _colours() -> dict[str, str]:
    surfaces = _pairs(
        body_background_fill="canvas",
        block_background_fill="surface",
        background_fill_primary="surface",
        background_fill_secondary="canvas",
        code_background_fill="sunken",
        panel_background_fill="surface",
        stat_background_fill="sunken",
        table_even_background_fill="surface",
        table_odd_background_fill="surface",
        input_background_fill="surface",
        input_background_fill_focus="surface",
        input_background_fill_hover="surface",
        checkbox_background_color="surface",
        checkbox_background_color_focus="surface",
        checkbox_background_color_hover="surface",
        checkbox_label_background_fill="surface",
        checkbox_label_background_fill_hover="sunken",
        checkbox_label_background_fill_selected="surface",
        block_label_background_fill="surface",
        error_background_fill="failed-fill",
    )
    words = _pairs(
        body_text_color="ink", block_title_text_color="ink", accordion_text_color="ink", table_text_color="ink", checkbox_label_text_color="ink",
        checkbox_label_text_color_selected="ink", body_text_color_subdued="ink-2", block_info_text_color="ink-2", block_label_text_color="ink-2",
        input_placeholder_color="ink-2", link_text_color="accent", link_text_color_hover="accent-hover", link_text_color_active="accent",
        link_text_color_visited="accent", error_text_color="failed", error_icon_color="failed",
    )  # fmt: skip
    lines = _pairs(
        border_color_primary="line",
        block_border_color="line",
        panel_border_color="line",
        table_border_color="line",
        block_label_border_color="line",
        input_border_color="edge",
        input_border_color_hover="ink-2",
        input_border_color_focus="accent",
        checkbox_border_color="edge",
        checkbox_border_color_hover="ink-2",
        checkbox_border_color_focus="accent",
        checkbox_border_color_selected="accent",
        checkbox_label_border_color="line",
        checkbox_label_border_color_hover="edge",
        checkbox_label_border_color_selected="accent",
        border_color_accent="accent",
        border_color_accent_subdued="line",
        error_border_color="failed",
    )
    return {**surfaces, **words, **lines, **_buttons(), "color_accent": "var(--lu-accent)"}


def _buttons() -> dict[str, str]:
    return _pairs(
        slider_color="accent",
        loader_color="accent",
        color_accent_soft="running-fill",
        checkbox_background_color_selected="accent",
        button_primary_background_fill="accent",
        button_primary_background_fill_hover="accent-hover",
        button_primary_border_color="accent",
        button_primary_border_color_hover="accent-hover",
        button_primary_text_color="on-accent",
        button_primary_text_color_hover="on-accent",
        button_secondary_background_fill="surface",
        button_secondary_background_fill_hover="sunken",
        button_secondary_border_color="edge",
        button_secondary_border_color_hover="ink-2",
        button_secondary_text_color="ink",
        button_secondary_text_color_hover="ink",
        button_cancel_background_fill="surface",
        button_cancel_background_fill_hover="failed-fill",
        button_cancel_border_color="failed",
        button_cancel_border_color_hover="failed",
        button_cancel_text_color="failed",
        button_cancel_text_color_hover="failed",
    )


def _sizes() -> dict[str, str]:
    flat = {
        name + suffix: "none"
        for name in ("block_shadow", "input_shadow", "input_shadow_focus", "button_primary_shadow", "button_primary_shadow_hover",
                     "button_primary_shadow_active", "button_secondary_shadow", "button_secondary_shadow_hover", "button_secondary_shadow_active",
                     "button_cancel_shadow", "button_cancel_shadow_hover", "button_cancel_shadow_active", "checkbox_label_shadow")
        for suffix in ("", "_dark")
    }  # fmt: skip
    return {
        **flat,
        "block_label_shadow": "none",
        "body_text_size": "16px",
        "block_info_text_size": "14px",
        "block_title_text_size": "14px",
        "block_title_text_weight": "600",
        "block_label_text_size": "14px",
        "block_border_width": "1px",
        "block_border_width_dark": "1px",
        "input_border_width": "1px",
        "input_border_width_dark": "1px",
        "button_border_width": "1px",
        "button_border_width_dark": "1px",
        "block_radius": "8px",
        "container_radius": "8px",
        "input_radius": "8px",
        "input_text_size": "16px",
        "input_padding": "8px 12px",
        "block_padding": "16px",
        "layout_gap": "16px",
        "form_gap_width": "0px",
        "checkbox_label_text_size": "14px",
        "checkbox_label_padding": "8px 12px",
        "button_large_radius": "8px",
        "button_medium_radius": "8px",
        "button_small_radius": "8px",
        "button_large_padding": "8px 16px",
        "button_medium_padding": "8px 16px",
        "button_small_padding": "4px 12px",
        "button_large_text_size": "16px",
        "button_medium_text_size": "16px",
        "button_small_text_size": "14px",
        "button_large_text_weight": "600",
        "button_medium_text_weight": "600",
        "button_small_text_weight": "600",
    }
