"""A collection that one may read and not write: ``grace reasons``, ``grace mend`` and ``grace eval worth`` show what can be
read, and say at once what could not be kept.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from read_only_folder import read_only

from grace_core.collection import Collection
from grace_core.index import build
from grace_core.model import GraceModel
from grace_core.readers import Corpus, Document, Judgements


@pytest.fixture(scope="module")
def built(sentences, tiny_folder, tmp_path_factory) -> Path:
    documents = [Document(f"d{i}", "", f"{sentences[i]} {sentences[i + 40]}", {}) for i in range(20)]
    queries = {f"q{i}": " ".join(sentences[i].split()[::2]) for i in range(6)}
    judged = Judgements(queries, {f"q{i}": {f"d{i}": 1} for i in range(6)}, {})
    model = GraceModel.from_pretrained(tiny_folder, dtype="float32", device="cpu", max_new_tokens=8)
    folder = tmp_path_factory.mktemp("built") / "c"
    build(Collection.create(Corpus(documents, judged, "made here", []), folder), model, geometry="calibrated")
    return folder


@pytest.fixture
def folder(built, tmp_path) -> Path:
    return shutil.copytree(built, tmp_path / "c")


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_reasons_that_are_there_are_shown_and_others_are_refused_at_once(grace, folder):
    before = files(folder)
    with read_only(folder):
        status, out, err = grace("reasons", folder, "-m", "tiny")
        assert status == 2
        assert "tiny cannot be written, and reasons are kept there; get the permission to write" in err
        assert not out
        assert files(folder) == before
    assert grace("reasons", folder, "-m", "tiny")[0] == 0
    with read_only(folder):
        for options in ([], ["--query", "river"], ["--against", "tiny:text"]):
            status, out, err = grace("reasons", folder, "-m", "tiny", *options)
            assert status == 0, err
            assert "reasons in" in out
        status, _, err = grace("reasons", folder, "-m", "tiny", "--seed", 5)
        assert status == 2
        assert "reasons are kept there" in err


def test_mends_are_tried_and_not_kept(grace, folder):
    status, _, err = grace("mend", "keep", folder, "d1", "--model", "tiny", "--remove")
    assert status == 0, err
    before = files(folder)
    with read_only(folder):
        for shown in (["why", folder], ["try", folder, "d2", "--remove"], ["list", folder], ["auto", folder]):
            status, out, err = grace("mend", *shown, "--model", "tiny")
            assert status == 0, err
            assert out
        for refused in (
            ["keep", folder, "d2", "--remove"],
            ["auto", folder, "--keep"],
            ["revert", folder, "m1"],
        ):
            status, out, err = grace("mend", *refused, "--model", "tiny")
            assert status == 2
            assert "cannot be written, and mends are kept there" in err.splitlines()[-1]
            assert not out
        assert files(folder) == before


def test_what_writing_was_worth_is_not_measured_for_nothing(grace, folder):
    with read_only(folder):
        status, out, err = grace("eval", "worth", folder, "--model", "tiny", "--save")
    assert status == 2
    assert "tiny cannot be written, and its figures are kept there" in err.splitlines()[-1]
    assert not out


def test_a_file_in_the_way_is_named_in_one_line(grace, folder):
    (folder / "tiny" / ".sentences").write_text("not a folder")
    status, out, err = grace("reasons", folder, "-m", "tiny")
    assert status == 2
    assert ".sentences: File exists; check the path" in err.splitlines()[-1]
    assert not out
