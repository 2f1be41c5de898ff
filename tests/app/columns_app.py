"""The world of the explorer's tests with sentence encoders."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "grace_core"))

from columns_world import save_encoder


def add_encoders(world, root: Path, sentences: list[str]):
    """A workspace over a copy of the collection ``world`` with the encoders mini (mean) and cls."""
    from grace_app.workspace.state import Workspace
    from grace_core.collection import Collection
    from grace_core.columns import encoded
    from grace_core.columns.encoder import Encoder

    shutil.copytree(world.indexes / "world", root / "indexes" / "world")
    for name, pooling in (("mini", "mean"), ("cls", "cls")):
        folder = save_encoder(root / "encoders" / name, sentences, pooling=pooling)
        encoded.build(Collection(root / "indexes" / "world"), Encoder.load(str(folder)))
    return Workspace(root / "indexes", cache_path=root / "cache.sqlite")
