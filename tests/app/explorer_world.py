"""A small world for the explorer's tests: two tiny real models, collections made with them, files to upload,
runs, and the app served.
"""

from __future__ import annotations

import csv
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "<script>window.pwned = 1</script>"
IMAGE = '<img src="x" onerror="window.pwned = 2">'
QUERY = "summer river under the old bridge"  # the judgements know it
TOKENS = 200  # of every rationale: the models never end their turn


@dataclass(frozen=True)
class World:
    """``indexes/world`` has both models and judgements, ``indexes/plain`` a model without rationales and no
    judgements.
    """

    root: Path

    @property
    def indexes(self) -> Path:
        return self.root / "indexes"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def model(self) -> str:
        return str(self.root / "models" / "tiny-a")


def make_world(root: Path, new_model, sentences: list[str]) -> World:
    from grace_core.collection import Collection
    from grace_core.index import build
    from grace_core.model import GraceModel
    from grace_core.readers import Corpus, Document, Judgements

    world = World(root)
    loaded = []
    for seed, name in enumerate(("tiny-a", "tiny-b")):
        new_model("qwen2", seed=seed, end_weight=0, max_new_tokens=TOKENS).save_pretrained(root / "models" / name)
        loaded.append(GraceModel.from_pretrained(root / "models" / name, device="cpu"))
    documents = [
        Document(
            f"d{i:02}",
            f"Story {i}",
            " ".join(sentences[4 * i : 4 * i + 3]),
            {"kind": ("tale", "song")[i % 2], "year": 1900 + i},
        )
        for i in range(30)
    ]
    documents[3] = Document("d03", f"Marked {SCRIPT}", f"{IMAGE} {documents[3].text}", {"kind": IMAGE, "year": 1903})
    documents[7] = Document("<b>&\"'", "An id of signs", documents[7].text, {"kind": "tale", "year": 1907})
    judgements = Judgements(
        {"q1": QUERY, "q2": "children dance around the fountain", "q3": "how fast the ice melts"},
        {"q1": {"d05": 2, "d11": 1, "gone": 0}, "q2": {"d02": 1}, "q3": {"d09": 1}},
        {"q1": "test", "q2": "test", "q3": "train"},
    )
    collection = Collection.create(
        Corpus(documents, judgements, "made here", ["kind", "year"]), world.indexes / "world"
    )
    for model in loaded:
        build(collection, model)
    plain = [Document(str(i), "", text, {}) for i, text in enumerate(sentences[100:108])]
    build(Collection.create(Corpus(plain, None, "made here", []), world.indexes / "plain"), loaded[0], rationale=False)
    _write_files(world.files, sentences)
    return world


def _write_files(folder: Path, sentences: list[str]) -> None:
    folder.mkdir()
    with open(folder / "my notes.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "<i>heading</i>", "body"])
        writer.writerows(
            [f"n{i}", f"Note {i} {SCRIPT if i == 0 else ''}", f"{sentences[i]} {sentences[i + 1]}"] for i in range(30)
        )
    rows = [{"_id": f"m{i}", "text": " ".join(sentences[i : i + 3])} for i in range(280)]
    (folder / "many.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "broken.jsonl").write_text('{"_id": "1", "text": "fine"}\n{"_id": "2", "text": \n', encoding="utf-8")


def write_run(
    folder: Path, *, state: str = "finished", steps: int = 6, planned: int = 6, probes: list | None = None, **about
) -> Path:
    """The files of a run as a trainer writes them, without one; an evaluation every second step, the best at step 4."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"method": "grace", "mode": "supervised", "objective": "symmetric", "model": "tiny"}
    (folder / "run.json").write_text(
        json.dumps({"config": config, "steps": planned, "state": state, "time": time.time(), **about})
    )
    metrics, told = [], []
    for step in range(steps + 1):
        if step:
            values = {"reward": -2 + step / 10, "reward_spread": 0.2, "kl": step / 1000, "loss": 0.01, "seconds": 2.0}
            metrics.append({"step": step, **values, "term/query": -1 + step / 10, "term/query_spread": 0.1})
        if step % 2 == 0:
            score = 0.5 - abs(step - 4) / 20
            metrics.append({"step": step, "eval": {"ndcg@10": score}})
            rows = probes or [
                {"text": f"probe text {i}", "rationale": f"words that stay and number{step} of {i}"} for i in range(3)
            ]
            told.append({"step": step, "ndcg@10": score, "probes": rows})
    for name, rows in (("metrics", metrics), ("probes", told)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(world: World, *extra: str):
    """The app in a process of its own; gives its address and the process."""
    port = free_port()
    environment = (
        os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "GRACE_CACHE": str(world.root / "cache.sqlite"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",  # tiny steps wait for their threads on a busy machine, and gain nothing from them on an idle one
        }
    )
    log = world.root / f"served-{port}.log"
    with open(log, "w") as out:
        command = [sys.executable, "-m", "grace_app", "--indexes", str(world.indexes), "--runs", str(world.runs)]
        command += ["--port", str(port), "--no-browser", *extra]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT)
    url = f"http://127.0.0.1:{port}/"
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the app did not start: {log.read_text()}") from None
                time.sleep(0.1)
        yield url, process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def served(world: World, *extra: str):
    """The address of the app in a process of its own."""
    with serving(world, *extra) as (url, _):
        yield url


def processor_seconds(process: subprocess.Popen) -> float:
    """What a process has used of the processors so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
