"""The trained demo models: from their configurations to the folders that ship."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from grace_core.files import read_json, write_json
from grace_core.model import DEMO_MODELS_DIR, GraceModel
from grace_core.training.config import load_config
from grace_core.training.run import train

CONFIGS = Path(__file__).parents[2] / "configs"
SHIPPED = {"demo-cl": "demo-cl.yaml", "demo-grace": "demo-grace.yaml", "demo-grace-unsup": "demo-grace-unsup.yaml"}


def train_shipped(name: str, *, runs: Path, out: Path = DEMO_MODELS_DIR, report: Callable[[str], None]) -> dict:
    """Train one of SHIPPED, or go on with its run, and write its best model to ``out``/name; returns what the run returned."""
    folder = runs / name
    result = train(load_config(CONFIGS / SHIPPED[name], [f"out={folder}"]), resume=True, report=lambda line: report(f"{name}: {line}"))
    export(folder / "best", out / name)
    return result


def export(best: Path, folder: Path) -> None:
    """A trained model as fp16 safetensors, with tokenizer, settings, and how it was made."""
    model = GraceModel.from_pretrained(best, device="cpu", dtype="float16")
    model.save_pretrained(folder)
    about = read_json(best / "training.json")
    about["config"]["out"] = Path(about["config"]["out"]).name  # not where somebody's runs lie
    write_json(folder / "training.json", about)
