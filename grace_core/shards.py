"""A build on its way: the documents' representations in shards on disk, put together when the last one is there.

    <model>/.build/plan.json             what the shards are made from and with
                  /000000.safetensors    rows, part sums and counts, rationale ids and flags of some documents;
                                         000000.quick.safetensors if it can be made again in no time

The documents go in order of length, longest first. A shard's content depends on the documents and settings only, not on who
encodes it or when, so that a resumed build, and one on many machines, gives the same files as one that was never stopped.

Nothing here grows with the corpus but some 50 bytes a document (order, offsets, ids): texts wait in a file until their shard is due,
vectors and rationale ids are put into their places on disk through memory maps, and rationales are decoded block by block.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.files import flush_to_disk, needs_room, read_json, write_atomically, write_json
from grace_core.model import GraceModel, Representations, Settings
from grace_core.pooling import PARTS
from grace_core.tensors import create_tensors, map_tensors, reserve

BLOCK = 8_192  # documents whose rationales are decoded and written at once
QUICK = 0.1  # seconds


def refuse_mixture(folder: Path, there: dict, wanted: dict) -> None:
    """Raises GraceError where what ``folder`` was made with differs from what is ``wanted`` now."""
    there = there | {"settings": asdict(Settings(**there["settings"]))} if "settings" in there else there  # what is new has its default
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
    """Texts one after the other in a file without a name, and where each of them begins: ``offsets`` (n + 1,) in bytes."""

    file: object
    offsets: np.ndarray

    def __getitem__(self, row: int) -> str:
        self.file.seek(self.offsets[row])
        return self.file.read(self.offsets[row + 1] - self.offsets[row]).decode()


class Work:
    """The shards of one build, in ``folder/.build``. Only one process may have it open (:func:`grace_core.files.only_writer`).

    Raises GraceError if the folder holds shards made with something else, or if no document has any text.
    """

    def __init__(self, collection: Collection, folder: Path, wanted: dict, *, shard: int):
        self.collection, self.folder, self.path, self._shard = collection, folder, folder / ".build", shard
        self.path.mkdir(exist_ok=True)
        self._quick: set[int] = set()  # shards that are not flushed to the disk
        for leftover in [*folder.glob(".*.tmp"), *self.path.glob(".*.tmp"), *self.path.glob("*.quick.safetensors")]:
            leftover.unlink()
        if (self.path / "plan.json").exists() and any(self.path.glob("*.safetensors")):  # without a shard a plan binds nobody
            refuse_mixture(self.path, read_json(self.path / "plan.json"), wanted)
        else:
            write_json(self.path / "plan.json", wanted)
        self._texts, lengths, digests = self._unpack()
        self.documents = len(lengths)
        self.rows = np.flatnonzero(lengths)  # empty documents have no embedding
        _, first, groups = np.unique(digests[self.rows], return_index=True, return_inverse=True)
        self._first = first[groups]  # of the documents that are not empty, the first one with the same text
        self._order = self.rows[np.argsort(-lengths[self.rows], kind="stable")]

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
                digests += hashlib.blake2b(data, digest_size=16).digest()
            file.flush()
        texts = _Texts(file, np.cumsum(np.array(sizes, np.int64)))
        return texts, np.array(lengths, np.int64), np.frombuffer(bytes(digests), np.dtype((np.void, 16)))

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
        """Numbers of the shards that are still to be made."""
        return [number for number in range(len(self)) if not self.shard_path(number).exists()]

    def write(self, number: int, made: Representations, *, seconds: float) -> None:
        """Write a shard, atomically.

        One that took few ``seconds``, since it came out of the cache, is not flushed to the disk, which would take longer, until
        :meth:`keep`: if the process is killed before, a resumed build makes it again.
        """
        from safetensors.numpy import save_file

        tensors = {
            "rows": self.rows_of(number), "sums": made.sums.astype(np.float32), "counts": made.counts.astype(np.int64),
            "ids": np.array([token for ids in made.rationale_ids for token in ids], dtype=np.int32),
            "lengths": np.array([len(ids) for ids in made.rationale_ids], dtype=np.int64),
            "truncated": made.truncated, "text_truncated": made.text_truncated,
        }  # fmt: skip
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

    def finish(self, model: GraceModel) -> dict:
        """Put the shards together in the corpus's order as vectors.safetensors and rationales.parquet; the manifest's counts."""
        flags = {name: np.zeros(len(self.rows), bool) for name in ("truncated", "text_truncated")}
        starts = np.zeros(len(self.rows) + 1, np.int64)  # of each document's rationale among all ids
        vectors = self.folder / "vectors.safetensors"
        write_atomically(vectors, lambda path: self._write_vectors(path, model.dim, flags, starts))
        np.cumsum(starts, out=starts)
        with needs_room(self.path / "ids"):
            ids = self._gather_ids(starts)
        parts = map_tensors(vectors)["counts"]
        write_atomically(self.folder / "rationales.parquet", lambda path: self._write_rationales(path, model, ids, starts, parts, flags))
        return {
            "documents": self.documents, "encoded": len(self.rows), "empty": self.documents - len(self.rows),
            "truncated_rationales": int(flags["truncated"].sum()), "truncated_texts": int(flags["text_truncated"].sum()),
            "empty_rationales": int((parts[:, 2] == 0).sum()),
            **{f"{part}_tokens": int(total) for part, total in zip(PARTS, parts.sum(axis=0), strict=True)},
        }  # fmt: skip

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
        # shards are encoded apart, in batches that may round otherwise: a text that occurs twice has the vector of its first document
        copies = self._copies()
        for begin in range(0, len(copies), BLOCK):
            some = copies[begin : begin + BLOCK]
            for values in (*out.values(), starts[1:], *flags.values()):
                values[some] = values[self._first[some]]
        for array in out.values():
            array.flush()

    def _gather_ids(self, starts: np.ndarray) -> np.ndarray:
        """The rationales' token ids in the corpus's order, in a file without a name."""
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

    def _write_rationales(self, path: Path, model: GraceModel, ids, starts, parts, flags) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = pq.read_table(self.collection.folder / "corpus.parquet", columns=["_id"])["_id"]
        schema = pa.schema(
            [("_id", pa.string()), ("rationale", pa.string()), ("rationale_ids", pa.list_(pa.int32()))]
            + [(f"{part}_tokens", pa.int64()) for part in PARTS] + [(name, pa.bool_()) for name in flags]
        )  # fmt: skip
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for begin in range(0, len(self.rows), BLOCK):
                end = min(begin + BLOCK, len(self.rows))
                mine = [ids[starts[i] : starts[i + 1]].tolist() for i in range(begin, end)]
                first, last = int(self.rows[begin]), int(self.rows[end - 1])
                mine_names = names.slice(first, last - first + 1).take(pa.array(self.rows[begin:end] - first))
                columns = [mine_names, model.decode(mine), pa.array(mine, schema.field("rationale_ids").type)]
                columns += [parts[begin:end, i] for i in range(len(PARTS))] + [values[begin:end] for values in flags.values()]
                writer.write_table(pa.table(columns, schema=schema))
