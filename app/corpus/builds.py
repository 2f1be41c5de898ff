"""Building an index from the page: one at a time, in a thread of its own that no tab's closing ends."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

from grace_app.workspace.messages import message_of
from grace_app.workspace.pace import Paced
from grace_app.workspace.state import Workspace
from grace_core.collection import Collection, collection_folder, find_collections
from grace_core.errors import GraceError
from grace_core.readers import Corpus, read_corpus

log = logging.getLogger("app")
BATCH = 16
NOTE = "source.json"  # in <model>/.build: where the model came from, which a later run needs to go on
REACH = 4.0  # seconds to wait for an answer of the hub
SAMPLE, SAMPLE_SECONDS = 8, 8.0
INSTANT = 0.02  # seconds in which no more than BATCH texts are encoded


@dataclass
class Job(Paced):
    """A build and how far it is. ``state``: waiting, loading, encoding, finishing, done, stopped or failed."""

    collection: str
    model: str
    state: str = "waiting"
    done: int = 0
    total: int = 0
    message: str = ""
    built: str = ""  # the model's name in the collection, once known
    notes: list[str] = field(default_factory=list)  # what reading the corpus left out, changed or guessed; texts that were cut
    stop: threading.Event = field(default_factory=threading.Event)
    marks: deque = field(default_factory=lambda: deque(maxlen=40))

    @property
    def running(self) -> bool:
        return self.state in ("waiting", "loading", "encoding", "finishing")

    def mark(self, done: int, total: int) -> None:
        now = time.monotonic()
        at_once = self.marks and now - self.marks[-1][0] < INSTANT
        if at_once and done - self.marks[-1][1] > BATCH:  # kept from an earlier run, so no measure of speed
            self.marks.clear()
        if not self.marks or (done != self.done and not at_once):
            self.marks.append((now, done))
        self.done, self.total = done, total
        self.state = "encoding" if done < total else "finishing"


@dataclass(frozen=True)
class Estimate:
    """What a build would take, by a measured run. ``at_most``: rationales were still being written when the measuring stopped."""

    documents: int
    empty: int
    words: int
    seconds: float
    at_most: bool


class Builds:
    """The job that runs or ran last, and starting, stopping and resuming."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace
        self.job: Job | None = None
        self._lock = threading.Lock()

    def start(self, collection: str, model: str, corpus: Corpus | None) -> Job:
        """Build ``collection`` from ``corpus``, or go on with what is on disk if there is none. Raises GraceError if one is running."""
        collection_folder(self.workspace.root, collection)
        if not model or not model.strip():
            raise GraceError("no model is chosen: take smollm2, or type a folder or a Hugging Face id")
        with self._lock:
            if self.job and self.job.running:
                raise GraceError(f"{self.job.collection} is being built: wait for it, or cancel it first")
            job = self.job = Job(collection, model.strip(), notes=corpus.notes if corpus else [])
        threading.Thread(target=self._run, args=(job, corpus), daemon=True, name="build").start()
        return job

    def cancel(self) -> None:
        if self.job and self.job.running:
            self.job.stop.set()

    def resume(self, collection: str, model: str) -> Job:
        """Go on with a build that was stopped, by the name of its model's folder."""
        if (collection, model) not in self.unfinished():
            raise GraceError(f"{collection} has no unfinished build of {model!r}")
        note = self.workspace.root / collection / model / ".build" / NOTE
        source = None
        if note.exists():
            try:
                source = json.loads(note.read_text(encoding="utf-8")).get("model")
            except (OSError, ValueError, AttributeError):
                log.warning("%s cannot be read", note)
        source = source if isinstance(source, str) else self.workspace.known_source(model)
        if source is None:
            raise GraceError(f"where {model} came from is not known here; go on with `grace index build` and the same --model and --out")
        return self.start(collection, source, None)

    def unfinished(self) -> list[tuple[str, str]]:
        """Collection and model of every build on disk that was stopped."""
        names = find_collections(self.workspace.root)
        return [(name, model) for name in names for model in Collection(self.workspace.root / name).unfinished]

    def left(self) -> list[tuple[str, str]]:
        """The unfinished builds without the one that runs or was stopped last, which has its own place."""
        job = self.job
        return [(name, model) for name, model in self.unfinished() if not (job and job.collection == name and job.built in ("", model))]

    def _run(self, job: Job, corpus: Corpus | None) -> None:
        from grace_core.index import BuildStopped, build
        from grace_core.truncation import cut_text_notes

        def check() -> None:
            if job.stop.is_set():
                raise BuildStopped

        collection = None
        try:
            job.state = "loading"
            reachable(job.model)
            model = self.workspace.load(job.model)
            check()
            folder = collection_folder(self.workspace.root, job.collection)
            collection = Collection(folder) if corpus is None else Collection.create(corpus, folder)
            job.built = model.name
            if model.name not in collection.models:
                work = folder / model.name / ".build"
                work.mkdir(parents=True, exist_ok=True)
                (work / NOTE).write_text(json.dumps({"model": model.source}), encoding="utf-8")
            job.mark(0, len(collection.corpus.documents))
            with model.engine.interrupted_by(check):
                made = build(collection, model, batch_size=BATCH, progress=job.mark, should_stop=job.stop.is_set)
            job.notes = [*job.notes, *cut_text_notes(made.manifest, positions=model.positions)]
            job.state, job.message = "done", ""
        except BuildStopped:
            job.state = "stopped"
            job.message = "Stopped. What is finished is kept, and resuming goes on from there." if job.built else "Stopped before it began."
        except Exception as error:
            job.state, job.message = "failed", message_of(error)
            if collection is not None:
                collection.withdraw()  # where nothing is encoded yet


