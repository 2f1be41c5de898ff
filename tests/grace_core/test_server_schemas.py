"""What a request may leave open: null stands for the default, as clients send it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from grace_core.serving.schemas import EmbeddingsRequest, RerankRequest, SearchRequest


def test_nulls_are_defaults():
    nulls = dict.fromkeys(("encoding_format", "dimensions", "user", "rationale", "pooling", "truncate"))
    assert EmbeddingsRequest(input="x", model="m", **nulls) == EmbeddingsRequest(input="x", model="m")
    assert EmbeddingsRequest(input="x", model="m", encoding_format=None).encoding_format == "float"
    assert SearchRequest(query="x", k=None).k == 10
    assert RerankRequest(query="x", documents=["y"], top_n=None, return_documents=None).return_documents is False


def test_what_is_needed_may_not_be_null():
    for missing in ({"input": None, "model": "m"}, {"input": "x", "model": None}):
        with pytest.raises(ValidationError):
            EmbeddingsRequest(**missing)
    with pytest.raises(ValidationError):
        EmbeddingsRequest(input="x", model="m", unheard_of=None)
