"""``grace index build`` and ``grace index faiss``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from grace_core.build import Encode
from grace_core.cache import RepresentationCache
from grace_core.collection import Collection
from grace_core.columns.encoded import EncodedIndex, encoder_name
from grace_core.columns.encoder import Encoder
from grace_core.columns.listing import PREFIX, bring_up, encoders, outdated_encoders, read_manifest
from grace_core.columns.names import BM25, ENCODER, parse
from grace_core.console import tell
from grace_core.errors import GraceError
from grace_core.index import GraceIndex
from grace_core.living import Update, update
from grace_core.model import GraceModel
from grace_core.passages import Chunk
from grace_core.pooling import Pooling
from grace_core.readers import Corpus, stream_corpus
from grace_core.readers.chunked import chunked
from grace_core.truncation import SPLIT, cut_text_notes, cut_texts

HISTORY = {
    "added": "new",
    "changed": "changed",
    "removed": "removed",
    "metadata": "with other metadata",
    "kept": "kept",
}


def build_command(
    corpus: str,
    out: Path,
    models: list[str],
    *,
    load: Callable[[str, str], GraceModel],
    bar: Callable,
    limit: int | None,
    columns: dict[str, str | None],
    rationale: bool,
    batch_size: int,
    faiss: str | None,
    geometry: str | None = None,
    name: str | None = None,
    engine: str,
    workers: int,
    device: str | None,
    dtype: str | None,
    add: bool = False,
    remove: bool = False,
    chunk: Chunk | None = None,
) -> tuple[dict, str]:
    """``load`` takes a model's name and an engine. ``engine`` ray, or ray:ENGINE, has ``workers`` Ray actors encode.

    Into a collection that exists the corpus is taken in by :mod:`grace_core.living`, whose ``add`` and
    ``remove`` these are.
    """
    place, _, inner = engine.partition(":")
    if place != "ray" and inner:
        raise GraceError(f"--engine is {engine!r}, expected transformers, vllm, ray, or ray:vllm")
    here = "transformers" if place == "ray" else engine  # beside a cluster this process only tokenises and decodes
    if out == Path() and not (out / "corpus.parquet").exists():
        raise GraceError(
            "--out is the current folder, expected one of the collection's own; give one such as indexes/mine"
        )
    read = stream_corpus(corpus, limit=limit, columns={role: name for role, name in columns.items() if name} or None)
    read = read if chunk is None else chunked(read, chunk)
    if name is not None and len(models) > 1:
        raise GraceError(f"--name is for one model, got {len(models)}; build them one after the other")
    if BM25 in models:
        raise GraceError("bm25 needs no index: name it in `grace search`, `grace explain` and `grace eval retrieval`")
    with ExitStack() as stack:
        return _build(
            stack,
            read,
            out,
            models,
            load=lambda source: load(source, here),
            bar=bar,
            rationale=rationale,
            batch_size=batch_size,
            faiss=faiss,
            geometry=geometry,
            name=name,
            ray=place == "ray",
            inner=inner,
            workers=workers,
            device=device,
            dtype=dtype,
            add=add,
            remove=remove,
        )


def _build(
    stack: ExitStack,
    read: Corpus,
    out: Path,
    models: list[str],
    *,
    load: Callable[[str], GraceModel],
    bar: Callable,
    rationale: bool,
    batch_size: int,
    faiss: str | None,
    geometry: str | None,
    name: str | None,
    ray: bool,
    inner: str,
    workers: int,
    device: str | None,
    dtype: str | None,
    add: bool,
    remove: bool,
) -> tuple[dict, str]:
    new: Update | None = None
    built, encoded, notes = {}, {}, []
    for source in models:
        model = Encoder.load(parse(source).model, device=device) if source.startswith(ENCODER) else load(source)
        if new is None:  # after the first model is found, so that a typing error leaves nothing
            new = stack.enter_context(update(out, read, add=add, remove=remove))
            for note in read.notes + new.notes:
                tell(f"note: {note}")
            if new.changes:
                tell(f"{out}: {new.changes}; {new.changes.kept:,} stay as they are")
        if isinstance(model, Encoder):
            notes += _encode_with(source, model, new, name, batch_size, bar, encoded)
            continue
        encode: Encode | None = None
        if ray:
            from grace_core.cluster import ray_encoder

            encode = ray_encoder(
                model,
                workers=workers,
                engine=inner or "transformers",
                rationale=rationale,
                batch_size=batch_size,
                device=device,
                dtype=dtype,
            )
        progress, close = bar(model.name)
        there = dict.fromkeys(new.there.models, 0) | new.there.behind
        try:
            index = new.build(
                model,
                rationale=rationale,
                batch_size=batch_size,
                faiss=faiss,
                geometry=geometry,
                name=name,
                encode=encode,
                engine=inner or None,
                progress=progress,
            )
        except Exception:
            new.withdraw()  # where nothing is encoded yet
            raise
        finally:
            close()
            model.close()  # the next one needs its memory
        built[index.model_name] = (
            index.manifest["counts"]
            | {"seconds": index.manifest["seconds"], "faiss": described(index)}
            | {"geometry": index.geometry.as_dict()}
        )
        if not new.changes and there.get(index.model_name) == 0:
            notes.append(f"{index.model_name}: {out} has this corpus already, nothing was encoded")
        elif index.history and (new.changes or index.model_name in there):
            built[index.model_name]["encoded_now"] = index.history[-1]["encoded"]
        notes += [f"{index.model_name}: {note}" for note in cut_text_notes(index.manifest, positions=model.positions)]
    reported = len(new.notes)
    behind = new.commit()
    notes += new.notes[reported:]
    notes += [
        f"{name}: {count:,} documents of the corpus are not in its index yet: `grace index update {out} --model {name}`"
        for name, count in behind.items()
    ]
    there = Collection(out)
    notes += [
        f"{ENCODER}{name}: the corpus changed after it was built: {bring_up(there, name)} encodes what is new"
        for name in outdated_encoders(there)
    ]
    chunk, what = there.chunk, "passages" if there.chunk else "documents"
    lines = [
        f"{name}: {count['encoded']} {what} encoded{_now(count)}, {count['empty']} empty ones left out, "
        f"{count['truncated_rationales']} rationales cut off, {cut_texts(count['truncated_texts'])}"
        f"{faiss_line(count['faiss'])}; geometry {count['geometry']['kind']}"
        for name, count in built.items()
    ]
    lines += [
        f"{ENCODER}{name}: {count['encoded']} {what} encoded, {count['empty']} empty ones left out, "
        f"{cut_texts(count['truncated_texts'])}"
        for name, count in encoded.items()
    ]
    lines += [f"note: {note}" for note in notes]
    result = {"collection": str(out), "models": built, "notes": read.notes + new.notes[:reported] + notes}
    if chunk:
        result["passages"] = {
            "documents": there.whole_size,
            "number": there.size,
            "words": chunk.words,
            "overlap": chunk.overlap,
        }
        lines.insert(
            0, f"{there.whole_size:,} {'document' if there.whole_size == 1 else 'documents'} in {there.size:,} {chunk}"
        )
    if new.changes:
        result["changes"] = new.changes.counts()
    return result | ({"encoders": encoded} if encoded else {}), "\n".join(lines)


def _now(count: dict) -> str:
    return f", {count['encoded_now']} of them now" if "encoded_now" in count else ""


def _encode_with(
    source: str, encoder: Encoder, new: Update, name: str | None, batch_size: int, bar: Callable, counted: dict
) -> list[str]:
    """Vectors of a sentence encoder; its counts go into ``counted``. What is to be told of texts that were cut."""
    progress, close = bar(source)
    try:
        index = new.encode(encoder, name=name, batch_size=batch_size, progress=progress)
    except Exception:
        new.withdraw()
        raise
    finally:
        close()
    counts = counted[index.name] = index.manifest["counts"]
    cut = counts["truncated_texts"]
    note = (
        f"{source}: {cut:,} of {counts['encoded']:,} texts are longer than the {encoder.limit:,} tokens that it reads"
    )
    return [f"{note}, and the rest of each is in no vector: {SPLIT}"] if cut else []


def update_command(
    folder: Path, models: list[str] | None, *, bar: Callable, batch_size: int, device: str | None
) -> tuple[dict, str]:
    """Bring up the indexes that lack documents of their corpus, or those of ``models``, each by the model
    that made it.
    """
    collection, notes = Collection(folder), []
    if collection.updating:
        notes.append(
            f"{folder}: an update was stopped half way; `grace index build` with the same corpus goes on with it"
        )
    manifests = {name: read_manifest(folder / f"{PREFIX}{name}") for name in encoders(collection)}
    stale = [f"{ENCODER}{name}" for name in outdated_encoders(collection)]
    updated: dict[str, dict] = {}
    for source in models or [*collection.behind, *stale]:
        with update(folder) as new:
            if source.startswith(ENCODER):
                name = encoder_name(new.collection, source.removeprefix(ENCODER)) or source.removeprefix(ENCODER)
                index, lacking = None, 0
                if name not in manifests:
                    EncodedIndex(new.collection, name)  # says what there is
            else:
                index = GraceIndex.of_model(new.collection, source)
                name, lacking = index.model_name, index.behind
            progress, close = bar(name)
            try:
                if index is None:
                    encoder = Encoder.load(manifests[name]["model_id"], device=device)
                    updated[f"{ENCODER}{name}"] = {
                        "documents": len(new.encode(encoder, name=name, batch_size=batch_size, progress=progress))
                    }
                elif lacking:
                    model = index.load_model(device=device, cache=RepresentationCache())
                    index = new.build(model, name=name, batch_size=batch_size, progress=progress)
                    model.close()
            finally:
                close()
            if index is not None:
                updated[name] = {"documents": len(index), "added": lacking}
    lines = [f"{name}: {about['documents']:,} documents" + _added(about) for name, about in updated.items()]
    lines += [f"note: {note}" for note in notes]
    return {"collection": str(folder), "models": updated, "notes": notes}, "\n".join(
        lines or [f"{folder}: every index has all documents"]
    )


def _added(about: dict) -> str:
    if "added" not in about:
        return ""
    return f", {about['added']:,} of them new" if about["added"] else ", as before"


def faiss_command(folder: Path, models: list[str], kind: str) -> tuple[dict, str]:
    """Make index.faiss of the models again, as ``kind``."""
    collection, entries = Collection(folder), {}
    for name in models:
        index = GraceIndex.of_model(collection, name)
        index.change_faiss(kind)
        entries[index.model_name] = described(index)
    return {"collection": str(folder), "models": entries}, "\n".join(
        f"{name}{faiss_line(entry) or '; flat'}" for name, entry in entries.items()
    )


def geometry_command(
    folder: Path, kind: str, *, models: list[str] | None, queries: Path | None, weight: float | None, device: str | None
) -> tuple[dict, str]:
    """Give the models' indexes another geometry. ``queries`` is a file with a query a line; only these are encoded."""
    collection = Collection(folder)
    indexes = [GraceIndex.of_model(collection, name) for name in models or collection.models]
    if not indexes:
        raise GraceError(
            f"{folder} has no finished index; build one with `grace index build CORPUS --out {folder} --model M`"
        )
    asked = None
    if queries is not None:
        try:
            lines = queries.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise GraceError(f"{queries} is not UTF-8 text, expected a query a line; save it as UTF-8") from error
        asked = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
        if not asked:
            raise GraceError(f"{queries} holds no query, expected one a line; write some into it")
    geometries = {}
    for index in indexes:
        given = None
        if asked is not None:
            model = index.load_model(device=device, cache=RepresentationCache())
            given = model.represent(asked, rationale=index.default_pooling is Pooling.FULL)
        index.change_geometry(kind, queries=given, weight=weight)
        geometries[index.model_name] = index.geometry.as_dict()
    result = {"collection": str(folder), "models": geometries}
    return result, "\n".join(f"{index.model_name}: {geometry_line(index.manifest)}" for index in indexes)


