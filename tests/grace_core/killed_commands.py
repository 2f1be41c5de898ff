"""Kills a command at random moments, looks at what it left, and runs it again. Run by test_crash.py, and by hand:

    python tests/grace_core/killed_commands.py gguf|geometry|training FOLDER --moments 20

``gguf`` is an index build with a model from a GGUF file, conversion included; ``geometry`` a change of
geometry with queries that are encoded; ``training`` a run with a LoRA adapter that is kept apart. One line of
JSON a moment: what was there after the kill, and whether running the command again gave what a run that was
left alone gives. The libraries are imported once; every attempt is a fork.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a fork of a process with threads has none of them, and waits for them
sys.path[:0] = [
    str(Path(__file__).parents[1]),
    str(Path(__file__).parent),
]  # of two conftest modules the first is meant

import numpy as np  # noqa: E402
import yaml  # noqa: E402
from conftest import SENTENCES, make_model, make_tokenizer  # noqa: E402

TRIES = 8  # at a file that is there for a moment only
MOST = 5e-3  # by how much a weight of a resumed run may differ: restored states are rounded, and Adam's first steps are large


@dataclass
class Attempt:
    """A folder of its own, in which one command is killed and run again; ``tiny`` is the model's place in a
    collection.
    """

    folder: Path

    def run(self, command: list, *, until: Callable[[float], bool] | None = None) -> tuple[bool, float]:
        """Whether a command ended by itself, and its seconds; it is killed as soon as ``until``, which is
        given the seconds so far, is true. Raises RuntimeError if it fails."""
        started, child = time.monotonic(), os.fork()
        if not child:
            self.become(command)
        while until is not None and not until(time.monotonic() - started):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return True, time.monotonic() - started
            time.sleep(0.0005)
        if until is not None:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return False, time.monotonic() - started
        if status:
            raise RuntimeError(f"{command} in {self.folder}: {(self.folder / 'log').read_text()[-2000:]}")
        return True, time.monotonic() - started

    def become(self, command: list) -> None:
        from grace_cli import main as cli

        log = os.open(self.folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ["GRACE_CACHE"] = str(self.folder / "cache" / "c.sqlite")
        sys.argv = ["grace", *map(str, command)]
        status = 99
        try:
            cli.main()
        except SystemExit as exit_:
            status = exit_.code or 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)


def files(folder: Path) -> dict[str, bytes]:
    """All files but locks; of a manifest without what the clock decides."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(".lock"):
            found[str(path.relative_to(folder))] = path.read_bytes()
    for name in [name for name in found if name.endswith("manifest.json")]:
        manifest = json.loads(found[name])
        found[name] = {key: value for key, value in manifest.items() if key not in ("seconds", "sha256", "model_id")}
    return found


