"""The Mend tab's answers: failing queries and causes, tries that are the replay of the command, kept and reverted, and where
nothing may be changed.
"""

from __future__ import annotations

import re
import shutil

import pytest
from explorer_world import IMAGE, QUERY, SCRIPT, make_world
from small_world import make_small

from grace_app.mending.server import STALE, MendServer
from grace_app.mending.tab import explored
from grace_app.mending.view import read_mend
from grace_app.workspace.state import Workspace
from grace_cli.mend_report import try_command
from grace_core.collection import Collection
from grace_core.index import build
from grace_core.model import GraceModel
from grace_core.passages import Chunk
from grace_core.readers import Corpus, Document, Judgements
from grace_core.readers.chunked import chunked

VIEW = {"corpus": "world", "model": "tiny-a", "judged": "all", "queries": "all"}
WORDS = "A river under a bridge in summer."


@pytest.fixture(scope="module")
def built(tmp_path_factory, new_model, sentences):
    made = make_world(tmp_path_factory.mktemp("mend"), new_model, sentences)
    make_small(made, sentences)
    judged = Judgements({"q": sentences[0]}, {"q": {"long": 1}}, {})
    long = chunked(Corpus([Document("long", "", " ".join(sentences[:6]), {})], judged, "made here", []), Chunk(8, 0))
    build(Collection.create(long, made.indexes / "passages"), GraceModel.from_pretrained(made.model, device="cpu"))
    return made


@pytest.fixture
def indexes(built, tmp_path):
    return shutil.copytree(built.indexes, tmp_path / "indexes")


@pytest.fixture
def server(built, indexes):
    return MendServer(Workspace(indexes, preferred="world", cache_path=built.root / "cache.sqlite"))


def ask(server, name: str, **data) -> dict:
    (function,) = [one for one in server.functions() if one.__name__ == f"mend_{name}"]
    return function({"view": VIEW} | data)


def read(server) -> None:
    done, total = 0, 1
    while done < total:
        told = ask(server, "read", done=done)
        assert told["done"] > done
        done, total = told["done"], told["total"]
    assert total == 3


def test_failing_queries_lead_to_causes_and_documents(server):
    read(server)
    listed = ask(server, "failing")["html"]
    failing = re.findall(r'data-query="([^"]+)"', listed)
    assert failing
    assert set(failing) <= {"q1", "q2", "q3"}
    for query in failing:
        told = ask(server, "query", view=VIEW | {"query": query})["html"]
        failure = server.mender(*server.asked({"view": VIEW})).diagnose(["q1", "q2", "q3"].index(query))
        assert told.count('class="g-mend-cause"') == len(failure.causes)
        assert f"rank {failure.right_rank}" in told
        for document in (failure.wrong, failure.right):
            assert "Try these words" in ask(server, "document", view=VIEW | {"document": document})["html"]


def test_a_try_is_that_of_the_command_and_writes_nothing(server, indexes, built):
    before = {path: path.read_bytes() for path in (indexes / "world").rglob("*") if path.is_file()}
    tried = ask(server, "try", view=VIEW | {"document": "d05", "query": "q1"}, kind="edit", rationale=f" {WORDS}\n")
    assert tried["token"]
    assert before == {path: path.read_bytes() for path in (indexes / "world").rglob("*") if path.is_file()}
    result, _ = try_command(
        indexes / "world",
        "d05",
        "tiny-a",
        split=None,
        queries=None,
        rationale=WORDS,
        remove=False,
        seed=None,
        system=None,
        temperature=None,
        device="cpu",
    )
    replay = result["replay"]
    figures = f"nDCG@10 {replay['before']:.4f} → {replay['after']:.4f}, {replay['change']:+.5f}".replace("-", "−")
    assert figures in tried["html"]
    index = server.workspace.index("world", "tiny-a")
    asked = index.embed(server.workspace.model_of(index).represent([QUERY]))[0]
    old = 1 + int((index.scores(asked) > index.scores(asked)[index.row["d05"]]).sum())
    assert f"before at {old}." in tried["html"]
    assert f"{len(replay['wins'])} win, {len(replay['losses'])} lose" in tried["html"]


