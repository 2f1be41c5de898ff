"""Replay is exactly what keeping a mend gives, causes follow their rules, and mending by rule counts what it did."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mends_world import OTHER, build_kinds

from grace_core import mends
from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.evaluation.faithfulness import choose_queries
from grace_core.evaluation.retrieval import evaluate_index, per_query
from grace_core.explain import Explainer
from grace_core.index import GraceIndex, build
from grace_core.mending import METRIC, Mender, automatic, net, replay
from grace_core.mends import Change
from grace_core.passages import Chunk
from grace_core.pooling import RATIONALE, Pooling
from grace_core.readers import Corpus, Document, Judgements
from grace_core.readers.chunked import chunked


@pytest.fixture(scope="module")
def documents(sentences) -> list[Document]:
    return [Document(f"d{i}", "", f"{sentences[i]} {sentences[i + 40]}", {}) for i in range(24)]


@pytest.fixture(scope="module")
def judged(sentences) -> Judgements:
    """Twelve queries, each half of a document's words; of q11 no relevant document is there, and q0 to q5 are
    of the split dev.
    """
    queries = {f"q{i}": " ".join(sentences[i].split()[::2]) for i in range(12)}
    qrels = {f"q{i}": {f"d{i}": 2, f"d{i + 3}": 1} for i in range(11)} | {"q11": {"nowhere": 1}}
    return Judgements(queries, qrels, {f"q{i}": "dev" if i < 6 else "test" for i in range(12)})


@pytest.fixture(scope="module")
def built(documents, judged, model, tmp_path_factory) -> Path:
    return build_kinds(tmp_path_factory.mktemp("built"), Corpus(documents, judged, "made here", []), model)


@pytest.fixture
def mender(folder, model) -> Mender:
    return Mender(GraceIndex(folder, "tiny"), model)


def by_loops(scores, queries, ids, qrels) -> tuple[np.ndarray, list[dict[str, int]]]:
    """nDCG@10 and the rank of every document, from sorted lists of tuples alone."""
    rankings = [
        [name for _, _, name in sorted((-s, i, name) for i, (s, name) in enumerate(zip(row, ids, strict=True)))]
        for row in scores
    ]
    values = per_query(dict(zip(queries, rankings, strict=True)), qrels)[METRIC]
    return values, [{name: place for place, name in enumerate(ranking, 1)} for ranking in rankings]


@pytest.mark.parametrize("seed", range(8))
def test_a_replay_is_that_of_all_rankings_made_anew(seed):
    rng = np.random.default_rng(seed)
    m, n = 9, 30
    scores = rng.integers(0, 6, (m, n)).astype(np.float32)  # with many ties
    ids, queries, row = [f"d{i}" for i in range(n)], [f"q{i}" for i in range(m)], int(rng.integers(n))
    qrels = {query: {f"d{i}": int(rng.integers(1, 3)) for i in rng.choice(n, 3, replace=False)} for query in queries}
    new = rng.integers(0, 6, m).astype(np.float32)
    given = scores.copy()
    made = replay(scores, row, new, qrels, queries=queries, ids=ids)
    np.testing.assert_array_equal(scores, given)
    changed = scores.copy()
    changed[:, row] = new
    for side, values, ranks in ((scores, made.before, made.rank_before), (changed, made.after, made.rank_after)):
        wanted, places = by_loops(side, queries, ids, qrels)
        np.testing.assert_array_equal(values, wanted)
        assert ranks.tolist() == [place[f"d{row}"] for place in places]
    apart = made.after - made.before
    assert sorted(made.moved(1)) == [i for i in range(m) if apart[i] > 1e-9]
    assert sorted(made.moved(-1)) == [i for i in range(m) if apart[i] < -1e-9]
    assert made.as_dict()["change"] == pytest.approx(apart.mean())


def test_equal_scores_stand_in_the_order_of_the_corpus():
    scores, names = np.array([[1.0, 0.5, 1.0]], np.float32), ["a", "b", "c"]
    made = replay(scores, 1, np.array([1.0], np.float32), {"q": {"c": 1}}, queries=["q"], ids=names)
    assert (made.rank_before.tolist(), made.rank_after.tolist()) == ([3], [2])
    assert made.after[0] == pytest.approx(0.5)  # c is third now
    same = replay(scores, 2, np.array([1.0], np.float32), {"q": {"c": 1}}, queries=["q"], ids=names)
    assert same.change == 0
    assert same.moved(1) == same.moved(-1) == []


@pytest.mark.parametrize("rationale", [OTHER, ""], ids=["edited", "none"])
def test_a_replay_is_what_an_evaluation_measures_after_keeping(folder, mender, model, rationale):
    row = mender.index.row["d3"]
    content = mender.with_rationale(row, rationale)
    made = mender.replay(row, content)
    mends.keep(mender.index, [Change("d3", "edit", content)])
    index = GraceIndex(folder, "tiny")
    after = Mender(index, model)
    mender.apply(row, content)
    np.testing.assert_array_equal(mender.scores, after.scores)
    np.testing.assert_array_equal(made.after, after.ndcg())
    rankings = evaluate_index(index, model, mender.texts)
    np.testing.assert_array_equal(per_query(rankings, mender.qrels)[METRIC], made.after)
    assert (made.rank_before != made.rank_after).any()


def test_the_score_is_that_of_what_if(mender):
    row = mender.index.row["d3"]
    asked = mender.asked[0]
    told = Explainer(mender.index, mender.model).what_if(asked, row, rationale=OTHER)
    content = mender.with_rationale(row, OTHER)
    assert mender.scores_of(content)[0] == pytest.approx(told.score, abs=1e-5)
    assert mender.replay(row, content).rank_after[0] == told.rank


def test_nothing_changes_with_the_rationale_that_is_there(mender):
    row = mender.index.row["d3"]
    content = mender.with_rationale(row, mender.index.rationales[row])
    assert content.equals(mender.content(row))
    made = mender.replay(row, content)
    np.testing.assert_array_equal(made.before, made.after)
    np.testing.assert_array_equal(made.rank_before, made.rank_after)


def test_written_again_it_depends_on_seed_and_prompt(mender):
    row = mender.index.row["d3"]
    first, again, second = (mender.regenerated(row, seed=seed, temperature=2.0) for seed in (1, 1, 2))
    assert first.equals(again)
    assert first.ids != second.ids
    other = mender.regenerated(row, system="Write about snow.")
    assert other.ids != mender.content(row).ids
    made = mender.model.represent_given([mender.index.collection.documents["d3"].content], [other.ids])
    np.testing.assert_allclose(other.sums, made.sums[0], atol=1e-4)  # read under the index's own prompt
    assert mender.regenerated(row).equals(mender.content(row))


def test_only_queries_of_the_split_are_replayed(folder, model):
    mender = Mender(GraceIndex(folder, "tiny"), model, split="dev")
    assert mender.queries == [f"q{i}" for i in range(6)]
    assert mender.replay(0, mender.with_rationale(0, OTHER)).before.shape == (6,)


def pair_by_sorting(mender, i: int) -> tuple[str, int, str, int] | None:
    """The first document that is not relevant and the first relevant one below it, each with its rank."""
    ids, grades = mender.index.ids, mender.qrels[mender.queries[i]]
    ranked = [ids[row] for row in sorted(range(len(ids)), key=lambda row: (-mender.scores[i, row], row))]
    wrong = next(place for place, name in enumerate(ranked, 1) if not grades.get(name))
    right = next((place for place, name in enumerate(ranked, 1) if place > wrong and grades.get(name)), None)
    return right and (ranked[wrong - 1], wrong, ranked[right - 1], right)


def test_so_many_queries_are_the_same_ones_as_everywhere(folder, model):
    mender = Mender(GraceIndex(folder, "tiny"), model, most=5)
    assert len(mender.queries) == 5
    assert mender.texts == choose_queries(Mender(GraceIndex(folder, "tiny"), model).texts, 5)


def test_failing_queries_are_diagnosed_by_the_rules(mender):
    failing = mender.failing()
    assert failing
    assert len(mender.queries) - 1 not in failing  # its relevant document is nowhere
    assert mender.diagnose(11) is None
    seen = set()
    for i in range(11):
        failure, pair = mender.diagnose(i), pair_by_sorting(mender, i)
        assert (failure is not None) == (pair is not None)
        if failure is None:
            continue
        assert (failure.wrong, failure.wrong_rank, failure.right, failure.right_rank) == pair
        assert (failure.wrong_rank == 1) == (i in failing)
        wrong, right = (mender.index.row[name] for name in (failure.wrong, failure.right))
        assert failure.difference == pytest.approx(
            float(mender.scores[i, wrong]) - float(mender.scores[i, right]), abs=1e-5
        )
        assert sum(failure.blocks.values()) == pytest.approx(failure.difference, abs=1e-9)
        causes = {cause.name: cause for cause in failure.causes}
        share = sum(value for name, value in failure.blocks.items() if name.endswith("× rationale"))
        assert ("wrong rationale" in causes) == (
            mender.content(wrong).counts[RATIONALE] > 0 and share > failure.difference / 2
        )
        assert ("lexical trap" in causes) == (failure.blocks["text × text"] > failure.difference / 2)
        if failure.without is not None:
            told = mender.replay(right, mender.with_rationale(right, ""))
            assert failure.without == told.rank_after[i]
            if failure.without < failure.right_rank:
                assert causes["right rationale"].remedy == "remove"
        seen |= set(causes)
    assert len(seen) >= 2


def test_the_sentence_pair_is_one_of_the_explanation(mender):
    failure = mender.diagnose(mender.failing()[0])
    pair = mender.sentence_pair(failure)
    (why,) = Explainer(mender.index, mender.model).why(failure.text, [mender.index.row[failure.wrong]])
    found = [
        one
        for one in why.as_dict()["sentences"]
        if one["query"] == pair["query"] and one["document"] == pair["document"]
    ]
    assert pair["contribution"] == pytest.approx(found[0]["contribution"], abs=1e-6)
    assert failure.text == mender.texts[failure.query]


def test_a_missing_rationale_is_a_cause(mender):
    i = mender.failing()[0]
    right = mender.index.row[mender.diagnose(i).right]
    mender.apply(right, mender.with_rationale(right, ""))
    failure = mender.diagnose(i)
    if failure and failure.right == mender.index.ids[right]:
        assert any(cause.why == "it has none" for cause in failure.causes)
        assert failure.without is None


@pytest.mark.parametrize("guard", [True, False], ids=["guard", "no guard"])
def test_mending_by_rule_adds_up(folder, model, mender, guard):
    before = mender.ndcg()
    made = automatic(mender, failing=8, guard=guard)
    told = made.as_dict()
    np.testing.assert_array_equal(made.before, before)
    np.testing.assert_array_equal(made.after, mender.ndcg())
    assert len(made.attempts) == len(made.given) == min(8, len(made.given))
    kept = [attempt for attempt in made.attempts if attempt.outcome == "kept"]
    assert kept
    assert told["all"]["change"] == pytest.approx(sum(attempt.change for attempt in kept), abs=1e-12)
    refused = [attempt for attempt in made.attempts if attempt.outcome == "refused by the guard"]
    assert all(attempt.change < 0 for attempt in refused) if guard else not refused
    assert not guard or (told["all"]["change"] >= 0 and all(attempt.change >= 0 for attempt in kept))
    changes = [Change(mender.index.ids[row], kind, content) for row, (kind, content) in made.contents.items()]
    mends.keep(mender.index, changes)
    np.testing.assert_array_equal(Mender(GraceIndex(folder, "tiny"), model).ndcg(), made.after)


def test_nets_have_a_paired_interval():
    before, after = np.array([0.0, 0.5, 1.0]), np.array([0.1, 0.6, 1.1])
    found = net(before, after)
    assert found["change"] == pytest.approx(0.1)
    assert found["ci95"] == pytest.approx([0.1, 0.1])


def test_what_cannot_be_replayed_is_refused(built, documents, judged, model, tmp_path):
    index = build(Collection.create(Corpus(documents, None, "made here", []), tmp_path / "unjudged"), model)
    with pytest.raises(GraceError, match=r"no queries\.jsonl and qrels"):
        Mender(index, model)
    assert Mender(index, model, judged=False).queries == []
    texts = build(
        Collection.create(Corpus(documents, judged, "made here", []), tmp_path / "texts"), model, rationale=False
    )
    assert texts.default_pooling is Pooling.TEXT
    with pytest.raises(GraceError, match="without rationales; there is none to mend"):
        Mender(texts, model)
    parts = chunked(Corpus(documents, judged, "made here", []), Chunk(8, 0))
    with pytest.raises(GraceError, match="holds passages"):
        Mender(build(Collection.create(parts, tmp_path / "passages"), model), model)
    mender = Mender(GraceIndex(built / "raw", "tiny"), model)
    with pytest.raises(GraceError, match="holds no document 'nobody'"):
        mender.row("nobody")
    with pytest.raises(GraceError, match="'nobody' is no judged query here; there are 12 judged queries, such as 'q0'"):
        mender.number("nobody")
