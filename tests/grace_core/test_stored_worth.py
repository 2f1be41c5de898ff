"""What ``grace eval worth --save`` keeps beside an index: the same figures again, and only for what they were measured with."""

from __future__ import annotations

import json

import pytest
from worth_world import ABOUT, BUDGETS, random_summary

from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.evaluation import stored_worth
from grace_core.index import GraceIndex, build
from grace_core.readers import Corpus, Document, Judgements


@pytest.fixture
def index(tiny_models, sentences, tmp_path) -> GraceIndex:
    documents = [Document(f"d{i}", "", text, {}) for i, text in enumerate(sentences[:12])]
    judgements = Judgements({"q": "river"}, {"q": {"d1": 1}}, {"q": "test"})
    return build(
        Collection.create(Corpus(documents, judgements, "made here", []), tmp_path / "c"), tiny_models["qwen2"]
    )


@pytest.mark.parametrize("gate", [True, False])
def test_what_is_kept_is_what_was_measured(index, gate):
    assert stored_worth.load(index) is None
    result = random_summary(gate=gate)
    stored_worth.save(index, ABOUT, result)
    kept = stored_worth.load(index)
    curves = kept.pop("curves")
    assert kept == ABOUT
    assert curves == stored_worth.curves(result)
    assert curves["budgets"] == [0, *BUDGETS]
    for side, values in result["budgets"].items():
        for place, n in enumerate(curves["budgets"]):
            low, mean, high = curves["sides"][side][place]
            assert ([low, high], mean) == (values[n]["ci95"], values[n]["mean"])
    if gate:
        assert curves["gate"]["values"] == result["gate"][128]["curve"]["ndcg@10"]
        assert curves["gate"]["gated"][1] == result["gate"][128]["gated"]["mean"]
    else:
        assert curves["gate"] is None


def test_it_stays_with_another_geometry_and_goes_with_other_judgements(index):
    stored_worth.save(index, ABOUT, random_summary())
    index.change_geometry("raw")
    assert stored_worth.load(GraceIndex(index.collection.folder, index.model_name)) is not None
    queries = index.collection.folder / "queries.jsonl"
    queries.write_text(queries.read_text(encoding="utf-8").replace("river", "a river"), encoding="utf-8")
    with pytest.raises(GraceError, match=r"other judgements than are here now; measure again: grace eval worth"):
        stored_worth.load(index)


@pytest.mark.parametrize(
    "damage",
    [
        lambda kept: kept.pop("result"),
        lambda kept: kept.update(queries="many"),
        lambda kept: kept["result"]["budgets"].pop("alone"),
        lambda kept: kept["result"]["budgets"]["both"]["16"].update(mean="<b>"),
        lambda kept: kept["result"]["budgets"]["both"]["16"].update(mean=float("nan")),
        lambda kept: kept["result"]["budgets"]["both"].pop("0"),
        lambda kept: kept["result"]["gate"]["128"]["curve"]["share"].pop(),
        lambda kept: kept["result"].update(gate=[]),
    ],
)
def test_a_damaged_file_is_told(index, damage):
    stored_worth.save(index, ABOUT, random_summary())
    path = index.folder / stored_worth.FILE
    kept = json.loads(path.read_text(encoding="utf-8"))
    damage(kept)
    path.write_text(json.dumps(kept), encoding="utf-8")
    with pytest.raises(GraceError, match="was damaged or edited; remove it and measure again"):
        stored_worth.load(index)
