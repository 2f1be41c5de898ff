"""What the Reasons tab answers: links and events of any kind, untrusted texts, jobs, and sums that hold."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from explorer_world import IMAGE, QUERY, SCRIPT, make_world

from grace_app.reasons.render import render_hits
from grace_app.reasons.server import ReasonsServer, hits_of
from grace_app.reasons.view import read_reasons, read_steer
from grace_app.workspace.state import Workspace
from grace_core.errors import GraceError

VIEW = {"corpus": "world", "model": "tiny-a"}


@pytest.fixture(scope="module")
def server(tmp_path_factory, new_model, sentences):
    world = make_world(tmp_path_factory.mktemp("reasons"), new_model, sentences)
    made = ReasonsServer(Workspace(world.indexes, preferred="world", cache_path=world.root / "cache.sqlite"))
    assert made.open({"view": VIEW})["offer"]
    made.make({"view": VIEW})
    limit = time.monotonic() + 120
    while made.progress({})["job"]["state"] == "working":
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert made.progress({})["job"]["state"] == "done", made.progress({})
    return made


def test_the_list_holds_every_reason_the_largest_share_first(server):
    told = server.open({"view": VIEW})
    assert not told["empty"]
    assert told["problems"] == []
    shares = [float(share) for share in re.findall(r'g-reason-share">(-?[\d.]+)%', told["list"])]
    assert len(shares) == told["size"] == len(told["names"])
    assert shares == sorted(shares, reverse=True)


def test_a_query_is_split_and_the_ranks_are_those_of_the_scores(server):
    view, opened, grouping = server.asked({"view": VIEW | {"ask": QUERY, "steer": "1:0.7,0:-0.4"}})
    model = server.workspace.model_of(opened.index)
    query = opened.index.embed(model.represent([QUERY]))[0]
    hits = hits_of(view, opened, grouping, query, server.workspace)
    expected = opened.vectors.astype(np.float64) @ (query + 0.7 * grouping.directions[1] - 0.4 * grouping.directions[0])
    assert hits.split.rows.tolist() == np.argsort(-expected, kind="stable").tolist()
    assert np.abs(hits.steered.sum(axis=1) - hits.split.scores).max() <= 1e-5
    assert np.abs(hits.split.residual).max() <= 1e-5
    before = np.argsort(-(opened.vectors @ query), kind="stable").tolist()
    assert hits.old.tolist() == [before.index(row) + 1 for row in hits.split.rows]
    html = str(render_hits(view, grouping, hits))
    assert html.count('class="g-split-hit"') == len(hits.shown)
    for item in re.findall(r'<li class="g-split-hit".*?g-split-sum', html, flags=re.S):
        pairs = re.findall(r'g-split-value">([+-][\d.]+)</span><span class="g-split-value">(-?[\d.]+)<', item)
        parts = [float(value) for _, value in pairs]
        score = float(re.search(r"g-split-steered[^>]*>(-?[\d.]+) =", item)[1])
        assert sum(parts) == pytest.approx(score, abs=5e-4)  # what is shown has four digits


def test_only_hits_that_have_a_reason(server):
    view, opened, grouping = server.asked({"view": VIEW | {"ask": QUERY, "reason": "2", "only": "1"}})
    query = opened.index.embed(server.workspace.model_of(opened.index).represent([QUERY]))[0]
    hits = hits_of(view, opened, grouping, query, server.workspace)
    assert hits.found == len(grouping.reasons[2].documents)
    assert set(hits.split.rows[hits.shown].tolist()) <= set(grouping.reasons[2].documents.tolist())
    told = server.ask({"view": VIEW | {"ask": QUERY, "reason": "2", "only": "1"}})["html"]
    assert 'data-of="2"' in told
    assert "<mark" in told


def test_corpus_texts_are_escaped_everywhere(server):
    grouping = server.of("world", "tiny-a").reasons.at()
    marked = server.workspace.index("world", "tiny-a").row["d03"]
    reason = next(one for one in grouping.reasons if marked in one.documents)
    pages, begin = [], 0
    while begin < len(reason.documents):
        pages.append(server.reason({"view": VIEW | {"reason": str(reason.number)}, "begin": begin})["html"])
        begin += 20
    pages.append(server.ask({"view": VIEW | {"ask": f"{SCRIPT} {IMAGE}"}})["html"])
    assert any("Marked &lt;script&gt;" in page for page in pages)
    assert not any("<script" in page or "<img" in page for page in pages)


@pytest.mark.parametrize(
    "view",
    [
        None,
        3,
        [],
        {},
        {"corpus": 3},
        {"corpus": "gone"},
        {"size": "11.5"},
        {"size": "-1"},
        {"size": "9" * 50},
        {"reason": "99999"},
        {"reason": "x"},
        {"reason": "²"},
        {"steer": "x"},
        {"steer": "0:9"},
        {"steer": "0:nan"},
        {"steer": ",".join(f"{i}:1" for i in range(9))},
        {"ask": "\x00"},
        {"model": "../tiny-a"},
        {"only": "1"},
        {"size": "10", "steer": "10:1"},
    ],
    ids=str,
)
def test_any_link_opens_and_says_what_is_wrong_with_it(server, view):
    told = server.functions()[0]({"view": VIEW | view if isinstance(view, dict) else view})
    assert "error" not in told
    if isinstance(view, dict) and view not in ({}, {"corpus": 3}, {"ask": "\x00"}, {"only": "1"}):
        assert told["problems"]
    read, _ = read_reasons(server.workspace, told["view"], strict=True)
    assert read.params() == told["view"]


@pytest.mark.parametrize(
    "name",
    [
        "reasons_reason",
        "reasons_ask",
        "reasons_compare",
        "reasons_make",
        "reasons_make_comparison",
        "reasons_progress",
        "reasons_stop",
    ],
)
@pytest.mark.parametrize(
    "data",
    [None, "x", {}, {"view": {"corpus": "gone"}}, {"view": VIEW | {"reason": "9999"}}, {"view": VIEW, "begin": "x"}],
)
def test_any_event_is_answered(server, name, data):
    (function,) = [one for one in server.functions() if one.__name__ == name]
    told = function(data)
    assert isinstance(told, dict)
    if name in ("reasons_reason", "reasons_ask"):
        assert "\n" not in told["error"]


def test_strengths_of_a_link():
    assert read_steer("3:0.5,7:-1") == ((3, 0.5), (7, -1.0))
    assert read_steer("3:0.5,3:0") == ()
    for wrong in ("3", "3:", "a:1", "3:2.1", "-1:1", "3:inf", ",".join(f"{i}:1" for i in range(9))):
        with pytest.raises(GraceError, match="steer"):
            read_steer(wrong)


def test_a_collection_without_rationales_says_so(server):
    told = server.open({"view": {"corpus": "plain"}})
    assert told["empty"]
    assert not told["offer"]
    assert "plain has no rationales" in told["html"]
    functions = {function.__name__: function for function in server.functions()}
    assert "no reasons" in functions["reasons_make"]({"view": {"corpus": "plain"}})["error"]
