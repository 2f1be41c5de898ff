"""What choosing among a model's own rationales could give, with a tiny model."""

from __future__ import annotations

import json
from random import Random

import numpy as np
import pytest

from grace_core.errors import GraceError
from grace_core.evaluation import headroom
from grace_core.evaluation.retrieval import Judged


@pytest.fixture(scope="module")
def judged(sentences) -> Judged:
    documents = {f"d{i}": text for i, text in enumerate(sentences[:24])}
    queries = {f"q{i}": " ".join(documents[f"d{i}"].split()[:4]) for i in range(6)}
    return Judged(queries, documents, {f"q{i}": {f"d{i}": 1, f"d{i + 6}": 2} for i in range(6)})


def test_reward_against_loops():
    rng = np.random.default_rng(0)
    queries, documents = rng.normal(size=(2, 3, 5)), rng.normal(size=(7, 5))
    relevant = [[0], [1, 2], [6]]
    found = headroom.reward(queries, documents, relevant, temperature=0.5)
    for k in range(2):
        for i in range(3):
            scores = [sum(queries[k, i] * documents[j]) / 0.5 for j in range(7)]
            total = np.log(sum(np.exp(score) for score in scores))
            assert found[k, i] == pytest.approx(np.mean([scores[j] - total for j in relevant[i]]))


def test_words_stay_and_only_their_order_changes():
    text = "one two two three four five six"
    shuffled = headroom.shuffled_words(text, Random(1))
    assert sorted(shuffled.split()) == sorted(text.split())
    assert shuffled != text


def test_best_and_worst_are_chosen_by_the_reward(tiny_models, judged):
    tiny = tiny_models["qwen2"]
    result = headroom.measure(tiny, judged, samples=3)
    assert result["per_query"].keys() == result["columns"].keys()
    assert result["columns"].keys() >= {
        "none",
        "greedy",
        "mean",
        "best",
        "worst",
        "another's",
        "shuffled",
        "mean vector",
    }
    assert all(len(values) == 6 and ((values >= 0) & (values <= 1)).all() for values in result["per_query"].values())
    assert result["reward_spread"] > 0
    assert result == headroom.measure(tiny, judged, samples=3) | {"per_query": result["per_query"]}
    with pytest.raises(GraceError, match="got 6 queries and 1 samples"):
        headroom.measure(tiny, judged, samples=1)


def test_the_command(grace, judged, tiny_folder, tmp_path):
    for name, texts in (("corpus", judged.documents), ("queries", judged.queries)):
        rows = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    lines = [
        f"{query}\t{document}\t{grade}" for query, grades in judged.qrels.items() for document, grade in grades.items()
    ]
    (tmp_path / "qrels.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]), encoding="utf-8")
    options = ("--samples", 2, "--documents", 16, "--queries", 3)
    status, out, err = grace("eval", "headroom", tmp_path, "--model", tiny_folder, *options, "--json")
    assert status == 0, err
    result = json.loads(out)
    assert (result["samples"], result["queries"], result["documents"]) == (2, 3, 16)
    assert 0 <= result["columns"]["best"]["mean"] <= 1
