"""What another rationale of one document does to all judged queries, and why a judged query fails.

Replay: the document is encoded again with the other rationale and scored for every judged query,

    s'(q, d) = z_q · z_d',     s'(q, x) = s(q, x) for all other x,

and every ranking is computed again, equal scores in the order of the corpus; queries are encoded once. That is the
exact outcome of keeping it (:mod:`grace_core.mends`), where the statistics of the geometry stay as they are.
A later change of geometry, which fits them again to what is stored then, moves all scores a little.

A judged query fails where a document A that is not relevant stands above a relevant one R: A is the first such
document, R the first relevant one below it. Where A is at rank 1 no relevant document stands first, and these queries
are what mending by rule is given. With c(p, p') the blocks of A's score less those of R's
(:func:`grace_core.explain.score_blocks`), which add up to D = s(q, A) - s(q, R), these causes apply:

    wrong rationale     A has a rationale, and the sum over p of c(p, rationale) is more than half of D
    right rationale     R has no rationale, or it was cut off at the token limit, or R stands at a better rank without it (encoded again)
    lexical trap        c(text, text) is more than half of D: the words of the texts decide
    calibration         in another geometry R stands above A

The first, third and fourth are shares of a sum, which are bookkeeping, and the rank in the second is an
experiment; what a remedy is worth only its replay tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from grace_core import geometry as geometries
from grace_core.build import QUERIES, STATISTICS
from grace_core.errors import GraceError
from grace_core.evaluation.bootstrap import ci95, of_items
from grace_core.evaluation.faithfulness import choose_queries
from grace_core.evaluation.retrieval import CUTOFF, SAME, judged_queries, per_query
from grace_core.explain import Explainer, difference, score_blocks
from grace_core.geometry import KINDS, Role, Statistics
from grace_core.index import GraceIndex
from grace_core.mend_layer import Content
from grace_core.mends import content_of, encoded
from grace_core.model import GraceModel
from grace_core.pooling import PARTS, RATIONALE, TEXT
from grace_core.ranking import dots, order, rank
from grace_core.tensors import PooledVectors, map_tensors

METRIC = "ndcg@10"
TEMPERATURE = 0.7  # of a rationale that is written again with a seed, where the model's own is 0


@dataclass(frozen=True, eq=False)
class Replay:
    """nDCG@10 of every judged query ``(m,)`` before and after, and the document's rank ``(m,)`` for it."""

    queries: list[str]
    before: np.ndarray
    after: np.ndarray
    rank_before: np.ndarray
    rank_after: np.ndarray

    @property
    def change(self) -> float:
        """The mean over all queries of what nDCG@10 changes by."""
        return float((self.after - self.before).mean())

    def moved(self, sign: int) -> list[int]:
        """The queries that win (1) or lose (-1), most first."""
        apart = sign * (self.after - self.before)
        return [int(i) for i in np.argsort(-apart, kind="stable") if apart[i] > SAME]

    def as_dict(self) -> dict:
        def listed(sign: int) -> list[dict]:
            return [
                {
                    "query": self.queries[i],
                    "before": float(self.before[i]),
                    "after": float(self.after[i]),
                    "rank_before": int(self.rank_before[i]),
                    "rank_after": int(self.rank_after[i]),
                }
                for i in self.moved(sign)
            ]

        return net(self.before, self.after) | {"wins": listed(1), "losses": listed(-1)}


def net(before: np.ndarray, after: np.ndarray) -> dict:
    """Means over queries ``(m,)`` before and after, and the mean change with its paired 95 % interval."""
    apart = after - before
    return {
        "queries": len(before),
        "before": float(before.mean()),
        "after": float(after.mean()),
        "change": float(apart.mean()),
        "ci95": ci95(of_items(apart)),
    }


