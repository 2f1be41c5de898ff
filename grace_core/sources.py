"""Where models come from: the demo models that ship, folders, the Hugging Face hub; and what they are called in a collection."""

from __future__ import annotations

import os
from pathlib import Path

from grace_core.errors import GraceError

DEMO_MODELS_DIR = Path(__file__).parent / "demo" / "models"
# what a checkpoint needs: never .bin or .pt, which are pickles
MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]


def model_name(name: str | Path) -> str:
    """The name of a model's folder in a collection: the last part of its id or path, made safe for a file system."""
    last = str(name).rstrip("/").split("/")[-1]
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in last).strip(".")
    if not safe:
        raise GraceError(f"{str(name)!r} is no usable model name")
    return safe


def demo_models() -> list[str]:
    """The names of the models that ship, demo-base first."""
    return sorted(path.name for path in DEMO_MODELS_DIR.glob("demo-*") if (path / "config.json").exists())


def find_model(name: str | Path, *, revision: str | None = None) -> Path:
    """The local folder of a model, fetched from the Hugging Face hub if it is neither a demo model nor a folder."""
    text = str(name)
    demo = DEMO_MODELS_DIR / text
    if text.startswith("demo-") and "/" not in text:
        if (demo / "config.json").exists():
            return demo
        raise GraceError(f"there is no demo model {text!r}; there are: {', '.join(demo_models()) or 'none, run `grace demo pretrain`'}")
    if os.path.isdir(text):  # Path.is_dir raises where a name is too long
        if not (Path(text) / "config.json").exists():
            raise GraceError(f"{text} is a folder without config.json, so not a model; name the folder that a model was saved to")
        return Path(text)
    parts = text.split("/")
    if len(parts) > 2 or any(not part or part.startswith(".") for part in parts) or not all(c.isalnum() or c in "-_./" for c in text):
        raise GraceError(f"{text!r} is neither a demo model, nor a folder, nor a Hugging Face id such as Qwen/Qwen2.5-0.5B-Instruct")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(text, revision=revision, allow_patterns=MODEL_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise GraceError(
            f"model {text!r} is no folder here and could not be fetched from the Hugging Face hub ({first_line(error)}); "
            "check the id and the network, log in with `hf auth login` if it is gated, or use demo-base"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its kind."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
