"""The named endpoints, asked by gradio_client of an app that is really served."""

from __future__ import annotations

import base64

import numpy as np
import pytest
from explorer_world import QUERY, write_run
from gradio_client import Client
from gradio_client.exceptions import AppError


@pytest.fixture(scope="module")
def client(url):
    made = Client(url, verbose=False)
    yield made
    made.close()


def test_only_the_named_endpoints_are_offered(client):
    offered = set(client.view_api(return_format="dict", print_info=False)["named_endpoints"])
    assert offered == {"/search", "/explain", "/what_if", "/encode", "/map", "/evaluate", "/runs", "/run", "/worth"}


@pytest.mark.parametrize("rationale", [True, False])
def test_search_agrees_with_the_library(client, workspace, rationale):
    found = client.predict(
        query=QUERY, collection="world", model="tiny-b", rationale=rationale, k=4, api_name="/search"
    )
    index = workspace.index("world", "tiny-b")
    made = workspace.model_of(index).represent([QUERY], rationale=rationale)
    from grace_app.workspace.view import Column

    expected = index.hits(
        index.embed(made, Column("tiny-b", rationale).pooling)[0], 4, pooling=Column("tiny-b", rationale).pooling
    )
    assert found["query"] == QUERY
    assert found["rationale"] == made.rationales[0]
    assert [hit["id"] for hit in found["hits"]] == [hit.document.id for hit in expected]
    assert [hit["score"] for hit in found["hits"]] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    assert set(found["hits"][0]) == {
        "rank",
        "id",
        "score",
        "title",
        "text",
        "rationale",
        "truncated",
        "text_truncated",
        "metadata",
    }
    assert (found["truncated"], found["text_truncated"]) == (bool(made.truncated[0]), False)


def test_what_if_counts_ranks_within_a_filter(client):
    asked = {"query": QUERY, "collection": "world", "model": "bm25", "document": "d04", "edited_text": QUERY}
    whole = client.predict(**asked, api_name="/what_if")
    told = client.predict(**asked, filter="kind = 'tale' and year < 1925", api_name="/what_if")
    assert (whole["documents"], told["documents"]) == (30, 14)
    assert told["rank"] == 1 < told["old_rank"] <= whole["old_rank"]
    with pytest.raises(AppError, match="there is no column 'yaer'"):
        client.predict(**asked, filter="yaer > 3", api_name="/what_if")


def test_search_has_defaults(client):
    assert len(client.predict(QUERY, "world", "tiny-a", api_name="/search")["hits"]) == 10


@pytest.mark.parametrize("rationale", [True, False])
def test_encode_gives_unit_vectors(client, workspace, rationale):
    texts = ["the river rises", "a bridge was built"]
    made = client.predict(texts, "tiny-a", rationale, api_name="/encode")
    vectors = np.array(made["embeddings"])
    expected = workspace.named_model("tiny-a").encode(texts, rationale=rationale)
    assert (made["model"], made["dim"]) == ("tiny-a", vectors.shape[1])
    assert np.allclose(vectors, expected, atol=1e-5)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert [bool(written) for written in made["rationales"]] == [rationale] * 2
    assert (made["truncated"], made["text_truncated"]) == ([rationale] * 2, [False, False])


def test_encode_takes_one_text(client):
    assert len(client.predict("the river", "tiny-a", False, api_name="/encode")["embeddings"]) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("", "world", "tiny-a"), "the query is empty"),
        (("x" * 30_000, "world", "tiny-a"), "shorten it"),
        (("x", "nope", "tiny-a"), "there is no collection 'nope'"),
        (("x", "../world", "tiny-a"), "there is no collection"),
        (("x", "world", "Qwen/Qwen2.5-0.5B"), "has no 'Qwen/Qwen2.5-0.5B'"),
        (("x", "plain", "tiny-a", True), "plain has no 'tiny-a' with rationale=True"),
        (("x", "world", "tiny-a", "yes"), "true or false"),
        (("x", "world", "tiny-a", True, 0), "whole number from 1 to 100"),
        (("x", "world", "tiny-a", True, 1.5), "whole number"),
        (("x", "world", "tiny-a", True, 10**9), "whole number"),
        ((7, "world", "tiny-a"), "must be text"),
        (("x", {"a": 1}, "tiny-a"), "collection must be a name"),
    ],
)
def test_bad_searches_are_refused_in_a_sentence(client, arguments, said):
    with pytest.raises(AppError, match=said):
        client.predict(*arguments, api_name="/search")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((["x"] * 65, "tiny-a"), "got 65 texts"),
        (([], "tiny-a"), "got 0 texts"),
        (([" "], "tiny-a"), "text 0 is empty"),
        ((["x", "y" * 20_001], "tiny-a"), "text 1 has 20,001 characters"),
        (([1], "tiny-a"), "a list of texts"),
        (({"a": 1}, "tiny-a"), "a list of texts"),
        ((["x"], "someone/a-model"), "there is no model"),
        ((["x"], "/etc"), "there is no model"),
        ((["x"], "tiny-a", 1), "true or false"),
    ],
)
def test_bad_texts_are_refused_in_a_sentence(client, arguments, said):
    with pytest.raises(AppError, match=said):
        client.predict(*arguments, api_name="/encode")


def test_maps_are_told_compactly(client, workspace):
    columns = ["tiny-a:rationale", "tiny-b:rationale"]
    told = client.predict("world", columns, api_name="/map")
    assert told["ids"] == workspace.index("world", "tiny-a").ids
    for column in columns:
        sent = told["columns"][column]["points"]
        points = np.frombuffer(base64.b64decode(sent["data"]), sent["dtype"]).reshape(sent["shape"])
        assert points.shape == (30, 2)
        assert np.isfinite(points).all()
    kept = np.frombuffer(base64.b64decode(told["overlap"]["kept"]["data"]), told["overlap"]["kept"]["dtype"])
    assert kept.mean() == pytest.approx(told["overlap"]["mean"] * told["overlap"]["k"], abs=1e-5)
    refused = {
        "there is no collection": ("nope", columns),
        "world has no column 'x'": ("world", ["x"]),
        "1 to 4": ("world", []),
    }
    for said, arguments in refused.items():
        with pytest.raises(AppError, match=said):
            client.predict(*arguments, api_name="/map")


def test_training_runs_are_told(client, world):
    write_run(world.runs / "told")
    (listed,) = [run for run in client.predict(api_name="/runs") if run["name"] == "told"]
    assert (listed["state"], listed["steps"], listed["best"]) == ("finished", 6, {"step": 4, "ndcg@10": 0.5})
    run = client.predict("told", api_name="/run")
    assert [row["step"] for row in run["metrics"]] == [1, 2, 3, 4, 5, 6]
    assert run["evaluations"][0] == {"step": 0, "ndcg@10": 0.3}
    assert run["probes"][0]["probes"][0]["text"] == "probe text 0"
    with pytest.raises(AppError, match=r"there is no run '\.\./indexes'"):
        client.predict("../indexes", api_name="/run")
