"""The explorer on a network: who may enter, how much one client may ask, how large what it sends may be."""

from __future__ import annotations

import re

import httpx
import pytest
from gradio_client import Client

from grace_app.gate import LOGINS, MAX_BODY, is_loopback, read_accounts, read_size
from grace_core.errors import GraceError

RATE, MAX_UPLOAD = 3, 1 << 20
QUESTION = {"data": ["river", "no collection", "no model", True, 10]}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """An explorer without collections, served with two accounts and low limits."""
    from grace_app.main import build_app, launch

    folder = tmp_path_factory.mktemp("gate")
    (folder / "accounts").write_text("ann:one:two\n\nbob:drei\n")
    blocks = build_app(folder / "none", folder / "runs", cache_path=folder / "cache.sqlite")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # a proxy that does not know this machine
        patch.setenv("NO_PROXY", "example.org")
        blocks.address = launch(
            blocks, port=0, accounts=read_accounts(None, folder / "accounts"), rate=RATE, max_upload=MAX_UPLOAD
        )
        yield blocks
    blocks.close()


@pytest.fixture
def visitor(demo, request):
    """A client with an address of its own, as a proxy on this machine tells it, and not logged in."""
    number = sum(map(ord, request.node.name)) % 60_000
    with httpx.Client(
        base_url=demo.address, headers={"X-Forwarded-For": f"10.1.{number // 256}.{number % 256}"}, timeout=60
    ) as http:
        yield http


@pytest.fixture
def http(visitor):
    visitor.post("/login", data={"username": "ann", "password": "one:two"}).raise_for_status()
    return visitor


def test_nothing_is_answered_without_a_name_and_its_password(demo, visitor):
    names = [event.api_name for event in demo.fns.values() if event.api_visibility == "public"]
    assert {"search", "encode", "runs"} <= set(names)
    routes = [f"{way}/{name}" for name in names for way in ("call", "run", "api")]
    for number, route in enumerate(
        [*routes, "queue/join", "component_server", "upload"]
    ):  # one question of each client
        answer = visitor.post(f"/gradio_api/{route}", json=QUESTION, headers={"X-Forwarded-For": f"10.3.0.{number}"})
        assert answer.status_code == 401, route
    for path in ("/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=x", "/gradio_api/file=README.md"):
        assert visitor.get(path).status_code == 401, path
    page = visitor.get("/")
    assert page.status_code == 200  # the page that asks for a password, and what a health check gets
    assert '"components":[]' in page.text
    for name, password in [("ann", "one"), ("ann", "drei"), ("Ann", "one:two"), ("", ""), ("bob", "drei\u00e9")]:
        assert visitor.post("/login", data={"username": name, "password": password}).status_code in (400, 422)
    assert visitor.get("/config").status_code == 401


def test_the_page_asks_for_nothing_at_the_servers_root(visitor):
    """Where a proxy shows the explorer below a path, that is not the explorer's."""
    page = visitor.get("/").text
    assert "<link rel='icon' href=\"data:image/svg+xml" in page
    assert [link for link in re.findall(r'(?:href|src)="([^"]*)"', page) if link.startswith("/")] == []


def test_gradios_own_client_enters_with_a_password(demo):
    client = Client(demo.address, auth=("bob", "drei"), verbose=False)
    assert client.predict(api_name="/runs") == []
    client.close()
    with pytest.raises(Exception, match="Could not login"):
        Client(demo.address, auth=("bob", "zwei"), verbose=False)


def test_a_client_that_asks_a_model_too_often_is_told_to_wait(demo, http, visitor):
    number = next(event._id for event in demo.fns.values() if event.api_name == "search")
    joined = QUESTION | {"fn_index": str(number), "session_hash": "s"}
    asked = [http.post("/gradio_api/call/search", json=QUESTION) for _ in range(RATE - 1)]
    asked.append(http.post("/gradio_api/queue/join", json=joined))
    assert [answer.status_code for answer in asked] == [200] * RATE
    for route, question in (("call/encode/", QUESTION), ("run/search", QUESTION), ("queue/join", joined)):
        refused = http.post(f"/gradio_api/{route}", json=question)
        assert refused.status_code == 429, route
        assert f"{RATE} a minute" in refused.json()["detail"]
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert http.post("/gradio_api/call/runs", json={"data": []}).status_code == 200  # no model runs for it
    part = next(block for block in demo.blocks.values() if block.elem_id == "g-detail")
    question = {"data": {}, "component_id": part._id, "session_hash": "s", "fn_name": "why"}
    answer = http.post("/gradio_api/component_server", json=question)
    assert (answer.status_code, "too many questions" in answer.json()["error"]) == (200, True)  # our script shows it
    answer = http.post("/gradio_api/component_server", json=question, headers={"X-Forwarded-For": "10.2.0.1"})
    assert "does not fit" in answer.json()["error"]  # another client is answered


def test_addresses_of_one_ipv6_network_are_one_client(http):
    codes = [
        http.post("/gradio_api/call/search", json=QUESTION, headers={"X-Forwarded-For": f"2001:db8::{i}"}).status_code
        for i in range(1, RATE + 2)
    ]
    assert codes == [200] * RATE + [429]