def replay(
    scores: np.ndarray,
    row: int,
    new: np.ndarray,
    qrels: Mapping[str, Mapping[str, int]],
    *,
    queries: Sequence[str],
    ids: Sequence[str],
) -> Replay:
    """All judged ``queries`` again, where document ``row`` has the scores ``new`` ``(m,)`` instead of its own
    among ``scores`` ``(m, n)``.

    ``ids`` ``(n,)`` are those of the documents, ``qrels`` the grades by query and document. Equal scores
    stand in the order of the rows.
    """
    before, after = scores, scores.copy()
    after[:, row] = new
    ranks = np.array([[rank(one[i], row) for one in (before, after)] for i in range(len(queries))]).reshape(-1, 2)
    values = [_ndcg(before, queries, ids, qrels)] * 2
    if (seen := np.flatnonzero(ranks.min(axis=1) <= CUTOFF)).size:  # in all others the document is in neither list
        values[1] = values[0].copy()
        values[1][seen] = _ndcg(after[seen], [queries[i] for i in seen], ids, qrels)
    return Replay(list(queries), *values, *ranks.T)


def _ndcg(scores: np.ndarray, queries: Sequence[str], ids: Sequence[str], qrels) -> np.ndarray:
    rankings = {query: [ids[i] for i in order(one, CUTOFF)] for query, one in zip(queries, scores, strict=True)}
    return per_query(rankings, qrels)[METRIC]


@dataclass(frozen=True)
class Cause:
    """A cause that applies to a failing query, and what to do about it.

    ``document`` is the one to mend and ``remedy`` how, by rule: "remove" or "regenerate"; both are empty
    where no mend of one document helps."""

    name: str
    why: str
    suggestion: str
    document: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Pair:
    """Rows and ranks of the first document that is not relevant to a query and of the first relevant one below it."""

    wrong: int
    wrong_rank: int
    right: int
    right_rank: int


@dataclass(frozen=True)
class Failure:
    """A judged query whose relevant document ``right`` stands below ``wrong``, the first that is not relevant.

    ``blocks`` split ``difference``, the score of the wrong one less that of the right one; ``ranks`` are
    those of the right one in each geometry and ``without`` its rank without its rationale.
    """

    query: str
    text: str
    right: str
    right_rank: int
    wrong: str
    wrong_rank: int
    difference: float
    blocks: dict[str, float]
    without: int | None
    ranks: dict[str, int] = field(default_factory=dict)
    causes: list[Cause] = field(default_factory=list)

    def as_dict(self) -> dict:
        return asdict(self)


def check_mendable(index: GraceIndex) -> None:
    """Raises GraceError for an index whose rationales cannot be mended: of passages, or without any."""
    if index.collection.chunk is not None:
        raise GraceError(
            f"{index.collection.folder} holds passages, and mends are of whole documents: build the corpus once more without "
            "--chunk into another folder, and mend there"
        )
    if not index.manifest["rationale"]:
        raise GraceError(f"{index.folder} was built without rationales; there is none to mend")


