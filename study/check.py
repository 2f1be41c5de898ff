"""The quality of the demo model's rationales, judged by the fact base: reported, not asserted.

Marks of rationales for the hand-written queries of one split:

``well_formed``  has a closed <think> part and a final stop, and is not cut off
``right_kind``   names the kind of thing that is asked about ("a river")
``right_thing``  names the thing itself, by any of its names
``other_thing``  names another thing of the same kind, and not the right one
``told_true``    of the facts that it states word for word about things of the kind, the share about the right one
"""

from __future__ import annotations

import re

from grace_core.evaluation.retrieval import summary_of_shares
from grace_core.model import GraceModel
from grace_study.corpus import Entry, beir, entries, slug
from grace_study.text import article


def judge(rationale: str, entry: Entry, peers: list[Entry], *, truncated: bool = False) -> dict[str, float]:
    """Marks of one rationale, each 0 or 1; ``told_true``, a share, only if it states a fact."""
    text = rationale.lower()

    def named(candidate: Entry) -> bool:
        names = [candidate.thing.subject, re.sub(r" \(.*\)$", "", candidate.thing.name), *candidate.thing.aka]
        return any(re.search(rf"(?<!\w){re.escape(name.lower())}(?!\w)", text) for name in names)

    right = named(entry)
    marks = {
        "well_formed": float(not truncated and bool(re.fullmatch(r"(?s)<think>.+</think>.+\.", rationale))),
        "right_kind": float(article(entry.kind.kind) in text or f"this {entry.kind.kind}" in text),
        "right_thing": float(right),
        "other_thing": float(not right and any(named(candidate) for candidate in peers)),
    }
    own_facts = [wording.lower() in text for fact in entry.thing.facts for wording in (fact.say, fact.alt, fact.hint)]
    peer_facts = [
        wording.lower() in text
        for peer in peers
        for fact in peer.thing.facts
        for wording in (fact.say, fact.alt, fact.hint)
    ]
    if any(own_facts) or any(peer_facts):
        marks["told_true"] = sum(own_facts) / (sum(own_facts) + sum(peer_facts))
    return marks


def check(model: GraceModel, *, split: str = "test", temperature: float = 0.0, progress=False) -> dict:
    """Shares with 95 % intervals over the queries of ``split``: ``{mark: share, …, "ci95": {…}, "queries": n,
    "tokens": mean}``.
    """
    all_entries = entries()
    by_slug = {entry.slug: entry for entry in all_entries}
    queries = [(row["text"], by_slug[_slug_of(row["_id"])]) for row in beir(all_entries)[1] if row["split"] == split]
    written = model.represent([query for query, _ in queries], temperature=temperature, progress=progress)
    marks = []
    for (_, entry), rationale, cut in zip(queries, written.rationales, written.truncated, strict=True):
        peers = [peer for peer in all_entries if peer.kind is entry.kind and peer is not entry]
        marks.append(judge(rationale, entry, peers, truncated=bool(cut)))
    return summary_of_shares(marks) | {"tokens": round(float(written.counts[:, 2].mean()), 1)}


def _slug_of(query_id: str) -> str:
    return slug(query_id.removeprefix("q-").rsplit("-", 1)[0])