def test_all_that_runs_a_model_is_counted(demo):
    marked = {event._id for event in demo.fns.values() if getattr(event.fn, "runs_model", False)}
    endpoints = {
        event._id
        for event in demo.fns.values()
        if event.concurrency_id == "api" and event.api_name not in ("runs", "run")
    }
    searches = {event._id for event in demo.fns.values() if event.concurrency_id == "search"}
    assert len(endpoints) == 7
    assert len(searches) >= 5
    assert endpoints | searches <= marked
    served = [function for block in demo.blocks.values() for function in getattr(block, "server_fns", [])]
    counted = {function.__name__ for function in served if getattr(function, "runs_model", False)}
    assert counted == {
        *("open_hit", "why", "what_if", "worth", "saved_hits", "map_star", "map_compute"),
        *("reasons_ask", "reasons_make", "reasons_make_comparison"),
        *("mend_read", "mend_failing", "mend_query", "mend_try"),
    }


def test_what_is_too_large_is_refused(http):
    for size, status in ((1000, 200), (MAX_UPLOAD + 1, 413), (2 * MAX_UPLOAD + 1, 413)):
        answer = http.post("/gradio_api/upload", files={"files": ("corpus.txt", b"x" * size)})
        assert answer.status_code == status, answer.text
        assert (
            status == 200 or "maximum allowed size" in answer.text or "an upload has at most" in answer.json()["detail"]
        )
    answer = http.post("/gradio_api/call/runs", content=b'{"data": ["' + b"x" * MAX_BODY + b'"]}')
    assert (answer.status_code, f"more than {MAX_BODY:,} bytes" in answer.json()["detail"]) == (413, True)


def test_passwords_cannot_be_tried_without_end(visitor):
    codes = [
        visitor.post("/login", data={"username": "ann", "password": str(i)}).status_code for i in range(LOGINS + 1)
    ]
    assert codes == [400] * LOGINS + [429]
    assert visitor.post("/login/", data={"username": "ann", "password": "one:two"}).status_code == 429


@pytest.mark.parametrize(
    ("given", "file", "said"),
    [
        ("a:b", "c:d", "got both --auth and --auth-file"),
        ("hunter2", None, "--auth, line 1: expected NAME:PASSWORD"),
        (":hunter2", None, "--auth, line 1"),
        ("", None, "--auth is empty"),
        (None, "a:b\nhunter2", "line 2: expected NAME:PASSWORD"),
        (None, "\n", "is empty, expected a line"),
        (None, b"\xff:hunter2", "cannot be read"),
    ],
)
def test_accounts_that_cannot_be_read_are_refused_and_not_repeated(tmp_path, given, file, said):
    path = tmp_path / "accounts"
    if file is not None:
        path.write_bytes(file if isinstance(file, bytes) else file.encode())
    with pytest.raises(GraceError, match=said) as refusal:
        read_accounts(given, path if file is not None else None)
    assert "hunter2" not in str(refusal.value)


def test_accounts_come_from_the_environment_too(monkeypatch):
    assert read_accounts(None, None) is None
    monkeypatch.setenv("GRACE_APP_AUTH", "ann:p:w\nbob: x")
    may_enter = read_accounts(None, None)
    assert [may_enter("ann", "p:w"), may_enter(" bob ", " x")] == [True, True]
    assert [may_enter("ann", " x"), may_enter("ann", "p"), may_enter("", ""), may_enter("bob", "x")] == [False] * 4
    assert not read_accounts("c:d", None)("ann", "p:w")  # an option goes before the environment


def test_an_address_that_others_reach_wants_a_password(grace, tmp_path, monkeypatch):
    hosts = {
        "127.0.0.1": True,
        "127.9.9.9": True,
        "::1": True,
        "[::1]": True,
        "localhost": True,
        "0.0.0.0": False,
        "::": False,
    }
    assert {host: is_loopback(host) for host in hosts} == hosts
    start = ("app", "--no-browser", "--collection", "nope", "--indexes", tmp_path)
    status, _, err = grace(*start, "--host", "0.0.0.0")
    assert (status, err.count("\n")) == (2, 1)
    assert "others can reach 0.0.0.0, and the explorer has no password: set GRACE_APP_AUTH=NAME:PASSWORD" in err
    for options in (("--no-auth",), ("--auth", "a:b")):
        assert "there is no collection 'nope'" in grace(*start, "--host", "0.0.0.0", *options)[2]
    monkeypatch.setenv("GRACE_APP_AUTH", "ann:p")
    assert "there is no collection 'nope'" in grace(*start, "--host", "0.0.0.0")[2]
    assert "is no address" in grace(*start, "--host", "nobody.invalid")[2]


def test_sizes():
    assert [read_size(given) for given in ("500mb", "2 GB", "1kb")] == [500 << 20, 2 << 30, 1 << 10]
    for given in ("0mb", "5", "-1gb", "many"):
        with pytest.raises(GraceError, match="expected a size such as 500mb"):
            read_size(given)
