"""``grace serve --engine vllm`` as users run it: its answers, and that SIGTERM leaves none of vLLM's
processes behind.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import psutil
import pytest

pytestmark = pytest.mark.timeout(560)
TEXTS = ["a river that flows through four capitals", "a metal that is liquid"]


@pytest.fixture(scope="module")
def served(root, tmp_path_factory):
    """The server's process with a client, and a file of what it printed to stderr."""
    log = tmp_path_factory.mktemp("served") / "stderr"
    command = [
        sys.executable,
        "-m",
        "grace_cli",
        "serve",
        "--model",
        "demo-base",
        "--engine",
        "vllm",
        "--port",
        "0",
        "--no-cache",
    ]
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with (
        log.open("w") as errors,
        subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        try:
            told = re.search(r"http://[\d.:]+", process.stdout.readline().decode())
            assert told, log.read_text()
            with httpx.Client(base_url=told[0], timeout=120, trust_env=False) as http:
                yield process, http, log
        finally:
            process.kill()


def test_embeddings_and_chats(served, demo_base):
    _, http, _ = served
    answer = http.post("/v1/embeddings", json={"model": "demo-base", "input": TEXTS, "rationale": True}).json()["data"]
    own = demo_base.represent(TEXTS)
    assert [item["rationale"] for item in answer] == own.rationales
    assert (np.array([item["embedding"] for item in answer]) * own.embeddings()).sum(axis=1).min() >= 0.9999
    talk = {
        "model": "demo-base",
        "messages": [{"role": "user", "content": TEXTS[0]}],
        "temperature": 0,
        "max_tokens": 8,
    }
    said = http.post("/v1/chat/completions", json=talk).json()["choices"][0]
    assert said["message"]["content"]
    streamed = http.post("/v1/chat/completions", json=talk | {"stream": True}).text
    assert "".join(re.findall(r'"content":"([^"]*)"', streamed)) == said["message"]["content"]


def test_sigterm_answers_what_was_accepted_and_leaves_no_process(served):
    process, http, log = served
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("EngineCore" in " ".join([child.name(), *child.cmdline()]) for child in family)
    answers, before = [], http.get("/info").json()["waiting"]
    body = {"model": "demo-base", "input": [f"{TEXTS[0]} {i}" for i in range(40)]}
    asking = threading.Thread(target=lambda: answers.append(http.post("/v1/embeddings", json=body)))
    asking.start()
    while "grace_requests_active 2.0" not in http.get("/metrics").text:  # this one, and the texts
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    asking.join(60)
    assert (before, answers[0].status_code, len(answers[0].json()["data"])) == (0, 200, 40)
    assert process.wait(60) == 0
    _, left = psutil.wait_procs(family, timeout=20)
    assert not left
    assert "Traceback" not in log.read_text()
