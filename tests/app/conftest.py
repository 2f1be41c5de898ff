"""A small world of collections and models, and a workspace over it."""

from __future__ import annotations

import pytest
from explorer_world import make_world, served


@pytest.fixture(scope="session")
def world(tmp_path_factory, new_model, sentences):
    return make_world(tmp_path_factory.mktemp("explorer"), new_model, sentences)


@pytest.fixture(scope="session")
def workspace(world):
    from grace_app.workspace.state import Workspace

    return Workspace(world.indexes, preferred="world", cache_path=world.root / "in-process.sqlite")


@pytest.fixture(scope="session")
def url(world):
    with served(world) as address:
        yield address
