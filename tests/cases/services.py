"""Folders about the server and the explorer: what clients send, proxies, and awkward Unicode."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from .runner import MODEL, ROOT, Case, check, same, workspace

NULLS = ("encoding_format", "dimensions", "user", "rationale", "pooling", "truncate", "input_type")
INPUTS = [  # what a client may send, and what it is answered
    (
        200,
        [
            "a river",
            "\u3000x",
            "\u200b",
            ["a", "b"],
            [100, 200, 300],
            [[100, 200], [300]],
            "lone \ud83d",
            "<|im_end|>",
            "x" * 100,
        ],
    ),
    (
        400,
        [
            "",
            " ",
            "\n\t",
            "\u3000",
            "\x00",
            [],
            [""],
            ["a", ""],
            ["a", " "],
            [[]],
            [[], [1]],
            [-1],
            [99999],
            ["a", [1]],
            [["a"]],
            [1.0, 2.0],
            [True],
            None,
            5,
            {"a": 1},
            ["a", None],
            ["a"] * 17,
            "x" * 2001,
            "river " * 300,
        ],
    ),
]


def server_embeddings(case: Case) -> None:
    from live_server import live

    from grace_core.model import GraceModel

    model = GraceModel.from_pretrained(MODEL, device="cpu", max_prompt_tokens=200, max_new_tokens=16)
    with live(model) as server:

        def ask(text: object, **fields) -> tuple[int, dict]:
            content = json.dumps({"model": MODEL, "input": text, **fields})
            answer = server.http.post("/v1/embeddings", content=content, headers={"content-type": "application/json"})
            return answer.status_code, answer.json()

        plain = ask("a river")
        for name in NULLS:
            with case.judge(f"{name}: null"):
                same(ask("a river", **{name: None}), plain)
        with case.judge("a text that is cut among others") as say:
            status, made = ask(["a river", "river " * 300, "a metal"], truncate=True)
            same(status, 200)
            same([item.get("text_truncated", False) for item in made["data"]], [False, True, False])
            say("the item that was cut says text_truncated")
        for wanted, texts in INPUTS:
            for text in texts:
                with case.judge(f"input {repr(text)[:40]}") as say:
                    status, made = ask(text)
                    same(status, wanted)
                    if status == 400:
                        message = made["error"]["message"]
                        check(re.match("input|got 17 texts", message) and "\n" not in message, message)
                        say(message[:120])
        with case.judge("32 at once") as say:
            texts = [f"text number {i} about a river" for i in range(32)]
            with ThreadPoolExecutor(32) as pool:
                alone = [made["data"][0]["embedding"] for _, made in pool.map(ask, texts)]
            batch = [item["embedding"] for start in (0, 16) for item in ask(texts[start : start + 16])[1]["data"]]
            most = max(abs(x - y) for a, b in zip(alone, batch, strict=True) for x, y in zip(a, b, strict=True))
            check(most < 1e-5, most)
            say(f"as in batches, to {most:.0e}")


@contextmanager
def proxy(script: Path, address: str) -> Iterator[str]:
    """A proxy in a process of its own that shows the explorer below /grace; its address."""
    import socket
    import urllib.request

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, str(script), address, str(port)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/grace/", timeout=10).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/grace/"
    finally:
        process.kill()  # it would wait for the explorer's heartbeat to end
        process.wait(20)


def proxy_prefix(case: Case) -> None:
    from grace_app.main import build_app, launch

    case.build(case.folder.parent / "tiny" / "two.jsonl", case.work / "indexes" / "two").result()
    demo = build_app(case.work / "indexes", case.work / "runs", cache_path=os.environ["GRACE_CACHE"])
    address = launch(demo, port=0, root_path="/grace")
    try:
        with (
            case.judge("--root-path /grace behind proxy.py") as say,
            proxy(case.folder / "proxy.py", address.rstrip("/")) as shown,
        ):
            from gradio_client import Client

            client = Client(shown, verbose=False)
            check(client.config["root"].endswith("/grace"), client.config["root"])
            found = client.predict("river", "two", MODEL, True, 1, api_name="/search")
            same([hit["id"] for hit in found["hits"]], ["y"])
            say("page, queue and answers come through")
    finally:
        demo.close()
    with case.judge("the docs"):
        told = [
            path for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")] if "--root-path" in path.read_text()
        ]
        check(told, "no --root-path in README.md and docs/")


QUERIES = [
    "黄河 流经",
    "🎻👨‍👩‍👧‍👦",
    "ما هو",
    "a\u200bb",
    "line\r\ntwo\rthree\u2028four",
    "lone \ud83d",
    "\x00",
    "",
    "   ",
    "x" * 30000,
    "<script>alert(1)</script>",
    "\u200b",
    "\u3000",
]


def unicode(case: Case) -> None:
    sentences = {"zh": 4, "zh-spaces": 4, "ja": 3, "ar": 3, "hi": 3, "en": 4}
    out = case.work / "sentences"
    case.build(case.folder / "sentences.jsonl", out).result()
    for name, count in sentences.items():
        with case.judge(f"sentences.jsonl, {name}") as say:
            found = case.grace("explain", out, "river", name, "--model", MODEL, "--leave-one-out", "--json").result()
            texts = [sentence["text"] for sentence in found["leave_one_out"] if sentence["part"] == "text"]
            same(len(texts), count)
            say(" | ".join(text.strip() for text in texts))
    out = case.work / "unicode"
    with case.judge("docs.jsonl") as say:
        counts = case.build(case.folder / "docs.jsonl", out).result()["models"][MODEL]
        same((counts["documents"], counts["empty"]), (18, 2))  # zero-width characters only, and spaces only
        hits = case.grace("search", out, "\u200bx", "--model", MODEL, "-k", 100, "--json").result()
        check(not {"only-zw", "nbsp"} & {hit["id"] for hit in hits}, "an empty document as a hit")
        say("16 encoded; only-zw and nbsp are empty")
    from grace_app.api import explain_api, search_api, what_if_api
    from grace_core.errors import GraceError

    opened = workspace(case.work)
    for query in QUERIES:
        with case.judge(f"the app's /search {query[:20]!r}") as say:
            try:
                found = search_api(opened, query, "unicode", MODEL, True, 2)
                same(len(found["hits"]), 2)
                json.dumps(found).encode()
            except GraceError as error:
                check(not query.strip() or len(query) > 100 or query in "\x00\u200b", error)
                say(error)
    for name in (
        "zh",
        "id/ with spaces & ünïcode?#",
        "\u200frtl-id",
        "newlines",
        "html",
        "special",
        "astral",
        "only-zw",
    ):
        with case.judge(f"the app's /explain and /what_if {name!r}") as say:
            try:
                told = explain_api(opened, "黄河", "unicode", MODEL, name, True, "")
                check(abs(told["residual"]) <= 1e-5, told["residual"])
                what_if_api(opened, "黄河", "unicode", MODEL, name, True, "新的文本。🎻\r\nx", None, True)
                say(f"residual {told['residual']:.0e}")
            except GraceError as error:
                check(name == "only-zw", error)
                say(error)
