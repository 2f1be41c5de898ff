"""The Map tab without a browser: what is sent of a collection, what comes back, and what is said where there
is little to draw.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math

import numpy as np
import pytest
from columns_app import add_encoders
from explorer_world import IMAGE, QUERY, SCRIPT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored_index import store_index
from test_html import Reader

from grace_app.api import map_api
from grace_app.map.colours import KINDS, MISSING, code_kinds, code_numbers, code_regions, code_values, field_kind
from grace_app.map.jobs import MapJob, MapJobs
from grace_app.map.maps import Maps, array, squared, turned
from grace_app.map.tab import MapServer, explored
from grace_app.map.view import MapView, read_map, read_rows
from grace_app.page.address import PARAMETERS
from grace_app.workspace.jobs import run
from grace_app.workspace.state import Workspace
from grace_app.workspace.view import Column
from grace_core.errors import GraceError

FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
A, B = Column("tiny-a", True), Column("tiny-b", True)
OURS = set(
    "div span p b h2 h3 header section article ul li button mark kbd details summary table thead tbody tr th td".split()
)
VIEW = {"corpus": "world", "left": A.id, "right": B.id}


@pytest.fixture(scope="module")
def server(workspace):
    return MapServer(workspace)


def ask(server, name: str, /, view: dict = VIEW, **what) -> dict:
    (function,) = [one for one in server.functions() if one.__name__ == name]
    answer = function({"view": view, "documents": 30, **what})
    json.dumps(answer, allow_nan=False)  # it must be possible to send it
    return answer


def rows(*numbers: int) -> str:
    return base64.b64encode(np.array(numbers, "<u4").tobytes()).decode()


def unpacked(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


# the address and what the page sends back


def test_an_address_gives_back_its_view(workspace):
    view = MapView("world", B, A, "field:kind", "<b>&\"'", "a query & <more>", "snow", (0.25, 0.5, 0.1, 0.35))
    assert read_map(workspace, view.params()) == (view, [])
    assert read_map(workspace, {}) == (MapView("world", A, B, ""), [])


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"corpus": "nope"}, "no collection 'nope' here; there are: plain, world"),
        ({"corpus": "../world"}, "no collection '../world'"),
        ({"left": "tiny-c:text"}, "world has no column 'tiny-c:text'"),
        ({"colour": "field:nope"}, "no colour 'field:nope'; there are: overlap"),
        ({"zoom": "1,2,3"}, "expected four numbers"),
        ({"zoom": "0,nan,0,1"}, "expected four numbers"),
        ({"zoom": "1,0,0,1"}, "expected four numbers"),
        ({"star": "   "}, "the query is empty"),
    ],
)
def test_what_is_wrong_in_an_address_is_said(workspace, params, said):
    view, problems = read_map(workspace, params)
    assert said in "; ".join(problems)
    assert view.corpus == "world"
    with pytest.raises(GraceError):
        read_map(workspace, params, strict=True)


RUBBISH = st.one_of(
    st.text(), st.integers(), st.none(), st.lists(st.text()), st.floats(), st.dictionaries(st.text(), st.text())
)


@FIXTURE
@given(st.one_of(RUBBISH, st.dictionaries(st.sampled_from([*PARAMETERS["map"], "x"]), RUBBISH)))
def test_rubbish_never_breaks_the_page(workspace, params):
    view, problems = read_map(workspace, params)
    assert view.left in workspace.columns(view.corpus)
    assert all("\n" not in problem for problem in problems)


@FIXTURE
@given(
    st.one_of(RUBBISH, st.dictionaries(st.sampled_from(["view", "documents", "rows", "row", "id", "kind"]), RUBBISH))
)
def test_every_question_has_an_answer(server, data):
    for function in server.functions():
        if function.__name__ not in ("map_compute", "map_open"):
            assert isinstance(function(data), dict)
            assert function.__name__ in ("map_progress", "map_cancel") or "went wrong" not in function(data)["error"]
    assert "error" not in server.functions()[0](data)  # an address may hold anything


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (rows(30), "row 30, there are 30 documents"),
        (rows(*range(11)), "at most 10 are taken"),
        ([0, -1], "does not fit"),
        ([True], "does not fit"),
        ("!!", "does not fit"),
        (base64.b64encode(b"12345").decode(), "does not fit"),
        ("A" * 400, "more than 10 documents"),
        (None, "does not fit"),
    ],
)
def test_rows_from_the_page_are_checked(sent, said):
    with pytest.raises(GraceError, match=said):
        read_rows(sent, 30, 10)


def test_rows_come_once_and_in_order():
    assert read_rows(rows(4, 2, 4), 30, 10).tolist() == read_rows([4, 2, 4], 30, 10).tolist() == [2, 4]


# colours and places


def test_many_kinds_leave_the_rest_grey():
    values = [f"k{i}" for i in range(KINDS + 3) for _ in range(50 - i)] + ["", None]
    coded = code_values("kind", values)
    assert coded.labels[:2] == ["k0", "k1"]
    assert coded.labels[-1] == "other (4 values)"
    assert coded.tones[-1] == -1
    assert coded.codes[-2:].tolist() == [MISSING, MISSING]
    told = coded.as_dict()
    assert sum(told["counts"]) == len(values) - 2
    assert len(code_kinds("kind", [f"k{i}" for i in range(KINDS)]).labels) == KINDS


def test_one_outlier_does_not_take_all_colours():
    coded = code_numbers("n", [*range(200), 1e9, math.nan])
    assert coded.high < 300
    assert coded.clipped == (True, True)
    assert len(set(coded.codes.tolist())) > 150
    assert coded.codes[-1] == MISSING
    assert code_numbers("n", [3.0, 3.0]).codes.tolist() == [0, 0]
    assert code_numbers("n", [math.nan]).codes.tolist() == [MISSING]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", "b", "a"], "kinds"),
        ([1, 2, 1], "kinds"),
        ([1.5, 2.0], "numbers"),
        (range(30), "numbers"),
        ([True, False], "kinds"),
        (["x", "x", None], ""),
        ([f"id{i}" for i in range(50)], ""),
        ([], ""),
    ],
)
def test_a_field_is_coloured_by_what_it_holds(values, kind):
    assert field_kind(list(values)) == kind


def test_regions_that_share_a_colour_lie_far_apart():
    places = np.array([[i % 6, i // 6] for i in range(36)]) / 6
    coded = code_regions("regions", np.arange(36) % 36, [f"r{i}" for i in range(36)], places)
    shared = [
        np.hypot(*(places[i] - places[j])) for i in range(36) for j in range(i) if coded.tones[i] == coded.tones[j]
    ]
    assert min(shared) > 0.3
    assert code_regions("regions", np.array([-1, 0]), ["r"], places[:1]).codes.tolist() == [65535, 0]


def test_a_map_that_was_only_turned_lies_on_the_other():
    points = np.random.default_rng(0).normal(size=(50, 2))
    moved = 3 * points @ np.array([[0, 1], [1, 0]]) + 7
    assert np.allclose(turned(moved, onto=points), points, atol=1e-9)
    left, right = squared([points, moved])
    both = np.concatenate([left, right])
    assert both.min() >= 0.039
    assert both.max() <= 0.961
    assert np.ptp(both, axis=0).max() == pytest.approx(0.92, abs=1e-4)
    assert (squared([np.ones((3, 2))])[0] == 0.5).all()


# what is sent of a collection


def test_both_maps_are_sent_compactly(server, workspace):
    told = ask(server, "map_open", {})
    assert (told["documents"], told["one"], told["view"]["left"], told["view"]["right"]) == (30, False, A.id, B.id)
    pair = server.maps.open(read_map(workspace, {})[0])
    for side, chart in zip(told["sides"], pair.charts, strict=True):
        points = unpacked(side["points"], "<u2").reshape(30, 2) / 65535
        assert np.abs(points - chart.points).max() < 1 / 65535
        assert side["method"] == "preview"
    assert told["view"]["colour"] == "field:kind"
    kinds = [document.metadata["kind"] for document in pair.documents]
    codes = unpacked(told["colour"]["codes"], "u1")
    assert [told["colour"]["labels"][code] for code in codes] == kinds
    assert [one["id"] for one in told["colours"]] == [
        "overlap",
        "field:kind",
        "field:year",
        "length-left",
        "cut-left",
        "length-right",
        "cut-right",
        "none",
    ]


def test_neighbours_are_those_of_the_full_space(server, workspace):
    pair = server.maps.open(read_map(workspace, VIEW)[0])
    a, b = (workspace.index("world", column.model).vectors(column.pooling) for column in (A, B))
    before = pair.neighbours(4)  # found for one document
    change = pair.change()  # found for all
    assert before == pair.neighbours(4) == change.of(4)
    card = ask(server, "map_card", row=4)
    assert set(card["kept"]) | set(card["lost"]) == set(np.argsort(-(a @ a[4]))[1:16].tolist())
    assert set(card["kept"]) | set(card["won"]) == set(np.argsort(-(b @ b[4]))[1:16].tolist())
    kept = unpacked(ask(server, "map_colour", VIEW | {"colour": "overlap"})["colour"]["codes"], "u1") / 254 * 15
    assert round(kept[4]) == len(card["kept"])
    page = Reader(ask(server, "map_change")["html"])
    assert f"{change.mean * 15:.1f} of 15 neighbours kept on average" in page.text
    first = next(attributes for name, attributes in page.elements if "data-row" in attributes)
    assert int(first["data-row"]) == change.moved[0]


def test_a_query_is_placed_by_its_neighbours(server, workspace):
    told = ask(server, "map_star", VIEW | {"star": QUERY, "right": "tiny-a:text"})
    for side, column in zip(told["sides"], (A, Column("tiny-a", False)), strict=True):
        index = workspace.index("world", column.model)
        made = workspace.model_of(index).represent([QUERY], rationale=column.rationale)
        (vector,) = index.embed(made, column.pooling)
        assert side["rows"] == [hit.row for hit in index.hits(vector, 10, pooling=column.pooling)]
        assert all(0 <= part <= 1 for part in side["at"])
    assert "error" in ask(server, "map_star", VIEW)


def test_words_are_found_in_titles_texts_and_rationales(server, workspace):
    told = ask(server, "map_find", VIEW | {"find": "STORY 4"})
    assert unpacked(told["rows"], "<u4").tolist() == [4]
    rationale = workspace.index("world", "tiny-b").rationales[9]
    word = max(rationale.split(), key=len)
    assert 9 in unpacked(ask(server, "map_find", VIEW | {"find": word})["rows"], "<u4")
    assert unpacked(ask(server, "map_find", VIEW)["rows"], "<u4").tolist() == []
    told = ask(server, "map_find", VIEW | {"find": "where: year > 1926 and kind = 'tale'"})
    assert unpacked(told["rows"], "<u4").tolist() == [28]
    assert "1 document satisfies “year &gt; 1926 and kind = &#x27;tale&#x27;”" in told["html"]
    told = ask(server, "map_find", VIEW | {"find": "where: year >"})
    assert (unpacked(told["rows"], "<u4").tolist(), "got the end, expected a value" in told["html"]) == ([], True)


def test_markup_in_documents_is_text_everywhere(server):
    view = VIEW | {"star": SCRIPT, "find": "<b>"}
    pages = [
        ask(server, "map_card", view, row=3),
        ask(server, "map_card", view, id="<b>&\"'"),
        ask(server, "map_selection", view, rows=rows(3, 7, 9)),
        ask(server, "map_find", VIEW | {"find": "img src"}),
        ask(server, "map_find", view),
        ask(server, "map_change", view),
        ask(server, "map_star", view),
    ]
    for page in pages:
        found = Reader(page["html"])
        assert {name for name, _ in found.elements} <= OURS
        assert not any(key.startswith("on") for _, attributes in found.elements for key in attributes)
    assert f"Marked {SCRIPT}" in Reader(pages[0]["html"]).text
    assert IMAGE in Reader(pages[0]["html"]).text
    assert (
        ask(server, "map_titles", rows=[3])["documents"][0]["title"] == f"Marked {SCRIPT}"
    )  # a script puts it in as text


def test_a_selection_leaves_with_everything(server, workspace):
    told = json.loads(ask(server, "map_export", rows=rows(3, 9), kind="json")["text"])
    assert [one["id"] for one in told] == ["d03", "d09"]
    assert told[1]["b"]["rationale"] == workspace.index("world", "tiny-b").rationales[9]
    assert told[1]["metadata"] == {"kind": "song", "year": 1909}
    flat = list(csv.DictReader(io.StringIO(ask(server, "map_export", rows=rows(3, 9), kind="csv")["text"], newline="")))
    assert flat[0]["title"] == f"Marked {SCRIPT}"
    assert float(flat[1]["a.x"]) == told[1]["a"]["x"]
    assert "error" in ask(server, "map_export", rows=rows(3), kind="exe")


def test_the_way_to_explore(server):
    event = {"view": VIEW | {"star": "how fast the ice melts"}, "doc": "d04"}
    assert explored(server, event | {"what": "title"}).query == "Story 4"
    assert explored(server, event | {"what": "text"}).query.startswith(
        server.workspace.collection("world").documents["d04"].text[:40]
    )
    why = explored(server, event | {"what": "why"})
    assert (why.query, why.doc, why.panel, why.a, why.b) == ("how fast the ice melts", "d04", "why", A, B)
    for wrong in ({}, None, event, event | {"what": "why", "view": VIEW}, event | {"what": "title", "doc": "nope"}):
        with pytest.raises(GraceError):
            explored(server, wrong)


# little or nothing to draw


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Collections of 1, 2 and 5 documents, of equal vectors, and one whose texts are formulas and markup."""
    root, random = tmp_path_factory.mktemp("odd"), np.random.default_rng(0)
    from grace_core.readers import Document

    for n in (1, 2, 5):
        store_index(root / f"of{n}", random.normal(size=(n, 4)).astype(np.float32))
    store_index(root / "equal", np.ones((30, 4), np.float32))
    nasty = [Document(f"={i}", f"=HYPERLINK({i})", SCRIPT, {f"<b>{IMAGE}": f"{SCRIPT}{i % 2}"}) for i in range(12)]
    store_index(
        root / "nasty", random.normal(size=(12, 4)).astype(np.float32), documents=nasty, rationales=[IMAGE] * 12
    )
    return Workspace(root, cache_path=root / "cache.sqlite")


