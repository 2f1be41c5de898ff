"""Two models, or one and its text alone, compared by reasons in the page: the figures of the command, the address, and
plain lines where nothing can be compared.
"""

from __future__ import annotations

import re
import time

import pytest
from explorer_world import QUERY, make_world
from small_world import make_small

from grace_app.reasons.server import ReasonsServer
from grace_app.reasons.tab import explored
from grace_app.reasons.view import read_reasons
from grace_app.workspace.state import Workspace
from grace_cli.reasons_report import reasons_command
from grace_core.errors import GraceError

VIEW = {"corpus": "world", "model": "tiny-a"}
AGAINST = VIEW | {"against": "tiny-b", "judged": "test"}
TEXT = AGAINST | {"against": "tiny-a:text"}


@pytest.fixture(scope="module")
def world(tmp_path_factory, new_model, sentences):
    made = make_world(tmp_path_factory.mktemp("compared"), new_model, sentences)
    make_small(made, sentences)
    return made


@pytest.fixture(scope="module")
def server(world):
    return ReasonsServer(Workspace(world.indexes, preferred="world", cache_path=world.root / "cache.sqlite"))


def finish(server, answer: dict) -> None:
    assert "error" not in answer, answer
    limit = time.monotonic() + 240
    while server.progress({})["job"]["state"] == "working":
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert server.progress({})["job"]["state"] == "done", server.progress({})


@pytest.fixture(scope="module")
def compared(server):
    finish(server, server.make({"view": VIEW}))
    offered = server.compare({"view": AGAINST})
    assert offered["offer"]
    assert "2 judged queries of the split test" in offered["html"]
    finish(server, server.make_comparison({"view": AGAINST}))
    return server


def nearly(value: object) -> object:
    """The value with its numbers rounded: two encodings of a text in batches of other sizes differ in the last digits."""
    if isinstance(value, dict):
        return {key: nearly(part) for key, part in value.items()}
    if isinstance(value, list):
        return [nearly(part) for part in value]
    return pytest.approx(value, abs=1e-5) if isinstance(value, float) else value


def test_the_figures_are_those_of_the_command(compared, world):
    view, _, grouping = compared.asked({"view": AGAINST})
    own = compared.comparisons.known(view, grouping)
    result, _ = reasons_command(
        world.indexes / "world", "tiny-a", size=len(grouping), against="tiny-b", split="test", limit=100
    )
    assert own == nearly(result["against"])
    html = compared.compare({"view": AGAINST})["html"]
    for way in ("own", "words", "other"):
        assert f"<b>{own['ndcg@10'][way]:.3f}</b>" in html
    cells = re.findall(r'data-reason="(\d+)".*?<td>([+−][\d.]+)</td><td>([+−][\d.]+)</td><td>([+−][\d.]+)</td>', html)
    assert len(cells) == len(own["reasons"])
    for (number, *values), row in zip(cells, own["reasons"], strict=True):
        assert int(number) == row["number"]
        assert [float(value.replace("−", "-")) for value in values] == [
            pytest.approx(row[key], abs=5e-4) for key in ("change", "by_words", "by_geometry")
        ]
    assert {row["id"] for row in own["by_query"]} == {"q1", "q2"}
    for row in own["by_query"]:
        larger = "words" if row["by_words"] > row["by_geometry"] else "geometry"
        assert row["moved"] == (larger if row["by_words"] != row["by_geometry"] else "both" if row["by_words"] else "")


def test_the_text_alone_has_the_figures_of_the_command_and_opens_explore_with_both_columns(compared, world):
    assert "of the documents nothing is encoded again" in compared.compare({"view": TEXT})["html"]
    finish(compared, compared.make_comparison({"view": TEXT}))
    view, _, grouping = compared.asked({"view": TEXT})
    own = compared.comparisons.known(view, grouping)
    options = {"size": len(grouping), "against": "tiny-a:text", "split": "test", "limit": 100}
    result, _ = reasons_command(world.indexes / "world", "tiny-a", **options)
    assert own == nearly(result["against"])
    answer = compared.compare({"view": TEXT})
    assert not answer["offer"]
    cells = re.findall(r'data-reason="(\d+)".*?<td>([+−][\d.]+)</td><td>([+−][\d.]+)</td>', answer["html"])
    assert [int(number) for number, *_ in cells] == [row["number"] for row in own["reasons"]]
    for (_, *values), row in zip(cells, own["reasons"], strict=True):
        assert [float(value.replace("−", "-")) for value in values] == [
            pytest.approx(row[key], abs=5e-4) for key in ("change", "lift")
        ]
    opened = explored(compared, {"view": TEXT, "query": "q1"})
    assert (opened.query, opened.a.id, opened.b.id) == (QUERY, "tiny-a:text", "tiny-a:rationale")


def test_another_choice_of_queries_is_another_comparison(compared):
    assert not compared.compare({"view": AGAINST})["offer"]
    assert compared.compare({"view": AGAINST | {"judged": "all"}})["offer"]
    assert compared.compare({"view": AGAINST | {"queries": "all"}})["offer"]
    assert compared.compare({"view": VIEW}) == {"html": "", "offer": False}


def test_a_telling_query_opens_explore_with_both_models(compared):
    view = explored(compared, {"view": AGAINST, "query": "q1"})
    assert (view.query, view.a.id, view.b.id) == (QUERY, "tiny-a:rationale", "tiny-b:rationale")
    for query in ("q3", "gone", 3):
        with pytest.raises(GraceError):
            explored(compared, {"view": AGAINST, "query": query})


def test_the_address_holds_the_comparison(server):
    view, problems = read_reasons(server.workspace, AGAINST | {"queries": "all"})
    assert problems == []
    assert read_reasons(server.workspace, view.params(), strict=True)[0] == view
    plain, _ = read_reasons(server.workspace, VIEW, strict=True)
    assert not {"against", "judged", "queries"} & {key for key, value in plain.params().items() if value}


@pytest.mark.parametrize(
    "more",
    [{"against": "tiny-a"}, {"against": "tiny-b:text"}, {"against": "x"}, {"judged": "none"}, {"queries": "7"}],
    ids=str,
)
def test_a_wrong_link_says_what_is_wrong(server, more):
    view, problems = read_reasons(server.workspace, AGAINST | more)
    assert len(problems) == 1
    assert read_reasons(server.workspace, view.params(), strict=True)[0] == view


def test_a_collection_without_judgements_says_so(server):
    asked = {"corpus": "unjudged", "model": "tiny-a", "against": "tiny-b"}
    finish(server, server.make({"view": asked}))
    told = server.compare({"view": asked})
    assert not told["offer"]
    assert "unjudged has no judged queries" in told["html"]
    functions = {function.__name__: function for function in server.functions()}
    assert "no queries.jsonl" in functions["reasons_make_comparison"]({"view": asked})["error"]


@pytest.mark.parametrize("corpus", ["five", "chinese"])
def test_small_and_chinese_collections_have_reasons(server, corpus):
    asked = {"corpus": corpus, "model": "tiny-a"}
    finish(server, server.make({"view": asked}))
    told = server.open({"view": asked})
    assert not told["empty"]
    assert told["problems"] == []
    assert told["size"] == len(told["names"]) >= 1
    hits = server.ask({"view": asked | {"ask": "河流" if corpus == "chinese" else "river"}})["html"]
    assert float(re.search(r'data-residual="([^"]+)"', hits)[1]) <= 1e-5
