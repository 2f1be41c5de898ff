"""What the demo models know of the world that they were pretrained on: plain passages about its things, and
facts told apart.

Perplexity is over the passages about test things; a fact of every thing is set against one fact each of three
other things of its kind. No passage and no fact of these is in a training triplet.
"""

from __future__ import annotations

from random import Random

from grace_core.evaluation.retention import Choice, choices_right, perplexity
from grace_core.model import GraceModel
from grace_study.corpus import Entry, beir


def plain_passages(found: list[Entry]) -> list[str]:
    """The texts of all passages about test things."""
    test = {entry.slug for entry in found if entry.split == "test"}
    return [row["text"] for row in beir(found)[0] if row["_id"].rsplit("-", 1)[0] in test]


def fact_choices(found: list[Entry]) -> list[Choice]:
    """For every thing a fact about it, and a fact each of three others of its kind."""
    rng, choices = Random("facts"), []
    for entry in found:
        peers = [other for other in found if other.kind is entry.kind and other is not entry]
        fact = rng.choice(entry.thing.facts)
        options = [
            f" {fact.say}.",
            *(f" {rng.choice(peer.thing.facts).say}." for peer in rng.sample(peers, min(3, len(peers)))),
        ]
        subject = entry.thing.subject
        choices.append(Choice(subject[:1].upper() + subject[1:], tuple(options), 0))
    return choices


def abilities(model: GraceModel, found: list[Entry]) -> dict[str, float]:
    """Perplexity on the passages, and the share of facts preferred to the others."""
    right = choices_right(model, fact_choices(found))
    return {
        "perplexity": round(perplexity(model, plain_passages(found)), 4),
        "fact_accuracy": round(float(right.mean()), 4),
    }
