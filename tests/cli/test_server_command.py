"""``grace serve`` as a process of its own: it ends on SIGTERM with all answers given; what it cannot do it
says in one line.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from grace_core.collection import Collection
from grace_core.index import build
from grace_core.model import GraceModel
from grace_core.readers import read_corpus


@pytest.fixture(scope="module")
def endless(new_model, tmp_path_factory):
    """A saved model that writes 150 tokens about every text."""
    folder = tmp_path_factory.mktemp("served-models") / "endless"
    new_model("qwen2", max_new_tokens=150, end_weight=0).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def collection(tiny_folder, sentences, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served-indexes")
    (folder / "corpus.txt").write_text("\n".join(sentences[:5]))
    model = GraceModel.from_pretrained(tiny_folder)
    build(Collection.create(read_corpus(folder / "corpus.txt"), folder / "some"), model, rationale=False)
    return folder / "some"


def test_sigterm_in_the_middle_finishes_what_was_accepted(endless, root, sentences):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "grace_cli",
            "serve",
            "--model",
            str(endless),
            "--port",
            "0",
            "--no-cache",
            "--max-batch",
            "2",
        ],
        cwd=root,
        env=os.environ | {"GRACE_API_KEYS": "one, two"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        url = re.search(r"http://[\d.:]+", line)[0]
        assert line == f"GRACE serves {endless} at {url}/v1 (Ctrl+C ends it)\n"
        with httpx.Client(base_url=url, timeout=60, trust_env=False, headers={"Authorization": "Bearer two"}) as http:
            answers = []
            body = {"model": "endless", "input": sentences[:6], "rationale": True}
            asking = threading.Thread(target=lambda: answers.append(http.post("/v1/embeddings", json=body)))
            asking.start()
            while http.get("/info").json()["waiting"] != 4:  # two of the six are being written about
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            asking.join(60)
        assert answers[0].status_code == 200
        assert [item["truncated"] for item in answers[0].json()["data"]] == [True] * 6
        assert process.wait(30) == 0
        with pytest.raises(OSError):
            socket.create_connection((httpx.URL(url).host, httpx.URL(url).port), timeout=5)
        assert process.stderr.read() == ""
    finally:
        process.kill()
        process.communicate()


def refused(result: tuple[int, str, str], message: str) -> None:
    status, out, err = result
    assert (status, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_port_that_is_taken(grace, tiny_folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        refused(
            grace("serve", "--model", tiny_folder, "--port", taken.getsockname()[1]), "the port is taken or not allowed"
        )
    refused(
        grace("serve", "--model", tiny_folder, "--host", "no.such.host.invalid"),
        "cannot serve at no.such.host.invalid:8000",
    )


def test_models_collections_and_options_that_cannot_be_served(grace, tiny_folder, collection, other_folder):
    refused(grace("serve", "--port", 0, "--model", "demo-nothing"), "there is no demo model 'demo-nothing'")
    refused(grace("serve", "--port", 0, "--model", tiny_folder, "--collection", "nowhere"), "nowhere is no collection")
    refused(
        grace("serve", "--port", 0, "--model", "demo-base", "--collection", collection),
        "has no index of model 'demo-base'",
    )
    refused(
        grace("serve", "--port", 0, "--model", tiny_folder, "--collection", collection, "--max-new-tokens", 4),
        "with --collection the settings are those of its index; leave out --max-new-tokens",
    )
    refused(grace("serve", "--port", 0, "--model", tiny_folder, "--max-new-tokens", 5000), "positions")
