"""Whatever a client sends: an answer, or an error object with one line; never a 500, and the server stays well.

A few requests here; ``pytest tests/grace_core/test_server_properties.py --hypothesis-profile=thorough`` sends
ten thousand.
"""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from live_server import SMALL

from grace_core.collection import Collection
from grace_core.index import build
from grace_core.readers import Corpus, Document
from grace_core.serving.app import create_app
from grace_core.serving.limits import Limits

EXAMPLES = settings().max_examples if settings().max_examples > 100 else 60
TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "a river",
            "\u200b",
            "\0",
            "lone \ud83d",
            "<|im_end|>",
            "河流。",
            "x" * 3000,
            "river " * 300,
            "tiny-qwen2",
        ]
    ),
    st.text(max_size=20),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)
WORDS = st.sampled_from(["a river", "lone \ud83d", "<|im_end|>", "河流。", "x" * 300])


def usual(strategy, *more):
    """Mostly this, and now and then anything."""
    return st.integers(0, 19).flatmap(
        lambda lot: JSON if lot == 0 else TEXTS if lot == 1 else st.one_of(strategy, *more)
    )


FLAGS, MODELS = usual(st.booleans()), usual(st.sampled_from(["tiny-qwen2", "tiny-qwen2:text"]))
SMALL_NUMBERS, SHARES = usual(st.integers(1, 3)), usual(st.floats(0.1, 1))
ROLES = usual(st.sampled_from(["user", "user", "assistant"]))
MESSAGES = usual(st.lists(st.fixed_dictionaries({"role": ROLES, "content": usual(WORDS)}), min_size=1, max_size=3))
IDS, SEVERAL = st.lists(st.integers(3, 600), min_size=1, max_size=5), st.lists(WORDS, min_size=1, max_size=3)
BODIES = {  # what must be there, and what may be
    "/v1/embeddings": (
        {"model": MODELS, "input": usual(WORDS, SEVERAL, IDS)},
        {
            "truncate": FLAGS,
            "rationale": FLAGS,
            "pooling": usual(st.sampled_from(["text", "text+rationale"])),
            "dimensions": usual(st.just(48)),
            "encoding_format": usual(st.sampled_from(["float", "base64"])),
            "input_type": usual(st.sampled_from(["query", "document"])),
        },
    ),
    "/search": (
        {"query": usual(WORDS)},
        {
            "k": SMALL_NUMBERS,
            "model": MODELS,
            "truncate": FLAGS,
            "filter": usual(st.sampled_from(["year > 1", "year = 0 or year = 2", "_id = '1'"])),
        },
    ),
    "/v1/rerank": (
        {
            "query": usual(WORDS),
            "documents": usual(SEVERAL, SEVERAL.map(lambda texts: [{"text": text} for text in texts])),
        },
        {"top_n": SMALL_NUMBERS, "model": MODELS, "return_documents": FLAGS, "rationale": FLAGS, "truncate": FLAGS},
    ),
    "/v1/chat/completions": (
        {"model": MODELS, "messages": MESSAGES},
        {
            "max_tokens": SMALL_NUMBERS,
            "temperature": SHARES,
            "top_p": SHARES,
            "seed": SMALL_NUMBERS,
            "stop": usual(WORDS),
            "n": usual(st.just(1)),
            "stream": FLAGS,
            "stream_options": usual(st.fixed_dictionaries({"include_usage": FLAGS})),
            "presence_penalty": usual(st.just(0)),
            "logprobs": usual(st.just(False)),
            "response_format": usual(st.just({"type": "text"})),
        },
    ),
}


@st.composite
def bodies(draw, path: str) -> dict:
    needed, optional = BODIES[path]
    body = {name: draw(strategy) for name, strategy in needed.items()}
    for name in draw(st.lists(st.sampled_from(sorted(optional)), max_size=3, unique=True)):
        body[name] = draw(optional[name])
    lot = draw(st.integers(0, 19))
    if lot == 0:
        body[draw(TEXTS)] = draw(JSON)
    if lot == 1:
        body.pop(draw(st.sampled_from(sorted(body))))
    return body


@pytest.fixture(scope="module")
def client(new_model, tmp_path_factory):
    model = new_model("qwen2", max_new_tokens=3, max_prompt_tokens=120)
    documents = [Document(str(i), "", text, {"year": i}) for i, text in enumerate(("a river", "a metal", "a violin"))]
    collection = Collection.create(
        Corpus(documents, None, "made here", ["year"]), tmp_path_factory.mktemp("served") / "small"
    )
    index = build(collection, model)
    with TestClient(create_app(model, index=index, limits=Limits(**SMALL)), raise_server_exceptions=False) as made:
        yield made


def fine(answer, path: str) -> None:
    assert answer.status_code in (200, 400, 404, 405, 413, 415, 422, 429), (answer.status_code, answer.text[:300])
    event(f"{path} {answer.status_code}")
    if answer.headers["content-type"].startswith("text/event-stream"):
        assert answer.text.endswith("data: [DONE]\n\n"), answer.text[-300:]
        return
    told = answer.json()
    if answer.status_code == 200:
        json.dumps(told, allow_nan=False)
    else:
        message = told["error"]["message"]
        assert message
        assert "\n" not in message
        assert len(message) < 1500
        assert "Traceback" not in message


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), path=st.sampled_from(sorted(BODIES)))
def test_any_request(client, data, path):
    body = data.draw(bodies(path))
    content = json.dumps(body)
    if data.draw(st.integers(0, 19)) == 0:  # an accident on the way
        place, gone = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 2))
        content = (
            content[:place]
            + data.draw(st.sampled_from(["", "\x00", "}", ",", '"', "\ud800"]))
            + content[place + gone :]
        )
    answer = client.post(
        path, content=content.encode("utf-8", "surrogatepass"), headers={"content-type": "application/json"}
    )
    fine(answer, path)
    assert client.get("/health").json() == {"status": "ready"}


@settings(max_examples=max(EXAMPLES // 4, 10), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    content=st.binary(max_size=40),
    path=st.one_of(st.sampled_from(sorted(BODIES)), st.binary(max_size=10).map(lambda name: f"/{quote(name)}")),
    kind=st.sampled_from(["application/json", "text/plain", "application/json; charset=utf-16", "x"]),
    method=st.sampled_from(["POST", "GET", "PUT", "DELETE", "OPTIONS"]),
)
def test_any_bytes(client, content, path, kind, method):
    answer = client.request(method, path, content=content, headers={"content-type": kind})
    assert answer.status_code < 500
    if answer.headers.get("content-type", "").startswith("application/json"):
        fine(answer, method)
