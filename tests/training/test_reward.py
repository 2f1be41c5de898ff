"""Scores of whole batches: which rows get a reward, and the unsupervised symmetric term against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from grace_core import rewards
from grace_core.training.data import Layout
from grace_core.training.reward import measures, score


def batch(layout: Layout, items: int = 5, width: int = 7):
    torch.manual_seed(1)
    n = items * layout.rows
    return F.normalize(torch.randn(n, width), dim=-1), torch.rand(n) < 0.2


def test_the_unsupervised_term_against_loops():
    torch.manual_seed(0)
    z = F.normalize(torch.randn(4, 3, 6), dim=-1)
    term = rewards.symmetric_terms_unsupervised(z, temperature=0.1)["text"]
    for i in range(4):
        for k in range(3):
            scores = []
            for j in range(4):
                mine = [z[j, m] for m in range(3) if not (j == i and m == k)]
                mean = sum(mine) / len(mine)
                scores.append(float(z[i, k] @ mean / mean.norm()) / 0.1)
            expected = scores[i] - math.log(sum(math.exp(s) for s in scores))
            assert term[i, k] == pytest.approx(expected, abs=1e-4)
    for bad in (z[:1], z[:, :1]):
        with pytest.raises(ValueError, match="at least 2 of both"):
            rewards.symmetric_terms_unsupervised(bad)


@pytest.mark.parametrize("objective", ["symmetric", "reference", "joint"])
@pytest.mark.parametrize("mode", ["supervised", "unsupervised"])
def test_only_trained_roles_differ_within_a_group(make_config, unsupervised, tmp_path, objective, mode):
    changes = unsupervised if mode == "unsupervised" else {}
    config = make_config(tmp_path, objective=objective, **changes)
    layout = Layout.of(config)
    z, cut = batch(layout)
    scored = score(z, cut, layout=layout, config=config)
    for role, values in layout.by_role(scored.rewards).items():
        spread = rewards.advantages(values).abs().amax(dim=1)
        assert bool((spread > 1e-3).all()) == (role in layout.trained)
    assert set(scored.partners) == (set(layout.trained) if objective != "reference" else set())


def test_cut_off_rollouts_rank_last(make_config, tmp_path):
    config = make_config(tmp_path)
    layout = Layout.of(config)
    z, cut = batch(layout)
    scored = score(z, cut, layout=layout, config=config)
    for role in layout.trained:
        values, marks = layout.by_role(scored.rewards)[role], layout.by_role(cut)[role]
        for group, mark in zip(values, marks, strict=True):
            if mark.any() and not mark.all():
                assert group[mark].max() < group[~mark].min()


def test_measures_see_a_constant_policy(make_config, tmp_path):
    config = make_config(tmp_path)
    layout = Layout.of(config)
    n = 5 * layout.rows
    z = F.normalize(torch.ones(n, 6), dim=-1)
    scored = score(z, torch.zeros(n, dtype=torch.bool), layout=layout, config=config)
    figures = measures(scored, torch.full((n,), 3), torch.full((n,), 12345), layout=layout)
    assert figures["reward_spread"] == pytest.approx(0, abs=1e-6)
    assert figures["distinct"] == pytest.approx(1 / (5 * 2 * config.rollouts))
    assert figures["rationale_tokens"] == 3


@pytest.mark.parametrize(
    ("objective", "without"), [("symmetric", ["document"]), ("symmetric", ["query"]), ("reference", ["consistency"])]
)
def test_a_term_that_is_left_out_is_logged_and_does_not_count(make_config, tmp_path, objective, without):
    config = make_config(tmp_path, objective=objective, without=without)
    layout = Layout.of(config)
    z, _ = batch(layout)
    finished = torch.zeros(len(z), dtype=torch.bool)
    scored = score(z, finished, layout=layout, config=config)
    assert set(without) < set(scored.terms)
    given = layout.by_role(scored.rewards)
    if objective == "reference":
        counted = {name: term for name, term in scored.terms.items() if name not in without}
        torch.testing.assert_close(
            given["positive"], rewards.reference_reward(counted, layout.by_role(finished)["positive"])
        )
    else:
        left, kept = ("positive", "query") if without == ["document"] else ("query", "positive")
        assert given[left].abs().max() == 0
        assert given[kept].abs().max() > 0


def test_ranking_cut_off_rollouts_last_can_be_left_out(make_config, tmp_path):
    config = make_config(tmp_path, rank_truncated_last=False)
    layout = Layout.of(config)
    z, cut = batch(layout)
    scored = score(z, cut, layout=layout, config=config)
    torch.testing.assert_close(layout.by_role(scored.rewards)["query"], scored.terms["query"])


@pytest.mark.parametrize("without", [["positive"], ["query", "document"]])
def test_terms_that_do_not_exist_or_leave_nothing_are_refused(make_config, tmp_path, without):
    with pytest.raises(ValueError, match="without names"):
        make_config(tmp_path, without=without)


def test_a_bonus_is_added_and_a_cut_off_rollout_still_ranks_last(make_config, tmp_path):
    config = make_config(tmp_path)
    layout = Layout.of(config)
    z, cut = batch(layout)
    torch.manual_seed(2)
    bonus = 3 * torch.rand(len(z))
    plain, more = (layout.by_role(score(z, cut, layout=layout, config=config, bonus=b).rewards) for b in (None, bonus))
    marks, added = layout.by_role(cut), layout.by_role(bonus)
    for role in layout.trained:
        kept = ~marks[role]
        torch.testing.assert_close(more[role][kept], (plain[role] + added[role])[kept])
        for group, mark in zip(more[role], marks[role], strict=True):
            if mark.any() and not mark.all():
                assert group[mark].max() < group[~mark].min()
    assert more["negative"].abs().max() == 0
