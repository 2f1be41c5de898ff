"""``grace models``: everything that can be named as a model on this machine, without loading any of it."""

from __future__ import annotations

import json
from pathlib import Path

from grace_cli.options import Json
from grace_core.console import show
from grace_core.errors import GraceError


def models_command(as_json: Json = False) -> None:
    """List the models that can be named here: name, size, licence, architecture, purpose and place (docs/models.md)."""
    from grace_core.precision import default_dtype

    models = list_models()
    lines = []
    titles = {
        "demo": "shipped",
        "package": "Python packages",
        "adapter": "shipped adapters of these",
        "gguf": "converted GGUF files",
        "hub": "Hugging Face cache",
    }
    for kind, title in titles.items():
        some = [model for model in models if model["kind"] == kind]
        lines += [f"{title}:", *(line for model in some for line in _lines(model))] if some else []
    cpu = default_dtype("cpu")
    lines.append(
        f"A folder, a GGUF file or an adapter is named by its path. On this CPU, models kept in 16 bits run in {cpu}."
    )
    show({"models": models, "dtype": cpu}, as_json, "\n".join(lines))


def _lines(model: dict) -> list[str]:
    size = f"{model['bytes'] / 1e6:.0f} MB" if model["bytes"] else "-"
    details = ", ".join(part for part in (model["architecture"], size, model["licence"]) if part and part != "-")
    lines = [f"  {model['name']}  ({details or 'unknown'})", f"      {model['purpose']}"]
    return [*lines, f"      {model['path']}" if model["installed"] else f"      not installed: {model['install']}"]


def list_models() -> list[dict]:
    """Of every model: ``name`` to give to --model, ``kind``, ``installed``, ``bytes``, ``licence``,
    ``architecture``, ``dtype`` in which it runs by default on the CPU, ``purpose``, ``path``; and
    ``install``, the line that installs it where it is not."""
    return [*_shipped(), *_packages(), *_adapters(), *_converted(), *_hub()]


def _entry(name: str, kind: str, *, path: Path | None, licence: str, purpose: str, **more) -> dict:
    entry = {
        "name": name,
        "kind": kind,
        "installed": path is not None,
        "bytes": _bytes(path),
        "licence": licence,
        "architecture": "",
    }
    return (
        entry | {"dtype": _dtype(path), "purpose": purpose, "path": str(path) if path else None, "install": None} | more
    )


def _shipped() -> list[dict]:
    from grace_core.sources import DEMO_MODELS_DIR, demo_models

    purpose = "3 million parameters that know the demo world only: for tests, and for training in minutes"
    folders = [DEMO_MODELS_DIR / name for name in demo_models()]
    return [
        _entry(path.name, "demo", path=path, licence="Apache-2.0", purpose=purpose, dtype="float32", **_of(path))
        for path in folders
    ]


def _packages() -> list[dict]:
    from grace_core.sources import PACKAGES

    entries = []
    for name, package in PACKAGES.items():
        path = package.path()
        more = {
            "architecture": package.architecture,
            "dtype": _default("bfloat16"),
            "install": None if path else package.install,
        }
        entries.append(_entry(name, "package", path=path, licence=package.licence, purpose=package.purpose, **more))
    return entries


def _adapters() -> list[dict]:
    from grace_core.model_folders import base_name
    from grace_core.sources import PACKAGED_DIR, PACKAGES, named_here, shipped_adapters

    entries, here = [], named_here()
    for name in shipped_adapters():
        path = PACKAGED_DIR / name
        base = PACKAGES[base_name(path)]
        method = (_json(path / "training.json").get("config") or {}).get("method", "")
        purpose = f"a LoRA adapter of {base_name(path)} that was trained here{f' ({method})' if method else ''}"
        more = {
            "architecture": base.architecture,
            "dtype": _default("bfloat16"),
            "install": None if name in here else base.install,
        }
        entries.append(
            _entry(name, "adapter", path=path if name in here else None, licence="Apache-2.0", purpose=purpose, **more)
        )
    return entries


def _converted() -> list[dict]:
    from grace_core.gguf_files import SOURCE_FILE, models_dir
    from grace_core.sources import PACKAGES

    entries, packaged = [], {package.path() for package in PACKAGES.values()}
    for file in sorted(models_dir().glob(f"*/{SOURCE_FILE}")):
        source, folder = _json(file), file.parent
        path = Path(source.get("path", ""))
        if path in packaged:  # listed with the packages
            continue
        types = "/".join(source.get("types", []))
        quantised = f"{source.get('parameters', 0) / 1e6:.0f} million parameters, {types} in {source.get('file')}"
        name = str(path if path.is_file() else folder)
        entries.append(
            _entry(name, "gguf", path=folder, licence=source.get("licence", ""), purpose=quantised, **_of(folder))
        )
    return entries


def _hub() -> list[dict]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    from grace_core.model_folders import usable

    try:
        repositories = scan_cache_dir().repos
    except (CacheNotFound, OSError, ValueError):
        return []
    entries = []
    for repository in sorted(repositories, key=lambda repository: repository.repo_id):
        newest = max(repository.revisions, key=lambda revision: revision.last_modified, default=None)
        if repository.repo_type != "model" or newest is None or not (newest.snapshot_path / "config.json").exists():
            continue
        try:
            folder = usable(newest.snapshot_path)
        except GraceError:  # no causal language model, or not whole
            continue
        purpose = "fetched from the Hugging Face hub"
        entries.append(
            _entry(
                repository.repo_id, "hub", path=folder, licence=_card_licence(folder), purpose=purpose, **_of(folder)
            )
        )
    return entries


def _of(folder: Path) -> dict:
    classes = _json(folder / "config.json").get("architectures") or [""]
    return {"architecture": classes[0]}


def _dtype(path: Path | None) -> str:
    from grace_core.model_folders import stored_dtype

    return _default(stored_dtype(path)) if path is not None and (path / "config.json").exists() else _default(None)


def _default(stored: str | None) -> str:
    from grace_core.precision import default_dtype

    return default_dtype("cpu", stored)


def _card_licence(folder: Path) -> str:
    """The licence that a model card's head names."""
    try:
        head = (folder / "README.md").read_text(encoding="utf-8", errors="replace").split("---")[1]
    except (OSError, IndexError):
        return ""
    return next((line.split(":", 1)[1].strip() for line in head.splitlines() if line.startswith("license:")), "")


def _bytes(path: Path | None) -> int:
    if path is None:
        return 0
    files = [path] if path.is_file() else path.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def _json(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
