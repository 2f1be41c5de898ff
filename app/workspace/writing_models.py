"""The models of a collection that wrote rationales, which the Reasons and the Mend tab are about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from grace_app.workspace.view import default_view, short

if TYPE_CHECKING:
    from grace_app.workspace.state import Workspace


def models_of(workspace: Workspace, corpus: str) -> list[str]:
    """The models of a collection that wrote rationales."""
    return [column.model for column in workspace.columns(corpus) if column.rationale]


def default_model(workspace: Workspace, corpus: str, models: list[str]) -> str:
    """A model whose reasons are there already, else the one of the second column of Explore, or "" if none writes."""
    folder = workspace.collection(corpus).folder
    there = [model for model in models if (folder / model / "reasons.json").is_file()]
    preferred = default_view(workspace, corpus).b.model
    ranked = sorted(models, key=lambda model: (model not in there, model != preferred))
    return ranked[0] if ranked else ""


def read_model(workspace: Workspace, corpus: str, model: str, problems: list[str]) -> tuple[str, str]:
    """The collection and the model with rationales that an address names, each its default where the address names none or
    none that there is. What does not fit is added to ``problems``. Raises GraceError if nothing is built.
    """
    name = default_view(workspace, corpus).collection
    if corpus and corpus != name:
        there = ", ".join(workspace.collections())
        problems.append(f"there is no collection {short(corpus)} here; there are: {there}")
        model = ""
    models = models_of(workspace, name)
    if model in models:
        return name, model
    if model:
        problems.append(f"{name} has no model {short(model)} with rationales; there are: {', '.join(models) or 'none'}")
    return name, default_model(workspace, name, models)
