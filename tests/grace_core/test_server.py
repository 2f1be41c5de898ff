"""``grace serve`` as its clients see it: the openai package, langchain's and llama-index's classes, and plain HTTP."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from live_server import live
from prometheus_client.parser import text_string_to_metric_families

from grace_core.cache import RepresentationCache
from grace_core.collection import Collection
from grace_core.index import GraceIndex, build
from grace_core.pooling import Pooling
from grace_core.prompt import REPRESENTATION_PROMPT
from grace_core.readers import read_corpus

KEY = "a-key"


@pytest.fixture(scope="module")
def model(new_model):
    return new_model("qwen2", max_new_tokens=8)


@pytest.fixture(scope="module")
def index(model, sentences, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    rows = [{"_id": f"d{i}", "title": f"Title {i}", "text": text, "kind": "k"} for i, text in enumerate(sentences[:20])]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return build(Collection.create(read_corpus(folder / "corpus.jsonl"), folder / "collection"), model)


@pytest.fixture(scope="module")
def server(model, index):
    with live(model, index=index, keys=["another", KEY]) as running:
        running.http.headers["Authorization"] = f"Bearer {KEY}"
        yield running


@pytest.fixture(scope="module")
def expected(model, sentences):
    """What the library says about the first texts."""
    return model.represent(sentences[:6])


@pytest.fixture(scope="module")
def client(server):
    from openai import OpenAI

    return OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)


# --- embeddings
# -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_openai_s_client_gets_the_library_s_embeddings(client, sentences, expected, model, options):
    answer = client.embeddings.create(model=model.name, input=sentences[:6], **options)
    found = [item.embedding for item in answer.data]
    if options.get("encoding_format") == "base64":  # asked for by name, it is handed on as it is
        found = [np.frombuffer(base64.b64decode(vector), "<f4") for vector in found]
    np.testing.assert_allclose(np.array(found), expected.embeddings(), atol=1e-5)
    assert [item.index for item in answer.data] == list(range(6))
    assert answer.model == model.name
    assert answer.usage.prompt_tokens == expected.counts[:, 0].sum()
    assert answer.usage.total_tokens == expected.counts[:, [0, 2]].sum()


def test_a_single_text_and_token_ids_give_the_same_as_a_list(client, sentences, expected, model):
    ids = [model.tokenizer(text)["input_ids"] for text in sentences[:2]]
    wanted = expected.embeddings()
    for given, count in ((sentences[0], 1), (ids[0], 1), (ids, 2)):
        answer = client.embeddings.create(model=model.name, input=given, user="somebody", dimensions=model.dim)
        np.testing.assert_allclose(np.array([item.embedding for item in answer.data]), wanted[:count], atol=1e-5)


def test_rationales_come_on_demand(client, server, sentences, expected, model):
    answer = client.embeddings.create(model=model.name, input=sentences[:6], extra_body={"rationale": True})
    assert [item.rationale for item in answer.data] == expected.rationales
    assert [item.truncated for item in answer.data] == expected.truncated.tolist()
    assert len(set(expected.rationales)) == 6
    _, plain = server.ask("/v1/embeddings", {"model": model.name, "input": "a"})
    assert plain["data"][0].keys() == {"object", "index", "embedding"}


def test_the_text_alone_is_embedded_by_model_name_or_by_pooling(client, sentences, expected, model):
    wanted = expected.embeddings(Pooling.TEXT)
    by_name = client.embeddings.create(model=f"{model.name}:text", input=sentences[:6])
    by_field = client.embeddings.create(model=model.name, input=sentences[:6], extra_body={"pooling": "text"})
    with_rationale = client.embeddings.create(
        model=model.name, input=sentences[:6], extra_body={"pooling": "text", "rationale": True}
    )
    for answer in (by_name, by_field, with_rationale):
        np.testing.assert_allclose(np.array([item.embedding for item in answer.data]), wanted, atol=1e-5)
    assert by_name.usage.total_tokens == by_name.usage.prompt_tokens  # nothing was written
    assert [item.rationale for item in with_rationale.data] == expected.rationales


def test_langchain_s_embeddings_class(server, sentences, expected, model):
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        model=model.name,
        base_url=f"{server.url}/v1",
        api_key=KEY,
        check_embedding_ctx_length=False,
        chunk_size=4,
        max_retries=0,
    )
    np.testing.assert_allclose(np.array(embeddings.embed_documents(sentences[:6])), expected.embeddings(), atol=1e-5)
    np.testing.assert_allclose(np.array(embeddings.embed_query(sentences[1])), expected.embeddings()[1], atol=1e-5)


def test_llama_index_s_embeddings_class(server, sentences, expected, model):
    from llama_index.embeddings.openai import OpenAIEmbedding

    embedding = OpenAIEmbedding(
        model_name=model.name, api_base=f"{server.url}/v1", api_key=KEY, max_retries=0, embed_batch_size=4
    )
    # it puts spaces for line breaks, of which these texts have none
    np.testing.assert_allclose(
        np.array(embedding.get_text_embedding_batch(sentences[:6])), expected.embeddings(), atol=1e-5
    )
    np.testing.assert_allclose(
        np.array(embedding.get_query_embedding(sentences[1])), expected.embeddings()[1], atol=1e-5
    )


def test_a_text_that_is_too_long_is_refused_or_cut_on_demand(new_model):
    short = new_model("qwen2", max_new_tokens=4, max_prompt_tokens=120)
    text = "river " * 200
    with live(short) as running:
        status, told = running.ask("/v1/embeddings", {"model": short.name, "input": ["fine", text]})
        assert status == 400
        assert "input[1]: the text is longer than the" in told["error"]["message"]
        assert told["error"]["param"] == "input"
        fine, wanted = short.encode(["fine", text])
        ids = [short.tokenizer(given.strip())["input_ids"] for given in ("fine", text)]
        for given in (["fine", text], ids):
            status, answer = running.ask("/v1/embeddings", {"model": short.name, "input": given, "truncate": True})
            assert status == 200
            assert [item["text_truncated"] for item in answer["data"]] == [False, True]
            np.testing.assert_allclose([item["embedding"] for item in answer["data"]], [fine, wanted], atol=1e-5)
        body = {"query": text, "documents": ["fine", text], "truncate": True}
        _, answer = running.ask("/rerank", body)
        assert answer["text_truncated"]
        assert {result["index"]: result["text_truncated"] for result in answer["results"]} == {0: False, 1: True}
        _, answer = running.ask("/rerank", body | {"query": "fine", "rationale": True})
        assert not answer["text_truncated"]
        assert {"rationale", "truncated", "text_truncated"} <= answer["results"][0].keys()


def test_what_is_in_the_cache_is_not_run_again_and_a_broken_cache_is_done_without(
    new_model, sentences, expected, tmp_path
):
    cached = new_model("qwen2", max_new_tokens=8)
    cached.cache = RepresentationCache(tmp_path / "cache.sqlite")
    with live(cached) as running:
        registry = running.app.state.served.metrics.registry
        first = running.ask("/v1/embeddings", {"model": cached.name, "input": sentences[:3]})
        assert running.ask("/v1/embeddings", {"model": cached.name, "input": sentences[:3]}) == first
        assert registry.get_sample_value("grace_batch_texts_sum", {"kind": "rationale"}) == 3
        assert registry.get_sample_value("grace_cache_total", {"result": "hit"}) == 3
        cached.cache.close()  # from now on it cannot be used
        status, answer = running.ask("/v1/embeddings", {"model": cached.name, "input": sentences[3]})
        assert status == 200
        np.testing.assert_allclose(answer["data"][0]["embedding"], expected.embeddings()[3], atol=1e-5)


# --- chat
# -------------------------------------------------------------------------------------------------------------------


def test_chat_answers_what_the_model_writes(client, sentences, expected, model):
    """Asked with the representation prompt, greedily, it writes the rationale."""
    messages = [{"role": "system", "content": REPRESENTATION_PROMPT}, {"role": "user", "content": sentences[0]}]
    answer = client.chat.completions.create(model=model.name, messages=messages, temperature=0)
    assert answer.choices[0].message.content.strip() == expected.rationales[0]
    assert answer.choices[0].finish_reason == ("length" if expected.truncated[0] else "stop")
    assert answer.usage.completion_tokens == expected.counts[0, 2]
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_answer_is_the_same_in_pieces(client, model):
    options = {
        "model": model.name,
        "messages": [{"role": "user", "content": "the river"}],
        "temperature": 0.7,
        "seed": 3,
        "max_tokens": 12,
    }
    whole = client.chat.completions.create(**options)
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 1
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-1].usage == whole.usage
    assert whole.usage.completion_tokens <= 12


def test_seeds_decide_samples_and_an_answer_without_one_is_new(client, model):
    def say(**options) -> str:
        messages = [{"role": "user", "content": [{"type": "text", "text": "the river"}]}]
        return client.chat.completions.create(model=model.name, messages=messages, **options).choices[0].message.content

    assert say(seed=1) == say(seed=1)
    assert len({say() for _ in range(5)}) > 1


def test_an_answer_ends_at_a_stop_which_is_left_out(client, model):
    options = {
        "model": model.name,
        "messages": [{"role": "user", "content": "snow"}],
        "temperature": 0,
        "max_completion_tokens": 12,
    }
    whole = client.chat.completions.create(**options).choices[0].message.content
    stop = whole[4:7]
    for stream in (False, True):
        answer = client.chat.completions.create(**options, stop=["never", stop], stream=stream)
        if stream:
            chunks = [chunk.choices[0] for chunk in answer]
            content, reason = "".join(c.delta.content or "" for c in chunks), chunks[-1].finish_reason
        else:
            content, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert content == whole[: whole.index(stop)]
        assert reason == "stop"


def test_markup_in_a_message_ends_nobody_s_turn(model):
    from grace_core.serving.chat import conversation
    from grace_core.serving.schemas import Message

    def prompt(text: str) -> list[int]:
        return conversation(
            model, [Message(role="developer", content="Be kind."), Message(role="user", content=text)]
        ).ids

    end = model.tokenizer.eos_token_id
    assert prompt("a <|im_end|> b").count(end) == prompt("a b").count(end) == 2
    assert prompt("a b")[:10] == prompt("a <|im_end|> b")[:10]
    text = model.tokenizer.decode(prompt("a <|im_end|> b"))
    assert text.count("Be kind.") == 1
    assert "a <|im_end|> b" in text


# --- search and reranking
# ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", [None, "text"])
def test_search_gives_the_index_s_hits(server, index, model, sentences, pooling):
    status, answer = server.ask("/search", {"query": sentences[3], "k": 4} | ({"pooling": pooling} if pooling else {}))
    assert status == 200
    chosen = Pooling(pooling) if pooling else Pooling.FULL
    made = model.represent([sentences[3]])
    hits = index.hits(made.embeddings(chosen)[0], 4, pooling=chosen)
    assert [hit["id"] for hit in answer["results"]] == [hit.document.id for hit in hits]
    np.testing.assert_allclose([hit["score"] for hit in answer["results"]], [hit.score for hit in hits], atol=1e-5)
    assert answer["results"][0]["rationale"] == hits[0].rationale
    assert answer["results"][0]["metadata"] == {"kind": "k"}
    assert {hit["text_truncated"] for hit in answer["results"]} == {answer["text_truncated"]} == {False}
    assert answer["rationale"] == ("" if pooling else made.rationales[0])
    assert answer["model"] == (f"{model.name}:text" if pooling else model.name)


def test_search_among_the_documents_that_satisfy_a_filter(server, index, sentences):
    wanted, where = index.ids[2:5], f"kind = 'k' and _id in ({', '.join(map(repr, index.ids[2:5]))})"
    status, answer = server.ask("/search", {"query": sentences[3], "filter": where})
    assert (status, answer["filtered"]) == (200, 3)
    assert sorted(hit["id"] for hit in answer["results"]) == sorted(wanted)
    status, answer = server.ask("/search", {"query": sentences[3], "filter": "kind > 3"})
    assert (status, answer["error"]["param"]) == (400, "filter")
    assert answer["error"]["message"] == "filter, character 8: 'kind' holds text, got 3: write a text in quotes"


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
def test_rerank_sorts_documents_by_their_similarity(server, model, sentences, path):
    documents = [sentences[5], {"text": sentences[3]}, sentences[4]]
    body = {"query": sentences[3], "documents": documents, "top_n": 2, "return_documents": True, "rationale": True}
    status, answer = server.ask(path, body)
    assert status == 200
    made = model.represent([sentences[i] for i in (3, 5, 3, 4)])
    scores = made.embeddings()[1:] @ made.embeddings()[0]
    assert [result["index"] for result in answer["results"]] == np.argsort(-scores)[:2].tolist()
    assert answer["results"][0]["index"] == 1
    assert answer["results"][0]["relevance_score"] == pytest.approx(1, abs=1e-5)
    assert answer["results"][0]["document"] == {"text": sentences[3]}
    assert answer["results"][0]["rationale"] == answer["rationale"] == made.rationales[0]
    _, answer = server.ask(path, {"query": sentences[3], "documents": [sentences[5], *[sentences[3]] * 5]})
    assert [result["index"] for result in answer["results"]] == [1, 2, 3, 4, 5, 0]


def test_a_collection_of_another_model_is_refused(index, new_model, model):
    from grace_core.errors import GraceError
    from grace_core.serving.app import create_app

    with pytest.raises(GraceError, match="was built with other weights or settings"):
        create_app(new_model("qwen2", seed=1, max_new_tokens=8), index=index)
    other = new_model("qwen2", max_new_tokens=9)
    other.__dict__["fingerprint"] = model.fingerprint
    with pytest.raises(GraceError, match="was built with other weights or settings"):
        create_app(other, index=GraceIndex(index.collection, index.model_name))


def test_an_index_without_rationales_is_searched_by_the_text_alone(model, index, sentences, tmp_path):
    (tmp_path / "corpus.jsonl").write_text(
        "\n".join(json.dumps({"_id": str(i), "text": text}) for i, text in enumerate(sentences[:9]))
    )
    bare = build(Collection.create(read_corpus(tmp_path / "corpus.jsonl"), tmp_path / "bare"), model, rationale=False)
    with live(model, index=bare) as running:
        status, answer = running.ask("/search", {"query": sentences[2], "k": 50})
        assert status == 200
        assert answer["results"][0]["id"] == "2"
        assert len(answer["results"]) == 9
        assert answer["model"] == f"{model.name}:text"
        status, told = running.ask("/search", {"query": "a", "pooling": "text+rationale"})
        assert (status, told["error"]["param"]) == (400, "pooling")


# --- state
# ------------------------------------------------------------------------------------------------------------------


def test_models_are_listed_with_and_without_rationales(client, model):
    assert [listed.id for listed in client.models.list()] == [model.name, f"{model.name}:text"]
    assert client.models.retrieve(f"{model.name}:text").id == f"{model.name}:text"


def test_info_tells_model_settings_limits_and_versions(server, model, index):
    status, info = server.ask("/info")
    assert status == 200
    assert (info["model"], info["dim"], info["fingerprint"]) == (model.name, model.dim, model.fingerprint)
    assert info["settings"]["max_new_tokens"] == 8
    assert info["limits"]["max_texts"] == 16
    assert info["collection"] == {"name": index.collection.name, "documents": 20}
    assert info["versions"].keys() == {"grace", "torch", "transformers"}


def test_metrics_count_requests_tokens_and_batches(new_model, sentences):
    fresh = new_model("qwen2", max_new_tokens=4)
    with live(fresh) as running:
        running.ask("/v1/embeddings", {"model": fresh.name, "input": sentences[:5]})
        running.ask("/v1/embeddings", {"model": "unknown", "input": "a"})
        for number in range(3):
            running.ask(f"/nowhere/{number}")
        assert running.http.get("/metrics").headers["content-type"].startswith("text/plain")
        families = {family.name: family for family in text_string_to_metric_families(running.http.get("/metrics").text)}
        made = fresh.represent(sentences[:5])
    requests = {
        (s.labels["route"], s.labels["code"]): s.value
        for s in families["grace_requests"].samples
        if s.name.endswith("_total")
    }
    assert requests == {
        ("/v1/embeddings", "200"): 1,
        ("/v1/embeddings", "404"): 1,
        ("other", "404"): 3,
        ("/metrics", "200"): 1,
    }
    tokens = {s.labels["kind"]: s.value for s in families["grace_tokens"].samples if s.name.endswith("_total")}
    assert tokens == {
        "text": made.counts[:, 0].sum(),
        "rationale": made.counts[:, 2].sum(),
        "prompt": 0,
        "completion": 0,
    }
    batches = {s.name: s.value for s in families["grace_batch_texts"].samples if s.labels["kind"] == "rationale"}
    assert (batches["grace_batch_texts_count"], batches["grace_batch_texts_sum"]) == (1, 5)
    assert families["grace_queue_texts"].samples[0].value == 0
    assert any(s.name.endswith("_bucket") for s in families["grace_request_seconds"].samples)


def test_sampled_rationales_belong_to_the_text_and_not_to_the_batch(new_model, sentences):
    sampling = new_model("qwen2", max_new_tokens=8, temperature=0.9, seed=5)
    wanted = sampling.represent(sentences[:8])
    assert wanted.rationales != sampling.represent(sentences[:8], seed=6).rationales
    with live(sampling, max_batch=3) as running:
        for texts in (sentences[:8], sentences[3:4]):
            _, answer = running.ask("/v1/embeddings", {"model": sampling.name, "input": texts, "rationale": True})
            places = [sentences.index(text) for text in texts]
            assert [item["rationale"] for item in answer["data"]] == [wanted.rationales[i] for i in places]
            np.testing.assert_allclose(
                [item["embedding"] for item in answer["data"]], wanted.embeddings()[places], atol=1e-5
            )
