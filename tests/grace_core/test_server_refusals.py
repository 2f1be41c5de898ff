"""What the server refuses, and how: one line in OpenAI's shape, and the next client is served as if nothing
had been.
"""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest
from live_server import live


@pytest.fixture(scope="module")
def model(new_model):
    return new_model("qwen2", max_new_tokens=6)


@pytest.fixture(scope="module")
def server(model):
    with live(model) as running:
        yield running


@pytest.fixture(autouse=True)
def serves_others_as_before(server, model, sentences):
    yield
    status, answer = server.ask("/v1/embeddings", {"model": model.name, "input": sentences[0], "pooling": "text"})
    assert status == 200
    np.testing.assert_allclose(
        answer["data"][0]["embedding"], model.encode([sentences[0]], rationale=False)[0], atol=1e-5
    )


def refused(answer, status: int, message: str, *, param: str | None = None) -> None:
    code, body = answer
    assert code == status, body
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert message in body["error"]["message"]
    assert "\n" not in body["error"]["message"]
    assert len(body["error"]["message"]) < 600
    assert body["error"]["param"] == param


NAME = "tiny-qwen2"


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (b"", "the body must be a JSON object", None),
        (b"{", "the body is not JSON", None),
        (b'{"input": "\xff"}', "the body cannot be read as JSON", None),
        (b"[1]", "the body must be a JSON object", None),
        (b'"text"', "the body must be a JSON object", None),
        (b'{"input": ' + b"9" * 5000 + b"}", "the body cannot be read as JSON", None),
        (b'{"input": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", "the body cannot be read as JSON", None),
        (b"{}", "'input' is missing", "input"),
        (b'{"input": "a"}', "'model' is missing", "model"),
    ],
)
def test_bodies_that_are_no_request(server, body, message, param):
    answer = server.http.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
    refused((answer.status_code, answer.json()), 400, message, param=param)


def test_a_body_that_does_not_say_it_is_json_is_not_taken_for_it(server):
    """A page of another site can have a browser send such a body, without asking first."""
    body = json.dumps({"model": NAME, "input": "a"})
    answer = server.http.post("/v1/embeddings", content=body, headers={"Content-Type": "text/plain"})
    refused((answer.status_code, answer.json()), 400, "Content-Type: application/json")


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"input": None}, "input: expected a text, a list of texts", "input"),
        ({"input": 5}, "got int 5", "input"),
        ({"input": {"text": "a"}}, "got dict", "input"),
        ({"input": []}, "the list is empty", "input"),
        ({"input": ["a", 5]}, "input[1] must be a text as the first one is, got int 5", "input"),
        ({"input": [[1], "a"]}, "input[1] must be a text or a list of token ids", "input"),
        ({"input": [7, True]}, "input[0] must be a text or a list of token ids", "input"),
        ({"input": [1.5]}, "got float 1.5", "input"),
        ({"input": [[]]}, "input[0] is empty", "input"),
        ({"input": ["a", ""]}, "input[1] is empty", "input"),
        ({"input": " \n"}, "input: the text is empty", "input"),
        ({"input": ["a"] * 17}, "got 17 texts, at most 16 are taken", "input"),
        ({"input": ["a", "b" * 2001]}, "input[1]: the text has 2,001 characters, at most 2,000", "input"),
        ({"input": [-1]}, "-1 is no token id of tiny-qwen2", "input"),
        ({"input": [[7], [10**9]]}, "input[1]: 1000000000 is no token id", "input"),
        ({"input": [7, 2, 7]}, "token id 2 is the special token '<|im_end|>'", "input"),
        ({"model": "gpt-4"}, "the model 'gpt-4' is not served here", "model"),
        ({"model": "\ud800" * 500}, "is not served here", "model"),
        ({"model": None}, "model: Input should be a valid string", "model"),
        ({"model": f"{NAME}:text", "pooling": "text+rationale"}, "embeds the text alone", "pooling"),
        ({"pooling": "cls"}, "pooling: Input should be 'text' or 'text+rationale'", "pooling"),
        ({"encoding_format": "int8"}, "encoding_format: Input should be 'float' or 'base64'", "encoding_format"),
        ({"dimensions": 8}, "dimensions must be 48 or left out, got 8: this model was not trained for", "dimensions"),
        ({"dimensions": "48"}, "dimensions: Input should be a valid integer", "dimensions"),
        ({"rationale": "yes"}, "rationale: Input should be a valid boolean", "rationale"),
        ({"rationales": True}, "unknown field 'rationales'", "rationales"),
    ],
)
def test_embeddings_that_cannot_be(server, fields, message, param):
    body = json.dumps({"model": NAME, "input": "a"} | fields)  # httpx's own encoder cannot write half characters
    answer = server.http.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
    status = 404 if "is not served" in message else 400
    refused((answer.status_code, answer.json()), status, message, param=param)


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"messages": []}, "messages: List should have at least 1 item", "messages"),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.role: Input should be", "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "'messages.0.content' is missing", "messages.0.content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages.0.content[0] must be",
            "messages.0.content",
        ),
        ({"messages": [{"role": "user", "content": "a" * 2001}]}, "the messages have 2,001 characters", "messages"),
        ({"temperature": 3}, "temperature: Input should be less than or equal to 2", "temperature"),
        ({"top_p": 0}, "top_p: Input should be greater than 0", "top_p"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1", "max_tokens"),
        ({"max_tokens": 100_000}, "an answer at most 1024 tokens", "max_tokens"),
        ({"n": 2}, "n: Input should be 1", "n"),
        ({"tools": []}, "unknown field 'tools'", "tools"),
        ({"stop": ["a"] * 5}, "stop: expected a text, or a list of at most four", "stop"),
        ({"stop": [""]}, "none of them empty", "stop"),
        ({"frequency_penalty": 0.5}, "frequency_penalty: Input should be less than or equal to 0", "frequency_penalty"),
    ],
)
def test_chats_that_cannot_be(server, fields, message, param):
    body = {"model": NAME, "messages": [{"role": "user", "content": "a"}]} | fields
    refused(server.ask("/v1/chat/completions", body), 400, message, param=param)


