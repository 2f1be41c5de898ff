"""``grace index …``: how its commands are typed.

What they do stands in :mod:`grace_cli.index_build`, so that this is light to import.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_cli.loading import load
from grace_cli.options import (
    KINDS_HELP,
    BatchSize,
    Device,
    Dtype,
    Geometry,
    Json,
    Limit,
    MaxNewTokens,
    MaxPromptTokens,
    Models,
    NoCache,
    Seed,
    Temperature,
    Template,
)
from grace_core.console import bar, show
from grace_core.errors import GraceError

SOURCES = (
    "BEIR folder, JSONL, CSV, TSV, Parquet, text, Markdown, HTML or PDF file, a folder of these last four, "
    "or a Hugging Face dataset id."
)

index_app = typer.Typer(no_args_is_help=True, help="Build and check indexes.")


@index_app.command("build")
def index_build(
    corpus: Annotated[str, typer.Argument(help=SOURCES)],
    out: Annotated[Path, typer.Option("--out", help="The collection's folder, e.g. indexes/mine.")],
    model: Models,
    limit: Limit = None,
    rationale: Annotated[bool, typer.Option(help="Without: embed the texts alone.")] = True,
    batch_size: BatchSize = 64,
    max_new_tokens: MaxNewTokens = None,
    max_prompt_tokens: MaxPromptTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    template: Template = None,
    device: Device = None,
    dtype: Dtype = None,
    no_cache: NoCache = False,
    id_column: Annotated[str | None, typer.Option(help="The column of ids, if it is not found by its name.")] = None,
    title_column: Annotated[str | None, typer.Option(help="The column of titles.")] = None,
    text_column: Annotated[str | None, typer.Option(help="The column of texts.")] = None,
    faiss: Annotated[
        str | None, typer.Option(help="flat (exact; the default), hnsw (fast) or ivfpq (small); docs/scale.md.")
    ] = None,
    geometry: Geometry = None,
    name: Annotated[
        str | None, typer.Option(help="The model's folder in the collection, if not the last part of its id.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="transformers, vllm, or ray (ray:vllm): Ray workers, one model each.")
    ] = "transformers",
    workers: Annotated[int, typer.Option(min=1, help="How many, with --engine ray.")] = 2,
    add: Annotated[
        bool, typer.Option("--add", help="Into a collection that exists: documents that the corpus lacks stay.")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="More than half of the documents that are there may be removed.")
    ] = False,
    chunk: Annotated[
        int | None, typer.Option(help="Split documents into passages of at most this many words; docs/passages.md.")
    ] = None,
    overlap: Annotated[
        int | None, typer.Option(help="Words, in whole sentences, that a passage shares with the one before; 0.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Encode a corpus with one or more models. Run again after an interruption, it goes on where it stopped.

    Into a collection that exists only what is new or changed is encoded, and what is gone is removed, by id;
    docs/living.md.
    """
    from grace_cli.index_build import build_command
    from grace_core.chat_templates import parse_arguments
    from grace_core.passages import Chunk

    if overlap is not None and chunk is None:
        raise GraceError(
            f"--overlap {overlap} is of passages, and there is no --chunk: give it, for example --chunk 200"
        )
    arguments = parse_arguments(template)

    def loader(name: str, chosen: str):
        return load(
            name,
            engine=chosen,
            device=device,
            dtype=dtype,
            no_cache=no_cache,
            max_new_tokens=max_new_tokens,
            max_prompt_tokens=max_prompt_tokens,
            temperature=temperature,
            seed=seed,
            template=arguments,
        )

    result, text = build_command(
        corpus,
        out,
        model,
        load=loader,
        bar=bar,
        limit=limit,
        columns={"id": id_column, "title": title_column, "text": text_column},
        rationale=rationale,
        batch_size=batch_size,
        faiss=faiss,
        geometry=geometry,
        name=name,
        engine=engine,
        workers=workers,
        device=device,
        dtype=dtype,
        add=add,
        remove=remove,
        chunk=None if chunk is None else Chunk(chunk, overlap or 0),
    )
    show(result, as_json, text)


@index_app.command("update")
def index_update(
    folder: Path,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="These models; default all that are behind.")
    ] = None,
    batch_size: BatchSize = 64,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Bring up the indexes that lack documents, since another model's took them in; docs/living.md."""
    from grace_cli.index_build import update_command

    result, text = update_command(folder, model, bar=bar, batch_size=batch_size, device=device)
    show(result, as_json, text)


@index_app.command("faiss")
def index_faiss(
    folder: Path,
    model: Models,
    kind: Annotated[str, typer.Option("--kind", help="flat (exact), hnsw (fast) or ivfpq (small).")],
    as_json: Json = False,
) -> None:
    """Make index.faiss again as another kind, from the vectors: nothing is encoded."""
    from grace_cli.index_build import faiss_command

    result, text = faiss_command(folder, model, kind)
    show(result, as_json, text)


