"""What commands print: results on stdout, progress on stderr."""

from __future__ import annotations

import json
import sys


def show(value, as_json: bool, text: str) -> None:
    """The result, as one JSON document or as text."""
    print(json.dumps(value, ensure_ascii=False, indent=2) if as_json else text)


def tell(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def bar(label: str):
    """A rich progress bar on stderr, as a callback (done, all) and a function that closes it."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=Console(stderr=True))
    task = progress.add_task(label, total=None)
    progress.start()
    return lambda done, total: progress.update(task, completed=done, total=total), progress.stop
