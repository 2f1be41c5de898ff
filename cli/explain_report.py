"""``grace explain``: one score of an index taken apart, set against another one, and put to the test."""

from __future__ import annotations

from pathlib import Path

from grace_cli.columns import explain_column
from grace_cli.passages import check_by, place_lines
from grace_core.cache import RepresentationCache
from grace_core.collection import Collection
from grace_core.columns.documents import is_split, place
from grace_core.columns.listing import is_model, read_name
from grace_core.columns.names import Single
from grace_core.errors import GraceError
from grace_core.explain import Difference, Explainer, difference, listed
from grace_core.index import GraceIndex
from grace_core.pooling import PARTS, RATIONALE, TEXT, Pooling
from grace_core.ranking import rank
from grace_core.token_states import Sentence

SHOWN = 100  # characters of a sentence on a line


def explain_command(
    folder: Path,
    query: str,
    document_id: str,
    model: str,
    *,
    text_only: bool = False,
    versus: str | None = None,
    against: str | None = None,
    tokens: bool = False,
    leave_one_out: bool = False,
    with_rationale: str | None = None,
    with_rationale_of: str | None = None,
    with_text: str | None = None,
    by: str = "best",
    device: str | None = None,
) -> tuple[dict, str]:
    """Explain the score of a document for a query; returns the result, and the same as text.

    Options as for the command.

    Raises GraceError for documents and models that the collection does not have, and for edits that cannot be encoded.
    """
    if with_rationale is not None and with_rationale_of is not None:
        raise GraceError("--with-rationale and --with-rationale-of both replace the rationale; give one of them")
    name = read_name(collection := Collection(folder), model)
    check_by(by, collection)
    if by == "sum":
        edits = (versus, against, with_rationale, with_rationale_of, with_text, leave_one_out or None)
        if edits != (None,) * len(edits):
            raise GraceError(
                "--by sum explains all passages of a document: with --tokens alone, or take one passage by its id"
            )
        if text_only and is_model(name):
            name = Single("grace", name.model, False)
    if not is_model(name) or by == "sum":
        return explain_column(
            folder,
            query,
            document_id,
            name,
            versus=versus,
            against=against,
            tokens=tokens,
            leave_one_out=leave_one_out,
            with_rationale=with_rationale,
            with_rationale_of=with_rationale_of,
            with_text=with_text,
            by=by,
            device=device,
        )
    text_only = text_only or name.rationale is False
    explainer = _open(folder, name.model, device)
    pooling = Pooling.TEXT if text_only else explainer.index.default_pooling
    asked = explainer.query_vector(query, pooling)
    scores = explainer.index.scores(asked, pooling=pooling)
    named, document = document_id, None
    if is_split(collection, document_id):
        document = place(collection, explainer.index.ids, scores, document_id)
        document_id = document.passages[0]
    if versus is not None and is_split(collection, versus):
        versus = place(collection, explainer.index.ids, scores, versus).passages[0]
    row = explainer.row(document_id)
    other = [] if versus is None else [explainer.row(versus)]
    borrowed = None if with_rationale_of is None else explainer.rationale_ids[explainer.row(with_rationale_of)]
    second_model = None if against is None else _open(folder, against, device)

    why, *below = explainer.why(query, [row, *other], pooling=pooling)
    mean = explainer.vectors(pooling).mean(axis=0)
    above = list(zip(why.document.sentences, why.above_corpus(mean).sum(axis=0).tolist(), strict=True))
    result = {
        "query": query,
        "id": document_id,
        "model": explainer.index.model_name,
        "pooling": pooling.value,
        "rank": rank(scores, row),
        "text_truncated": explainer.index.text_truncated[row],
        **why.as_dict(tokens=tokens),
        "above_corpus": {
            "score": why.score - float(mean @ asked),
            "sum": sum(value for _, value in above),
            "sentences": listed(above),
        },
    }
    if document is not None:
        result |= {"id": named, "rank": document.rank, "passages": list(document.passages)}
        result["passage"] = {"id": document_id, "rank": rank(scores, row)}
    title = explainer.index.collection.documents[document_id].title
    cut = f"; text cut after {explainer.index.counts[row, TEXT]:,} tokens" if result["text_truncated"] else ""
    lines = [
        *place_lines(document),
        f"{document_id}  {title}: rank {rank(scores, row)}, {result['model']}, {pooling.value}{cut}",
        f"score {why.score:.6f}, sum of its parts {why.sum:.6f}, residual {why.residual:.1e}",
        *_block_lines(why.blocks()),
        "by the document's sentences, relative to the mean of the corpus:",
        *_lines(above),
    ]
    if tokens:
        lines += [
            "by the document's tokens: "
            + " ".join(f"{token['token']!r} {token['contribution']:+.4f}" for token in result["tokens"])
        ]
    if versus is not None:
        comparison = difference(why, below[0])
        result["versus"] = {"id": versus, **comparison.as_dict()}
        lines += _difference_lines(f"{document_id} above {versus}", comparison)
    if second_model is not None:
        seen = second_model.why(query, [second_model.row(document_id)], pooling=Pooling.TEXT if text_only else None)
        comparison = difference(why, seen[0])
        result["against"] = {"model": second_model.index.model_name, **comparison.as_dict()}
        lines += _difference_lines(f"{result['model']} less {second_model.index.model_name}", comparison)
    if leave_one_out:
        left = [
            pair
            for part in (TEXT, RATIONALE)
            for pair in explainer.leave_one_out(asked, row, part=part, pooling=pooling)
        ]
        result["leave_one_out"] = [
            {"part": PARTS[sentence.part], "text": sentence.text, "score": score, "effect": why.score - score}
            for sentence, score in left
        ]
        lines += [
            "what the score loses without each sentence (encoded again):",
            *_lines([(s, why.score - score) for s, score in left]),
        ]
    if with_text is not None or with_rationale is not None or borrowed is not None:
        rationale = with_rationale if borrowed is None else borrowed
        changed = explainer.what_if(asked, row, text=with_text, rationale=rationale, pooling=pooling)
        result["what_if"] = changed.as_dict()
        lines += [
            f"what if (encoded again): score {changed.old_score:.6f} -> {changed.score:.6f}, rank {changed.old_rank} -> {changed.rank}"
            f"{'; the text is cut to fit the prompt' if changed.text_truncated else ''}",
            *([f"  now above {_few(changed.passed)}"] if changed.passed else []),
            *([f"  now below {_few(changed.passed_by)}"] if changed.passed_by else []),
        ]
    return result, "\n".join(lines)


def _open(folder: Path, model: str, device: str | None) -> Explainer:
    index = GraceIndex.of_model(folder, model)
    return Explainer(index, index.load_model(device=device, cache=RepresentationCache()))


def _block_lines(blocks: dict[str, float]) -> list[str]:
    return [f"  {value:+.4f}  {name}" for name, value in blocks.items()]


def _lines(pairs: list[tuple[Sentence, float]]) -> list[str]:
    return [
        f"  {value:+.4f}  {PARTS[sentence.part]:9s}  {' '.join(sentence.text.split())[:SHOWN]}"
        for sentence, value in pairs
    ]


def _difference_lines(title: str, comparison: Difference) -> list[str]:
    lines = [
        f"{title}: {comparison.score:+.6f}, sum of its parts {comparison.sum:+.6f}, residual {comparison.residual:.1e}",
        *_block_lines(comparison.blocks),
    ]
    if comparison.query_sentences:
        lines += ["  by the query's sentences:", *_lines(comparison.query_sentences)]
    return lines


def _few(ids: list[str]) -> str:
    return ", ".join(ids[:10]) + (f" and {len(ids) - 10} more" if len(ids) > 10 else "")
