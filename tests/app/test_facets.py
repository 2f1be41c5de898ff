"""Facets: which columns are some, their counts as one narrows, and the filter that ticking writes; in the
view, the search and the API.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from grace_app.api import search_api
from grace_app.explore.facets import Facets
from grace_app.explore.render_facets import render_facets
from grace_app.explore.search import search
from grace_app.workspace.view import Column, View, read_view
from grace_core import passages
from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.passages import Chunk
from grace_core.readers import Corpus, Document
from grace_core.readers.chunked import chunked

KINDS = ["river", "lake", "o'sea"]


@pytest.fixture(scope="module")
def facets(tmp_path_factory) -> Facets:
    """24 documents; kinds in turn, a flag, grades 0 to 3, tags in lists, and columns that are no facets:
    numbers all different, and one value for all."""
    documents = [
        Document(
            f"d{i}",
            "",
            f"text {i}",
            {
                "kind": KINDS[i % 3] if i else None,
                "open": i % 2 == 0,
                "grade": i % 4,
                "tags": ["wet", *(["deep"] if i % 2 else [])],
                "year": 1900 + i,
                "same": "x",
                "share": i / 7,
            },
        )
        for i in range(24)
    ]
    fields = ["kind", "open", "grade", "tags", "year", "same", "share"]
    return Facets(
        Collection.create(Corpus(documents, None, "made here", fields), tmp_path_factory.mktemp("facets") / "c")
    )


def told(facets: Facets, where: str) -> dict[str, dict]:
    return {
        facet.column: {choice.value: (choice.count, choice.ticked) for choice in facet.choices}
        for facet in facets.shown(where)
    }


def test_columns_of_few_values_are_facets_with_counts(facets):
    assert told(facets, "") == {
        "kind": {"lake": (8, False), "o'sea": (8, False), "river": (7, False)},
        "open": {False: (12, False), True: (12, False)},
        "grade": dict.fromkeys(range(4), (6, False)),
        "tags": {"wet": (24, False), "deep": (12, False)},
    }


def test_where_a_passage_lies_is_no_facet(tmp_path):
    documents = [Document(f"d{i}", "", "one two three. " * 4, {"kind": KINDS[i % 2]}) for i in range(4)]
    collection = Collection.create(chunked(Corpus(documents, None, "made here", ["kind"]), Chunk(6)), tmp_path / "c")
    assert set(passages.RESERVED) & set(collection.types)
    assert list(Facets(collection).columns) == ["kind"]


def test_counts_narrow_with_every_part_of_the_filter_but_a_facet_s_own(facets):
    shown = told(facets, "year >= 1912 and kind in ('lake', 'river')")
    assert shown["kind"] == {"lake": (4, True), "o'sea": (4, False), "river": (4, True)}
    assert shown["open"] == {False: (4, False), True: (4, False)}
    assert told(facets, "open = true")["grade"] == {0: (6, False), 1: (0, False), 2: (6, False), 3: (0, False)}


def test_ticking_writes_the_filter_and_leaves_the_rest_of_it_as_it_was(facets):
    where = facets.toggle("year > 1905 or share < 0.1", "kind", '"o\'sea"')
    assert where == "(year > 1905 or share < 0.1) and kind = 'o''sea'"
    where = facets.toggle(where, "kind", '"lake"')
    assert where == "(year > 1905 or share < 0.1) and kind in ('lake', 'o''sea')"
    where = facets.toggle(facets.toggle(where, "tags", '"wet"'), "tags", '"deep"')
    assert where.endswith("and (tags contains 'wet' or tags contains 'deep')")
    assert told(facets, where)["tags"] == {"wet": (12, True), "deep": (6, True)}
    for column, key in (("kind", '"lake"'), ("kind", '"o\'sea"'), ("tags", '"wet"'), ("tags", '"deep"')):
        where = facets.toggle(where, column, key)
    assert where == "(year > 1905 or share < 0.1)"
    assert facets.toggle("", "open", "true") == "open = true"
    assert facets.toggle("GRADE_IS_ODD = 1 and grade=2", "grade", "2") == "GRADE_IS_ODD = 1"
    assert told(facets, "not kind = 'lake'")["kind"]["lake"] == (0, False)  # no tick, but a condition


@pytest.mark.parametrize(
    ("column", "key"), [("year", "1901"), ("kind", "lake"), ("kind", '"x"'), (["kind"], "1"), ("kind", None)]
)
def test_what_is_no_value_of_a_facet_is_refused(facets, column, key):
    with pytest.raises(GraceError, match="does not fit"):
        facets.toggle("", column, key)


def test_facets_are_escaped_and_folded_up_until_one_is_ticked(facets):
    assert " open" not in str(render_facets(facets.shown("year > 1900"))).split(">")[0]
    shown = str(render_facets(facets.shown("kind = 'o''sea'")))
    assert shown.startswith('<details class="g-facets" open>')
    assert 'aria-checked="true" class="g-facet" data-facet="kind" data-value="&quot;o&#x27;sea&quot;"' in shown
    assert "<span" not in render_facets([])


def test_a_view_with_a_filter_is_searched_and_shared(workspace):
    where = "kind = 'tale' and year > 1910"
    view = View("world", Column("tiny-a", False), Column("tiny-a", False), 20, "a river", where=where)
    assert read_view(workspace, view.params()) == (view, [])
    *_, last = search(workspace, view)
    wanted = {f"d{i:02}" for i in range(12, 30, 2)}
    assert {hit.document.id for hit in last.a.hits} == wanted
    assert last.left == len(wanted)
    *_, last = search(workspace, replace(view, where="year > 3000"))
    assert (last.a.hits, last.left) == ([], 0)
    _, problems = read_view(workspace, view.params() | {"where": "yaer > 1"})
    assert "there is no column 'yaer': do you mean 'year'" in problems[0]
    found = search_api(workspace, "a river", "world", "tiny-a", False, 20, where)
    assert {hit["id"] for hit in found["hits"]} == wanted
    for wrong, words in (("kind > 1", "'kind' holds text"), (3, "filter must be text")):
        with pytest.raises(GraceError, match=words):
            search_api(workspace, "a river", "world", "tiny-a", False, 5, wrong)
