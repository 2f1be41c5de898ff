"""An unfinished build: the documents' representations in shards on disk, put together when all are written.

    <model>/.build/plan.json             what the shards are made from and with
                  /000000.safetensors    rows, part sums and counts, rationale ids and flags of some documents;
                                         000000.quick.safetensors if it is quick to encode again

Documents are ordered by length, longest first. A shard's content depends on the documents and settings only,
not on who encodes it or when, so that a resumed build, and one on many machines, gives the same files as one
that was never stopped. Texts of an existing index (:class:`Known`) are in no shard: their rows are copied from
it, byte for byte.

Memory grows by some 50 bytes a document only (order, offsets, ids): texts stay in a file until their shard is
encoded, vectors and rationale ids are written through memory maps, and rationales are decoded block by block.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.files import flush_to_disk, link, needs_room, read_json, write_atomically, write_json
from grace_core.pooling import PARTS, RATIONALE, Representations
from grace_core.readers import Document
from grace_core.settings import Settings
from grace_core.tensors import create_tensors, map_tensors, reserve

BLOCK = 8_192  # documents whose rationales are decoded and written at once
QUICK = 0.1  # seconds
DIGEST = np.dtype((np.void, 16))  # of a text


def refuse_mixture(folder: Path, there: dict, wanted: dict) -> None:
    """Raises GraceError where what ``folder`` was made with differs from what is ``wanted`` now."""
    if "settings" in there:  # settings that are newer than the folder have their defaults
        there = there | {"settings": asdict(Settings(**there["settings"]))}
    for key, value in wanted.items():
        if there.get(key) != value:
            old, new = there.get(key), value
            if isinstance(old, dict) and isinstance(new, dict):
                key = next(k for k in new if old.get(k) != new[k])
                old, new = old.get(key), new[key]
            raise GraceError(
                f"{folder} was made with {key} = {str(old)[:80]!r}, got {str(new)[:80]!r}; vectors of different models or settings cannot "
                "be mixed: use the same ones, give another --out, or remove that folder"
            )


@dataclass(frozen=True)
class _Texts:
    """Texts one after the other in an unlinked file; ``offsets`` (n + 1,) in bytes are where they begin."""

    file: object
    offsets: np.ndarray

    def __getitem__(self, row: int) -> str:
        self.file.seek(self.offsets[row])
        return self.file.read(self.offsets[row + 1] - self.offsets[row]).decode()


@dataclass(frozen=True)
class Known:
    """An existing index in ``folder``: the ids ``(n,)`` of its rows and digests ``(n,)`` of their texts."""

    folder: Path
    manifest: dict
    ids: list[str]
    digests: np.ndarray

    @classmethod
    def of(cls, collection: Collection, folder: Path, manifest: dict, ids: list[str]) -> Known:
        """``ids`` are those of the rows, in the order of the collection's corpus."""
        digests, place = bytearray(), 0
        with collection.opened() as file:
            for batch in file.iter_batches(batch_size=BLOCK, columns=["_id", "title", "text"]):
                for document_id, title, text in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    if place < len(ids) and ids[place] == document_id:
                        digests += _digest(Document("", title, text, {}).content.encode())
                        place += 1
        if place < len(ids):
            raise GraceError(
                f"{folder} holds documents that its corpus lacks, such as {ids[place]!r}; remove it and build again"
            )
        return cls(folder, manifest, ids, np.frombuffer(bytes(digests), DIGEST))

    def rows_of(self, digests: np.ndarray) -> np.ndarray:
        """For texts by their digests ``(m,)`` the first row ``(m,)`` with the same text, -1 where there is none."""
        texts, groups = np.unique(np.concatenate([self.digests, digests]), return_inverse=True)
        first = np.full(len(texts), -1, np.int64)
        own = groups[: len(self.digests)]
        first[own[::-1]] = np.arange(len(own))[::-1]  # backwards: the first one stays
        return first[groups[len(own) :]]


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


