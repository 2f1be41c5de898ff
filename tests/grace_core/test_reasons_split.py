"""Scores by reasons and steered ones: sums that hold against a loop that knows nothing of clusters."""

from __future__ import annotations

import numpy as np
import pytest
from reasons_world import KINDS, build_given, kinds_of, numbered_texts

from grace_core.errors import GraceError
from grace_core.geometry import Role
from grace_core.pooling import RATIONALE, Pooling
from grace_core.reasons.collection import OTHERS, make_reasons
from grace_core.reasons.split import shares_of_hits, split_scores, steer
from grace_core.token_states import token_states

PAIRS = 1000
NUMBER = 60


@pytest.fixture(scope="module", params=["raw", "centred", "calibrated", "whitened"])
def world(request, tiny_models, sentences, tmp_path_factory):
    """Reasons of sixty documents in each geometry, and forty query vectors."""
    model = tiny_models["qwen2"]
    texts = numbered_texts(sentences, NUMBER)
    rationales = [f"<think>{KINDS[kind]}</think> {sentences[7 * i % 300]}" for i, kind in enumerate(kinds_of(NUMBER))]
    index = build_given(tmp_path_factory.mktemp("split") / "c", model, texts, rationales, geometry=request.param)
    reasons = make_reasons(index, model)
    queries = index.embed(model.represent_given(sentences[100:140], sentences[200:240]))
    return reasons, queries, model


def by_hand(reasons, model, grouping, row: int) -> dict[int, np.ndarray]:
    """What each reason (-1: text, template and sentences of none) adds to a document's vector, token by token
    of a forward of its own.
    """
    index = reasons.sentences.index
    text = index.collection.documents[index.ids[row]].content
    (states,) = token_states(model, [text], [index.rationale_ids[row]])
    states = states.within(index.geometry, Pooling.FULL, Role.DOCUMENT)
    numbers = list(reasons.sentences.of(row))
    made: dict[int, np.ndarray] = {-1: np.zeros(index.sums.shape[2])}
    for sentence in states.sentences:
        added = sum(states.unit[t] for t in range(sentence.begin, sentence.end))
        label = int(grouping.labels[numbers.pop(0)]) if sentence.part == RATIONALE else -1
        made[label] = made.get(label, 0) + added
    assert not numbers
    return made


