"""Whatever a program asks of the explorer's API: an answer that JSON can hold, or one line.

A few calls here; ``pytest tests/app/test_api_properties.py --hypothesis-profile=thorough`` makes ten thousand.
"""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from grace_app.api import encode_api, evaluate_api, explain_api, map_api, run_api, search_api, what_if_api
from grace_app.evaluate.evaluations import Evaluations
from grace_app.map.maps import Maps
from grace_app.training.runs import Runs
from grace_app.workspace.state import Workspace
from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.index import build
from grace_core.model import GraceModel
from grace_core.readers import Corpus, Document, Judgements

EXAMPLES = settings().max_examples if settings().max_examples > 100 else 60
TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "a river",
            "\u200b",
            "\0",
            "lone \ud83d",
            "<script>",
            "../x",
            "河流。",
            "x" * 30_000,
            "river " * 900,
            "2",
            "small",
        ]
    ),
    st.text(max_size=20),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)


def usual(*values):
    """Mostly one of these, and now and then anything."""
    return st.integers(0, 19).flatmap(lambda lot: JSON if lot == 0 else st.sampled_from(values))


WORDS = ("a river", "lone \ud83d", "<script>", "河流。", "\u200bx")
QUERY, COLLECTION, MODEL, FLAG = (
    st.one_of(usual(*WORDS), usual(*WORDS), TEXTS),
    usual("small"),
    usual("tiny"),
    usual(True, False),
)
DOCUMENT, COLUMN = usual("d0", "d1", "d2"), usual("tiny:rationale", "tiny:text")
CALLS = {
    "search": (QUERY, COLLECTION, MODEL, FLAG, usual(1, 2, 100)),
    "explain": (QUERY, COLLECTION, MODEL, DOCUMENT, FLAG, usual("", "d1")),
    "what_if": (
        QUERY,
        COLLECTION,
        MODEL,
        DOCUMENT,
        FLAG,
        usual(None, "a metal. it melts.", "x"),
        usual(None, "words"),
        FLAG,
        usual("", "year > 0", "year >"),
    ),
    "encode": (
        st.one_of(usual(*WORDS), st.lists(usual(*WORDS), min_size=1, max_size=3), TEXTS),
        MODEL,
        FLAG,
        usual("query", "document"),
    ),
    "evaluate": (COLLECTION, COLUMN, COLUMN, usual("", "all", "test"), FLAG),
    "map": (COLLECTION, st.one_of(COLUMN, st.lists(COLUMN, min_size=1, max_size=3))),
    "run": (usual("nope"),),
}


@pytest.fixture(scope="module")
def calls(new_model, tmp_path_factory):
    """The API's functions over a collection of three documents, by name."""
    root = tmp_path_factory.mktemp("api")
    new_model("qwen2", max_new_tokens=3, max_prompt_tokens=150).save_pretrained(root / "models" / "tiny")
    model = GraceModel.from_pretrained(root / "models" / "tiny", device="cpu")
    documents = [
        Document(f"d{i}", f"Title {i}", text, {"year": i})
        for i, text in enumerate(("a river.", "a metal. it melts.", "a violin"))
    ]
    judgements = Judgements(
        {"q1": "river", "q2": "metal"}, {"q1": {"d0": 1}, "q2": {"d1": 1}}, {"q1": "test", "q2": "dev"}
    )
    build(Collection.create(Corpus(documents, judgements, "made here", ["year"]), root / "indexes" / "small"), model)
    workspace = Workspace(root / "indexes", cache_path=root / "cache.sqlite")
    evaluations, maps, runs = Evaluations(workspace), Maps(workspace), Runs(root / "runs")
    return {
        "search": lambda *given: search_api(workspace, *given),
        "explain": lambda *given: explain_api(workspace, *given),
        "what_if": lambda *given: what_if_api(workspace, *given),
        "encode": lambda *given: encode_api(workspace, *given),
        "evaluate": lambda *given: evaluate_api(evaluations, *given),
        "map": lambda *given: map_api(maps, *given),
        "run": lambda *given: run_api(runs, *given),
    }


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), name=st.sampled_from(sorted(CALLS)))
def test_any_call(calls, data, name):
    given = [data.draw(strategy) for strategy in CALLS[name]]
    told = None
    try:
        answer = calls[name](*given)
    except GraceError as error:
        told = str(error)
    if told is None:
        json.dumps(answer, allow_nan=False)
        event(f"{name} answered")
    else:
        assert told
        assert "\n" not in told
        assert len(told) < 1500
        event(f"{name} refused")


@pytest.mark.parametrize("k", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_has_no_word_for(calls, k):
    with pytest.raises(GraceError, match="k must be a whole number"):
        calls["search"]("a river", "small", "tiny", True, k)
