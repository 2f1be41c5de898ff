"""Tasks of EleutherAI's lm-evaluation-harness (lm-eval), run on a model that is already loaded.

Metrics and prompts are lm-eval's. Set here: what has no context stands behind the token that a plain text
stands behind (:func:`grace_core.evaluation.retention.beginning_of_text`; lm-eval's own default would be the
end of a turn where a tokenizer has no beginning of text), and probabilities are computed in fp32 whatever the
weights are. Intervals are not lm-eval's standard errors but bootstraps over its logged samples, since those
can be paired between models.

A task file says which Python functions to call (``!function``), and may name a metric that is a program on a
hub. Such code is the file's author's, not lm-eval's, and a file from elsewhere looks harmless; so it is
refused unless the caller allows it, and templates run in Jinja's sandbox. lm-eval's own tasks, which were
installed with it, run as they are; those that execute what a model writes do not.
"""

from __future__ import annotations

import copy
import logging
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import numpy as np
import torch
import yaml

from grace_core.errors import GraceError
from grace_core.evaluation.retention import Score, beginning_of_text
from grace_core.model import GraceModel

INSTALL = "pip install 'grace-explorer[lm-eval]'"
SEED = 1234  # lm-eval's own, for few-shot examples and for samples


def load_tasks(names: Sequence[str], *, folder: Path | None = None, allow_code: bool = False) -> dict:
    """lm-eval's tasks and groups of the given names, with their data: ``{"tasks", "groups", "group_map"}``.

    A name is a YAML file, or a task, group or tag of a file in ``folder``, or else one that lm-eval knows.
    Data files of a task file are looked for beside it, then in the working folder. Raises GraceError for what
    does not exist, cannot be read, or wants code that ``allow_code`` does not allow.
    """
    _check_installed()
    result: dict = {"tasks": {}, "groups": {}, "group_map": {}}
    with _contained():
        manager = _manager(names, folder)
        for name in names:
            known = _read_files(name, manager, allow_code)
            with _reporting(f"lm-eval cannot load the task {name!r}"):
                loaded = manager.load([known])
            if twice := loaded["tasks"].keys() & result["tasks"].keys():
                raise GraceError(
                    f"two of the tasks that were asked for are, or hold, {min(twice)!r}: leave one out, or rename its task"
                )
            for part in result:
                result[part].update(loaded.get(part, {}))
    for name, task in result["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            wants = (
                "runs code that a model writes"
                if getattr(task, "UNSAFE_CODE", False)
                else "shows images or plays sounds"
            )
            raise GraceError(f"the task {name!r} {wants}, which is not done here: leave it out")
    return result


def run(
    model: GraceModel, tasks: dict, *, limit: int | None = None, batch_size: int = 16
) -> dict[str, dict[str, Score]]:
    """Scores of every task and metric, of the first ``limit`` items of each: ``{task: {metric: Score}}``.

    A metric behind a filter other than lm-eval's default is called "metric,filter". Raises GraceError if lm-eval fails.
    """
    from lm_eval.api.metrics import mean
    from lm_eval.evaluator import evaluate

    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)
    for task in tasks["tasks"].values():  # as lm-eval's command does
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(SEED)
    with _contained(), _reporting(f"lm-eval failed with {model.name}"):
        output = evaluate(_wrapped(model, batch_size), tasks, limit=limit, bootstrap_iters=0, log_samples=True)
    scores: dict[str, dict[str, Score]] = {}
    for name, task in tasks["tasks"].items():
        scores[name] = {}
        for metric, filter_name, value in _values(output["results"][name]):
            items = [row[metric] for row in output["samples"][name] if row["filter"] == filter_name and metric in row]
            aggregate = task.aggregation().get(metric, mean)
            key = metric if filter_name == "none" else f"{metric},{filter_name}"
            scores[name][key] = Score(value, items, None if aggregate is mean else aggregate)
    for name, row in output.get("groups", {}).items():  # aggregated over tasks, so there are no items
        scores[name] = {
            metric if kind == "none" else f"{metric},{kind}": Score(value) for metric, kind, value in _values(row)
        }
    return scores


def _values(row: dict) -> Iterator[tuple[str, str, float]]:
    """Metric, filter and value of what lm-eval calls "metric,filter"; it also has names, counts and standard
    errors there.
    """
    for key, value in row.items():
        metric, comma, filter_name = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            yield metric, filter_name, float(value)


