"""Was it worth writing? for programs: it starts from the rank that a search gives, and columns that write nothing are refused."""

from __future__ import annotations

import pytest
from explorer_world import QUERY

from grace_app.api import search_api, worth_api
from grace_core.errors import GraceError


def test_it_starts_from_the_rank_of_the_search(workspace):
    hits = search_api(workspace, QUERY, "world", "tiny-b", True, 5)["hits"]
    told = worth_api(workspace, QUERY, "world", "tiny-b", hits[2]["id"])
    for where in ("document", "query", "both"):
        assert told[where]["own"]["rank"] == 3
        assert told[where]["own"]["score"] == pytest.approx(hits[2]["score"], abs=1e-5)
        assert set(told[where]) == {"own", "empty", "swapped", "words"}
    assert told["tokens"]["document"] > 0
    assert told["other"] != hits[2]["id"]


@pytest.mark.parametrize(
    ("collection", "model"), [("world", "bm25"), ("plain", "tiny-a"), ("gone", "tiny-a"), ("world", 3)]
)
def test_what_writes_nothing_is_refused(workspace, collection, model):
    with pytest.raises(GraceError):
        worth_api(workspace, QUERY, collection, model, "d05")
