"""The training runs on disk, read as they grow. :mod:`grace_core.training.callbacks` describes their files.

A run may write while it is read, may have been killed within a line, or edited by hand. So no content of a file
raises an error here: lines that cannot be read are left out and reported in :attr:`Run.problems`. Names from a
browser are looked up among the existing folders; no path is made from them.
"""

from __future__ import annotations

import json
import math
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from grace_core.errors import GraceError

STATES = ("running", "finished", "stopped early", "collapsed")
SILENT_AFTER = (
    300.0  # a running run is silent after so many seconds, or five of its slowest recent steps, without a new row
)
RECENT = 20  # steps that the time left is estimated from
MAX_BYTES = 16 << 20  # of one file: some 30,000 steps
MAX_STEP = 10**9


@dataclass(frozen=True)
class Run:
    """One run as it was when it was read. Rows are sorted by step, one for each; values that are not finite are None."""

    name: str
    state: str  # one of STATES, or "unknown"
    silent: str | None = None  # the time without a new row, if the state is running
    method: str = ""
    mode: str = ""
    objective: str = ""
    model: str = ""
    planned: int | None = None  # steps
    reached: int = 0
    seconds_left: float | None = None
    alarm: str | None = None
    changed: float = 0.0  # when run.json was last written, seconds since 1970
    problems: tuple[str, ...] = ()
    steps: tuple[dict, ...] = field(default=(), repr=False)
    evaluations: tuple[dict, ...] = field(default=(), repr=False)
    probes: tuple[dict, ...] = field(default=(), repr=False)
    stamp: tuple = field(default=(), repr=False)

    @property
    def running(self) -> bool:
        return self.state == "running" and self.silent is None

    @property
    def kind(self) -> str:
        """The method, for GRACE its objective, and the mode, in words."""
        method = {"cl": "contrastive baseline", "simcse": "SimCSE baseline", "best_of_n": "best of n"}.get(self.method)
        named = [method] if method else [f"{self.objective} objective" if self.objective else self.method, self.mode]
        return ", ".join(part for part in named if part)

    @property
    def scored(self) -> list[dict]:
        return [row for row in self.evaluations if row.get("ndcg@10") is not None]

    @property
    def best(self) -> dict | None:
        """The evaluation with the highest held-out nDCG@10, the first of equals, whose model is saved."""
        return max(self.scored, key=lambda row: row["ndcg@10"], default=None)

    @property
    def base(self) -> float | None:
        """Held-out nDCG@10 before the first step."""
        return next((row["ndcg@10"] for row in self.scored if row["step"] == 0), None)

    def summary(self) -> dict:
        best = self.best
        return {
            "name": self.name,
            "state": self.state,
            "silent": self.silent,
            "method": self.method,
            "mode": self.mode,
            "objective": self.objective,
            "model": self.model,
            "steps": self.reached,
            "planned_steps": self.planned,
            "seconds_left": self.seconds_left,
            "best": {"step": best["step"], "ndcg@10": best["ndcg@10"]} if best else None,
            "base_ndcg@10": self.base,
            "alarm": self.alarm,
            "problems": list(self.problems),
        }


class Runs:
    """The runs in the folders of ``root``, or as long as there is none, the finished ones in ``kept``.

    Safe for any thread; only rows that were appended since the last call are read.
    """

    def __init__(self, root: str | Path, kept: str | Path | None = None):
        self.root, self.kept = Path(root), Path(kept) if kept else None
        self._known: dict[Path, _Folder] = {}
        self._lock = threading.Lock()

    def all(self) -> list[Run]:
        """All runs, the newest first, by the time of their start or, once ended, their end; kept ones by score."""
        with self._lock:
            own = _folders(self.root)
            folders = own or (_folders(self.kept) if self.kept else [])
            self._known = {path: self._known.get(path) or _Folder(path) for path in folders}
            listed = [folder.read() for folder in self._known.values()]
        if own:
            return sorted(listed, key=lambda run: (-run.changed, run.name))
        return sorted(listed, key=lambda run: (-(run.best["ndcg@10"] if run.best else 0), run.name))

    @property
    def only_kept(self) -> bool:
        """Whether the runs are those in ``kept``."""
        with self._lock:
            return any(path.parent == self.kept for path in self._known)

    def get(self, name: object) -> Run:
        """A run by its name. Raises GraceError if none has it."""
        runs = self.all()
        for run in runs:
            if run.name == name:
                return run
        names = ", ".join(run.name for run in runs[:20]) or "none"
        raise GraceError(f"there is no run {str(name)[:100]!r} in {self.root}; there are: {names}")


