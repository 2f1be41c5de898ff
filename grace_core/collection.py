"""A collection on disk: one corpus, its queries and judgements, and a sub-folder for every model that encoded it.

    corpus.parquet                  _id, title, text, metadata columns
    queries.jsonl, qrels.tsv        optional, BEIR layout
    <model>/                        see grace_core.index
"""

from __future__ import annotations

import csv
import json
from functools import cached_property
from pathlib import Path

from grace_core.errors import GraceError
from grace_core.files import only_writer, sha256, write_atomically
from grace_core.readers import Corpus, Document, Judgements, read_corpus


class Collection:
    """Read access to a collection's corpus, judgements and models. Raises GraceError if the folder holds none."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "corpus.parquet").is_file():
            raise GraceError(
                f"{self.folder} is no collection: it has no corpus.parquet; "
                f"build one with `grace index build CORPUS --out {self.folder} --model M`"
            )

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def models(self) -> list[str]:
        """Names of the models with a finished index."""
        return sorted(path.parent.name for path in self.folder.glob("*/manifest.json"))

    @property
    def unfinished(self) -> list[str]:
        """Names of the models whose build was stopped half way."""
        begun = {path.parent.parent.name for path in self.folder.glob("*/.build/plan.json")}
        return sorted(begun - set(self.models))

    @cached_property
    def corpus(self) -> Corpus:
        return read_corpus(self.folder)

    @cached_property
    def documents(self) -> dict[str, Document]:
        return {document.id: document for document in self.corpus.documents}

    @property
    def judgements(self) -> Judgements | None:
        return self.corpus.judgements

    @cached_property
    def hash(self) -> str:
        return sha256(self.folder / "corpus.parquet")

    @classmethod
    def create(cls, corpus: Corpus, folder: str | Path) -> Collection:
        """Write ``corpus`` to ``folder``, or open the folder if it holds the same corpus already; new queries and judgements replace old.

        Raises GraceError if it holds another one: indexes of different corpora must not be mixed.
        """
        import pyarrow.parquet as pq

        folder, table = Path(folder), _table(corpus)
        if (folder / "corpus.parquet").exists():
            there = cls(folder)
            if not pq.read_table(folder / "corpus.parquet").equals(table):  # as tables: Parquet evens out the documents' fields
                raise GraceError(
                    f"{folder} already holds another corpus ({len(there.documents)} documents, got {len(corpus.documents)}); "
                    "give another --out, or remove that folder"
                )
            if corpus.judgements and corpus.judgements != there.judgements:  # no vector depends on them
                with only_writer(folder):
                    _write_judgements(corpus.judgements, folder)
                return cls(folder)
            return there
        with only_writer(folder):
            for leftover in folder.glob(".*.tmp"):  # of a process that was killed here
                leftover.unlink()
            if corpus.judgements:
                _write_judgements(corpus.judgements, folder)
            # last, since it makes the folder a collection
            write_atomically(folder / "corpus.parquet", lambda path: pq.write_table(table, path, compression="zstd"))
        return cls(folder)


def _table(corpus: Corpus):
    import pyarrow as pa

    columns = {
        "_id": pa.array([document.id for document in corpus.documents], pa.string()),
        "title": pa.array([document.title for document in corpus.documents], pa.string()),
        "text": pa.array([document.text for document in corpus.documents], pa.string()),
    }
    for field in corpus.fields:
        values = [document.metadata.get(field) for document in corpus.documents]
        try:
            columns[field] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # a column of mixed types keeps its values as text
            columns[field] = pa.array([None if value is None else str(value) for value in values], pa.string())
    return pa.table(columns)


def _write_judgements(judgements: Judgements, folder: Path) -> None:
    def queries(path: Path) -> None:
        with open(path, "w", encoding="utf-8") as file:
            for query_id, text in judgements.queries.items():
                row = {"_id": query_id, "text": text}
                if query_id in judgements.splits:
                    row["split"] = judgements.splits[query_id]
                file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def qrels(path: Path) -> None:
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(["query-id", "corpus-id", "score"])
            for query_id, grades in judgements.qrels.items():
                writer.writerows([query_id, document_id, grade] for document_id, grade in grades.items())

    write_atomically(folder / "queries.jsonl", queries)
    write_atomically(folder / "qrels.tsv", qrels)


def find_collections(root: str | Path) -> list[str]:
    """Names of the collections under ``root`` that have at least one model, or an unfinished one."""
    return sorted(path.parent.name for path in Path(root).glob("*/corpus.parquet"))


def collection_folder(root: str | Path, name: str) -> Path:
    """``root/name`` for a plain name. Raises GraceError for one that could lead elsewhere."""
    if not name or name.startswith(".") or len(name) > 100 or not all(c.isalnum() or c in "-_. " for c in name):
        raise GraceError(f"{name!r} is no name for a collection; use letters, digits, '-', '_' and '.', at most 100, not starting with '.'")
    return Path(root) / name
