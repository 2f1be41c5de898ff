"""The study: every way to train on the demo world, with several seeds, measured in the same manner.

A *run* is one way with one seed, in the folder ``<runs>/<way>-seed<n>``: the training run's files, and
``measured.json`` once its model has been measured. A stopped run continues where it was; a measured one is not
repeated. ``base``, the model that all others start from, is a way too, and so is ``bm25``, which has no model.
All runs take hours.

A model is measured on the test queries against all passages, in every decoding:

``text``      no rationale
``greedy``    greedy rationales of queries and passages
``sampled``   rationales at temperature 1, the run's seed: a fresh draw for every seed

and then on its remaining abilities: perplexity on plain passages about test things, and the share of facts that
it prefers to three facts about other things of the kind. Passages and facts are of the world that it was
pretrained on; none is in a training triplet. Models that write rationales, except in ablations, are also
measured with the greedy rationales of the starting model, and it with theirs (:func:`words_and_geometry`).

A run's best model by the dev queries is measured. Under the reference reward that is the starting model, which
says nothing about the training, so for the ways in LAST the model after the last step is measured as well
(``"last"``).

Runs are large and stay where they are; the files that the tables, the figures and the explorer's Training tab
need (:data:`RESULT_FILES`) are copied to another folder, such as docs/study.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from grace_core.cache import RepresentationCache
from grace_core.errors import GraceError
from grace_core.evaluation.retrieval import bm25, per_query
from grace_core.files import only_writer, read_json, write_atomically
from grace_core.model import GraceModel
from grace_core.pooling import Pooling
from grace_core.readers import Corpus, Document
from grace_core.training.config import Evaluation
from grace_core.training.heldout import HeldOut
from grace_study.abilities import abilities
from grace_study.corpus import entries
from grace_study.probes import kinds_right, similarities
from grace_study.ship import CONFIGS

# ablations run the first 40 steps of demo-grace's recipe, where its best model is, and evaluate only this one
SHORT = ("steps=40", "warmup=0.075", "evaluation.every=40", "save_every=20")

# way: (configuration, overrides). Ablations change one thing of the symmetric objective.
WAYS: dict[str, tuple[str, tuple[str, ...]]] = {
    "bm25": ("", ()),
    "base": ("", ()),
    "cl": ("demo-cl.yaml", ()),
    "simcse": ("demo-simcse.yaml", ()),
    "reference": ("demo-reference.yaml", ()),
    "reference-unsup": ("demo-reference.yaml", ("mode=unsupervised", "batch=32")),
    "symmetric": ("demo-grace.yaml", ()),
    "symmetric-unsup": ("demo-grace-unsup.yaml", ()),
    "joint": ("demo-grace-joint.yaml", ()),
    "reference-no-cancelled": ("demo-reference.yaml", ("without=[negative, cross]",)),
    "symmetric-no-kl": ("demo-grace.yaml", (*SHORT, "beta=0", "retain_weight=0", "collapse.action=warn")),
    "symmetric-kl-0.2": ("demo-grace.yaml", (*SHORT, "beta=0.2")),
    "symmetric-no-retain": ("demo-grace.yaml", (*SHORT, "retain_weight=0")),
    "symmetric-k4": ("demo-grace.yaml", (*SHORT, "rollouts=4", "batch=32")),
    "symmetric-t-0.1": ("demo-grace.yaml", (*SHORT, "reward_temperature=0.1")),
    "symmetric-query-only": ("demo-grace.yaml", (*SHORT, "without=[document]")),
    "symmetric-document-only": ("demo-grace.yaml", (*SHORT, "without=[query]")),
    "symmetric-truncated-free": ("demo-grace.yaml", (*SHORT, "rank_truncated_last=false")),
    "joint-kl-0.05": ("demo-grace-joint.yaml", ("beta=0.05",)),
    "joint-kl-0.05-w-0.1": ("demo-grace-joint.yaml", ("beta=0.05", "contrastive_weight=0.1")),
    "joint-kl-0.05-w-1": ("demo-grace-joint.yaml", ("beta=0.05", "contrastive_weight=1.0")),
    # starts from demo-grace, which both KL terms compare with
    "joint-after-symmetric": ("demo-grace-joint.yaml", ("model=demo-grace", "beta=0.05")),
}

# way: the change; the objective is the first word of its name
ABLATIONS = {
    "reference-no-cancelled": "without the terms that cancel",
    "symmetric-no-kl": "no KL to the starting model, on rollouts or on plain text",
    "symmetric-kl-0.2": "KL of weight 0.2 instead of 0.05",
    "symmetric-no-retain": "no KL on plain text",
    "symmetric-k4": "4 rollouts of twice as many texts instead of 8",
    "symmetric-t-0.1": "reward temperature 0.1 instead of 0.05",
    "symmetric-query-only": "without the document's reward term",
    "symmetric-document-only": "without the query's reward term",
    "symmetric-truncated-free": "rollouts that are cut off not ranked last",
}
LAST = ("reference", "reference-unsup", "reference-no-cancelled", "joint-after-symmetric")
RESULT_FILES = ("measured.json", "metrics.jsonl", "probes.jsonl", "run.json")


def run_name(way: str, seed: int) -> str:
    return f"{way}-seed{seed}"


def make_run(way: str, seed: int, runs: Path, *, keep: Path | None = None, report: Callable[[str], None]) -> dict:
    """Trains and measures one run, as far as that is not done yet; returns the content of ``measured.json``.

    Results are copied to ``keep``/way-seed; a run whose results are there is not repeated.
    """
    folder = runs / run_name(way, seed)
    target = keep / folder.name if keep else folder
    if (target / "measured.json").exists():
        return read_json(target / "measured.json")
    if not (folder / "measured.json").exists():
        result = _train_and_measure(way, seed, folder, report)
        folder.mkdir(parents=True, exist_ok=True)
        with only_writer(folder):
            # on one line, since it holds thousands of numbers
            text = json.dumps({"way": way, "seed": seed, **result}, separators=(",", ":")) + "\n"
            write_atomically(folder / "measured.json", lambda path: path.write_text(text, encoding="utf-8"))
    if target != folder:
        copy_results(folder, target)
    return read_json(target / "measured.json")


def copy_results(folder: Path, target: Path) -> None:
    """Copies the RESULT_FILES of a run."""
    target.mkdir(parents=True, exist_ok=True)
    for name in reversed(RESULT_FILES):  # measured.json last, since it marks the copy as complete
        if (folder / name).exists():
            text = (folder / name).read_text(encoding="utf-8")
            if name == "run.json":  # without the path on this machine
                text = text.replace(json.loads(text)["config"]["out"], target.name)
            write_atomically(target / name, lambda path, text=text: path.write_text(text, encoding="utf-8"))


def _train_and_measure(way: str, seed: int, folder: Path, report: Callable[[str], None]) -> dict:
    from grace_core.training.callbacks import TrainingCollapsed
    from grace_core.training.checkpoints import newest_checkpoint, settings_of
    from grace_core.training.config import load_config
    from grace_core.training.run import train

    if way == "bm25":
        return measure_bm25()
    cache = RepresentationCache(folder.parent / "representations.sqlite")  # shared by the runs
    base = GraceModel.from_pretrained("demo-base", cache=cache)
    file, overrides = WAYS[way]
    if not file:
        report(f"{folder.name}: measuring")
        return measure(base, seed=seed)
    config = load_config(CONFIGS / file, [*overrides, f"seed={seed}", f"out={folder}"])
    writes = config.method == "grace"  # the baselines' models are used without a rationale
    state = read_json(folder / "run.json")["state"] if (folder / "run.json").exists() else ""
    if state in ("", "running"):
        try:
            train(config, resume=True, report=lambda line: report(f"{folder.name}: {line}"), cache=cache)
        except TrainingCollapsed as error:  # is a result too: the best model so far is measured
            report(f"{folder.name}: {error}")
    report(f"{folder.name}: measuring")
    trained = GraceModel.from_pretrained(folder / "best", cache=cache)
    result = measure(trained, seed=seed, rationale=writes)
    if writes and way not in ABLATIONS:
        result["words_and_geometry"] = words_and_geometry(base, trained)
    if way in LAST:
        last = newest_checkpoint(folder)
        model = GraceModel.from_pretrained(last, cache=cache, **asdict(settings_of(config)))
        result["last"] = {"step": int(last.name.split("-")[1]), **measure(model, seed=seed)}
    return result


def test_set() -> HeldOut:
    """All test queries and all passages."""
    (test,) = HeldOut.read(Evaluation(path="demo", split="test", queries=10**6, documents=10**6, probes=0))
    return test


def measure_bm25() -> dict:
    """The lexical baseline on the texts, in the form of :func:`measure`."""
    test = test_set()
    corpus = Corpus([Document(id, "", text, {}) for id, text in test.documents.items()], None, "demo", [])
    values = per_query(bm25(corpus, test.queries), test.qrels)
    return {"queries": list(test.queries), "decodings": {"text": _rounded(values)}}


def _rounded(values: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {metric: [round(float(v), 5) for v in row] for metric, row in values.items()}


def measure(model: GraceModel, *, seed: int, rationale: bool = True) -> dict:
    """Test metrics of every query in every decoding, and abilities (see the top of this module)."""
    result = {
        "queries": list(test_set().queries),
        "decodings": measure_decodings(model, seed=seed, rationale=rationale),
    }
    return result | {"abilities": abilities(model, entries())}


def measure_decodings(model: GraceModel, *, seed: int, rationale: bool = True) -> dict[str, dict]:
    """Retrieval of every test query, and the probes of :mod:`grace_study.probes`, in every decoding."""
    test, things = test_set(), entries()
    decodings: dict[str, dict] = {}

    def keep(name: str, vectors: np.ndarray, **more) -> None:
        values = test.metrics(vectors[: len(test.queries)], vectors[len(test.queries) :])
        queries = dict(zip(test.queries, vectors[: len(test.queries)], strict=True))
        passages = dict(zip(test.documents, vectors[len(test.queries) :], strict=True))
        values |= {"kind": kinds_right(things, queries, passages), "similarity": similarities(things, passages)}
        decodings[name] = _rounded(values) | more

    keep("text", model.represent(test.texts, rationale=False).embeddings(Pooling.TEXT))
    if rationale:
        for name, temperature in (("greedy", 0.0), ("sampled", 1.0)):
            written = model.represent(test.texts, temperature=temperature, seed=seed, batch_size=64)
            tokens = written.counts[:, 2]
            keep(
                name,
                written.embeddings(),
                query_tokens=float(tokens[: len(test.queries)].mean()),
                passage_tokens=float(tokens[len(test.queries) :].mean()),
                truncated=float(written.truncated.mean()),
                distinct=len(set(written.rationales)) / len(test.texts),
            )
    return decodings


def words_and_geometry(base: GraceModel, trained: GraceModel) -> dict[str, dict[str, list[float]]]:
    """nDCG@10 of every test query for greedy rationales of one model in the vectors of the other, ``{words:
    {geometry: [...]}}``.
    """
    test = test_set()
    models = {"base": base, "trained": trained}
    if base.tokenizer.get_vocab() != trained.tokenizer.get_vocab():
        raise GraceError(
            f"{trained.name} has another tokenizer than {base.name}, so one cannot read the other's rationale tokens"
        )
    table: dict[str, dict[str, list[float]]] = {}
    for words, writer in models.items():
        written = writer.represent(test.texts, batch_size=64)
        table[words] = {}
        for geometry, reader in models.items():
            read = (
                written
                if reader is writer
                else reader.represent_given(test.texts, written.rationale_ids, batch_size=64)
            )
            z = read.embeddings()
            values = test.metrics(z[: len(test.queries)], z[len(test.queries) :])
            table[words][geometry] = _rounded(values)["ndcg@10"]
    return table
