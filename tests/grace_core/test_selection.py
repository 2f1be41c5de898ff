"""Searching among the documents that satisfy a filter: exact, k found whatever the kind, ties as ever, empty
documents counted right.
"""

from __future__ import annotations

import json
from datetime import date

import numpy as np
import pytest

from grace_benchmarks.search import SyntheticModel
from grace_core import ann, selection
from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.index import GraceIndex, build
from grace_core.ranking import dots, order
from grace_core.readers import Corpus, Document
from grace_core.selection import Selection, search_among

COUNT, DIM = 12_000, 16


@pytest.fixture(scope="module")
def vectors():
    """Vectors of which every third is a copy of the one before it, and many at the end are one and the same."""
    rows = SyntheticModel(DIM).vectors(COUNT, 0)
    rows[2::3] = rows[1::3]
    rows[-3000:] = rows[-1]
    return rows


@pytest.fixture(scope="module")
def opened(vectors):
    """An index of each kind, as a search has it."""
    indexes = {}
    for kind in ann.KINDS:
        index = ann.make(vectors, kind)
        effort = {"hnsw": {"efSearch": 64}, "ivfpq": {"nprobe": 32}}.get(kind, {})
        indexes[kind] = ann.Opened(index, vectors, {"kind": kind, **effort})
    return indexes


@pytest.fixture(scope="module")
def queries(vectors):
    return np.concatenate([SyntheticModel(DIM).vectors(5, 1), vectors[-1:], vectors[5:6]])


def some(share: float, seed: int = 0) -> Selection:
    rows = np.random.default_rng(seed).choice(COUNT, max(1, round(share * COUNT)), replace=False)
    return Selection(np.sort(rows), COUNT)


def wanted(vectors, rows, query, k):
    scores = dots(vectors[rows], query)
    best = order(scores, k)
    return scores[best], rows[best]


@pytest.mark.parametrize("share", [1.0, 0.9, 0.5, 0.1, 0.01, 0.001, 0.0001])
@pytest.mark.parametrize("together", [1, 7])
def test_a_flat_index_finds_what_brute_force_finds_to_the_bit(vectors, opened, queries, share, together):
    among = some(share)
    for start in range(0, len(queries), together):
        scores, rows = search_among(opened["flat"], among, queries[start : start + together], 10)
        assert rows.shape == (len(queries[start : start + together]), min(10, len(among)))
        for query, mine, hits in zip(queries[start:], scores, rows, strict=False):
            best = wanted(vectors, among.rows, query, 10)
            np.testing.assert_array_equal(hits, best[1])
            np.testing.assert_array_equal(mine, best[0])


@pytest.mark.parametrize("kind", ["hnsw", "ivfpq"])
@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
def test_other_kinds_find_as_many_with_exact_scores(vectors, opened, queries, kind, share):
    among = some(share)
    scores, rows = search_among(opened[kind], among, queries, 10)
    best = [wanted(vectors, among.rows, query, 10) for query in queries]
    assert np.isin(rows, among.rows).all()
    for query, mine, hits in zip(queries, scores, rows, strict=True):
        assert len(set(hits.tolist())) == 10
        np.testing.assert_array_equal(mine, dots(vectors[hits], query))
        np.testing.assert_array_equal(hits, hits[np.lexsort((hits, -mine))])
    recall = np.mean([np.mean(mine >= exact[-1] - 1e-6) for mine, (exact, _) in zip(scores, best, strict=True)])
    assert recall >= (0.8 if share == 0.5 else 1.0)
    # a query that thousands of copies answer alike gets the first of those that are left
    np.testing.assert_array_equal(rows[-2], best[-2][1])


def test_cells_without_enough_documents_are_made_up_for(vectors, opened, queries):
    """nprobe 1 looks into one cell, and what is left lies in others."""
    narrow = ann.Opened(opened["ivfpq"].index, vectors, {"kind": "ivfpq", "nprobe": 1})
    cells = opened["ivfpq"].index.quantizer.search(vectors, 1)[1][:, 0]
    asked = opened["ivfpq"].index.quantizer.search(queries, 1)[1][:, 0]
    among = Selection(np.flatnonzero(~np.isin(cells, asked)), COUNT)
    assert len(among) > 0.4 * COUNT
    scores, rows = search_among(narrow, among, queries, 50)
    assert (rows >= 0).all()
    assert np.isin(rows, among.rows).all()
    assert np.isfinite(scores).all()


def test_vectors_that_lie_on_disk_are_searched_alike(vectors, queries):
    class Stored:
        shape = vectors.shape

        def __len__(self):
            return len(vectors)

        def __getitem__(self, rows):
            return vectors[rows].copy()

    among = some(0.8)
    for mine, on_disk in zip(
        selection.nearest(Stored(), among.rows, queries, 10),
        selection.nearest(vectors, among.rows, queries, 10),
        strict=True,
    ):
        np.testing.assert_array_equal(mine, on_disk)


@pytest.fixture(scope="module")
def index(tmp_path_factory, tiny_folder):
    from grace_core.model import GraceModel

    texts = [
        "a violin in the hall",
        "a river under the bridge",
        "",
        "a lake in the hills",
        "an old river",
        "a song of the lake",
    ]
    documents = [
        Document(
            f"d{i}",
            "",
            text,
            {"year": 1990 + i, "day": date(2000 + i, 1, 1), "tags": ["water", text.split()[1]] if i % 2 else None},
        )
        for i, text in enumerate(text or " " for text in texts)
    ]
    collection = Collection.create(
        Corpus(documents, None, "made here", ["year", "day", "tags"]), tmp_path_factory.mktemp("c") / "c"
    )
    return build(collection, GraceModel.from_pretrained(tiny_folder, max_new_tokens=4))


def test_an_index_searches_what_satisfies_a_filter(index):
    query = index.vectors()[0]
    everything = [int(row) for row in index.search(query, 10)[1][0]]
    years = [index.collection.documents[index.ids[row]].metadata["year"] for row in range(len(index))]
    for where, holds in (
        ("year > 1991", lambda year: year > 1991),
        ("day < '2004-01-01'", lambda year: year < 1994),
        ("tags contains 'water'", lambda year: year % 2),
        ("year > 3000", lambda year: False),
    ):
        left = [row for row in everything if holds(years[row])]
        assert index.search(query, 10, where=where)[1][0].tolist() == left
        assert [hit.row for hit in index.hits(query, 2, where=where)] == left[:2]
    assert index.selections.of("year > 1991") is index.selections.of("year > 1991")
    with pytest.raises(GraceError, match="there is no column 'yaer': do you mean 'year'"):
        index.search(query, where="yaer > 1")


def test_search_where_on_the_command_line(grace, index):
    command = ("search", index.collection.folder, "a river", "--model", index.model_name)
    status, out, err = grace(*command, "--where", "year > 1992 and tags contains 'water'", "--json")
    assert status == 0
    assert sorted(hit["id"] for hit in json.loads(out)) == ["d3", "d5"]
    assert json.loads(out)[0]["metadata"]["tags"][0] == "water"
    assert json.loads(out)[0]["metadata"]["day"] in ("2003-01-01", "2005-01-01")
    assert "2 of 5 documents satisfy the filter" in err
    assert grace(*command, "--where", "year > 3000", "--json")[1].strip() == "[]"
    status, _, err = grace(*command, "--where", "year > 'x'")
    assert (status, err.count("\n")) == (2, 1)
    assert "filter, character 8: 'year' holds numbers, got 'x'" in err
    assert GraceIndex(index.collection.folder, index.model_name)
