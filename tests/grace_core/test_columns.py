"""Columns of every kind: one row order, exact search with ties and filters, ledgers that add up, edits."""

from __future__ import annotations

import numpy as np
import pytest
from columns_world import ODD, QUERIES, make_collection, save_encoder

from grace_core.columns import encoded
from grace_core.columns.encoder import Encoder
from grace_core.columns.fusion import ranks, standard
from grace_core.columns.listing import single_names
from grace_core.columns.opened import Columns
from grace_core.errors import GraceError
from grace_core.index import build

NAMES = (
    "tiny:text",
    "tiny:rationale",
    "bm25",
    "st:mini",
    "st:cls",
    "bm25+tiny:rationale",
    "0.7*bm25+0.3*st:mini",
    "bm25+st:mini+2*tiny:rationale",
    "rrf(bm25,st:mini)",
    "rrf(bm25,tiny:text,st:cls)",
)
EXACT = [name for name in NAMES if "cls" not in name]


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory, sentences):
    """A collection with a GRACE model, a mean-pooled encoder, and one that takes the CLS state."""
    from grace_core.model import GraceModel

    root = tmp_path_factory.mktemp("columns")
    collection = make_collection(root / "world", sentences)
    build(collection, GraceModel.from_pretrained(tiny_folder, device="cpu"))
    for name, pooling in (("mini", "mean"), ("cls", "cls")):
        encoded.build(
            collection, Encoder.load(str(save_encoder(root / "encoders" / name, sentences, pooling=pooling, limit=24)))
        )
    return collection.folder


@pytest.fixture(scope="module")
def columns(folder):
    from grace_core.cache import RepresentationCache
    from grace_core.collection import Collection

    return Columns(Collection(folder), cache=RepresentationCache())


@pytest.fixture(params=NAMES)
def column(request, columns):
    return columns.open(request.param)


def test_a_collection_names_its_columns(columns):
    names = [name.id for name in single_names(columns.collection)]
    assert names == ["tiny:text", "tiny:rationale", "bm25", "st:cls", "st:mini"]
    assert all(columns.canonical(name).id == name for name in names)
    assert columns.canonical("tiny").id == "tiny:rationale"
    assert columns.open("tiny") is columns.open("tiny:rationale")
    assert columns.open("0.5*tiny+bm25").id == "0.5*tiny:rationale+bm25"


def test_a_model_has_its_name_and_the_path_that_it_was_built_from(columns, tiny_folder):
    assert columns.canonical(f'"{tiny_folder}":text').id == "tiny:text"
    path = columns.open("st:mini").index.manifest["model_id"]
    assert columns.canonical(f'st:"{path}"').id == "st:mini"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nobody", "columns of world are tiny:text, tiny:rationale, bm25, st:cls, st:mini"),
        ("st:nobody", "there are: st:cls, st:mini"),
        ("tiny+tiny:rationale", "stands twice"),
        ("rrf(bm25,nobody)", "no index of model 'nobody'"),
    ],
)
def test_what_is_not_there_is_told(columns, name, told):
    with pytest.raises(GraceError, match=told):
        columns.open(name)


def test_every_column_has_the_rows_of_the_index(columns, column):
    index = columns.open("tiny").index
    assert column.ids == index.ids
    assert len(column) == len(index) == len(columns.collection.corpus.documents) - 1
    assert "d20" not in column.ids
    scores = column.scores(QUERIES[0])
    assert scores.shape == (len(column),)
    assert np.isfinite(scores).all()


def by_hand(column, query: str, rows, k: int) -> list[int]:
    scores = column.scores(query).tolist()
    return sorted(rows, key=lambda row: (-scores[row], row))[:k]


def test_a_search_is_in_the_order_of_the_scores_and_then_of_the_corpus(column):
    queries = [*QUERIES, "zebra", "the"]
    for k in (1, 7, 500):
        scores, rows = column.search(queries, k)
        assert scores.shape == rows.shape == (len(queries), min(k, len(column)))
        for query, found, values in zip(queries, rows, scores, strict=True):
            np.testing.assert_allclose(values, column.scores(query)[found], atol=1e-5)  # a batch rounds otherwise
        assert rows[0].tolist() == by_hand(column, queries[0], range(len(column)), k)
    a, b, c = (column.row(name) for name in ("d02", "d05", "d17"))  # three copies
    (found,) = column.search([QUERIES[0]], len(column))[1]
    places = [found.tolist().index(row) for row in (a, b, c)]
    own = column.scores(QUERIES[0])
    if own[a] == own[b] == own[c] and (own == own[a]).sum() == 3:
        assert places == [places[0], places[0] + 1, places[0] + 2]
    else:
        assert column.id == "rrf(bm25,st:mini)" or "rrf" in column.id or (own == own[a]).sum() > 3


