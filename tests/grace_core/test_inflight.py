"""Rows that join and leave while others are being decoded get what each gets alone."""

from __future__ import annotations

import numpy as np
import pytest

from grace_core.engines.base import Decoding

STEPS = 12  # that every row takes


@pytest.fixture(scope="module")
def endless(new_model):
    return new_model("qwen2", end_weight=0)


@pytest.fixture(scope="module")
def prompts(endless, words):
    sizes = {"a": 5, "b": 9, "c": 2, "wide": 60, "d": 7, "e": 3, "f": 30}
    texts = {
        name: " ".join(words[(i + j) % len(words)] for j in range(size)) for i, (name, size) in enumerate(sizes.items())
    }
    return {name: endless.prompts.build(text) for name, text in texts.items()}


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_rows_that_join_late_or_take_the_place_of_another_are_as_if_alone(endless, prompts, temperature):
    decoding = Decoding(STEPS, temperature, seed=2)
    batch, written = endless.engine.start(decoding), {}
    joining = {
        0: "abc",
        4: ["wide"],
        6: "d",
        15: "ef",
    }  # wider than what runs; into a gap; behind all when most have ended
    for step in range(40):
        if step in joining:
            batch.submit(list(joining[step]), [prompts[name] for name in joining[step]])
            assert [name for name, _ in batch.step().tokens] == list(joining[step])
        if step == 5:
            batch.cancel("b")
        if len(batch):
            written |= dict(batch.step().finished)
    assert set(written) == set(prompts) - {"b"}
    for name, row in written.items():
        (alone,) = endless.engine.generate([prompts[name]], decoding)
        assert row.rationale_ids == alone.rationale_ids, name
        assert row.truncated
        np.testing.assert_array_equal(row.counts, alone.counts)
        np.testing.assert_allclose(row.sums, alone.sums, rtol=0, atol=1e-4)


def test_more_prompts_than_places_follow_as_these_get_free(endless, prompts):
    decoding, running, most = Decoding(STEPS), 0, 0
    named = list(prompts.values()) * 2
    for new, ended in endless.engine.decode(named, decoding, width=3):
        running = len({row for row, _ in new} | {row for row, _ in ended})
        most = max(most, running)
    assert most == 3
    together = endless.engine.generate(named, decoding, width=3)
    at_once = endless.engine.generate(named, decoding)
    assert [row.rationale_ids for row in together] == [row.rationale_ids for row in at_once]
