"""Taking a changed corpus into a collection that exists: what is new, changed or gone, by id; only new texts are encoded.

    with update("indexes/papers", read_corpus("papers.jsonl")) as papers:
        print(papers.changes)
        papers.build(model)      # the models that are to be brought up
        papers.commit()          # now, and not before, the collection is the new one

The new state is made beside the old one, in ``<collection>/.next``, which has the layout of a collection: corpus, judgements, and an index
for each model. A model that is built there takes over the rows of all texts that its index knows, whatever their ids, and encodes the
others, in shards, so that an update that was killed goes on where it stopped. Of the other models' indexes the new state has what is left:
documents that are gone or have another text now are taken out, new ones are missing, and their number stands in the manifest (``behind``).
Such an index is searched like any other, among the documents that it has; an update without a corpus brings it up.

:meth:`Update.commit` moves corpus.parquet into place, which is one moment, and then the rest (:func:`grace_core.collection.switch`);
before it the old state opens, after it the new one, also if the process is killed on the way. Geometries are fitted to the documents of
the new state, so that scores of documents that stay may change a little, as they would in a new build.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from grace_core import index as indexes
from grace_core.build import carry_index, identity
from grace_core.collection import MARK, NEXT, Changes, Collection, changes, discard, holds, judgements_note, switch
from grace_core.errors import GraceError
from grace_core.files import link, only_writer, write_json
from grace_core.index import GraceIndex, build
from grace_core.model import GraceModel
from grace_core.readers import Corpus, Document, Judgements, stream_corpus
from grace_core.shards import Known, refuse_mixture
from grace_core.sources import checked_name

MOST = 0.5  # share of the documents that may go without ``remove``


@dataclass
class Update:
    """A new state of the collection ``there``, in ``staged``. ``changes`` is None where the corpus stays, and only models are brought up.

    ``notes`` are lines for the user: what happens to judgements, and to other models.
    """

    there: Collection
    staged: Collection
    changes: Changes | None
    notes: list[str] = field(default_factory=list)
    _happened: dict = field(default_factory=dict)

    def build(self, model: GraceModel, *, name: str | None = None, rationale: bool | None = None, **options) -> None:
        """Make the model's index of the new state; a first one if the collection has none of it. Options as for
        :func:`grace_core.index.build`; without ``rationale`` the index keeps what it has.

        Raises GraceError if the index that is there was made with other weights or settings.
        """
        name, known = model.name if name is None else checked_name(name), None
        if name in self.there.models:
            old = GraceIndex(self.there, name)
            rationale = old.manifest["rationale"] if rationale is None else rationale
            wanted = identity(model, self.there, rationale)
            refuse_mixture(old.folder, old.manifest, wanted)
            known = _known(old)
        build(self.staged, model, name=name, rationale=rationale is not False, known=known, happened=self._happened, **options)

    def commit(self) -> list[str]:
        """Put the new state in place; the names of the models that are behind from now on.

        Raises GraceError, and leaves the old state, if another process writes in one of the indexes, or nothing was built.
        """
        folder, removed = self.there.folder, []
        built = set(self.staged.models)
        if not built:
            raise GraceError(f"no model was built for the new state of {folder}; build one, then commit")
        with ExitStack() as stack:
            for path in sorted(folder.iterdir()):
                if path.is_dir() and not path.name.startswith(".") and (path / ".lock").exists():
                    stack.enter_context(only_writer(path))
            for name in self.there.models if self.changes else ():
                if name not in built and not self._carry(name):
                    removed.append(name)
                    self.notes.append(f"{name}: none of its documents is left with the same text; its index is taken away: build it again")
            removed += self._stopped_builds()
            write_json(self.staged.folder / MARK, {"indexes": self.staged.models, "removed": removed})
            switch(folder)
        return sorted(Collection(folder).behind)

    def _carry(self, name: str) -> bool:
        """Make what is left of an index whose model is not built now; whether anything is."""
        target = self.staged.folder / name
        with only_writer(target):
            known = _known(GraceIndex(self.there, name))
            left = carry_index(self.staged, target, known, shard=indexes.SHARD, happened=self._happened)
            return left > 0

    def _stopped_builds(self) -> list[str]:
        """Builds of the old corpus that were stopped cannot go on."""
        names = self.there.unfinished if self.changes else []
        names = [name for name in names if name not in self.staged.models]
        self.notes += [f"{name}: its build was stopped, and begins anew; what it encoded is in the cache of rationales" for name in names]
        return names


@contextmanager
def update(folder: str | Path, corpus: Corpus | None = None, *, add: bool = False, remove: bool = False) -> Iterator[Update]:
    """A new state of the collection in ``folder`` with ``corpus``; None, or the corpus that is there, is for models that are behind.

    Documents that ``corpus`` lacks are removed; with ``add`` they stay, and those that are new follow them. What an update with the same
    corpus has begun goes on, any other is discarded. Nothing of the old state changes before :meth:`Update.commit`, but queries and
    judgements of a corpus that stays. Raises GraceError if the folder is no collection or another process updates it, if the corpus has no
    text, or if more than half of the documents would go and ``remove`` does not say that this is meant.
    """
    folder = Path(folder)
    Collection(folder)
    with only_writer(folder):
        there = Collection(folder)
        if corpus is not None and add:
            corpus = _joined(there, corpus)
        if corpus is None or holds(there, corpus):
            if corpus is not None and there.replace_judgements(corpus):
                there = Collection(folder)
            corpus, found = None, None
        else:
            found = changes(there, corpus)
            if len(found.removed) > MOST * found.size and not remove:
                raise GraceError(
                    f"{folder} has {found.size:,} documents, of which the new corpus lacks {len(found.removed):,}: {found}; nothing was "
                    "changed: if they are to be removed say --remove, --add keeps them, or give another --out"
                )
        try:
            yield _begin(there, corpus, found)
        finally:
            staged = folder / NEXT
            if not any(staged.glob("*/.build/*.safetensors")) and not any(staged.glob("*/manifest.json")):
                discard(folder)  # nothing is encoded that a next one could go on with


def _begin(there: Collection, corpus: Corpus | None, found: Changes | None) -> Update:
    """Stage the corpus, if it is not there yet from an update that was stopped."""
    path = there.folder / NEXT
    if (path / "corpus.parquet").exists():
        staged = Collection(path)
        if staged.hash != there.hash if corpus is None else not holds(staged, corpus):
            discard(there.folder)
    elif path.exists():
        discard(there.folder)
    (path / MARK).unlink(missing_ok=True)
    notes = []
    if corpus is None:
        path.mkdir(exist_ok=True)
        if not (path / "corpus.parquet").exists():
            link(there.folder / "corpus.parquet", path / "corpus.parquet")
        staged = Collection(path)
    else:
        notes = [note] if (note := judgements_note(there, corpus)) else []
        staged = Collection.create(replace(corpus, notes=[]), path)
    counts = found.counts() if found else {}
    return Update(there, staged, found, notes, {"when": datetime.now(UTC).isoformat(timespec="seconds"), **counts})


def _known(index: GraceIndex) -> Known:
    return Known.of(index.collection, index.folder, index.manifest, index.ids)


class _Joined:
    """The documents of a collection, in their order, those replaced that a corpus has too, and behind them its other ones."""

    def __init__(self, there: Collection, corpus: Corpus):
        self._old, self._new = stream_corpus(there.folder).documents, corpus.documents
        self._ids = set(there.columns(["_id"])["_id"].to_pylist())

    def __iter__(self) -> Iterator[Document]:
        newer = {document.id: document for document in self._new if document.id in self._ids}
        for document in self._old:
            yield newer.get(document.id, document)
        yield from (document for document in self._new if document.id not in self._ids)


def _joined(there: Collection, corpus: Corpus) -> Corpus:
    old, new = there.judgements, corpus.judgements
    if old and new:
        new = Judgements(**{name: value | asdict(new)[name] for name, value in asdict(old).items()})
    fields = list(dict.fromkeys([*there.fields, *corpus.fields]))
    return Corpus(_Joined(there, corpus), new or old, corpus.source, fields, corpus.notes)
