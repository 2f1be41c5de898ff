"""Makes what ships besides demo-base: the models trained from it, and the demo collection with their indexes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from grace_core.collection import Collection
from grace_core.evaluation.report import retrieval_command
from grace_core.files import read_json, write_json
from grace_core.index import GraceIndex, build
from grace_core.map_report import map_command
from grace_core.model import GraceModel
from grace_core.readers import read_corpus
from grace_core.sources import DEMO_CORPUS_DIR, DEMO_MODELS_DIR
from grace_core.training.config import load_config

CONFIGS = Path(__file__).parents[1] / "configs"
SHIPPED = {"demo-cl": "demo-cl.yaml", "demo-grace": "demo-grace.yaml", "demo-grace-unsup": "demo-grace-unsup.yaml"}
MIN_DIST = 0.3  # of the maps: with less, the 661 pairs of passages would overlap
# without the others, which anyone can build, the collection is half as large
INDEXED = ("smollm2", "smollm2-grace", "demo-base", "demo-cl", "demo-grace")
TEXT_ONLY = ("demo-cl",)  # trained on the text's vector alone


def train_shipped(name: str, *, runs: Path, out: Path = DEMO_MODELS_DIR, report: Callable[[str], None]) -> dict:
    """Trains one of SHIPPED, or continues its run, and writes its best model to ``out``/name; returns the run's
    result.
    """
    from grace_core.training.run import train

    folder = runs / name
    result = train(
        load_config(CONFIGS / SHIPPED[name], [f"out={folder}"]),
        resume=True,
        report=lambda line: report(f"{name}: {line}"),
    )
    export(folder / "best", out / name)
    return result


def export(best: Path, folder: Path) -> None:
    """Writes a trained model as fp16 safetensors, with tokenizer, settings and training.json."""
    model = GraceModel.from_pretrained(best, device="cpu", dtype="float16")
    model.save_pretrained(folder)
    about = read_json(best / "training.json")
    about["config"]["out"] = Path(about["config"]["out"]).name  # without the path on this machine
    write_json(folder / "training.json", about)


def build_collection(out: Path, *, report: Callable[[str], None]) -> dict[str, GraceIndex]:
    """Encodes the demo corpus with INDEXED, maps it, and saves the evaluations on dev and test queries.

    An index of a model whose weights have changed is built again.
    """
    collection = Collection.create(read_corpus(DEMO_CORPUS_DIR), out)
    indexes = {}
    for name in INDEXED:
        model = GraceModel.from_pretrained(name)
        manifest = out / name / "manifest.json"
        if manifest.exists() and read_json(manifest)["model"]["sha256"] != model.fingerprint:
            shutil.rmtree(out / name)
        report(f"{name}: encoding {len(collection.documents)} passages")
        indexes[name] = build(collection, model, rationale=name not in TEXT_ONLY)
    report("maps")
    map_command(out, text=True, min_dist=MIN_DIST)
    for split in ("dev", "test"):
        report(f"evaluating on {split} queries")
        retrieval_command(out, list(indexes), split=split, save=True)
    return indexes
