"""Regions: clusters that name themselves by their rationales, and what becomes of them between two columns."""

from __future__ import annotations

import numpy as np
import pytest

from grace_core.errors import GraceError
from grace_core.regions import Regions, find_regions, regions_changed, top_terms, words

SUBJECTS = {
    "river": "a river that flows through europe to the delta",
    "metal": "a chemical metal with a high melting point",
    "opera": "an opera that the composer wrote for vienna",
}


@pytest.fixture(scope="module")
def clustered():
    """Ninety vectors about three middles, and what was written about each document."""
    random = np.random.default_rng(0)
    kinds = np.arange(90) % 3
    vectors = np.eye(3, 12)[kinds] + 0.08 * random.normal(size=(90, 12))
    subjects = list(SUBJECTS.values())
    texts = [
        f"<think>The text tells of {subjects[kind]}.</think> Document number {row} {chr(97 + row % 26) * 5}."
        for row, kind in enumerate(kinds)
    ]
    return vectors.astype(np.float32), texts, kinds


def test_regions_are_the_clusters_and_are_named_by_what_their_rationales_share(clustered):
    vectors, texts, kinds = clustered
    regions = find_regions(vectors, texts)
    assert (
        len(set(zip(regions.labels.tolist(), kinds.tolist(), strict=True))) == len(regions.names) == len(regions.terms)
    )
    for kind, subject in enumerate(SUBJECTS.values()):
        for label in set(regions.labels[kinds == kind].tolist()):
            assert set(regions.terms[label]) & set(subject.split())
            assert set(regions.names[label].split(" · ")) <= set(subject.split())


def test_names_hold_no_stop_words_tags_or_words_of_every_rationale(clustered):
    regions = find_regions(*clustered[:2])
    used = {word for terms in regions.terms for word in terms}
    assert not used & {"the", "that", "with", "think", "tells", "text", "document", "number", "for"}
    assert len(set(regions.names)) == len(regions.names)


def test_the_same_seed_gives_the_same_regions_largest_first(clustered):
    vectors, texts, _ = clustered
    first, again = find_regions(vectors, texts, seed=3), find_regions(vectors, texts, seed=3)
    assert first.labels.tolist() == again.labels.tolist()
    assert first.names == again.names
    sizes = np.bincount(first.labels).tolist()
    assert sizes == sorted(sizes, reverse=True)


def test_markup_in_rationales_does_not_get_into_names():
    texts = ["<img src=x onerror=alert(1)> <script>river</script> & “lake”"] * 30
    name = find_regions(np.ones((30, 4)), texts).names[0]
    assert all(part.isalpha() for part in name.split(" · "))
    assert words("<b>River</b> runs; rivers 1234 x_y") == {"river", "runs", "rivers"}


@pytest.mark.parametrize("texts", [[""] * 20, ["... 123 !"] * 20, ["the of and"] * 20])
def test_documents_with_no_words_still_have_a_region_with_a_name(texts):
    regions = find_regions(np.random.default_rng(0).normal(size=(20, 4)), texts)
    assert all(regions.names)
    assert set(regions.labels.tolist()) == set(range(len(regions.names)))


@pytest.mark.parametrize("number", [1, 2, 5])
def test_few_documents_and_equal_ones_are_one_region(number):
    assert find_regions(np.eye(number, 6), ["a river"] * number).names == ["river"]
    assert find_regions(np.ones((40, 6)), ["a river"] * 40).labels.tolist() == [0] * 40


def test_texts_that_do_not_fit_and_vectors_that_are_not_finite_are_refused():
    with pytest.raises(GraceError, match="3 vectors and 2 texts"):
        find_regions(np.eye(3), ["a", "b"])
    with pytest.raises(GraceError, match="row 0 holds NaN"):
        find_regions(np.full((3, 3), np.nan), ["a", "b", "c"])


def test_top_terms_set_a_selection_apart_from_the_rest():
    rivers = [f"the river flows past town {letter * 4}" for letter in "abcdefgh"]
    metals = [f"the metal melts past the furnace {letter * 4}" for letter in "abcdefgh"]
    assert top_terms(rivers, metals)[:3] == ["flows", "river", "town"]
    assert "past" not in top_terms(rivers, metals)
    assert top_terms(metals, rivers, n=2) == ["furnace", "melts"]
    assert "river" in top_terms(rivers, [])
    assert top_terms([], rivers) == []


def test_other_forms_of_a_term_are_not_named_again():
    terms = top_terms(["painter painters painted river rivers rivalry"] * 4, ["metal"] * 4)
    assert len(terms) == 3
    assert {term[:5] for term in terms} == {"paint", "river", "rival"}


def regions(labels: list[int], names: str) -> Regions:
    return Regions(np.array(labels), names.split(), [[] for _ in names.split()])


def test_what_became_of_regions_in_words():
    a = regions([0] * 20 + [1] * 10 + [2] * 10 + [3] * 10, "fauna lakes rivers tools")
    b = regions([0] * 9 + [1] * 11 + [2] * 20 + [3] * 10, "birds mammals waters tools")
    assert regions_changed(a, b) == [
        "“fauna” split into “birds” and “mammals”",
        "“lakes” and “rivers” merged into “waters”",
        "1 of 4 regions stayed",
    ]
    assert regions_changed(b, a)[:2] == [
        "“waters” split into “lakes” and “rivers”",
        "“birds” and “mammals” merged into “fauna”",
    ]
    assert regions_changed(a, a) == ["4 of 4 regions stayed"]


def test_regions_that_scatter_and_new_ones():
    a = regions([0] * 12 + [1] * 12 + [2] * 12 + [3] * 9, "w x y z")
    b = regions([0] * 9 + [3] * 3 + [1] * 9 + [3] * 3 + [2] * 9 + [3] * 3 + [0] * 3 + [1] * 3 + [2] * 3, "w x y new")
    assert regions_changed(a, b) == [
        "“z” scattered, mostly into “w”, “x” and “y”",
        "“new” is new, mostly from “w”, “x” and “y”",
        "3 of 4 regions stayed",
    ]


def test_documents_in_no_region_do_not_count():
    a, b = regions([0, 0, 0, -1, -1], "x"), regions([0, 0, 0, 0, -1], "x")
    assert regions_changed(a, b) == ["1 of 1 regions stayed"]
    with pytest.raises(GraceError, match="5 and 1 documents"):
        regions_changed(a, regions([0], "x"))


def test_regions_of_the_shipped_rationales_are_the_kinds_of_things(demo_collection):
    """The corpus knows the kind of every document, the clustering does not."""
    from sklearn.metrics import adjusted_rand_score

    from grace_core.index import GraceIndex

    index = GraceIndex(demo_collection, "demo-base")
    kinds = [demo_collection.documents[document_id].metadata["kind"] for document_id in index.ids]
    regions = find_regions(index.vectors(), index.rationales)
    assert adjusted_rand_score(kinds, regions.labels) > 0.5
    named = [any(kind in name for kind in set(kinds)) for name in regions.names]
    assert np.mean(named) > 0.5
