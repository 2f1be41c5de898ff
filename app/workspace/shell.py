"""What the tabs share while they are built.

The module of each tab has ``build(shell)``, which lays out one ``gr.Tab`` and connects its events;
:mod:`grace_app.main` lists the tabs in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from grace_app.training.runs import Runs
from grace_app.workspace.state import Workspace


@dataclass
class Shell:
    """The workspace, the training runs, the row of tabs, and the tabs that are built so far, by name."""

    workspace: Workspace
    runs: Runs
    tabs: gr.Tabs
    built: dict[str, Any] = field(default_factory=dict)
