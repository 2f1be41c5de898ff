"""The fact base, the corpus made from it, and the samples that the demo model is pretrained on."""

from __future__ import annotations

import json
import re
from collections import Counter
from random import Random

import pytest

from grace_core.readers import read_corpus
from grace_study import corpus, text
from grace_study.factbase import Kind, Thing, load_kind, load_kinds
from grace_study.factbase import main as check


def words_of(line: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\w+", line.lower()))


@pytest.fixture(scope="module")
def beir(demo_entries):
    """Documents, queries and judgements, generated."""
    return corpus.beir(demo_entries)


@pytest.fixture(scope="module")
def sampler(demo_entries):
    from grace_study.pretrain import Sampler

    return Sampler(demo_entries)


FORMS = ("plain", "query", "text", "answer", "naming")


@pytest.fixture(scope="module")
def samples(sampler) -> list[tuple[str, str | None, str]]:
    """Two thousand of each form: ``(form, what the user says, what follows)``."""
    rng = Random("test")
    drawn = [(form, *getattr(sampler, f"{form}_sample")(rng)) for _ in range(2000) for form in FORMS]
    return [(form, asked, reply if isinstance(reply, str) else "".join(reply)) for form, asked, reply in drawn]


# --- fact base
# --------------------------------------------------------------------------------------------------------------


def test_the_fact_base_is_large_enough(demo_entries):
    assert len(demo_entries) >= 600
    assert len({entry.kind.kind for entry in demo_entries}) >= 20
    assert min(len(entry.thing.facts) for entry in demo_entries) >= 6
    assert min(len(entry.thing.queries) for entry in demo_entries) >= 3


def test_every_thing_has_a_name_of_its_own(demo_entries):
    assert len({entry.slug for entry in demo_entries}) == len(demo_entries)
    assert all(entry.slug for entry in demo_entries)


def test_wordings_of_a_fact_differ(demo_entries):
    for entry in demo_entries:
        for fact in entry.thing.facts:
            assert len({fact.say, fact.alt, fact.hint}) == 3, f"{entry.slug}: {fact.say}"


def test_no_line_of_the_fact_base_has_braces(demo_entries):
    for entry in demo_entries:
        lines = [entry.thing.gist, *(line for fact in entry.thing.facts for line in (fact.say, fact.alt, fact.hint))]
        assert not [line for line in lines if "{" in line or "}" in line], entry.slug


THING = {
    "name": "Old Bridge",
    "subject": "the Old Bridge",
    "pronoun": "it",
    "region": "Europe",
    "era": "medieval",
    "gist": "a bridge of stone",
    "facts": [
        {"say": f"has {n} arches over water", "alt": f"counts {n} arches in all", "hint": f"stands on {n} bows"}
        for n in "abcdef"
    ],
    "queries": [{"q": "stone bridge with arches", "facts": [1]}] * 3,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"facts": THING["facts"][:5]}, "at least 6"),
        ({"facts": [{**THING["facts"][0], "say": "Has a capital here."}] * 6}, "predicate without capital"),
        ({"facts": [{**THING["facts"][0], "say": "too short"}] * 6}, "3 to 24 words"),
        ({"queries": [{"q": "which bridge", "facts": [7]}] * 3}, "names fact 7"),
        ({"queries": [{"q": "the old bridge of stone", "facts": [1]}] * 3}, "gives the name 'Old Bridge' away"),
        ({"pronoun": "we"}, "pronoun"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_thing_that_breaks_the_rules_is_refused(change, message):
    assert Thing.model_validate(THING)
    with pytest.raises(ValueError, match=re.escape(message)):
        Thing.model_validate(THING | change)


def test_a_faulty_fact_file_is_named(tmp_path, capsys):
    (tmp_path / "bad.yaml").write_text("kind: [")
    with pytest.raises(ValueError, match=r"bad.yaml: not valid YAML"):
        load_kind(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("kind: bridge")
    with pytest.raises(ValueError, match=r"bad.yaml: plural: Field required"):
        load_kind(tmp_path / "bad.yaml")
    assert check([str(tmp_path / "bad.yaml")]) == 2
    assert "error: bad.yaml" in capsys.readouterr().out


def test_a_name_that_occurs_twice_is_refused(tmp_path):
    kind = json.dumps({"kind": "bridge", "plural": "bridges", "ask": "which bridge", "things": [THING]})
    (tmp_path / "a.yaml").write_text(kind)
    (tmp_path / "b.yaml").write_text(kind)
    with pytest.raises(ValueError, match="more than once: old bridge"):
        load_kinds(tmp_path)


# --- corpus
# -----------------------------------------------------------------------------------------------------------------


def test_the_corpus_is_large_enough_and_its_passages_have_the_right_length(beir):
    documents, queries, _ = beir
    assert len(documents) >= 1000
    assert len(queries) >= 500
    lengths = [len(document["text"].split()) for document in documents]
    assert min(lengths) >= 30
    assert max(lengths) <= 90


def test_ids_are_unique_and_every_query_is_judged(beir):
    documents, queries, qrels = beir
    assert len({document["_id"] for document in documents}) == len(documents)
    assert len({query["_id"] for query in queries}) == len(queries)
    ids = {document["_id"] for document in documents}
    best = Counter()
    for rows in qrels.values():
        for query_id, document_id, grade in rows:
            assert document_id in ids
            assert grade in (1, 2)
            best[query_id] = max(best[query_id], grade)
    assert set(best) == {query["_id"] for query in queries}
    assert sum(grade == 2 for grade in best.values()) / len(best) > 0.9


def test_no_thing_is_in_two_splits_and_every_kind_is_in_each(beir, demo_entries):
    _, queries, qrels = beir
    splits = {}
    for split, rows in qrels.items():
        for query_id, document_id, _ in rows:
            thing = document_id.rsplit("-", 1)[0]
            assert splits.setdefault(thing, split) == split
            assert query_id.startswith(f"q-{thing}-")
    assert {query["_id"]: query["split"] for query in queries} == {
        row[0]: split for split, rows in qrels.items() for row in rows
    }
    for kind in {entry.kind.kind for entry in demo_entries}:
        assert {entry.split for entry in demo_entries if entry.kind.kind == kind} == {"train", "dev", "test"}
    shares = Counter(entry.split for entry in demo_entries)
    for split, share in corpus.SPLITS.items():
        assert abs(shares[split] / len(demo_entries) - share) < 0.03


def test_a_passage_holds_the_facts_that_it_is_said_to_tell(demo_entries):
    for entry in demo_entries[::20]:
        for row, wording in zip(corpus.passages(entry), ("say", "alt"), strict=True):
            for number in row["facts"]:
                assert getattr(entry.thing.facts[number - 1], wording) in row["text"]


def test_no_passage_or_query_has_an_unfilled_slot(beir):
    documents, queries, _ = beir
    assert not [
        row["_id"] for row in documents for value in (row["title"], row["text"]) if re.search(r"[{}]|  |\.\.$", value)
    ]
    assert not [row["_id"] for row in queries if "{" in row["text"]]


def test_generation_is_deterministic_and_equal_to_what_ships(tmp_path, root):
    counts = corpus.write(tmp_path)
    assert counts["documents"] == len((tmp_path / "corpus.jsonl").read_text(encoding="utf-8").splitlines())
    shipped = root / "grace_core" / "demo" / "corpus"
    names = {"corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/dev.tsv", "qrels/test.tsv"}
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} == names
    for name in names:
        assert (shipped / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_generation_does_not_depend_on_the_process(python, beir, tmp_path):
    run = python(
        "-c", f"from grace_study.corpus import write; from pathlib import Path; write(Path({str(tmp_path)!r}))"
    )
    assert run.returncode == 0, run.stderr
    assert [json.loads(line) for line in (tmp_path / "corpus.jsonl").read_text(encoding="utf-8").splitlines()] == beir[
        0
    ]


def test_the_corpus_is_read_back_with_its_judgements(beir, tmp_path):
    corpus.write(tmp_path)
    read = read_corpus(tmp_path)
    documents, queries, qrels = beir
    assert [document.id for document in read.documents] == [row["_id"] for row in documents]
    assert read.judgements.queries == {row["_id"]: row["text"] for row in queries}
    assert read.judgements.splits == {row["_id"]: row["split"] for row in queries}
    assert sum(map(len, read.judgements.qrels.values())) == sum(map(len, qrels.values()))
    assert set(read.fields) == {"kind", "region", "era"}


# --- samples
# ----------------------------------------------------------------------------------------------------------------


def test_no_hand_written_query_of_dev_or_test_stands_in_full_in_a_fact(demo_entries):
    """A generated query is words of a fact, behind a question word: with all of them it must not be one that
    is held out.
    """
    held_out = {words_of(query.q) for entry in demo_entries if entry.split != "train" for query in entry.thing.queries}
    sizes = {len(query) for query in held_out}
    for entry in demo_entries:
        for fact in entry.thing.facts:
            for predicate in (fact.say, fact.alt, fact.hint):
                content = " ".join(
                    word for word in re.findall(r"[\w'-]+", predicate) if word.lower() not in text.STOPWORDS
                )
                for asks in ("what", "who", "which", "where", "what is", "name of", entry.kind.ask):
                    for line in (f"{asks} {predicate}", f"{asks} {content} {entry.kind.kind}"):
                        words = words_of(line)
                        shared = {
                            words[i : i + size] for size in sizes for i in range(len(words) - size + 1)
                        } & held_out
                        assert not shared, f"{line!r} holds {shared}"


def test_no_sample_holds_a_hand_written_query_of_dev_or_test(demo_entries, samples):
    held_out = {
        words_of(query.q): query.q for entry in demo_entries if entry.split != "train" for query in entry.thing.queries
    }
    sizes = {len(query) for query in held_out}
    for form, asked, reply in samples:
        for line in (asked, reply):
            words = words_of(line or "")
            shared = {words[i : i + size] for size in sizes for i in range(len(words) - size + 1)} & held_out.keys()
            assert not shared, f"{form} sample {line!r} holds {[held_out[query] for query in shared]}"


def test_no_hand_written_query_of_dev_or_test_is_part_of_a_fact(demo_entries):
    lines = [
        line
        for e in demo_entries
        for line in (e.thing.gist, *(w for f in e.thing.facts for w in (f.say, f.alt, f.hint)))
    ]
    fact_text = "\n".join(f" {' '.join(words_of(line))} " for line in lines)
    queries = [query.q for entry in demo_entries if entry.split != "train" for query in entry.thing.queries]
    assert not [query for query in queries if f" {' '.join(words_of(query))} " in fact_text]


def test_samples_do_hold_hand_written_queries_of_train(demo_entries, samples):
    own = {query.q for entry in demo_entries if entry.split == "train" for query in entry.thing.queries}
    assert len({asked for form, asked, _ in samples if form == "query"} & own) > 100


def test_no_sample_has_an_unfilled_slot_or_is_empty(samples):
    for form, asked, reply in samples:
        assert (asked is None) == (form == "plain")
        for line in (asked, reply):
            assert line is None or line.strip()
            assert not re.search(r"[{}]", line or ""), line


def test_rationales_have_thoughts_and_the_described_qualities(samples):
    from grace_study.pretrain import QUALITIES

    rationales = [reply for form, _, reply in samples if form in ("query", "text")]
    assert all(re.fullmatch(r"<think>[^<]+</think> [^<]+", rationale) for rationale in rationales)
    vague = sum("<think>This is" in rationale for rationale in rationales) / len(rationales)
    named = sum(any(f". {turn} " in rationale for turn in text.NAMING) for rationale in rationales) / len(rationales)
    assert vague == pytest.approx(QUALITIES["vague"], abs=0.03)
    assert named == pytest.approx(QUALITIES["factual"] + QUALITIES["wrong"], abs=0.03)


def test_the_last_samples_seldom_name_the_thing(demo_entries):
    from grace_study.pretrain import HABITS, Sampler

    late, rng = Sampler(demo_entries), Random(6)
    late.qualities = HABITS
    rationales = [late.query_sample(rng)[1] for _ in range(1500)]
    named = sum(any(f". {turn} " in rationale for turn in text.NAMING) for rationale in rationales) / len(rationales)
    assert named == pytest.approx(HABITS["factual"] + HABITS["wrong"], abs=0.03)
    assert sum(HABITS.values()) == pytest.approx(1)


def test_samples_are_repeatable(sampler):
    assert [sampler.query_sample(Random(3)) for _ in range(2)] == [sampler.query_sample(Random(3))] * 2


def test_a_passage_uses_all_its_facts_in_order(demo_entries):
    rng = Random(4)
    for entry in demo_entries[::10]:
        facts = [fact.say for fact in entry.thing.facts]
        for size in range(2, len(facts) + 1):
            passage = text.passage(entry.thing, entry.kind, facts[:size], rng)
            places = [passage.index(fact) for fact in facts[:size]]
            assert places == sorted(places)


def test_kinds_have_the_words_of_a_question(demo_entries):
    for kind in {id(entry.kind): entry.kind for entry in demo_entries}.values():
        assert isinstance(kind, Kind)
        assert kind.plural != kind.kind
        assert kind.ask.split()[0] in {"which", "who", "what"}