def geometry_line(manifest: dict) -> str:
    """The geometry of a manifest, with what its statistics come from."""
    geometry = manifest.get("geometry", {"kind": "raw"})
    line = f"geometry {geometry['kind']}, dtype {manifest.get('dtype', 'float32')}"
    if geometry["kind"] != "raw":
        own = "and the model's own statistics" if geometry["model_statistics"] else "alone"
        line += (
            f": from {geometry['documents']} documents {own}, {geometry['queries'] or 'no'} queries of the collection"
        )
    return line


def history_line(entry: dict) -> str:
    """An entry of an index's history in words."""
    what = [f"{entry[key]:,} {word}" for key, word in HISTORY.items() if entry.get(key)]
    return (
        f"{entry['when'][:16].replace('T', ' ')} UTC: {', '.join(what) or 'nothing new'}; {entry['encoded']:,} encoded"
    )


def described(index: GraceIndex) -> dict:
    """The kind of FAISS index, its effort and its recall@10 where it is not exact."""
    return index.manifest.get("faiss", {"kind": "flat"})


def faiss_line(entry: dict) -> str:
    """The manifest's ``faiss`` in words; nothing for a flat index."""
    if entry.get("kind", "flat") == "flat":
        return ""
    return f"; {entry['kind']}: recall@10 {entry['recall@10']:.3f} against flat, on {entry['recall_queries']} queries"