def test_a_mend_is_kept_with_its_note_and_reverted(server, indexes):
    index = server.workspace.index("world", "tiny-a")
    old = index.rationales[index.row["d05"]]
    tried = ask(server, "try", view=VIEW | {"document": "d05"}, kind="edit", rationale=f"{WORDS} {SCRIPT}")
    other = ask(server, "try", view=VIEW | {"document": "d02"}, kind="remove")
    kept = ask(server, "keep", token=tried["token"], note=f"too general {IMAGE}")
    assert kept == {"mend": "m1", "document": "d05"}
    index = server.workspace.index("world", "tiny-a")
    assert index.rationales[index.row["d05"]] == f"{WORDS} {SCRIPT}"
    history = ask(server, "open")["history"]
    assert "in force" in history
    assert "too general &lt;img" in history
    assert "<script" not in history
    assert ask(server, "keep", token=other["token"], note="")["error"] == STALE  # replayed before the other was kept
    assert (
        "nothing changes"
        in ask(server, "try", view=VIEW | {"document": "d05"}, kind="edit", rationale=f"{WORDS} {SCRIPT}")["html"]
    )
    assert ask(server, "revert", mend="m1")["document"] == "d05"
    index = server.workspace.index("world", "tiny-a")
    assert index.rationales[index.row["d05"]] == old
    assert "reverted" in ask(server, "open")["history"]
    assert "not in force" in ask(server, "revert", mend="m1")["error"]


def test_written_again_with_a_seed(server):
    first, second = (
        ask(server, "try", view=VIEW | {"document": "d05"}, kind="regenerate", seed=seed) for seed in (1, 2)
    )
    assert first["html"] != second["html"]


@pytest.mark.parametrize(
    ("corpus", "line"),
    [
        ("plain", "plain has no rationales"),
        ("unjudged", "unjudged has no judged queries"),
        ("passages", "holds passages, and mends are of whole documents: build the corpus once more without --chunk"),
    ],
)
def test_where_nothing_can_be_mended_a_line_says_why(server, corpus, line):
    told = ask(server, "open", view={"corpus": corpus})
    assert line in told["refusal"]
    for name in ("read", "failing", "query", "document", "try", "keep", "revert"):
        assert line in ask(server, name, view={"corpus": corpus}, kind="remove", token="x", mend="m1")["error"]


def test_nothing_is_changed_for_strangers(server):
    server.workspace.open_to_all = True
    assert "without a password" in ask(server, "open")["refusal"]
    assert "without a password" in ask(server, "try", view=VIEW | {"document": "d05"}, kind="remove")["error"]
    server.workspace.open_to_all = False
    assert ask(server, "open")["refusal"] == ""


@pytest.mark.parametrize("name", ["open", "read", "failing", "query", "document", "try", "keep", "revert"])
@pytest.mark.parametrize(
    "data",
    [
        {"view": None},
        {"view": {"corpus": "gone"}},
        {"view": VIEW | {"query": "gone"}},
        {"view": VIEW | {"document": "../x"}},
        {"view": VIEW | {"document": "d05"}, "kind": "edit", "rationale": 3, "token": 3, "mend": 3},
        {"view": VIEW | {"document": "d05"}, "kind": "regenerate", "seed": -1, "done": "x"},
        {"view": VIEW | {"document": "d05"}, "kind": "edit", "rationale": "x" * 20_001, "mend": "m9"},
    ],
    ids=str,
)
def test_any_event_is_answered(server, name, data):
    told = ask(server, name, **data)
    assert isinstance(told, dict)
    if name in ("keep", "revert"):
        assert "\n" not in told["error"]


@pytest.mark.parametrize(
    "more", [{"model": "x"}, {"judged": "x"}, {"queries": "x"}, {"query": "x"}, {"document": "x"}], ids=str
)
def test_a_wrong_link_says_what_is_wrong(server, more):
    view, problems = read_mend(server.workspace, VIEW | more)
    assert len(problems) == 1
    assert read_mend(server.workspace, view.params(), strict=True)[0] == view


def test_the_open_query_leads_to_explore(server):
    view = explored(server, {"view": VIEW | {"query": "q3"}})
    assert (view.query, view.a.id, view.b.id) == ("how fast the ice melts", "tiny-a:text", "tiny-a:rationale")
