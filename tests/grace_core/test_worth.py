"""nDCG@10 against tokens written, with a tiny model: budgets by plain recomputation, the gate's table by
hand, the command.
"""

from __future__ import annotations

import json

import numpy as np
import pytest

from grace_core import gating
from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.evaluation import worth
from grace_core.evaluation.retrieval import Judged, per_query, rankings_of
from grace_core.evaluation.worth import OF_HIT, Worth
from grace_core.explain import Explainer
from grace_core.geometry import Role, fit
from grace_core.index import build
from grace_core.pooling import Pooling
from grace_core.readers import Corpus, Document


@pytest.fixture(scope="module")
def judged(sentences) -> Judged:
    documents = {f"d{i}": f"{i} {text}" for i, text in enumerate(sentences[:24])}
    queries = {f"q{i}": " ".join(documents[f"d{i}"].split()[1:5]) for i in range(6)}
    return Judged(queries, documents, {f"q{i}": {f"d{i}": 1, f"d{i + 6}": 2} for i in range(6)})


@pytest.fixture(scope="module")
def measured(tiny_models, judged):
    return worth.measure(tiny_models["qwen2"], judged, lengths=(12, 3, 6))


@pytest.mark.parametrize(
    ("side", "n"), [("both", 3), ("both", 12), ("queries", 6), ("alone", 3), ("queries", 0), ("both", 0)]
)
def test_budgets_are_what_they_are_called(tiny_models, judged, measured, side, n):
    """Every text once more with the first n tokens of what it wrote, by one pass of its own."""
    model = tiny_models["qwen2"]
    sums = {}
    for role, texts in ((Role.QUERY, judged.queries.values()), (Role.DOCUMENT, judged.documents.values())):
        ids = model.represent(list(texts), max_new_tokens=12).rationale_ids
        for length in (n, 12):
            rows = [model.represent_given([text], [one[:length]]) for text, one in zip(texts, ids, strict=True)]
            sums[role, length] = tuple(
                np.concatenate([getattr(row, part) for row in rows]) for part in ("sums", "counts")
            )
    document_length = n if side == "both" else 12
    geometry = fit("calibrated", sums[Role.DOCUMENT, document_length], model=None)
    pooling = Pooling.TEXT if side == "alone" or document_length == 0 else Pooling.FULL
    documents = geometry.vectors(*sums[Role.DOCUMENT, document_length], pooling)
    queries = geometry.vectors(*sums[Role.QUERY, n], Pooling.FULL if n else Pooling.TEXT, Role.QUERY)
    rankings = rankings_of(list(judged.queries), queries, list(judged.documents), documents)
    np.testing.assert_allclose(measured.ndcg[side][n], per_query(rankings, judged.qrels)["ndcg@10"], atol=1e-6)
    if (side, n) == ("queries", 0):
        best = -np.sort(-queries @ documents.T, axis=1)
        np.testing.assert_allclose(measured.margins, (best[:, 0] - best[:, 1]) / (best[:, 0] - best[:, 9]), atol=1e-4)


def test_tokens_are_those_that_are_written(tiny_models, judged, measured):
    lengths = [
        len(ids)
        for ids in tiny_models["qwen2"].represent(list(judged.queries.values()), max_new_tokens=12).rationale_ids
    ]
    for n in (0, 3, 6, 12):
        assert measured.query_tokens[n].tolist() == [min(length, n) for length in lengths]
        assert len(measured.document_tokens[n]) == 24


@pytest.mark.parametrize("lengths", [(), (0, 4)])
def test_budgets_that_are_none_are_refused(tiny_models, judged, lengths):
    with pytest.raises(GraceError, match="numbers of tokens above 0"):
        worth.measure(tiny_models["qwen2"], judged, lengths=lengths)


def sample(seed: int, m: int = 40, gain: float = 0.2) -> Worth:
    """Figures in which a rationale helps exactly where the margin is below 0.3."""
    rng = np.random.default_rng(seed)
    margins, without = rng.uniform(0, 1, m), rng.uniform(0.2, 0.6, m)
    written = without + np.where(margins < 0.3, gain, -0.1)
    ndcg = {side: {0: without, 16: written} for side in worth.SIDES}
    return Worth(ndcg, margins, {0: np.zeros(m), 16: np.full(m, 10.0)}, {0: np.zeros(m), 16: np.full(m, 12.0)})