def bfloat16(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file in bfloat16, which numpy has not; without torch, which may not be
    used before a fork.
    """
    from safetensors import deserialize

    tensors = deserialize(path.read_bytes())
    return {
        name: (np.frombuffer(bytes(about["data"]), "<u2").astype("<u4") << 16).view("<f4") for name, about in tensors
    }


def write_corpus(path: Path, number: int) -> Path:
    path.write_text(
        "".join(json.dumps({"_id": f"d{i}", "text": f"{i} {SENTENCES[i % 300]}"}) + "\n" for i in range(number))
    )
    return path


class Gguf:
    """An index build with a GGUF file, from nothing."""

    patterns = (
        "cache/models/.*-1.*/*.safetensors",
        "index/tiny/.build/0*",
        "cache/models/*-1",
        "index/corpus.parquet",
        "index/tiny/.vectors*",
        "index/tiny/.index.faiss*",
        "index/tiny/manifest.json",
    )

    def __init__(self, folder: Path):
        self.model, self.corpus = folder / "tiny.gguf", folder / "corpus.jsonl"

    def make(self) -> None:
        from gguf_writing import tiny_lm, write_gguf

        tiny = make_model("qwen2").tokenizer
        tokenizer = make_tokenizer(tiny.chat_template, list(tiny.all_special_tokens)[:3])
        write_gguf(self.model, tiny_lm("llama", tokenizer), tokenizer, "llama", types="Q4_1")
        write_corpus(self.corpus, 300)

    def prepare(self, attempt: Attempt) -> None:
        pass

    def commands(self, attempt: Attempt, *, again: bool) -> list:
        options = ("--model", self.model, "--name", "tiny", "--max-new-tokens", 4, "--json")
        return ["index", "build", self.corpus, "--out", attempt.folder / "index", *options]

    def left(self, attempt: Attempt) -> str:
        index = attempt.folder / "index" / "tiny"
        converted = list((attempt.folder / "cache" / "models").glob("[!.]*"))
        for each in converted:
            assert (each / "gguf_source.json").exists(), "half a converted model under its name"
        if (index / "manifest.json").exists():
            return "finished"
        return "shards" if list(index.glob(".build/0*")) else "converted" if converted else "nothing yet"

    def result(self, attempt: Attempt) -> dict:
        cache = attempt.folder / "cache" / "models"
        assert not [path for path in cache.glob(".*") if path.is_dir()], "a conversion that was killed is left"
        return files(attempt.folder / "index") | {name.split("/", 1)[-1]: data for name, data in files(cache).items()}

    same = staticmethod(
        lambda one, other: [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    )


class Geometry:
    """A change of geometry, for which queries are encoded, of an index that is there."""

    patterns = (
        "index/tiny/.manifest*",
        "index/tiny/.queries*",
        "index/tiny/queries.safetensors",
        "index/tiny/.geometry*",
        "index/tiny/geometry-*",
        "index/tiny/.index.faiss*",
    )

    def __init__(self, folder: Path):
        self.base, self.queries = Attempt(folder), folder / "queries.txt"

    def make(self) -> None:
        folder = self.base.folder
        make_model("qwen2", max_new_tokens=4).save_pretrained(folder / "models" / "tiny")
        self.queries.write_text("\n".join(SENTENCES[100:140]))
        corpus = write_corpus(folder / "corpus.jsonl", 200)
        self.base.become(
            [
                "index",
                "build",
                corpus,
                "--out",
                folder / "index",
                "--model",
                folder / "models" / "tiny",
                "--geometry",
                "raw",
            ]
        )

    def prepare(self, attempt: Attempt) -> None:
        shutil.copytree(self.base.folder / "index", attempt.folder / "index")

    def commands(self, attempt: Attempt, *, again: bool) -> list:
        return [
            "index",
            "geometry",
            attempt.folder / "index",
            "--kind",
            "whitened",
            "--queries",
            self.queries,
            "--json",
        ]

    def left(self, attempt: Attempt) -> str:
        """Whatever the moment, the index opens and searches, in one geometry or the other."""
        from grace_core.index import GraceIndex

        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            index = GraceIndex(attempt.folder / "index", "tiny")
        hits = index.hits(index.vectors()[7], 5)
        assert (hits[0].document.id, round(hits[0].score, 4)) == ("d7", 1.0), hits
        assert index.geometry.kind in ("raw", "whitened")
        return index.geometry.kind + (", index.faiss to be made again" if told else "")

    def result(self, attempt: Attempt) -> dict:
        return files(attempt.folder / "index")

    same = staticmethod(Gguf.same)


class Training:
    """A run with an adapter, evaluations and checkpoints."""

    patterns = (
        "run/checkpoint-2/optimizer.pt",
        "run/.best.new",
        "run/.best.old",
        "run/best",
        "run/checkpoint-2",
        "run/checkpoint-2/trainer_state.json",
        "run/checkpoint-3/adapter_model.safetensors",
    )

    def __init__(self, folder: Path):
        self.folder = folder

    def make(self) -> None:
        folder = self.folder
        make_model("qwen2", max_new_tokens=8).save_pretrained(folder / "models" / "tiny")
        texts = [f"{i} {SENTENCES[i]}" for i in range(48)]
        (folder / "beir" / "qrels").mkdir(parents=True)
        written = {
            "triplets.jsonl": [
                {"query": text[:20], "positive": text, "negative": texts[24 + i]} for i, text in enumerate(texts[:24])
            ],
            "beir/corpus.jsonl": [{"_id": f"d{i}", "text": texts[i]} for i in range(12)],
            "beir/queries.jsonl": [{"_id": f"q{i}", "text": texts[i][:20]} for i in range(4)],
        }
        for name, rows in written.items():
            (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "beir" / "qrels" / "dev.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(4)))

    def prepare(self, attempt: Attempt) -> None:
        config = {
            "model": str(self.folder / "models" / "tiny"),
            "out": str(attempt.folder / "run"),
            "objective": "joint",
            "data": {"path": str(self.folder / "triplets.jsonl"), "format": "triplets"},
            "evaluation": {
                "path": str(self.folder / "beir"),
                "split": "dev",
                "every": 1,
                "queries": 4,
                "documents": 12,
                "probes": 2,
            },
            "max_prompt_tokens": 96,
            "max_new_tokens": 6,
            "batch": 4,
            "rollouts": 3,
            "steps": 4,
            "learning_rate": 1e-3,
            "lora": {"r": 4, "alpha": 8, "merge": False},
            "save_every": 1,
            "report_to": [],
            "collapse": {"action": "warn"},
        }
        (attempt.folder / "config.yaml").write_text(yaml.safe_dump(config))

    def commands(self, attempt: Attempt, *, again: bool) -> list:
        return ["train", attempt.folder / "config.yaml", "--json", *(["--resume"] if again else [])]

    def left(self, attempt: Attempt) -> str:
        """What stands under a final name is whole: the best adapter, and the newest checkpoint that counts as one."""
        from safetensors import safe_open

        from grace_core.sources import find_model
        from grace_core.training.checkpoints import newest_checkpoint

        run = attempt.folder / "run"
        if (run / "best").exists():
            find_model(run / "best")
            with safe_open(run / "best" / "adapter_model.safetensors", "numpy") as weights:
                assert list(weights.keys())
        newest = newest_checkpoint(run) if run.exists() else None
        return (newest.name if newest else "no checkpoint") + (", best" if (run / "best").exists() else "")

    def result(self, attempt: Attempt) -> dict:
        run = attempt.folder / "run"
        rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows if "eval" not in row] == [1, 2, 3, 4]
        assert [row["step"] for row in rows if "eval" in row] == [0, 1, 2, 3, 4]
        assert json.loads((run / "run.json").read_text())["state"] == "finished"
        assert not list(run.glob(".best*")), list(run.glob(".*"))
        about = json.loads((run / "best" / "training.json").read_text())
        return {"step": about["step"], "weights": bfloat16(run / "best" / "adapter_model.safetensors")}

    @staticmethod
    def same(one: dict, other: dict) -> list[str]:
        if one["step"] != other["step"] or one["weights"].keys() != other["weights"].keys():
            return [f"best of step {one['step']} and {other['step']}"]
        apart = {name: float(np.abs(one["weights"][name] - other["weights"][name]).max()) for name in one["weights"]}
        return [f"{name} by {most:.1e}" for name, most in apart.items() if most > MOST]


def main(kind: str, folder: Path, moments: int, seed: int, at_files: bool, report: Callable[[dict], None]) -> None:
    import faiss  # noqa: F401 - imported here so that the forks need not
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    folder.mkdir(parents=True, exist_ok=True)
    job = {"gguf": Gguf, "geometry": Geometry, "training": Training}[kind](folder)
    if not (maker := os.fork()):
        job.make()
        os._exit(0)
    if os.waitpid(maker, 0)[1]:
        raise RuntimeError("what the runs need could not be made")

    def attempt(name: str) -> Attempt:
        made = Attempt(folder / name)
        made.folder.mkdir()
        job.prepare(made)
        return made

    whole = attempt("whole")
    _, seconds = whole.run(job.commands(whole, again=False))
    wanted, rng = job.result(whole), random.Random(seed)
    for number in range(moments):
        after, name = seconds * (number + rng.random()) / moments, f"killed-{number}"
        pattern = job.patterns[number] if at_files and number < len(job.patterns) else None
        for tries in count(1):
            made = attempt(name)

            def due(so_far: float, made=made, after=after, pattern=pattern) -> bool:
                return so_far >= after if pattern is None else any(made.folder.glob(pattern))

            ended, _ = made.run(job.commands(made, again=False), until=due)
            if not ended or (pattern and tries == TRIES):
                break
            shutil.rmtree(made.folder)  # quicker than the first run was, or than the look at the files
            after *= 0.85
        left = job.left(made)
        made.run(job.commands(made, again=True))
        differs = job.same(wanted, job.result(made))
        moment = pattern or f"{after:.2f} of {seconds:.2f} s"
        report({"killed": moment if not ended else f"not, at {moment}", "left": left, "differs": differs})
        if not differs:
            shutil.rmtree(made.folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=["gguf", "geometry", "training"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument(
        "--at-files", action="store_true", help="the first moments are those at which certain files appear"
    )
    asked = parser.parse_args()
    main(
        asked.kind,
        asked.folder,
        asked.moments,
        asked.seed,
        asked.at_files,
        lambda row: print(json.dumps(row), flush=True),
    )