def reachable(source: str) -> None:
    """Raises GraceError within seconds if ``source`` is to be fetched from a hub that does not answer."""
    from grace_core.sources import PACKAGES, named_here

    here = source in named_here() or source in PACKAGES or Path(source).exists()
    if here or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source):
        return  # nothing to fetch, or for the library to refuse
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
        asking.shutdown(wait=False)  # a name look-up has no time limit of its own
    if status in (401, 403, 404):
        raise GraceError(f"the Hugging Face hub has no model {source!r} that is open to you: check the id, or log in with `hf auth login`")


def _status(url: str) -> int:
    import httpx

    try:
        return httpx.head(url, timeout=REACH, follow_redirects=True).status_code
    except httpx.HTTPError as error:
        raise OSError(str(error)) from error


def estimate(workspace: Workspace, source: str, corpus: Corpus) -> Estimate:
    """Time ``SAMPLE`` documents, spread over the corpus by length, for at most about ``SAMPLE_SECONDS``."""
    reachable(source)
    model = workspace.load(source)
    texts = sorted((document.content for document in corpus.documents if document.content), key=len)
    if not texts:
        raise GraceError(f"none of the {len(corpus.documents)} documents has any text")
    step = max(1, len(texts) // SAMPLE)
    sample = texts[step // 2 :: step][:SAMPLE]
    prompts = [model.prompts.build(text) for text in sample]
    started, steps, at_most = time.monotonic(), 0, False
    for _ in model.engine.steps(prompts, model.settings.decoding):
        steps += 1
        if time.monotonic() - started > SAMPLE_SECONDS:
            at_most = True
            break
    seconds = time.monotonic() - started
    if at_most:
        seconds *= model.settings.max_new_tokens / steps
    words = sum(len(text.split()) for text in texts)
    return Estimate(len(texts), len(corpus.documents) - len(texts), words, seconds / len(sample) * len(texts), at_most)


def read_upload(path: str | None, columns: dict[str, str] | None, limit: str | None = None) -> Corpus:
    """The corpus of an uploaded file, ``limit`` as it was typed. Raises GraceError, which speaks of the file by its own name."""
    if not path:
        raise GraceError("no file is chosen yet: drop one under File, or click to choose")
    wanted = (limit or "").strip().replace(",", "")
    if wanted and (not re.fullmatch(r"[0-9]{1,12}", wanted) or int(wanted) < 1):
        raise GraceError(f"the limit is {wanted[:40]!r}, expected a whole number from 1, or nothing for all documents")
    try:
        corpus = read_corpus(path, limit=int(wanted) if wanted else None, columns=columns)
        return replace(corpus, notes=[shortened(note, path) for note in corpus.notes])
    except GraceError as error:
        raise GraceError(shortened(error, path)) from error


def shortened(error: Exception | str, path: str) -> str:
    """A note or the message of ``error`` with the upload's temporary path cut down to the file's name."""
    return str(error).replace(str(path), Path(path).name)


def suggested_name(path: str) -> str:
    """A collection name made from a file's name."""
    name = re.sub(r"[^\w.-]+", "-", Path(path).stem).strip("-._")
    return name[:60] or "corpus"