def test_the_gate_is_chosen_on_dev_and_set_beside_always_never_and_random():
    test, dev = {"a": sample(0), "b": sample(1, 60)}, {"a": sample(2), "b": sample(3)}
    found = worth.summary(test, dev)
    joined = [np.concatenate([one.margins for one in dev.values()])]
    joined += [np.concatenate([one.ndcg["queries"][n] for one in dev.values()]) for n in (0, 16)]
    value = found["gate"][16]
    assert value["threshold"] == gating.choose(*joined).threshold
    assert 0.2 < value["threshold"] < 0.4
    writes = {name: one.margins < value["threshold"] for name, one in test.items()}
    gated = np.mean(
        [np.where(writes[n], one.ndcg["queries"][16], one.ndcg["queries"][0]).mean() for n, one in test.items()]
    )
    share = np.mean([w.mean() for w in writes.values()])
    assert value["gated"]["mean"] == pytest.approx(gated, abs=1e-4)
    assert value["wrote"] == pytest.approx(share, abs=1e-4)
    assert value["share_of_tokens"] == pytest.approx(share, abs=1e-4)
    assert value["query_tokens"] == pytest.approx(10 * share, abs=1e-3)
    random = np.mean(
        [
            (1 - writes[n].mean()) * one.ndcg["queries"][0].mean() + writes[n].mean() * one.ndcg["queries"][16].mean()
            for n, one in test.items()
        ]
    )
    assert value["random"]["mean"] == pytest.approx(random, abs=1e-4)
    for name in ("always", "never", "random"):
        assert value["less"][name]["mean"] == pytest.approx(value["gated"]["mean"] - value[name]["mean"], abs=2e-4)
        assert value["less"][name]["ci95"][0] > 0
    assert value["curve"]["ndcg@10"][0] == pytest.approx(value["never"]["mean"], abs=1e-4)
    assert value["curve"]["ndcg@10"][-1] == pytest.approx(value["always"]["mean"], abs=1e-4)
    assert json.loads(json.dumps(found, allow_nan=False))["budgets"]["both"]["16"]["document_tokens"] == 12


def test_without_dev_there_is_no_gate():
    found = worth.summary({"a": sample(0)}, {})
    assert found["gate"] == {}
    assert found["budgets"]["queries"][16]["over_none"]["mean"] == pytest.approx(
        (sample(0).ndcg["queries"][16] - sample(0).ndcg["queries"][0]).mean(), abs=1e-4
    )


@pytest.fixture(scope="module")
def folders(judged, tmp_path_factory):
    """A BEIR folder with the splits dev and test, and one without splits."""
    made = []
    for name in ("split", "whole"):
        folder = tmp_path_factory.mktemp("beir") / name
        folder.mkdir()
        for kind, texts in (("corpus", judged.documents), ("queries", judged.queries)):
            rows = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
            (folder / f"{kind}.jsonl").write_text("\n".join(rows), encoding="utf-8")
        lines = [
            f"{query}\t{document}\t{grade}"
            for query, grades in judged.qrels.items()
            for document, grade in grades.items()
        ]
        head = "query-id\tcorpus-id\tscore"
        if name == "whole":
            (folder / "qrels.tsv").write_text("\n".join([head, *lines]), encoding="utf-8")
        else:
            (folder / "qrels").mkdir()
            for split, some in (("dev", lines[:6]), ("test", lines[6:])):
                (folder / "qrels" / f"{split}.tsv").write_text("\n".join([head, *some]), encoding="utf-8")
        made.append(folder)
    return made


def test_the_command(grace, folders, tiny_folder):
    options = ("--model", tiny_folder, "--tokens", "3,6", "--documents", 16, "--queries", 3)
    status, out, err = grace("eval", "worth", *folders, *options, "--json")
    assert status == 0, err
    found = json.loads(out)
    assert (found["collections"], found["chosen_on"]) == (["split", "whole"], ["split"])
    assert found["budgets"].keys() == {"both", "queries", "alone"}
    assert found["budgets"]["both"].keys() == {"0", "3", "6"}
    assert found["gate"].keys() == {"3", "6"}
    assert found["per_query"]["test"].keys() == {"split", "whole"}
    assert len(found["per_query"]["dev"]["split"]["margins"]) == 3
    assert "split, dev: 3 queries" in err
    status, out, _ = grace("eval", "worth", folders[1], *options)
    assert status == 0
    assert "no corpus has the split that a gate would be chosen on" in out


@pytest.fixture(scope="module")
def built(folders, tiny_folder, tmp_path_factory):
    """The folder with splits as a collection with an index of the model."""
    from grace_core.model import GraceModel
    from grace_core.readers import read_corpus

    collection = Collection.create(read_corpus(folders[0]), tmp_path_factory.mktemp("built") / "c")
    build(collection, GraceModel.from_pretrained(tiny_folder, device="cpu"), name="tiny")
    return collection.folder