def _wrapped(model: GraceModel, batch_size: int):
    """The loaded model as lm-eval's; the tokenizer is a copy, since lm-eval gives it a padding token."""
    from lm_eval.models.huggingface import HFLM

    logger = logging.getLogger("lm_eval.models.huggingface")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of a model that comes loaded, which is what is wanted
    try:
        return HFLM(
            pretrained=model.model,
            tokenizer=copy.deepcopy(model.tokenizer),
            backend="causal",
            batch_size=batch_size,
            softmax_dtype="float32",
            prefix_token_id=beginning_of_text(model.tokenizer),
        )
    finally:
        logger.setLevel(level)


# --- from names to lm-eval's index
# ------------------------------------------------------------------------------------------


def _check_installed() -> None:
    try:
        import lm_eval.models.huggingface
        import lm_eval.tasks._index
        import lm_eval.tasks._yaml_loader  # noqa: F401
    except ImportError as error:
        raise GraceError(
            f"--tasks needs lm-eval, which is not installed as it must be ({_first_line(error)}): {INSTALL}"
        ) from error


def _manager(names: Sequence[str], folder: Path | None):
    """lm-eval's TaskManager: of the folder's tasks, and of lm-eval's own, which take half a minute to read,
    if they are needed.
    """
    from lm_eval.tasks import TaskManager

    if folder is not None and not folder.is_dir():
        raise GraceError(f"{folder} is no folder: --task-path takes one that holds task files")
    own = TaskManager(include_path=folder, include_defaults=False)
    index = dict(own.task_index)
    for name in names:
        if _is_file(name):
            entry = _entry(name)
            index[entry.name] = entry
    wanted = {member for name in names for member in _members(_known(name), index)} - index.keys()
    if not wanted:
        return own
    named = wanted & set(names)
    manager = TaskManager(include_path=folder) if all(map(_is_mentioned, named)) else own
    if unknown := named - manager.task_index.keys():
        raise GraceError(
            f"there is no task {min(unknown)!r}: {_nearby(folder)}give a task file, or a name that lm-eval knows"
        )
    return manager


def _read_files(name: str, manager, allow_code: bool) -> str:
    """Reads the task files that a name stands for into the manager's index, in place of their paths; returns
    the name there.
    """
    index = manager.task_index
    if _is_file(name):
        entry = _entry(name)
        index[entry.name] = entry
    name = _known(name)
    for member in _members(name, index):
        entry = index.get(member)
        if entry is not None and entry.yaml_path is not None and not entry.yaml_path.is_relative_to(_builtin()):
            entry.cfg, entry.yaml_path = _config(entry.yaml_path, allow_code=allow_code), None
    return name


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _known(name: str) -> str:
    return _entry(name).name if _is_file(name) else name


def _builtin() -> Path:
    import lm_eval.tasks

    return Path(lm_eval.tasks.__file__).parent


def _entry(file: str):
    """A task file as an entry of lm-eval's index."""
    from lm_eval.tasks._index import TaskIndex

    path = Path(file)
    if not path.is_file():
        raise GraceError(f"there is no task file {file}: check the path")
    with _reporting(f"{file} is no task file: expected YAML with the key task or group"):
        entries: dict = {}
        TaskIndex.process_cfg(_plain(path), path.resolve(), entries)
        return next(iter(entries.values()))


def _plain(path: Path) -> dict:
    from lm_eval.tasks._yaml_loader import load_yaml

    return load_yaml(path, resolve_func=False)


def _members(spec, index: dict, seen: set[str] | None = None) -> set[str]:
    """The names that a name, or an item in a group's list, stands for: its own, and those of its tag's or
    group's tasks.
    """
    seen = set() if seen is None else seen
    if isinstance(spec, dict) and spec.get("group") not in index and ("group" in spec or "dataset_path" in spec):
        below = spec.get("task")  # defined where it stands
    else:
        name = (spec.get("group") or spec.get("task")) if isinstance(spec, dict) else spec
        if name in seen:
            return seen
        seen.add(name)
        entry = index.get(name)
        below = None if entry is None else entry.cfg["task"] if entry.cfg else entry.tags
    for child in () if below is None or isinstance(below, str) else below:
        _members(child, index, seen)
    return seen


def _is_mentioned(name: str) -> bool:
    """Whether the name occurs in lm-eval's task files at all: a second, instead of half a minute to read them."""
    word = name.encode()
    return any(word in path.read_bytes() for path in _builtin().rglob("*.yaml"))


