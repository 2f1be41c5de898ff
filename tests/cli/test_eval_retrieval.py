"""``grace eval retrieval``: what it says of queries that are cut, and what it keeps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "grace_core"))

from columns_world import save_encoder

LONG = "river mountain " * 30


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory, sentences):
    """A collection whose second query of three is longer than the model and the encoder read."""
    from grace_core.collection import Collection
    from grace_core.columns import encoded
    from grace_core.columns.encoder import Encoder
    from grace_core.index import build
    from grace_core.model import GraceModel
    from grace_core.readers import Corpus, Document, Judgements

    root = tmp_path_factory.mktemp("eval-retrieval")
    documents = [Document(f"d{i}", "", text, {}) for i, text in enumerate(sentences[:12])]
    queries = {"q0": sentences[0].split(".")[0], "q1": LONG, "q2": sentences[7].split(".")[0]}
    qrels = {"q0": {"d0": 1}, "q1": {"d3": 1}, "q2": {"d7": 1}}
    splits = {"q0": "test", "q1": "test", "q2": "dev"}
    collection = Collection.create(Corpus(documents, Judgements(queries, qrels, splits), "here", []), root / "world")
    room = GraceModel.from_pretrained(tiny_folder, device="cpu").prompts.overhead + 24
    build(collection, GraceModel.from_pretrained(tiny_folder, device="cpu", max_new_tokens=4, max_prompt_tokens=room))
    encoded.build(collection, Encoder.load(str(save_encoder(root / "encoders" / "mini", sentences, limit=24))))
    return collection.folder


def test_queries_that_are_cut_are_counted_with_a_remedy(folder, grace):
    names = ("tiny", "bm25", "st:mini", "bm25+tiny", "rrf(bm25,st:mini)")
    options = [part for name in names for part in ("-m", name)]
    status, out, err = grace("eval", "retrieval", folder, *options, "--json")
    assert status == 0, err
    rows = json.loads(out)
    assert {name: row["truncated_queries"] for name, row in rows.items()} == {
        "tiny:text": 1,
        "tiny": 1,
        "bm25": 0,
        "st:mini": 1,
        "bm25+tiny": 1,
        "rrf(bm25,st:mini)": 1,
    }
    (note,) = rows["tiny"]["notes"]
    assert note.startswith("1 of 3 queries is cut to fit the prompt, which takes ")
    assert "shorten it, or run `grace index build` again" in note
    assert rows["bm25"]["notes"] == []
    assert rows["st:mini"]["notes"] == rows["rrf(bm25,st:mini)"]["notes"]
    assert rows["st:mini"]["notes"] == ["1 of 3 queries is longer than st:mini reads: shorten it"]
    text = grace("eval", "retrieval", folder, *options)[1]
    assert text.count(f"note: tiny: {note}") == 1  # of two rows
    assert "note: st:mini: 1 of 3" in text
    assert "note" not in grace("eval", "retrieval", folder, "-m", "tiny", "--split", "dev")[1]


def test_save_keeps_every_column(folder, grace):
    from grace_core.collection import Collection
    from grace_core.columns.opened import Columns
    from grace_core.evaluation import stored

    columns = Columns(Collection(folder))
    names = ("st:mini", "bm25+tiny", "rrf(bm25,st:mini)")
    options = [part for name in ("tiny", *names) for part in ("-m", name)]
    plain = grace("eval", "retrieval", folder, *options, "--bm25", "--split", "test", "--json")[1]
    assert not any(stored.path_of(columns.open(name)).exists() for name in ("bm25", *names))
    status, out, err = grace("eval", "retrieval", folder, *options, "--bm25", "--split", "test", "--save", "--json")
    assert status == 0, err
    assert json.loads(out) == json.loads(plain)
    assert (folder / "tiny" / "evaluation.parquet").is_file()
    kept = {name: stored.load_column(columns.open(name)) for name in ("bm25", *names)}
    assert [sorted(rows) for rows in kept.values()] == [["q0", "q1"]] * 4
    assert grace("eval", "retrieval", folder, "-m", "bm25", "--save")[0] == 0  # the other queries too
    again = stored.load_column(columns.open("bm25"))
    assert sorted(again) == ["q0", "q1", "q2"]
    assert kept["bm25"].items() <= again.items()  # whether it was asked for as a column or as the baseline


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--against", "nobody"), "--against is 'nobody', expected one of the rows: tiny:text, tiny, st:mini, bm25"),
        (("-m", "bm25+nobody"), "has no index of model 'nobody'"),
        (("-m", "st:nobody"), "has no vectors of the encoder st:nobody, there are: st:mini"),
    ],
)
def test_a_name_that_is_no_row_is_told_before_anything_is_encoded(folder, grace, monkeypatch, options, said):
    from grace_core.index import GraceIndex

    def load_model(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(GraceIndex, "load_model", load_model)
    status, _, err = grace("eval", "retrieval", folder, "-m", "tiny", "-m", "st:mini", "--bm25", *options)
    assert status == 2
    assert said in err
