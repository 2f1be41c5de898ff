"""Mends: rationales of an index that were changed by hand or by rule, kept as a layer with their history.

    <model>/mends.json          every mend there was: id, kind, note, time, document, hash of its text, both rationales, state
           /mends.safetensors   of each what the index held before and holds since: part sums (3, d), counts (3,) and token ids

A mend replaces one document's rationale, its ids and the rationale's part sum in rationales.parquet and
vectors.safetensors; index.faiss and the manifest follow. Text and template are left alone, since no token of
them sees the rationale, and so are the statistics of the geometry: scores of other documents stay the same to
the bit. What was there before is in the layer, so that :func:`revert` writes it back.

All files of the new state are made in ``<collection>/.mend``, which is then renamed to ``.next``: that is the
one moment from which on the new state holds, and the next process that opens the collection after a crash finishes the
switch (:func:`grace_core.switching.switch`).

A mend is *kept* while it is in force, *reverted*, or *stale*: after an update of the corpus
(:mod:`grace_core.living`) in which its document is gone or has another text. An update takes over rows of
known texts under any id, so it is given the rows as they were before all mends (:func:`plain`), and the mends
of documents that are the same are put on the outcome (:func:`carry`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grace_core.build import QUERIES, STATISTICS, write_faiss
from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.files import check_writable, link, only_writer, read_json, sha256, write_atomically, write_json
from grace_core.index import GraceIndex
from grace_core.mend_layer import LIST, REMEDY, Content, Layer, Mend, timestamp
from grace_core.model import GraceModel
from grace_core.pooling import RATIONALE
from grace_core.switching import MARK, NEXT, discard, switch
from grace_core.tensors import map_tensors
from grace_core.what_if import rationale_tokens

STAGED = ".mend"
KINDS = ("edit", "remove", "regenerate", "import")


@dataclass(frozen=True, eq=False)
class Change:
    """A mend that is to be kept."""

    document: str
    kind: str
    new: Content
    note: str = ""


def content_of(index: GraceIndex, row: int) -> Content:
    """What ``index`` holds of a row."""
    return Content(
        index.rationales[row],
        list(index.rationale_ids[row]),
        bool(index.truncated[row]),
        np.array(index.sums[row]),
        np.array(index.counts[row]),
    )


def encoded(
    index: GraceIndex,
    model: GraceModel,
    row: int,
    rationale: str | Sequence[int],
    *,
    held: Content | None = None,
    truncated: bool = False,
) -> Content:
    """A row of the index with another rationale, in words or as token ids, encoded by ``model``, which must
    be the index's own.

    Sums of text and template stay as they are stored (or ``held``): no token of them sees the rationale, and
    another batch would only round otherwise. Words that are the held ones keep their ids; an empty rationale
    is none. Raises GraceError for one that is too long.
    """
    held = content_of(index, row) if held is None else held
    if rationale == held.rationale if isinstance(rationale, str) else list(rationale) == held.ids:
        return held
    ids = rationale_tokens(model, rationale.strip()) if isinstance(rationale, str) else list(rationale)
    longest = max(model.settings.max_new_tokens, model.settings.max_prompt_tokens)
    if len(ids) > longest:
        raise GraceError(f"the rationale has {len(ids)} tokens, {model.name} takes at most {longest}; shorten it")
    sums, counts = held.sums.copy(), held.counts.copy()
    sums[RATIONALE], counts[RATIONALE] = 0, len(ids)
    if not ids:
        return Content("", [], False, sums, counts)
    representations = model.represent_given([index.collection.documents[index.ids[row]].content], [ids])
    sums[RATIONALE] = representations.sums[0, RATIONALE]
    return Content(
        rationale.strip() if isinstance(rationale, str) else representations.rationales[0], ids, truncated, sums, counts
    )


def text_hash(collection: Collection, document_id: str) -> str:
    """SHA-256 of what is encoded of a document."""
    return hashlib.sha256(collection.documents[document_id].content.encode()).hexdigest()


def check_keepable(index: GraceIndex) -> None:
    """Raises GraceError if the index, or the collection that it takes its place in, cannot be written."""
    for folder in (index.collection.folder, index.folder):
        check_writable(folder, "mends")


def keep(index: GraceIndex, changes: Sequence[Change]) -> list[Mend]:
    """Make mends part of the index on the disk, all of them at one moment; ``index`` itself goes on with what
    it had: open it again.

    Raises GraceError, and leaves all as it was, for a document that the index does not hold, a mend that
    changes nothing, if the index was changed since it was opened, or while another process writes there.
    """
    with _writing(index) as layer:
        rows, mends = {}, []
        first = 1 + max((int(mend.id[1:]) for mend in layer.mends), default=0)
        for number, change in enumerate(changes, first):
            if change.document not in index.row:
                raise GraceError(
                    f"{index.folder} holds no document {change.document[:80]!r}; take an id that a search shows"
                )
            row = index.row[change.document]
            old = rows[row] if row in rows else content_of(index, row)
            if change.new.equals(old):
                raise GraceError(f"document {change.document!r} has that very rationale; there is nothing to mend")
            _check_content(index, change)
            rows[row] = change.new
            mends.append(
                Mend(
                    f"m{number}",
                    change.kind,
                    change.note,
                    timestamp(),
                    change.document,
                    text_hash(index.collection, change.document),
                    "kept",
                    old,
                    change.new,
                )
            )
        _put(index, rows, Layer([*layer.mends, *mends], layer.unmended))
    return mends


def revert(index: GraceIndex, mend_id: str) -> Mend:
    """Write back what the index held before a mend; open the index again.

    With none in force its files are those of before the first, byte for byte, and the layer keeps the
    history.

    Raises GraceError for a mend that there is not or that is not in force, and where a later one of the same
    document is.
    """
    with _writing(index) as layer:
        mend = layer.find(mend_id)
        if mend.state != "kept":
            raise GraceError(
                f"mend {mend_id!r} is not in force: it is {mend.state} ({mend.reason}); there is nothing to revert"
            )
        last = layer.kept()[mend.document][-1]
        if last is not mend:
            raise GraceError(f"mend {last.id!r} of the same document {mend.document!r} came later; revert that first")
        layer.ended(mend, "reverted", "by hand")
        _put(index, {index.row[mend.document]: mend.old}, layer)
    return layer.find(mend_id)


def check(index: GraceIndex) -> dict:
    """Whether the layer and the index agree: ``{ok, in_force, reverted, stale, error}``; all of it 0 where
    there never was a mend.
    """
    try:
        layer = Layer.load(index.folder)
    except GraceError as error:
        return {"ok": False, "error": str(error)}
    numbers = layer.numbers()
    for document, mends in layer.kept().items():
        held = document in index.row and content_of(index, index.row[document])
        if not held or not held.equals(mends[-1].new):
            problem = f"the index does not hold what mend {mends[-1].id} of document {document!r} wrote; {REMEDY}"
            return {"ok": False, **numbers, "error": f"{index.folder}: {problem}"}
    return {"ok": True, **numbers, "error": ""}


def mends_line(folder: Path) -> str:
    """How many mends a model's folder has, in words; "" where there never was one."""
    try:
        layer = Layer.load(folder)
    except GraceError as error:
        return f"mends: {error}"
    numbers = layer.numbers()
    line = (
        f"{numbers['in_force']} mends in force, {numbers['reverted']} reverted, {numbers['stale']} no longer in force"
    )
    return line if layer.mends else ""


