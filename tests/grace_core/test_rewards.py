"""Every reward term against a plain double loop over its formula, and which terms reach the gradient."""

import math

import pytest
import torch

from grace_core import rewards

B, K, D = 4, 3, 8


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(7)

    def units(*shape):
        return torch.nn.functional.normalize(torch.randn(*shape, D, generator=generator, dtype=torch.float64), dim=-1)

    return {"q": units(B, K), "p": units(B, K), "n": units(B, 2)}


def dot(a, b):
    return sum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def mean_direction(rows):
    mean = [sum(float(row[d]) for row in rows) / len(rows) for d in range(D)]
    norm = math.sqrt(sum(x * x for x in mean))
    return [x / norm for x in mean]


def test_reference_terms_equal_a_plain_loop(batch):
    q, p, n = batch["q"][:, 0], batch["p"], batch["n"][:, 0]
    terms = rewards.reference_terms(p, q, n)
    for i in range(B):
        for k in range(K):
            assert terms["positive"][i, k] == pytest.approx(dot(q[i], p[i, k]))
            assert terms["negative"][i, k] == pytest.approx(-dot(q[i], n[i]))
            cosines = [dot(p[i, k], p[i, m]) for m in range(K) if m != k]
            assert terms["consistency"][i, k] == pytest.approx(sum(cosines) / len(cosines))
            hardest = [max(dot(q[i], p[j, m]) for m in range(K)) for j in range(B) if j != i]
            assert terms["cross"][i, k] == pytest.approx(-sum(hardest) / len(hardest))


def test_unsupervised_reference_terms_equal_a_plain_loop(batch):
    q, p = batch["q"][:, 0], batch["p"]
    terms = rewards.reference_terms_unsupervised(p, q)
    assert "negative" not in terms
    for i in range(B):
        for k in range(K):
            assert terms["positive"][i, k] == pytest.approx(dot(q[i], p[i, k]))
            cross = [dot(p[i, k], q[j]) for j in range(B) if j != i]
            assert terms["cross"][i, k] == pytest.approx(-sum(cross) / len(cross))


@pytest.mark.parametrize("with_negatives", [True, False])
def test_symmetric_terms_equal_a_plain_loop(batch, with_negatives):
    q, p, n = batch["q"], batch["p"], batch["n"]
    t = 0.05
    terms = rewards.symmetric_terms(q, p, n if with_negatives else None, temperature=t)
    documents = [mean_direction(p[j]) for j in range(B)] + (
        [mean_direction(n[j]) for j in range(B)] if with_negatives else []
    )
    asked = [mean_direction(q[j]) for j in range(B)]
    for i in range(B):
        for k in range(K):
            scores = [dot(q[i, k], document) / t for document in documents]
            assert terms["query"][i, k] == pytest.approx(scores[i] - math.log(sum(map(math.exp, scores))))
            scores = [dot(p[i, k], query) / t for query in asked]
            assert terms["document"][i, k] == pytest.approx(scores[i] - math.log(sum(map(math.exp, scores))))


def test_which_terms_reach_the_gradient(batch):
    q, p, n = batch["q"], batch["p"], batch["n"]
    reference = {
        name: rewards.advantages(term).abs().max()
        for name, term in rewards.reference_terms(p, q[:, 0], n[:, 0]).items()
    }
    assert reference["negative"] < 1e-12
    assert reference["cross"] < 1e-12
    assert reference["positive"] > 1e-3
    assert reference["consistency"] > 1e-3
    for term in rewards.symmetric_terms(q, p, n).values():
        assert (rewards.advantages(term).abs().amax(dim=1) > 1e-3).all()


def test_reference_reward_weighs_and_can_make_truncation_pay():
    terms = {
        name: torch.tensor([[value, value]])
        for name, value in {"positive": 0.5, "negative": -0.9, "consistency": 0.9, "cross": -0.8}.items()
    }
    reward = rewards.reference_reward(terms, torch.tensor([[False, True]]))
    assert reward[0, 0] == pytest.approx((0.5 - 0.9 + 0.2 * 0.9 - 0.2 * 0.8) / 0.1)
    assert reward[0, 1] == -1
    assert reward[0, 1] > reward[0, 0]  # the known defect


def test_a_cut_off_rollout_ranks_below_every_finished_one_of_its_group():
    values = torch.tensor([[-5.0, -9.0, -1.0], [0.5, 0.2, 0.9], [3.0, 4.0, 5.0]])
    cut = torch.tensor([[False, False, True], [True, False, True], [True, True, True]])
    ranked = rewards.rank_truncated_last(values, cut)
    assert torch.allclose(ranked[0], torch.tensor([-5.0, -9.0, -9.1]))
    for row, mask in zip(ranked, cut, strict=True):
        if mask.any() and not mask.all():
            assert row[mask].max() < row[~mask].min()
    assert rewards.advantages(ranked)[2].abs().max() == 0


def test_a_constant_rationale_scores_worse_than_telling_ones():
    eye = torch.eye(D)[:B, None, :].expand(B, K, D)
    constant = torch.ones(B, K, D) / math.sqrt(D)
    assert (rewards.symmetric_terms(eye, eye)["query"] > rewards.symmetric_terms(constant, constant)["query"]).all()


def test_layouts_that_compare_nothing_are_refused(batch):
    with pytest.raises(ValueError, match="at least 2"):
        rewards.consistency(batch["p"][:, :1])
    with pytest.raises(ValueError, match="at least 2"):
        rewards.reference_terms(batch["p"][:1], batch["q"][:1, 0], batch["n"][:1, 0])
    with pytest.raises(ValueError, match="at least 2"):
        rewards.symmetric_terms(batch["q"][:1], batch["p"][:1])
