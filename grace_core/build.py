"""A build: encode the missing shards, fit a geometry, make the FAISS index, and write the manifest last.

Nothing here searches: :mod:`grace_core.index` opens what was written.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from grace_core import ann
from grace_core import geometry as geometries
from grace_core.collection import Collection
from grace_core.errors import GraceError, Stopped
from grace_core.files import link, sha256, write_atomically, write_json
from grace_core.geometry import Geometry, Statistics
from grace_core.model import GraceModel
from grace_core.pooling import RATIONALE, Pooling, Representations
from grace_core.shards import Known, ShardWriter
from grace_core.tensors import PooledVectors, create_tensors, map_tensors

SCHEMA = 1
SHARD = 128
FILES = ("rationales.parquet", "vectors.safetensors", "index.faiss")
EXACT = "exact.safetensors"  # beside an ivfpq index: the vectors that it compresses, which candidates are compared by
STATISTICS, QUERIES = "statistics.safetensors", "queries.safetensors"
Job = tuple[int, list[str]]  # a shard's number and its texts
Encode = Callable[[Iterator[Job], Callable[[int], None]], Iterator[tuple[int, Representations]]]


class BuildStopped(Stopped):
    """A build was asked to stop; what is finished is kept, and the next build goes on from there."""


def identity(model: GraceModel, collection: Collection, rationale: bool) -> dict:
    """What two runs must have in common for their vectors to go into one index."""
    return {
        "schema": SCHEMA,
        "model": {"sha256": model.fingerprint, "dim": model.dim},
        "dtype": model.dtype,
        "settings": asdict(model.settings),
        "rationale": rationale,
        "corpus_sha256": collection.hash,
    }


def write_index(
    collection: Collection,
    folder: Path,
    model: GraceModel,
    wanted: dict,
    *,
    shard: int,
    faiss: str | None,
    geometry: str | None,
    encode: Encode,
    engine: str,
    progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
    known: Known | None = None,
    happened: dict | None = None,
) -> None:
    """Write an index to ``folder``, its manifest last; ``wanted`` is what :func:`identity` says.

    What is ``known`` is not encoded; FAISS kind, geometry and its queries follow it where none are given, and
    its history goes on with what ``happened``. Raises BuildStopped and GraceError.
    """
    made_by = {"engine": engine}  # an index has one; another may be searched with
    work = ShardWriter(collection, folder, wanted | made_by, shard=shard, known=known)
    encoded = len(work.rows) - int((work.source >= 0).sum())
    counts, seconds = _encode_all(work, model, wanted["rationale"], encode, progress, should_stop)
    about = {"model_id": model.source, "counts": counts, "seconds": seconds, "prompt": model.prompts.described}
    if model.statistics is not None:
        model.statistics.save(folder / STATISTICS)
    kind, weight = geometry or model.default_geometry(counts["encoded"]), None
    if known is not None:
        about |= _history(known, happened, {"encoded": encoded, "seconds": seconds})
        kind, weight = _geometry_of(known, geometry)
        faiss = faiss or _wish(known, "faiss", "flat")
        _take_over(known, folder, [QUERIES])
    _write_rest(folder, wanted | made_by | about, kind, faiss or "flat", weight=weight, strict=geometry is not None)


def carry_index(collection: Collection, folder: Path, known: Known, *, shard: int, happened: dict) -> int:
    """Write to ``folder`` what is left of a known index in ``collection``, without its model: nothing is
    encoded, and documents whose texts are not known are left out. Their number stands in the manifest under
    ``behind``. Returns how many are left; with none nothing is written."""
    manifest = {
        key: value
        for key, value in known.manifest.items()
        if key not in ("files", "faiss", "geometry", "sha256", "behind")
    }
    manifest |= {"corpus_sha256": collection.hash, "seconds": None}
    work = ShardWriter(
        collection,
        folder,
        {"carried": True, "corpus_sha256": collection.hash},
        shard=shard,
        known=known,
        only_known=True,
    )
    if not len(work.rows):
        return 0
    tensors = map_tensors(known.folder / "vectors.safetensors")
    manifest["counts"] = work.finish(tensors["sums"].shape[2])
    if not manifest["rationale"]:
        manifest["counts"]["empty_rationales"] = 0
    manifest |= _history(known, happened, {"encoded": 0, "seconds": None})
    (kind, weight), faiss = _geometry_of(known, None), _wish(known, "faiss", "flat")
    if work.behind:  # with the kinds that it is to have when it is brought up, which so few documents may not allow
        manifest["behind"] = {"documents": work.behind, "geometry": kind, "faiss": faiss}
    _take_over(known, folder, [STATISTICS, QUERIES])
    _write_rest(folder, manifest, kind, faiss, weight=weight, strict=False)
    return len(work.rows)


def _write_rest(folder: Path, manifest: dict, kind: str, faiss: str, *, weight: float | None, strict: bool) -> None:
    """Geometry, FAISS index and manifest.

    A geometry, or a kind of index, that is not possible becomes raw, or flat, with a warning; where
    ``strict`` GraceError is raised."""
    ways = [(kind, faiss)]
    if "behind" in manifest and faiss != "flat":  # an existing index must not be lost for lack of documents
        ways.append((kind, "flat"))
    if kind != "raw" and not strict:
        ways += [("raw", faiss) for _, faiss in ways]
    for number, (geometry, index) in enumerate(ways, 1):
        try:
            write_faiss(folder, with_geometry(folder, manifest, geometry, weight), index)
            return
        except GraceError as error:
            if number == len(ways):
                raise
            next_geometry, next_index = ways[number]
            what = f"the geometry {next_geometry}, since {geometry}"
            if next_geometry == geometry:
                what = f"a {next_index} index, since {index}"
            warnings.warn(f"{folder} has {what} is not possible: {error}", stacklevel=4)


def _history(known: Known, happened: dict | None, numbers: dict) -> dict:
    return {"history": [*known.manifest.get("history", []), (happened or {}) | numbers]}


def _wish(known: Known, what: str, default: str) -> str:
    """The kind of geometry or of FAISS index that an index has, or is to have again."""
    return known.manifest.get("behind", {}).get(what) or known.manifest.get(what, {}).get("kind", default)


def _geometry_of(known: Known, kind: str | None) -> tuple[str, float | None]:
    """The kind, and the rationale's weight that the index has been given."""
    weights = known.manifest.get("geometry", {}).get("weights")
    return kind or _wish(known, "geometry", "raw"), weights and weights[RATIONALE]


