"""The thread that owns the model: who is served with whom, in which order, and what happens when a run fails."""

from __future__ import annotations

import time
from concurrent.futures import wait

import numpy as np
import pytest

from grace_core.engines.base import Decoding
from grace_core.errors import GraceError
from grace_core.prompt import Prompt
from grace_core.serving.batching import FAILURES, Batcher, Chat
from grace_core.serving.chat import Answer, conversation
from grace_core.serving.failures import Closing, RunFailed
from grace_core.serving.limits import Limits
from grace_core.serving.metrics import SIZES, Metrics
from grace_core.serving.schemas import Message

BAD = Prompt([10**6], 0, 1)  # no such token: the model fails on it


@pytest.fixture
def make(request):
    """Makes a batcher that is closed in the end: ``make(model, **limits)``."""

    def build(model, **limits) -> Batcher:
        batcher = Batcher(model, Limits(**limits), Metrics())
        request.addfinalizer(batcher.close)
        return batcher

    return build


@pytest.fixture(scope="module")
def model(new_model):
    return new_model("qwen2", max_new_tokens=6)


@pytest.fixture(scope="module")
def endless(new_model):
    """Its rationales have all their 120 tokens."""
    return new_model("qwen2", max_new_tokens=120, end_weight=0)


@pytest.fixture(scope="module")
def prompts(model, sentences):
    return [model.prompts.build(text) for text in sentences[:24]]


def batches(batcher: Batcher, kind: str = "rationale") -> tuple[int, int]:
    """How many batches there were, and how many texts in them."""
    value = batcher.metrics.registry.get_sample_value
    return tuple(int(value(f"grace_batch_texts_{what}", {"kind": kind})) for what in ("count", "sum"))


def most_at_once(batcher: Batcher) -> int:
    """The most texts that a step went on with."""
    value = batcher.metrics.registry.get_sample_value
    steps = [value("grace_step_texts_bucket", {"le": f"{size:.1f}"}) for size in SIZES]
    return next(size for size, below in zip(SIZES, steps, strict=True) if below == value("grace_step_texts_count"))


def test_requests_that_come_together_are_run_together_and_give_what_each_gives_alone(make, model, prompts, sentences):
    batcher = make(model, max_wait=0.5)
    futures = [batcher.embed(prompts[i : i + 2], rationale=True) for i in range(0, 12, 2)]
    rows = [row for future in futures for row in future.result(60)]
    assert batches(batcher) == (1, 12)
    alone = model.represent(sentences[:12], batch_size=1)
    assert [row[0] for row in rows] == alone.rationale_ids
    np.testing.assert_allclose(np.stack([row[1] for row in rows]), alone.sums, atol=1e-4)


def test_a_batch_is_full_at_its_number_of_texts_or_of_tokens(make, model, prompts):
    batcher = make(model, max_batch=5)
    batcher.embed(prompts[:12], rationale=True).result(60)
    assert batches(batcher)[1] == 12
    assert most_at_once(batcher) == 8  # of 5, in the metric's steps
    longest = max(len(prompt.ids) for prompt in prompts[:6]) + 6
    batcher = make(model, max_batch_tokens=3 * longest)
    batcher.embed(prompts[:6], rationale=True).result(60)
    assert most_at_once(batcher) == 4  # of 3
    batcher = make(model, max_batch_tokens=1)  # a text that is too long by itself is still run
    batcher.embed(prompts[:3], rationale=True).result(60)
    assert batches(batcher) == (3, 3)
    assert most_at_once(batcher) == 1


def test_a_text_joins_those_that_are_running_and_is_answered_when_it_ends(make, endless, sentences):
    batcher = make(endless, max_wait=0)
    built = [endless.prompts.build(text) for text in sentences[:5]]
    long = batcher.embed(built[:4], rationale=True)
    while not batcher._runs:
        time.sleep(0.001)
    time.sleep(0.05)  # some steps
    late = batcher.embed(built[3:], rationale=True)  # one of them runs already
    ended: list[str] = []
    for name, future in (("late", late), ("long", long)):
        future.add_done_callback(lambda _, name=name: ended.append(name))
    rows = long.result(60)
    assert late.result(60)[0] == rows[3]
    assert ended == ["long", "late"]
    assert batches(batcher) == (2, 5)
    expected = endless.represent(sentences[:5])
    assert [row[0] for row in (*rows, late.result()[1])] == expected.rationale_ids
    np.testing.assert_allclose(np.stack([row[1] for row in (*rows, late.result()[1])]), expected.sums, atol=1e-3)


def test_the_same_text_is_run_once_for_all_who_ask_at_the_same_time(make, model, prompts):
    batcher = make(model, max_wait=0.5)
    futures = [batcher.embed([prompts[0], prompts[1], prompts[0]], rationale=True) for _ in range(4)]
    wait(futures, 60)
    assert batches(batcher) == (1, 2)
    assert {tuple(map(tuple, (row[0] for row in future.result()))) for future in futures} == {
        tuple(map(tuple, (futures[0].result()[i][0] for i in range(3))))
    }


def test_a_large_request_does_not_keep_a_small_one_waiting(make, model, prompts):
    batcher = make(model, max_batch=2)
    large = batcher.embed(prompts[:23], rationale=True)
    small = batcher.embed(prompts[23:], rationale=True)
    small.result(60)
    assert not large.done()
    assert len(large.result(60)) == 23


