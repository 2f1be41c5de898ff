"""Trainer callbacks: metrics files, held-out evaluation that saves the best model, early stopping, the collapse
alarm.

The run's folder gets, besides the models and checkpoints:

    run.json        state of the run, its configuration, sizes and data counts; "running", then "finished", "stopped early" or "collapsed"
    metrics.jsonl   one row a step, {"step", "reward", "term/…", "kl", …}, and one an evaluation, {"step", "eval": {"ndcg@10", …}}
    probes.jsonl    one row an evaluation, {"step", "ndcg@10", "probes": [{"text", "rationale"}]}

A resumed run drops the rows after its checkpoint, since it repeats these steps.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from transformers import TrainerCallback

from grace_core.errors import GraceError
from grace_core.files import write_atomically, write_json
from grace_core.training.config import Collapse

# TRL's names and ours; TRL's "reward" includes rows that are not trained, so ours is logged instead
RENAMED = {
    "clip_ratio/region_mean": "clip_fraction",
    "kl": "kl",
    "entropy": "entropy",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "contrastive": "contrastive",
    "retain": "retain",
    "seconds/sampling": "seconds_sampling",
    "seconds/reference": "seconds_reference",  # the rest of a step is its gradient
}
OURS = (
    *("reward", "reward_spread", "advantage_std", "truncated", "rationale_tokens", "distinct", "novelty"),
    *("best_reward", "kept", "kept_reward", "kept_finished", "kept_tokens", "kept_novelty"),  # of best of n
)
REPORTED = ("reward", "reward_spread", "kept_reward", "kl", "distinct", "truncated", "rationale_tokens", "loss")


class TrainingCollapsed(GraceError):
    """The rationales collapsed, or a number was NaN or infinite; the best model so far is kept."""


def read_rows(path: Path) -> list[dict]:
    """The rows of a JSONL file, without an incomplete last line that a killed run left."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


class RunFiles:
    """The files of a run's folder; only the main process writes."""

    def __init__(self, out: Path, *, main: bool = True):
        self.out, self.main = out, main

    def start(self, about: dict, *, step: int) -> list[dict]:
        """Writes run.json, drops the rows after ``step``, from which the run continues, and returns the
        evaluations up to it.
        """
        kept = [row for row in read_rows(self.out / "metrics.jsonl") if row["step"] <= step] if step else []
        probes = [row for row in read_rows(self.out / "probes.jsonl") if row["step"] <= step] if step else []
        if self.main:
            self.about = about
            self.out.mkdir(parents=True, exist_ok=True)
            for name, rows in (("metrics.jsonl", kept), ("probes.jsonl", probes)):
                text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                write_atomically(self.out / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))
            self.state("running")
        return [row for row in kept if "eval" in row]

    def add(self, name: str, row: dict) -> None:
        if self.main:
            with open(self.out / name, "a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def state(self, state: str, **more) -> None:
        if self.main:
            self.about |= {"state": state, "time": round(time.time()), **more}
            write_json(self.out / "run.json", self.about)


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in values.items()}


