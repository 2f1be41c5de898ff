"""GRACE: embeddings from rationales. Light to import; heavy libraries load where they are used."""

__version__ = "0.1.0"


def __getattr__(name: str):
    """Lazy top-level names, so that ``import grace_core`` does not import torch."""
    if name in ("GraceModel", "Representations"):
        from grace_core import model

        return getattr(model, name)
    if name == "GraceIndex":
        from grace_core.index import GraceIndex

        return GraceIndex
    raise AttributeError(f"module 'grace_core' has no attribute {name!r}")