def _folders(root: Path) -> list[Path]:
    try:
        files = ("run.json", "metrics.jsonl")
        return [path for path in root.iterdir() if any((path / name).is_file() for name in files)]
    except OSError:  # it does not exist yet
        return []


class _Folder:
    """A run's folder, with the rows read so far."""

    def __init__(self, path: Path):
        self.path = path
        self.metrics, self.probes = _Rows(path / "metrics.jsonl"), _Rows(path / "probes.jsonl")
        self._run: Run | None = None

    def read(self) -> Run:
        self.metrics.refresh()
        self.probes.refresh()
        about_stamp = _stamp(self.path / "run.json")
        written = (
            max((stamp[2] for stamp in (about_stamp, self.metrics.stamp, self.probes.stamp) if stamp), default=0) / 1e9
        )
        stamp = (about_stamp, self.metrics.stamp, self.probes.stamp)
        if self._run is None or self._run.stamp[:3] != stamp:
            self._run = self._build(about_stamp, stamp)
        silent = None
        if self._run.state == "running":
            slowest = max((row.get("seconds") or 0 for row in self._run.steps[-RECENT:]), default=0)
            seconds = time.time() - written
            silent = rough_duration(seconds) if seconds > max(SILENT_AFTER, 5 * slowest) else None
        if silent != self._run.silent or len(self._run.stamp) == 3:
            self._run = replace(self._run, silent=silent, stamp=(*stamp, silent))
        return self._run

    def _build(self, about_stamp: tuple | None, stamp: tuple) -> Run:
        about, problem = _read_about(self.path / "run.json", about_stamp)
        config = about.get("config") if isinstance(about.get("config"), dict) else {}
        named = {
            key: value if isinstance(value := config.get(key), str) else ""
            for key in ("method", "mode", "objective", "model")
        }
        if named["method"] in ("cl", "simcse", "best_of_n"):
            named["objective"] = ""  # these methods ignore the objective of their configuration
        steps, evaluations = _by_step(self.metrics.rows, "eval", without=True), _by_step(self.metrics.rows, "eval")
        reached = max((row["step"] for row in (*steps, *evaluations)), default=0)
        planned = about.get("steps") if _is_step(about.get("steps")) else None
        state = about.get("state") if about.get("state") in STATES else "unknown"
        seconds = [row["seconds"] for row in steps[-RECENT:] if row.get("seconds")]
        seconds_left = (
            median(seconds) * (planned - reached)
            if seconds and planned and state == "running" and planned >= reached
            else None
        )
        changed = _number(about.get("time"))
        alarm = about.get("alarm") if isinstance(about.get("alarm"), str) else None
        if state == "collapsed" and not alarm:
            alarm = f"the collapse alarm stopped it at step {reached}"
        return Run(
            name=self.path.name,
            state=state,
            planned=planned,
            reached=reached,
            seconds_left=seconds_left,
            alarm=alarm,
            **named,
            changed=changed if changed is not None else max((part[2] for part in stamp if part), default=0) / 1e9,
            problems=tuple(line for line in (problem, self.metrics.problem, self.probes.problem) if line),
            steps=steps,
            evaluations=evaluations,
            probes=_probes(self.probes.rows),
            stamp=stamp,
        )


