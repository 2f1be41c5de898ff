"""The sentences of all rationales of an index, each with the sum of its hidden states.

    <collection>/<model>/sentences.json         what they were made from, and the files' hashes; written last
                        /sentences.safetensors  sums (s, d) fp32, counts, rows, starts (s,); in the order of the documents
                        /sentences.parquet      text
                        /.sentences/            shards of a run on its way; a killed one goes on after its last whole shard

With S the sum of the states of a document's rationale and S_s those of its sentences, S = sum over s of S_s,
so what the sentences add to the document's vector, and what text and template add, adds up to that vector
(:meth:`grace_core.geometry.Geometry.groups`). The sums are raw: every geometry can be had from them. They
come from one forward over the stored texts and rationales; nothing is generated. Generation and this forward
round differently: up to 1e-6 of a vector in float32, more in bfloat16; ``residual`` tells.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from grace_core.build import BuildStopped
from grace_core.errors import GraceError
from grace_core.files import (
    check_writable,
    needs_room,
    only_writer,
    read_json,
    sha256,
    write_atomically,
    write_json,
)
from grace_core.index import GraceIndex
from grace_core.model import GraceModel
from grace_core.pooling import PARTS, RATIONALE
from grace_core.regions import TAG
from grace_core.tensors import create_tensors, map_tensors
from grace_core.text_stream import read_pieces
from grace_core.token_states import split_sentences

SCHEMA = 1
SHARD = 128  # documents
BLOCK = 4_096  # sentences whose vectors are worked on at once
FILES = ("sentences.safetensors", "sentences.parquet")
REMEDY = "make the reasons again"


@dataclass(frozen=True)
class Sentences:
    """All sentences of an index's rationales, in the order of its documents.

    ``sums`` ``(s, d)`` fp32 and ``counts`` ``(s,)`` are of their states, ``rows`` ``(s,)`` their documents,
    ``starts`` ``(s,)`` the place of their first token in the rationale.
    """

    index: GraceIndex
    sums: np.ndarray
    counts: np.ndarray
    rows: np.ndarray
    starts: np.ndarray
    texts: list[str]

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def speaking(self) -> np.ndarray:
        """Which sentences say something ``(s,)``: tags and marks alone do not."""
        return np.array([says_something(text) for text in self.texts], bool)

    @cached_property
    def borders(self) -> np.ndarray:
        """The sentences of document i are those from ``borders[i]`` to ``borders[i + 1]``; ``(n + 1,)``."""
        return np.searchsorted(self.rows, np.arange(len(self.index) + 1))

    def of(self, row: int) -> range:
        return range(int(self.borders[row]), int(self.borders[row + 1]))

    def of_rows(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of the sentences of some documents, one document after the other."""
        return np.concatenate(
            [np.arange(self.borders[row], self.borders[row + 1]) for row in rows] or [np.zeros(0, np.int64)]
        )

    def vectors(self, numbers: np.ndarray | slice = slice(None)) -> np.ndarray:
        """What each of some sentences adds to its document's unit vector, ``(s, d)`` fp64."""
        rows, owners = np.unique(self.rows[numbers], return_inverse=True)
        texts = self.index.sums[rows], self.index.counts[rows]
        return self.index.geometry.groups(self.sums[numbers], self.counts[numbers], owners, RATIONALE, texts)

    def blocks(self) -> list[slice]:
        """Slices of sentences that are worked on at once."""
        return [slice(begin, min(begin + BLOCK, len(self))) for begin in range(0, len(self), BLOCK)]

    def residual(self) -> float:
        """The largest distance between a rationale's part of a document's vector and what its sentences add
        together.
        """
        largest = 0.0
        for begin in range(0, len(self.index), BLOCK):
            rows = np.arange(begin, min(begin + BLOCK, len(self.index)))
            parts = self.index.geometry.parts(self.index.sums[rows], self.index.counts[rows])[:, RATIONALE]
            numbers = np.arange(self.borders[begin], self.borders[rows[-1] + 1])
            np.subtract.at(parts, self.rows[numbers] - begin, self.vectors(numbers))
            largest = max(largest, float(np.linalg.norm(parts, axis=1).max()))
        return largest


