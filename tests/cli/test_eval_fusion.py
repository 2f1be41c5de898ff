"""``grace eval fusion``: the weights are the best on dev, and the figures on test those of `grace eval retrieval`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "grace_core"))

from columns_world import save_encoder

from grace_core.collection import Collection
from grace_core.columns import encoded
from grace_core.columns.encoder import Encoder
from grace_core.columns.opened import Columns
from grace_core.evaluation import fusion
from grace_core.evaluation.retrieval import judged_queries, per_query, retrieve_by
from grace_core.passages import Chunk
from grace_core.readers import Corpus, Document, Judgements
from grace_core.readers.chunked import chunked


def judged(sentences: list[str], offset: int = 0) -> Corpus:
    """Documents of two sentences, and queries of some of their words and others, half dev and half test."""
    documents = [Document(f"d{i}", "", " ".join(sentences[2 * i : 2 * i + 2]), {}) for i in range(40)]
    rng, queries, qrels = np.random.default_rng(offset), {}, {}
    for i in range(24):
        words = sentences[2 * i + offset].split()
        foreign = sentences[rng.integers(90, 120)].split()
        queries[f"q{i}"] = " ".join([*rng.choice(words, 2), *rng.choice(foreign, 3)])
        qrels[f"q{i}"] = {f"d{i}": 2, f"d{(i + 9) % 40}": 1}
    splits = {name: ("dev", "test")[i % 2] for i, name in enumerate(queries)}
    return Corpus(documents, Judgements(queries, qrels, splits), "here", [])


@pytest.fixture(scope="module")
def folders(tmp_path_factory, sentences):
    """Two collections of whole documents, and one of passages, all with the same encoder."""
    root = tmp_path_factory.mktemp("eval-fusion")
    encoder = Encoder.load(str(save_encoder(root / "encoders" / "mini", sentences)))
    corpora = {"one": judged(sentences), "two": judged(sentences, 1), "split": chunked(judged(sentences), Chunk(8))}
    for name, corpus in corpora.items():
        encoded.build(Collection.create(corpus, root / name), encoder)
    return {name: root / name for name in corpora}


def printed(run):
    status, out, err = run
    assert status == 0, err
    return json.loads(out)


@pytest.mark.parametrize("name", ["one", "split"])
def test_weights_are_the_best_on_dev_and_measured_on_test(folders, grace, name):
    columns = Columns(Collection(folders[name]))
    judgements = columns.collection.judgements
    found = printed(grace("eval", "fusion", folders[name], "--column", "bm25", "--column", "st:mini", "--json"))
    queries = judged_queries(judgements, "dev")
    by_hand = {}
    for share in fusion.SHARES:
        names = {0.0: "st:mini", 0.5: "bm25+st:mini", 1.0: "bm25"}
        column = columns.open(names.get(share, f"{share:g}*bm25+{round(1 - share, 1):g}*st:mini"))
        ranked = {query: row.ranking for query, row in retrieve_by(column, queries).items()}
        by_hand[f"{share:g}"] = round(float(per_query(ranked, judgements.qrels)["ndcg@10"].mean()), 4)
    assert found["dev"]["ndcg@10"] == by_hand
    assert by_hand[f"{found['share']:g}"] == max(by_hand.values())
    assert len(set(by_hand.values())) > 2
    rows = found["test"]["rows"]
    assert {"bm25", "st:mini", "bm25+st:mini", "rrf(bm25,st:mini)", found["chosen"]} == set(rows)
    options = [part for column in rows for part in ("-m", column)]
    table = printed(
        grace("eval", "retrieval", folders[name], *options, "--split", "test", "--against", "bm25", "--json")
    )
    for column, row in rows.items():
        assert row == {key: table[column][key] for key in row}
    if found["chosen"] != "bm25":
        apart = found["test"]["difference"]["bm25"]
        assert apart == {key: table[found["chosen"]]["difference"][key] for key in apart}


def test_several_collections_have_one_share(folders, grace):
    alone = [
        printed(grace("eval", "fusion", folders[name], "-c", "bm25", "-c", "st:mini", "--json"))
        for name in ("one", "two")
    ]
    both = printed(grace("eval", "fusion", folders["one"], folders["two"], "-c", "bm25", "-c", "st:mini", "--json"))
    means = {share: np.mean([one["dev"]["ndcg@10"][share] for one in alone]) for share in alone[0]["dev"]["ndcg@10"]}
    assert both["dev"]["ndcg@10"] == pytest.approx(means, abs=1e-4)
    assert both["dev"]["queries"] == {"one": 12, "two": 12}
    row = both["test"]["rows"]["bm25"]
    assert row["queries"] == 24
    assert row["ndcg@10"] == pytest.approx(np.mean([one["test"]["rows"]["bm25"]["ndcg@10"] for one in alone]), abs=1e-4)


def test_equal_shares_are_settled_in_the_middle():
    measured = {share: {"ndcg@10": np.array([0.5, 0.7])} for share in fusion.SHARES}
    assert fusion.choose([measured])[0] == 0.5
    measured[0.2] = measured[0.9] = {"ndcg@10": np.array([0.6, 0.7])}
    assert fusion.choose([measured])[0] == 0.2


def test_the_table_reads(folders, grace):
    status, out, err = grace("eval", "fusion", folders["one"], "-c", "bm25", "-c", "st:mini", "--queries", 5)
    assert status == 0, err
    assert "one 5 queries of dev" in out
    assert "one 5 queries of test" in out
    assert "chosen: " in out
    assert "difference of " in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-c", "bm25"), "give --column twice"),
        (("-c", "bm25", "-c", "bm25"), "two different single columns"),
        (("-c", "bm25", "-c", "bm25+st:mini"), "two different single columns"),
        (("-c", "bm25", "-c", "st:nobody"), "no vectors of the encoder"),
        (("-c", "bm25", "-c", "st:mini", "--dev", "train"), "no split 'train'; it has dev, test"),
        (("-c", "bm25", "-c", "st:mini", "--test", "dev"), "give another --test"),
    ],
)
def test_what_cannot_be_weighed_is_told(folders, grace, args, message):
    status, _, err = grace("eval", "fusion", folders["one"], *args)
    assert status == 2
    assert message in err