class Recorder(TrainerCallback):
    """Writes a row for every step, reports progress with the time left, and sounds the collapse alarm."""

    def __init__(
        self, files: RunFiles, collapse: Collapse | None, *, report: Callable[[str], None], quiet_seconds: float = 5.0
    ):
        self.files, self.collapse, self.report, self.quiet_seconds = files, collapse, report, quiet_seconds
        self.recent: dict[str, deque] = {}
        self.alarm: str | None = None
        self.warned: set[str] = set()
        self.paused = 0.0  # seconds spent on evaluations, which do not count for a step
        self._reported = 0.0

    def on_train_begin(self, args, state, control, **_):
        self._first, self._spent = state.global_step, 0.0
        self._step_began, self._tokens = time.perf_counter(), state.num_input_tokens_seen
        self.paused = 0.0

    def on_log(self, args, state, control, logs=None, **_):
        if not logs or "loss" not in logs:
            return
        seconds = time.perf_counter() - self._step_began - self.paused
        row = {ours: logs[theirs] for theirs, ours in RENAMED.items() if logs.get(theirs) is not None}
        row |= {key: logs[key] for key in logs if key.startswith("term/")} | {
            key: logs[key] for key in OURS if key in logs
        }
        row |= {"seconds": seconds}
        self._spent += seconds
        if tokens := state.num_input_tokens_seen - self._tokens:
            row |= {"tokens_per_s": tokens / max(seconds, 1e-9)}
        self._step_began, self._tokens, self.paused = time.perf_counter(), state.num_input_tokens_seen, 0.0
        self.files.add("metrics.jsonl", {"step": state.global_step, **_rounded(row)})
        if state.global_step == state.max_steps or time.perf_counter() - self._reported > self.quiet_seconds:
            self._reported = time.perf_counter()
            done, remaining = state.global_step - self._first, state.max_steps - state.global_step
            minutes = self._spent / max(done, 1) * remaining / 60
            figures = "  ".join(f"{key} {row[key]:.4g}" for key in REPORTED if key in row)
            self.report(f"step {state.global_step}/{state.max_steps}  {figures}  {minutes:.1f} minutes left")
        self._watch(row, state, control)

    def _watch(self, row: dict, state, control) -> None:
        bad = next((key for key in ("loss", "reward", "grad_norm") if key in row and not math.isfinite(row[key])), None)
        if bad:
            self.alarm = (
                f"{bad} is {row[bad]} at step {state.global_step}: lower learning_rate, or set precision: float32"
            )
            control.should_training_stop = True
            return
        if not self.collapse or "reward_spread" not in row:
            return
        limits = {
            "reward_spread": (
                self.collapse.spread,
                "the rewards of a group no longer differ, so there is nothing to learn from",
            ),
            "distinct": (self.collapse.distinct, "nearly all texts get the same rationale"),
            "truncated": (self.collapse.truncated, "nearly all rationales run to the length limit"),
        }
        for key, (limit, meaning) in limits.items():
            values = self.recent.setdefault(key, deque(maxlen=self.collapse.window))
            values.append(row[key])
            mean = sum(values) / len(values)
            beyond = mean > limit if key == "truncated" else mean < limit
            if not beyond or len(values) < self.collapse.window or key in self.warned:
                continue
            message = (
                f"collapse at step {state.global_step}: {key} is {mean:.3g} over {len(values)} steps (alarm at {limit}): {meaning}; "
                "lower learning_rate, raise beta, or set collapse.action: warn to go on"
            )
            self.report(message)
            self.warned.add(key)
            if self.collapse.action == "stop":
                self.alarm = message
                control.should_training_stop = True


class HeldOutEvaluation(TrainerCallback):
    """Evaluates every N steps, before the first and after the last; saves the best model; stops the run after
    ``patience`` evaluations without a new best.

    ``evaluate()`` gives scores and probes and runs on every process; ``save(about)`` writes the best model's
    folder; ``announce(scores)`` hands them to TensorBoard and the like.
    """

    def __init__(
        self,
        files: RunFiles,
        recorder: Recorder,
        *,
        every: int,
        patience: int | None,
        evaluate: Callable[[], tuple[dict[str, float], list[dict]]],
        save: Callable[[dict], None],
        announce: Callable[[dict[str, float]], None],
        report: Callable[[str], None],
    ):
        self.files, self.recorder, self.every, self.patience = files, recorder, every, patience
        self.evaluate, self.save, self.announce, self.report = evaluate, save, announce, report
        self.best: dict | None = None
        self.since_best = 0
        self.stopped_early = False
        self.last_step = -1

    def recall(self, rows: list[dict]) -> None:
        """Restores best score and patience from the evaluations of the run that is resumed."""
        for row in rows:
            self._rank({"step": row["step"], **row["eval"]})

    def _rank(self, scores: dict) -> bool:
        self.last_step = scores["step"]
        if self.best is None or scores["ndcg@10"] > self.best["ndcg@10"]:
            self.best, self.since_best = scores, 0
            return True
        self.since_best += 1
        return False

    def on_train_begin(self, args, state, control, **_):
        if state.global_step == 0:
            self._run(args, state, control)

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self._run(args, state, control)

    def _run(self, args, state, control) -> None:
        if state.global_step == self.last_step:
            return
        began = time.perf_counter()
        scores, probes = self.evaluate()
        better = self._rank({"step": state.global_step, **scores})
        self.files.add("metrics.jsonl", {"step": state.global_step, "eval": _rounded(scores)})
        if probes:
            self.files.add(
                "probes.jsonl", {"step": state.global_step, "ndcg@10": round(scores["ndcg@10"], 4), "probes": probes}
            )
        self.report(f"step {state.global_step}  held-out nDCG@10 {scores['ndcg@10']:.4f}{' (best)' if better else ''}")
        self.announce({f"eval/{key}": value for key, value in scores.items()})
        if better:
            self.save(self.best)
        elif self.patience and self.since_best >= self.patience:
            self.stopped_early = True
            control.should_training_stop = True
        self.recorder.paused += time.perf_counter() - began