def plain(index: GraceIndex, target: Path) -> Path:
    """A folder with vectors and rationales of ``index`` as before its mends: its own where there are none,
    else ``target``.
    """
    kept = Layer.load(index.folder).kept()
    if not kept:
        return index.folder
    target.mkdir(parents=True, exist_ok=True)
    rows = {index.row[document]: mends[0].old for document, mends in kept.items()}
    _write_contents(index.folder, target, rows)
    for name in (STATISTICS, QUERIES):
        if (index.folder / name).is_file():
            link(index.folder / name, target / name)
    return target


def carry(old: Path, collection: Collection, name: str) -> list[str]:
    """Put the mends of an index, in the folder ``old``, on the one that was built for it in
    ``collection``, which no other process has open.

    Those of documents that are gone, or have another text, become stale; lines for the user tell of them.
    What was carried already stays.
    """
    folder = collection.folder / name
    layer = Layer.load(old)
    if not layer.mends or (folder / LIST).exists():
        return []
    index, rows, stale = GraceIndex(collection, name), {}, []
    for document, mends in layer.kept().items():
        if document not in collection.documents:
            reason = "its document is gone"
        elif document not in index.row or text_hash(collection, document) != mends[-1].text_sha256:
            reason = "the text of its document changed"
        else:
            rows[index.row[document]] = mends[-1].new
            continue
        for mend in mends:
            layer.ended(mend, "stale", reason)
            stale.append(f"{mend.id} of {document!r}: {reason}")
    layer.unmended = None
    if rows:  # in a folder of its own: a process that is killed here leaves an index that is whole, or none
        beside = collection.folder / STAGED
        shutil.rmtree(beside, ignore_errors=True)
        _write_folder(folder, beside / name, index.manifest, rows, layer)
        os.replace(folder, beside / "unmended")
        os.replace(beside / name, folder)
        shutil.rmtree(beside)
    else:
        layer.save(folder)
    carried = f"; {len(rows)} carried" if rows else ""
    return [f"{name}: {len(stale)} mends are no longer in force{carried}: {'; '.join(stale[:5])}"] if stale else []


@contextmanager
def _writing(index: GraceIndex):
    """The layer, with the locks of collection and index held.

    Raises GraceError if the index was changed since it was opened, or cannot be written.
    """
    check_keepable(index)
    folder = index.collection.folder
    with only_writer(folder), only_writer(index.folder):
        index.collection.check_current()
        if read_json(index.folder / "manifest.json") != index.manifest:
            raise GraceError(f"{index.folder} was changed since it was opened here; open it again")
        begun = folder / NEXT
        if any(begun.glob("*/.build/*.safetensors")) or any(begun.glob("*/manifest.json")):
            raise GraceError(
                f"an update of {folder} was stopped half way; finish it first, by `grace index build` with the same corpus or "
                f"`grace index update {folder}`, and mend afterwards"
            )
        yield Layer.load(index.folder)


