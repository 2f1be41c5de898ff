"""What the demo models still know of the world that they were pretrained on: perplexity on plain passages, and
whether they prefer true facts.

Perplexity is over the passages about test things; a fact about every thing is compared with one fact each about
three other things of its kind. None of these passages and facts is in a training triplet.
"""

from __future__ import annotations

from random import Random

from grace_core.evaluation.retention import Choice, choices_right, perplexity
from grace_core.model import GraceModel
from grace_study.corpus import Entry, beir


def plain_passages(entries: list[Entry]) -> list[str]:
    """The texts of all passages about test things."""
    test = {entry.slug for entry in entries if entry.split == "test"}
    return [row["text"] for row in beir(entries)[0] if row["_id"].rsplit("-", 1)[0] in test]


def fact_choices(entries: list[Entry]) -> list[Choice]:
    """For every thing a choice between a fact about it and one fact each about three others of its kind."""
    rng, choices = Random("facts"), []
    for entry in entries:
        peers = [peer for peer in entries if peer.kind is entry.kind and peer is not entry]
        fact = rng.choice(entry.thing.facts)
        options = [
            f" {fact.say}.",
            *(f" {rng.choice(peer.thing.facts).say}." for peer in rng.sample(peers, min(3, len(peers)))),
        ]
        subject = entry.thing.subject
        choices.append(Choice(subject[:1].upper() + subject[1:], tuple(options), 0))
    return choices


def abilities(model: GraceModel, entries: list[Entry]) -> dict[str, float]:
    """Perplexity on the passages, and the share of true facts that are preferred to the others."""
    right = choices_right(model, fact_choices(entries))
    return {
        "perplexity": round(perplexity(model, plain_passages(entries)), 4),
        "fact_accuracy": round(float(right.mean()), 4),
    }
