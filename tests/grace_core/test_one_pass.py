"""Rationales and embeddings come out of one pass; here they are checked against forwards written without grace_core."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grace_core.errors import GraceError
from grace_core.pooling import RATIONALE, TEMPLATE, TEXT, Pooling


def states_of(model, ids: list[int]) -> np.ndarray:
    """Last hidden states (t, d), by transformers alone."""
    with torch.no_grad():
        return model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0].double().numpy()


def parts_of(model, text: str, rationale_ids: list[int]) -> np.ndarray:
    """Part sums (3, d) by a second forward; the span is found with the chat template and the tokenizer's
    offsets, as it were by hand.
    """
    messages = [{"role": "system", "content": model.settings.system}, {"role": "user", "content": text}]
    rendered = model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = model.tokenizer(rendered, add_special_tokens=False).input_ids
    start = len(model.tokenizer(rendered[: rendered.rindex(text)], add_special_tokens=False).input_ids)
    stop = len(model.tokenizer(rendered[: rendered.rindex(text) + len(text)], add_special_tokens=False).input_ids)
    states = states_of(model, ids + rationale_ids)
    return np.stack([states[start:stop].sum(0), states[stop : len(ids)].sum(0), states[len(ids) :].sum(0)])


def mixed_texts(words: list[str], sizes=(1, 2, 3, 5, 8, 13, 21, 34, 55, 7, 7, 11)) -> list[str]:
    return [" ".join(words[(i * 5 + j) % len(words)] for j in range(size)) for i, size in enumerate(sizes)]


def test_sums_and_embeddings_equal_those_of_a_second_forward(tiny, words):
    texts = mixed_texts(words)
    made = tiny.represent(texts, batch_size=len(texts), max_new_tokens=24)
    assert made.truncated.any(), "no row was cut off at the limit"
    assert not made.truncated.all(), "no row ended early"
    for i, text in enumerate(texts):
        expected = parts_of(tiny, text, made.rationale_ids[i])
        np.testing.assert_allclose(made.sums[i], expected, rtol=0, atol=1e-4)
        mean = expected.sum(0) / made.counts[i].sum()
        np.testing.assert_allclose(made.embeddings()[i], mean / np.linalg.norm(mean), rtol=0, atol=1e-4)
        np.testing.assert_allclose(
            made.embeddings(Pooling.TEXT)[i], expected[TEXT] / np.linalg.norm(expected[TEXT]), rtol=0, atol=1e-4
        )


def test_pool_with_given_rationales_agrees_with_generate(tiny, words):
    prompts = [tiny.prompts.build(text) for text in mixed_texts(words)]
    written = tiny.engine.generate(prompts, tiny.settings.decoding)
    pooled = tiny.engine.pool(prompts, [row.rationale_ids for row in written])
    for again, row in zip(pooled, written, strict=True):
        np.testing.assert_allclose(again.sums, row.sums, rtol=0, atol=1e-4)
        np.testing.assert_array_equal(again.counts, row.counts)
        assert again.rationale_ids == row.rationale_ids


def test_pool_without_rationale_leaves_that_part_empty(tiny, words):
    made = tiny.represent(mixed_texts(words), rationale=False)
    assert not made.counts[:, RATIONALE].any()
    assert not made.sums[:, RATIONALE].any()
    assert made.rationales == [""] * len(made)
    full = tiny.represent(mixed_texts(words))
    np.testing.assert_allclose(made.embeddings(Pooling.TEXT), full.embeddings(Pooling.TEXT), atol=1e-5)


def test_greedy_rationales_are_the_best_tokens_of_a_full_forward(tiny, words):
    text = mixed_texts(words)[6]
    made = tiny.represent([text])
    prompt = tiny.prompts.build(text)
    with torch.no_grad():
        logits = tiny.model(torch.tensor([prompt.ids + made.rationale_ids[0]])).logits[0]
    best = logits[len(prompt.ids) - 1 :].argmax(-1).tolist()
    written = made.rationale_ids[0]
    assert written == best[: len(written)]
    if not made.truncated[0]:
        assert best[len(written)] in tiny.engine.end_ids


def test_counts_are_the_tokens_of_the_parts(tiny, words):
    texts = mixed_texts(words)
    made = tiny.represent(texts)
    for i, text in enumerate(texts):
        prompt = tiny.prompts.build(text)
        assert made.counts[i, TEXT] == prompt.stop - prompt.start
        assert made.counts[i, TEMPLATE] == len(prompt.ids) - prompt.stop
        assert made.counts[i, RATIONALE] == len(made.rationale_ids[i])


def test_end_tokens_and_padding_never_occur_in_a_rationale(tiny, words):
    made = tiny.represent(mixed_texts(words) * 2, max_new_tokens=40)
    for ids in made.rationale_ids:
        assert tiny.engine.end_ids.isdisjoint(ids)
        assert tiny.engine.pad_id not in ids


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 1.0, "seed": 3}, {"temperature": 0.7, "top_p": 0.8, "seed": 4}]
)
def test_a_text_has_one_representation_alone_and_in_any_batch(tiny, words, sampling):
    rng = np.random.default_rng(5)
    sizes = np.concatenate([[1, 400], rng.integers(1, 400, 62)])
    texts = [" ".join(rng.choice(words, size)) for size in sizes]
    together = tiny.represent(texts, batch_size=64, max_new_tokens=8, **sampling)
    alone = [tiny.represent([text], max_new_tokens=8, **sampling) for text in texts]
    assert together.rationale_ids == [one.rationale_ids[0] for one in alone]
    vectors = np.concatenate([one.embeddings() for one in alone])
    assert (vectors * together.embeddings()).sum(1).min() >= 0.99999
    shuffled = rng.permutation(64)
    in_fives = tiny.represent([texts[i] for i in shuffled], batch_size=5, max_new_tokens=8, **sampling)
    assert in_fives.rationale_ids == [together.rationale_ids[i] for i in shuffled]
    assert (in_fives.embeddings() * together.embeddings()[shuffled]).sum(1).min() >= 0.99999


def test_duplicates_get_equal_rows_in_their_places(tiny, words):
    a, b, *_ = mixed_texts(words, (9, 4))
    made = tiny.represent([a, b, a, a, b], temperature=1.0)
    assert made.rationale_ids[0] == made.rationale_ids[2] == made.rationale_ids[3]
    assert made.rationale_ids[1] == made.rationale_ids[4]
    np.testing.assert_array_equal(made.sums[0], made.sums[3])
    assert len(made) == 5


def test_no_texts_give_no_rows(tiny):
    made = tiny.represent([])
    assert len(made) == 0
    assert made.embeddings().shape == (0, tiny.dim)
    assert tiny.encode([]).shape == (0, tiny.dim)
    assert tiny.generate_rationales([]) == []


def test_a_model_that_never_ends_is_cut_off_at_the_limit(new_model, words):
    model = new_model("qwen2", end_weight=0)
    for limit in (1, 7):
        made = model.represent(mixed_texts(words), max_new_tokens=limit)
        assert made.truncated.all()
        assert (made.counts[:, RATIONALE] == limit).all()
        np.testing.assert_allclose(
            made.sums[0], parts_of(model, mixed_texts(words)[0], made.rationale_ids[0]), atol=1e-4
        )


def test_a_model_that_ends_at_once_has_empty_rationales(new_model, words):
    from grace_core.model import GraceModel

    model = new_model("qwen2")
    model.model.generation_config.eos_token_id = list(range(len(model.tokenizer)))
    model = GraceModel(model.model, model.tokenizer, model.settings, name="silent")
    made = model.represent(mixed_texts(words))
    assert made.rationales == [""] * len(made)
    assert not made.counts[:, RATIONALE].any()
    assert not made.truncated.any()
    assert np.isfinite(made.embeddings()).all()


def test_every_end_token_of_the_generation_config_ends_a_rationale(new_model, words):
    from grace_core.model import GraceModel

    model = new_model("qwen2", end_weight=0)
    texts = mixed_texts(words)
    written = model.represent(texts).rationale_ids
    ends = {ids[4] for ids in written[:3]}
    model.model.generation_config.eos_token_id = [model.tokenizer.eos_token_id, *ends]
    model = GraceModel(model.model, model.tokenizer, model.settings, name="two-ends")
    for before, now in zip(written, model.represent(texts).rationale_ids, strict=True):
        first = next((place for place, token in enumerate(before) if token in ends), len(before))
        assert now == before[:first]


def test_stream_grows_into_what_represent_gives(tiny, words):
    text = mixed_texts(words)[5]
    *parts, (last, made) = tiny.stream(text)
    whole = tiny.represent([text])
    assert made.rationale_ids == whole.rationale_ids
    assert last == whole.rationales[0]
    assert [representations for _, representations in parts] == [None] * len(whole.rationale_ids[0])
    np.testing.assert_allclose(made.embeddings(), whole.embeddings(), atol=1e-6)


def test_a_stream_that_is_closed_early_leaves_no_hook_behind(tiny, words):
    steps = tiny.stream(mixed_texts(words)[5])
    next(steps)
    steps.close()
    assert not tiny.model.get_decoder()._forward_hooks


def test_progress_counts_up_to_all_texts(tiny, words):
    seen = []
    texts = [*mixed_texts(words), mixed_texts(words)[0]]
    tiny.represent(texts, batch_size=4, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (len(texts), len(texts))


def test_states_that_are_not_finite_are_refused(new_model, words):
    model = new_model("qwen2")
    with torch.no_grad():
        model.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(GraceError, match="not finite"):
        model.encode(mixed_texts(words))


def test_bfloat16_gives_nearly_the_same_embedding(new_model, words):
    model = new_model("qwen2")
    texts = mixed_texts(words)
    exact = model.encode(texts, rationale=False)
    model.model.to(torch.bfloat16)
    made = model.represent(texts, rationale=False)
    assert made.sums.dtype == np.float32
    assert (made.embeddings(Pooling.TEXT) * exact).sum(1).min() > 0.99
