"""Builds of indexes from the page: one at a time, in a thread that goes on when the browser is closed."""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from grace_app.workspace.jobs import Job, Jobs
from grace_app.workspace.state import Workspace
from grace_core.collection import Collection, collection_folder, find_collections
from grace_core.errors import GraceError, Stopped
from grace_core.readers import Corpus, read_corpus
from grace_core.switching import NEXT

log = logging.getLogger("app")
BATCH = 16
NOTE = "source.json"  # in <model>/.build: the name of the model, for resuming in another process
REACH = 4.0  # seconds to wait for an answer from the hub
SAMPLE, SAMPLE_SECONDS = BATCH, 8.0
INSTANT = 0.02  # seconds; more than BATCH texts in less were not encoded but reused


@dataclass
class Build(Job):
    """A build and its progress. ``state``: waiting, loading, encoding, finishing, done, stopped or failed."""

    collection: str
    model: str
    state: str = field(default="waiting", kw_only=True)
    built: str = ""  # the model's name in the collection, once known
    unit: str = "documents"  # or passages, of ``done`` and ``total``
    # what reading the corpus left out, changed or guessed; texts that were cut
    notes: list[str] = field(default_factory=list)

    @property
    def busy(self) -> str:
        return f"{self.collection} is being built: wait for it, or cancel it first"

    @property
    def stopped(self) -> str:
        return (
            "Stopped. What is finished is kept, and resuming goes on from there."
            if self.built
            else "Stopped before it began."
        )

    def mark(self, done: int, total: int) -> None:
        now = time.monotonic()
        at_once = self.marks and now - self.marks[-1][0] < INSTANT
        if at_once and done - self.marks[-1][1] > BATCH:  # reused from an earlier run, so not for the rate
            self.marks.clear()
        if not self.marks or (done != self.done and not at_once):
            self.marks.append((now, done))
        self.done, self.total = done, total
        self.state = "encoding" if done < total else "finishing"


@dataclass(frozen=True)
class Estimate:
    """The size of a build and its estimated seconds, ``at_most`` these if the measurement ended before its
    rationales did.
    """

    documents: int
    empty: int
    words: int
    seconds: float
    at_most: bool


class Builds(Jobs[Build]):
    """Starts, cancels and resumes builds; ``job`` is the one that runs or ran last."""

    def __init__(self, workspace: Workspace):
        super().__init__()
        self.workspace = workspace

    def start(
        self, collection: str, model: str, corpus: Corpus | None, *, add: bool = False, remove: bool = False
    ) -> Build:
        """Builds ``collection`` from ``corpus``, or without one continues with the collection on disk.

        An existing collection is updated; ``add`` and ``remove`` are those of :func:`grace_core.living.update`.
        Raises GraceError if a build is running.
        """
        collection_folder(self.workspace.root, collection)
        if not model or not model.strip():
            raise GraceError("no model is chosen: take smollm2, or type a folder or a Hugging Face id")
        job = Build(collection, model.strip(), notes=corpus.notes if corpus else [])
        return self.begin(job, lambda job: self._build(job, corpus, add, remove))

    def resume(self, collection: str, model: str) -> Build:
        """Resumes a stopped build, by the name of its model's folder. Raises GraceError if there is none."""
        if (collection, model) not in self.unfinished():
            raise GraceError(f"{collection} has no unfinished build of {model!r}")
        folder, corpus = self.workspace.root / collection, None
        if (folder / NEXT / model / ".build").is_dir():  # of an update, with the new corpus beside it
            folder /= NEXT
            corpus = read_corpus(folder)
        note = folder / model / ".build" / NOTE
        source = None
        if note.exists():
            try:
                source = json.loads(note.read_text(encoding="utf-8")).get("model")
            except (OSError, ValueError, AttributeError):
                log.warning("%s cannot be read", note)
        source = source if isinstance(source, str) else self.workspace.known_source(model)
        if source is None:
            raise GraceError(
                f"where {model} came from is not known here; go on with `grace index build` and the same --model and --out"
            )
        return self.start(collection, source, corpus, remove=True)

    def unfinished(self) -> list[tuple[str, str]]:
        """Collection and model of every unfinished build and update on disk."""
        builds = []
        for name in find_collections(self.workspace.root):
            collection = Collection(self.workspace.root / name)
            builds += [(name, model) for model in collection.unfinished]
            if collection.updating:
                builds += [(name, model) for model in Collection(collection.folder / NEXT).unfinished]
        return list(dict.fromkeys(builds))

    def resumable(self) -> list[tuple[str, str]]:
        """The unfinished builds without that of ``job``, which the page shows elsewhere."""
        job = self.job
        return [
            (name, model)
            for name, model in self.unfinished()
            if not (job and job.collection == name and job.built in ("", model))
        ]

    def _build(self, job: Build, corpus: Corpus | None, add: bool, remove: bool) -> None:
        from grace_core.living import Update, update
        from grace_core.truncation import cut_text_notes

        new: Update | None = None
        try:
            # load the model
            job.state = "loading"
            reachable(job.model)
            model = self.workspace.load(job.model)
            job.check()
            # update the collection and build the index
            folder = collection_folder(self.workspace.root, job.collection)
            with update(folder, corpus, add=add, remove=remove) as new:
                if new.changes:
                    job.notes = [*job.notes, *new.notes, f"{new.changes}; {new.changes.kept:,} stay as they are"]
                reported, collection = len(new.notes), new.collection
                job.unit = "passages" if collection.chunk else "documents"
                job.built = model.name
                if model.name not in collection.models:
                    work = collection.folder / model.name / ".build"
                    work.mkdir(parents=True, exist_ok=True)
                    (work / NOTE).write_text(json.dumps({"model": model.source}), encoding="utf-8")
                job.mark(0, collection.size)
                with model.engine.interrupted_by(job.check):
                    index = new.build(model, batch_size=BATCH, progress=job.mark, should_stop=job.stop.is_set)
                behind = new.commit()
            # report
            lacking = [
                f"{name} lacks {count:,} of the documents: build it again to add them" for name, count in behind.items()
            ]
            job.notes = [
                *job.notes,
                *new.notes[reported:],
                *lacking,
                *cut_text_notes(index.manifest, positions=model.positions),
            ]
        except Stopped:
            raise
        except Exception:
            if new is not None:
                new.withdraw()  # if nothing is encoded yet
            raise