@pytest.mark.parametrize("where", ["year > 1950", "kind = 'odd'", "kind = 'a' and year < 1902", "year > 5000"])
def test_a_filter_leaves_some_and_moves_no_score(columns, column, where):
    mask = columns.collection.mask(where)
    documents = columns.collection.corpus.documents
    left = [
        column.row(document.id) for document, there in zip(documents, mask, strict=True) if there and document.content
    ]
    scores, rows = column.search(QUERIES[:2], 10, where=where)
    assert rows.shape == (2, min(10, len(left)))
    for query, found, values in zip(QUERIES, rows, scores, strict=False):
        assert found.tolist() == by_hand(column, query, left, 10)
        np.testing.assert_allclose(values, column.scores(query)[found], atol=1e-5)  # a batch rounds otherwise


def test_words_that_nobody_has_rank_in_the_order_of_the_corpus(columns):
    column = columns.open("bm25")
    assert column.search(["zebra"], 5)[1].tolist() == [[0, 1, 2, 3, 4]]
    assert column.search(["zebra"], 3, where="kind = 'odd'")[1].tolist() == [[59, 60, 61]]
    ledger = column.explain("zebra the", "d07")
    assert (ledger.score, ledger.sum, ledger.rank) == (0, 0, 8)
    assert any("in no document" in note for note in ledger.notes)
    assert any("everywhere: the" in note for note in ledger.notes)
    fused = columns.open("bm25+tiny:text")
    np.testing.assert_array_equal(fused.search(["zebra"], 9)[1], columns.open("tiny:text").search(["zebra"], 9)[1])
    assert any("adds nothing" in note for note in fused.explain("zebra", "d07").notes)


@pytest.mark.parametrize("query", ["", "  ", "\u200b"])
def test_an_empty_query_is_refused(column, query):
    for ask in (lambda: column.scores(query), lambda: column.search([query]), lambda: column.explain(query, "d01")):
        with pytest.raises(GraceError, match="query is empty"):
            ask()


def test_documents_and_sizes_that_there_are_not(column):
    with pytest.raises(GraceError, match="no document 'd20' with a text"):
        column.explain("river", "d20")
    with pytest.raises(GraceError, match="k must be at least 1"):
        column.search(["river"], 0)
    with pytest.raises(GraceError, match="mileage"):
        column.search(["river"], where="mileage > 3")


