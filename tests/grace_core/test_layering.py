"""What may import what, what is light to import, and what must not be there at all."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN_CALLS = {"torch.load", "np.load", "numpy.load", "eval", "exec", "yaml.load", "pd.read_pickle"}

# Every module there is, lowest first: it imports from the lines above its own, and from none of its own line.
# So there is no circle.
LAYERS = """
grace_core: adapters asked columns console engines engines.attention errors evaluation evaluation.bootstrap layout notebook precision
grace_core: pooling ranking rewards serving text_stream training
grace_cli: options
grace_study: .
grace_core: cache chat_templates columns.bm25 columns.names files filters neighbours passages texts
grace_core: engines.vllm_worker geometry gguf_files mend_layer prompt switching readers.documents readers.html_pages regions
grace_core: engines.base engines.runner model_folders readers.cells readers.chunked readers.files tensors
grace_core: ann engines.inflight readers.extraction readers.extraction_worker readers.front_matter settings sources
grace_core: engines.transformers readers.delimited readers.folders readers.json_rows readers.judgements readers.parquet
grace_core: engines.vllm readers.corpus selection truncation weights
grace_core: loading readers
grace_core: corpus_table
grace_core: collection model
grace_core: columns.listing shards token_states
grace_core: build hits what_if
grace_core: index
grace_core: . cluster explain gating reasons reasons.clusters reasons.names
grace_core: mends reasons.sentences
grace_core: mend_export reasons.collection
grace_core: reasons.split
grace_core: columns.encoder columns.ledger evaluation.retention evaluation.retrieval
grace_core: columns.encoded
grace_core: columns.column living map_source
grace_core: columns.documents columns.fusion columns.kinds projection
grace_core: columns.opened
grace_core: evaluation.faithfulness evaluation.fusion evaluation.geometry evaluation.harness evaluation.stored evaluation.stored_worth
grace_core: evaluation.headroom evaluation.prompts mending evaluation.worth reasons.comparison reasons.faithfulness
grace_core: adapters.sentence
grace_core: adapters.langchain adapters.mteb
grace_core: serving.failures serving.limits serving.metrics serving.schemas
grace_core: serving.chat serving.errors serving.run serving.several
grace_core: serving.batching serving.gate serving.texts
grace_core: serving.chat_requests serving.served
grace_core: serving.columns
grace_core: serving.retrieval
grace_core: serving.app
grace_core: training.calibration training.config
grace_core: training.choosing training.lora
grace_core: training.callbacks training.checkpoints training.data training.states
grace_core: training.contrastive training.heldout training.reward
grace_core: training.best_of_n training.policy
grace_core: training.run
grace_cli: passages
grace_cli: columns
grace_cli: explain_report index_build loading mend_report reasons_report search_report
grace_core: evaluation.report map_report
grace_study: factbase real
grace_study: text
grace_study: corpus
grace_study: abilities check pretrain probes reason_names ship
grace_study: study
grace_study: figures report
grace_study: tables
grace_cli: eval_fusion eval_geometry eval_headroom eval_mteb eval_prompts eval_retention eval_worth
grace_cli: demo encode eval explain index map mend models reasons search serve train
grace_benchmarks: . rounds table
grace_benchmarks: encode explain living llama map memory search server start text train vllm
grace_benchmarks: build filter
grace_cli: bench
grace_app: . corpus evaluate explore export map mending page page.address reasons training workspace
grace_app: corpus.uploads explore.facets gate map.colours page.head page.html page.scripts theme
grace_app: explore.explanations explore.within mending.links training.runs workspace.messages workspace.view
grace_app: explore.others explore.render_facets map.view page.words workspace.answers workspace.jobs workspace.shared
grace_app: explore.passages workspace.state
grace_app: evaluate.view
grace_app: corpus.builds evaluate.evaluations explore.search explore.why map.maps workspace.writing_models
grace_app: explore.results export.tables map.jobs reasons.jobs reasons.view training.curves workspace.shell
grace_app: explore.worth
grace_app: corpus.render explore.detail export.part map.card map.plotly_map mending.render mending.view reasons.comparisons reasons.render
grace_app: evaluate.render evaluate.render_queries evaluate.worth reasons.render_comparison training.render
grace_app: corpus.tab explore.tab training.tab
grace_app: evaluate.tab map.tab
grace_app: mending.server reasons.server
grace_app: mending.tab reasons.tab
grace_app: api
grace_app: main
grace_cli: . app
grace_cli: main
grace_cli: __main__
grace_app: __main__
"""
RANKS = {
    package if name == "." else f"{package}.{name}": rank
    for rank, (package, names) in enumerate(line.split(": ") for line in LAYERS.strip().splitlines())
    for name in names.split()
}

# The folder of each package, and what it may know of besides itself; `python -m grace_app` is the command,
# which knows of all.
FOLDERS = {
    "grace_core": "grace_core",
    "grace_study": "study",
    "grace_benchmarks": "benchmarks",
    "grace_app": "app",
    "grace_cli": "cli",
}
PACKAGES = {
    "grace_core": set(),
    "grace_study": {"grace_core"},
    "grace_benchmarks": {"grace_core", "grace_study"},
    "grace_app": {"grace_core"},
    "grace_cli": {"grace_core", "grace_study", "grace_benchmarks", "grace_app"},
}
ON_TOP = {"grace_app.__main__"}
MODULES = {
    ".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts]).removesuffix(".__init__"): path
    for package, folder in FOLDERS.items()
    for path in sorted((ROOT / folder).rglob("*.py"))
}
SOURCES = list(MODULES.values())


@cache
def imports_of(path: Path) -> set[tuple[str, int]]:
    """Modules that a file imports, wherever it does, with their lines; ``from a import b`` is ``a.b`` where
    that is a module of ours.
    """
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(alias.name, node.lineno) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno} imports relatively"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {(name if name in MODULES else node.module, node.lineno) for name in whole}
    return found


def loaded_after(python, statement: str) -> set[str]:
    """Top-level modules that are loaded after ``statement`` in a fresh process."""
    run = python("-c", f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})")
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_importing_the_package_loads_nothing_heavy(python):
    heavy = {
        "torch",
        "transformers",
        "faiss",
        "umap",
        "gradio",
        "datasets",
        "numpy",
        "pyarrow",
        "sklearn",
        "plotly",
        "vllm",
        "trl",
    }
    assert not loaded_after(python, "import grace_core") & heavy


def test_importing_the_model_loads_neither_search_nor_interface(python):
    heavy = {"faiss", "umap", "gradio", "vllm", "datasets", "plotly", "trl", "pyarrow"}
    assert not loaded_after(python, "import grace_core.model") & heavy


def test_importing_the_index_loads_neither_faiss_nor_interface(python):
    assert not loaded_after(python, "import grace_core.index") & {"faiss", "umap", "gradio", "vllm", "datasets"}


@pytest.mark.parametrize("command", ["grace_cli.main"])
def test_asking_the_command_for_help_loads_no_model_library(python, command):
    assert not loaded_after(python, f"import {command}") & {"torch", "transformers", "faiss", "gradio", "datasets"}


def test_names_at_the_top_of_the_package_are_there_when_asked_for(python):
    assert "torch" in loaded_after(python, "from grace_core import GraceModel, GraceIndex, Representations")
    run = python("-c", "import grace_core; grace_core.nothing")
    assert "module 'grace_core' has no attribute 'nothing'" in run.stderr


def test_every_module_has_a_rank_and_every_rank_a_module():
    assert set(MODULES) - set(RANKS) == set(), "give each a place in LAYERS"
    assert set(RANKS) - set(MODULES) == set(), "take them out of LAYERS"


def test_the_wheel_takes_every_package_with_its_scripts_and_styles():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert setup["package-dir"] == FOLDERS
    packages = {module: path.parent for module, path in MODULES.items() if path.name == "__init__.py"}
    assert sorted(setup["packages"]) == sorted(packages)
    for package, folder in packages.items():
        taken = {path for pattern in setup["package-data"].get(package, ()) for path in folder.glob(pattern)}
        assert {path for path in folder.iterdir() if path.suffix in (".js", ".css", ".yaml")} <= taken, package


def test_imports_run_downwards_only():
    upwards = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for module, path in MODULES.items()
        for name, line in sorted(imports_of(path))
        if name in MODULES and name != module and not RANKS[name] < RANKS[module]
    ]
    assert upwards == []


def test_the_page_on_architecture_names_modules_that_there_are():
    named = re.findall(r"`([\w/]+\.py)`", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"))
    assert len(named) > 40
    assert [name for name in named if not any((folder / name).exists() for folder in (ROOT, ROOT / "grace_core"))] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_knows_only_of_those_below(package):
    foreign = (set(PACKAGES) | {"tests"}) - {package} - PACKAGES[package] | (
        {"gradio"} if package != "grace_app" else {"typer"}
    )
    assert not {
        (module, name)
        for module, path in MODULES.items()
        if module.split(".")[0] == package and module not in ON_TOP
        for name, _ in imports_of(path)
        if name.split(".")[0] in foreign
    }


def test_only_the_commands_know_how_they_are_typed():
    typed = {module for module, path in MODULES.items() if "typer" in {name for name, _ in imports_of(path)}}
    assert {module.split(".")[0] for module in typed} == {"grace_cli"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles_or_runs_a_model_s_own_code(path):
    assert not {name for name, _ in imports_of(path)} & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in FORBIDDEN_CALLS, f"{path}:{node.lineno}"
            for keyword in node.keywords:
                if keyword.arg in {"trust_remote_code", "allow_pickle", "shell"}:
                    assert not (isinstance(keyword.value, ast.Constant) and keyword.value.value), (
                        f"{path}:{node.lineno}"
                    )
        if isinstance(node, ast.FunctionDef):
            for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
                assert argument.arg != "trust_remote_code" or ast.unparse(default) == "False"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 600