class Mender:
    """The judged queries of an index, encoded once, and its documents with the rationales that are tried out;
    nothing is written.

    ``model`` must be the index's own. Raises GraceError for a collection of passages, without rationales, or
    without judgements, unless it is not to be ``judged``: then there are no queries. With ``most`` only so many queries
    at random, always the same ones; ``progress`` as in :meth:`GraceModel.represent`.
    """

    def __init__(
        self,
        index: GraceIndex,
        model: GraceModel,
        *,
        split: str | None = None,
        most: int | None = None,
        judged: bool = True,
        progress=False,
    ):
        check_mendable(index)
        judgements = index.collection.judgements
        self.texts = choose_queries(judged_queries(judgements, split), most) if judged else {}
        self.index, self.model, self.queries = index, model, list(self.texts)
        self.qrels = judgements.qrels if judged else {}
        representations = model.represent(list(self.texts.values()), progress=progress)
        self.asked, self._asked = index.embed(representations), (representations.sums, representations.counts)
        self.scores = np.array([index.scores(vector) for vector in self.asked], np.float32).reshape(-1, len(index))
        self._mended: dict[int, Content] = {}
        self._others: dict[str, tuple] = {}

    def row(self, document_id: str) -> int:
        """The row of a document. Raises GraceError if the index does not hold it."""
        return Explainer(self.index, self.model).row(document_id)

    def number(self, query_id: str) -> int:
        """The place of a judged query. Raises GraceError for any other id."""
        if query_id not in self.texts:
            there = f"{len(self.queries)} judged queries, such as {self.queries[0]!r}"
            raise GraceError(f"{query_id[:80]!r} is no judged query here; there are {there}")
        return self.queries.index(query_id)

    def content(self, row: int) -> Content:
        """What a document has now: what was applied here, or what the index holds."""
        return self._mended[row] if row in self._mended else content_of(self.index, row)

    def with_rationale(self, row: int, rationale: str) -> Content:
        """The document with a rationale in words; "" is none."""
        return encoded(self.index, self.model, row, rationale, held=self.content(row))

    def regenerated(
        self, row: int, *, seed: int | None = None, system: str | None = None, temperature: float | None = None
    ) -> Content:
        """The document with a rationale that the model writes again, with another seed or system prompt; it
        is then read under the index's own prompt, as all others. A seed wants a ``temperature`` above 0: the
        model's own, or TEMPERATURE."""
        settings = {"system": system, "temperature": temperature}
        if seed is not None:
            settings |= {"seed": seed, "temperature": temperature or self.model.settings.temperature or TEMPERATURE}
        settings = {name: value for name, value in settings.items() if value is not None}
        representations = self.model.represent(
            [self.index.collection.documents[self.index.ids[row]].content], **settings
        )
        ids, cut = representations.rationale_ids[0], bool(representations.truncated[0])
        return encoded(self.index, self.model, row, ids, held=self.content(row), truncated=cut)

    def scores_of(self, content: Content) -> np.ndarray:
        """Scores ``(m,)`` of a document for all judged queries."""
        vector = self.index.geometry.vectors(
            content.sums[None], content.counts[None], self.index.default_pooling, Role.DOCUMENT
        )
        return np.array([dots(vector, asked)[0] for asked in self.asked], np.float32)

    def replay(self, row: int, content: Content) -> Replay:
        """All judged queries with this instead of what the document has now."""
        return replay(self.scores, row, self.scores_of(content), self.qrels, queries=self.queries, ids=self.index.ids)

    def apply(self, row: int, content: Content) -> None:
        """Go on with this document as it is now; in memory only."""
        self.scores[:, row] = self.scores_of(content)
        self._mended[row] = content

    def ndcg(self) -> np.ndarray:
        """nDCG@10 ``(m,)`` of the judged queries as the documents are now."""
        return _ndcg(self.scores, self.queries, self.index.ids, self.qrels)

    def failing(self, most: int | None = None) -> list[int]:
        """The first ``most`` judged queries, in the order of the judgements, of which a relevant document is
        in the index but none at rank 1."""
        return [i for i in range(len(self.queries)) if (pair := self.pair(i)) and pair.wrong_rank == 1][:most]

    def pair(self, i: int) -> Pair | None:
        """The first document that is not relevant to a query and the first relevant one below it; None where there is
        none below it.
        """
        grades, index = self.qrels[self.queries[i]], self.index
        ranks = {
            index.row[name]: rank(self.scores[i], index.row[name])
            for name, grade in grades.items()
            if grade > 0 and name in index.row
        }
        wrong_rank = next(place for place in range(1, len(index) + 2) if place not in ranks.values())
        below = {row: place for row, place in ranks.items() if place > wrong_rank}
        if not below:
            return None
        right = min(below, key=lambda row: below[row])
        return Pair(int(order(self.scores[i], wrong_rank)[-1]), wrong_rank, right, below[right])

    def diagnose(self, i: int) -> Failure | None:
        """Why a query fails; None if it does not, or if the index holds none of its relevant documents."""
        pair = self.pair(i)
        if pair is None:
            return None
        right, wrong, index = pair.right, pair.wrong, self.index
        held = {row: self.content(row) for row in (wrong, right)}
        documents = tuple(np.stack([getattr(one, name) for one in held.values()]) for name in ("sums", "counts"))
        asked = tuple(part[i : i + 1] for part in self._asked)
        above, below = score_blocks(asked, documents, index.default_pooling, geometry=index.geometry)
        apart = above - below
        without = None
        if held[right].counts[RATIONALE]:
            scores = self.scores[i].copy()
            scores[right] = self.scores_of(self.with_rationale(right, ""))[i]
            without = rank(scores, right)
        failure = Failure(
            self.queries[i],
            self.texts[self.queries[i]],
            index.ids[right],
            pair.right_rank,
            index.ids[wrong],
            pair.wrong_rank,
            float(apart.sum()),
            {f"{PARTS[p]} × {PARTS[q]}": float(apart[p, q]) for p in range(3) for q in range(3) if apart[p, q]},
            without,
            {kind: rank(scores, right) for kind, scores in self._elsewhere(i).items()},
        )
        failure.causes.extend(_causes(failure, apart, held[wrong], held[right], self._elsewhere(i), (wrong, right)))
        return failure

    def _elsewhere(self, i: int) -> dict[str, np.ndarray]:
        """Scores ``(n,)`` of all documents, as they are stored, for a query in the geometries that the index
        does not have.
        """
        if not self._others:
            folder, sums = self.index.folder, (self.index.sums, self.index.counts)
            statistics = Statistics.load(folder / STATISTICS) if (folder / STATISTICS).is_file() else None
            own = map_tensors(folder / QUERIES) if (folder / QUERIES).is_file() else None
            for kind in KINDS:
                if kind != self.index.geometry.kind:
                    try:
                        geometry = geometries.fit(
                            kind, sums, model=statistics, queries=own and (own["sums"], own["counts"])
                        )
                        asked = geometry.vectors(*self._asked, self.index.default_pooling, Role.QUERY)
                    except GraceError:  # too few documents for its statistics
                        continue
                    self._others[kind] = PooledVectors(*sums, self.index.default_pooling, geometry).all(), asked
        return {kind: dots(vectors, asked[i]) for kind, (vectors, asked) in self._others.items()}

    def sentence_pair(self, failure: Failure) -> dict:
        """The pair of sentences that put the wrong document first, of what the index holds: the query's
        sentence that adds most to the difference, and the wrong document's that adds most to that one, above
        the average document; by one forward."""
        explainer, index = Explainer(self.index, self.model), self.index
        above, below = explainer.why(failure.text, [index.row[failure.wrong], index.row[failure.right]])
        apart = [value for _, value in difference(above, below).query_sentences]
        first = int(np.argmax(apart))
        pairs = above.above_corpus(explainer.vectors(index.default_pooling).mean(axis=0))[first]
        second = int(np.argmax(pairs))
        asked, read = above.query.sentences[first], above.document.sentences[second]
        return {
            "query_part": PARTS[asked.part],
            "query": asked.text,
            "document_part": PARTS[read.part],
            "document": read.text,
            "contribution": float(above.sentences[first, second]),
            "above_corpus": float(pairs[second]),
            "query_difference": apart[first],
        }


