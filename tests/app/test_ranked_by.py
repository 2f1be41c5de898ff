"""What a document that is split ranks by, its best passage or their sum: in a link, in the page's HTML and in the API."""

from __future__ import annotations

import pytest
from test_html import Reader

from grace_app.api import explain_api, search_api, what_if_api
from grace_app.explore.detail import render_detail
from grace_app.explore.results import render_results
from grace_app.explore.search import open_document, search
from grace_app.export.tables import hits_of
from grace_app.workspace.state import Workspace
from grace_app.workspace.view import read_view
from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.index import build
from grace_core.model import GraceModel
from grace_core.passages import Chunk
from grace_core.readers import Corpus, Document
from grace_core.readers.chunked import chunked

QUERY = "summer river under the old bridge"
COLUMNS = ("tiny:rationale", "bm25")


@pytest.fixture(scope="module")
def workspace(new_model, sentences, tmp_path_factory):
    """``split``: six documents of one to six passages; ``whole``: one that is not split."""
    root = tmp_path_factory.mktemp("ranked-by")
    new_model("qwen2", max_new_tokens=4).save_pretrained(root / "tiny")
    model = GraceModel.from_pretrained(root / "tiny", device="cpu")
    documents = [
        Document(f"d{n}", f"Tale {n}", " ".join(sentences[10 * n : 10 * n + n + 1]), {"n": n}) for n in range(6)
    ]
    corpus = Corpus(documents, None, "made here", ["n"])
    build(Collection.create(chunked(corpus, Chunk(8)), root / "indexes" / "split"), model)
    build(Collection.create(corpus, root / "indexes" / "whole"), model)
    return Workspace(root / "indexes", cache_path=root / "cache.sqlite")


def asked(**more: str) -> dict[str, str]:
    return {"collection": "split", "a": COLUMNS[0], "b": COLUMNS[1], "q": QUERY} | more


def test_a_link_keeps_it_and_says_what_does_not_fit(workspace):
    view, problems = read_view(workspace, asked(by="sum"))
    assert (view.by, problems, read_view(workspace, view.params())[0]) == ("sum", [], view)
    assert "by" not in read_view(workspace, asked(by="best"))[0].params()
    for wrong, said in (
        (asked(by="mean"), "by is 'mean', expected best or sum"),
        (asked(by="sum", collection="whole"), "whole is not split into passages, so there is no sum"),
    ):
        view, problems = read_view(workspace, wrong)
        assert (view.by, said in problems[0]) == ("best", True)


@pytest.mark.parametrize("where", ["", "n > 2"])
def test_hits_are_those_of_the_library_and_the_document_tells_its_sums(workspace, where):
    view, _ = read_view(workspace, asked(by="sum", where=where))
    *_, shot = search(workspace, view)
    for side in shot.sides:
        column = workspace.opened("split", side.column)
        expected = column.hits(QUERY, 10, where=where or None, by="sum")
        assert [(hit.document_id, hit.score) for hit in side.hits] == [
            (hit.document_id, pytest.approx(hit.score, abs=1e-6)) for hit in expected
        ]
        assert side.hits[0].score == pytest.approx(sum(score for _, score in side.hits[0].passages), abs=1e-5)
    assert "a document ranks by the sum of its passages" in Reader(str(render_results(shot))).text
    everything = workspace.opened("split", view.a).hits(QUERY, 10, by="sum")
    if not where:  # the average document of the bars
        assert shot.a.average == pytest.approx(sum(hit.score for hit in everything) / 6, abs=1e-4)
    best = shot.a.hits[0]
    view, _ = read_view(workspace, view.params() | {"doc": best.document.id})
    opened = open_document(workspace, view)
    other = next(hit.score for hit in shot.b.hits if hit.document_id == best.document_id)
    assert opened.passages.sums == pytest.approx((best.score, other), abs=1e-5)
    told = Reader(str(render_detail(opened))).text
    which = ", of those that satisfy the filter" if where else ""
    assert f"ranks by their sum{which}: {best.score:.4f} in A" in told


def test_the_api_ranks_and_explains_by_the_sum(workspace):
    hits = search_api(workspace, QUERY, "split", "tiny", True, 6, "", "sum")["hits"]
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert hits != search_api(workspace, QUERY, "split", "tiny", True, 6)["hits"]
    for model in ("tiny", "bm25"):
        ledger = explain_api(workspace, QUERY, "split", model, hits[0]["id"], True, "", "sum")
        assert sum(line["value"] for line in ledger["lines"]) == pytest.approx(ledger["score"], abs=1e-5)
        assert len(ledger["lines"]) == len(hits[0]["passages"])
    assert ledger["id"] == hits[0]["id"]
    assert explain_api(workspace, QUERY, "split", "tiny", hits[0]["id"], True, hits[0]["id"])["against"]
    for column in ("tiny", "bm25"):
        with pytest.raises(GraceError, match="it is split into passages: take one of them, such as"):
            what_if_api(workspace, QUERY, "split", column, hits[0]["id"], True, "a text", None, False)
    for arguments, said in ((("mean",), "expected best or sum"), ((3,), "by is '3'")):
        with pytest.raises(GraceError, match=said):
            search_api(workspace, QUERY, "split", "tiny", True, 6, "", *arguments)
    with pytest.raises(GraceError, match="not split into passages"):
        search_api(workspace, QUERY, "whole", "tiny", True, 6, "", "sum")


def test_saved_hits_say_it(workspace):
    saved = hits_of(workspace, {"view": asked(by="sum")})
    assert saved["by"] == "sum"
    assert (
        saved["columns"][0]["hits"][0]["score"]
        > hits_of(workspace, {"view": asked()})["columns"][0]["hits"][0]["score"]
    )