def _put(index: GraceIndex, rows: dict[int, Content], layer: Layer) -> None:
    """Make the new state beside the old one, and put it in place."""
    folder = index.collection.folder
    staged = folder / STAGED
    shutil.rmtree(staged, ignore_errors=True)  # of a process that was killed
    try:
        _write_folder(index.folder, staged / index.model_name, index.manifest, rows, layer)
        write_json(staged / MARK, {"indexes": [index.model_name], "removed": []})
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    discard(folder)  # what an update left that encoded nothing
    os.replace(staged, folder / NEXT)
    switch(folder)


def _write_folder(source: Path, target: Path, manifest: dict, rows: dict[int, Content], layer: Layer) -> None:
    """A model's folder with other ``rows``: all files that make the index, its manifest last."""
    target.mkdir(parents=True)
    counts = _write_contents(source, target, rows)
    for name in (STATISTICS, QUERIES, manifest.get("geometry", {}).get("file")):
        if name and (source / name).is_file():
            link(source / name, target / name)
    if layer.kept() and layer.unmended is None:
        layer.unmended = manifest
    before, layer.unmended = layer.unmended, layer.unmended if layer.kept() else None
    layer.save(target)
    files = {name: sha256(target / name) for name in manifest["files"] if name != "index.faiss"}
    changed = {name: counts[name] for name in manifest["counts"] if name in counts}
    manifest = manifest | {"counts": manifest["counts"] | changed, "files": files}
    write_faiss(target, manifest, manifest.get("faiss", {"kind": "flat"})["kind"])
    if before and not layer.kept():
        now = read_json(target / "manifest.json")
        if all(
            before.get(name) == now.get(name) for name in ("files", "geometry")
        ):  # else it was changed in the meantime
            write_json(target / "manifest.json", before)


def _write_contents(source: Path, target: Path, rows: dict[int, Content]) -> dict[str, int]:
    """vectors.safetensors and rationales.parquet with other ``rows``; the counts that a manifest has of rationales."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def vectors(path: Path) -> None:
        shutil.copyfile(source / "vectors.safetensors", path)
        tensors = map_tensors(path, "r+")
        for row, held in rows.items():
            tensors["sums"][row], tensors["counts"][row] = held.sums, held.counts

    write_atomically(target / "vectors.safetensors", vectors)
    truncated = 0

    def rationales(
        path: Path,
    ) -> None:  # group by group, and as a build writes them: what is not changed keeps its bytes
        nonlocal truncated
        file, begin = pq.ParquetFile(source / "rationales.parquet"), 0
        there, lists = file.schema_arrow, pa.list_(pa.int32())  # read back, the items of a list have another name
        schema = there.set(there.get_field_index("rationale_ids"), pa.field("rationale_ids", lists))
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for number in range(file.metadata.num_row_groups):
                table = file.read_row_group(number).combine_chunks().cast(schema)
                mine = {row - begin: held for row, held in rows.items() if begin <= row < begin + len(table)}
                begin += len(table)
                if mine:
                    columns = {
                        name: table[name].to_pylist()
                        for name in ("rationale", "rationale_ids", "rationale_tokens", "truncated")
                    }
                    for row, held in mine.items():
                        values = (held.rationale, held.ids, int(held.counts[RATIONALE]), held.truncated)
                        for column, value in zip(columns.values(), values, strict=True):
                            column[row] = value
                    for name, column in columns.items():
                        place = table.schema.get_field_index(name)
                        table = table.set_column(
                            place, table.schema.field(name), pa.array(column, table.schema.field(name).type)
                        )
                truncated += sum(table["truncated"].to_pylist())
                writer.write_table(table)

    write_atomically(target / "rationales.parquet", rationales)
    counts = map_tensors(target / "vectors.safetensors")["counts"]
    return {
        "truncated_rationales": truncated,
        "empty_rationales": int((counts[:, RATIONALE] == 0).sum()),
        "rationale_tokens": int(counts[:, RATIONALE].sum()),
    }


def _check_content(index: GraceIndex, change: Change) -> None:
    new, dim = change.new, index.sums.shape[2]
    if not index.manifest["rationale"]:
        raise GraceError(f"{index.folder} was built without rationales; there is none to mend")
    if change.kind not in KINDS:
        raise GraceError(f"the kind of a mend must be one of {', '.join(KINDS)}, got {change.kind!r}")
    if new.sums.shape != (3, dim) or new.counts.shape != (3,) or new.counts[RATIONALE] != len(new.ids):
        raise GraceError(
            f"a mend needs sums (3, {dim}) and the counts of its ids, got {new.sums.shape} and {new.counts.tolist()}"
        )
    if not np.isfinite(new.sums).all():
        raise GraceError(f"the mend of {change.document!r} has a hidden state that is not finite; try dtype float32")