@pytest.mark.parametrize(("name", "n"), [("of1", 1), ("of2", 2), ("of5", 5), ("equal", 30)])
def test_few_or_equal_documents_are_drawn_all_the_same(odd, name, n):
    server = MapServer(odd)
    view = {"corpus": name}
    told = server.open({"view": view})
    assert (told["documents"], told["problems"]) == (n, [])
    points = unpacked(told["sides"][0]["points"], "<u2").reshape(n, 2)
    assert len(np.unique(points, axis=0)) == (1 if name in ("of1", "equal") else n)
    assert any(("too few" if n < 10 else "same vector") in note for note in told["notes"])
    change = server.change({"view": view, "documents": n})["html"]
    assert ("no neighbours to compare" if n == 1 else f"of {min(n - 1, 15)} neighbours kept") in Reader(change).text
    card = server.card({"view": view, "documents": n, "row": 0})
    assert len(card["kept"]) == min(n - 1, 15)
    assert Reader(server.selection({"view": view, "documents": n, "rows": list(range(n))})["html"]).text
    assert server.find({"view": view | {"find": "number"}, "documents": n})["rows"]


def test_one_column_gives_one_map(workspace):
    server = MapServer(workspace)
    told = server.open({"view": {"corpus": "plain"}})
    assert (told["one"], len(told["sides"]), told["documents"]) == (True, 1, 8)
    assert "overlap" not in [one["id"] for one in told["colours"]]
    page = Reader(server.change({"view": {"corpus": "plain"}, "documents": 8})["html"])
    assert "Choose another column" in page.text
    assert server.card({"view": {"corpus": "plain"}, "documents": 8, "row": 0})["lost"] == []


