"""Training texts, and the order in which a trainer sees them.

A supervised item is a triplet (query, positive, negative), an unsupervised one a text. Triplets come from a
JSONL file, or from a BEIR folder whose negatives are mined with BM25 among the documents judged in the same
split, so that nothing of a held-out split is seen.

A batch never holds a document that is relevant to the query of another of its triplets: it would be a false
negative. The order is drawn ahead for the whole run, a permutation for every epoch, and laid out as one
dataset that is read from start to end without shuffling. So the rows of a triplet stay together, and a
resumed run sees the same batches as one that never stopped.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from random import Random

import torch

from grace_core.errors import GraceError
from grace_core.prompt import PromptBuilder
from grace_core.readers import Corpus, read_corpus
from grace_core.sources import DEMO_CORPUS_DIR
from grace_core.training.config import TrainConfig

QUERY, POSITIVE, NEGATIVE = "query", "positive", "negative"
TRIPLET_KEYS = (QUERY, POSITIVE, NEGATIVE)
LOOKED_AT = 20_000  # texts at most that are tokenised to count the overlong ones


@dataclass(frozen=True)
class Item:
    """A triplet, or a text (then only ``positive`` is filled).

    ``relevant`` are all texts known to be relevant to the query.
    """

    positive: str
    query: str = ""
    negative: str = ""
    relevant: frozenset[str] = frozenset()

    @property
    def documents(self) -> set[str]:
        return {self.positive, self.negative} - {""}


@dataclass(frozen=True)
class Layout:
    """The order of a batch's rollouts: item after item, within an item role after role, within a role the K
    rollouts of the group.

    ``trained`` are the roles whose rollouts get a reward of their own and enter the policy loss; the others
    are only sampled.
    """

    roles: tuple[str, ...]
    trained: tuple[str, ...]
    k: int

    @classmethod
    def of(cls, config: TrainConfig) -> Layout:
        if config.mode == "supervised":
            return cls(
                TRIPLET_KEYS, (POSITIVE,) if config.objective == "reference" else (QUERY, POSITIVE), config.rollouts
            )
        # the reference objective samples the text once more as its own query; the symmetric reward compares a
        # text's rollouts with each other
        return cls((QUERY, POSITIVE) if config.objective == "reference" else (POSITIVE,), (POSITIVE,), config.rollouts)

    @property
    def rows(self) -> int:
        """Rollouts of one item."""
        return len(self.roles) * self.k

    def by_role(self, rollouts: torch.Tensor) -> dict[str, torch.Tensor]:
        """``(b * rows, …)`` in the order of the batch to ``(b, k, …)`` for each role."""
        grouped = rollouts.unflatten(0, (-1, len(self.roles), self.k))
        return {role: grouped[:, i] for i, role in enumerate(self.roles)}

    def flatten(self, by_role: dict[str, torch.Tensor]) -> torch.Tensor:
        """The inverse of :meth:`by_role`."""
        return torch.stack([by_role[role] for role in self.roles], dim=1).flatten(0, 2)

    def place(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Item numbers and role numbers of row numbers."""
        return rows // self.rows, rows // self.k % len(self.roles)


def folders_of(path: str | Sequence[str]) -> list[Path]:
    """The folders or files of one configured path or several; ``demo`` is the corpus that ships."""
    return [DEMO_CORPUS_DIR if name == "demo" else Path(name) for name in ([path] if isinstance(path, str) else path)]


def silent(_line: str) -> None:
    """A ``report`` that drops its lines."""


def read_items(config: TrainConfig, *, report: Callable[[str], None] = silent) -> list[Item]:
    """The training items of a configuration; ``report`` gets what the readers left out, changed or guessed.

    Raises GraceError for files that are missing, malformed or too small for one batch.
    """
    items = [item for path in folders_of(config.data.path) for item in _read_items(path, config, report)]
    if len(items) < config.batch:
        raise GraceError(
            f"{config.data.path} gives {len(items)} training items, and a batch takes {config.batch}; "
            "lower batch or add data"
        )
    return items


def _read_items(path: Path, config: TrainConfig, report: Callable[[str], None]) -> list[Item]:
    data = config.data
    if config.mode == "unsupervised":
        return [
            Item(positive=text)
            for text in read_texts(
                path, split=data.split if data.format == "beir" else None, limit=data.limit, report=report
            )
        ]
    if data.format == "triplets":
        return read_triplets(path, limit=data.limit)
    options = {"split": data.split, "hard_negatives": data.hard_negatives, "seed": config.seed, "report": report}
    return read_beir(path, **options)[: data.limit]