def test_a_template_that_refuses_roles_is_told_of(new_model):
    strict = new_model("qwen2", max_new_tokens=4)
    first = "{% if messages[0]['role'] == 'assistant' %}{{ raise_exception('the user\nmust begin') }}{% endif %}"
    strict.tokenizer.chat_template = first + strict.tokenizer.chat_template
    with live(strict) as running:
        answer = running.ask(
            "/v1/chat/completions", {"model": strict.name, "messages": [{"role": "assistant", "content": "a"}]}
        )
        refused(answer, 400, "the user", param="messages")


@pytest.mark.parametrize(
    ("path", "body", "status", "message", "param"),
    [
        ("/search", {"query": "a"}, 404, "no collection is served here", None),
        ("/search", {"query": "a", "k": 0}, 400, "k: Input should be greater than or equal to 1", "k"),
        ("/rerank", {"query": "a", "documents": []}, 400, "got an empty list", "documents"),
        (
            "/rerank",
            {"query": "a", "documents": ["b", {"title": "c"}]},
            400,
            "documents[1] must be a text or an object",
            "documents",
        ),
        ("/rerank", {"query": " ", "documents": ["b"]}, 400, "query: the text is empty", "query"),
        ("/rerank", {"query": "a", "documents": ["b", " "]}, 400, "documents[1]: the text is empty", "documents"),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, 400, "top_n: Input should be greater", "top_n"),
        ("/v1/completions", {"prompt": "a"}, 404, "there is no '/v1/completions' here", None),
        ("/v1/embeddings", None, 405, "'/v1/embeddings' does not take GET", None),
        ("/v1/models/other", None, 404, "the model 'other' is not served", "model"),
    ],
)
def test_other_requests_that_cannot_be(server, path, body, status, message, param):
    refused(server.ask(path, body), status, message, param=param)


def test_too_many_tokens_in_one_request(model):
    with live(model, max_request_tokens=10) as running:
        refused(
            running.ask("/v1/embeddings", {"model": NAME, "input": ["the river"] * 9}),
            400,
            "at most 10 are taken",
            param="input",
        )


def test_texts_of_ten_megabytes_are_refused_and_half_characters_are_repaired(server, model):
    refused(server.ask("/v1/embeddings", {"model": NAME, "input": "a" * 300_000}), 413, "more than 100,000 bytes")
    refused(server.ask("/v1/embeddings", {"model": NAME, "input": "a" * 10_000_000}), 413, "more than 100,000 bytes")
    body = '{"model": "tiny-qwen2", "input": "the \\ud83d river", "pooling": "text"}'
    answer = server.http.post("/v1/embeddings", content=body, headers={"Content-Type": "application/json"})
    wanted = model.encode(["the \ufffd river"], rationale=False)[0]
    np.testing.assert_allclose(answer.json()["data"][0]["embedding"], wanted, atol=1e-5)


def test_a_body_that_never_ends_is_cut_off(server):
    """Sent in chunks, without a length, for as long as the server reads."""
    with server.connect() as connection:
        head = b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        try:
            while sent < 50_000_000:
                connection.sendall(b"10000\r\n" + b"a" * 65536 + b"\r\n")
                sent += 65536
        except OSError:
            pass
        assert sent < 10_000_000