def test_no_collection_is_said(tmp_path):
    told = MapServer(Workspace(tmp_path / "none")).open({"view": {}})
    assert told["empty"]
    assert "no collection to search yet" in Reader(told["html"]).text


def test_a_collection_that_changed_is_not_answered_for(server):
    assert "reload the page" in ask(server, "map_card", documents=29, row=1)["error"]


def test_markup_in_fields_and_formulas_in_cells(odd):
    server = MapServer(odd)
    view = {"corpus": "nasty"}
    told = server.open({"view": view})
    assert told["view"]["colour"] == f"field:<b>{IMAGE}"
    for page in (
        server.card({"view": view, "documents": 12, "row": 0}),
        server.selection({"view": view, "documents": 12, "rows": [0, 1]}),
    ):
        assert {name for name, _ in Reader(page["html"]).elements} <= OURS
    (one,) = csv.DictReader(
        io.StringIO(server.export({"view": view, "documents": 12, "rows": [3], "kind": "csv"})["text"], newline="")
    )
    assert (one["id"], one["title"]) == ("'=3", "'=HYPERLINK(3)")
    assert (
        json.loads(server.export({"view": view, "documents": 12, "rows": [3], "kind": "json"})["text"])[0]["id"] == "=3"
    )


# computing


def test_maps_are_computed_and_found_again(odd):
    jobs = MapJobs(Maps(odd))
    view = read_map(odd, {"corpus": "of5"})[0]
    assert jobs.maps.open(view).charts[0].map is None
    job = MapJob("of5", list(view.columns))
    run(job, jobs.compute)
    assert (job.state, job.message) == ("done", "")
    pair = jobs.maps.open(view)
    assert all(chart.map is not None for chart in pair.charts)
    assert pair.aligned
    assert sorted(column.id for column in jobs.maps.mapped("of5")) == ["made:rationale", "made:text"]
    told = MapServer(odd).open({"view": {"corpus": "of5", "colour": "region-left"}})  # another one finds them on disk
    assert told["sides"][0]["method"] != "preview"
    assert told["view"]["colour"] == "region-left"


