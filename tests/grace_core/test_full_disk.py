"""A disk that fills up during a build: one clear line, nothing half-written, and the same command goes on
when there is room.
"""

from __future__ import annotations

import json
import resource
import subprocess
from contextlib import contextmanager

import pytest

import grace_core.index
import grace_core.shards
from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.files import write_atomically
from grace_core.index import GraceIndex
from grace_core.readers import read_corpus


@contextmanager
def room_for(size: int):
    """No file may grow beyond so many bytes: what a full disk does, to every writer of this process."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("size", "file"), [(1_000, "texts"), (6_000, "000000.safetensors"), (20_000, "vectors.safetensors")]
)
def test_a_build_without_room_says_so_and_goes_on_later(
    grace, tiny_folder, sentences, tmp_path, monkeypatch, size, file
):
    monkeypatch.setattr(grace_core.index, "SHARD", 16)
    monkeypatch.setattr(grace_core.shards, "QUICK", 0.0)  # the first shard has no other name
    (tmp_path / "c.txt").write_text("\n".join(sentences[:60]))
    Collection.create(read_corpus(tmp_path / "c.txt"), tmp_path / "c")
    options = ("--model", tiny_folder, "--no-cache", "--max-new-tokens", 2, "--json")
    with room_for(size):
        status, out, err = grace("index", "build", tmp_path / "c.txt", "--out", tmp_path / "c", *options)
    assert (status, out) == (2, "")
    error = err.strip().splitlines()[-1]
    assert error.startswith(f"error: there is no room left to write {file} in ")
    assert error.endswith("make room, then run the same command again: what is finished is kept")
    assert not list(tmp_path.rglob(".*.tmp"))
    assert Collection(tmp_path / "c").unfinished == ["tiny"]
    shards = list((tmp_path / "c" / "tiny" / ".build").glob("*.safetensors"))
    assert len(shards) == (4 if file == "vectors.safetensors" else 0)
    status, out, err = grace("index", "build", tmp_path / "c.txt", "--out", tmp_path / "c", *options)
    assert status == 0, err
    assert json.loads(out)["models"]["tiny"]["encoded"] == 60
    assert GraceIndex(tmp_path / "c", "tiny").verify()["ok"]


def test_every_writer_s_error_becomes_the_same_line(tmp_path):
    for error in (
        OSError(28, "No space left on device"),
        RuntimeError("Error: write error in x: No space left on device"),
    ):

        def write(path, error=error):
            path.write_bytes(b"half")
            raise error

        with pytest.raises(GraceError, match="no room left to write file in"):
            write_atomically(tmp_path / "file", write)
    with pytest.raises(RuntimeError, match="else"):
        write_atomically(tmp_path / "file", lambda path: (_ for _ in ()).throw(RuntimeError("something else")))
    assert list(tmp_path.iterdir()) == []


def test_the_libraries_own_writers_on_a_really_full_disk(tmp_path):
    """safetensors, FAISS, Parquet and the memory map, each on a file system of half a megabyte."""
    import faiss
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save_file

    from grace_core import ann
    from grace_core.tensors import create_tensors

    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], capture_output=True)
    except OSError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        many = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)
        index = faiss.IndexFlatIP(64)
        index.add(many)
        writers = {
            "shard": lambda path: save_file({"a": many}, path),
            "faiss": lambda path: ann.write(index, path),
            "parquet": lambda path: pq.write_table(pa.table({"a": many.ravel()}), path),
            "vectors": lambda path: create_tensors(path, {"a": ("F32", many.shape)}),
        }
        for name, write in writers.items():
            with pytest.raises(GraceError, match=f"no room left to write {name} in"):
                write_atomically(disk / name, write)
            assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
