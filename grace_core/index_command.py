"""``grace index build`` and ``grace index faiss``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.index import Encode, GraceIndex, build
from grace_core.model import GraceModel
from grace_core.readers import stream_corpus
from grace_core.sources import model_name


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
    engine: str,
    workers: int,
    device: str | None,
    dtype: str | None,
) -> tuple[dict, str]:
    """``load`` takes a model's name and an engine. ``engine`` ray, or ray:ENGINE, has ``workers`` Ray actors encode."""
    place, _, inner = engine.partition(":")
    if place != "ray" and inner:
        raise GraceError(f"--engine is {engine!r}, expected transformers, vllm, ray, or ray:vllm")
    here = "transformers" if place == "ray" else engine  # beside a cluster this process only tokenises and decodes
    read = stream_corpus(corpus, limit=limit, columns={role: name for role, name in columns.items() if name} or None)
    collection, built = None, {}
    for name in models:
        model = load(name, here)
        collection = collection or Collection.create(read, out)  # after the first model is found, so that a typing error leaves nothing
        encode: Encode | None = None
        if place == "ray":
            from grace_core.cluster import ray_encoder

            encode = ray_encoder(
                model, workers=workers, engine=inner or "transformers", rationale=rationale, batch_size=batch_size,
                device=device, dtype=dtype,
            )  # fmt: skip
        progress, close = bar(model.name)
        try:
            made = build(
                collection, model, rationale=rationale, batch_size=batch_size, faiss=faiss, encode=encode, engine=inner or None,
                progress=progress,
            )  # fmt: skip
        finally:
            close()
            model.close()  # the next one needs its memory
        built[made.model_name] = made.manifest["counts"] | {"seconds": made.manifest["seconds"], "faiss": described(made)}
    lines = [
        f"{name}: {count['encoded']} documents encoded, {count['empty']} empty ones left out, "
        f"{count['truncated_rationales']} rationales cut off{faiss_line(count['faiss'])}"
        for name, count in built.items()
    ]
    return {"collection": str(out), "models": built}, "\n".join(lines)


def faiss_command(folder: Path, models: list[str], kind: str) -> tuple[dict, str]:
    """Make index.faiss of the models again, as ``kind``."""
    collection, made = Collection(folder), {}
    for name in models:
        index = GraceIndex(collection, model_name(name))
        index.change_faiss(kind)
        made[index.model_name] = described(index)
    return {"collection": str(folder), "models": made}, "\n".join(f"{name}{faiss_line(found) or '; flat'}" for name, found in made.items())


def described(index: GraceIndex) -> dict:
    """The kind of FAISS index, its effort and its recall@10 where it is not exact."""
    return index.manifest.get("faiss", {"kind": "flat"})


def faiss_line(found: dict) -> str:
    """The manifest's ``faiss`` in words; nothing for a flat index."""
    if found.get("kind", "flat") == "flat":
        return ""
    return f"; {found['kind']}: recall@10 {found['recall@10']:.3f} against flat, on {found['recall_queries']} queries"
