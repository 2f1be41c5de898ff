"""Collections: what differs between corpora, builds that fail at once, judgements written and read; `grace
encode` and empty rows.
"""

from __future__ import annotations

import json

import pytest
from reader_files import HEADER, beir, jsonl, write

from grace_core.collection import Collection, difference
from grace_core.errors import GraceError
from grace_core.readers import read_corpus, stream_corpus

ROWS = [{"_id": f"d{i}", "text": f"passage {i}", "year": 1990 + i} for i in range(6)]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([*ROWS, {"_id": "e", "text": "x", "year": 1}], "got 7): 1 new ('e')"),
        (ROWS[:4], "got 4): 2 gone ('d4', 'd5')"),
        ([{**ROWS[0], "text": "other"}, *ROWS[1:]], "got 6): 1 changed ('d0')"),
        ([{**ROWS[0], "year": 3}, *ROWS[1:]], "got 6): 1 with other metadata ('d0')"),
        (ROWS[::-1], "got 6): the same documents in another order"),
        (
            [{**ROWS[0], "text": "y"}, *ROWS[2:], *({"_id": f"n{i}", "text": "x"} for i in range(10))],
            "got 15): 10 new ('n0', 'n1', 'n2', …), 1 changed ('d0'), 1 gone ('d1')",
        ),
    ],
)
def test_what_differs_is_told_by_id(tmp_path, rows, words):
    there = Collection.create(read_corpus(jsonl(tmp_path / "a.jsonl", *ROWS)), tmp_path / "c")
    other = stream_corpus(jsonl(tmp_path / "b.jsonl", *rows))
    assert words in difference(there, other)
    with pytest.raises(GraceError) as caught:
        Collection.create(other, tmp_path / "c")
    assert words in str(caught.value)
    assert "give another --out: texts that are the same are taken from the cache" in str(caught.value)


def test_a_first_build_that_fails_leaves_no_collection(grace, tmp_path, tiny_folder):
    empty = jsonl(tmp_path / "empty.jsonl", {"text": ""}, {"text": " "})
    two = jsonl(tmp_path / "two.jsonl", {"text": "a violin"}, {"text": "a river"})
    out = tmp_path / "new" / "c"
    status, _, err = grace("index", "build", empty, "--out", out, "--model", tiny_folder)
    assert (status, out.exists()) == (2, False)
    assert "none of the 2 documents of" in err
    status, _, err = grace("index", "build", two, "--out", out, "--model", tiny_folder, "--max-new-tokens", 100_000)
    assert (status, out.exists()) == (2, False), err
    out.mkdir(parents=True)
    write(out / "mine.txt", "stays")
    status, _, err = grace("index", "build", two, "--out", out, "--model", tiny_folder, "--max-new-tokens", 100_000)
    assert (status, [path.name for path in out.iterdir()]) == (2, ["mine.txt"])
    status, _, err = grace("index", "build", two, "--out", out, "--model", tiny_folder, "--max-new-tokens", 4)
    assert status == 0, err
    Collection(out).withdraw()  # does nothing to a collection that was there before
    assert Collection(out).models


def test_judgements_come_back_as_they_were(tmp_path):
    beir(tmp_path / "b", {"qrels.tsv": HEADER + 'q"1\td1\t0.5\nq"1\t"d2"\t-1\n'}, [{"_id": 'q"1', "text": "x"}])
    corpus = read_corpus(tmp_path / "b")
    assert Collection.create(corpus, tmp_path / "c").judgements == corpus.judgements
    beir(tmp_path / "b", {"qrels.tsv": HEADER + 'q"1\td1\t1\n'}, [{"_id": 'q"1', "text": "x"}])
    again = read_corpus(tmp_path / "b")
    Collection.create(again, tmp_path / "c")
    assert any("the queries and judgements that were there are replaced" in note for note in again.notes)


def test_the_build_tells_its_notes(grace, tmp_path, tiny_folder):
    beir(tmp_path / "b", {"qrels/test.tsv": HEADER + "q1\td1\t1\nq9\td1\t1\nq2\tgone\t1\n"})
    options = ("--model", tiny_folder, "--max-new-tokens", 4, "--json")
    status, out, err = grace("index", "build", tmp_path / "b", "--out", tmp_path / "c", *options)
    assert status == 0
    notes = json.loads(out)["notes"]
    assert len(notes) == 3
    assert all(f"note: {note}" in err for note in notes)


def test_encode_tells_the_rows_without_a_text(grace, tmp_path, tiny_folder):
    path = jsonl(tmp_path / "c.jsonl", {"id": "a", "text": None}, {"id": "b", "text": " "}, {"id": "c", "text": "real"})
    arguments = ("encode", path, "--model", tiny_folder, "--out", tmp_path / "v.parquet", "--max-new-tokens", 4)
    status, out, _ = grace(*arguments, "--json")
    assert (status, json.loads(out)["left_out"], json.loads(out)["documents"]) == (0, ["a", "b"], 1)
    assert "2 without any text left out: a, b" in grace(*arguments)[1]
    status, _, err = grace("encode", jsonl(path, {"text": ""}), *arguments[2:])
    assert status == 2
    assert "none of the 1 documents" in err