def says_something(text: str) -> bool:
    return any(character.isalnum() for character in TAG.sub("", text))


def have_sentences(index: GraceIndex) -> bool:
    """Whether the sentences of this very index are stored."""
    path = index.folder / "sentences.json"
    return path.is_file() and _about(index).items() <= read_json(path, REMEDY).items()


def open_sentences(index: GraceIndex) -> Sentences:
    """The stored sentences. Raises GraceError if there are none, or if a file of theirs was changed."""
    import pyarrow.parquet as pq

    check_rationales(index)
    if not have_sentences(index):
        raise GraceError(
            f"{index.folder} has no sentences of its rationales as they are now; {REMEDY}: `grace reasons`"
        )
    stored = read_json(index.folder / "sentences.json", REMEDY)
    for name in FILES:
        path = index.folder / name
        if not path.is_file() or sha256(path) != stored["files"][name]:
            raise GraceError(f"{path} is missing or was changed; remove {index.folder / 'sentences.json'} and {REMEDY}")
    tensors = map_tensors(index.folder / "sentences.safetensors")
    texts = pq.read_table(index.folder / "sentences.parquet")["text"].to_pylist()
    return Sentences(index, **{name: tensors[name] for name in ("sums", "counts", "rows", "starts")}, texts=texts)


def find_sentences(
    index: GraceIndex,
    model: GraceModel | None = None,
    *,
    batch_size: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Sentences:
    """The sentences of an index's rationales: those stored, or made now by one forward over its texts and rationales.

    ``model`` is the one that built the index; it is loaded if needed. ``progress`` is called with (documents
    done, all); ``should_stop`` is asked between shards and raises BuildStopped: what is finished is kept.
    Raises GraceError for an index without rationales, for another model, or if the index's folder cannot be written.
    """
    check_rationales(index)
    if have_sentences(index):
        return open_sentences(index)
    check_writable(index.folder, "the sentences of its rationales")
    model = index.load_model() if model is None else model
    if model.fingerprint != index.manifest["model"]["sha256"]:
        raise GraceError(
            f"{index.folder} was built with another model than {model.name}; use the one it was built with"
        )
    with only_writer(index.folder):
        if not have_sentences(index):
            _make(index, model, batch_size, progress, should_stop)
        shutil.rmtree(index.folder / ".sentences", ignore_errors=True)
    return open_sentences(index)


def check_rationales(index: GraceIndex) -> None:
    """Raises GraceError for an index that has no rationale."""
    if not index.manifest["rationale"] or not index.counts[:, RATIONALE].any():
        raise GraceError(
            f"{index.folder} has no rationales, and reasons are made of their sentences; build it with rationales"
        )


def _about(index: GraceIndex) -> dict:
    """What stored sentences belong to: the vectors and the rationales, whatever the geometry and the FAISS index."""
    files = {
        name.partition(".")[0]: index.manifest["files"][name] for name in ("vectors.safetensors", "rationales.parquet")
    }
    return {"schema": SCHEMA, "corpus": index.manifest["corpus_sha256"]} | files


def _make(index: GraceIndex, model: GraceModel, batch_size: int, progress, should_stop) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, rows, starts, counts = _split_all(index, model)
    borders = np.searchsorted(rows, np.arange(len(index) + 1))
    # longest first: what does not fit into memory shows at once, and batches hold texts of one length
    order = np.argsort(-np.asarray(index.counts).sum(axis=1), kind="stable")
    order = order[borders[order] < borders[order + 1]]
    shards = [order[begin : begin + SHARD] for begin in range(0, len(order), SHARD)]
    folder = index.folder / ".sentences"
    _open_work(folder, _about(index))
    done = 0
    for number, documents in enumerate(shards):
        path = folder / f"{number:06d}.safetensors"
        if not path.exists():
            if should_stop():
                raise BuildStopped(f"{number} of {len(shards)} shards are finished and kept")
            _write_shard(path, index, model, documents, starts, borders, batch_size)
        done += len(documents)
        progress(done, len(order))

    def write(path: Path) -> None:
        shape = len(rows), index.sums.shape[2]
        kinds = {name: ("I64", (len(rows),)) for name in ("counts", "rows", "starts")} | {"sums": ("F32", shape)}
        out = create_tensors(path, kinds)
        out["counts"][:], out["rows"][:], out["starts"][:] = counts, rows, starts
        for number, documents in enumerate(shards):
            numbers = np.concatenate([np.arange(borders[row], borders[row + 1]) for row in documents])
            out["sums"][numbers] = map_tensors(folder / f"{number:06d}.safetensors")["sums"]
        for array in out.values():
            array.flush()

    write_atomically(index.folder / "sentences.safetensors", write)
    table = pa.table({"text": pa.array(texts, pa.string())})
    write_atomically(index.folder / "sentences.parquet", lambda path: pq.write_table(table, path, compression="zstd"))
    hashes = {name: sha256(index.folder / name) for name in FILES}
    write_json(index.folder / "sentences.json", _about(index) | {"sentences": len(rows), "files": hashes})


def _split_all(index: GraceIndex, model: GraceModel) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Texts of all sentences, and the rows of their documents, their first tokens and their lengths, ``(s,)`` each."""
    texts, rows, starts, counts = [], [], [], []
    for row, ids in enumerate(index.rationale_ids):
        pieces = read_pieces(model.tokenizer, ids)
        for begin, end in split_sentences(pieces) if pieces else []:
            texts.append("".join(pieces[begin:end]))
            rows.append(row)
            starts.append(begin)
            counts.append(end - begin)
    return texts, *(np.array(values, np.int64) for values in (rows, starts, counts))


def _open_work(folder: Path, about: dict) -> None:
    """The folder of the shards; those of other vectors are removed."""
    with needs_room(folder):
        folder.mkdir(exist_ok=True)
        plan = folder / "plan.json"
        if not plan.exists() or read_json(plan, REMEDY) != about:
            for path in folder.iterdir():
                path.unlink()
            write_json(plan, about)


def _write_shard(path: Path, index: GraceIndex, model: GraceModel, documents, starts, borders, batch_size: int) -> None:
    """The sums of the sentences of some documents, one document after the other."""
    from safetensors.numpy import save_file

    contents = [index.collection.documents[index.ids[row]].content for row in documents]
    ids = [index.rationale_ids[row] for row in documents]
    begins = [starts[borders[row] : borders[row + 1]] for row in documents]
    sums, _, _ = sum_sentences(model, contents, ids, begins, batch_size=batch_size)
    write_atomically(path, lambda target: save_file({"sums": sums}, target))


def sum_sentences(
    model: GraceModel,
    texts: list[str],
    rationale_ids: list[list[int]],
    starts: list[np.ndarray],
    *,
    batch_size: int = 32,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sums ``(s, d)`` fp32 of the states of each sentence, one text after the other, by one forward; and part
    sums ``(n, 3, d)`` fp32 and counts ``(n, 3)`` of the texts. ``starts`` are the first tokens of the
    sentences in each rationale."""
    sums, whole = (
        [np.zeros((0, model.dim), np.float32)] * len(texts),
        np.zeros((len(texts), len(PARTS), model.dim), np.float32),
    )
    counts = np.zeros((len(texts), len(PARTS)), np.int64)
    prompts, batches = model.with_rationales(texts, rationale_ids, batch_size=model.batch_size(batch_size))
    for batch in batches:
        states = model.engine.states([prompts[i] for i in batch], [rationale_ids[i] for i in batch])
        for i, token_states in zip(batch, states, strict=True):
            prompt, token_states = prompts[i], token_states.astype(np.float64)
            counts[i] = prompt.stop - prompt.start, len(prompt.ids) - prompt.stop, len(rationale_ids[i])
            for part, states_of in enumerate(np.split(token_states, np.cumsum(counts[i])[:-1])):
                whole[i, part] = states_of.sum(axis=0)
            if len(starts[i]):
                sums[i] = np.add.reduceat(states_of, starts[i], axis=0).astype(np.float32)
    return np.concatenate(sums), whole, counts