def _causes(
    failure: Failure, apart: np.ndarray, wrong: Content, right: Content, elsewhere: dict, rows: tuple[int, int]
) -> list[Cause]:
    """Those that apply, by the rules above, in their order."""
    causes, total = [], float(apart.sum())
    share = float(apart[:, RATIONALE].sum())
    if wrong.counts[RATIONALE] and share > total / 2:
        why = f"the documents' rationales make {share:+.4f} of the difference of {total:+.4f}"
        causes.append(Cause("wrong rationale", why, "remove it, write it again, or edit it", failure.wrong, "remove"))
    if not right.counts[RATIONALE]:
        causes.append(
            Cause("right rationale", "it has none", "let the model write one with a seed", failure.right, "regenerate")
        )
    elif failure.without is not None and failure.without < failure.right_rank:
        why = (
            f"without its rationale {failure.right!r} stands at rank {failure.without}, with it at {failure.right_rank}"
        )
        causes.append(Cause("right rationale", why, "remove it, write it again, or edit it", failure.right, "remove"))
    elif right.truncated:
        causes.append(
            Cause("right rationale", "it was cut off at the token limit", "write it again", failure.right, "regenerate")
        )
    if apart[TEXT, TEXT] > total / 2:
        why = f"text × text makes {apart[TEXT, TEXT]:+.4f} of {total:+.4f}: the words of the texts decide"
        suggestion = "a rationale of the right document that says it in other words: edit it, or write it again"
        causes.append(Cause("lexical trap", why, suggestion, failure.right, "regenerate"))
    if better := [kind for kind, scores in elsewhere.items() if rank(scores, rows[1]) < rank(scores, rows[0])]:
        where = ", ".join(f"{kind} (rank {failure.ranks[kind]})" for kind in better)
        suggestion = f"try `grace index geometry … --kind {better[0]}` and evaluate it: that is of all documents, and no mend of one"
        causes.append(Cause("calibration", f"{failure.right!r} stands above {failure.wrong!r} in {where}", suggestion))
    return causes


