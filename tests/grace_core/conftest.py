"""Fixtures of the tests of mends, of which there are several modules."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from mends_world import GEOMETRIES


@pytest.fixture(scope="module")
def model(tiny_models):
    return tiny_models["qwen2"]


@pytest.fixture(params=GEOMETRIES)
def folder(request, built, tmp_path) -> Path:
    """A copy of a collection in each geometry; ``built`` has them, and every module makes its own."""
    return shutil.copytree(built / request.param, tmp_path / "c")
