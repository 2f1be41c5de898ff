"""The ``grace`` command: one JSON document on stdout, one line for what a user did wrong."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer

from grace_cli import main as cli
from grace_core.collection import Collection
from grace_core.geometry import Statistics
from grace_core.index import GraceIndex, build
from grace_core.model import GraceModel
from grace_core.readers import read_corpus


@pytest.fixture(scope="module")
def dataset(sentences, tmp_path_factory):
    """A BEIR folder of thirty documents, one of them empty, and three queries."""
    folder = tmp_path_factory.mktemp("data") / "beir"
    (folder / "qrels").mkdir(parents=True)
    rows = [{"_id": f"d{i}", "title": f"Number {i}", "text": sentences[i], "kind": "k"} for i in range(30)]
    rows[5] |= {"title": "", "text": ""}
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)))
    queries = [{"_id": f"q{i}", "text": sentences[i], "split": "test" if i < 2 else "dev"} for i in range(3)]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    for split, numbers in (("test", (0, 1)), ("dev", (2,))):
        lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in numbers)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines))
    return folder


@pytest.fixture(scope="module")
def model(tiny_folder, tmp_path_factory):
    """A saved model that writes short rationales."""
    folder = tmp_path_factory.mktemp("cli-models") / "tiny"
    GraceModel.from_pretrained(tiny_folder, max_new_tokens=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def collection(dataset, model, tmp_path_factory):
    """A finished collection."""
    folder = tmp_path_factory.mktemp("indexes") / "beir"
    build(Collection.create(read_corpus(dataset), folder), GraceModel.from_pretrained(model))
    return folder


def commands() -> dict[str, list[str]]:
    """Every command with its options."""
    found = {}

    def walk(command, path):
        for name, sub in getattr(command, "commands", {}).items():
            walk(sub, [*path, name])
        if not hasattr(command, "commands"):
            found[" ".join(path)] = [option for parameter in command.params for option in parameter.opts]

    walk(typer.main.get_command(cli.app), [])
    return found


def test_every_command_takes_json():
    without = {name for name, options in commands().items() if "--json" not in options}
    assert without <= {"app", "serve"}  # these two serve until they are stopped


@pytest.mark.parametrize("name", commands())
def test_every_command_has_help(grace, name):
    status, out, _ = grace(*name.split(), "--help")
    assert status == 0
    assert "Usage:" in out


# --- what is printed
# --------------------------------------------------------------------------------------------------------


def test_index_build_prints_counts(grace, dataset, model, tmp_path):
    status, out, err = grace(
        "index", "build", dataset, "--out", tmp_path / "x", "--model", model, "--limit", 20, "--json"
    )
    assert status == 0, err
    made = json.loads(out)
    assert made["collection"] == str(tmp_path / "x")
    counts = made["models"]["tiny"]
    assert (counts["documents"], counts["encoded"], counts["empty"]) == (20, 19, 1)
    again, out, _ = grace("index", "build", dataset, "--out", tmp_path / "x", "--model", model, "--limit", 20, "--json")
    assert again == 0
    assert json.loads(out)["models"]["tiny"]["encoded"] == 19
    assert len(GraceIndex(tmp_path / "x", "tiny")) == 19


def test_index_build_takes_several_models_and_options(grace, dataset, model, tmp_path):
    second = shutil.copytree(model, tmp_path / "second")
    status, out, err = grace(
        "index",
        "build",
        dataset / "corpus.jsonl",
        "--out",
        tmp_path / "x",
        "-m",
        model,
        "-m",
        second,
        "--max-new-tokens",
        2,
        "--no-rationale",
        "--batch-size",
        4,
        "--temperature",
        0.5,
        "--seed",
        3,
        "--no-cache",
        "--text-column",
        "text",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--json",
    )
    assert status == 0, err
    assert set(json.loads(out)["models"]) == {"tiny", "second"}
    index = GraceIndex(tmp_path / "x", "second")
    assert (index.settings.max_new_tokens, index.settings.temperature, index.settings.seed) == (2, 0.5, 3)
    assert not index.manifest["rationale"]


def test_index_info_tells_what_is_there(grace, collection):
    status, out, _ = grace("index", "info", collection, "--json")
    assert status == 0
    info = json.loads(out)
    assert (info["documents"], info["queries"], info["fields"], info["unfinished"]) == (30, 3, ["kind"], [])
    assert info["types"] == {"kind": "string"}
    assert info["models"]["tiny"]["counts"]["encoded"] == 29


def test_index_verify_finds_damage_and_repairs_what_can_be(grace, collection, tmp_path):
    folder = shutil.copytree(collection, tmp_path / "x")
    status, out, _ = grace("index", "verify", folder, "--json")
    assert (status, json.loads(out)["ok"]) == (0, True)
    (folder / "tiny" / "index.faiss").write_bytes(b"")
    status, out, _ = grace("index", "verify", folder, "--json")
    assert (status, json.loads(out)["models"][0]["damaged"]) == (1, ["index.faiss"])
    status, out, _ = grace("index", "verify", folder, "--repair", "--json")
    assert (status, json.loads(out)["ok"]) == (0, True)
    (folder / "tiny" / "vectors.safetensors").write_bytes(b"")
    status, out, _ = grace("index", "verify", folder, "--json")
    assert status == 1
    assert "vectors.safetensors" in json.loads(out)["models"][0]["error"]


@pytest.mark.parametrize("options", [(), ("--no-rationale",)])
def test_search_prints_hits(grace, collection, sentences, options):
    status, out, err = grace("search", collection, sentences[3], "--model", "tiny", "-k", 5, "--json", *options)
    assert status == 0, err
    hits = json.loads(out)
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5]
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    assert {"id", "title", "text", "rationale", "truncated", "metadata"} <= hits[0].keys()


def test_a_model_is_named_as_it_was_for_the_build(grace, collection, model):
    by_name = grace("search", collection, "river", "--model", "tiny", "--json")
    assert grace("search", collection, "river", "--model", model, "--json")[:2] == by_name[:2]


def test_encode_writes_embeddings(grace, dataset, model, tmp_path):
    status, out, err = grace("encode", dataset, "--model", model, "--out", tmp_path / "v.parquet", "--json")
    assert status == 0, err
    assert json.loads(out)["documents"] == 29
    table = pq.read_table(tmp_path / "v.parquet")
    vectors = np.stack(table["embedding"].to_numpy())
    assert vectors.shape == (29, 48)
    texts = [document.content for document in read_corpus(dataset).documents if document.content]
    np.testing.assert_allclose(vectors, GraceModel.from_pretrained(model).encode(texts), atol=1e-5)
    assert table["_id"].to_pylist()[5] == "d6"


def test_encode_gives_the_vectors_of_the_model_s_own_geometry(grace, dataset, model, tmp_path):
    """A model with statistics of its own is calibrated by them; queries and documents then differ."""
    folder = shutil.copytree(model, tmp_path / "with-statistics")
    texts = [document.content for document in read_corpus(dataset).documents if document.content]
    loaded = GraceModel.from_pretrained(folder)
    made = loaded.represent(texts)
    asked = loaded.represent([" ".join(text.split()[:2]) for text in texts])
    of = Statistics.of((made.sums, made.counts), (asked.sums, asked.counts), system=loaded.settings.system)
    of.save(folder / "geometry.safetensors")
    loaded = GraceModel.from_pretrained(folder)
    got = {}
    for role in ("document", "query"):
        out = tmp_path / f"{role}.parquet"
        status, told, err = grace("encode", dataset, "--model", folder, "--out", out, "--input-type", role, "--json")
        assert status == 0, err
        assert (json.loads(told)["geometry"], json.loads(told)["input_type"]) == ("calibrated", role)
        got[role] = np.stack(pq.read_table(out)["embedding"].to_numpy())
        np.testing.assert_allclose(got[role], loaded.encode(texts, role=role), atol=1e-5)
    assert np.abs(got["query"] - got["document"]).max() > 0.01
    assert (
        grace("encode", dataset, "--model", folder, "--out", tmp_path / "x.parquet", "--input-type", "passage")[0] == 2
    )


def test_eval_retrieval_prints_metrics_of_all_ways(grace, collection):
    status, out, err = grace("eval", "retrieval", collection, "--model", "tiny", "--split", "test", "--bm25", "--json")
    assert status == 0, err
    results = json.loads(out)
    assert set(results) == {"tiny", "tiny:text", "bm25"}
    for row in results.values():
        assert row["queries"] == 2
        low, high = row["ci95"]["ndcg@10"]
        assert 0 <= low <= row["ndcg@10"] <= high <= 1
    assert results["bm25"]["mrr@10"] == 1
    where = ("--where", "_id in ('d1', 'd4')")
    narrow = json.loads(grace("eval", "retrieval", collection, "--model", "tiny", "--bm25", *where, "--json")[1])
    assert {row["queries"] for row in narrow.values()} == {1}  # the query that d1 is relevant to
    assert all(row["recall@10"] == 1 for row in narrow.values())
    assert "leave out --save, or --where" in refusal(
        grace("eval", "retrieval", collection, "--model", "tiny", *where, "--save")
    )
    assert "no query has a relevant document among the 1" in refusal(
        grace("eval", "retrieval", collection, "--model", "tiny", "--where", "_id = 'd9'")
    )


def test_demo_corpus_writes_a_corpus(grace, tmp_path):
    status, out, _ = grace("demo", "corpus", "--out", tmp_path / "corpus", "--json")
    assert status == 0
    assert json.loads(out)["documents"] == len(read_corpus(tmp_path / "corpus").documents)


@pytest.mark.slow
def test_demo_pretrain_writes_a_model(grace, monkeypatch, tmp_path):
    monkeypatch.setattr("grace_study.pretrain.POOL", 32)
    status, out, err = grace(
        "demo", "pretrain", "--work", tmp_path / "work", "--out", tmp_path / "model", "--tokens", 4000, "--json"
    )
    assert status == 0, err
    assert json.loads(out) == {"out": str(tmp_path / "model"), "tokens": 4200}  # the habit is a twentieth on top
    assert "wrote" in err
    assert GraceModel.from_pretrained(tmp_path / "model").dim == 192


def test_demo_index_encodes_with_what_is_indexed_and_again_with_new_weights(
    grace, dataset, model, other_folder, monkeypatch, tmp_path
):
    shutil.copytree(model, tmp_path / "models" / "demo-base")
    shutil.copytree(model, tmp_path / "models" / "demo-cl")
    monkeypatch.setattr("grace_core.sources.DEMO_MODELS_DIR", tmp_path / "models")
    monkeypatch.setattr("grace_study.ship.DEMO_CORPUS_DIR", dataset)
    monkeypatch.setattr("grace_study.ship.INDEXED", ("demo-base", "demo-cl"))
    status, out, err = grace("demo", "index", "--out", tmp_path / "demo", "--json")
    assert status == 0, err
    assert {name: counts["encoded"] for name, counts in json.loads(out)["models"].items()} == {
        "demo-base": 29,
        "demo-cl": 29,
    }
    manifests = {
        name: json.loads((tmp_path / "demo" / name / "manifest.json").read_text()) for name in ("demo-base", "demo-cl")
    }
    assert [manifests[name]["rationale"] for name in manifests] == [True, False]

    shutil.rmtree(tmp_path / "models" / "demo-cl")
    shutil.copytree(other_folder, tmp_path / "models" / "demo-cl")
    status, _, err = grace("demo", "index", "--out", tmp_path / "demo", "--json")
    assert status == 0, err
    after = {name: json.loads((tmp_path / "demo" / name / "manifest.json").read_text()) for name in manifests}
    assert after["demo-base"] == manifests["demo-base"]
    assert after["demo-cl"]["model"] != manifests["demo-cl"]["model"]


def test_demo_study_prints_what_is_measured(grace, tmp_path):
    (tmp_path / "base-seed0").mkdir()
    scores = {key: [0.5, 1.0] for key in ("ndcg@10", "recall@10", "mrr@10")}
    made = {
        "way": "base",
        "seed": 0,
        "decodings": {"text": scores},
        "abilities": {"perplexity": 3.0, "fact_accuracy": 0.5},
    }
    (tmp_path / "base-seed0" / "measured.json").write_text(json.dumps(made))
    status, out, err = grace("demo", "study", "--keep", tmp_path, "--table")
    assert status == 0, err
    assert "| base | text | 1 | 0.750 [" in out
    status, out, _ = grace("demo", "study", "--keep", tmp_path, "--table", "--json")
    assert json.loads(out)["rows"][0]["ndcg@10"] == 0.75
    assert "there is no way nonsense" in refusal(grace("demo", "study", "--way", "nonsense"))
    assert "no recipe for nonsense" in refusal(grace("demo", "train", "nonsense"))


@pytest.mark.parametrize(
    "arguments", [("index", "info"), ("index", "verify"), ("search", "river"), ("eval", "retrieval")], ids=" ".join
)
def test_without_json_there_is_readable_text(grace, collection, arguments):
    words = list(arguments)
    words.insert(1 if words[0] == "search" else 2, collection)
    status, out, _ = grace(*words, *(("--model", "tiny") if words[0] in ("search", "eval") else ()))
    assert status == 0
    assert out.strip()
    with pytest.raises(ValueError):
        json.loads(out)


# --- what is refused
# --------------------------------------------------------------------------------------------------------


def refusal(result: tuple[int, str, str]) -> str:
    """The one line of an error."""
    status, out, err = result
    assert status == 2
    assert out == ""
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ")
    return line


def test_a_corpus_that_is_not_there(grace, model, tmp_path):
    assert "does not exist" in refusal(
        grace("index", "build", tmp_path / "no.jsonl", "--out", tmp_path / "x", "--model", model)
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", ["demo-nothing", "owner/not-cached-here", "not a model", "/nowhere"])
def test_a_model_that_is_not_there_leaves_nothing(grace, dataset, tmp_path, name):
    refusal(grace("index", "build", dataset, "--out", tmp_path / "x", "--model", name, "--json"))
    assert not (tmp_path / "x").exists()


def test_a_faulty_row_is_named(grace, model, tmp_path):
    (tmp_path / "c.jsonl").write_text('{"text": "good"}\n{"text": \n')
    assert "line 2" in refusal(grace("index", "build", tmp_path / "c.jsonl", "--out", tmp_path / "x", "--model", model))


@pytest.mark.parametrize("option", ["--device=cuda:77", "--device=abacus", "--dtype=int3"])
def test_bad_options_leave_nothing(grace, dataset, model, tmp_path, option):
    refusal(grace("index", "build", dataset, "--out", tmp_path / "x", "--model", model, option))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "option",
    ["--limit=0", "--temperature=-1", "--temperature=nan", "--temperature=hot", "--batch-size=0", "--nonsense"],
)
def test_options_out_of_range_are_usage_errors(grace, dataset, model, tmp_path, option):
    status, out, err = grace("index", "build", dataset, "--out", tmp_path / "x", "--model", model, option)
    assert (status, out) == (2, "")
    assert "Traceback" not in err


def test_other_settings_for_a_built_index(grace, dataset, collection, model):
    status, out, err = grace("index", "build", dataset, "--out", collection, "--model", model, "--max-new-tokens", 3)
    assert (status, out) == (2, "")
    last = err.strip().splitlines()[-1]  # what stands above it is the progress bar
    assert last.startswith("error: ")
    assert "max_new_tokens" in last


@pytest.mark.parametrize(
    "arguments",
    [
        ("index", "info", "{none}"),
        ("index", "verify", "{none}"),
        ("search", "{none}", "river", "--model", "tiny"),
        ("search", "{collection}", "river", "--model", "other"),
        ("search", "{collection}", "  ", "--model", "tiny"),
        ("search", "{collection}", "", "--model", "tiny"),
        ("eval", "retrieval", "{none}", "--model", "tiny"),
        ("eval", "retrieval", "{collection}", "--model", "tiny", "--split", "validation"),
        ("encode", "{none}", "--model", "{model}", "--out", "{none}.parquet"),
        ("encode", "{dataset}", "--model", "{model}", "--out", "{none}/deeper/v.parquet"),
        ("index", "build", "{dataset}", "--out", "{dataset}/corpus.jsonl", "--model", "{model}"),
        ("index", "build", "{dataset}", "--out", "{dataset}/corpus.jsonl/x", "--model", "{model}"),
        ("bench", "encode", "--model", "demo-nothing"),
    ],
)
def test_what_a_user_got_wrong_is_told_in_one_line(grace, arguments, collection, dataset, model, tmp_path):
    places = {"none": tmp_path / "none", "collection": collection, "dataset": dataset, "model": model}
    refusal(grace(*(argument.format(**places) for argument in arguments), "--json"))


def test_a_broken_cache_is_told_in_one_line(grace, collection, monkeypatch, tmp_path):
    (tmp_path / "cache").write_bytes(b"no database" * 500)
    monkeypatch.setenv("GRACE_CACHE", str(tmp_path / "cache"))
    assert "GRACE_CACHE" in refusal(grace("search", collection, "river", "--model", "tiny"))


def test_a_collection_without_judgements_cannot_be_evaluated(grace, dataset, model, tmp_path):
    alone = shutil.copy(dataset / "corpus.jsonl", tmp_path / "alone.jsonl")
    build(Collection.create(read_corpus(alone), tmp_path / "x"), GraceModel.from_pretrained(model))
    assert "queries.jsonl" in refusal(grace("eval", "retrieval", tmp_path / "x", "--model", "tiny"))


# --- as processes
# -----------------------------------------------------------------------------------------------------------


def test_a_process_prints_one_document_and_nothing_else(python, collection):
    run = python("-m", "grace_cli", "search", collection, "snow on the river", "--model", "tiny", "-k", 3, "--json")
    assert run.returncode == 0, run.stderr
    assert len(json.loads(run.stdout)) == 3


def test_a_process_that_builds_keeps_progress_off_stdout(python, dataset, model, tmp_path):
    run = python("-m", "grace_cli", "index", "build", dataset, "--out", tmp_path / "x", "--model", model, "--json")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["models"]["tiny"]["encoded"] == 29


def test_a_process_ends_with_status_2_and_one_line(python, tmp_path):
    run = python("-m", "grace_cli", "index", "info", tmp_path / "none", "--json")
    refusal((run.returncode, run.stdout, run.stderr))
