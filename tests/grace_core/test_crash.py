"""A build that is killed at any moment goes on to the same files as one that was left alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pdf_files import pdf
from reader_files import write

from grace_core.index import GraceIndex
from grace_core.model import GraceModel


def content(folder: Path) -> dict[str, bytes]:
    """All files of a collection but the locks; in the manifest, what the clock decides is left out."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]
    files = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    manifest = json.loads(files.pop("tiny/manifest.json"))
    return files | {"manifest": {key: value for key, value in manifest.items() if key not in ("seconds", "sha256")}}


@pytest.mark.slow
def test_twenty_killed_builds_resume_to_identical_files(python, tiny_folder, sentences, tmp_path, root):
    model = tmp_path / "tiny"
    GraceModel.from_pretrained(tiny_folder, max_new_tokens=4).save_pretrained(model)
    rows = [{"_id": f"d{i}", "title": f"Number {i}", "text": sentences[i % len(sentences)]} for i in range(600)]
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (corpus / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "river"}))
    (corpus / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\n")
    run = python(root / "tests" / "grace_core" / "killed_builds.py", corpus, tmp_path / "out", model)
    assert run.returncode == 0, run.stderr[-2000:]
    attempts = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(attempts) == 20
    whole = content(tmp_path / "out" / "whole")
    for attempt in attempts:
        folder = Path(attempt["folder"])
        assert content(folder) == whole, attempt["moment"]
        ids = pq.read_table(folder / "tiny" / "rationales.parquet")["_id"].to_pylist()
        assert ids == [row["_id"] for row in rows]
    index = GraceIndex(tmp_path / "out" / "killed-19", "tiny")
    assert index.verify()["ok"]
    stages = Counter(
        "finished"
        if "tiny/manifest.json" in left
        else "finishing"
        if "tiny/rationales.parquet" in left
        else "shards"
        if any(name.startswith("tiny/.build/0") for name in left)
        else "before"
        for left in (attempt["left"] for attempt in attempts)
    )
    assert stages["shards"] >= 2, stages
    assert stages["finishing"] >= 2, stages


@pytest.mark.slow
def test_killed_builds_of_a_folder_in_passages_resume_to_identical_files(
    python, tiny_folder, sentences, tmp_path, root
):
    model, folder = tmp_path / "tiny", tmp_path / "docs"
    GraceModel.from_pretrained(tiny_folder, max_new_tokens=4).save_pretrained(model)
    for number in range(60):
        write(folder / f"{number:03}.md", f"# Number {number}\n\n" + " ".join(sentences[number : number + 8]))
    write(folder / "book.pdf", pdf([sentences[number] for number in range(100)]))
    write(
        folder / "page.html",
        "<title>A page</title>" + "".join(f"<h2>Part</h2><p>{sentence}" for sentence in sentences[:40]),
    )
    options = ("--chunk", 20, "--overlap", 8)
    run = python(root / "tests" / "grace_core" / "killed_builds.py", folder, tmp_path / "out", model, *options)
    assert run.returncode == 0, run.stderr[-2000:]
    attempts = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(attempts) == 20
    whole = content(tmp_path / "out" / "whole")
    assert [attempt["moment"] for attempt in attempts if content(Path(attempt["folder"])) != whole] == []
    index = GraceIndex(tmp_path / "out" / "killed-19", "tiny")
    assert index.verify()["ok"]
    assert len(index.collection.passages) == 62
    assert index.collection.whole("book.pdf").text == "\f".join(sentences[:100])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gguf", "geometry", "training"])
def test_a_killed_command_is_run_again_as_if_it_had_not_been(python, tmp_path, root, kind):
    """Two moments of each; ``python tests/grace_core/killed_commands.py`` takes as many as one likes."""
    run = python(root / "tests" / "grace_core" / "killed_commands.py", kind, tmp_path, "--moments", 2, "--at-files")
    assert run.returncode == 0, run.stderr[-2000:]
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(rows) == 2
    assert not any(row["killed"].startswith("not") for row in rows), rows
    assert [row["differs"] for row in rows] == [[], []], rows
