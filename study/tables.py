"""The study's tables in Markdown, and their insertion into a document.

In a document, the text between ``<!-- study: NAME -->`` and ``<!-- study: end -->`` is the table of that name.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from grace_core.errors import GraceError
from grace_core.files import write_atomically
from grace_study.report import LAST_STEP, REPORTED
from grace_study.study import ABLATIONS

# the ways in the tables of results; the others are in the tables of ablations and of the trade-off
MAIN = ("bm25", "base", "cl", "simcse", "reference", "reference-unsup", "symmetric", "symmetric-unsup", "joint-kl-0.05")
END = "<!-- study: end -->"
PLACE = re.compile(rf"(<!-- study: (\S+) -->\n).*?{END}", re.S)


def tables(report: dict) -> dict[str, str]:
    """The tables of a report (:func:`grace_study.report.table`) in Markdown, by name."""
    return {
        name: table
        for name, table in {
            "main": _main(report),
            "differences": _differences(report),
            "probes": _probes(report),
            "abilities": _abilities(report),
            "words": _words(report),
            "ablations": _ablations(report),
            "trade-off": _trade_off(report),
        }.items()
        if table
    }


def markdown(report: dict) -> str:
    return "\n\n".join(f"{name}\n\n{table}" for name, table in tables(report).items())


def fill(document: Path, report: dict) -> None:
    """Puts the tables into their places in a document.

    Raises GraceError if the document has no such place, or one for an unknown table.
    """
    filled_tables = tables(report)
    text = document.read_text(encoding="utf-8")
    names = [name for _, name in PLACE.findall(text)]
    if not names or (unknown := set(names) - set(filled_tables)):
        what = f"places for {', '.join(sorted(unknown))}" if names else "no place for a table"
        raise GraceError(
            f"{document} has {what}; write <!-- study: NAME --> and {END}, NAME being {', '.join(filled_tables)}"
        )
    filled = PLACE.sub(lambda place: f"{place[1]}\n{filled_tables[place[2]]}\n\n{END}", text)
    write_atomically(document, lambda path: path.write_text(filled, encoding="utf-8"))


def _in_main(way: str) -> bool:
    return way.removesuffix(LAST_STEP) in MAIN


def _rows(report: dict, key: str) -> list[dict]:
    """The rows of the main ways; those of trained models that write without text-only rows, which add nothing."""
    writes = {row["way"] for row in report[key] if row["decoding"] != "text"} - {"base"}
    return [
        row for row in report[key] if _in_main(row["way"]) and (row["decoding"] != "text" or row["way"] not in writes)
    ]


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines) if rows else ""


def _main(report: dict) -> str:
    rows = [
        [
            row["way"],
            row["decoding"],
            str(row["seeds"]),
            *(_cell(row[m], row["ci95"][m]) for m in REPORTED),
            f"{row['query_tokens']:.0f}",
        ]
        for row in _rows(report, "rows")
    ]
    return _table(["way", "decoding", "seeds", "nDCG@10", "Recall@10", "MRR@10", "tokens a query's rationale"], rows)


def _probes(report: dict) -> str:
    rows = [
        [
            row["way"],
            row["decoding"],
            str(row["seeds"]),
            *(_cell(row[m], row["ci95"][m]) for m in ("kind_accuracy", "similarity_spearman")),
        ]
        for row in _rows(report, "probes")
    ]
    return _table(["way", "decoding", "seeds", "kind of thing", "similarity"], rows)


def _differences(report: dict) -> str:
    rows = [
        [" − ".join(f"{side['way']} {side['decoding']}" for side in (row, row["against"])), _change(row)]
        for row in report["differences"]
        if _in_main(row["way"])
    ]
    return _table(["nDCG@10", "difference"], rows)


def _abilities(report: dict) -> str:
    rows = [[way, *_abilities_of(report, way)] for way in report["abilities"] if _in_main(way)]
    return _table(["way", "perplexity", "against base", "fact accuracy", "against base"], rows)


def _words(report: dict) -> str:
    crossed = {way: row for way, row in report["words_and_geometry"].items() if _in_main(way)}
    heads = list(next(iter(crossed.values()), ()))
    return _table(
        ["nDCG@10, greedy", *heads],
        [[way, *(_cell(c["ndcg@10"], c["ci95"]) for c in row.values())] for way, row in crossed.items()],
    )


def _ablations(report: dict) -> str:
    rows = []
    for way, row in report["ablations"].items():
        perplexity, change, facts, _ = _abilities_of(report, way)
        seeds = next(other_row["seeds"] for other_row in report["rows"] if other_row["way"] == way)
        what = f"{ABLATIONS[way.removesuffix(LAST_STEP)]} (`{way}`)"
        rows.append(
            [what, str(seeds), _change(row["greedy"]), _change(row["sampled"]), f"{perplexity} ({change})", facts]
        )
    return _table(["changed", "seeds", "nDCG@10, greedy", "nDCG@10, sampled", "perplexity", "fact accuracy"], rows)


def _trade_off(report: dict) -> str:
    rows = []
    for way, row in report["trade_off"].items():
        perplexity, change, facts, _ = _abilities_of(report, way)
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


def _abilities_of(report: dict, way: str) -> list[str]:
    """Perplexity and fact accuracy of a way, each with its change against the base."""
    base, cells = report["abilities"].get("base"), []
    for name, digits in (("perplexity", 2), ("fact_accuracy", 3)):
        mean = float(np.mean(report["abilities"][way][name]))
        cells += [f"{mean:.{digits}f}", f"{100 * (mean / np.mean(base[name]) - 1):+.1f} %" if base else ""]
    return cells


def _cell(value: float, ci95: list[float]) -> str:
    return f"{value:.3f} [{ci95[0]:.3f}, {ci95[1]:.3f}]"


def _change(row: dict) -> str:
    return f"{row['difference']:+.3f} [{row['ci95'][0]:+.3f}, {row['ci95'][1]:+.3f}]"
