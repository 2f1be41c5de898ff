"""Small data and runs of a few steps for the tests of training."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(scope="session")
def triplets(sentences, tmp_path_factory):
    """A JSONL file of 24 triplets whose query is the first half of its positive."""
    path = tmp_path_factory.mktemp("triplets") / "triplets.jsonl"
    texts = [f"{number} {text}" for number, text in enumerate(sentences[:48])]  # the number makes each of them another
    rows = [
        {"query": texts[i][: len(texts[i]) // 2], "positive": texts[i], "negative": texts[24 + i]} for i in range(24)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def beir(sentences, tmp_path_factory):
    """A BEIR folder: 24 documents, 12 queries with two relevant documents each (grades 2 and 1), half of them
    train, half dev.
    """
    folder = tmp_path_factory.mktemp("beir")
    (folder / "qrels").mkdir()
    texts = [f"{number} {text}" for number, text in enumerate(sentences[:24])]
    documents = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)]
    queries = [{"_id": f"q{i}", "text": " ".join(texts[2 * i].split()[:4])} for i in range(12)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for split, numbers in (("train", range(6)), ("dev", range(6, 12))):
        lines = [f"q{i}\td{2 * i + k}\t{2 - k}" for i in numbers for k in range(2)]
        (folder / "qrels" / f"{split}.tsv").write_text(
            "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n", encoding="utf-8"
        )
    return folder


@pytest.fixture(scope="session")
def make_config(tiny_folder, triplets, beir):
    """A TrainConfig for the tiny model: ``make_config(out, **changes)``."""
    from grace_core.training.config import TrainConfig

    def make(out, **changes) -> TrainConfig:
        settings = {
            "model": str(tiny_folder),
            "out": str(out),
            "data": {"path": str(triplets), "format": "triplets"},
            "evaluation": {"path": str(beir), "split": "dev", "every": 2, "queries": 4, "documents": 12, "probes": 2},
            "max_prompt_tokens": 128,
            "max_new_tokens": 8,
            "batch": 4,
            "rollouts": 4,
            "steps": 2,
            "learning_rate": 1e-3,
            "report_to": [],
            "collapse": {"action": "warn"},
        } | changes
        if settings.get("objective") == "reference":
            settings.setdefault("beta", 0.0)
        return TrainConfig.model_validate(settings)

    return make


@pytest.fixture(scope="session")
def unsupervised(triplets, tmp_path_factory):
    """The triplets' positives as plain text, a line each."""
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    rows = [json.loads(line) for line in triplets.read_text(encoding="utf-8").splitlines()]
    path.write_text("\n".join(row["positive"] for row in rows) + "\n", encoding="utf-8")
    return {"mode": "unsupervised", "data": {"path": str(path), "format": "texts"}}
