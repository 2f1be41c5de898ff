"""The study's tables in Markdown, and their places in a document.

In a document, what stands between ``<!-- study: NAME -->`` and ``<!-- study: end -->`` is the table of that name.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from grace_core.errors import GraceError
from grace_core.evaluation.retrieval import METRICS
from grace_core.files import write_atomically
from grace_study.report import LAST_STEP
from grace_study.study import ABLATIONS

# what the tables of results show; all else that is measured is in the tables of ablations and of the trade-off
MAIN = ("bm25", "base", "cl", "simcse", "reference", "reference-unsup", "symmetric", "symmetric-unsup", "joint-kl-0.05")
END = "<!-- study: end -->"
PLACE = re.compile(rf"(<!-- study: (\S+) -->\n).*?{END}", re.S)


def tables(made: dict) -> dict[str, str]:
    """What :func:`grace_study.report.table` gives, by the name of the table."""
    return {
        name: table
        for name, table in {
            "main": _main(made),
            "differences": _differences(made),
            "probes": _probes(made),
            "abilities": _abilities(made),
            "words": _words(made),
            "ablations": _ablations(made),
            "trade-off": _trade_off(made),
        }.items()
        if table
    }


def markdown(made: dict) -> str:
    return "\n\n".join(f"{name}\n\n{table}" for name, table in tables(made).items())


def fill(document: Path, made: dict) -> None:
    """Put the tables into their places.

    Raises GraceError if the document has none, or one for a table that there is not.
    """
    found = tables(made)
    text = document.read_text(encoding="utf-8")
    names = [name for _, name in PLACE.findall(text)]
    if not names or (unknown := set(names) - set(found)):
        what = f"places for {', '.join(sorted(unknown))}" if names else "no place for a table"
        raise GraceError(f"{document} has {what}; write <!-- study: NAME --> and {END}, NAME being {', '.join(found)}")
    filled = PLACE.sub(lambda place: f"{place[1]}\n{found[place[2]]}\n\n{END}", text)
    write_atomically(document, lambda path: path.write_text(filled, encoding="utf-8"))


def _shown(way: str) -> bool:
    return way.removesuffix(LAST_STEP) in MAIN


def _rows(made: dict, key: str) -> list[dict]:
    """Of a way that writes, only what it writes with: its text alone says no more than the base's does."""
    writes = {row["way"] for row in made[key] if row["decoding"] != "text"} - {"base"}
    return [row for row in made[key] if _shown(row["way"]) and (row["decoding"] != "text" or row["way"] not in writes)]


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) if rows else ""


def _main(made: dict) -> str:
    rows = [
        [
            row["way"],
            row["decoding"],
            str(row["seeds"]),
            *(_cell(row[m], row["ci95"][m]) for m in METRICS),
            f"{row['query_tokens']:.0f}",
        ]
        for row in _rows(made, "rows")
    ]
    return _table(["way", "decoding", "seeds", "nDCG@10", "Recall@10", "MRR@10", "tokens a query's rationale"], rows)


def _probes(made: dict) -> str:
    rows = [
        [
            row["way"],
            row["decoding"],
            str(row["seeds"]),
            *(_cell(row[m], row["ci95"][m]) for m in ("kind_accuracy", "similarity_spearman")),
        ]
        for row in _rows(made, "probes")
    ]
    return _table(["way", "decoding", "seeds", "kind of thing", "similarity"], rows)


def _differences(made: dict) -> str:
    rows = [
        [" − ".join(f"{side['way']} {side['decoding']}" for side in (row, row["against"])), _change(row)]
        for row in made["differences"]
        if _shown(row["way"])
    ]
    return _table(["nDCG@10", "difference"], rows)


def _abilities(made: dict) -> str:
    rows = [[way, *_kept(made, way)] for way in made["abilities"] if _shown(way)]
    return _table(["way", "perplexity", "against base", "fact accuracy", "against base"], rows)


def _words(made: dict) -> str:
    crossed = {way: row for way, row in made["words_and_geometry"].items() if _shown(way)}
    heads = list(next(iter(crossed.values()), ()))
    return _table(
        ["nDCG@10, greedy", *heads],
        [[way, *(_cell(c["ndcg@10"], c["ci95"]) for c in row.values())] for way, row in crossed.items()],
    )


def _ablations(made: dict) -> str:
    rows = []
    for way, row in made["ablations"].items():
        perplexity, change, facts, _ = _kept(made, way)
        seeds = next(one["seeds"] for one in made["rows"] if one["way"] == way)
        what = f"{ABLATIONS[way.removesuffix(LAST_STEP)]} (`{way}`)"
        rows.append(
            [what, str(seeds), _change(row["greedy"]), _change(row["sampled"]), f"{perplexity} ({change})", facts]
        )
    return _table(["changed", "seeds", "nDCG@10, greedy", "nDCG@10, sampled", "perplexity", "fact accuracy"], rows)


def _trade_off(made: dict) -> str:
    rows = []
    for way, row in made["trade_off"].items():
        perplexity, change, facts, _ = _kept(made, way)
        means = [f"{row[name]:.3f}" if name in row else "" for name in ("text", "greedy", "sampled", "base_words")]
        settings = ["" if row[name] is None else f"{row[name]:g}" for name in ("weight", "kl")]
        rows.append([way, str(row["seeds"]), *settings, *means, f"{perplexity} ({change})", facts])
    heads = [
        "way",
        "seeds",
        "weight",
        "KL",
        "text",
        "greedy",
        "sampled",
        "base words, its geometry",
        "perplexity",
        "fact accuracy",
    ]
    return _table(heads, rows)


def _kept(made: dict, way: str) -> list[str]:
    """Perplexity and accuracy of facts, each with its change against the base."""
    base, cells = made["abilities"].get("base"), []
    for name, digits in (("perplexity", 2), ("fact_accuracy", 3)):
        mean = float(np.mean(made["abilities"][way][name]))
        cells += [f"{mean:.{digits}f}", f"{100 * (mean / np.mean(base[name]) - 1):+.1f} %" if base else ""]
    return cells


def _cell(value: float, ci95: list[float]) -> str:
    return f"{value:.3f} [{ci95[0]:.3f}, {ci95[1]:.3f}]"


def _change(row: dict) -> str:
    return f"{row['difference']:+.3f} [{row['ci95'][0]:+.3f}, {row['ci95'][1]:+.3f}]"