def test_a_cancelled_job_leaves_nothing(odd):
    jobs = MapJobs(Maps(odd))
    job = MapJob("of2", list(odd.columns("of2")))
    job.stop.set()
    run(job, jobs.compute)
    assert job.state == "stopped"
    assert jobs.maps.mapped("of2") == []
    assert not list((odd.root / "of2").glob("**/*map*"))


def test_maps_that_cannot_be_saved_are_kept_in_memory(odd, monkeypatch):
    monkeypatch.setattr("grace_app.map.jobs.os.access", lambda *_: False)
    jobs = MapJobs(Maps(odd))
    columns = odd.columns("of1")
    job = MapJob("of1", columns)
    run(job, jobs.compute)
    assert (job.state, job.done, job.saved) == ("done", job.total, False)
    assert "read-only" in job.message
    assert jobs.maps.mapped("of1") == columns
    assert jobs.maps.open(read_map(odd, {"corpus": "of1"})[0]).charts[0].map is not None
    assert not list((odd.root / "of1").glob("**/map*"))


# size


def test_a_hundred_thousand_documents_fit_in_three_megabytes(tmp_path):
    n = 100_000
    store_index(tmp_path / "many", np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32))
    workspace = Workspace(tmp_path, cache_path=tmp_path / "cache.sqlite")
    server = MapServer(workspace)
    told = server.open({"view": {}})
    assert (told["documents"], len(told["sides"])) == (n, 2)
    recoloured = server.colour({"view": {"colour": "length-right"}, "documents": n})
    assert len(json.dumps(told)) + len(json.dumps(recoloured)) < 3_000_000
    selected = np.arange(0, n, 10, dtype="<u4")
    text = base64.b64encode(selected.tobytes()).decode()
    answer = server.selection({"view": {}, "documents": n, "rows": text})["html"]
    assert "10,000 documents selected" in Reader(answer).text


