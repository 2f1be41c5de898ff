"""What ships: the demo models and the collection built with them."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from grace_core.evaluation.retrieval import evaluate_index, judged_queries, per_query
from grace_core.explain import Explainer
from grace_core.files import read_json
from grace_core.index import GraceIndex
from grace_core.model import GraceModel
from grace_core.pooling import Pooling
from grace_core.readers import read_corpus
from grace_core.sources import DEMO_CORPUS_DIR, DEMO_MODELS_DIR, demo_models, named_here
from grace_core.training.config import TrainConfig, load_config
from grace_study.ship import INDEXED


@pytest.fixture(scope="module")
def index(demo_collection):
    with warnings.catch_warnings(action="error"):
        return GraceIndex(demo_collection, "demo-base")


def test_the_model_is_small_and_writes_rationales(demo_base):
    assert demo_base.model.num_parameters() < 10_000_000
    representations = demo_base.represent(
        ["which river rises in the alps and flows to the north sea", "deepest lake in the world"]
    )
    assert all("<think>" in rationale and "</think>" in rationale for rationale in representations.rationales)


def test_few_rationales_of_the_shipped_index_are_cut_off_or_empty(index):
    counts = index.manifest["counts"]
    assert counts["truncated_rationales"] < 0.1 * counts["encoded"]
    assert counts["empty_rationales"] == 0


def test_the_model_s_representations_do_not_depend_on_the_batch(demo_base, demo_entries):
    texts = [query.q for entry in demo_entries[::20] for query in entry.thing.queries[:1]][:24]
    together = demo_base.represent(texts, batch_size=24)
    alone = [demo_base.represent([text]) for text in texts[:8]]
    assert [single.rationale_ids[0] for single in alone] == together.rationale_ids[:8]
    vectors = np.concatenate([single.embeddings() for single in alone])
    assert (vectors * together.embeddings()[:8]).sum(1).min() >= 0.99999


def test_the_collection_is_sound_and_belongs_to_the_model(index, demo_base):
    assert index.verify()["ok"]
    assert index.manifest["model"]["sha256"] == demo_base.fingerprint
    assert index.manifest["model_id"] == "demo-base"
    assert index.settings == demo_base.settings
    assert "/" not in json.dumps(index.manifest["model_id"])


@pytest.mark.parametrize("name", demo_models())
def test_every_model_that_ships_tells_how_it_was_made_and_the_indexes_are_theirs(demo_collection, root, name):
    model = GraceModel.from_pretrained(name, device="cpu")
    assert set(demo_collection.models) == set(INDEXED)
    if name in INDEXED:
        index = GraceIndex(demo_collection, name)
        assert index.verify()["ok"]
        assert index.manifest["model"]["sha256"] == model.fingerprint
    if name != "demo-base":
        about = read_json(DEMO_MODELS_DIR / name / "training.json")
        recipe = load_config(root / "configs" / f"{name}.yaml", [f"out={about['config']['out']}"])
        assert TrainConfig(**about["config"]) == recipe  # what came later has its default
        assert about["eval"]["ndcg@10"] > 0


def test_training_ends_the_habit_of_stopping_at_the_topic(demo_collection, demo_entries):
    """demo-base describes a passage in general terms; demo-grace says what it is about."""
    subject = {entry.slug: entry.thing.subject for entry in demo_entries}
    named = {}
    for name in ("demo-base", "demo-grace"):
        index = GraceIndex(demo_collection, name)
        about = [subject[i.rsplit("-", 1)[0]] for i in index.ids]
        named[name] = np.mean([thing in rationale for thing, rationale in zip(about, index.rationales, strict=True)])
    assert named["demo-base"] < 0.2
    assert named["demo-grace"] > 0.8


def test_the_collection_holds_the_demo_corpus(index):
    shipped = read_corpus(DEMO_CORPUS_DIR)
    assert index.collection.corpus.documents == shipped.documents
    assert index.collection.judgements == shipped.judgements
    assert len(index) == len(shipped.documents)


def test_most_rationales_of_the_collection_end_by_themselves(index):
    assert np.mean(index.truncated) < 0.2
    assert len(set(index.rationales)) > 0.05 * len(index)  # they name the topic; many passages have the same one


def test_stored_vectors_are_those_of_the_model(index, demo_base):
    ids = index.ids[:: len(index) // 6][:6]
    representations = demo_base.represent([index.collection.documents[i].content for i in ids])
    rows = [index.row[i] for i in ids]
    assert representations.rationales == [index.rationales[row] for row in rows]
    assert (representations.embeddings() * index.vectors()[rows]).sum(1).min() > 0.9999


@pytest.mark.slow
def test_the_rationale_helps_to_retrieve(index, demo_base):
    queries = dict(list(judged_queries(index.collection.judgements, "test").items())[::5])
    qrels = index.collection.judgements.qrels
    scores = {
        pooling: per_query(evaluate_index(index, demo_base, queries, pooling), qrels)["ndcg@10"].mean()
        for pooling in Pooling
    }
    assert scores[Pooling.FULL] > scores[Pooling.TEXT]


@pytest.mark.skipif("smollm2" not in named_here(), reason="the package of smollm2 is not installed")
def test_smollm2_s_scores_split_and_a_passage_finds_itself(demo_collection):
    index = GraceIndex.of_model(demo_collection, "smollm2")
    assert index.verify()["ok"]
    assert index.geometry.kind == "calibrated"
    model = index.load_model(device="cpu")
    explainer = Explainer(index, model)
    for pooling in Pooling:
        for why in explainer.why("an animal that builds dams in rivers", [3, 700, 1200], pooling=pooling):
            assert abs(why.residual) <= 1e-5
            assert abs(why.tokens.sum() - why.score) <= 1e-5
    row = 5
    representations = model.represent([index.collection.documents[index.ids[row]].content])
    scores, rows = index.search(index.embed(representations, role="document"), 1)
    assert rows[0, 0] == row
    assert scores[0, 0] >= 0.99999


@pytest.mark.skipif("smollm2" not in named_here(), reason="the package of smollm2 is not installed")
@pytest.mark.parametrize("name", ["smollm2-cl", "smollm2-grace"])
def test_a_shipped_adapter_is_another_model_over_its_base_s_weights(name):
    base, grace = (GraceModel.from_pretrained(source, device="cpu") for source in ("smollm2", name))
    assert grace.model.get_input_embeddings().weight.data_ptr() == base.model.get_input_embeddings().weight.data_ptr()
    assert grace.settings == base.settings
    assert grace.geometry.kind == "calibrated"
    vectors = [model.encode(["Where did the poor woman live?"], role="query") for model in (base, grace)]
    assert 0.1 < float((vectors[0] * vectors[1]).sum()) < 0.99
    folder = grace._folder
    assert sum(path.stat().st_size for path in folder.iterdir()) < 10e6
    assert "/" not in json.loads((folder / "training.json").read_text())["config"]["out"]