def _take_over(known: Known, folder: Path, names: list[str]) -> None:
    for name in names:
        if (known.folder / name).is_file():
            link(known.folder / name, folder / name)


def encoder(model: GraceModel, rationale: bool, batch_size: int) -> Encode:
    # shards at a time; more than one for an engine that would idle at the end of each
    together = max(1, model.batch_size(0) // SHARD)

    def encode(jobs: Iterator[Job], tick: Callable[[int], None]) -> Iterator[tuple[int, Representations]]:
        while some := list(islice(jobs, together)):
            texts = [text for _, shard in some for text in shard]
            batch = model.represent(
                texts, rationale=rationale, batch_size=batch_size, progress=lambda done, _: tick(done)
            )
            begin = 0
            for number, shard in some:
                yield number, batch[begin : begin + len(shard)]
                begin += len(shard)

    return encode


def _encode_all(
    work: ShardWriter, model, rationale: bool, encode: Encode, progress, should_stop
) -> tuple[dict, float | None]:
    """Write the missing shards and put all together.

    Returns the manifest's counts, and the seconds if nothing was there before.
    """
    total, missing = len(work.rows), work.missing()
    fresh = sum(len(work.rows_of(number)) for number in missing)
    done, started = total - fresh, time.time()
    progress(done, total)

    def jobs() -> Iterator[Job]:
        for number in missing:
            if should_stop():
                return
            yield number, work.texts_of(number)

    def tick(count: int) -> None:
        progress(done + count, total)

    began = time.monotonic()
    try:
        for number, batch in encode(jobs(), tick):
            # raises for a vector that is not finite, here and not at the end
            batch.embeddings(Pooling.FULL if rationale else Pooling.TEXT)
            work.write(number, batch, seconds=time.monotonic() - began)
            began = time.monotonic()
            done += len(batch)
            progress(done, total)
    finally:
        if done < total:
            work.keep()
    if done < total:
        raise BuildStopped(f"stopped after {done} of {total} documents; build again to go on")
    counts = work.finish(model.dim, model.decode)
    if not rationale:
        counts["empty_rationales"] = 0
    # the time of a resumed or cached build says nothing
    return counts, round(time.time() - started, 1) if fresh == total else None


def write_faiss(folder: Path, manifest: dict, kind: str) -> None:
    """Make index.faiss from the vectors (for ivfpq with the file of these), and write the manifest with its kind, its
    measured recall, and the hashes of all files.
    """
    tensors = map_tensors(folder / "vectors.safetensors")
    geometry = Geometry.load(folder, manifest.get("geometry", {}))
    vectors = PooledVectors(tensors["sums"], tensors["counts"], pooling_of(manifest), geometry)
    about: dict = {"kind": ann.check_kind(kind, len(vectors))}
    if kind == "ivfpq":
        write_atomically(folder / EXACT, lambda path: _write_vectors(path, vectors))
        about["exact"] = sha256(folder / EXACT)
        vectors = map_tensors(folder / EXACT)["vectors"]
    index = ann.make(vectors, kind)
    if kind != "flat":
        quality = ann.tune(index, kind, vectors)
        about |= {ann.EFFORTS[kind]: quality.effort, "recall@10": quality.recall, "recall_queries": quality.queries}
        about["copies"] = len(ann.Copies.of(ann.compared(index, kind, vectors)))
    write_atomically(folder / "index.faiss", lambda path: ann.write(index, path))
    # a new kind changes one file only
    files = manifest.get("files") or {name: sha256(folder / name) for name in FILES[:2]}
    files = files | {"index.faiss": sha256(folder / "index.faiss")}
    write_manifest(folder, manifest | {"faiss": about, "files": files})
    if kind != "ivfpq":
        (folder / EXACT).unlink(missing_ok=True)


def _write_vectors(path: Path, vectors: PooledVectors) -> None:
    vectors.all(create_tensors(path, {"vectors": ("F32", vectors.shape)})["vectors"]).flush()


def with_geometry(folder: Path, manifest: dict, kind: str, weight: float | None = None) -> dict:
    """The manifest with a geometry of this kind, fitted to the stored sums and written to ``folder``.

    The file's name holds its hash, and the manifest names it: if the process is killed in between, the former
    geometry stays valid.
    """
    from safetensors.numpy import load_file

    tensors = map_tensors(folder / "vectors.safetensors")
    model = Statistics.load(folder / STATISTICS) if (folder / STATISTICS).is_file() else None
    queries = load_file(folder / QUERIES) if (folder / QUERIES).is_file() else None
    geometry = geometries.fit(
        kind,
        (tensors["sums"], tensors["counts"]),
        model=model,
        queries=queries and (queries["sums"], queries["counts"]),
        weights=geometries.WEIGHTS if weight is None else (*geometries.WEIGHTS[:2], weight),
    )
    stored = geometry.as_dict()
    if not geometry.is_raw:
        name = geometry.save(folder)
        stored |= {"file": name, "sha256": sha256(folder / name)}
    return manifest | {"geometry": stored}


def pooling_of(manifest: dict) -> Pooling:
    return Pooling.FULL if manifest["rationale"] else Pooling.TEXT


def seal(manifest: dict) -> str:
    """SHA-256 over the manifest without the hash itself."""
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def write_manifest(folder: Path, manifest: dict) -> None:
    write_json(folder / "manifest.json", manifest | {"sha256": seal(manifest)})
