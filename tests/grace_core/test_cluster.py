"""Builds on Ray: two real local workers, one of which is killed; what they refuse.

One small cluster serves all tests here.
"""

from __future__ import annotations

import os
import signal

import psutil
import pytest
import torch

import grace_core.index
from grace_core.build import FILES, BuildStopped
from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.index import GraceIndex, build
from grace_core.model import GraceModel
from grace_core.readers import Corpus, Document

ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    """A Ray of two processors on this machine, for all builds of this file."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=2**27,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module", autouse=True)
def as_the_workers():
    """Shards of 8 documents, and one thread, as Ray gives its workers."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grace_core.index, "SHARD", 8)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model():
    """The demo model, to write a few words only."""
    return GraceModel.from_pretrained("demo-base", device="cpu", dtype="float32", max_new_tokens=4)


@pytest.fixture(scope="module")
def corpus(demo_collection):
    documents = demo_collection.corpus.documents[:30]
    return Corpus([*documents, Document("empty", "", "", {})], None, "demo", demo_collection.corpus.fields)


@pytest.fixture(scope="module")
def here(corpus, model, tmp_path_factory):
    """The index as this process alone makes it."""
    return build(Collection.create(corpus, tmp_path_factory.mktemp("here") / "c"), model)


def workers() -> list[psutil.Process]:
    children = psutil.Process().children(recursive=True)
    return [process for process in children if any("ray::Encoder" in part for part in process.cmdline())]


def test_a_build_that_loses_a_worker_and_is_stopped_gives_the_same_files(cluster, corpus, model, here, tmp_path):
    from grace_core.cluster import ray_encoder

    killed, seen, asked = [], [], iter(range(100))

    def kill_one(done: int, total: int) -> None:
        seen.append(done)
        if done and not killed:
            killed.append(workers()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    collection = Collection.create(corpus, tmp_path / "ray")
    with pytest.raises(BuildStopped, match="stopped after 24 of 30 documents"):
        build(
            collection,
            model,
            encode=ray_encoder(model, workers=2),
            progress=kill_one,
            should_stop=lambda: next(asked) == 3,
        )
    assert killed
    assert seen == sorted(seen)
    index = build(collection, model)
    for name in FILES:
        assert (index.folder / name).read_bytes() == (here.folder / name).read_bytes(), name
    timed = ("seconds", "sha256")
    assert {k: v for k, v in index.manifest.items() if k not in timed} == {
        k: v for k, v in here.manifest.items() if k not in timed
    }
    assert not (index.folder / ".build").exists()


def test_what_a_worker_raises_is_told_in_one_line(cluster):
    from grace_core.cluster import _get

    def fail(error):
        raise error

    task = ray.remote(max_retries=0)(fail)
    with pytest.raises(GraceError, match=r"^a worker failed: model 'x' is no folder here$"):
        _get(ray, task.remote(GraceError("model 'x' is no folder here")))
    with pytest.raises(GraceError, match=r"^a worker failed: out of memory; what is finished is kept$"):
        _get(ray, task.remote(RuntimeError("out of memory\nat line 3")))
    with pytest.raises(GraceError, match=r"^workers keep dying .* build again$"):
        _get(ray, ray.remote(max_retries=0)(lambda: os._exit(1)).remote())


def test_workers_with_other_weights_or_another_precision_are_refused(model):
    from grace_core.cluster import _check_identity

    _check_identity(model, (model.fingerprint, "float32"))
    with pytest.raises(GraceError, match="a worker has other weights of demo-base than are here"):
        _check_identity(model, ("0" * 64, "float32"))
    with pytest.raises(
        GraceError, match="a worker loads demo-base in bfloat16, this machine in float32; say which with --dtype"
    ):
        _check_identity(model, (model.fingerprint, "bfloat16"))


def test_more_workers_than_the_cluster_holds_are_refused(cluster, corpus, model, tmp_path):
    from grace_core.cluster import ray_encoder

    with pytest.raises(GraceError, match="3 workers want a CPU each, the cluster has 2; lower --workers"):
        build(Collection.create(corpus, tmp_path / "c"), model, encode=ray_encoder(model, workers=3))


def test_the_command_builds_on_ray(cluster, grace, tiny_folder, sentences, tmp_path):
    (tmp_path / "c.txt").write_text("\n".join(sentences[:20]))
    options = ("--model", tiny_folder, "--max-new-tokens", 2, "--device", "cpu")
    status, _, err = grace(
        "index", "build", tmp_path / "c.txt", "--out", tmp_path / "c", *options, "--engine", "ray", "--workers", 1
    )
    assert status == 0, err
    index = GraceIndex(tmp_path / "c", "tiny")
    assert index.verify()["ok"]
    assert (len(index), index.manifest["engine"]) == (20, "transformers")
    status, _, err = grace(
        "index", "build", tmp_path / "c.txt", "--out", tmp_path / "d", *options, "--engine", "rays:vllm"
    )
    assert status == 2
    assert "error: --engine is 'rays:vllm', expected transformers, vllm, ray, or ray:vllm" in err
