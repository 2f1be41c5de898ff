"""A corpus into a collection, also into one that exists: what is new, changed or gone is taken in by id; only
new texts are encoded.

    with update("indexes/papers", read_corpus("papers.jsonl")) as papers:
        print(papers.changes)
        papers.build(model)      # the models that are to be brought up
        papers.commit()          # now, and not before, the collection is the new one

The new state is made beside the old one, in ``<collection>/.next``, which has the layout of a collection:
corpus, judgements, and an index for each model. A model that is built there takes over the rows of all texts
that its index knows, whatever their ids, and encodes the others, in shards, so that an update that was killed
goes on where it stopped. Of the other models' indexes the new state has what is left: documents that are gone
or have another text now are taken out, new ones are missing, and their number stands in the manifest
(``behind``). Such an index is searched like any other, among the documents that it has; building it again,
with the same corpus, brings it up.

:meth:`Update.commit` moves corpus.parquet into place, which is one moment, and then the rest
(:func:`grace_core.switching.switch`); before it the old state opens, after it the new one, also if the
process is killed on the way. Geometries are fitted to the documents of the new state, so that scores of
documents that stay may change a little, as they would in a new build.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from grace_core import index as indexes
from grace_core.build import carry_index, identity
from grace_core.collection import Changes, Collection, changes, holds, judgements_note
from grace_core.columns import encoded
from grace_core.columns.encoded import EncodedIndex
from grace_core.columns.encoder import Encoder
from grace_core.columns.listing import MANIFEST as ENCODED
from grace_core.columns.listing import PREFIX
from grace_core.errors import GraceError
from grace_core.files import link, only_writer, write_json
from grace_core.index import GraceIndex, build
from grace_core.mend_layer import Layer
from grace_core.mends import carry, plain
from grace_core.model import GraceModel
from grace_core.readers import Corpus, Document, Judgements, stream_corpus
from grace_core.readers.chunked import parent_of
from grace_core.shards import Known, refuse_mixture
from grace_core.sources import checked_name, model_name
from grace_core.switching import MARK, NEXT, discard, switch

MOST = 0.5  # share of the documents that may go without ``remove``


@dataclass
class Update:
    """A corpus that is built in ``collection``: the one in the folder if that is new, or has this corpus;
    else its next state, which :meth:`commit` puts in place. ``changes`` tells what differs then, else it is
    None. ``notes`` are lines for the user: what happens to judgements, and to other models."""

    there: Collection
    collection: Collection
    changes: Changes | None
    notes: list[str] = field(default_factory=list)
    _happened: dict = field(default_factory=dict)

    def build(
        self, model: GraceModel, *, name: str | None = None, rationale: bool | None = None, **options
    ) -> GraceIndex:
        """Make the model's index, bring it up, or open it.

        Options as for :func:`grace_core.index.build`; without ``rationale`` the index keeps what it has.

        Raises GraceError if the index that is there was made with other weights or settings.
        """
        name, old = model.name if name is None else checked_name(name), None
        if name in self.there.models:
            old = GraceIndex(self.there, name)
            rationale = old.manifest["rationale"] if rationale is None else rationale
            refuse_mixture(old.folder, old.manifest, identity(model, self.there, rationale))
        options |= {"name": name, "rationale": rationale is not False}
        if self.changes is None and not (old and old.behind):
            return build(self.collection, model, **options)
        options |= {"happened": self._happened}
        if self.changes:
            return build(self.collection, model, known=old and _known(old, self.collection), **options)
        with only_writer(self.there.folder):
            staged = _stage(self.there, None)
            build(staged, model, known=_known(old, staged), **options)
            self.notes += carry(old.folder, staged, name)
            with only_writer(old.folder):
                write_json(staged.folder / MARK, {"indexes": [name], "removed": []})
                switch(self.there.folder)
        return GraceIndex(self.there.folder, name)

    def encode(self, encoder: Encoder, *, name: str | None = None, **options) -> EncodedIndex:
        """The vectors of a sentence encoder, of which the known ones are taken over; options as for
        :func:`grace_core.columns.encoded.build`."""
        folder = f"{PREFIX}{model_name(encoder.source) if name is None else name}"
        old, new = self.there.folder / folder, self.collection.folder / folder
        if self.changes and (old / ENCODED).exists() and not (new / ENCODED).exists():
            new.mkdir(exist_ok=True)
            for path in [*old.glob("vectors-*.safetensors"), old / ENCODED]:
                link(path, new / path.name)
        return encoded.build(self.collection, encoder, name=name, **options)

    def commit(self) -> dict[str, int]:
        """Put the next state in place, if there is one; the models that are behind from now on, and by how
        many documents.

        Raises GraceError, and leaves the old state, if another process writes in one of the indexes.
        """
        folder, removed = self.there.folder, []
        if self.changes is None:
            return Collection(folder).behind
        with ExitStack() as stack:
            for path in sorted(folder.iterdir()):
                if path.is_dir() and not path.name.startswith(".") and (path / ".lock").exists():
                    stack.enter_context(only_writer(path))
            for name in self.there.models:
                if name not in self.collection.models and not self._carry(name):
                    removed.append(name)
                    gone = Layer.load(self.there.folder / name).kept()
                    mends = f", with its mends of {len(gone)} documents" if gone else ""
                    self.notes.append(
                        f"{name}: none of its documents is left with the same text; its index is taken away{mends}: build it again"
                    )
                else:
                    self.notes += carry(self.there.folder / name, self.collection, name)
            for name in self.there.unfinished:
                if name not in self.collection.models:
                    removed.append(name)
                    self.notes.append(
                        f"{name}: its build was stopped, and begins again; what it encoded is in the cache of rationales"
                    )
            encoders = [path.parent.name for path in sorted(self.collection.folder.glob(f"{PREFIX}*/{ENCODED}"))]
            write_json(
                self.collection.folder / MARK, {"indexes": [*self.collection.models, *encoders], "removed": removed}
            )
            switch(folder)
        return Collection(folder).behind

    def withdraw(self) -> None:
        """Remove a collection that this has created, after a build that failed before anything was encoded."""
        if self.changes is None:
            self.collection.withdraw()

    def _carry(self, name: str) -> bool:
        """Write what is left of an index whose model is not built now; returns whether anything is left."""
        target = self.collection.folder / name
        with only_writer(target):
            known = _known(GraceIndex(self.there, name), self.collection)
            return carry_index(self.collection, target, known, shard=indexes.SHARD, happened=self._happened) > 0


@contextmanager
def update(
    folder: str | Path, corpus: Corpus | None = None, *, add: bool = False, remove: bool = False
) -> Iterator[Update]:
    """Build ``corpus`` in ``folder``; None is the corpus that is there.

    Documents that ``corpus`` lacks are removed; with ``add`` they stay, and those that are new follow them.
    What an update with the same corpus has begun goes on, any other is discarded. Nothing of the old state
    changes before :meth:`Update.commit`, but queries and judgements of a corpus that stays. Raises GraceError
    if the folder cannot be a collection's, if another process updates it, if the corpus has no text, or if
    more than half of the documents would go and ``remove`` does not say that this is meant.
    """
    folder = Path(folder)
    if not (folder / "corpus.parquet").exists() and corpus is not None:
        there = Collection.create(corpus, folder)
        yield Update(there, there, None)
        return
    there = Collection(folder)
    if corpus is not None:
        corpus = there.fitting(corpus)
        corpus = _joined(there, corpus) if add else corpus
    if corpus is None or holds(there, corpus):
        there = there if corpus is None else Collection.create(corpus, folder)
        yield Update(there, there, None, [], {"when": _now()})
        return
    with only_writer(folder):
        there = Collection(folder)
        differences = changes(there, corpus)
        if len(differences.removed) > MOST * differences.size and not remove:
            raise GraceError(
                f"{folder} has {differences.size:,} documents, of which the new corpus lacks "
                f"{len(differences.removed):,}: {differences}; nothing was changed: add to the collection (--add), "
                "give another one (--out), or say that they are to be removed (--remove)"
            )
        notes = [note] if (note := judgements_note(there, corpus)) else []
        try:
            yield Update(there, _stage(there, corpus), differences, notes, {"when": _now(), **differences.counts()})
        finally:
            begun = ("*/manifest.json", f"*/{ENCODED}", "*/.build/plan.json", f"*/.build/{ENCODED}")
            if not any(any((folder / NEXT).glob(pattern)) for pattern in begun):
                discard(folder)  # there is nothing that a next one could go on with


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _stage(there: Collection, corpus: Corpus | None) -> Collection:
    """The corpus, or with None the one that is there, as a collection in ``.next``; what an update with it
    has left there stays.
    """
    path = there.folder / NEXT
    if (path / "corpus.parquet").exists():
        staged = Collection(path)
        if staged.hash != there.hash if corpus is None else not holds(staged, corpus):
            discard(there.folder)
    elif path.exists():
        discard(there.folder)
    (path / MARK).unlink(missing_ok=True)
    if corpus is not None:
        return Collection.create(replace(corpus, notes=[]), path)
    path.mkdir(exist_ok=True)
    if not (path / "corpus.parquet").exists():
        link(there.folder / "corpus.parquet", path / "corpus.parquet")
    return Collection(path)


def _known(index: GraceIndex, staged: Collection) -> Known:
    """What an index knows, as it was before its mends: these belong to a document, and its rows to any with
    the same text.
    """
    folder = plain(index, staged.folder / f".unmended-{index.model_name}")
    return Known.of(index.collection, folder, index.manifest, index.ids)


class _Joined:
    """The documents of a collection, in their order, those replaced that a corpus has too, and behind them
    its other ones. Where these are passages, all passages of a document are replaced."""

    def __init__(self, there: Collection, corpus: Corpus):
        self._old, self._new = stream_corpus(there.folder).documents, corpus.documents

    def __iter__(self) -> Iterator[Document]:
        ids, newer = {parent_of(document) for document in self._old}, defaultdict(list)
        for document in self._new:
            if (parent := parent_of(document)) in ids:
                newer[parent].append(document)
        replaced = set()
        for document in self._old:
            parent = parent_of(document)
            if parent not in newer:
                yield document
            elif parent not in replaced:
                replaced.add(parent)
                yield from newer[parent]
        yield from (document for document in self._new if parent_of(document) not in ids)


def _joined(there: Collection, corpus: Corpus) -> Corpus:
    old, new = there.judgements, corpus.judgements
    if old and new:
        new = Judgements(**{name: value | asdict(new)[name] for name, value in asdict(old).items()})
    fields = list(dict.fromkeys([*there.fields, *corpus.fields]))
    return replace(corpus, documents=_Joined(there, corpus), judgements=new or old, fields=fields)
