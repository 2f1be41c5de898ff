"""Paths and names that a command cannot use: one line that says what was got and what to do, and nothing written."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from grace_core.model import GraceModel

BUILD = ("index", "build", "{corpus}", "--model", "{model}", "--out")
REFUSED = {  # of a command in a folder: what it says
    "out is a file": ((*BUILD, "file"), ("file is a file, expected a folder for the collection", "give another --out")),
    "out below a file": ((*BUILD, "file/x"), ("file/x: Not a directory", "check the path")),
    "no out": ((*BUILD, ""), ("--out is the current folder", "give one such as indexes/mine")),
    "out is the corpus": (
        (*BUILD, "beir"),
        ("beir holds corpus.jsonl, which would be read in the place", "give another --out"),
    ),
    "out is no collection": (
        (*BUILD, "junk"),
        ("junk/corpus.parquet cannot be read", "remove the folder and build again"),
    ),
    "out is another's": (
        (*BUILD, "table"),
        ("table/corpus.parquet has the columns a, expected _id, title, text", "no collection's"),
    ),
    "name with a path": (
        (*BUILD, "new", "--name", "../x"),
        ("'../x' is no name for a model's folder; give one such as 'x'",),
    ),
    "name of dots": ((*BUILD, "new", "--name", ".."), ("'..' gives no name for a model's folder", "letters, digits")),
    "long name": ((*BUILD, "new", "--name", "n" * 300), ("gives no name for a model's folder", "at most 200 bytes")),
    "encode to a folder": (
        ("encode", "{corpus}", "--model", "{model}", "--out", "beir"),
        ("beir is a folder, expected a file to write",),
    ),
    "encode to a pipe": (
        ("encode", "{corpus}", "--model", "{model}", "--out", "pipe"),
        ("pipe is a device, expected a file to write",),
    ),
    "encode to CSV": (
        ("encode", "{corpus}", "--model", "{model}", "--out", "v.csv"),
        ("a Parquet file is written", "ends in .parquet"),
    ),
    "search nothing": (("search", "junk", "q", "--model", "tiny"), ("junk has no index of model 'tiny'",)),
    "info of nothing": (("index", "info", "table"), ("table/corpus.parquet has the columns a", "build again")),
    "model is a file": (
        ("encode", "{corpus}", "--model", "file", "--out", "v.parquet"),
        ("file is a file, expected a folder or a .gguf",),
    ),
}


@pytest.fixture(scope="module")
def model(tiny_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("refusing-models") / "tiny"
    GraceModel.from_pretrained(tiny_folder, max_new_tokens=2).save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with much that is in the way, which the command is run in."""
    for name in ("beir", "junk", "table"):
        (tmp_path / name).mkdir()
    (tmp_path / "beir" / "corpus.jsonl").write_text('{"_id": "1", "text": "a river"}\n')
    (tmp_path / "junk" / "corpus.parquet").write_text("mine")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "table" / "corpus.parquet")
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("name", REFUSED)
def test_a_path_or_a_name_that_cannot_be_used(grace, place, model, name):
    command, parts = REFUSED[name]
    before = tree(place)
    status, out, err = grace(*(word.format(corpus=place / "beir" / "corpus.jsonl", model=model) for word in command))
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (status, out, len(errors)) == (2, "", 1)
    for part in parts:
        assert part in errors[0]
    assert "Traceback" not in err
    assert tree(place) == before


@pytest.mark.parametrize(
    ("value", "file"), [("n" * 300, None), ("~/c.sqlite", "home/c.sqlite"), ("kept/", "kept/representations.sqlite")]
)
def test_where_the_cache_is(grace, place, model, monkeypatch, value, file):
    monkeypatch.setenv("HOME", str(place / "home"))
    monkeypatch.setenv("GRACE_CACHE", value)
    status, _, err = grace("encode", place / "beir" / "corpus.jsonl", "--model", model, "--out", "v.parquet")
    if file is None:
        assert status == 2
        assert "the cache nnn" in err
        assert "cannot be used (File name too long); set GRACE_CACHE to a file that can be written" in err
    else:
        assert (status, (place / file).is_file()) == (0, True)