class _Rows:
    """The objects in a JSONL file that grows; one that was rewritten, as by a resumed run, is read from its start."""

    def __init__(self, path: Path):
        self.path = path
        self._forget()

    def _forget(self) -> None:
        self.rows: list[dict] = []
        self.stamp: tuple | None = None
        self._end, self._line, self._bad, self._first_bad, self._failed = 0, 0, 0, 0, ""

    @property
    def problem(self) -> str | None:
        if self._failed:
            return f"{self.path.name} cannot be read: {self._failed}"
        if self._end >= MAX_BYTES:
            return f"{self.path.name} is longer than {MAX_BYTES >> 20} MiB: the rest of it is not shown"
        if self._bad:
            lines = "a line that holds no row was" if self._bad == 1 else f"{self._bad} lines that hold no row were"
            return f"{self.path.name}: {lines} left out (line {self._first_bad})"
        return None

    def refresh(self) -> None:
        now = _stamp(self.path)
        if now == self.stamp:
            return
        if now is None or self.stamp is None or now[0] != self.stamp[0] or now[1] <= self._end:
            self._forget()
        self.stamp = now
        if now is None or self._end >= MAX_BYTES:
            return
        try:
            with open(self.path, "rb") as file:
                file.seek(self._end)
                new = file.read(MAX_BYTES - self._end)
        except OSError as error:
            self._failed = error.strerror or type(error).__name__
            return
        self._failed = ""
        *lines, last = new.split(b"\n")
        for line in lines:
            self._add_line(line)
            self._line += 1
        self._end += len(new) - len(last)
        if self._end + len(last) >= MAX_BYTES:
            self._end = MAX_BYTES
        elif last and self._add_line(last, complete=False):  # a whole row without a line end
            self._end += len(last)

    def _add_line(self, line: bytes, *, complete: bool = True) -> bool:
        """Adds the row of a line; whether there was one. A line that is not ``complete`` is not counted as bad."""
        if not line.strip():
            return False
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and _is_step(row.get("step")):
            self.rows.append(row)
            return True
        if complete:
            self._bad += 1
            self._first_bad = self._first_bad or self._line + 1
        return False


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Inode, size and modification time (ns) of a regular file, to notice changes; None if there is none."""
    try:
        if not path.is_file():
            return None
        about = path.stat()
    except OSError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns


def _read_about(path: Path, stamp: tuple | None) -> tuple[dict, str | None]:
    if stamp is None:
        return {}, "run.json is missing, so its state and configuration are not known"
    if stamp[1] > MAX_BYTES:
        return {}, f"run.json is longer than {MAX_BYTES >> 20} MiB"
    try:
        about = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}, "run.json is damaged, so its state and configuration are not known"
    if not isinstance(about, dict):
        return {}, f"run.json holds a {type(about).__name__}, expected an object"
    return about, None


def _is_step(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_STEP


def _number(value: object) -> float | None:
    """A finite number that a chart can hold, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) and abs(value) < 1e100 else None


def _by_step(rows: list[dict], key: str, *, without: bool = False) -> tuple[dict, ...]:
    """The numbers below ``key`` of the rows that have it, or with ``without`` of the rows that lack it; the last row
    of a step counts.
    """
    by_step = {}
    for row in rows:
        values = row if without else row.get(key)
        if (key in row) == without or not isinstance(values, dict):
            continue
        numbers = {
            name: _number(value) for name, value in values.items() if isinstance(value, (int, float)) and name != "step"
        }
        by_step[row["step"]] = {"step": row["step"], **numbers}
    return tuple(by_step[step] for step in sorted(by_step))


def _probes(rows: list[dict]) -> tuple[dict, ...]:
    """``{"step", "ndcg@10", "probes": [{"text", "rationale"}]}`` of every evaluation; malformed probes are left out."""
    by_step = {}
    for row in rows:
        listed = row.get("probes") if isinstance(row.get("probes"), list) else []
        probes = [
            {"text": probe["text"], "rationale": probe["rationale"]}
            for probe in listed
            if isinstance(probe, dict)
            and isinstance(probe.get("text"), str)
            and isinstance(probe.get("rationale"), str)
        ]
        if probes:
            by_step[row["step"]] = {"step": row["step"], "ndcg@10": _number(row.get("ndcg@10")), "probes": probes}
    return tuple(by_step[step] for step in sorted(by_step))


def rough_duration(seconds: float) -> str:
    """Seconds in whole minutes, hours or days, so that the words seldom change."""
    minutes = int(seconds // 60)
    for size, unit in ((1440, "day"), (60, "hour"), (1, "minute")):
        if minutes >= size:
            count = minutes // size
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "a moment"
