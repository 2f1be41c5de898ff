"""Models and corpora for a command."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grace_core.errors import GraceError


def load(name: str, *, no_cache: bool = False, device: str | None = None, dtype: str | None = None, **settings):
    """A model with the user's cache; settings that were not given keep the model's own."""
    from grace_core.cache import RepresentationCache
    from grace_core.model import GraceModel

    given = {key: value for key, value in settings.items() if value is not None}
    cache = None if no_cache else RepresentationCache()
    return GraceModel.from_pretrained(name, device=device, dtype=dtype, cache=cache, **given)


def corpus_names(datasets: Sequence[str]) -> list[str]:
    """The last parts of the paths, under which results are told. Raises GraceError if two are the same."""
    names = [Path(dataset).name for dataset in datasets]
    if len(set(names)) < len(names):
        twice = max(names, key=names.count)
        raise GraceError(f"two corpora are called {twice}; rename a folder: results go by their names")
    return names