def read_triplets(path: Path, *, limit: int | None = None) -> list[Item]:
    """Triplets from JSONL rows with ``query``, ``positive`` and ``negative``.

    Raises GraceError that names the bad lines.
    """
    triplets, bad = [], []
    for number, line in _lines(path):
        if limit is not None and len(triplets) >= limit:
            break
        wrong = ""
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            wrong = f"malformed JSON ({getattr(error, 'msg', error)})"
        if not wrong and not isinstance(row, dict):
            wrong = f"a {type(row).__name__}, expected an object"
        if not wrong:
            for key in TRIPLET_KEYS:
                if not isinstance(row.get(key), str) or not row[key].strip():
                    got = (
                        f"{key} is {json.dumps(row[key])[:40]}"
                        if key in row
                        else f"has no {key} (its keys are {', '.join(row)[:80]})"
                    )
                    wrong = f"{got}, expected a text"
                    break
            else:
                if row[POSITIVE].strip() == row[NEGATIVE].strip():
                    wrong = "positive and negative are the same text"
        if wrong:
            bad.append((number, wrong))
        else:
            triplets.append({key: row[key].strip() for key in TRIPLET_KEYS})
    if bad:
        more = f"; so are the lines {', '.join(str(number) for number, _ in bad[1:10])}" if len(bad) > 1 else ""
        more += f" and {len(bad) - 10} more" if len(bad) > 10 else ""
        raise GraceError(f"{path}, line {bad[0][0]}: {bad[0][1]}: correct or remove it{more}")
    if not triplets:
        raise GraceError(f'{path} holds no triplet; expected one {{"query": …, "positive": …, "negative": …}} a line')
    relevant: dict[str, set[str]] = {}
    for row in triplets:
        relevant.setdefault(row[QUERY], set()).add(row[POSITIVE])
    return [Item(**row, relevant=frozenset(relevant[row[QUERY]])) for row in triplets]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        raise GraceError(f"{path} is no file; name a JSONL file of triplets, or set data.format")
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise GraceError(f"{path}, line {number}: not UTF-8: save the file as UTF-8") from None
            if line.strip():
                yield number, line


def read_beir(
    path: Path, *, split: str | None, hard_negatives: int, seed: int, report: Callable[[str], None] = silent
) -> list[Item]:
    """A triplet for every query and each of its best-graded documents, with a negative from BM25's first that
    are not relevant.

    Negatives come from documents judged in ``split``; without a split from the whole corpus. Raises
    GraceError for an unknown split.
    """
    from grace_core.evaluation.retrieval import judged_queries

    corpus = _read(path, report)
    queries = judged_queries(corpus.judgements, split)
    qrels = corpus.judgements.qrels
    judged = {document for query in queries for document in qrels[query]} if split else None
    texts = {d.id: d.content for d in corpus.documents if d.content and (judged is None or d.id in judged)}
    ranked = _bm25(texts, queries, depth=hard_negatives + max(len(qrels[query]) for query in queries))
    rng, items = Random(f"{seed}-negatives"), []
    for query_id, query in queries.items():
        grades = {document: grade for document, grade in qrels[query_id].items() if grade > 0 and document in texts}
        relevant = frozenset(texts[document] for document in grades)
        candidates = [texts[d] for d in ranked[query_id] if d not in grades and texts[d] not in relevant][
            :hard_negatives
        ]
        if not candidates:
            continue
        for document, grade in grades.items():
            if grade == max(grades.values()):
                items.append(
                    Item(
                        query=query.strip(),
                        positive=texts[document],
                        negative=rng.choice(candidates),
                        relevant=relevant,
                    )
                )
    if not items:
        raise GraceError(
            f"{path}: no query of split {split!r} has both a relevant document and one that is not; use more documents"
        )
    return items


def _read(path: Path, report: Callable[[str], None], *, limit: int | None = None) -> Corpus:
    corpus = read_corpus(path, limit=limit)
    for note in corpus.notes:
        report(note)
    return corpus


def _bm25(texts: dict[str, str], queries: dict[str, str], *, depth: int) -> dict[str, list[str]]:
    """The ids of the first ``depth`` texts for each query, by bm25s itself.

    Its scores are those of :mod:`grace_core.columns.bm25`, but it orders ties in its own way. The models that
    ship were trained with negatives in this order; in corpus order, 5 % of the demo corpus's would differ."""
    import bm25s

    ids = list(texts)
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(list(texts.values()), show_progress=False), show_progress=False)
    rows, _ = retriever.retrieve(
        bm25s.tokenize(list(queries.values()), show_progress=False), k=min(depth, len(ids)), show_progress=False
    )
    return {query: [ids[row] for row in best] for query, best in zip(queries, rows, strict=True)}


