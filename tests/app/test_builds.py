"""Building from the page: progress, cancelling, going on, one at a time, and models that cannot be had."""

from __future__ import annotations

import socket
import time

import pytest

from grace_app.corpus.builds import Build, Builds, estimate, reachable
from grace_app.corpus.render import duration, render_job, render_preview, render_unfinished
from grace_app.corpus.uploads import read_upload, suggested_name
from grace_app.explore.search import search
from grace_app.workspace.state import Workspace
from grace_app.workspace.view import Column, View
from grace_core.errors import GraceError
from grace_core.index import GraceIndex, build


@pytest.fixture
def builds(tmp_path, world):
    builds_ = Builds(Workspace(tmp_path / "indexes", cache_path=tmp_path / "cache.sqlite"))
    yield builds_
    builds_.cancel()
    wait(builds_.job, lambda job: job is None or not job.running)


def wait(job, condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition(job):
        assert time.monotonic() < deadline, job
        time.sleep(0.01)


def test_a_build_is_cancelled_resumed_and_the_same_as_one_in_one_go(builds, world, tmp_path):
    corpus = read_upload(str(world.files / "many.jsonl"), None, "150")
    job = builds.start("many", world.model, corpus)
    wait(job, lambda job: job.done >= 32)
    assert job.total == 150
    with pytest.raises(GraceError, match="wait for it, or cancel"):
        builds.start("other", world.model, corpus)
    builds.cancel()
    wait(job, lambda job: not job.running)
    assert job.state == "stopped"
    assert builds.unfinished() == [("many", "tiny-a")]
    assert builds.resumable() == []  # the stopped job has its own place
    after_restart = Builds(builds.workspace)
    assert after_restart.resumable() == [("many", "tiny-a")]
    again = after_restart.resume("many", "tiny-a")
    wait(again, lambda job: not job.running)
    assert (again.state, again.done, again.message) == ("done", 150, "")
    assert builds.unfinished() == []
    from grace_core.collection import Collection
    from grace_core.model import GraceModel

    whole = build(Collection.create(corpus, tmp_path / "whole"), GraceModel.from_pretrained(world.model, device="cpu"))
    resumed = GraceIndex(tmp_path / "indexes" / "many", "tiny-a")
    assert resumed.rationales == whole.rationales
    assert abs(resumed.vectors() - whole.vectors()).max() < 1e-5


def test_searching_goes_on_during_a_build(world, tmp_path):
    workspace = Workspace(world.indexes, cache_path=tmp_path / "cache.sqlite")
    builds = Builds(workspace)
    job = builds.start("busy", world.model, read_upload(str(world.files / "many.jsonl"), None))
    wait(job, lambda job: job.state == "encoding")
    column = Column("tiny-a", True)
    *_, shot = search(workspace, View("world", column, column, 5, "asked while a build is running"))
    assert job.running
    assert len(shot.a.hits) == 5
    builds.cancel()
    wait(job, lambda job: not job.running)
    import shutil

    shutil.rmtree(world.indexes / "busy")


def test_what_is_wrong_with_a_build_is_said(builds, world, tmp_path):
    corpus = read_upload(str(world.files / "many.jsonl"), None, "20")
    job = builds.start("x", str(tmp_path), corpus)
    wait(job, lambda job: not job.running)
    assert job.state == "failed"
    assert "config.json" in job.message
    assert not (builds.workspace.root / "x").exists()  # the model is tried before anything is written
    with pytest.raises(GraceError, match="no name for a collection"):
        builds.start("../x", world.model, corpus)
    with pytest.raises(GraceError, match="no unfinished build"):
        builds.resume("x", "tiny-a")
    with pytest.raises(GraceError, match="no model is chosen"):
        builds.start("x", "  ", corpus)


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1.5", "9" * 20])
def test_bad_limits(world, limit):
    with pytest.raises(GraceError, match="the limit is"):
        read_upload(str(world.files / "many.jsonl"), None, limit)


def test_uploads_are_spoken_of_by_their_name(world):
    with pytest.raises(GraceError) as error:
        read_upload(str(world.files / "broken.jsonl"), None)
    assert str(error.value).startswith("broken.jsonl")
    with pytest.raises(GraceError, match="no file is chosen"):
        read_upload(None, None)
    assert len(read_upload(str(world.files / "many.jsonl"), None, " 1,000 ").documents) == 280
    assert suggested_name("/tmp/x/my <notes> 2.tar.csv") == "my-notes-2.tar"
    assert suggested_name("/tmp/###.csv") == "corpus"


def test_an_estimate_is_measured(workspace, world):
    measured = estimate(workspace, world.model, read_upload(str(world.files / "many.jsonl"), None))
    assert measured.documents == 280
    assert measured.words > 280
    assert 0 < measured.seconds < 600


def test_an_unreachable_hub_is_said_within_seconds(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as silent:  # takes connections, and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(GraceError, match="cannot be reached"):
            reachable("someone/some-model")
        assert time.monotonic() - started < 7
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # refuses connections
    with pytest.raises(GraceError, match="cannot be reached"):
        reachable("someone/some-model")


def test_what_needs_no_hub_asks_none(monkeypatch, world):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    for source in (world.model, "demo-base", "demo-nothing", "not an id at all", "a/b/c"):
        reachable(source)


def test_speed_is_that_of_the_last_batches(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("grace_app.corpus.builds.time.monotonic", lambda: now[0])
    job = Build("c", "m")
    assert job.rate is None
    job.mark(0, 300)
    for done in (128, 256):  # kept from an earlier run
        job.mark(done, 300)
    assert job.rate is None
    for step in (1, 2):
        now[0] += 2
        job.mark(256 + 16 * step, 300)
    assert job.rate == pytest.approx(8)
    assert job.seconds_left == pytest.approx(1.5)
    assert job.state == "encoding"


def test_progress_is_escaped_and_can_be_read_aloud():
    job = Build("<b>c</b>", "<i>m</i>", state="failed", done=3, total=10, message="<u>no</u>")
    page = render_job(job)
    assert "<b>c" not in page
    assert "<i>" not in page
    assert "<u>" not in page
    assert 'role="progressbar"' in page
    assert 'aria-valuenow="3"' in page
    assert "&lt;b&gt;" in render_unfinished([("<b>", "<i>")])
    assert "&lt;i&gt;" in render_preview(["<i>"], {"id": None, "title": None, "text": "<i>"}, [{"<i>": "<s>"}])


def test_durations():
    said = {None: "…", 0.2: "1 s", 40: "40 s", 300: "5 min", 7200: "2.0 h", 1e6: "11.6 days"}
    assert {seconds: duration(seconds) for seconds in said} == said


def test_a_file_is_added_to_a_collection_and_an_update_is_resumed(builds, world, tmp_path):
    first, (head, *rest) = tmp_path / "first.jsonl", (world.files / "many.jsonl").read_text().splitlines()
    first.write_text("\n".join([head, *rest[:19]]))
    job = builds.start("grown", world.model, read_upload(str(first), None))
    wait(job, lambda job: not job.running)
    assert (job.state, job.done) == ("done", 20), job
    more = tmp_path / "more.jsonl"
    more.write_text("\n".join(rest[19:139]))
    job = builds.start("grown", world.model, read_upload(str(more), None), add=True)
    wait(job, lambda job: job.done >= 40 or not job.running)
    builds.cancel()
    wait(job, lambda job: not job.running)
    assert job.state == "stopped", job
    index = GraceIndex(tmp_path / "indexes" / "grown", "tiny-a")
    assert (len(index), index.collection.size) == (20, 20)
    assert builds.unfinished() == [("grown", "tiny-a")]
    again = Builds(builds.workspace).resume("grown", "tiny-a")
    wait(again, lambda job: not job.running)
    assert (again.state, again.total) == ("done", 140), again
    assert any(note.startswith("120 new (") and note.endswith("; 20 stay as they are") for note in again.notes), (
        again.notes
    )
    assert builds.unfinished() == []
    assert len(builds.workspace.index("grown", "tiny-a")) == 140
    assert builds.workspace.behind("grown") == {}


def test_what_would_take_most_of_a_collection_away_is_refused(builds, world, tmp_path):
    lines = (world.files / "many.jsonl").read_text().splitlines()
    for name, some in {"first": lines[:20], "other": lines[18:21]}.items():
        (tmp_path / f"{name}.jsonl").write_text("\n".join(some))
        job = builds.start("kept", world.model, read_upload(str(tmp_path / f"{name}.jsonl"), None))
        wait(job, lambda job: not job.running)
    assert job.state == "failed"
    assert "has 20 documents, of which the new corpus lacks 18" in job.message
    assert len(builds.workspace.index("kept", "tiny-a")) == 20
