"""Whether names of reasons stand in the labels of their documents."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "grace_core"))

from reasons_world import KINDS, build_given, kinds_of, numbered_texts

from grace_core.errors import GraceError
from grace_core.reasons.collection import make_reasons
from grace_study.reason_names import measure, share, words

LABELS = ("rivers", "metal", "opera house")


@pytest.fixture(scope="module")
def reasons(new_model, sentences, tmp_path_factory):
    model = new_model("qwen2")
    kinds = kinds_of(30).tolist()
    index = build_given(
        tmp_path_factory.mktemp("labelled") / "c",
        model,
        numbered_texts(sentences, 30),
        [KINDS[kind] for kind in kinds],
        metadata=[{"kind": LABELS[kind]} for kind in kinds],
    )
    return make_reasons(index, model)


def test_names_that_say_the_kind_hit_its_documents(reasons):
    result = measure(reasons, ["kind"], size=reasons.sizes[0])
    assert result["documents"] == 30
    assert result["names"]["name_most"]["mean"] > result["texts"]["name_most"]["mean"]
    apart = result["names"]["share"]["mean"] - result["texts"]["share"]["mean"]
    assert result["difference"]["share"]["mean"] == pytest.approx(apart)


def test_columns_that_nobody_has_are_told(reasons):
    with pytest.raises(GraceError, match="no document has colour or size; name columns"):
        measure(reasons, ["colour", "size"], size=reasons.sizes[0])


def test_words_that_differ_in_their_ending_count_as_one():
    assert words("Rivers, of an opera!") == {"rivers", "opera"}
    assert share({"river"}, [{"rivers"}, {"metal"}, set(), {"river", "sea"}]) == 0.5
    assert share({"car"}, [{"cart"}]) == 0