def test_a_thousand_random_pairs_against_a_loop_steered_ones_too(world):
    reasons, queries, model = world
    grouping = reasons.at()
    rng = np.random.default_rng(0)
    index = reasons.sentences.index
    vectors = index.vectors().astype(np.float64)
    by_row = [by_hand(reasons, model, grouping, row) for row in range(NUMBER)]
    worst = 0.0
    for _ in range(PAIRS // 10):
        query = queries[rng.integers(len(queries))]
        strengths = {int(r): float(rng.uniform(-2, 2)) for r in rng.choice(len(grouping), 2, replace=False)}
        steering = steer(grouping, query, strengths)
        for asked in (query, steering.vector):
            rows = rng.choice(NUMBER, 5, replace=False)
            found = split_scores(grouping, asked, rows)
            for i, row in enumerate(rows):
                score = float(np.dot(vectors[row], asked.astype(np.float64)))
                expected = {label: float(np.dot(part, asked)) for label, part in by_row[row].items()}
                others = found.parts[i, len(grouping) :].sum()
                worst = max(worst, abs(found.scores[i] - score), abs(found.residual[i]), abs(others - expected.pop(-1)))
                for r in range(len(grouping)):
                    worst = max(worst, abs(found.parts[i, r] - expected.get(r, 0.0)))
                if asked is steering.vector:
                    old, *added = steering.parts(vectors[[row]])[0]
                    worst = max(worst, abs(old + sum(added) - found.scores[i]))
                    by_formula = sum(a * grouping.directions[r] for r, a in strengths.items()) + query.astype(
                        np.float64
                    )
                    worst = max(
                        worst, abs(float(vectors[row] @ (by_formula / np.linalg.norm(by_formula))) - found.scores[i])
                    )
    assert worst <= 1e-5


def test_parts_above_the_corpus_add_up_to_the_score_above_the_mean(world):
    reasons, queries, _ = world
    grouping, mean = reasons.at(), reasons.sentences.index.vectors().astype(np.float64).mean(axis=0)
    for query in queries[:5]:
        found = split_scores(grouping, query, np.arange(NUMBER))
        np.testing.assert_allclose(found.above.sum(axis=1), found.scores - mean @ query, atol=1e-5)
        np.testing.assert_allclose(
            found.above.mean(axis=0), 0, atol=1e-6
        )  # over all documents what is usual is the mean


def test_every_size_splits_the_same_scores(world):
    reasons, queries, _ = world
    rows = np.arange(0, NUMBER, 7)
    for size in reasons.sizes:
        found = split_scores(reasons.at(size), queries[0], rows)
        assert found.parts.shape == (len(rows), size + len(OTHERS))
        assert np.abs(found.residual).max() <= 1e-5


def test_shares_of_hits_add_up_to_the_scores_above_the_mean(world):
    reasons, queries, _ = world
    index, grouping = reasons.sentences.index, reasons.at()
    scores, hits = index.search(queries, 5)
    shares, mean = shares_of_hits(grouping, queries, hits)
    usual = index.vectors().astype(np.float64).mean(axis=0)
    assert mean == pytest.approx(float(np.mean(scores - (queries @ usual)[:, None])), abs=1e-5)
    assert shares.sum() == pytest.approx(mean, abs=1e-5)


def test_strongest_reasons_move_the_hits_most(world):
    reasons, queries, _ = world
    found = split_scores(reasons.at(), queries[0], np.arange(10))
    strongest = found.strongest(3)
    moved = np.abs(found.above[:, : len(reasons.at())]).sum(axis=0)
    assert moved[strongest[0]] == moved.max()
    assert sorted(strongest, key=lambda r: -moved[r]) == strongest


def test_steering_towards_a_reason_lifts_the_documents_that_have_it(world):
    reasons, queries, _ = world
    index, grouping = reasons.sentences.index, reasons.at()
    vectors = index.vectors()
    for reason in grouping.reasons[:3]:
        has = np.isin(np.arange(NUMBER), reason.documents)
        if has.all():
            continue
        gains = []
        for strength in (-1.0, 0.0, 1.0):
            scores = vectors @ steer(grouping, queries[0], {reason.number: strength}).vector
            gains.append(scores[has].mean() - scores[~has].mean())
        assert gains[0] < gains[1] < gains[2]


def test_no_strength_is_the_query(world):
    reasons, queries, _ = world
    np.testing.assert_allclose(steer(reasons.at(), queries[0], {0: 0.0}).vector, queries[0], atol=1e-6)


@pytest.mark.parametrize(
    ("strengths", "told"),
    [
        ({0: 5.0}, "from -4 to 4"),
        ({0: float("nan")}, "from -4 to 4"),
        ({10_000: 1.0}, "no reason"),
        ({-1: 1.0}, "no reason"),
    ],
    ids=["too strong", "nan", "no such reason", "negative"],
)
def test_what_cannot_be_steered_is_refused(world, strengths, told):
    reasons, queries, _ = world
    with pytest.raises(GraceError, match=told):
        steer(reasons.at(), queries[0], strengths)


def test_nothing_of_a_query_left_is_refused(world):
    grouping = world[0].at()
    with pytest.raises(GraceError, match="weaker"):
        steer(grouping, grouping.directions[0], {0: -1.0})


def test_a_document_without_a_rationale_has_its_text_alone(tiny_models, sentences, tmp_path):
    model, texts = tiny_models["qwen2"], numbered_texts(sentences, 6)
    index = build_given(tmp_path / "c", model, texts, [*KINDS, "", "...", KINDS[0]])
    reasons = make_reasons(index, model)
    grouping = reasons.at()
    query = index.vectors()[0]
    found = split_scores(grouping, query, np.array([3, 4]))
    assert (found.parts[:, : len(grouping)] == 0).all()
    assert (
        found.parts[0, len(grouping) + OTHERS.index("no reason")]
        == 0
        != found.parts[1, len(grouping) + OTHERS.index("no reason")]
    )
    assert (found.parts[:, len(grouping) + OTHERS.index("text")] != 0).all()
    assert np.abs(found.residual).max() <= 1e-5
