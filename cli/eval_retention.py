"""``grace eval retention``: general abilities of models, and of each against a base.

Light to import, as the command line must be.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grace_cli.options import Device, Dtype, Json, Models
from grace_core.console import bar, show, tell
from grace_core.errors import GraceError

if TYPE_CHECKING:
    from grace_core.evaluation.retention import Choice, Score, TextLosses


def retention_command(
    model: Models,
    base: Annotated[str | None, typer.Option("--base", "-b", help="The model to compare with, measured too.")] = None,
    texts: Annotated[
        str | None, typer.Option("--texts", help="Perplexity on these: a corpus as for `index build`.")
    ] = None,
    text_column: Annotated[str | None, typer.Option(help="Of --texts, if the column is not found by its name.")] = None,
    tasks: Annotated[
        list[str] | None, typer.Option("--tasks", help="A task file of lm-eval's, or a task's name; repeatable.")
    ] = None,
    task_path: Annotated[
        Path | None, typer.Option("--task-path", help="A folder with task files, for names in --tasks.")
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Let task files run the Python code that they name.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Only the first N texts, and N items of each task.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 16,
    device: Device = None,
    dtype: Dtype = None,
    as_json: Json = False,
) -> None:
    """What models have kept of their general abilities: perplexity, and tasks of lm-eval's (docs/retention.md).

    Without --texts and --tasks: plain passages and facts of the demo world, as `demo study` measures them.
    """
    if not tasks and (task_path is not None or allow_code):
        raise GraceError("--task-path and --allow-code are for --tasks, which is not given")
    if texts is None and text_column is not None:
        raise GraceError("--text-column is for --texts, which is not given")
    names = list(dict.fromkeys([base, *model] if base else model))
    passages, empty, choices = [], 0, []
    if texts:
        passages, empty = _read_texts(texts, text_column, limit)
    elif not tasks:
        passages, choices = _demo_world(limit)
    loaded_tasks = _load_tasks(tasks, task_path, allow_code) if tasks else None
    measured = {
        name: _measure(
            name, passages, choices, loaded_tasks, limit=limit, batch_size=batch_size, device=device, dtype=dtype
        )
        for name in names
    }
    result = _result(measured, base, empty)
    show(result, as_json, _table(result, base))


def _read_texts(source: str, column: str | None, limit: int | None) -> tuple[list[str], int]:
    """The texts of a corpus, and how many documents have none."""
    from grace_core.readers import read_corpus

    corpus = read_corpus(source, limit=limit, columns={"text": column} if column else None)
    for note in corpus.notes:
        tell(f"note: {note}")
    contents = [document.content for document in corpus.documents]
    texts = [text for text in contents if text]
    if not texts:
        raise GraceError(
            f"{source}: none of its {len(contents)} documents has a text, so there is no perplexity: choose another corpus"
        )
    return texts, len(contents) - len(texts)


def _demo_world(limit: int | None) -> tuple[list[str], list[Choice]]:
    from grace_study.abilities import fact_choices, plain_passages
    from grace_study.corpus import entries

    world = entries()
    return plain_passages(world)[:limit], fact_choices(world)[:limit]


def _load_tasks(names: list[str], folder: Path | None, allow_code: bool) -> dict:
    from grace_core.evaluation.harness import load_tasks

    return load_tasks(names, folder=folder, allow_code=allow_code)


def _measure(
    name: str,
    texts: list[str],
    choices: list[Choice],
    tasks: dict | None,
    *,
    limit: int | None,
    batch_size: int,
    device: str | None,
    dtype: str | None,
) -> tuple[TextLosses | None, dict[str, dict[str, Score]]]:
    from grace_core.evaluation.retention import Score, choices_right, text_losses
    from grace_core.model import GraceModel

    loaded = GraceModel.from_pretrained(name, device=device, dtype=dtype)
    losses, scores = None, {}
    if texts:
        progress, close = bar(f"{name}: texts")
        try:
            losses = text_losses(loaded, texts, batch_size=batch_size, progress=progress)
        finally:
            close()
    if choices:
        right = choices_right(loaded, choices)
        scores["demo-facts"] = {"acc": Score(float(right.mean()), right)}
    if tasks:
        from grace_core.evaluation.harness import run

        tell(f"{name}: tasks")
        scores |= run(loaded, tasks, limit=limit, batch_size=batch_size)
    return losses, scores


def _result(
    measured: dict[str, tuple[TextLosses | None, dict[str, dict[str, Score]]]], base: str | None, empty: int
) -> dict:
    """``{model: {"perplexity", "tasks": {task: {metric: …}}, "against_base"}}``; the last is missing for the
    base, and without one.
    """
    result: dict = {}
    for name, (losses, scores) in measured.items():
        row = result[name] = {
            "perplexity": losses.summary() | {"empty": empty} if losses else None,
            "tasks": {
                task: {metric: score.summary() for metric, score in metrics.items()} for task, metrics in scores.items()
            },
        }
        if base and name != base:
            base_losses, base_scores = measured[base]
            row["against_base"] = {
                "base": base,
                "perplexity": losses.percent_of(base_losses) if losses else None,
                "tasks": {
                    task: {metric: score.difference(base_scores[task][metric]) for metric, score in metrics.items()}
                    for task, metrics in scores.items()
                },
            }
    return result


def _table(result: dict, base: str | None) -> str:
    lines = []
    for name, row in result.items():
        lines.append(name)
        against = row.get("against_base")
        if perplexity := row["perplexity"]:
            counts = f"{perplexity['texts']} texts, {perplexity['tokens']} tokens" + (
                f", {perplexity['cut']} texts cut" if perplexity["cut"] else ""
            )
            counts += f", {perplexity['empty']} empty ones left out" if perplexity["empty"] else ""
            lines.append(
                _line("perplexity", "", _with_interval(perplexity["value"], perplexity["ci95"], ".2f"), counts)
            )
            if against:
                change = against["perplexity"]
                text = (
                    _with_interval(change["percent"], change["ci95"], "+.1f", " %")
                    if change
                    else "not comparable: other tokens"
                )
                lines.append(_line("", "", f"{text} against {base}", ""))
        for task, metrics in row["tasks"].items():
            for metric, score in metrics.items():
                lines.append(
                    _line(
                        task,
                        metric,
                        _with_interval(score["value"], score["ci95"], ".3f"),
                        f"n = {score['n'] or 'a group'}",
                    )
                )
                if against:
                    apart = against["tasks"][task][metric]
                    lines.append(
                        _line(
                            "", "", f"{_with_interval(apart['difference'], apart['ci95'], '+.3f')} against {base}", ""
                        )
                    )
    return "\n".join(lines)


def _line(task: str, metric: str, value: str, note: str) -> str:
    return f"  {task:24s} {metric:16s} {value:34s}  {note}".rstrip()


def _with_interval(value: float | None, interval: list[float] | None, digits: str, unit: str = "") -> str:
    if value is None:
        return "not a number"
    return f"{value:{digits}}{unit}" + (
        f" [{interval[0]:{digits}}, {interval[1]:{digits}}]" if interval and None not in interval else ""
    )