def test_what_is_measured_is_kept_and_drawn(grace, built, tmp_path):
    from grace_core.evaluation import stored_worth
    from grace_core.index import GraceIndex

    drawn = tmp_path / "worth.svg"
    options = ("--model", "tiny", "--tokens", "3,6", "--documents", 16, "--queries", 3)
    status, out, err = grace("eval", "worth", built, *options, "--save", "--figure", drawn, "--json")
    assert status == 0, err
    kept = stored_worth.load(GraceIndex.of_model(built, "tiny"))
    assert kept.pop("curves") == stored_worth.curves(json.loads(out))
    assert kept == {"split": "test", "queries": 3, "documents": 16, "dev": "dev", "geometry": "calibrated"}
    assert drawn.read_text(encoding="utf-8").count("<svg") == 1
    assert f"kept in {built / 'tiny' / 'worth.json'}" in err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--save", "--system", "Say it."], "and not another --system"),
        (["--save"], "split is no collection"),
        (["--figure", "worth.pdf"], "expected a file that ends in .svg or .png"),
        (["--figure", "gone/worth.svg"], "the folder gone does not exist"),
    ],
    ids=["another prompt", "no collection", "pdf", "no folder"],
)
def test_what_cannot_be_kept_or_drawn_is_told_at_once(grace, folders, tiny_folder, options, told):
    status, out, err = grace("eval", "worth", folders[0], "--model", tiny_folder, *options)
    assert status == 2
    assert told in err.splitlines()[-1]
    assert not out


def test_means_over_several_corpora_are_not_kept(grace, folders, tiny_folder):
    status, _, err = grace("eval", "worth", *folders, "--model", tiny_folder, "--save")
    assert status == 2
    assert "and not means over 2 corpora" in err


@pytest.mark.parametrize("tokens", ["", "a", "0,4", "4,,8"])
def test_budgets_that_are_mistyped_are_told(grace, folders, tiny_folder, tokens):
    status, _, err = grace("eval", "worth", folders[0], "--model", tiny_folder, "--tokens", tokens)
    assert status == 2
    assert "expected numbers above 0 with commas between them" in err


def test_two_corpora_of_one_name_are_told(grace, folders, tiny_folder):
    status, _, err = grace("eval", "worth", folders[0], folders[0], "--model", tiny_folder)
    assert status == 2
    assert "two corpora are called split; rename a folder" in err


@pytest.fixture(scope="module", params=["raw", "calibrated"])
def explainer(request, tiny_models, sentences, tmp_path_factory) -> Explainer:
    documents = [Document(f"d{i}", "", f"{i} {text}", {}) for i, text in enumerate(sentences[:24])]
    collection = Collection.create(Corpus(documents, None, "made here", []), tmp_path_factory.mktemp("hit") / "c")
    return Explainer(build(collection, tiny_models["qwen2"], geometry=request.param), tiny_models["qwen2"])


def test_a_hit_without_and_with_anothers_rationale_is_what_if(explainer, sentences):
    query, row, index = sentences[3][:30], 5, explainer.index
    told = worth.of_hit(explainer, query, row, sentences[40])
    other = index.row[told["other"]]
    assert other != row
    for name, rationale in (("own", None), ("empty", ""), ("swapped", explainer.rationale_ids[other])):
        wanted = explainer.what_if(query, row, rationale=rationale)
        assert told["document"][name]["score"] == pytest.approx(wanted.score, abs=1e-5), name
        assert told["document"][name]["rank"] == wanted.rank
    assert told["document"]["words"]["score"] != pytest.approx(told["document"]["own"]["score"], abs=1e-5)
    asked, other_asked = (explainer.model.represent([text]) for text in (query, sentences[40]))
    for name, ids in (("own", asked.rationale_ids[0]), ("empty", []), ("swapped", other_asked.rationale_ids[0])):
        scores = index.scores(index.embed(explainer.model.represent_given([query], [ids]))[0])
        assert told["query"][name]["score"] == pytest.approx(float(scores[row]), abs=1e-5), name
        assert told["query"][name]["rank"] == 1 + int((scores > scores[row]).sum())
    assert told["both"]["own"] == told["query"]["own"] == told["document"]["own"]
    assert set(told["both"]) == set(OF_HIT)
    assert told["tokens"]["query"] == len(asked.rationale_ids[0])
    assert told["tokens"]["document"] == len(explainer.rationale_ids[row])
    assert worth.of_hit(explainer, query, row, sentences[40]) == told


def test_a_hit_whose_worth_cannot_be_told_is_refused(tiny_models, sentences, tmp_path):
    model = tiny_models["qwen2"]
    for name, count, rationale in (("one", 1, True), ("plain", 3, False)):
        documents = [Document(f"d{i}", "", sentences[i], {}) for i in range(count)]
        collection = Collection.create(Corpus(documents, None, "made here", []), tmp_path / name)
        with pytest.raises(GraceError, match="one document" if name == "one" else "without rationales"):
            worth.of_hit(Explainer(build(collection, model, rationale=rationale), model), "river", 0, "snow")
