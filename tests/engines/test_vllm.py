"""The vLLM engine against the transformers engine, with the model that ships: the same rationales and the
same vectors.
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from grace_core.cache import RepresentationCache
from grace_core.collection import Collection
from grace_core.engines.vllm import VllmEngine
from grace_core.errors import GraceError
from grace_core.index import GraceIndex, build
from grace_core.model import GraceModel
from grace_core.readers import read_corpus

pytestmark = pytest.mark.timeout(300)
TIES = 2  # of 50 rationales; so many may part from the transformers engine's where two tokens are equally likely
TIE = 1e-3  # difference of two logits that rounding may turn round


def assert_same_vectors(made, reference) -> None:
    """Part sums, counts and embeddings of the same token ids."""
    np.testing.assert_array_equal(made.counts, reference.counts)
    np.testing.assert_allclose(made.sums, reference.sums, rtol=0, atol=1e-5 * np.abs(reference.sums).max())
    assert (made.embeddings() * reference.embeddings()).sum(axis=1).min() >= 0.9999


def best_two(model: GraceModel, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model.model(torch.tensor([ids])).logits[0, -1].topk(2).values


def test_greedy_rationales_are_the_same_up_to_ties(written, passages, demo_base):
    made, other = written[0], demo_base.represent(passages)
    parted = [i for i, (a, b) in enumerate(zip(made.rationale_ids, other.rationale_ids, strict=True)) if a != b]
    assert len(parted) <= TIES
    for i in parted:
        a, b = made.rationale_ids[i], other.rationale_ids[i]
        shared = next((j for j, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        first, second = best_two(demo_base, demo_base.prompts.build(passages[i]).ids + a[:shared])
        assert first - second < TIE
    same = [i for i in range(len(passages)) if i not in parted]
    np.testing.assert_array_equal(made.truncated[same], other.truncated[same])


def test_vectors_are_exact_though_prompts_came_in_pieces_and_requests_were_preempted(written, passages, demo_base):
    made, preempted = written
    assert preempted > 0
    assert max(made.counts.sum(axis=1)) > 150
    assert_same_vectors(made, demo_base.represent_given(passages, made.rationale_ids))


def test_given_rationales_text_alone_and_single_states(in_vllm, written, passages, demo_base):
    ids = written[0].rationale_ids[:12]
    assert_same_vectors(in_vllm.represent_given(passages[:12], ids), demo_base.represent_given(passages[:12], ids))
    alone, other = (model.represent(passages[:12], rationale=False) for model in (in_vllm, demo_base))
    np.testing.assert_array_equal(alone.counts, other.counts)
    np.testing.assert_allclose(alone.sums, other.sums, rtol=0, atol=1e-3)
    prompts = [in_vllm.prompts.build(text) for text in passages[:4]]
    for states, reference in zip(
        in_vllm.engine.states(prompts, ids[:4]), demo_base.engine.states(prompts, ids[:4]), strict=True
    ):
        np.testing.assert_allclose(states, reference, atol=1e-3)


def test_texts_that_begin_alike_share_the_prefix_cache_and_keep_their_states(in_vllm, passages, demo_base):
    beginning = " ".join(passages[0].split()[:60])
    texts = [f"{beginning} {passage[:80]}" for passage in passages[:8]] + [
        beginning,
        passages[1],
        passages[1] + " again",
    ]
    in_vllm.engine.forget()
    for _ in range(2):  # the second time every block of every prompt is in the cache
        made = in_vllm.represent(texts)
        assert_same_vectors(made, demo_base.represent_given(texts, made.rationale_ids))
        assert in_vllm.engine._prefixes
    in_vllm.engine._prefixes.clear()
    np.testing.assert_array_equal(in_vllm.represent(texts).rationale_ids[0], made.rationale_ids[0])


@pytest.mark.parametrize("limit", [1, 7])
def test_a_rationale_that_is_cut_off_keeps_the_state_of_its_last_token(in_vllm, passages, demo_base, limit):
    made, other = (model.represent(passages[:10], max_new_tokens=limit) for model in (in_vllm, demo_base))
    assert made.truncated.all()
    assert [len(ids) for ids in made.rationale_ids] == [limit] * 10
    np.testing.assert_array_equal(made.truncated, other.truncated)
    assert_same_vectors(made, demo_base.represent_given(passages[:10], made.rationale_ids))


def test_a_rationale_that_ends_with_the_last_token_allowed_is_not_cut_off(in_vllm, written, passages):
    made = written[0]
    row = int(np.argmin(made.counts[:, 2]))
    tokens = int(made.counts[row, 2])
    assert not made.truncated[row]
    # the end token itself is one of those that may be written
    assert not in_vllm.represent([passages[row]], max_new_tokens=tokens + 1).truncated[0]
    cut = in_vllm.represent([passages[row]], max_new_tokens=tokens)
    assert (cut.truncated[0], cut.rationale_ids[0]) == (True, made.rationale_ids[row])


def test_a_sample_belongs_to_the_text_and_not_to_its_batch(in_vllm, tight, passages, demo_base):
    # three prompts fit one step: in pieces, vLLM on a CPU cannot sample with seeds, and our own settings for
    # it keep prompts whole
    texts, options = passages[-3:], {"temperature": 1.0, "max_new_tokens": 24}
    assert sum(len(in_vllm.prompts.build(text).ids) for text in texts) < tight["max_num_batched_tokens"]
    made = in_vllm.represent(texts, seed=3, **options)
    assert in_vllm.represent(texts[1:2], seed=3, **options).rationale_ids == made.rationale_ids[1:2]
    assert in_vllm.represent(texts, seed=4, **options).rationale_ids != made.rationale_ids
    assert in_vllm.represent(texts, **(options | {"temperature": 0.0})).rationale_ids != made.rationale_ids
    assert_same_vectors(made, demo_base.represent_given(texts, made.rationale_ids))
    prompt, decoding = in_vllm.prompts.build(texts[0]), replace(in_vllm.settings, **options).decoding
    several = in_vllm.engine.generate([prompt] * 3, decoding, seeds=[3, 5, 3])
    first, second, third = (row.rationale_ids for row in several)
    assert first == third == made.rationale_ids[0] != second
    np.testing.assert_allclose(several[0].sums, several[2].sums, atol=1e-3)


def test_tokens_come_as_they_are_written_and_a_stream_may_be_left(in_vllm, written, passages):
    *growing, (last, made) = in_vllm.stream(passages[2])
    assert last == written[0].rationales[2]
    assert len(growing) == written[0].counts[2, 2]
    np.testing.assert_allclose(made.sums[0], written[0].sums[2], atol=1e-3)
    stream = in_vllm.stream(passages[3])
    next(stream)
    stream.close()
    engine = in_vllm.engine
    assert not engine._outputs
    assert not engine._engine.has_unfinished_requests()
    assert engine._engine.collective_rpc(lambda worker: len(worker._grace._rows)) == [0]


def test_more_tokens_than_positions_are_refused(in_vllm, passages):
    with pytest.raises(GraceError, match="positions"):
        in_vllm.represent(passages[:2], max_new_tokens=5000)
    prompts = [in_vllm.prompts.build(passages[0])]
    with pytest.raises(GraceError, match="of vLLM's 2048 positions; lower max_prompt_tokens or max_new_tokens"):
        in_vllm.engine.pool(prompts, [[5] * 2000])
    with pytest.raises(GraceError, match="load it with engine transformers"):
        in_vllm.model.eval()


@pytest.mark.parametrize(("given", "said"), [("[1]", "must be a JSON object"), ('{"no_such": 1}', "no_such")])
def test_arguments_for_vllm_that_are_wrong(monkeypatch, demo_base, given, said):
    monkeypatch.setenv("GRACE_VLLM_ARGS", given)
    with pytest.raises(GraceError, match=said):
        VllmEngine(demo_base._folder, dtype="float32", pad_id=0, end_ids={2}, length=100, positions=2048)


def test_an_index_that_vllm_built_is_searched_with_transformers(in_vllm, passages, tmp_path):
    (tmp_path / "corpus.txt").write_text("\n".join(text.replace("\n", " ") for text in passages[:20]), encoding="utf-8")
    index = build(Collection.create(read_corpus(str(tmp_path / "corpus.txt")), tmp_path / "collection"), in_vllm)
    assert index.manifest["engine"] == "vllm"
    loaded = GraceIndex(tmp_path / "collection", "demo-base").load_model(device="cpu")
    assert loaded.engine_name == "transformers"
    scores, rows = index.search(loaded.encode([index.collection.documents[i].content for i in index.ids]), 1)
    assert rows[:, 0].tolist() == list(range(20))
    assert scores.min() > 0.9999


def test_the_cache_keeps_the_engines_apart(in_vllm, passages, tmp_path, demo_base):
    cache = RepresentationCache(tmp_path / "cache.sqlite")
    shared = GraceModel.from_pretrained("demo-base", cache=cache)
    in_vllm.cache = cache
    try:
        in_vllm.represent(passages[:2])
        assert len(cache) == 2
        shared.represent(passages[:2])
        assert len(cache) == 4
        started = time.perf_counter()
        again = in_vllm.represent(passages[:2])
        assert time.perf_counter() - started < 1
    finally:
        in_vllm.cache = None
    assert len(again) == 2
    assert in_vllm.fingerprint == shared.fingerprint == demo_base.fingerprint
    assert asdict(in_vllm.settings) == asdict(shared.settings)
