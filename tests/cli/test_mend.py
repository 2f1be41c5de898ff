"""``grace mend``: from a failing query to a kept mend and back, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from grace_core.collection import Collection
from grace_core.index import build
from grace_core.model import GraceModel
from grace_core.readers import Corpus, Document, Judgements

OTHER = "The river is cold in winter."


@pytest.fixture(scope="module")
def built(sentences, tiny_folder, tmp_path_factory) -> Path:
    """A judged collection with an index of the model ``tiny``, and one without judgements: to be left as they are."""
    folder = tmp_path_factory.mktemp("built")
    documents = [Document(f"d{i}", "", f"{sentences[i]} {sentences[i + 40]}", {}) for i in range(20)]
    queries = {f"q{i}": " ".join(sentences[i].split()[::2]) for i in range(10)}
    judged = Judgements(queries, {f"q{i}": {f"d{i}": 1} for i in range(10)}, {f"q{i}": "dev" for i in range(8)})
    model = GraceModel.from_pretrained(tiny_folder, dtype="float32", device="cpu", max_new_tokens=8)
    for name, judgements in (("judged", judged), ("unjudged", None)):
        build(
            Collection.create(Corpus(documents, judgements, "made here", []), folder / name),
            model,
            geometry="calibrated",
        )
    return folder


@pytest.fixture
def folder(built, tmp_path) -> Path:
    return shutil.copytree(built / "judged", tmp_path / "c")


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes() for path in (folder / "tiny").iterdir() if not path.name.startswith((".", "mends"))
    }


def ask(grace, *args) -> dict:
    status, out, err = grace("mend", *args, "--model", "tiny", "--json")
    assert status == 0, err
    return json.loads(out)


def test_reasons_are_made_again_after_a_mend_and_after_it_is_reverted(grace, folder):
    def sentences() -> int:
        status, out, err = grace("reasons", folder, "--model", "tiny", "--json")
        assert status == 0, err
        return json.loads(out)["sentences"]

    before = sentences()
    ask(grace, "keep", folder, "d3", "--rationale", "It is cold. It is old. It is far. It is near. It is new.")
    assert sentences() > before
    ask(grace, "revert", folder, "m1")
    assert sentences() == before


def test_a_document_is_no_mend_and_its_mends_are_named(grace, folder):
    ask(grace, "keep", folder, "d3", "--rationale", OTHER)
    status, _, err = grace("mend", "revert", folder, "d3", "--model", "tiny")
    assert status == 2
    assert "there is no mend 'd3'; there are: m1 (d3)" in err


def test_from_a_failing_query_to_a_mend_and_back(grace, folder, tmp_path):
    before = files(folder)
    failing = ask(grace, "why", folder, "--split", "dev")
    assert failing["queries"] == 8
    why = ask(grace, "why", folder, failing["failing"][0])
    assert why["failing"]
    assert sum(why["blocks"].values()) == pytest.approx(why["difference"])
    tried = ask(grace, "try", folder, why["right"], "--split", "dev", "--rationale", OTHER)
    assert tried["changed"]
    assert tried["replay"]["queries"] == 8
    assert files(folder) == before
    kept = ask(grace, "keep", folder, why["right"], "--split", "dev", "--rationale", OTHER, "--note", "cold")
    assert kept["replay"] == tried["replay"]
    assert kept["mend"]["id"] == "m1"
    listed = ask(grace, "list", folder)
    assert (listed["in_force"], listed["ok"], listed["mends"][0]["new"]["rationale"]) == (1, True, OTHER)
    assert "1 mends in force, 0 reverted" in grace("index", "info", folder)[1]
    assert "1 mends of tiny in force" in grace("index", "verify", folder)[1]
    assert ask(grace, "export", folder, tmp_path / "m.json")["mends"] == 1
    assert ask(grace, "revert", folder, "m1")["state"] == "reverted"
    assert files(folder) == before
    taken = ask(grace, "import", folder, tmp_path / "m.json")
    assert [mend["kind"] for mend in taken["kept"]] == ["import"]
    assert ask(grace, "try", folder, why["right"], "--split", "dev", "--rationale", OTHER)["changed"] is False


def test_the_text_says_the_same(grace, folder):
    status, out, _ = grace("mend", "keep", folder, "d3", "--model", "tiny", "--remove", "--note", "no use")
    assert status == 0
    assert "all judged queries (10): nDCG@10" in out
    assert "kept as m1" in out
    assert "m1 " in grace("mend", "list", folder, "--model", "tiny")[1]
    assert "no use" in grace("mend", "list", folder, "--model", "tiny")[1]
    assert "m1 reverted" in grace("mend", "revert", folder, "m1", "--model", "tiny")[1]
    assert "no relevant document stands first" in grace("mend", "why", folder, "--model", "tiny")[1]


def test_by_rule_nothing_is_written_unless_asked_for(grace, folder):
    before = files(folder)
    made = ask(grace, "auto", folder, "--failing", 6, "--no-guard")
    assert files(folder) == before
    assert made["outcomes"]["kept"] >= 1
    assert made["all"]["queries"] == 10
    kept = ask(grace, "auto", folder, "--failing", 6, "--no-guard", "--keep")
    assert kept["all"] == made["all"]
    assert ask(grace, "list", folder)["in_force"] == len(kept["kept"]) >= 1
    assert "guard on:" in grace("mend", "auto", folder, "--model", "tiny", "--failing", 2)[1]


def test_without_judgements_a_mend_is_kept_but_not_tried(grace, built, tmp_path):
    folder = shutil.copytree(built / "unjudged", tmp_path / "c")
    for args in (["try", folder, "d3", "--remove"], ["auto", folder], ["why", folder]):
        status, _, err = grace("mend", *args, "--model", "tiny")
        assert status == 2
        assert "no queries.jsonl and qrels" in err
    kept = ask(grace, "keep", folder, "d3", "--remove")
    assert "replay" not in kept
    assert kept["mend"]["kind"] == "remove"


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["try", "nobody", "--remove"], "holds no document 'nobody'; take an id that a search shows"),
        (["try", "d3"], "one of --rationale TEXT, --remove, or --seed and --system"),
        (["try", "d3", "--remove", "--seed", "1"], "one of --rationale TEXT, --remove, or --seed and --system"),
        (
            ["try", "d3", "--remove", "--temperature", "1"],
            "--temperature is of a rationale that the model writes again",
        ),
        (["try", "d3", "--remove", "--split", "none"], "the dataset has no split 'none'"),
        (["try", "d3", "--rationale", "snow " * 3000], "takes at most"),
        (["why", "nobody"], "'nobody' is no judged query here"),
        (["revert", "m7"], "there is no mend 'm7'; there are: none"),
        (["export", "x.json"], "no mend in force"),
        (["import", "x.json"], "x.json is missing"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_is_refused_is_said_in_one_line(grace, built, tmp_path, monkeypatch, args, told):
    monkeypatch.chdir(tmp_path)
    status, out, err = grace("mend", args[0], built / "judged", *args[1:], "--model", "tiny")
    assert (status, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert told in lines[0]


def test_an_unchanged_rationale_is_not_kept(grace, folder):
    grace("mend", "keep", folder, "d3", "--model", "tiny", "--rationale", OTHER)
    status, _, err = grace("mend", "keep", folder, "d3", "--model", "tiny", "--rationale", OTHER)
    assert status == 2
    assert "has that very rationale" in err


def test_an_update_tells_of_mends_that_are_not_in_force_any_more(grace, folder, tiny_folder, tmp_path, sentences):
    for document in ("d3", "d4"):
        grace("mend", "keep", folder, document, "--model", "tiny", "--rationale", OTHER)
    rows = [
        {"_id": f"d{i}", "text": sentences[200] if i == 4 else f"{sentences[i]} {sentences[i + 40]}"} for i in range(20)
    ]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    status, out, err = grace(
        "index", "build", tmp_path / "c.jsonl", "--out", folder, "--model", tiny_folder, "--max-new-tokens", 8
    )
    assert status == 0, err
    assert "1 mends are no longer in force; 1 carried: m2 of 'd4': the text of its document changed" in out + err
    assert "1 mends in force, 0 reverted, 1 no longer in force" in grace("index", "info", folder)[1]
