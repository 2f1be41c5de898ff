"""vLLM as users run it, in processes of its own: the command's output, and what becomes of requests, over
HTTP too, when one dies.
"""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

pytestmark = pytest.mark.timeout(560)
SCRIPT = """
import os, signal, sys, threading
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "1"

def main():
    from concurrent.futures import ThreadPoolExecutor

    import psutil
    from grace_cli import main as cli
    from grace_core.errors import GraceError
    from grace_core.model import GraceModel
    from grace_core.serving.app import create_app
    from starlette.testclient import TestClient

    sys.argv = ["grace", "encode", sys.argv[1], "--model", "demo-base", "--engine", "vllm", "--no-cache", "--out", sys.argv[2], "--json"]
    try:
        cli.main()
    except SystemExit as ended:
        print(f"exit {ended.code or 0}", file=sys.stderr)
    model = GraceModel.from_pretrained("demo-base", engine="vllm")
    texts = [f"the {word} of the old town" for word in "river bridge tower mountain king market church garden harbour song".split()] * 4
    options = {"temperature": 1.0, "seed": 1, "max_new_tokens": 16}
    many = model.represent([f"{text} {i}" for i, text in enumerate(texts)], **options)
    few = model.represent([f"{text} {i}" for i, text in enumerate(texts[:3])], **options)
    with ThreadPoolExecutor(4) as threads:
        at_once = list(threads.map(lambda i: model.represent([f"{texts[i]} {i}"], **options).rationale_ids[0], range(12)))
    print(f"threads agree {at_once == many.rationale_ids[:12]}", file=sys.stderr)
    print(f"samples kept {few.rationale_ids == many.rationale_ids[:3]} of {len({*many.rationales})}", file=sys.stderr)
    children = [child for child in psutil.Process().children(recursive=True) if "resource_tracker" not in " ".join(child.cmdline())]
    with TestClient(create_app(model)) as http, ThreadPoolExecutor(1) as clients:

        def ask(*texts):
            return http.post("/v1/embeddings", json={"model": "demo-base", "input": texts})

        def until_refused():
            while (answer := ask(*texts)).status_code == 200:
                pass
            return answer

        asked = clients.submit(until_refused)
        for child in children:
            if "EngineCore" in " ".join([child.name(), *child.cmdline()]):
                threading.Timer(1.0, lambda child=child: child.is_running() and child.kill()).start()
        for attempt in range(2):
            try:
                while True:  # the timer strikes somewhere in here
                    model.represent(["a river that flows through four capitals", "a metal that is liquid"])
            except GraceError as error:
                print(f"refused: {error}", file=sys.stderr)
        print(f"alive {model.engine.alive}", file=sys.stderr)
        talk = {"model": "demo-base", "messages": [{"role": "user", "content": "who"}]}
        for answer in (asked.result(), ask("new"), http.post("/v1/chat/completions", json=talk), http.get("/health")):
            print(f"answered {answer.status_code} {answer.text}", file=sys.stderr)
    print(f"left {len(psutil.wait_procs(children, timeout=20)[1])} of {len(children)}", file=sys.stderr)

if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def run(python, tmp_path_factory):
    folder = tmp_path_factory.mktemp("process")
    (folder / "texts.txt").write_text(
        "a river that flows through four capitals\na metal that is liquid\n", encoding="utf-8"
    )
    (folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    return folder, python(folder / "script.py", folder / "texts.txt", folder / "vectors.parquet")


def test_the_command_prints_one_document_and_writes_the_vectors(run, demo_base):
    folder, done = run
    assert "exit 0" in done.stderr, done.stderr
    assert json.loads(done.stdout)["documents"] == 2
    vectors = np.stack(pq.read_table(folder / "vectors.parquet")["embedding"].to_pylist())
    own = demo_base.encode(["a river that flows through four capitals", "a metal that is liquid"])
    assert (vectors * own).sum(axis=1).min() >= 0.9999


def test_samples_do_not_depend_on_the_batch_with_the_settings_that_users_have(run):
    kept = next((line.split() for line in run[1].stderr.splitlines() if line.startswith("samples kept")), None)
    assert kept is not None, run[1].stderr
    assert kept[2] == "True"
    assert int(kept[-1]) > 20  # different texts, mostly different samples


def test_threads_share_an_engine(run):
    assert "threads agree True" in run[1].stderr, run[1].stderr


def test_requests_fail_clearly_when_its_process_dies(run):
    refused = [line for line in run[1].stderr.splitlines() if line.startswith("refused: ")]
    assert "alive False" in run[1].stderr, run[1].stderr
    assert len(refused) == 2
    for line in refused:
        assert line.startswith(
            "refused: vLLM is not running any more (its process was killed, or ended by itself); load the model again"
        )


def test_a_server_says_so_when_its_process_dies_in_the_middle_of_a_request_and_ever_after(run):
    answered = [line.split(maxsplit=2)[1:] for line in run[1].stderr.splitlines() if line.startswith("answered ")]
    assert [status for status, _ in answered] == ["503"] * 4, run[1].stderr
    *refused, health = [json.loads(body) for _, body in answered]
    told = "vLLM has died; see the log, and restart the server"
    assert [(answer["error"]["message"], answer["error"]["code"]) for answer in refused] == [(told, "model_ended")] * 3
    assert health == {"status": "unhealthy", "reason": told}
    assert "left 0 of " in run[1].stderr
