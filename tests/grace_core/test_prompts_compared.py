"""System prompts compared, with a tiny model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grace_core.errors import GraceError
from grace_core.evaluation import prompts
from grace_core.evaluation.prompts import Prompts, Sampled
from grace_core.evaluation.retrieval import Judged, per_query, rankings_of
from grace_core.geometry import Role, Statistics, fit
from grace_core.pooling import Pooling

OTHER = "Name the topic."


@pytest.fixture(scope="module")
def collections(sentences) -> list[Sampled]:
    def one(name: str, texts: list[str]) -> Sampled:
        documents = {f"d{i}": text for i, text in enumerate(texts[:16])}
        queries = {f"q{i}": " ".join(texts[i].split()[:4]) for i in range(5)}
        judged = Judged(queries, documents, {f"q{i}": {f"d{i}": 1} for i in range(5)})
        return Sampled(name, judged, [" ".join(text.split()[1:5]) for text in texts[8:14]])

    return [one("a", sentences[:16]), one("b", sentences[16:32])]


def test_every_prompt_has_statistics_of_the_other_collections_under_itself(tiny_models, collections):
    tiny = tiny_models["qwen2"]
    own = tiny.settings.system
    result = prompts.measure(tiny, collections, [Prompts(own, own), Prompts(OTHER, OTHER), Prompts(own, OTHER)])
    assert [(row["documents"], row["queries"]) for row in result["prompts"]] == [
        (own, own), (OTHER, OTHER), (own, OTHER),
    ]  # fmt: skip
    assert result["queries"] == {"a": 5, "b": 5}
    read = tiny.represent(list(collections[0].judged.documents.values()), system=OTHER)
    asked = tiny.represent(list(collections[0].judged.queries.values()), system=OTHER)
    theirs = tiny.represent(list(collections[1].judged.documents.values()), system=OTHER)
    queries = tiny.represent(list(collections[1].unlabelled), system=OTHER)
    statistics = Statistics.of((theirs.sums, theirs.counts), (queries.sums, queries.counts))
    geometry = fit("calibrated", (read.sums, read.counts), model=statistics)
    vectors = geometry.vectors(asked.sums, asked.counts, Pooling.FULL, Role.QUERY)
    documents = geometry.vectors(read.sums, read.counts, Pooling.FULL)
    names, qrels = list(collections[0].judged.queries), collections[0].judged.qrels
    by_hand = per_query(rankings_of(names, vectors, list(collections[0].judged.documents), documents), qrels)
    measured = result["prompts"][1]["collections"]["a"]["text+rationale"]["mean"]
    assert measured == pytest.approx(by_hand["ndcg@10"].mean(), abs=1e-4)
    assert result["prompts"][0]["against_first"]["text"] == {"mean": 0.0, "ci95": [0.0, 0.0]}
    apart = [
        np.mean([row["collections"][name]["text+rationale"]["mean"] for name in "ab"]) for row in result["prompts"][:2]
    ]
    assert result["prompts"][1]["against_first"]["text+rationale"]["mean"] == pytest.approx(
        apart[1] - apart[0], abs=2e-4
    )
    lengths = [len(ids) for ids in asked.rationale_ids]
    more = tiny.represent(list(collections[1].judged.queries.values()), system=OTHER)
    assert result["prompts"][1]["tokens"]["queries"] == pytest.approx(
        np.mean([np.mean(lengths), more.counts[:, 2].mean()]), abs=0.01
    )


def test_one_collection_has_no_others(tiny_models, collections):
    with pytest.raises(GraceError, match="got 1 collection, expected at least 2"):
        prompts.measure(tiny_models["qwen2"], collections[:1], [Prompts("a", "a")])


@pytest.fixture
def corpora(collections, tmp_path):
    for one in collections:
        folder = tmp_path / one.name
        (folder / "qrels").mkdir(parents=True)
        others = {f"t{i}": text for i, text in enumerate(one.unlabelled)}
        for name, texts in (("corpus", one.judged.documents), ("queries", one.judged.queries | others)):
            rows = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
            (folder / f"{name}.jsonl").write_text("\n".join(rows), encoding="utf-8")
        for split, pairs in (
            ("dev", [(q, d) for q, grades in one.judged.qrels.items() for d in grades]),
            ("train", [(q, "d9") for q in others]),
        ):
            lines = ["query-id\tcorpus-id\tscore", *(f"{q}\t{d}\t1" for q, d in pairs)]
            (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines), encoding="utf-8")
    return [tmp_path / one.name for one in collections]


def test_the_command(grace, corpora, tiny_folder):
    options = ("--model", tiny_folder, "--documents", 12, "--queries", 4, "--max-new-tokens", 6)
    status, out, err = grace(
        "eval", "prompts", *corpora, *options, "--system", OTHER, "--query-system", "Ask.", "--json"
    )
    assert status == 0, err
    result = json.loads(out)
    assert [row["queries"] for row in result["prompts"]][1:] == [OTHER, "Ask."]
    assert result["prompts"][2]["documents"] == result["prompts"][0]["documents"]
    assert result["max_new_tokens"] == 6
    status, out, _ = grace("eval", "prompts", *corpora, *options, "--system", OTHER)
    assert status == 0
    assert OTHER in out
    assert "% cut off" in out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ((), "there is no prompt to compare"),
        (("--system", OTHER, "--unlabelled", "dev"), "may not come from the queries that are measured (dev)"),
        (("--system", OTHER, "--split", "nope"), "no split 'nope'"),
    ],
)
def test_what_does_not_fit_is_refused(grace, corpora, tiny_folder, more, said):
    status, _, err = grace("eval", "prompts", *corpora, "--model", tiny_folder, *more)
    assert status == 2
    assert said in err
    status, _, err = grace("eval", "prompts", corpora[0], "--model", tiny_folder, "--system", OTHER)
    assert status == 2
    assert "expected at least 2" in err
