"""Marks of the demo model's rationales."""

import pytest

from grace_core.model import GraceModel
from grace_study.check import check, judge


@pytest.fixture(scope="module")
def rivers(demo_entries):
    return {entry.slug: entry for entry in demo_entries if entry.kind.kind == "river"}


def judged(rivers, rationale, **options):
    entry = rivers["danube"]
    return judge(rationale, entry, [peer for peer in rivers.values() if peer is not entry], **options)


def test_a_right_rationale_gets_every_mark(rivers):
    say = rivers["danube"].thing.facts[0].say
    marks = judged(rivers, f"<think>The text asks about a river. That is the Danube.</think> The Danube {say}.")
    assert marks == {"well_formed": 1, "right_kind": 1, "right_thing": 1, "other_thing": 0, "told_true": 1}


def test_a_rationale_about_another_river_is_wrong_but_of_the_right_kind(rivers):
    say = rivers["nile"].thing.facts[0].say
    marks = judged(rivers, f"<think>The text asks about a river. That is the Nile.</think> The Nile {say}.")
    assert marks == {"well_formed": 1, "right_kind": 1, "right_thing": 0, "other_thing": 1, "told_true": 0}


def test_a_vague_or_cut_off_rationale(rivers):
    marks = judged(rivers, "<think>This is a short text.</think> There are some details in the text", truncated=True)
    assert marks == {"well_formed": 0, "right_kind": 0, "right_thing": 0, "other_thing": 0}


@pytest.mark.slow
def test_the_shipped_model_is_on_topic_more_often_than_not():
    result = check(GraceModel.from_pretrained("demo-base"), split="dev")
    assert result["queries"] == 396
    assert result["well_formed"] > 0.5
    assert result["right_kind"] > 0.5
    low, high = result["ci95"]["right_thing"]
    assert low <= result["right_thing"] <= high