class ShardWriter:
    """The shards of one build, in ``folder/.build``.

    Only one process may have it open (:func:`grace_core.files.only_writer`).

    With ``known`` only texts are encoded that are not in it; with ``only_known`` none are, and documents with
    other texts are left out: ``behind`` is their number. Raises GraceError if the folder holds shards made
    with something else.
    """

    def __init__(
        self,
        collection: Collection,
        folder: Path,
        wanted: dict,
        *,
        shard: int,
        known: Known | None = None,
        only_known: bool = False,
    ):
        self.collection, self.folder, self.path = collection, folder, folder / ".build"
        self._shard, self.known = shard, known
        self.path.mkdir(exist_ok=True)
        self._quick: set[int] = set()  # shards that are not flushed to the disk
        for leftover in [*folder.glob(".*.tmp"), *self.path.glob(".*.tmp"), *self.path.glob("*.quick.safetensors")]:
            leftover.unlink()
        if (self.path / "plan.json").exists() and any(self.path.glob("*.safetensors")):
            refuse_mixture(self.path, read_json(self.path / "plan.json"), wanted)
        else:  # a plan without a shard does not matter
            write_json(self.path / "plan.json", wanted)
        self._texts, lengths, digests = self._unpack()
        self.documents = len(lengths)
        self.rows = np.flatnonzero(lengths)  # empty documents have no embedding
        source = np.full(len(self.rows), -1, np.int64) if known is None else known.rows_of(digests[self.rows])
        self.behind = int((source < 0).sum()) if only_known else 0
        if only_known:
            self.rows, source = self.rows[source >= 0], source[source >= 0]
        self.source = source  # of the documents that are not empty, the row in the known index, or -1
        _, first, groups = np.unique(digests[self.rows], return_index=True, return_inverse=True)
        self._first = first[groups]  # of the documents that are not empty, the first one with the same text
        new = self.rows[source < 0]
        self._order = new[np.argsort(-lengths[new], kind="stable")]
        self._check_texts(wanted)

    def _check_texts(self, wanted: dict) -> None:
        """Remove the shards if they are of other texts, since another index is known now."""
        texts = {} if self.known is None else {"texts": hashlib.sha256(self._order.tobytes()).hexdigest()}
        if read_json(self.path / "plan.json").get("texts") != texts.get("texts"):
            for path in self.path.glob("*.safetensors"):
                path.unlink()
            write_json(self.path / "plan.json", wanted | texts)

    def _unpack(self) -> tuple[_Texts, np.ndarray, np.ndarray]:
        """The corpus's texts, to be read in any order, their lengths in characters, and a hash of each."""
        path = self.path / ".texts.tmp"
        lengths, sizes, digests = [], [0], bytearray()
        with needs_room(self.path / "texts"):
            file = open(path, "wb+")  # noqa: SIM115 - kept open: its name goes, so that it ends with the process, however that ends
            path.unlink()
            for text in self.collection.contents():
                data = text.encode()
                lengths.append(len(text))
                sizes.append(file.write(data))
                digests += _digest(data)
            file.flush()
        texts = _Texts(file, np.cumsum(np.array(sizes, np.int64)))
        return texts, np.array(lengths, np.int64), np.frombuffer(bytes(digests), DIGEST)

    def __len__(self) -> int:
        """The number of shards."""
        return -(-len(self._order) // self._shard)

    def shard_path(self, number: int) -> Path:
        return self._path_of(number, number in self._quick)

    def _path_of(self, number: int, quick: bool) -> Path:
        return self.path / f"{number:06d}{'.quick' if quick else ''}.safetensors"

    def rows_of(self, number: int) -> np.ndarray:
        """Rows of the corpus, longest text first."""
        return self._order[number * self._shard : (number + 1) * self._shard]

    def texts_of(self, number: int) -> list[str]:
        return [self._texts[row] for row in self.rows_of(number)]

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there yet."""
        return [number for number in range(len(self)) if not self.shard_path(number).exists()]

    def write(self, number: int, batch: Representations, *, seconds: float) -> None:
        """Write a shard, atomically.

        One that took few ``seconds``, since it came from the cache, is flushed to the disk only by :meth:`keep`,
        since flushing would take longer: if the process is killed before, a resumed build encodes it again.
        """
        from safetensors.numpy import save_file

        tensors = {
            "rows": self.rows_of(number),
            "sums": batch.sums.astype(np.float32),
            "counts": batch.counts.astype(np.int64),
            "ids": np.array([token for ids in batch.rationale_ids for token in ids], dtype=np.int32),
            "lengths": np.array([len(ids) for ids in batch.rationale_ids], dtype=np.int64),
            "truncated": batch.truncated,
            "text_truncated": batch.text_truncated,
        }
        quick = seconds < QUICK
        write_atomically(self._path_of(number, quick), lambda path: save_file(tensors, path), flush=not quick)
        if quick:
            self._quick.add(number)

    def keep(self) -> None:
        """Flush what is not flushed yet, for a build that stops before its end."""
        for number in tuple(self._quick):
            path = self.shard_path(number)
            flush_to_disk(path)
            self._quick.discard(number)
            os.replace(path, self.shard_path(number))
        flush_to_disk(self.path)

    @property
    def unchanged(self) -> bool:
        """Whether the rows are those of the index that is known, in its order and under their ids."""
        if self.known is None or not np.array_equal(self.source, np.arange(len(self.known.ids))):
            return False
        names = self.collection.columns(["_id"])["_id"].combine_chunks()
        return names.take(self.rows).to_pylist() == self.known.ids

    def finish(self, dim: int, decode: Callable[[list[list[int]]], list[str]] | None = None) -> dict:
        """Put the shards together in the corpus's order as vectors.safetensors and rationales.parquet; the
        manifest's counts.

        ``dim`` is the vectors' width; ``decode`` makes rationales of token ids, if anything was encoded.
        """
        vectors, rationales = self.folder / "vectors.safetensors", self.folder / "rationales.parquet"
        flags = {name: np.zeros(len(self.rows), bool) for name in ("truncated", "text_truncated")}
        if self.unchanged:
            for path in (vectors, rationales):
                link(self.known.folder / path.name, path)
            self._take_flags(flags)
        else:
            starts = np.zeros(len(self.rows) + 1, np.int64)  # of each document's rationale among all new ids
            write_atomically(vectors, lambda path: self._write_vectors(path, dim, flags, starts))
            self._take_flags(flags)
            np.cumsum(starts, out=starts)
            with needs_room(self.path / "ids"):
                ids = self._gather_ids(starts)
            counts = map_tensors(vectors)["counts"]
            write_atomically(rationales, lambda path: self._write_rationales(path, decode, ids, starts, counts, flags))
        parts = map_tensors(vectors)["counts"]
        return {
            "documents": self.documents,
            "encoded": len(self.rows),
            "empty": self.documents - self.behind - len(self.rows),
            "truncated_rationales": int(flags["truncated"].sum()),
            "truncated_texts": int(flags["text_truncated"].sum()),
            "empty_rationales": int((parts[:, RATIONALE] == 0).sum()),
            **{f"{part}_tokens": int(total) for part, total in zip(PARTS, parts.sum(axis=0), strict=True)},
        }

    def _take_flags(self, flags: dict[str, np.ndarray]) -> None:
        """The flags of the known rows."""
        import pyarrow.parquet as pq

        if self.known is not None and (kept := self.source >= 0).any():
            table = pq.read_table(self.known.folder / "rationales.parquet", columns=list(flags))
            for name, values in flags.items():
                values[kept] = table[name].to_numpy()[self.source[kept]]

    def _shards(self) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Every shard with its documents' positions among those that are not empty."""
        from safetensors.numpy import load_file

        for number in range(len(self)):
            yield np.searchsorted(self.rows, self.rows_of(number)), load_file(self.shard_path(number))

    def _write_vectors(self, path: Path, dim: int, flags: dict[str, np.ndarray], starts: np.ndarray) -> None:
        count = len(self.rows)
        out = create_tensors(path, {"counts": ("I64", (count, len(PARTS))), "sums": ("F32", (count, len(PARTS), dim))})
        for places, shard in self._shards():
            out["sums"][places], out["counts"][places] = shard["sums"], shard["counts"]
            starts[places + 1] = shard["lengths"]
            for name, values in flags.items():
                values[places] = shard[name]
        if self.known is not None:
            known = map_tensors(self.known.folder / "vectors.safetensors")
            for begin in range(0, count, BLOCK):
                places = begin + np.flatnonzero(self.source[begin : begin + BLOCK] >= 0)
                for name, array in out.items():
                    array[places] = known[name][self.source[places]]
        # rounding depends on a shard's batches: a text that occurs twice gets the vector of its first document
        copies = self._copies()
        for begin in range(0, len(copies), BLOCK):
            some = copies[begin : begin + BLOCK]
            for values in (*out.values(), starts[1:], *flags.values()):
                values[some] = values[self._first[some]]
        for array in out.values():
            array.flush()

    def _gather_ids(self, starts: np.ndarray) -> np.ndarray:
        """The rationales' token ids in the corpus's order, in an unlinked file."""
        if not starts[-1]:
            return np.zeros(0, np.int32)
        path = self.path / ".ids.tmp"
        with open(path, "wb+") as file:
            path.unlink()
            reserve(file.fileno(), 4 * int(starts[-1]))
            ids = np.memmap(file, np.int32, "r+", shape=(int(starts[-1]),))
        for places, shard in self._shards():
            begin = 0
            for place, length in zip(places, shard["lengths"], strict=True):
                if self._first[place] == place:
                    ids[starts[place] : starts[place] + length] = shard["ids"][begin : begin + length]
                begin += length
        for place in self._copies():
            first = self._first[place]
            ids[starts[place] : starts[place + 1]] = ids[starts[first] : starts[first + 1]]
        return ids

    def _copies(self) -> np.ndarray:
        """Of the documents that are not empty, those whose text an earlier one has."""
        return np.flatnonzero(self._first != np.arange(len(self._first)))

    def _write_rationales(self, path: Path, decode, ids, starts, parts, flags) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = pq.read_table(self.collection.folder / "corpus.parquet", columns=["_id"])["_id"]
        schema = pa.schema(
            [("_id", pa.string()), ("rationale", pa.string()), ("rationale_ids", pa.list_(pa.int32()))]
            + [(f"{part}_tokens", pa.int64()) for part in PARTS]
            + [(name, pa.bool_()) for name in flags]
        )
        known = None if self.known is None else _Rationales(self.known.folder / "rationales.parquet")
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for begin in range(0, len(self.rows), BLOCK):
                end = min(begin + BLOCK, len(self.rows))
                first, last = int(self.rows[begin]), int(self.rows[end - 1])
                block_ids = names.slice(first, last - first + 1).take(pa.array(self.rows[begin:end] - first))
                source = self.source[begin:end]
                new = begin + np.flatnonzero(source < 0)
                new_ids = [ids[starts[i] : starts[i + 1]].tolist() for i in new]
                written = [
                    pa.array(decode(new_ids) if new_ids else [], pa.string()),
                    pa.array(new_ids, schema.field("rationale_ids").type),
                ]
                if len(new) < len(source):
                    place = np.cumsum(source < 0) - 1  # among the new ones
                    place[source >= 0] = len(new) + np.arange(len(source) - len(new))  # behind them
                    old = known.take(source[source >= 0])
                    written = [
                        pa.concat_arrays([a, b.cast(a.type)]).take(pa.array(place))
                        for a, b in zip(written, old, strict=True)
                    ]
                columns = [block_ids.combine_chunks(), *written]
                columns += [parts[begin:end, i] for i in range(len(PARTS))] + [
                    values[begin:end] for values in flags.values()
                ]
                writer.write_table(pa.table(columns, schema=schema))


class _Rationales:
    """The rationales of an index and their ids, read by row; two row groups of the file are kept in memory."""

    def __init__(self, path: Path):
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path)
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._group = lru_cache(2)(
            lambda i: self._file.read_row_group(i, columns=["rationale", "rationale_ids"]).combine_chunks()
        )

    def take(self, rows: np.ndarray) -> list:
        """Rationales and their ids as Arrow arrays, in the order of ``rows``."""
        import pyarrow as pa

        groups = np.searchsorted(self._starts, rows, "right") - 1
        order = np.argsort(groups, kind="stable")
        tables = []
        for group in np.unique(groups):
            places = rows[order][groups[order] == group] - self._starts[group]
            tables.append(self._group(int(group)).take(pa.array(places)))
        table = pa.concat_tables(tables).take(pa.array(np.argsort(order, kind="stable"))).combine_chunks()
        return [table[name].combine_chunks() for name in ("rationale", "rationale_ids")]