def test_arrays_say_what_they_are():
    told = array(np.array([[1.5, 2], [3, 4]], np.float32))
    assert np.frombuffer(base64.b64decode(told["data"]), told["dtype"]).reshape(told["shape"]).tolist() == [
        [1.5, 2],
        [3, 4],
    ]


# columns that are no models


@pytest.fixture(scope="module")
def with_encoders(world, tmp_path_factory, sentences):
    return add_encoders(world, tmp_path_factory.mktemp("map-encoders"), sentences)


def test_a_sentence_encoder_has_places_neighbours_and_regions(with_encoders):
    server = MapServer(with_encoders)
    view = {"corpus": "world", "left": "st:mini", "right": B.id}
    told = ask(server, "map_open", view)
    assert (told["view"]["left"], told["problems"], told["sides"][0]["label"]) == ("st:mini", [], "mini")
    assert "length-left" not in [one["id"] for one in told["colours"]]
    assert "no rationales to colour by" in ask(server, "map_colour", view | {"colour": "length-left"})["error"]
    vectors = with_encoders.opened("world", with_encoders.column("world", "st:mini")).vectors
    card = ask(server, "map_card", view, row=4)
    assert set(card["kept"]) | set(card["lost"]) == set(np.argsort(-(vectors @ vectors[4]), kind="stable")[1:16])
    placed = ask(server, "map_star", view | {"star": QUERY})["sides"][0]
    (hits,) = with_encoders.opened("world", with_encoders.column("world", "st:mini")).search([QUERY], 10)[1]
    assert placed["rows"] == hits.tolist()
    assert "Story 4" in Reader(card["html"]).text
    assert explored(server, {"view": view, "doc": "d04", "what": "title"}).a.id == "st:mini"
    jobs = server.jobs
    run(MapJob("world", list(read_map(with_encoders, view)[0].columns)), jobs.compute)
    assert (jobs.maps.workspace.root / "world" / "st-mini" / "map.parquet").is_file()
    assert [column.id for column in jobs.maps.mapped("world")] == [B.id, "st:mini"]
    told = ask(server, "map_open", view | {"colour": "region-left"})
    assert (told["aligned"], [side["method"] for side in told["sides"]]) == (True, ["umap", "umap"])
    assert told["sides"][0]["regions"]
    assert told["view"]["colour"] == "region-left"


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("bm25", "BM25 counts words and has no vectors"),
        ("bm25+st:mini", "BM25 + mini puts scores of other columns together and has no vectors of its own"),
        ("rrf(bm25,st:mini)", "ranks of BM25 and mini puts scores"),
        ("st:nobody", "world has no column 'st:nobody'; there are: tiny-a:text"),
    ],
)
def test_a_column_without_vectors_says_so(with_encoders, column, said):
    view, problems = read_map(with_encoders, {"corpus": "world", "left": column, "right": "st:mini"})
    assert problems[0].startswith(said)
    assert (len(problems), view.left, view.right.id) == (1, A, "st:mini")
    with pytest.raises(GraceError, match="there are: tiny-a:text"):
        map_api(Maps(with_encoders), "world", ["st:mini", column])
    choices = ask(MapServer(with_encoders), "map_open", {"corpus": "world"})["columns"]
    assert {one["id"] for one in choices if one.get("disabled")} == {"bm25", "fusion"}