def test_without_a_key_only_health_and_metrics_answer(model):
    with live(model, keys=["right", "also right"]) as running:
        for header in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "right"},
            {"Authorization": "Basic right"},
        ):
            refused(running.ask("/v1/models", headers=header), 401, "a valid API key is needed")
            refused(running.ask("/info", headers=header), 401, "a valid API key is needed")
        assert running.http.get("/v1/models").headers["WWW-Authenticate"] == "Bearer"
        assert running.ask("/v1/models", headers={"Authorization": "Bearer also right"})[0] == 200
        assert running.ask("/health") == (200, {"status": "ready"})
        assert running.http.get("/metrics").status_code == 200
        from openai import AuthenticationError, NotFoundError, OpenAI

        with pytest.raises(AuthenticationError, match="a valid API key"):
            OpenAI(base_url=f"{running.url}/v1", api_key="wrong", max_retries=0).models.list()
        with pytest.raises(NotFoundError, match="is not served here"):
            OpenAI(base_url=f"{running.url}/v1", api_key="right", max_retries=0).embeddings.create(
                model="other", input="a"
            )


# --- slow clients, clients that go away, too many clients
# --------------------------------------------------------------------


def test_clients_that_send_too_slowly_are_told_or_closed_and_keep_nobody_waiting(server, model, sentences):
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n"
    slow = [server.connect() for _ in range(6)]
    for connection in slow[:3]:
        connection.sendall(head)  # whose head never ends
    for connection in slow[3:]:
        connection.sendall(head + b"\r\n{")  # whose body never ends
    began = time.monotonic()
    assert server.ask("/v1/embeddings", {"model": NAME, "input": sentences[1], "pooling": "text"})[0] == 200
    assert time.monotonic() - began < 0.8  # they are waited for for a second
    for connection in slow[:3]:
        assert connection.recv(1000) == b""
    for connection in slow[3:]:
        assert b"408 Request Timeout" in connection.recv(1000)
        connection.close()


def test_a_client_that_reads_nothing_keeps_nobody_waiting(server, sentences):
    body = json.dumps({"model": NAME, "input": sentences[:16], "pooling": "text"}).encode()
    head = (
        b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        % len(body)
    )
    with server.connect() as connection:
        connection.sendall((head + body) * 20)  # one after the other on one connection, and no answer is read
        assert server.ask("/v1/embeddings", {"model": NAME, "input": sentences[1], "pooling": "text"})[0] == 200


def test_what_a_client_that_goes_away_asked_for_is_not_computed(new_model, sentences):
    slow = new_model("qwen2", max_new_tokens=400, end_weight=0)  # its rationales never end
    with live(slow, max_batch=1) as running:
        body = json.dumps({"model": NAME, "input": sentences[:16]}).encode()
        head = (
            b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % len(body)
        )
        connection = running.connect()
        connection.sendall(head + body)
        wait_for(lambda: running.batcher.waiting() == 15)
        assert running.ask("/health")[0] == 200
        connection.close()
        wait_for(lambda: not running.batcher._runs)
        wait_for(lambda: running.batcher.waiting() == 0)
        registry = running.app.state.served.metrics.registry
        assert registry.get_sample_value("grace_batch_texts_sum", {"kind": "rationale"}) < 16
        wait_for(
            lambda: registry.get_sample_value("grace_requests_total", {"route": "/v1/embeddings", "code": "499"}) == 1
        )
        with running.http.stream(
            "POST", "/v1/chat/completions", json=chat(NAME, stream=True, max_tokens=400)
        ) as answer:
            assert any(
                '"content":"' in line and '"content":""' not in line for line in answer.iter_lines()
            )  # leaves after the first words
        wait_for(lambda: registry.get_sample_value("grace_tokens_total", {"kind": "completion"}) > 0)
        wait_for(lambda: not running.batcher._runs)
        assert registry.get_sample_value("grace_tokens_total", {"kind": "completion"}) < 400
        assert registry.get_sample_value("grace_batch_texts_sum", {"kind": "chat"}) == 1


def test_a_full_queue_refuses_with_the_time_to_wait(new_model, sentences):
    slow = new_model("qwen2", max_new_tokens=60, end_weight=0)
    with live(slow, max_batch=1, max_queue=3, max_texts=3) as running:
        codes = []
        first = threading.Thread(
            target=lambda: codes.append(running.ask("/v1/embeddings", {"model": NAME, "input": sentences[:3]})[0])
        )
        first.start()
        wait_for(lambda: running.batcher.waiting() == 2)
        answer = running.http.post("/v1/embeddings", json={"model": NAME, "input": sentences[3:5]})
        refused((answer.status_code, answer.json()), 429, "2 texts are waiting already; try again in")
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert running.ask("/v1/embeddings", {"model": NAME, "input": sentences[3:6], "pooling": "text"})[0] == 429
        assert running.ask("/health")[0] == 200
        first.join()
        assert codes == [200]
        assert running.ask("/v1/chat/completions", chat(NAME, max_tokens=2))[0] == 200


def chat(model: str, **options) -> dict:
    return {"model": model, "messages": [{"role": "user", "content": "a"}]} | options


def wait_for(happens, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.005)
