"""Part sums as vLLM's worker keeps them, on made-up states: whatever order the scheduler computes them in,
each counts once.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from grace_core.engines.vllm_worker import Collector
from grace_core.errors import GraceError
from grace_core.model import GraceModel

START, STOP, LENGTH, END, D = 4, 9, 11, 17, 8  # text, template, rationale of one request


@pytest.fixture
def states():
    """Three requests' states by position, one position more than is pooled ``(3, END + 1, d)``."""
    return torch.randn(3, END + 1, D, generator=torch.Generator().manual_seed(0))


def expected(states: torch.Tensor, first: int = 0) -> np.ndarray:
    """The part sums of one request, of the positions from ``first`` on."""
    borders = ((START, STOP), (STOP, LENGTH), (LENGTH, END))
    return np.stack([states[max(a, first) : max(b, first)].sum(0).numpy() for a, b in borders])


def feed(collector: Collector, states: torch.Tensor, *step: tuple[int, int, int]) -> None:
    """One step: ``(request, first position, number)``; rows of padding stand behind, as with CUDA graphs."""
    rows = [states[request, first : first + number] for request, first, number in step]
    collector.add(
        torch.cat([*rows, torch.full((3, D), 1e6)]), [(request, first, number) for request, first, number in step]
    )


def sums_of(took: dict) -> np.ndarray:
    return np.frombuffer(took["sums"], np.float32).reshape(-1, 3, D)


def begin(collector: Collector, *requests: int, first: int = 0, keep: bool = False) -> None:
    for request in requests:
        collector.begin(request, START, STOP, LENGTH, first=first, keep=keep)


def test_a_prompt_at_once_and_then_token_by_token(states):
    collector = Collector()
    begin(collector, 0, 1)
    feed(collector, states, (0, 0, LENGTH), (1, 0, LENGTH))
    for position in range(LENGTH, END):
        feed(collector, states, (1, position, 1), (0, position, 1))  # rows change places
    took = collector.take([0, 1], [END, END])
    np.testing.assert_allclose(sums_of(took), [expected(states[0]), expected(states[1])], rtol=1e-5, atol=1e-5)
    assert (took["first"], took["seen"], took["tokens"]) == ([0, 0], [END, END], [b"", b""])


@pytest.mark.parametrize("cuts", [(3, 5, 9, 10), (1, 2, 3, 4, 5, 6, 7, 8, 9, 10), (4,), (9,)])
def test_a_prompt_in_pieces_beside_a_request_that_decodes(states, cuts):
    collector = Collector()
    begin(collector, 0, 1)
    feed(collector, states, (0, 0, LENGTH))
    pieces = zip((0, *cuts), (*cuts, LENGTH), strict=True)
    for position, (a, b) in enumerate(pieces, start=LENGTH):
        if position < END:
            feed(collector, states, (0, position, 1), (1, a, b - a))
        else:
            feed(collector, states, (1, a, b - a))
    for position in range(min(END, LENGTH + len(cuts) + 1), END):
        feed(collector, states, (0, position, 1))
    feed(collector, states, (1, LENGTH, END - LENGTH))
    took = collector.take([1, 0], [END, END])
    np.testing.assert_allclose(sums_of(took), [expected(states[1]), expected(states[0])], rtol=1e-5, atol=1e-5)


def test_what_a_preempted_request_computes_again_counts_once(states):
    collector = Collector()
    begin(collector, 0, 1)
    feed(collector, states, (0, 0, 6))
    feed(collector, states, (0, 0, LENGTH), (1, 0, LENGTH))  # from the beginning, further than before
    feed(collector, states, (0, LENGTH, 1), (1, LENGTH, 1))
    feed(collector, states, (0, LENGTH + 1, 1), (1, 3, LENGTH - 3))
    feed(collector, states, (0, 0, LENGTH + 3), (1, LENGTH, 1))
    feed(collector, states, *((r, p, 1) for r, p in ((0, LENGTH + 3), (1, LENGTH + 1))))
    for position in range(LENGTH + 2, END):
        feed(collector, states, *((r, position, 1) for r in (0, 1) if r or position > LENGTH + 3))
    took = collector.take([0, 1], [END, END])
    np.testing.assert_allclose(sums_of(took), [expected(states[0]), expected(states[1])], rtol=1e-5, atol=1e-5)
    assert took["seen"] == [END, END]


