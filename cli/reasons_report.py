"""What ``grace reasons`` finds and how it prints it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from grace_core.errors import GraceError
from grace_core.evaluation.retrieval import CUTOFF
from grace_core.index import GraceIndex
from grace_core.reasons.collection import OTHERS, Grouping, Reasons, make_reasons
from grace_core.reasons.split import Split, Steering, split_scores, steer

STEER = re.compile(r"(\d+)=([-+]?\d+(?:\.\d+)?)")


def reasons_command(
    folder: Path,
    model: str,
    *,
    size: int | None = None,
    seed: int | None = None,
    query: str | None = None,
    k: int = 10,
    against: str | None = None,
    steers: list[str] | None = None,
    faithfulness: bool = False,
    encode: bool = False,
    split: str | None = None,
    limit: int | None = None,
    device: str | None = None,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[dict, str]:
    """The result as a dict for JSON, and as text. Raises GraceError for what does not fit."""
    if steers and not query:
        raise GraceError("--steer changes a query: give it with --query")
    strengths = read_steers(steers or [])
    index = GraceIndex.of_model(folder, model)
    text_alone = against is not None and against.endswith(":text")
    if text_alone and against != f"{index.model_name}:text":
        raise GraceError(
            f"--against is {against!r}; a model is compared with its own text alone, {index.model_name}:text, or with another model"
        )
    loaded = None
    if query or faithfulness or against:
        from grace_core.cache import RepresentationCache

        loaded = index.load_model(device=device, cache=RepresentationCache())
    reasons = make_reasons(index, loaded, seed=seed, progress=progress)
    grouping = reasons.at(size)
    result = describe(reasons, grouping)
    if query:
        vector = index.embed(loaded.represent([query]))[0]
        steering = steer(grouping, vector, strengths)
        hits = index.hits(steering.vector if strengths else vector, k)
        score_split = split_scores(grouping, steering.vector if strengths else vector, [hit.row for hit in hits])
        result["query"] = describe_query(grouping, query, hits, score_split, steering if strengths else None, index)
    if faithfulness or against:
        from grace_core.evaluation.faithfulness import choose_queries
        from grace_core.evaluation.retrieval import judged_queries

        queries = choose_queries(judged_queries(index.collection.judgements, split), limit)
    if against:
        from grace_core.reasons.comparison import compare_models, compare_text

        qrels = index.collection.judgements.qrels
        if text_alone:
            result["against"] = compare_text(grouping, loaded, queries, qrels, progress=progress)
        else:
            other = GraceIndex.of_model(index.collection, against)
            other_model = other.load_model(device=device, cache=loaded.cache)
            result["against"] = compare_models(grouping, loaded, other, other_model, queries, qrels, progress=progress)
    if faithfulness:
        from grace_core.reasons.faithfulness import evaluate_reasons

        result["faithfulness"] = evaluate_reasons(
            grouping, loaded, queries, index.collection.judgements.qrels, encode=encode, report=report
        )
    return result, "\n".join(lines_of(result))


def read_steers(steers: list[str]) -> dict[int, float]:
    """``["3=0.5"]`` as strengths by reason."""
    strengths = {}
    for steer_ in steers:
        match = STEER.fullmatch(steer_.strip())
        if not match:
            raise GraceError(
                f"--steer is {steer_[:40]!r}, expected a reason's number and a strength, such as 3=0.5 or 3=-0.5"
            )
        strengths[int(match[1])] = float(match[2])
    return strengths


def describe(reasons: Reasons, grouping: Grouping) -> dict:
    about, sentences = reasons.about, grouping.sentences
    return {
        "collection": str(sentences.index.collection.folder),
        "model": sentences.index.model_name,
        "documents": about["documents"],
        "sentences": about["speaking"],
        "residual": about["residual"],
        "seed": about["seed"],
        "size": len(grouping),
        "default_size": about["size"],
        "sizes": about["sizes"],
        "silhouettes": about["silhouettes"],
        "agreement": about["agreement"],
        "other_shares": dict(zip(OTHERS, map(float, grouping.other_shares), strict=True)),
        "reasons": [
            {
                "number": reason.number,
                "name": reason.name,
                "terms": reason.terms,
                "share": reason.share,
                "sentences": reason.size,
                "documents": len(reason.documents),
                "sentence": sentences.texts[reason.sentence].strip(),
                "of": sentences.index.ids[int(sentences.rows[reason.sentence])],
            }
            for reason in grouping.reasons
        ],
    }


def describe_query(
    grouping: Grouping, query: str, hits: list, score_split: Split, steering: Steering | None, index: GraceIndex
) -> dict:
    names = [reason.name for reason in grouping.reasons]
    entry = {"text": query, "max_residual": float(abs(score_split.residual).max()), "reasons": []}
    for reason in score_split.strongest(10):
        entry["reasons"].append(
            {"number": reason, "name": names[reason], "above": float(score_split.above[:, reason].sum())}
        )
    parts = steering.parts(index.stored()[[hit.row for hit in hits]]) if steering else None
    if steering:
        entry["steered"] = [
            {"number": r, "name": names[r], "strength": strength} for r, strength in steering.strengths.items()
        ]
    entry["hits"] = []
    for i, hit in enumerate(hits):
        labels = [r for r in range(len(grouping)) if score_split.parts[i, r]]
        entry["hits"].append(
            {
                "rank": hit.rank,
                "id": hit.document.id,
                "title": hit.document.title,
                "score": float(score_split.scores[i]),
                "others": dict(zip(OTHERS, score_split.parts[i, len(grouping) :].tolist(), strict=True)),
                "reasons": [
                    {
                        "number": r,
                        "name": names[r],
                        "contribution": float(score_split.parts[i, r]),
                        "above": float(score_split.above[i, r]),
                    }
                    for r in labels
                ],
            }
        )
        if parts is not None:
            entry["hits"][-1]["steering"] = {"query": float(parts[i, 0]), "reasons": parts[i, 1:].tolist()}
    return entry


def lines_of(result: dict) -> list[str]:
    agreement = result["agreement"].get(str(result["size"]))
    other = f", {agreement:.2f} like those of another seed (adjusted Rand index)" if agreement is not None else ""
    lines = [
        f"{result['size']} reasons in {result['sentences']:,} sentences of {result['documents']:,} rationales{other}"
    ]
    lines.append("sizes: " + ", ".join(map(str, result["sizes"])))
    shares = ", ".join(f"{name} {share:.1%}" for name, share in result["other_shares"].items())
    lines += ["", f"{'':4} {'share':>6} {'docs':>6}  name: a sentence that stands for it"]
    for reason in result["reasons"]:
        lines.append(
            f"{reason['number']:4} {reason['share']:6.1%} {reason['documents']:6,}  {reason['name']}: {reason['sentence'][:90]}"
        )
    lines.append(f"share: of what sets the documents' vectors apart; the rest: {shares}")
    if query := result.get("query"):
        lines += ["", f"{query['text']}", "moved most by (sum above the corpus over these hits):"]
        lines += [f"{one['above']:+8.4f}  {one['number']:4} {one['name']}" for one in query["reasons"]]
        for hit in query["hits"]:
            lines.append(f"{hit['rank']:3}. {hit['score']:.4f}  {hit['id']}  {hit['title']}".rstrip())
            others = "  ".join(f"{name} {value:+.4f}" for name, value in hit["others"].items())
            own = "  ".join(f"{one['name']} {one['contribution']:+.4f}" for one in hit["reasons"])
            lines.append(f"       = {own}  {others}".rstrip())
            if "steering" in hit:
                added = "  ".join(f"{value:+.4f}" for value in hit["steering"]["reasons"])
                lines.append(f"       = query {hit['steering']['query']:+.4f}, steering {added}")
        lines.append(f"largest residual {query['max_residual']:.1e}")
    if comparison := result.get("against"):
        lines += ["", *lines_of_comparison(comparison)]
    if faithfulness := result.get("faithfulness"):
        lines += [
            "",
            f"{faithfulness['reasons']} reasons serve {faithfulness['served']} of {faithfulness['queries']} queries; "
            f"nDCG@10 {with_interval(faithfulness['ndcg@10'])}",
        ]
        for kind in ("stored", "encoded"):
            if kind in faithfulness:
                lines.append(f"without the reason ({kind}):")
                for name in ("drop", "matched", "other", "difference", "over_other"):
                    lines.append(f"  {name:11} {with_interval(faithfulness[kind][name])}")
    return lines


def lines_of_comparison(comparison: dict) -> list[str]:
    """Two models, or a model and its text alone, as :mod:`grace_core.reasons.comparison` compares them."""
    ways, steps = list(comparison["others"]), list(comparison["hits_moved"])
    ndcg = ", ".join(f"{name} {value:.3f}" for name, value in comparison["ndcg@10"].items())
    lines = [
        f"{comparison['model']} against {comparison['against']} over {comparison['queries']} queries; nDCG@10: {ndcg}"
    ]
    shares = ", ".join(f"{share:.0%} {step.replace('_', ' ')}" for step, share in comparison["hits_moved"].items())
    lines.append(f"of the first ten hits moved {shares}")
    if comparison["documents"] <= CUTOFF:
        lines.append(f"all {comparison['documents']} documents are among the first ten, so that none can come or leave")
    moved = [row["moved"] for row in comparison["by_query"]]
    if steps == ["by_words"]:
        lines.append("one model and one geometry: what moves can only move by words")
        lines.append(f"{moved.count('words')} queries moved, {moved.count('')} not at all")
        columns = {"weight": "change", "lift": "lift"}
    else:
        lines.append(
            f"{moved.count('words')} queries moved more by words, {moved.count('geometry')} by geometry, {moved.count('both')} "
            f"equally by both, {moved.count('')} not at all"
        )
        columns = {"change": "change", "words": "by_words", "geometry": "by_geometry"}
    lines.append(f"{' '.join(f'{name:>8}' for name in columns)}  reason: weight before, after")
    for one in comparison["reasons"][:20]:
        values = " ".join(f"{one[key]:+8.3f}" for key in columns.values())
        lines.append(f"{values}  {one['name']}: {one[ways[0]]:.3f}, {one[ways[-1]]:.3f}")
    for name in OTHERS:
        before, after = (comparison["others"][way][name] for way in (ways[0], ways[-1]))
        lift = f"; lift {comparison['other_lifts'][name]:+.3f}" if "other_lifts" in comparison else ""
        lines.append(f"{name}: {before:.3f}, {after:.3f}{lift}")
    lines.append("queries that tell most:")
    for one in comparison["telling"]:
        moved = ", ".join(f"{step.removeprefix('by_')} {one[step]:.0%}" for step in steps)
        lines.append(f"  {moved}  {one['text'][:90]}")
        if one["came"]:
            lines.append(f"      came {_some(one['came'])}; left {_some(one['left'])}")
    return lines


def _some(ids: list[str]) -> str:
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return ", ".join(ids[:3]) + more


def with_interval(interval: dict) -> str:
    low, high = interval["ci95"]
    return f"{interval['mean']:+.4f} [{low:+.4f}, {high:+.4f}]"
