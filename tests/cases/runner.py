"""What the checks of a folder share: commands in this process, judgements of what came of them, and small helpers."""

from __future__ import annotations

import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT.parent / "shared" / "cases"
MODEL = "demo-base"
sys.path += [str(ROOT / "tests" / "grace_core")]  # where helpers of the tests lie


@dataclass(frozen=True)
class Run:
    """What a command left behind."""

    status: int
    out: str
    err: str

    def refusal(self) -> str:
        """The one line of a refusal."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        check(
            self.status == 2 and len(lines) == 1 and "Traceback" not in self.err,
            f"status {self.status}: {self.err[-300:]}",
        )
        return lines[0].removeprefix("error: ")

    def result(self):
        """The JSON document of a command that succeeded."""
        check(self.status == 0, f"status {self.status}: {self.err[-300:]}")
        return json.loads(self.out)


@dataclass
class Case:
    """One folder of inputs: runs commands for it in ``work``, and keeps the verdicts."""

    folder: Path
    work: Path
    verdicts: list[tuple[str, bool, str]] = field(default_factory=list)

    def grace(self, *args: object) -> Run:
        """The ``grace`` command, in this process."""
        from grace_cli.main import main

        before, (out, err), status = sys.argv, (io.StringIO(), io.StringIO()), 0
        sys.argv = ["grace", *map(str, args)]
        try:
            with redirect_stdout(out), redirect_stderr(err):
                main()
        except SystemExit as exit_:
            status = exit_.code or 0
        finally:
            sys.argv = before
        return Run(status, out.getvalue(), err.getvalue())

    def build(self, source: object, out: Path, *options: object, model: object = MODEL) -> Run:
        return self.grace("index", "build", source, "--out", out, "--model", model, "--json", *options)

    @contextmanager
    def judge(self, name: str) -> Iterator[Callable[[object], None]]:
        """What is checked inside is about the input ``name``; what is called with a word on it adds that to
        its line.
        """
        said: list[str] = []
        try:
            yield lambda word: said.append(" ".join(str(word).split()))
        except Exception as error:
            self.verdicts.append((name, False, reason(error)))
        else:
            self.verdicts.append((name, True, "; ".join(said)))


def reason(error: Exception) -> str:
    """An error in a line; of one that is no verdict also its kind and place."""
    if isinstance(error, AssertionError):
        return " ".join(str(error).split())
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {place.filename}, line {place.lineno}: {' '.join(str(error).split())}"


def check(true: object, got: object) -> None:
    if not true:
        raise AssertionError(f"got {got}")


def same(got: object, wanted: object) -> None:
    check(got == wanted, f"{str(got)[:300]}, right is {str(wanted)[:300]}")


def holds(text: str, *parts: str) -> None:
    for part in parts:
        check(part in text, f"{text[:400]!r} without {part!r}")


def lacks(text: str, *parts: str) -> None:
    for part in parts:
        check(part not in text, f"{text[:400]!r} with {part!r}")


def documents(collection: Path) -> list[tuple[str, str, str]]:
    from grace_core.collection import Collection

    return [(d.id, d.title, d.text) for d in Collection(collection).corpus.documents]


def inputs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != "README.md")


@contextmanager
def variable(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        os.environ |= {} if before is None else {name: before}


def workspace(indexes: Path):
    from grace_app.workspace.state import Workspace

    return Workspace(indexes, cache_path=os.environ["GRACE_CACHE"])
