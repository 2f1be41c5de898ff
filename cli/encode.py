"""``grace encode``: a corpus as vectors in a Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace_cli.loading import load
from grace_cli.options import (
    BatchSize,
    Device,
    Dtype,
    Engine,
    Json,
    Limit,
    MaxNewTokens,
    MaxPromptTokens,
    Model,
    NoCache,
    Seed,
    Temperature,
    Template,
)
from grace_core.console import bar, show, tell
from grace_core.errors import GraceError


def encode_command(
    file: Annotated[str, typer.Argument(help="A corpus, as for `index build`.")],
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="A Parquet file to write.")],
    limit: Limit = None,
    rationale: Annotated[bool, typer.Option(help="Without: embed the texts alone.")] = True,
    batch_size: BatchSize = 64,
    max_new_tokens: MaxNewTokens = None,
    max_prompt_tokens: MaxPromptTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    template: Template = None,
    device: Device = None,
    engine: Engine = None,
    dtype: Dtype = None,
    no_cache: NoCache = False,
    input_type: Annotated[
        str, typer.Option(help="document, or query: what the texts are to be in a search.")
    ] = "document",
    as_json: Json = False,
) -> None:
    """Write ids, rationales and embeddings of a corpus to a Parquet file: the vectors that
    ``GraceModel.encode`` gives.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from grace_core.chat_templates import parse_arguments
    from grace_core.files import write_atomically
    from grace_core.pooling import Pooling
    from grace_core.readers import read_corpus
    from grace_core.truncation import cut_texts, notes_on_cut_texts

    arguments = parse_arguments(template)
    if input_type not in ("document", "query"):
        raise GraceError(f"--input-type must be document or query, got {input_type!r}")
    if out.suffix.lower() in (".csv", ".tsv", ".json", ".jsonl", ".txt", ".npy", ".npz", ".safetensors"):
        raise GraceError(f"--out {out}: a Parquet file is written; give a name that ends in .parquet")
    if not out.parent.is_dir():
        raise GraceError(f"--out {out}: the folder {out.parent} does not exist; make it first")
    corpus = read_corpus(file, limit=limit)
    for note in corpus.notes:
        tell(f"note: {note}")
    documents = [document for document in corpus.documents if document.content]
    left_out = [document.id for document in corpus.documents if not document.content]
    if not documents:
        raise GraceError(
            f"none of the {len(left_out)} documents of {file} has any text; nothing to encode: choose another corpus"
        )
    loaded = load(
        model,
        device=device,
        engine=engine,
        dtype=dtype,
        no_cache=no_cache,
        max_new_tokens=max_new_tokens,
        max_prompt_tokens=max_prompt_tokens,
        temperature=temperature,
        seed=seed,
        template=arguments,
    )
    progress, close = bar(loaded.name)
    try:
        representations = loaded.represent(
            [d.content for d in documents], rationale=rationale, batch_size=batch_size, progress=progress
        )
    finally:
        close()
    vectors = loaded.geometry.vectors(
        representations.sums, representations.counts, Pooling.FULL if rationale else Pooling.TEXT, input_type
    )
    table = pa.table(
        {
            "_id": [d.id for d in documents],
            "rationale": representations.rationales,
            "truncated": representations.truncated,
            "text_truncated": representations.text_truncated,
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), vectors.shape[1]),
        }
    )
    write_atomically(out, lambda path: pq.write_table(table, path, compression="zstd"))
    cut = int(representations.text_truncated.sum())
    notes = notes_on_cut_texts(cut, len(documents), loaded.settings, positions=loaded.positions)
    result = {
        "out": str(out),
        "documents": len(documents),
        "empty": len(left_out),
        "dim": int(vectors.shape[1]),
        "geometry": loaded.geometry.kind,
        "input_type": input_type,
        "truncated_rationales": int(representations.truncated.sum()),
        "truncated_texts": cut,
        "left_out": left_out,
        "notes": corpus.notes + notes,
    }
    ids = f": {', '.join(left_out[:5])}{', …' if len(left_out) > 5 else ''}" if left_out else ""
    lines = [
        f"{out}: {len(documents)} embeddings of {result['dim']} dimensions; {len(left_out)} without any text left out{ids}; "
        f"{result['truncated_rationales']} rationales cut off, {cut_texts(cut)}",
        *(f"note: {note}" for note in notes),
    ]
    show(result, as_json, "\n".join(lines))