@dataclass(frozen=True)
class Attempt:
    """What was tried for one failing query: the cause, the remedy on a document, and what all judged queries
    would change by. ``outcome`` is kept, refused by the guard, mended already, the same rationale, or no
    remedy."""

    query: str
    outcome: str
    rank_before: int = 0
    rank_after: int = 0
    cause: str = ""
    document: str = ""
    remedy: str = ""
    change: float = 0.0
    wins: int = 0
    losses: int = 0


@dataclass(frozen=True, eq=False)
class Automatic:
    """What mending by rule did: its attempts, nDCG@10 of all judged queries ``(m,)`` before and after, and
    which of these were failing queries that it was given. ``contents`` are the mended documents by row, with
    the kind of each mend."""

    attempts: list[Attempt]
    before: np.ndarray
    after: np.ndarray
    given: list[int]
    contents: dict[int, tuple[str, Content]]

    def as_dict(self) -> dict:
        others = np.setdiff1d(np.arange(len(self.before)), self.given)
        payload = {"all": net(self.before, self.after)}
        for name, rows in (("failing", np.array(self.given, int)), ("others", others)):
            payload[name] = net(self.before[rows], self.after[rows]) if len(rows) else None
        counts = {
            outcome: sum(one.outcome == outcome for one in self.attempts)
            for outcome in sorted({a.outcome for a in self.attempts})
        }
        return payload | {"outcomes": counts, "attempts": [asdict(attempt) for attempt in self.attempts]}


def automatic(
    mender: Mender, *, failing: int = 20, guard: bool = True, seed: int = 0, progress=lambda done, total: None
) -> Automatic:
    """Try, for the first ``failing`` queries that fail, the remedy of the first cause that has one, one after
    the other.

    With the ``guard`` a mend is kept only if the mean change of nDCG@10 over all judged queries, as the
    documents are by then, is not negative; without it always. All in memory: ``mender`` goes on with what was
    kept.
    """
    before, given, attempts, contents = mender.ndcg(), mender.failing(failing), [], {}
    for number, i in enumerate(given):
        progress(number, len(given))
        failure = mender.diagnose(i)
        if failure is None or failure.wrong_rank > 1:
            attempts.append(Attempt(mender.queries[i], "mended already"))
            continue
        cause = next((cause for cause in failure.causes if cause.remedy), None)
        if cause is None:
            attempts.append(Attempt(failure.query, "no remedy", failure.right_rank, failure.right_rank))
            continue
        row, right = mender.index.row[cause.document], mender.index.row[failure.right]
        content = mender.with_rationale(row, "") if cause.remedy == "remove" else mender.regenerated(row, seed=seed)
        about = {"cause": cause.name, "document": cause.document, "remedy": cause.remedy}
        if content.equals(mender.content(row)):
            attempts.append(
                Attempt(failure.query, "the same rationale", failure.right_rank, failure.right_rank, **about)
            )
            continue
        replayed = mender.replay(row, content)
        scores = mender.scores[i].copy()
        scores[row] = mender.scores_of(content)[i]
        kept = not guard or replayed.change >= 0
        attempts.append(
            Attempt(
                failure.query,
                "kept" if kept else "refused by the guard",
                failure.right_rank,
                rank(scores, right),
                **about,
                change=replayed.change,
                wins=len(replayed.moved(1)),
                losses=len(replayed.moved(-1)),
            )
        )
        if kept:
            mender.apply(row, content)
            contents[row] = (cause.remedy, content)
    progress(len(given), len(given))
    return Automatic(attempts, before, mender.ndcg(), given, contents)