def test_the_end_token_that_a_scheduler_ahead_of_itself_feeds_is_not_pooled(states):
    collector = Collector()
    begin(collector, 0, 1)
    feed(collector, states, (0, 0, LENGTH), (1, 0, LENGTH))
    for position in range(LENGTH, END + 1):
        feed(collector, states, (0, position, 1), (1, position, 1))
    took = collector.take([0], [END])
    np.testing.assert_allclose(sums_of(took)[0], expected(states[0]), rtol=1e-5, atol=1e-5)
    assert took["seen"] == [END]
    assert collector.take([1], [END - 1])["seen"] == [END + 1]  # two too many are not hidden


def test_an_empty_rationale_whose_end_token_was_fed(states):
    collector = Collector()
    begin(collector, 0)
    feed(collector, states, (0, 0, LENGTH))
    feed(collector, states, (0, LENGTH, 1))
    sums = sums_of(collector.take([0], [LENGTH]))[0]
    np.testing.assert_allclose(sums[:2], expected(states[0])[:2], rtol=1e-5, atol=1e-5)
    assert not sums[2].any()


@pytest.mark.parametrize("first", [START, START + 2, STOP, STOP + 1])
def test_states_begin_where_the_prefix_cache_ends_and_it_is_told(states, first):
    collector = Collector()
    begin(collector, 0, first=first)
    feed(collector, states, (0, first, END - first))
    took = collector.take([0], [END])
    np.testing.assert_allclose(sums_of(took)[0], expected(states[0], first), rtol=1e-5, atol=1e-5)
    assert (took["first"], took["seen"]) == ([first], [END])


def test_positions_that_never_came_are_told(states):
    collector = Collector()
    begin(collector, 0)
    feed(collector, states, (0, 0, 5))
    feed(collector, states, (0, 7, END - 7))
    assert collector.take([0], [END])["seen"] == [-1]


def test_states_one_by_one_where_they_are_wanted(states):
    collector = Collector()
    begin(collector, 0, keep=True)
    feed(collector, states, (0, 0, 7))
    feed(collector, states, (0, 7, END - 7))
    took = collector.take([0], [END])
    np.testing.assert_array_equal(np.frombuffer(took["tokens"][0], np.float32).reshape(-1, D), states[0, :END].numpy())
    np.testing.assert_allclose(sums_of(took)[0], expected(states[0]), rtol=1e-5, atol=1e-5)


def test_places_are_used_again_and_grow_with_the_number_of_requests(states):
    collector = Collector()
    for begins in (0, 1000, 2000):  # the places of the first hundred are the second's
        begin(collector, *range(begins, begins + 100))
        one = states[0, :END].repeat(100, 1)
        collector.add(one, [(key, 0, END) for key in range(begins, begins + 100)])
        collector.add(torch.full((1, D), 1e6), [(None, 3, 1)])  # somebody else's request
        begin(collector, 9999)
        collector.add(states[1, :END], [(9999, 0, END)])
        collector.drop([9999, 5555])
        took = collector.take(list(range(begins, begins + 100)), [END] * 100)
        np.testing.assert_allclose(sums_of(took), np.stack([expected(states[0])] * 100), rtol=1e-5, atol=1e-5)
    assert len(collector._sums) == 128


def test_half_precision_states_are_added_up_in_single(states):
    collector, half = Collector(), states.bfloat16()
    begin(collector, 0)
    collector.add(half[0, :LENGTH], [(0, 0, LENGTH)])
    for position in range(LENGTH, END):
        collector.add(half[0, position : position + 1], [(0, position, 1)])
    np.testing.assert_allclose(sums_of(collector.take([0], [END]))[0], expected(half[0].float()), rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_remedy_is_told(tiny_folder):
    with pytest.raises(GraceError, match=r"pip install -r requirements-vllm\.txt") as told:
        GraceModel.from_pretrained(tiny_folder, engine="vllm")
    assert "not a causal language model" not in str(told.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "tgi"}, "engine must be one of transformers, vllm, got 'tgi'"),
        ({"engine": "vllm", "device": "cpu"}, "leave it out, or set CUDA_VISIBLE_DEVICES"),
        ({"engine": "vllm", "dtype": "int8"}, "dtype must be float32, bfloat16 or float16"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(tiny_folder, options, said):
    with pytest.raises(GraceError, match=said):
        GraceModel.from_pretrained(tiny_folder, **options)


def test_search_with_an_engine_that_is_not_there_fails_in_one_line(grace, root):
    status, out, err = grace(
        "search", root / "indexes" / "demo", "a river", "--model", "demo-base", "--engine", "nothing"
    )
    assert (status, out) == (2, "")
    assert "engine must be one of transformers, vllm, got 'nothing'" in err.strip().splitlines()[-1]
