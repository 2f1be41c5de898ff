"""Texts in any kind of sequence keep their order; what has none is refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from grace_core.cache import RepresentationCache
from grace_core.errors import GraceError
from grace_core.model import GraceModel
from grace_core.texts import as_texts

TEXTS = ["a violin", "a river", "a heavy metal"]


def kinds() -> dict:
    series = pd.Series([TEXTS[1], TEXTS[2], TEXTS[0]]).iloc[[2, 0, 1]]
    return {
        "tuple": tuple(TEXTS),
        "series": series,
        "gap": pd.Series(["x", *TEXTS]).drop(0),
        "category": series.astype("category"),
        "index": pd.Index(TEXTS),
        "array": np.array(TEXTS),
        "objects": np.array(TEXTS, dtype=object),
        "generator": (t for t in TEXTS),
        "values": dict(enumerate(TEXTS)).values(),
        "arrow": pa.array(TEXTS),
        "chunked": pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
    }


@pytest.mark.parametrize("kind", kinds())
def test_any_sequence_keeps_its_order(kind):
    texts = as_texts(kinds()[kind])
    assert texts == TEXTS
    assert {type(text) for text in texts} == {str}


@pytest.mark.parametrize(
    "value",
    [
        "one text",
        b"bytes",
        {"a": "b"},
        {"a", "b"},
        frozenset("ab"),
        pd.DataFrame({"text": TEXTS}),
        pa.table({"text": TEXTS}),
        np.array([TEXTS]),
        np.array("x"),
        7,
        None,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_sequence_of_texts_is_refused(tiny_models, value):
    with pytest.raises(GraceError, match="texts must be a list of str, got"):
        as_texts(value)
    for method in ("encode", "represent", "generate_rationales"):
        with pytest.raises(GraceError, match="texts must be a list of str, got"):
            getattr(tiny_models["qwen2"], method)(value)


def test_a_model_and_its_cache_keep_to_the_order(tiny_models, tmp_path):
    tiny = tiny_models["qwen2"]
    model = GraceModel(
        tiny.model, tiny.tokenizer, tiny.settings, name="tiny", cache=RepresentationCache(tmp_path / "c.sqlite")
    )
    wanted = tiny.encode(TEXTS)
    for kind, texts in kinds().items():
        np.testing.assert_allclose(model.encode(texts), wanted, atol=1e-5, err_msg=kind)
    np.testing.assert_allclose(model.encode(TEXTS[::-1]), wanted[::-1], atol=1e-5)
    rationales = pd.Series(["one", "two", "three"]).iloc[[2, 0, 1]]
    given = tiny.represent_given(pd.Series(TEXTS).iloc[[1, 2, 0]], rationales)
    np.testing.assert_allclose(
        given.sums, tiny.represent_given([TEXTS[1], TEXTS[2], TEXTS[0]], list(rationales)).sums, atol=1e-5
    )


def test_items_that_are_no_texts_are_named(tiny_models):
    with pytest.raises(GraceError, match="text 1: a text must be a str, got float"):
        tiny_models["qwen2"].encode(pd.Series(["a", float("nan")]))
    with pytest.raises(GraceError, match="a rationale must be a str or a list of token ids"):
        tiny_models["qwen2"].represent_given(["a"], [["b"]])


def test_a_document_that_shows_nothing_is_empty():
    from grace_core.readers import Document

    for text in ("", " \n", "\u200b", "\u200b\u200d \ufeff\u2060"):
        assert Document("a", text, text, {}).content == ""
    assert Document("a", "", "\u200bword", {}).content == "\u200bword"
