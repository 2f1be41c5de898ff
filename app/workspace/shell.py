"""The tabs.

Each module has ``build(shell)``, which lays out one ``gr.Tab`` and wires it; :mod:`grace_app.main` lists them
in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from grace_app.training.runs import Runs
from grace_app.workspace.state import Workspace


@dataclass
class Shell:
    """What tabs share: the workspace, the training runs, the row of tabs, and each other by name, as far as
    they are built.
    """

    workspace: Workspace
    runs: Runs
    tabs: gr.Tabs
    built: dict[str, Any] = field(default_factory=dict)