def read_texts(
    path: Path, *, split: str | None = None, limit: int | None = None, report: Callable[[str], None] = silent
) -> list[str]:
    """Distinct texts of a corpus; of a BEIR folder with a ``split``, its queries and the documents judged for them."""
    corpus = _read(path, report, limit=None if split else limit)
    texts = [document.content for document in corpus.documents]
    if split:
        from grace_core.evaluation.retrieval import judged_queries

        queries = judged_queries(corpus.judgements, split)
        judged = {document for query in queries for document in corpus.judgements.qrels[query]}
        texts = [document.content for document in corpus.documents if document.id in judged] + [
            text.strip() for text in queries.values()
        ]
    return [text for text in dict.fromkeys(texts) if text][:limit]


def count_overlong(items: Sequence[Item], builder: PromptBuilder) -> dict[str, int]:
    """How many distinct texts are cut to fit the prompt, ``{"texts", "looked_at", "cut"}``, among the first
    LOOKED_AT.
    """
    texts = list(dict.fromkeys(text for item in items for text in (item.query, item.positive, item.negative) if text))
    looked = texts[:LOOKED_AT]
    return {
        "texts": len(texts),
        "looked_at": len(looked),
        "cut": sum(builder.build(text).text_truncated for text in looked),
    }


def batches(items: Sequence[Item], *, batch: int, number: int, seed: int, neighbours: int = 1) -> list[int]:
    """Item numbers of ``number`` batches of ``batch``, one after the other; every epoch is a fresh
    permutation of all items.

    With ``neighbours`` n each item is followed by the n - 1 items whose positives are most similar (by BM25),
    as far as the epoch still has them, so that a batch has hard negatives. A triplet that would bring a false
    negative into a batch waits for the next one; items at the end of an epoch that fill no batch are dropped.
    Raises GraceError if no batch can be filled.
    """
    neighbours_of = _neighbours([item.positive for item in items], neighbours) if neighbours > 1 else None
    order: list[int] = []
    epoch = 0
    while len(order) < number * batch:
        drawn = _permutation(len(items), seed=seed, epoch=epoch)
        waiting, filled = deque(drawn if neighbours_of is None else _with_neighbours(drawn, neighbours_of)), 0
        while len(order) < number * batch:
            chosen, skipped, documents, relevant = [], [], set(), set()
            while waiting and len(chosen) < batch:
                item = items[place := waiting.popleft()]
                if item.documents & relevant or item.relevant & documents:
                    skipped.append(place)
                else:
                    chosen.append(place)
                    documents |= item.documents
                    relevant |= item.relevant
            waiting.extendleft(reversed(skipped))
            if len(chosen) < batch:
                break
            order += chosen
            filled += 1
        if not filled:
            raise GraceError(
                f"no batch of {batch} items without false negatives can be made of {len(items)} items: too many share their documents; "
                "lower batch or add data"
            )
        epoch += 1
    return order


def _neighbours(texts: Sequence[str], n: int) -> list[list[int]]:
    """For every text the item numbers of the n - 1 other texts that are most similar to it by BM25."""
    rows: dict[str, list[int]] = {}
    for place, text in enumerate(texts):
        rows.setdefault(text, []).append(place)
    distinct = {str(place): text for place, text in enumerate(rows)}
    ranked = _bm25(distinct, distinct, depth=n)
    groups = list(rows.values())
    nearest = [
        [groups[int(match)][0] for match in ranked[str(place)] if int(match) != place][: n - 1]
        for place in range(len(groups))
    ]
    place_of = {text: place for place, text in enumerate(rows)}
    return [nearest[place_of[text]] for text in texts]


def _with_neighbours(order: Sequence[int], neighbours_of: Sequence[Sequence[int]]) -> list[int]:
    """``order`` with every item followed by those of its neighbours that have not come before."""
    placed: dict[int, None] = {}
    for place in order:
        if place not in placed:
            placed |= dict.fromkeys(
                [place, *(neighbour for neighbour in neighbours_of[place] if neighbour not in placed)]
            )
    return list(placed)


def _permutation(n: int, *, seed: int, epoch: int) -> list[int]:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()


def generations_of(config: TrainConfig, items: int) -> int:
    """The number of batches of rollouts that a run samples."""
    if config.steps is not None:
        return ceil(config.steps / config.minibatches)
    return max(1, round(config.epochs * (items // config.batch)))


def rollout_dataset(items: Sequence[Item], order: Sequence[int], layout: Layout):
    """The rows for TRL, with columns ``prompt`` (the text), ``role`` and ``item``: for each item of ``order``
    one row a role.
    """
    from datasets import Dataset

    wide = len(layout.roles)
    texts = [getattr(item, role) or item.positive for item in items for role in layout.roles]
    base = Dataset.from_dict(
        {
            "prompt": texts,
            "role": list(layout.roles) * len(items),
            "item": [place for place in range(len(items)) for _ in layout.roles],
        }
    )
    return base.select([place * wide + role for place in order for role in range(wide)])
