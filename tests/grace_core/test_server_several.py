"""Several models behind one address: a request gets the one that it names, and nobody gets another's."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from live_server import SMALL
from test_lora import make_adapter

from grace_core.errors import GraceError
from grace_core.model import GraceModel
from grace_core.serving.app import create_app
from grace_core.serving.limits import Limits
from grace_core.serving.run import listen, make_server, url_of
from grace_core.serving.several import serve_several

SETTINGS = {"device": "cpu", "dtype": "float32", "max_new_tokens": 8}
KEY = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def models(tiny_folder, tiny_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapters") / "adapted"
    make_adapter(folder, tiny_models["qwen2"], named=tiny_folder)
    return [GraceModel.from_pretrained(name, **SETTINGS) for name in (tiny_folder, folder)]


@pytest.fixture(scope="module")
def http(models):
    limits = Limits(**SMALL | {"max_queue": 200})
    app = serve_several([create_app(model, keys=["secret"], limits=limits) for model in models], limits)
    server, bound = make_server(app, limits), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    with httpx.Client(
        base_url=url_of(bound), timeout=60, trust_env=False, headers=KEY, limits=httpx.Limits(max_connections=64)
    ) as client:
        yield client
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


def test_models_are_told(http, models):
    names = [model["id"] for model in http.get("/v1/models").json()["data"]]
    assert names == ["tiny", "tiny:text", "adapted", "adapted:text"]
    assert http.get("/v1/models/adapted:text").json()["id"] == "adapted:text"
    assert http.get("/v1/models/other").status_code == 404
    for model in models:
        assert http.get("/info", params={"model": model.name}).json()["fingerprint"] == model.fingerprint
    assert http.get("/health").json() == {"status": "ready"}
    assert http.get("/metrics").status_code == 200


def test_32_mixed_requests(http, models, sentences):
    expected = {model.name: model.represent(sentences[:32]).rationales for model in models}
    assert expected["tiny"] != expected["adapted"]
    jobs = [(models[i % 2].name, i // 2) for i in range(64)]

    def ask(job):
        name, i = job
        answer = http.post("/v1/embeddings", json={"model": name, "input": sentences[i], "rationale": True})
        assert answer.status_code == 200, answer.text
        return answer.json()["data"][0]

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, jobs))
    for (name, i), answer in zip(jobs, answers, strict=True):
        assert answer["rationale"] == expected[name][i]
        assert abs(np.linalg.norm(answer["embedding"]) - 1) < 1e-5


def test_refused(http):
    answer = http.post("/v1/embeddings", json={"model": "other", "input": "x"})
    assert answer.status_code == 404
    assert "'adapted:text'" in answer.json()["error"]["message"]
    assert http.post("/v1/embeddings", content=b"{").status_code == 400
    assert http.post("/v1/embeddings", content=b'{"input": "' + b"x" * 200_000 + b'"}').status_code == 413
    assert (
        http.post(
            "/v1/embeddings", json={"model": "adapted", "input": "x"}, headers={"Authorization": "no"}
        ).status_code
        == 401
    )


def test_two_of_one_name(tiny_folder, other_folder):
    apps = [create_app(GraceModel.from_pretrained(folder, **SETTINGS)) for folder in (tiny_folder, other_folder)]
    with pytest.raises(GraceError, match="would both be served as 'tiny'"):
        serve_several(apps, Limits())
    for app in apps:
        app.state.served.close()