@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_random_pairs_add_up_at_every_depth(columns, sentences, name):
    column, rng, largest, pairs = columns.open(name), np.random.default_rng(1), 0.0, 0
    queries = [*QUERIES, *sentences[220:245]]
    per = -(-1000 // len(queries)) if name in EXACT else 5
    for query in queries:
        scores = column.scores(query)
        for row in rng.integers(0, len(column), per):
            ledger = column.explain(query, column.ids[row])
            assert ledger.score == pytest.approx(float(scores[row]), abs=1e-6)
            largest, pairs = max(largest, ledger.largest_residual()), pairs + 1
            if ledger.totals():
                assert sum(ledger.totals().values()) == pytest.approx(ledger.score, abs=1e-5)
    assert largest <= 1e-5
    assert pairs >= (1000 if name in EXACT else 150)


def test_in_sixteen_bits_what_rounds_otherwise_is_a_line(tiny_folder, tmp_path, sentences):
    from grace_core.cache import RepresentationCache
    from grace_core.model import GraceModel

    collection = make_collection(tmp_path / "half", sentences, count=24)
    build(collection, GraceModel.from_pretrained(tiny_folder, device="cpu", dtype="bfloat16"))
    columns = Columns(collection, cache=RepresentationCache(tmp_path / "cache.sqlite"))
    for name in ("tiny:text", "tiny:rationale", "bm25+tiny:rationale"):
        column, rounding = columns.open(name), []
        for row in range(0, len(column), 3):
            ledger = column.explain(QUERIES[0], column.ids[row])
            assert ledger.largest_residual() < 1e-5
            rounding += [abs(line.value) for line in ledger.walk() if line.kind == "rounding"]
        assert max(rounding) > 1e-5
        assert "bfloat16" in ledger.notes[-1]


def test_a_fusion_is_one_ledger_of_terms_text_and_rationale(columns):
    column = columns.open("bm25+2*tiny:rationale")
    ledger = column.explain(QUERIES[0], "d07")
    lexical, semantic = ledger.lines
    assert {line.kind for line in lexical.parts} == {"term", "average"}
    assert {line.name for line in semantic.parts} >= {"text × text", "rationale × rationale", "average document"}
    assert set(ledger.totals()) == {"terms", "text", "rationale", "template", "average document"}
    mean, deviation = standard(columns.open("tiny").scores(QUERIES[0]))
    own = columns.open("tiny").explain(QUERIES[0], "d07")
    assert semantic.about["weight"] == 2
    assert semantic.value == pytest.approx(2 * (own.score - mean) / deviation, abs=1e-6)
    block = next(line for line in semantic.parts if line.name == "text × text")
    alone = next(line for line in own.lines if line.name == "text × text")
    assert block.value == pytest.approx(2 * alone.value / deviation, abs=1e-5)
    assert block.parts[0].parts[0].kind == "token"
    told = ledger.as_dict()
    assert told["residual"] == ledger.residual
    assert "token" not in str(told["lines"])
    assert "token" in str(ledger.as_dict(tokens=True)["lines"])


def test_standardised_scores_are_a_z_score_over_all_documents(columns):
    parts = [columns.open("bm25"), columns.open("st:mini")]
    z = [(scores - scores.mean()) / scores.std() for scores in (part.scores("river").astype(float) for part in parts)]
    np.testing.assert_allclose(columns.open("0.7*bm25+0.3*st:mini").scores("river"), 0.7 * z[0] + 0.3 * z[1], atol=1e-9)


def test_reciprocal_ranks_open_into_the_ledgers_of_their_parts(columns):
    column, document = columns.open("rrf(bm25,st:mini)"), "d31"
    ledger = column.explain(QUERIES[1], document)
    assert [line.value for line in ledger.lines] == [1 / (60 + line.about["rank"]) for line in ledger.lines]
    assert ledger.sum == ledger.score
    for line, name in zip(ledger.lines, ("bm25", "st:mini"), strict=True):
        own = columns.open(name).explain(QUERIES[1], document)
        assert (line.opened.rank, line.opened.score) == (own.rank, own.score)


def test_documents_without_a_word_of_the_query_stand_at_the_end_of_bm25_whatever_their_order(columns):
    assert ranks(np.array([0.0, 3.0, 0.0, 1.0, 3.0])).tolist() == [5, 2, 5, 3, 2]
    encoder = columns.open("st:mini").scores("zebra")
    fused = columns.open("rrf(bm25,st:mini)").scores("zebra")
    assert (np.argsort(-fused, kind="stable") == np.argsort(-encoder, kind="stable")).all()


def test_where_a_vector_is_one_token_s_state_the_exact_part_ends(columns):
    ledger = columns.open("st:cls").explain(QUERIES[0], "d08")
    assert not ledger.exact
    assert [line.kind for line in ledger.lines] == ["whole"]
    assert ledger.residual == 0
    assert "state of the first token" in ledger.notes[0]
    assert not columns.open("rrf(bm25,tiny:text,st:cls)").explain(QUERIES[0], "d08").exact
    removed = columns.open("st:cls").leave_one_out(QUERIES[0], "d08")
    assert len(removed) >= 3
    assert all(
        one.effect == pytest.approx(columns.open("st:cls").explain(QUERIES[0], "d08").score - one.score)
        for one in removed
    )


def test_an_edit_that_changes_nothing_moves_nothing(column):
    text = column.rows.text(column.row("d13"))
    for made in (column.what_if(QUERIES[0], "d13"), column.what_if(QUERIES[0], "d13", text=text)):
        assert (made.rank, made.score) == (made.old_rank, made.old_score)
        assert made.passed == made.passed_by == []


def test_a_text_that_is_another_document_s_scores_as_that_one(columns, column):
    query, rows = QUERIES[0], column.search([QUERIES[0]], len(column))[1][0]
    best, last = column.ids[rows[0]], column.ids[rows[-3]]
    own = {}
    if column.reads_rationale:
        index = columns.open("tiny").index
        own = {"rationale": index.rationale_ids[index.row[best]]}
    made = column.what_if(query, last, text=column.rows.text(column.row(best)), **own)
    assert made.old_rank == len(column) - 2
    assert made.rank <= 2 if "rrf" not in column.id else made.rank < made.old_rank
    assert len(made.passed) - len(made.passed_by) == made.old_rank - made.rank
    if "rrf" not in column.id:
        assert made.score == pytest.approx(float(column.scores(query)[column.row(best)]), abs=1e-4)


def test_bm25_rises_with_the_query_s_words(columns):
    made = columns.open("bm25").what_if("summer snow", "d13", text="summer snow")
    assert made.rank == 1
    assert made.score == sum(term.value for term in columns.rows.bm25.explain("summer snow", "summer snow"))


def test_edits_that_a_column_cannot_take(column):
    with pytest.raises(GraceError, match="edited text is empty"):
        column.what_if("river", "d01", text=" ")
    if not column.reads_rationale:
        with pytest.raises(GraceError, match="reads no rationale"):
            column.what_if("river", "d01", rationale="It is about a river.")
    else:
        made = column.what_if("river", "d01", rationale="The river rises in mountains of north.")
        assert made.score != made.old_score


def test_leaving_out_every_sentence_but_one(column):
    text = column.rows.text(column.row("d08"))
    removed = column.leave_one_out(QUERIES[0], "d08")
    assert [one.text for one in removed] == [part for part in text.replace(". ", ".\n").split("\n") if part]
    assert column.leave_one_out(QUERIES[0], "odd0") == []


def test_odd_documents_are_explained(column):
    for i in range(len(ODD)):
        assert column.explain("钢铁是怎样炼成的 snow river", f"odd{i}").largest_residual() < 1e-5


def test_vectors_of_those_that_have_some(columns, column):
    if column.name in (columns.canonical(name) for name in ("tiny:text", "tiny:rationale", "st:mini", "st:cls")):
        np.testing.assert_allclose(column.vectors @ column.embed(["river"])[0], column.scores("river"), atol=1e-5)
        assert column.average("river") == pytest.approx(column.scores("river").mean(), abs=1e-6)
    else:
        assert column.vectors is None