@index_app.command("geometry")
def index_geometry(
    folder: Path,
    kind: Annotated[str, typer.Option("--kind", help=KINDS_HELP)],
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="These models' indexes; default all of the collection.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Unlabelled queries of the collection, one a line; twenty are enough.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option(min=0, max=10, help="Of the rationale, where the text counts 1.")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Compute the vectors of an index again from its stored sums, in another geometry: nothing is encoded but
    ``--queries``.
    """
    from grace_cli.index_build import geometry_command

    result, text = geometry_command(folder, kind, models=model, queries=queries, weight=weight, device=device)
    show(result, as_json, text)


@index_app.command("info")
def index_info(folder: Path, as_json: Json = False) -> None:
    """What a collection holds."""
    from grace_cli.index_build import faiss_line, geometry_line, history_line
    from grace_core.asked import FILE, asked_queries
    from grace_core.collection import Collection
    from grace_core.columns.listing import PREFIX, bring_up, encoders, outdated_encoders, read_manifest
    from grace_core.files import read_json
    from grace_core.mends import mends_line
    from grace_core.truncation import cut_text_notes, cut_texts

    collection = Collection(folder)
    judgements = collection.judgements
    info = {
        "collection": collection.name,
        "documents": collection.whole_size,
        "fields": collection.fields,
        "types": collection.types,
        "queries": len(judgements.queries) if judgements else 0,
        "models": {name: read_json(folder / name / "manifest.json") for name in collection.models},
        "encoders": {name: read_manifest(folder / f"{PREFIX}{name}") for name in encoders(collection)},
        "unfinished": collection.unfinished,
        "behind": collection.behind,
        "outdated": outdated_encoders(collection),
        "updating": collection.updating,
    }
    if collection.chunk:
        info["passages"] = {
            "number": collection.size,
            "words": collection.chunk.words,
            "overlap": collection.chunk.overlap,
        }
    info["notes"] = [
        f"{name}: {note}" for name, manifest in info["models"].items() for note in cut_text_notes(manifest)
    ]
    fields = ", ".join(f"{name} ({kind})" for name, kind in info["types"].items()) or "none"
    split = f" in {collection.size} {collection.chunk}" if collection.chunk else ""
    lines = [f"{info['collection']}: {info['documents']} documents{split}, {info['queries']} queries, fields {fields}"]
    for name, manifest in info["models"].items():
        counts = manifest["counts"]
        lines.append(
            f"  {name} ({manifest['model_id']}, {manifest['model']['sha256'][:12]}): {counts['encoded']} encoded, "
            f"{counts['rationale_tokens']} rationale tokens, {counts['truncated_rationales']} cut off, "
            f"{cut_texts(counts['truncated_texts'])}{faiss_line(manifest.get('faiss', {}))}"
        )
        lines.append(f"    {geometry_line(manifest)}")
        lines += [f"    {history_line(entry)}" for entry in manifest.get("history", [])[-3:]]
        if mends := mends_line(collection.folder / name):
            lines.append(f"    {mends}")
            info.setdefault("mends", {})[name] = mends
    for name, manifest in info["encoders"].items():
        counts, model = manifest["counts"], f"{manifest['model_id']}, {manifest['model']['sha256'][:12]}"
        lines.append(
            f"  st:{name} ({model}): {counts['encoded']} encoded, {cut_texts(counts['truncated_texts'])}; {manifest['how']}"
        )
    lines += [
        f"  {name}: {count:,} documents of the corpus are not in its index yet: `grace index update {folder} --model {name}`"
        for name, count in info["behind"].items()
    ]
    lines += [
        f"  st:{name}: the corpus changed after it was built: {bring_up(collection, name)} encodes what is new"
        for name in info["outdated"]
    ]
    if asked := asked_queries(folder):
        info["asked"] = len(asked)
        use = f"grace index geometry {folder} --kind calibrated --queries {folder / FILE}"
        lines.append(f"  {len(asked):,} queries that it was asked are kept in {FILE}; to calibrate with them: `{use}`")
    if info["updating"]:
        lines.append("  an update was stopped half way; `grace index build` with the same corpus goes on with it")
    lines += [f"  {name}: not finished; build again to go on" for name in info["unfinished"]]
    lines += [f"note: {note}" for note in info["notes"]]
    show(info, as_json, "\n".join(lines))


@index_app.command("verify")
def index_verify(
    folder: Path,
    repair: Annotated[
        bool, typer.Option("--repair", help="Write a damaged index.faiss again from the vectors.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check every file of a collection against its manifest. Exit status 1 if something is wrong."""
    import warnings

    from grace_core.collection import Collection
    from grace_core.columns.encoded import EncodedIndex
    from grace_core.columns.listing import encoders
    from grace_core.index import GraceIndex
    from grace_core.mends import check

    collection = Collection(folder)
    findings = []
    for name in collection.models:
        try:
            with warnings.catch_warnings(action="ignore"):
                index = GraceIndex(collection, name)
            if repair and not index.verify()["ok"]:
                index.repair()
            findings.append(index.verify() | {"mends": check(index)})
            if not findings[-1]["mends"]["ok"]:
                findings[-1] |= {"ok": False, "error": findings[-1]["mends"]["error"]}
        except GraceError as error:
            findings.append({"model": name, "ok": False, "error": str(error)})
    for name in encoders(collection):
        try:
            EncodedIndex(collection, name)
            findings.append({"model": f"st:{name}", "ok": True})
        except GraceError as error:
            findings.append({"model": f"st:{name}", "ok": False, "error": str(error)})
    ok = all(finding["ok"] for finding in findings)
    lines = [
        f"{f['model']}: {'ok' if f['ok'] else f.get('error', 'index.faiss is damaged; --repair writes it again')}"
        for f in findings
    ]
    lines += [
        f"  {number} mends of {f['model']} in force" for f in findings if (number := f.get("mends", {}).get("in_force"))
    ]
    show({"collection": collection.name, "ok": ok, "models": findings}, as_json, "\n".join(lines) or "no index")
    if not ok:
        raise typer.Exit(1)
