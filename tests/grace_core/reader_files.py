"""Files for the readers' tests, and what reading them gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grace_core.errors import GraceError
from grace_core.readers import read_corpus


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def jsonl(path: Path, *rows: object) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def fails(source: object, *parts: str, **options: object) -> str:
    """The message of the error that reading raises: one line, with these parts."""
    with pytest.raises(GraceError) as caught:
        read_corpus(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1200
    for part in parts:
        assert part in message, message
    return message


def texts(source: object, **options: object) -> list[tuple[str, str, str]]:
    return [(d.id, d.title, d.text) for d in read_corpus(source, **options).documents]


def beir(folder: Path, qrels: dict[str, str], queries: list[dict] | None = None) -> Path:
    jsonl(
        folder / "corpus.jsonl",
        *({"_id": i, "title": "", "text": f"text {i}", "metadata": {}} for i in ("d1", "d2", "d3")),
    )
    queries = (
        [{"_id": "q1", "text": "one", "split": "dev"}, {"_id": "q2", "text": "two"}] if queries is None else queries
    )
    jsonl(folder / "queries.jsonl", *queries)
    for name, content in qrels.items():
        write(folder / name, content)
    return folder


HEADER = "query-id\tcorpus-id\tscore\n"
