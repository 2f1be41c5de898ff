"""What was kept of columns that are no models, by ``grace eval retrieval --save``, in the Evaluate tab."""

from __future__ import annotations

from dataclasses import replace

import pytest
from judged_world import QUERIES, TEST, make_judged

from grace_app.evaluate.evaluations import Evaluations, compare, evaluate
from grace_app.evaluate.render import render_scores
from grace_app.evaluate.view import EvaluateView
from grace_app.workspace.state import Workspace
from grace_core.collection import Collection
from grace_core.columns.opened import Columns
from grace_core.evaluation import stored
from grace_core.evaluation.report import retrieval_command
from grace_core.living import update
from grace_core.readers import Document

FUSION = "bm25+tiny-a:rationale"


@pytest.fixture
def kept(tmp_path, new_model, sentences):
    """A workspace over a collection of which an evaluation of BM25 and of a fusion is kept, and what it told."""
    world = make_judged(tmp_path, new_model, sentences)
    told, _ = retrieval_command(world.indexes / "judged", [FUSION], bm25=True, save=True, device="cpu")
    return lambda: Workspace(world.indexes, cache_path=tmp_path / "cache.sqlite"), world.indexes / "judged", told


def view_of(space: Workspace) -> EvaluateView:
    return EvaluateView("judged", *(space.column("judged", name) for name in ("bm25", FUSION)))


def test_it_is_read_and_nothing_computed_until_it_is_older_than_the_index(kept):
    opened, folder, told = kept
    space = opened()
    found = compare(Evaluations(space), view_of(space))
    assert (found.missing, found.asked, found.problems) == (0, QUERIES, [])
    assert [row["ndcg@10"] for row in found.summaries] == [told[name]["ndcg@10"] for name in ("bm25", FUSION)]
    assert found.lexical["ndcg@10"] == told["bm25"]["ndcg@10"]
    assert not space._models
    assert "bm25" not in vars(space.opened("judged", view_of(space).a).rows)  # its index was not made
    within = compare(Evaluations(space), replace(view_of(space), where="_id < 'd10'"), lexical=False)
    assert within.missing == 2 * within.asked > 0  # another question

    corpus = Collection(folder).corpus
    with update(folder, replace(corpus, documents=[*corpus.documents, Document("new", "", "a river", {})])) as papers:
        papers.build(space.model_of(space.index("judged", "tiny-a")), name="tiny-a")
        papers.commit()
    for again in (space, opened()):
        evaluations, view = Evaluations(again), replace(view_of(again), split="test")
        found = compare(evaluations, view)
        assert found.missing == 2 * TEST
        assert "is older than what bm25 ranks by, which has been built or updated since" in render_scores(found)
    *_, last = evaluate(evaluations, view)
    assert last.state == "done"
    found = compare(evaluations, view)
    assert (found.missing, found.problems) == (0, [])


def test_what_is_saved_while_the_explorer_runs_is_seen(kept):
    opened, folder, _ = kept
    space = opened()
    evaluations, column = Evaluations(space), Columns(Collection(folder)).open("bm25")
    rows, path = stored.load_column(column), stored.path_of(column)
    path.unlink()
    view = replace(view_of(space), b=view_of(space).a)
    assert compare(evaluations, view).missing == QUERIES
    path.write_bytes(b"")
    assert "cannot be read" in compare(evaluations, view).problems[0]
    path.unlink()
    stored.save_column(column, rows)
    found = compare(evaluations, view)
    assert (found.missing, found.problems) == (0, [])
