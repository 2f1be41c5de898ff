"""Starting: quickly, lightly, and with a sentence where that is not possible."""

from __future__ import annotations

import socket
import sys
import time

from explorer_world import processor_seconds, serving

from grace_app.main import build_app


def test_the_first_page_is_there_within_ten_seconds(world):
    """Of the clock, or on a busy machine of the processor: what others take is not the app's doing."""
    started = time.monotonic()
    with serving(world) as (_, process):
        seconds = time.monotonic() - started
        assert min(seconds, processor_seconds(process)) < 10


def test_nothing_heavy_is_imported_for_the_page(python, world):
    heavy = ("torch", "transformers", "faiss", "umap", "numba", "sklearn", "plotly", "datasets")
    code = (
        "import sys; from grace_app.main import build_app; build_app(sys.argv[1]); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = python("-c", code, world.indexes)
    assert done.stdout.strip().endswith("[]"), done.stderr


def test_a_collection_that_is_not_there_is_said(python, world):
    done = python("-m", "grace_app", "--collection", "nope", "--indexes", world.indexes, "--no-browser")
    assert done.returncode == 2
    assert "there is no collection 'nope'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_said(python, world):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = python("-m", "grace_app", "--indexes", world.indexes, "--no-browser", "--port", taken.getsockname()[1])
    assert done.returncode == 2
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_collection_at_all_is_no_error(tmp_path):
    demo = build_app(tmp_path / "none")
    assert demo.workspace.collections() == []
    assert "gradio" in sys.modules