def reachable(source: str) -> None:
    """Raises GraceError within seconds if ``source`` has to be fetched from a hub that does not answer."""
    from grace_core.sources import PACKAGES, named_here

    local = source in named_here() or source in PACKAGES or Path(source).exists()
    if local or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        return  # nothing to fetch, or no valid id
    from concurrent.futures import ThreadPoolExecutor
    from concurrent.futures import TimeoutError as TookTooLong

    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if source.startswith("demo-") or constants.HF_HUB_OFFLINE:
        return
    try:
        if isinstance(try_to_load_from_cache(source, "config.json"), str):
            return
    except HFValidationError:
        return
    asking = ThreadPoolExecutor(1)
    try:
        status = asking.submit(_status, f"{constants.ENDPOINT}/api/models/{source}").result(timeout=REACH + 1)
    except (TookTooLong, OSError) as error:
        reason = str(error) or "no answer"
        raise GraceError(
            f"{source!r} is no folder here, and the Hugging Face hub cannot be reached ({reason[:120]}): check the network, or use smollm2"
        ) from error
    finally:
        asking.shutdown(wait=False)  # a DNS look-up has no time limit
    if status in (401, 403, 404):
        raise GraceError(
            f"the Hugging Face hub has no model {source!r} that is open to you: check the id, or log in with `hf auth login`"
        )


def _status(url: str) -> int:
    import httpx

    try:
        return httpx.head(url, timeout=REACH, follow_redirects=True).status_code
    except httpx.HTTPError as error:
        raise OSError(str(error)) from error


def estimate(workspace: Workspace, source: str, corpus: Corpus) -> Estimate:
    """Estimates a build from ``SAMPLE`` documents, spread over the corpus by length, in about ``SAMPLE_SECONDS``.

    As many as a build writes together, since a step takes much the same for few texts as for many; reading and writing are
    measured apart, so that what is left of the writing can be told.
    """
    reachable(source)
    model = workspace.load(source)
    texts = sorted((document.content for document in corpus.documents if document.content), key=len)
    if not texts:
        raise GraceError(f"none of the {len(corpus.documents)} documents has any text")
    step = max(1, len(texts) // SAMPLE)
    sample = [model.prompts.build(text) for text in texts[step // 2 :: step][:SAMPLE]]
    for _ in model.engine.decode(sample[:1], model.settings.decoding):
        break  # what only the first call takes is no part of a rate
    reading = writing = 0.0
    begun: set = set()
    steps, at_most = 0, False
    started = before = time.monotonic()
    for tokens, finished in model.engine.decode(sample, model.settings.decoding, stream=True):
        now = time.monotonic()
        names = {name for name, _ in [*tokens, *finished]}
        if names <= begun:
            # in a build other texts take the places of those that have ended
            writing, steps = writing + (now - before) * len(names) / len(sample), steps + 1
        else:
            reading, begun = reading + now - before, begun | names
        before = now
        if len(begun) == len(sample) and now - started > SAMPLE_SECONDS:
            at_most = True
            break
    if at_most:
        writing *= model.settings.max_new_tokens / max(1, steps)
    seconds = len(texts) * (reading + writing) / len(sample)
    words = sum(len(text.split()) for text in texts)
    return Estimate(len(texts), len(corpus.documents) - len(texts), words, seconds, at_most)
