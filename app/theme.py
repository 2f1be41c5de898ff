"""The explorer's theme: system fonts and greys; the colours of the columns are in style.css."""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils import fonts, sizes

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Noto Sans", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")


def make_theme() -> gr.themes.Base:
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.slate,
        secondary_hue=gr.themes.colors.slate,
        neutral_hue=gr.themes.colors.slate,
        text_size=sizes.text_md,
        spacing_size=sizes.spacing_md,
        radius_size=sizes.radius_md,
        font=[fonts.Font(name) for name in SANS],
        font_mono=[fonts.Font(name) for name in MONO],
    )
    return theme.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="#0d1117",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        background_fill_primary="white",
        background_fill_primary_dark="#151b23",
        background_fill_secondary="*neutral_100",
        background_fill_secondary_dark="#1b222c",
        border_color_primary="*neutral_200",
        border_color_primary_dark="#2b3440",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_padding="0",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_400",
        block_title_text_size="*text_sm",
        block_title_text_weight="500",
        block_title_text_color="*neutral_600",
        block_title_text_color_dark="*neutral_400",
        input_background_fill="white",
        input_background_fill_dark="#151b23",
        input_border_width="1px",
        input_border_width_dark="1px",
        input_border_color="*neutral_300",
        input_border_color_dark="#364150",
        input_border_color_focus="*neutral_500",
        input_border_color_focus_dark="*neutral_400",
        input_shadow_focus="0 0 0 3px rgba(100, 116, 139, 0.18)",
        input_shadow_focus_dark="0 0 0 3px rgba(148, 163, 184, 0.18)",
        button_primary_background_fill="*neutral_900",
        button_primary_background_fill_hover="*neutral_700",
        button_primary_text_color="white",
        button_primary_background_fill_dark="*neutral_100",
        button_primary_background_fill_hover_dark="white",
        button_primary_text_color_dark="*neutral_900",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="#1b222c",
        button_secondary_background_fill_hover_dark="#242d39",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="#364150",
        button_secondary_text_color_dark="*neutral_100",
    )
