"""What may import what, what is light to import, and what must not be there at all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN_CALLS = {"torch.load", "np.load", "numpy.load", "eval", "exec", "yaml.load", "pd.read_pickle"}
LIBRARY = sorted((ROOT / "grace_core").rglob("*.py"))
SOURCES = [path for folder in ("grace_core", "app", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]


def imports_of(path: Path, *, top_level: bool = False) -> set[tuple[str, int]]:
    """Modules that a file imports, with their lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name, node.lineno) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "", node.lineno))
    return found


def loaded_after(python, statement: str) -> set[str]:
    """Top-level modules that are loaded after ``statement`` in a fresh process."""
    run = python("-c", f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})")
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_importing_the_package_loads_nothing_heavy(python):
    heavy = {"torch", "transformers", "faiss", "umap", "gradio", "datasets", "numpy", "pyarrow", "sklearn", "plotly", "vllm", "trl"}
    assert not loaded_after(python, "import grace_core") & heavy


def test_importing_the_model_loads_neither_search_nor_interface(python):
    heavy = {"faiss", "umap", "gradio", "vllm", "datasets", "plotly", "trl", "pyarrow"}
    assert not loaded_after(python, "import grace_core.model") & heavy


def test_importing_the_index_loads_neither_faiss_nor_interface(python):
    assert not loaded_after(python, "import grace_core.index") & {"faiss", "umap", "gradio", "vllm", "datasets"}


@pytest.mark.parametrize("command", ["grace_core.cli", "app.command"])
def test_asking_the_command_for_help_loads_no_model_library(python, command):
    assert not loaded_after(python, f"import {command}") & {"torch", "transformers", "faiss", "gradio", "datasets"}


def test_names_at_the_top_of_the_package_are_there_when_asked_for(python):
    assert "torch" in loaded_after(python, "from grace_core import GraceModel, GraceIndex, Representations")
    run = python("-c", "import grace_core; grace_core.nothing")
    assert "module 'grace_core' has no attribute 'nothing'" in run.stderr


def test_the_library_knows_nothing_of_the_interface():
    above = {
        (str(path.relative_to(ROOT)), name)
        for path in LIBRARY
        for name, _ in imports_of(path)
        if name.split(".")[0] in {"gradio", "app", "tests"}
    }
    assert not above


def test_imports_run_downwards_only():
    ranks = {"errors": 0, "model": 3, "ann": 4, "tensors": 3, "shards": 4, "index": 5, "evaluation": 7, "map_command": 8, "cli": 9}
    ranks |= dict.fromkeys(("files", "pooling", "prompt", "cache", "ranking", "readers", "rewards", "neighbours", "layout", "sources"), 1)
    ranks |= dict.fromkeys(("engines", "collection", "geometry", "regions"), 2) | dict.fromkeys(("explain", "cluster", "projection"), 6)
    for path in LIBRARY:
        own = path.relative_to(ROOT / "grace_core").parts[0].removesuffix(".py")
        for name, line in imports_of(path):
            parts = name.split(".")
            if parts[0] == "grace_core" and len(parts) > 1 and own in ranks and parts[1] in ranks and parts[1] != own:
                assert ranks[parts[1]] < ranks[own], f"{path}:{line} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles_or_runs_a_model_s_own_code(path):
    assert not {name for name, _ in imports_of(path)} & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in FORBIDDEN_CALLS, f"{path}:{node.lineno}"
            for keyword in node.keywords:
                if keyword.arg in {"trust_remote_code", "allow_pickle", "shell"}:
                    assert not (isinstance(keyword.value, ast.Constant) and keyword.value.value), f"{path}:{node.lineno}"
        if isinstance(node, ast.FunctionDef):
            for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
                assert argument.arg != "trust_remote_code" or ast.unparse(default) == "False"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500
