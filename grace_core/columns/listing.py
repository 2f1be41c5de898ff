"""Which columns a collection has, without opening any: light to import."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from grace_core.collection import Collection
from grace_core.columns.names import Name, Single, parse
from grace_core.errors import GraceError
from grace_core.files import read_json

SCHEMA = 1
PREFIX, MANIFEST = "st-", "encoder.json"  # of a folder of vectors by a sentence encoder


def single_names(collection: Collection) -> list[Single]:
    """The single columns that a collection has: text and rationale of every finished model, BM25, and its encoders.

    Models whose manifest cannot be read are left out.
    """
    names = []
    for model in collection.models:
        try:
            rationale = read_json(collection.folder / model / "manifest.json").get("rationale", True)
        except GraceError:  # whoever opens it says so
            continue
        names += [Single("grace", model, False), *([Single("grace", model, True)] if rationale else [])]
    return [*names, Single("bm25"), *(Single("encoder", name) for name in encoders(collection))]


def encoders(collection: Collection) -> list[str]:
    """Names of the encoders with finished vectors in a collection, as they stand behind ``st:``."""
    return sorted(path.parent.name.removeprefix(PREFIX) for path in collection.folder.glob(f"{PREFIX}*/{MANIFEST}"))


def outdated_encoders(collection: Collection) -> list[str]:
    """Names of the encoders whose vectors are of the corpus as it was before; those whose manifest cannot be read are left out."""
    outdated = []
    for name in encoders(collection):
        with suppress(GraceError):  # whoever opens it says so
            if read_manifest(collection.folder / f"{PREFIX}{name}")["corpus_sha256"] != collection.hash:
                outdated.append(name)
    return outdated


def bring_up(collection: Collection, encoder: str) -> str:
    """The command that brings the vectors of an encoder up to the corpus."""
    return f"`grace index update {collection.folder} --model st:{encoder}`"


def read_manifest(folder: Path) -> dict:
    """The manifest of an encoder's vectors. Raises GraceError if it was edited or is another version's."""
    manifest = read_json(folder / MANIFEST, f"remove {folder} and build again")
    if manifest.get("schema") != SCHEMA:
        raise GraceError(
            f"{folder} has schema {manifest.get('schema')!r}, this version reads {SCHEMA}; remove it and build again"
        )
    if manifest.get("sha256") != seal(manifest):
        raise GraceError(f"{folder}/{MANIFEST} was edited (its hash does not fit); remove {folder} and build again")
    return manifest


def seal(manifest: dict) -> str:
    """SHA-256 over a manifest without the hash itself."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_name(collection: Collection, text: str) -> Name:
    """The column that ``text`` names; the name or path of a model's folder may have any signs. Raises GraceError."""
    return Single("grace", text) if text in collection.models or os.path.exists(text) else parse(text)


def is_model(name: Name) -> bool:
    """Whether it is a GRACE model, which has options of its own."""
    return isinstance(name, Single) and name.kind == "grace"