def test_chats_and_texts_without_rationale_take_turns_with_a_batch(make, endless, sentences):
    batcher = make(endless, max_wait=0)
    ids: list = []
    built = [endless.prompts.build(text) for text in sentences[:4]]
    rationales = batcher.embed(built, rationale=True)
    while not batcher._runs:
        time.sleep(0.001)
    chat = Chat(conversation(endless, [Message(role="user", content="a")]), Decoding(3), ids.append)
    batcher.chat(chat)
    alone = batcher.embed(built, rationale=False).result(60)
    while "length" not in ids:
        time.sleep(0.001)
    assert not rationales.done()
    assert len(ids) == 4
    np.testing.assert_allclose(rationales.result(60)[0][1][0], alone[0][1][0], atol=1e-4)  # the text's part is the same


def test_chats_that_are_decoded_alike_share_a_run_and_each_has_its_seed(make, model):
    batcher = make(model)
    heard = [[] for _ in range(4)]
    prompt = conversation(model, [Message(role="user", content="the river")])
    with batcher._changed:  # so that they come at once
        for seed, ids in enumerate((heard[0], heard[1], heard[2])):
            batcher.chat(Chat(prompt, Decoding(6, 1.0, 1.0, seed % 2), ids.append))
        batcher.chat(Chat(prompt, Decoding(5), heard[3].append))
    while not all(ids and isinstance(ids[-1], str) for ids in heard):
        time.sleep(0.001)
    assert heard[0] == heard[2] != heard[1]
    assert batches(batcher, "chat") == (2, 4)


def test_the_text_at_fault_fails_alone(make, model, prompts):
    batcher = make(model, max_wait=0.2)
    good = [batcher.embed([prompt], rationale=True) for prompt in prompts[:5]]
    bad = batcher.embed([prompts[6], BAD], rationale=True)
    again = [batcher.embed([prompt], rationale=True) for prompt in prompts[:5]]
    assert [future.result(60)[0][0] for future in good] == [future.result(60)[0][0] for future in again]
    with pytest.raises(RunFailed, match="IndexError"):
        bad.result(60)
    assert batcher.failure_reason() is None


def test_a_model_that_fails_again_and_again_is_reported_until_it_works(make, model, prompts):
    batcher = make(model)
    for _ in range(FAILURES):
        assert batcher.failure_reason() is None
        with pytest.raises(RunFailed, match="IndexError"):
            batcher.embed([BAD], rationale=False).result(60)
    assert "the last 3 runs of the model failed" in batcher.failure_reason()
    heard: list = []
    batcher.chat(Chat(BAD, Decoding(2), heard.append))
    while not heard:
        time.sleep(0.001)
    assert isinstance(heard[0], RunFailed)
    batcher.embed(prompts[:1], rationale=False).result(60)
    assert batcher.failure_reason() is None


def test_what_nobody_wants_any_more_is_not_run(make, endless, sentences):
    batcher = make(endless, max_batch=1, max_wait=0)
    built = [endless.prompts.build(text) for text in sentences[:9]]
    first = batcher.embed(built[:8], rationale=True)
    while not batcher._runs:
        time.sleep(0.001)
    second = batcher.embed(built[8:], rationale=True)
    first.cancel()
    second.result(60)
    assert batcher.waiting() == 0
    assert batches(batcher)[1] <= 3


def test_closing_finishes_what_was_accepted_and_takes_nothing_more(model, prompts):
    batcher = Batcher(model, Limits(max_batch=4), Metrics())
    futures = [batcher.embed(prompts[i : i + 3], rationale=True) for i in range(0, 18, 3)]
    batcher.close()
    assert all(len(future.result(0)) == 3 for future in futures)
    with pytest.raises(Closing):
        batcher.embed(prompts[:1], rationale=True)
    assert "has ended" in batcher.failure_reason()


def test_limits_out_of_range_are_refused():
    with pytest.raises(GraceError, match="max_batch must be more than 0, got 0"):
        Limits(max_batch=0)
    with pytest.raises(GraceError, match="max_queue must be at least max_texts"):
        Limits(max_queue=5, max_texts=6)


def test_a_character_of_several_tokens_is_sent_when_it_is_whole(model):
    answer = Answer(model)
    ids = model.tokenizer("a€b", add_special_tokens=False)["input_ids"]
    assert len(ids) > 3
    pieces = [answer.add(token) for token in ids]
    assert "".join(pieces) == answer.text == "a€b"
    assert "\ufffd" not in "".join(pieces)
    broken = Answer(model)
    assert [broken.add(token) for token in ids[:2]] == ["a", ""]
    assert broken.end() == "\ufffd"  # no token follows that would complete it


def test_what_may_become_a_stop_is_held_back(model):
    answer = Answer(model, ["END", "over"])
    pieces = [
        answer.add(token)
        for letter in "xENoovE"
        for token in model.tokenizer(letter, add_special_tokens=False)["input_ids"]
    ]
    assert pieces == ["x", "", "", "EN", "o", "", "ov"]
    assert answer.end() == "E"
    answer = Answer(model, ["END"])
    for letter in "aEND":
        answer.add(model.tokenizer(letter, add_special_tokens=False)["input_ids"][0])
    assert (answer.text, answer.stopped, answer.end()) == ("a", True, "")
