"""How good the demo model's rationales are, judged by the fact base: reported, not asserted.

Of rationales for the hand-written queries of one split:

``well_formed``  a <think> part, an end to it, a final stop, not cut off
``right_kind``   the kind of thing that is asked about is named ("a river")
``right_thing``  the thing itself is named, by its name or another name of it
``other_thing``  another thing of the same kind is named, and the right one is not
``told_true``    of the facts told word for word, of whatever thing of the kind, the share that is of the right one
"""

from __future__ import annotations

import re

from grace_core.evaluation.retrieval import summary_of_shares
from grace_core.model import GraceModel
from grace_study.corpus import Entry, beir, entries, slug
from grace_study.text import article


def judge(rationale: str, entry: Entry, peers: list[Entry], *, truncated: bool = False) -> dict[str, float]:
    """Marks of one rationale, 0 or 1 each; ``told_true`` only where a fact is told."""
    said = rationale.lower()

    def named(other: Entry) -> bool:
        names = [other.thing.subject, re.sub(r" \(.*\)$", "", other.thing.name), *other.thing.aka]
        return any(re.search(rf"(?<!\w){re.escape(name.lower())}(?!\w)", said) for name in names)

    right = named(entry)
    marks = {
        "well_formed": float(not truncated and bool(re.fullmatch(r"(?s)<think>.+</think>.+\.", rationale))),
        "right_kind": float(article(entry.kind.kind) in said or f"this {entry.kind.kind}" in said),
        "right_thing": float(right),
        "other_thing": float(not right and any(named(other) for other in peers)),
    }
    own = [wording.lower() in said for fact in entry.thing.facts for wording in (fact.say, fact.alt, fact.hint)]
    others = [
        wording.lower() in said
        for peer in peers
        for fact in peer.thing.facts
        for wording in (fact.say, fact.alt, fact.hint)
    ]
    if any(own) or any(others):
        marks["told_true"] = sum(own) / (sum(own) + sum(others))
    return marks


def check(model: GraceModel, *, split: str = "test", temperature: float = 0.0, progress=False) -> dict:
    """Shares with 95 % intervals over the queries of ``split``: ``{mark: share, …, "ci95": {…}, "queries": n,
    "tokens": mean}``.
    """
    found = entries()
    by_slug = {entry.slug: entry for entry in found}
    asked = [(row["text"], by_slug[_slug_of(row["_id"])]) for row in beir(found)[1] if row["split"] == split]
    made = model.represent([query for query, _ in asked], temperature=temperature, progress=progress)
    marks = []
    for (_, entry), rationale, cut in zip(asked, made.rationales, made.truncated, strict=True):
        peers = [other for other in found if other.kind is entry.kind and other is not entry]
        marks.append(judge(rationale, entry, peers, truncated=bool(cut)))
    return summary_of_shares(marks) | {"tokens": round(float(made.counts[:, 2].mean()), 1)}


def _slug_of(query_id: str) -> str:
    return slug(query_id.removeprefix("q-").rsplit("-", 1)[0])
