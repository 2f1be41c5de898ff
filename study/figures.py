"""Figures: the study's training curves from the files of runs, retrieval gained against abilities lost; and what
``grace eval worth`` measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grace_core.errors import GraceError
from grace_core.evaluation.stored_worth import SIDES
from grace_core.files import write_atomically
from grace_core.training.callbacks import read_rows
from grace_study.study import WAYS

# key, title, whether it is of evaluations (else of training steps)
PANELS = (
    ("ndcg@10", "held-out nDCG@10, mean of greedy and sampled", True),
    ("reward_spread", "spread of the reward within groups", False),
    ("distinct", "distinct rationales, share", False),
    ("rationale_tokens", "tokens of a rationale", False),
    ("truncated", "cut off at the length limit, share", False),
    ("entropy", "entropy of a token, nats", False),
)
# Okabe and Ito's, which colour-blind readers can distinguish
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")


def training_curves(runs: Path, ways: Sequence[str], out: Path) -> Path:
    """Writes the curves of all seeds of ``ways`` to ``out``, SVG or PNG. Raises GraceError if a way has no run,
    or matplotlib is missing.
    """
    files_of = {way: sorted(runs.glob(f"{way}-seed*/metrics.jsonl")) for way in ways}
    if lacking := [way for way, files in files_of.items() if not files]:
        existing = [way for way in WAYS if any(runs.glob(f"{way}-seed*"))]
        raise GraceError(
            f"{runs} holds no run of {', '.join(lacking)}; there are runs of {', '.join(existing) or 'nothing'}"
        )
    if len(files_of) > len(COLOURS):
        raise GraceError(f"got {len(files_of)} ways, at most {len(COLOURS)} are told apart in one figure; name fewer")
    figure = _figure(11, 5.6)
    axes = figure.subplots(2, 3).flat
    for axis, (key, title, of_evaluations) in zip(axes, PANELS, strict=True):
        for colour, (way, files) in zip(COLOURS, files_of.items(), strict=False):
            for number, file in enumerate(files):
                rows = [row for row in read_rows(file) if ("eval" in row) == of_evaluations]
                points = [(row["step"], (row["eval"] if of_evaluations else row).get(key)) for row in rows]
                points = [(step, value) for step, value in points if value is not None]
                looks = {"color": colour, "linewidth": 1.3, "alpha": 0.85, "marker": "." if of_evaluations else None}
                axis.plot(*zip(*points, strict=True), label=way if number == 0 else None, **looks)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=9)
    return _save(figure, out)


def trade_off(ways: dict, out: Path) -> Path:
    """Writes a figure of retrieval against lost abilities to ``out``; ``ways`` is the report's ``trade_off``.

    Joint ways with the same KL weight are connected in the order of their contrastive weights. Raises GraceError
    if the base or matplotlib is missing.
    """
    if "base" not in ways:
        raise GraceError(
            "the trade-off is told against the base, which is not measured; run `grace demo study --way base`"
        )
    figure, base = _figure(10, 4.2), ways["base"]
    panels = (
        ("perplexity", "perplexity on plain text, times the base's"),
        ("fact_accuracy", "fact accuracy, times the base's"),
    )
    for axis, (name, title) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        lines: dict = {}
        for way, row in ways.items():
            decodings = [key for key in ("greedy", "sampled") if key in row] or ["text"]
            point = row[name] / base[name], sum(row[key] for key in decodings) / len(decodings)
            lines.setdefault(way if row["kl"] is None else f"KL {row['kl']:g}", []).append((*point, row["weight"]))
        for colour, (label, points) in zip(COLOURS, lines.items(), strict=False):
            xs, ys, weights = zip(*points, strict=True)
            axis.plot(xs, ys, color=colour, marker="o", linewidth=1.3, label=label)
            for x, y, weight in points if weights[0] is not None else ():
                axis.annotate(f"w {weight:g}", (x, y), textcoords="offset points", xytext=(6, 3), fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.margins(x=0.12)
        if name == "perplexity":
            axis.set_xscale("log")
            axis.set_xticks(ticks := (1, 1.2, 1.5, 2, 3, 4, 5), [f"{tick:g}" for tick in ticks], minor=False)
            axis.set_xticks([], minor=True)
    figure.axes[0].set_ylabel("test nDCG@10, mean of greedy and sampled", fontsize=9)
    return _save(figure, out)


def worth_curves(curves: dict, out: Path) -> Path:
    """Writes nDCG@10 against tokens, and the gate, to ``out``; ``curves`` are those of
    :func:`grace_core.evaluation.stored_worth.curves`. Raises GraceError if matplotlib is missing.
    """
    figure, gate = _figure(10 if curves["gate"] else 5.4, 4.2), curves["gate"]
    axes = figure.subplots(1, 2 if gate else 1, squeeze=False, sharey=True)[0]
    places = range(len(curves["budgets"]))
    for offset, colour, (side, values) in zip((-0.06, 0, 0.06), COLOURS, curves["sides"].items(), strict=False):
        low, mean, high = zip(*values, strict=True)
        below, above = ([abs(m - end) for m, end in zip(mean, ends, strict=True)] for ends in (low, high))
        looks = {"color": colour, "marker": "o", "linewidth": 1.3, "capsize": 2, "markersize": 4}
        axes[0].errorbar([p + offset for p in places], mean, [below, above], label=SIDES[side], **looks)
    labels = [
        f"{n}\n{tokens:.0f} written" if n else "none"
        for n, tokens in zip(curves["budgets"], curves["tokens"], strict=True)
    ]
    axes[0].set_xticks(list(places), labels)
    axes[0].set_title("tokens a rationale may have", fontsize=10)
    axes[0].set_ylabel("nDCG@10, 95 % intervals", fontsize=9)
    if gate:
        axes[1].plot(gate["share"], gate["values"], color=COLOURS[1], linewidth=1.3, label="where the margin is small")
        ends = [gate["never"][1], gate["always"][1]]
        axes[1].plot([0, 1], ends, color="0.5", linewidth=1, linestyle="--", label="as many at random")
        for x, name in ((0, "never"), (gate["wrote"], "gated"), (1, "always")):
            low, mean, high = gate[name]
            bar = {"color": COLOURS[1] if name == "gated" else "0.5", "fmt": "o", "capsize": 2, "markersize": 4}
            axes[1].errorbar([x], [mean], [[abs(mean - low)], [abs(high - mean)]], **bar)
        axes[1].set_title(f"share of queries that write, at most {gate['budget']} tokens", fontsize=10)
        axes[1].legend(frameon=False, fontsize=9)
    return _save(figure, out)


def _figure(width: float, height: float):
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise GraceError("figures need matplotlib: pip install -r requirements-dev.txt") from None
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure, out: Path) -> Path:
    from matplotlib import rc_context

    for axis in figure.axes:
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].legend(frameon=False, fontsize=9)
    kind = out.suffix.lstrip(".") or "svg"
    with rc_context({"svg.hashsalt": out.name}):  # so that the same figure gives the same file
        write_atomically(
            out,
            lambda path: figure.savefig(path, format=kind, dpi=130, metadata={"Date": None} if kind == "svg" else None),
        )
    return out
