"""A model for a command."""

from __future__ import annotations


def load(name: str, *, no_cache: bool = False, device: str | None = None, dtype: str | None = None, **settings):
    """A model with the user's cache; settings that were not given keep the model's own."""
    from grace_core.cache import RepresentationCache
    from grace_core.model import GraceModel

    given = {key: value for key, value in settings.items() if value is not None}
    cache = None if no_cache else RepresentationCache()
    return GraceModel.from_pretrained(name, device=device, dtype=dtype, cache=cache, **given)
