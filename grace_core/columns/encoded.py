"""The vectors of a sentence encoder in a collection.

    <collection>/st-<name>/encoder.json            what they were made from and with, counts, hashes; written last
                          /vectors-*.safetensors  vectors (n, d) fp32, digests (n, 2) of the texts, left_out (n,): tokens without room

A build goes through the texts in shards, each written when it is finished: a killed build goes on after its
last whole shard. Texts that are the same are encoded once, and those of an earlier build by the same weights
are taken over, whatever documents they belong to now.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from grace_core import ann
from grace_core.build import BuildStopped
from grace_core.collection import Collection
from grace_core.columns.encoder import Encoder, encoder_source
from grace_core.columns.listing import MANIFEST, PREFIX, SCHEMA, bring_up, encoders, read_manifest, seal
from grace_core.errors import GraceError
from grace_core.files import only_writer, read_json, sha256, write_atomically, write_json
from grace_core.geometry import Role
from grace_core.sources import model_name
from grace_core.tensors import map_tensors

SHARD = 512
WORK = ".build"


def encoder_name(collection: Collection, model: str) -> str | None:
    """The name in the collection of an encoder given by that name, or by the path or id that it was built
    from; None if it has none.

    Raises GraceError where several were built from it.
    """
    there = encoders(collection)
    if model in there:
        return model
    source = encoder_source(model)
    names = [
        name for name in there if read_json(collection.folder / f"{PREFIX}{name}" / MANIFEST).get("model_id") == source
    ]
    if len(names) > 1:
        raise GraceError(
            f"{collection.folder} has several vectors of {model!r}: {', '.join(names)}; give one of these names"
        )
    return names[0] if names else None


def texts_of(collection: Collection) -> list[str]:
    """What is encoded of every document that has a text, in the order of the corpus: the rows of every column."""
    return [text for text in collection.contents() if text]


def build(
    collection: Collection,
    encoder: Encoder,
    *,
    name: str | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> EncodedIndex:
    """Encode the collection, or go on with a build that was stopped, or open the vectors if they are there and fit.

    ``progress`` is called with (texts done, all), ``should_stop`` is asked between shards and raises
    BuildStopped. Raises GraceError if another process builds there, or if the folder holds vectors of other
    weights.
    """
    name = model_name(encoder.source) if name is None else name
    folder = collection.folder / f"{PREFIX}{name}"
    if not (texts := texts_of(collection)):
        raise GraceError(
            f"{collection.folder}: none of the {collection.size} documents has any text; nothing to encode"
        )
    wanted = {
        "schema": SCHEMA,
        "model": {"sha256": encoder.fingerprint, "dim": encoder.dim},
        "corpus_sha256": collection.hash,
    }
    with only_writer(folder):
        known = _finished(folder, wanted)
        if known is None or known["corpus_sha256"] != collection.hash:
            digests = np.array([_digest(text) for text in texts], np.int64).reshape(-1, 2)
            tensors = _encode(
                folder, encoder, texts, digests, batch_size, progress or (lambda done, total: None), should_stop
            )
            _write(folder, wanted, encoder, collection, tensors)
        shutil.rmtree(folder / WORK, ignore_errors=True)
    return EncodedIndex(collection, name)


def _finished(folder: Path, wanted: dict) -> dict | None:
    """The manifest of what stands there. Raises GraceError if it is of other weights."""
    if not (folder / MANIFEST).exists():
        return None
    manifest = read_manifest(folder)
    if manifest["model"] != wanted["model"]:
        what = f"{folder} holds vectors by other weights of {manifest['model_id']} than these"
        raise GraceError(f"{what}; restore these weights, give another --name, or remove the folder and build again")
    return manifest


def _encode(
    folder: Path, encoder: Encoder, texts: list[str], digests: np.ndarray, batch_size: int, progress, should_stop
) -> dict:
    """The tensors of all texts. Every distinct text that is not known is encoded once, shard by shard."""
    from safetensors.numpy import save_file

    known: dict[tuple, tuple[np.ndarray, int]] = {}
    for tensors in _earlier(folder, encoder):
        for digest, vector, left in zip(tensors["digests"], tensors["vectors"], tensors["left_out"], strict=True):
            known[tuple(digest.tolist())] = (vector, int(left))
    keys = [tuple(digest) for digest in digests.tolist()]
    missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
    waiting = sorted(missing.items(), key=lambda pair: -len(pair[1]))  # alike in length, so that little is padded
    (folder / WORK).mkdir(exist_ok=True)
    write_json(folder / WORK / MANIFEST, {"model": encoder.fingerprint})
    number, total = len(list((folder / WORK).glob("*.safetensors"))), len(missing)
    for start in range(0, total, SHARD):
        if should_stop():
            raise BuildStopped(f"stopped after {start} of {total} texts; build again to go on")
        some = waiting[start : start + SHARD]
        done = [start]

        def tick(count: int, done: list[int] = done) -> None:
            done[0] += count
            progress(done[0], total)

        encoded = encoder.encode([text for _, text in some], role=Role.DOCUMENT, batch_size=batch_size, progress=tick)
        tensors = {
            "digests": np.array([key for key, _ in some], np.int64),
            "vectors": encoded.vectors,
            "left_out": encoded.left_out,
        }
        write_atomically(
            folder / WORK / f"{number:06}.safetensors", lambda path, tensors=tensors: save_file(tensors, path)
        )
        known |= {
            key: (vector, int(left))
            for (key, _), vector, left in zip(some, encoded.vectors, encoded.left_out, strict=True)
        }
        number += 1
    return {
        "vectors": np.stack([known[key][0] for key in keys]),
        "digests": digests,
        "left_out": np.array([known[key][1] for key in keys], np.int64),
    }


def _earlier(folder: Path, encoder: Encoder) -> Iterator[dict]:
    """What was encoded by the same weights before: the vectors that stand there, and the shards of a build
    that was stopped.
    """
    if (folder / MANIFEST).exists():
        yield map_tensors(_checked(folder, read_manifest(folder)))
    if (folder / WORK / MANIFEST).exists() and read_json(folder / WORK / MANIFEST).get("model") == encoder.fingerprint:
        yield from (map_tensors(path) for path in sorted((folder / WORK).glob("*.safetensors")))
    else:
        shutil.rmtree(folder / WORK, ignore_errors=True)


def _write(folder: Path, wanted: dict, encoder: Encoder, collection: Collection, tensors: dict) -> None:
    from safetensors.numpy import save_file

    count, cut = len(tensors["left_out"]), int((tensors["left_out"] > 0).sum())
    # the vectors lie under a name of their own until the manifest names them: a process that is killed in
    # between leaves the former
    name = f"vectors-{hashlib.sha256(tensors['vectors'].tobytes() + tensors['digests'].tobytes()).hexdigest()[:12]}.safetensors"
    write_atomically(folder / name, lambda path: save_file(tensors, path))
    manifest = wanted | {
        "model_id": encoder.source,
        "pooling": encoder.pooling,
        "exact": encoder.exact,
        "how": encoder.how,
        "max_tokens": encoder.limit,
        "prompts": {str(role): prompt for role, prompt in encoder.prompts.items()},
        "dtype": "float32",
        "counts": {
            "documents": collection.size,
            "encoded": count,
            "empty": collection.size - count,
            "truncated_texts": cut,
        },
        "file": name,
        "file_sha256": sha256(folder / name),
    }
    write_json(folder / MANIFEST, manifest | {"sha256": seal(manifest)})
    for leftover in folder.glob("vectors-*.safetensors"):
        if leftover.name != name:
            leftover.unlink()


def _digest(text: str) -> tuple[int, int]:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little", signed=True), int.from_bytes(digest[8:16], "little", signed=True)


def _checked(folder: Path, manifest: dict) -> Path:
    path = folder / str(manifest["file"])
    if not path.is_file() or sha256(path) != manifest["file_sha256"]:
        raise GraceError(
            f"{path} is missing or was changed (its hash is not the manifest's); remove {folder} and build again"
        )
    return path


@dataclass
class EncodedIndex:
    """Finished vectors, open for searching.

    Raises GraceError if they are not there, or do not fit the corpus or their hashes.
    """

    collection: Collection
    name: str

    def __post_init__(self):
        self.folder = self.collection.folder / f"{PREFIX}{self.name}"
        if not (self.folder / MANIFEST).is_file():
            there = ", ".join(f"st:{name}" for name in encoders(self.collection)) or "none"
            raise GraceError(
                f"{self.collection.folder} has no vectors of the encoder st:{self.name}, there are: {there}; build them with "
                f"`grace index build CORPUS --out {self.collection.folder} --model st:{self.name}`"
            )
        self.manifest = read_manifest(self.folder)
        if self.manifest["corpus_sha256"] != self.collection.hash:
            raise GraceError(
                f"{self.collection.folder}/corpus.parquet changed after st:{self.name} was built: "
                f"{bring_up(self.collection, self.name)} encodes what is new"
            )
        tensors = map_tensors(_checked(self.folder, self.manifest))
        self.vectors, self.left_out = tensors["vectors"], tensors["left_out"]

    def __len__(self) -> int:
        return len(self.vectors)

    @cached_property
    def opened(self) -> ann.Opened:
        """A flat FAISS index over the vectors, made in memory."""
        return ann.Opened(ann.make(self.vectors), self.vectors)

    def load_encoder(self, *, device: str | None = None) -> Encoder:
        """The encoder that made the vectors. Raises GraceError if its weights are not the same any more."""
        encoder = Encoder.load(self.manifest["model_id"], device=device)
        if encoder.fingerprint != self.manifest["model"]["sha256"]:
            raise GraceError(
                f"{self.folder} was built with other files of {self.manifest['model_id']} than are there now; restore them, or remove the "
                "folder and build again"
            )
        return encoder