def _nearby(folder: Path | None) -> str:
    """What may be wrong in the folder: files that cannot be read, which lm-eval passes over."""
    for path in sorted(folder.rglob("*.yaml")) if folder is not None else ():
        try:
            _plain(path)
        except Exception as error:  # YAML's errors, and those of files that it includes
            return f"{path} cannot be read ({_first_line(error)}); correct it, or "
    return f"no file in {folder} defines it; " if folder is not None else ""


# --- what a task file says
# --------------------------------------------------------------------------------------------------


def _config(path: Path, *, allow_code: bool) -> dict:
    """What a task file and those that it includes say, its data files as paths that exist."""
    from lm_eval.tasks._yaml_loader import load_yaml

    with _reporting(f"{path} cannot be read as a task file"):
        plain = _plain(path)
        code = [] if allow_code else [*_functions(path), *_foreign_metrics(plain)]
    if code:
        raise GraceError(
            f"{path} runs code that lm-eval does not bring, {code[0]}: read it, and allow it with --allow-code"
        )
    with _reporting(f"{path} cannot be read as a task file"):
        config = load_yaml(path)
        options = config.get("dataset_kwargs")
        if isinstance(options, dict):
            for key in options.keys() & {"data_files", "data_dir"}:
                options[key] = _beside(options[key], path)
    return config


def _functions(path: Path) -> list[str]:
    """Functions that a task file names, and those of the files that it includes."""
    from lm_eval.tasks._yaml_loader import load_yaml

    with path.open("rb") as file:
        functions = [
            f"!function {node.value}"
            for node in _nodes(yaml.compose(file, Loader=yaml.SafeLoader))
            if node.tag == "!function"
        ]
    includes = load_yaml(path, resolve_func=False, recursive=False).get("include", [])
    for name in includes if isinstance(includes, list) else [includes]:
        functions += _functions(path.parent / name)
    return functions


def _nodes(node: yaml.Node) -> Iterator[yaml.Node]:
    yield node
    if isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _nodes(child)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _nodes(key)
            yield from _nodes(value)


def _foreign_metrics(config) -> list[str]:
    """Metrics that lm-eval would load as programs by the package ``evaluate``, from a hub or from a file;
    also those of a group's items.
    """
    import lm_eval.api.metrics  # noqa: F401 - fills the registry
    from lm_eval.api.registry import metric_registry

    if isinstance(config, list):
        return [metric for value in config for metric in _foreign_metrics(value)]
    if not isinstance(config, dict):
        return []
    name = config.get("metric")
    foreign = isinstance(name, str) and (config.get("hf_evaluate") or name not in metric_registry)
    return [f"the metric {name!r}"] if foreign else _foreign_metrics(list(config.values()))


def _beside(files, path: Path):
    """Paths of data, in whatever nesting, with those that are relative looked for beside the task file first."""
    if isinstance(files, dict):
        return {split: _beside(value, path) for split, value in files.items()}
    if isinstance(files, list):
        return [_beside(value, path) for value in files]
    name = str(files)
    if "://" in name or Path(name).is_absolute():
        return name
    for place in (path.parent, Path.cwd()):
        if (place / name).exists() or next(place.glob(name), None) is not None:
            return str(place / name)
    raise GraceError(f"{path}: its data {name!r} are neither in {path.parent} nor in {Path.cwd()}: correct the path")


# --- lm-eval's surroundings
# -------------------------------------------------------------------------------------------------


@contextmanager
def _contained() -> Iterator[None]:
    """Templates in a sandbox, and what lm-eval prints on stderr: stdout is for results."""
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    open_ = utils.env
    sandbox = SandboxedEnvironment(
        loader=open_.loader, undefined=open_.undefined, keep_trailing_newline=open_.keep_trailing_newline
    )
    sandbox.filters.update(open_.filters)
    utils.env = sandbox
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        utils.env = open_


@contextmanager
def _reporting(what: str) -> Iterator[None]:
    """What lm-eval, datasets and Jinja raise, in one line; they raise nearly anything."""
    try:
        yield
    except GraceError:
        raise
    except Exception as error:
        hub = ": its data are on the Hugging Face hub; check the network, or take a task file over local data (docs/retention.md)"
        unreachable = isinstance(error, ConnectionError)
        raise GraceError(
            f"{what} ({type(error).__name__}: {_first_line(error)}){hub if unreachable else ''}"
        ) from error


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
