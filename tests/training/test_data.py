"""Reading training texts, and their order: bad rows by line, no leak between splits, no false negatives,
triplets in one piece.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from grace_core.errors import GraceError
from grace_core.training.data import (
    Item,
    Layout,
    batches,
    count_overlong,
    read_beir,
    read_items,
    read_texts,
    read_triplets,
    rollout_dataset,
)

GOOD = {"query": "q", "positive": "p", "negative": "n"}


def write(path, rows) -> None:
    path.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )


def test_triplets_know_all_positives_of_their_query(tmp_path):
    write(tmp_path / "t.jsonl", [GOOD, "", GOOD | {"positive": "p2"}, GOOD | {"query": "other"}])
    items = read_triplets(tmp_path / "t.jsonl")
    assert [item.positive for item in items] == ["p", "p2", "p"]
    assert items[0].relevant == {"p", "p2"}
    assert items[2].relevant == {"p"}
    assert len(read_triplets(tmp_path / "t.jsonl", limit=2)) == 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "malformed JSON"),
        ("[1]", "a list, expected an object"),
        ({"query": "q", "positive": "p"}, "has no negative"),
        (GOOD | {"query": " "}, 'query is " ", expected a text'),
        (GOOD | {"positive": 3}, "positive is 3, expected a text"),
        (GOOD | {"negative": "p "}, "positive and negative are the same text"),
    ],
)
def test_bad_rows_are_reported_by_line(tmp_path, row, message):
    write(tmp_path / "t.jsonl", [GOOD, row, GOOD, row])
    with pytest.raises(GraceError) as error:
        read_triplets(tmp_path / "t.jsonl")
    assert "line 2" in str(error.value)
    assert message in str(error.value)
    assert "so are the lines 4" in str(error.value)


def test_empty_missing_and_undecodable_files(tmp_path):
    write(tmp_path / "empty.jsonl", [])
    (tmp_path / "latin.jsonl").write_bytes(b'{"query": "caf\xe9"}\n')
    for name, message in (("empty", "holds no triplet"), ("none", "is no file"), ("latin", "line 1: not UTF-8")):
        with pytest.raises(GraceError, match=message):
            read_triplets(tmp_path / f"{name}.jsonl")


def test_too_few_items_for_a_batch(make_config, tmp_path):
    with pytest.raises(GraceError, match="gives 24 training items, and a batch takes 32"):
        read_items(make_config(tmp_path, batch=32))


def test_mined_negatives_stay_in_the_split_and_are_not_relevant(beir):
    items = read_beir(beir, split="train", hard_negatives=3, seed=0)
    documents = [json.loads(line)["text"] for line in (beir / "corpus.jsonl").read_text().splitlines()]
    assert len(items) == 6  # one for each query: the best grade alone
    for number, item in enumerate(items):
        assert item.positive == documents[2 * number]
        assert item.relevant == {documents[2 * number], documents[2 * number + 1]}
        assert item.negative in documents[:12]  # judged in train
        assert item.negative not in item.relevant
    with pytest.raises(GraceError, match="no split 'nowhere'"):
        read_beir(beir, split="nowhere", hard_negatives=3, seed=0)


def test_unsupervised_texts_of_a_split(beir):
    texts = read_texts(beir, split="train")
    assert len(texts) == 12 + 6
    assert len(set(texts)) == len(texts)


def test_overlong_texts_are_counted(tiny_models):
    builder = tiny_models["qwen2"].prompts
    items = [Item("short text"), Item("long text " * 2000), Item("short text")]
    assert count_overlong(items, builder) == {"texts": 2, "looked_at": 2, "cut": 1}


def test_no_batch_holds_a_false_negative():
    things = [
        Item(f"p{i}-{k}", f"q{i}-{k}", f"p{(i + 1) % 12}-0", frozenset({f"p{i}-0", f"p{i}-1"}))
        for i in range(12)
        for k in range(2)
    ]
    order = batches(things, batch=4, number=20, seed=3)
    for begin in range(0, len(order), 4):
        batch = [things[place] for place in order[begin : begin + 4]]
        for i, item in enumerate(batch):
            assert all(not item.relevant & peer.documents for j, peer in enumerate(batch) if j != i)
    assert batches(things, batch=4, number=20, seed=3) == order
    assert batches(things, batch=4, number=20, seed=4) != order
    assert batches(things, batch=4, number=9, seed=3) == order[:36]  # a shorter run is the start of a longer one
    with pytest.raises(GraceError, match="without false negatives"):
        batches(things[:4], batch=4, number=1, seed=0)


def test_every_epoch_sees_every_item_once():
    items = [Item(f"p{i}", f"q{i}", f"n{i}", frozenset({f"p{i}"})) for i in range(12)]
    order = batches(items, batch=4, number=9, seed=0)
    for epoch in range(3):
        assert sorted(order[12 * epoch : 12 * epoch + 12]) == list(range(12))
    assert order[:12] != order[12:24]


def test_triplets_stay_together_through_the_sampler():
    from trl.trainer.utils import RepeatSampler

    items = [Item(f"p{i}", f"q{i}", f"n{i}", frozenset({f"p{i}"})) for i in range(6)]
    layout, order = Layout(("query", "positive", "negative"), ("query", "positive"), 2), [3, 0, 5, 1]
    dataset = rollout_dataset(items, order, layout)
    sampler = RepeatSampler(dataset, mini_repeat_count=2, batch_size=2 * 3, repeat_count=1, shuffle=False)
    seen = [dataset[row] for row in sampler]
    expected = [(item, role, f"{role[0]}{item}") for item in order for role in layout.roles for _ in range(2)]
    assert [(row["item"], row["role"], row["prompt"]) for row in seen] == expected


def test_layout_there_and_back():
    layout = Layout(("query", "positive", "negative"), ("query", "positive"), 4)
    rows = torch.arange(5 * layout.rows)
    by_role = layout.by_role(rows)
    assert by_role["positive"].shape == (5, 4)
    assert by_role["positive"][1].tolist() == [16, 17, 18, 19]
    assert torch.equal(layout.flatten(by_role), rows)
    item, role = layout.place(rows)
    assert torch.equal(item.view(5, 3, 4)[:, 0, 0], torch.arange(5))
    assert torch.equal(role.view(5, 3, 4)[0, :, 0], torch.arange(3))


def test_what_readers_leave_out_is_passed_on(beir, make_config, tmp_path):
    folder = tmp_path / "beir"
    shutil.copytree(beir, folder)
    with open(folder / "qrels" / "train.tsv", "a", encoding="utf-8") as file:
        file.write("q0\tnowhere\t1\n")
    config = make_config(tmp_path / "run", data={"path": str(folder), "format": "beir", "split": "train"})
    items, texts = [], []
    assert len(read_items(config, report=items.append)) == 6
    read_texts(folder, split="train", report=texts.append)
    assert items == texts
    assert len(items) == 1
    assert "'nowhere'" in items[0]
