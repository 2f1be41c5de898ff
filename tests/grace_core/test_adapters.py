"""A GRACE model in the shape of other libraries gives what it gives by itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from grace_core.adapters.sentence import SentenceEncoder
from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.evaluation.retrieval import evaluate_index, judged_queries, per_query, summary
from grace_core.index import build
from grace_core.model import GraceModel
from grace_core.pooling import Pooling
from grace_core.readers import read_corpus


@pytest.fixture(scope="module")
def model(new_model):
    return new_model("qwen2", max_new_tokens=6)


# --- sentence-transformers
# --------------------------------------------------------------------------------------------------


def test_encode_takes_what_a_sentence_transformer_takes(model, sentences):
    encoder = SentenceEncoder(model)
    wanted = model.encode(sentences[:4])
    vectors = encoder.encode(
        sentences[:4], batch_size=2, show_progress_bar=False, convert_to_numpy=True, normalize_embeddings=True
    )
    np.testing.assert_allclose(vectors, wanted, atol=1e-5)
    single = encoder.encode(sentences[1])
    assert single.shape == (model.dim,)
    np.testing.assert_allclose(single, wanted[1], atol=1e-5)
    tensor = encoder.encode_query(sentences[:4], convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.numpy(), wanted, atol=1e-5)
    assert encoder.encode([]).shape == (0, model.dim)
    assert encoder.get_sentence_embedding_dimension() == encoder.get_embedding_dimension() == model.dim


def test_a_text_without_content_has_the_zero_vector_and_is_like_nothing(model, sentences):
    encoder = SentenceEncoder(model, rationale=False)
    vectors = encoder.encode([sentences[0], " \n", sentences[1]])
    assert not vectors[1].any()
    np.testing.assert_allclose(vectors[[0, 2]], model.encode(sentences[:2], rationale=False), atol=1e-5)
    scores = encoder.similarity(vectors, vectors)
    np.testing.assert_allclose(scores.diagonal(), [1, 0, 1], atol=1e-5)
    with pytest.raises(GraceError, match="a text must be a str"):
        encoder.encode([sentences[0], 5])


def test_similarities_are_those_of_sentence_transformers(model, sentences):
    from sentence_transformers.util import cos_sim, pairwise_cos_sim

    encoder = SentenceEncoder(model)
    a, b = encoder.encode(sentences[:3]), encoder.encode(sentences[3:6])
    np.testing.assert_allclose(encoder.similarity(a, b), cos_sim(a, b), atol=1e-6)
    np.testing.assert_allclose(encoder.similarity(a * 3, b)[0], cos_sim(a[0], b)[0], atol=1e-6)
    np.testing.assert_allclose(
        encoder.similarity_pairwise(a, b), pairwise_cos_sim(torch.tensor(a), torch.tensor(b)), atol=1e-6
    )


def test_a_name_is_loaded_with_options_and_a_model_takes_none(tiny_folder, model):
    assert SentenceEncoder(str(tiny_folder), max_new_tokens=3).model.settings.max_new_tokens == 3
    with pytest.raises(GraceError, match="takes no options, got device"):
        SentenceEncoder(model, device="cpu")


def test_the_longest_text_is_not_cut_and_one_more_token_is(new_model):
    short = new_model("qwen2", max_new_tokens=2, max_prompt_tokens=120)
    room = SentenceEncoder(short).max_seq_length
    word = " river"
    assert len(short.tokenizer(word)["input_ids"]) == 1
    assert not short.prompts.build("river" + word * (room - 2)).text_truncated
    assert short.prompts.build("river" + word * (room + 1)).text_truncated


# --- LangChain
# --------------------------------------------------------------------------------------------------------------


def test_langchain_s_vector_store_finds_by_it(model, sentences):
    from langchain_core.vectorstores import InMemoryVectorStore

    from grace_core.adapters.langchain import GraceEmbeddings

    embeddings = GraceEmbeddings(model, batch_size=4)
    np.testing.assert_allclose(embeddings.embed_documents(sentences[:5]), model.encode(sentences[:5]), atol=1e-5)
    store = InMemoryVectorStore.from_texts(sentences[:8], embeddings)
    assert store.similarity_search(sentences[3], k=1)[0].page_content == sentences[3]


# --- MTEB
# -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def collection(sentences, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mteb") / "small"
    (folder / "qrels").mkdir(parents=True)
    rows = [
        {"_id": f"d{i}", "title": "On snow" if i % 3 else "", "text": text} for i, text in enumerate(sentences[:12])
    ]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    # half of a document's words, so that it is found often and not always
    queries = [{"_id": f"q{i}", "text": " ".join(sentences[i].split()[: 2 + i % 3])} for i in range(8)]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(8))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines))
    return Collection.create(read_corpus(folder), folder.parent / "collection")


def test_mteb_gives_the_scores_that_we_give(model, collection, tmp_path):
    from grace_core.adapters.mteb import MtebEncoder, evaluate, local_retrieval_task

    index = build(collection, model)
    queries = judged_queries(collection.judgements, "test")
    task = local_retrieval_task(collection, split="test")
    for pooling in Pooling:
        own = summary(per_query(evaluate_index(index, model, queries, pooling), collection.judgements.qrels))
        encoder = MtebEncoder(model, rationale=pooling is Pooling.FULL)
        (scores_by_split,) = evaluate(encoder, [task], results=str(tmp_path)).values()
        assert scores_by_split["test"]["ndcg_at_10"] == pytest.approx(own["ndcg@10"], abs=1e-4)
        assert scores_by_split["test"]["main_score"] == scores_by_split["test"]["ndcg_at_10"]
        assert own["ndcg@10"] > 0
    revisions = {path.parent.name for path in tmp_path.rglob("*Retrieval.json")}
    assert revisions == {
        MtebEncoder(model, rationale=rationale).mteb_model_meta.revision for rationale in (True, False)
    }


def test_the_command_prints_mteb_s_scores_with_and_without_rationales(grace, tiny_folder, collection, tmp_path):
    status, out, err = grace(
        "eval", "mteb", "--model", tiny_folder, "--data", collection.folder, "--results", tmp_path, "--json"
    )
    assert status == 0, err
    scores = json.loads(out)
    assert scores.keys() == {str(tiny_folder), f"{tiny_folder}:text"}
    assert 0 < scores[str(tiny_folder)]["CollectionRetrieval"]["test"]["ndcg_at_10"] <= 1
    status, _, err = grace("eval", "mteb", "--model", tiny_folder)
    assert (status, err) == (2, "error: give either --data COLLECTION or --tasks NAME\n")


def test_everything_that_decides_an_embedding_is_in_the_revision(new_model, model):
    from grace_core.adapters.mteb import revision_of

    def revision(rationale: bool = True, weights: str = "", **settings) -> str:
        changed = GraceModel(
            model.model, model.tokenizer, type(model.settings)(**{"max_new_tokens": 6, **settings}), name="tiny"
        )
        changed.__dict__["fingerprint"] = model.fingerprint + weights
        return revision_of(changed, rationale=rationale)

    warm = {"temperature": 0.5}
    changed = [
        {},
        {"max_new_tokens": 7},
        warm,
        warm | {"top_p": 0.5},
        warm | {"seed": 1},
        {"system": "Read."},
        {"weights": "other"},
    ]
    revisions = [revision(**settings) for settings in changed]
    assert len(set(revisions)) == len(revisions)
    assert revision() == revision(top_p=0.5, seed=3)  # greedy decoding looks at neither
    assert revision() != revision(rationale=False) == revision(rationale=False, max_new_tokens=7, temperature=1.0)
    assert len(revision()) == 40


def test_a_collection_without_judgements_is_no_task(sentences, tmp_path):
    from grace_core.adapters.mteb import local_retrieval_task

    (tmp_path / "corpus.txt").write_text("\n".join(sentences[:3]))
    with pytest.raises(GraceError, match="has no queries"):
        local_retrieval_task(Collection.create(read_corpus(tmp_path / "corpus.txt"), tmp_path / "bare"))
