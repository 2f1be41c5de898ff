"""`grace eval retention`: lm-eval's tasks on files of this disk against plain sums of log-probabilities,
perplexity of a corpus, a base.
"""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest

from grace_core.errors import GraceError
from grace_core.evaluation import retention
from grace_core.evaluation.retention import Choice, Score, choices_right, perplexity, text_losses, token_losses
from grace_study.abilities import abilities

pytest.importorskip("lm_eval", reason="the extra [lm-eval] is not installed")

from grace_core.evaluation.harness import load_tasks, run

FACTS = [
    ("Paris is the capital of", ["France", "Italy", "Norway"]),
    ("Rome is the capital of", ["Italy", "Spain", "Japan"]),
    ("The heart pumps", ["blood", "air", "stone"]),
    ("Water freezes at", ["zero degrees", "fifty degrees", "ninety degrees"]),
    ("The Moon orbits", ["the Earth", "the Sun", "Mars"]),
    ("Bees make", ["honey", "milk", "wool"]),
    ("Iron is a", ["metal", "gas", "bird"]),
    ("The Nile flows through", ["Egypt", "Peru", "Norway"]),
    ("Shakespeare wrote", ["Hamlet", "Faust", "the Odyssey"]),
    ("The ostrich is a large", ["bird", "fish", "planet"]),
    ("Penguins cannot", ["fly", "swim", "walk"]),
    ("The opposite of hot is", ["cold", "warm", "red"]),
]
TASK = """
task: facts
tag: known
dataset_path: json
dataset_kwargs: {data_files: {test: facts.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{beginning}}"
doc_to_choice: options
doc_to_target: 0
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
WITHOUT_CONTEXT = """
include: facts.yaml
task: sentences
doc_to_text: ""
doc_to_choice: "{{[beginning + ' ' + options[0], beginning + ' ' + options[1], beginning + ' ' + options[2]]}}"
target_delimiter: ""
"""
LIKELIHOOD = """
include: facts.yaml
task: continuations
output_type: loglikelihood
doc_to_text: ""
doc_to_choice: null
doc_to_target: "{{beginning}} {{options[0]}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
"""
GROUP = """
group: all_facts
task: [facts, sentences]
aggregate_metric_list: [{metric: acc}]
"""


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """What datasets makes of local files goes where scratch files are."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture
def folder(tmp_path):
    """A folder with tasks over a file of facts."""
    rows = [{"beginning": beginning, "options": options} for beginning, options in FACTS]
    (tmp_path / "facts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name, text in (
        ("facts", TASK),
        ("sentences", WITHOUT_CONTEXT),
        ("continuations", LIKELIHOOD),
        ("group", GROUP),
    ):
        (tmp_path / f"{name}.yaml").write_text(text)
    return tmp_path


@pytest.fixture
def corpus(tmp_path, sentences):
    file = tmp_path / "texts.jsonl"
    file.write_text(
        "\n".join(
            json.dumps({"_id": str(i), "text": text}) for i, text in enumerate([*sentences[:7], "", *sentences[7:9]])
        )
    )
    return file


# --- lm-eval's numbers
# ------------------------------------------------------------------------------------------------------


def test_accuracy_is_that_of_summed_log_probabilities(demo_base, folder):
    scores = run(demo_base, load_tasks(["sentences", str(folder / "facts.yaml")], folder=folder), batch_size=4)
    sentences = [f"{beginning} {option}" for beginning, options in FACTS for option in options]
    losses = token_losses(demo_base, sentences)
    likeliest = np.array([row.sum() for row in losses]).reshape(len(FACTS), 3).argmin(1)
    assert scores["sentences"]["acc"].items == (likeliest == 0).tolist()
    choices = [Choice("", tuple(f"{beginning} {option}" for option in options), 0) for beginning, options in FACTS]
    counts = np.array([len(row) for row in losses]).reshape(len(FACTS), 3)
    equal = (counts == counts[:, :1]).all(
        1
    )  # where the options have as many tokens, their mean orders them as their sum does
    assert equal.sum() >= 3
    assert np.array_equal(choices_right(demo_base, choices)[equal], np.array(scores["sentences"]["acc"].items)[equal])
    assert scores["facts"]["acc"].items == [float(best == 0) for best in _without_beginning(demo_base)]
    assert 0 < scores["facts"]["acc"].value < 1


def _without_beginning(model) -> list[int]:
    """The likeliest option behind each beginning, where nothing stands before the beginning, as lm-eval does it."""
    import torch

    best = []
    for beginning, options in FACTS:
        head = model.tokenizer(beginning, add_special_tokens=False)["input_ids"]
        sums = []
        for option in options:
            ids = model.tokenizer(f"{beginning} {option}", add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                scores = model.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
            sums.append(sum(float(scores[i - 1, ids[i]]) for i in range(len(head), len(ids))))
        best.append(int(np.argmax(sums)))
    return best


def test_likelihoods_are_those_of_the_losses(demo_base, folder):
    made = run(demo_base, load_tasks(["continuations"], folder=folder), limit=5)["continuations"]["perplexity"]
    sums = [
        -row.sum() for row in token_losses(demo_base, [f"{beginning} {options[0]}" for beginning, options in FACTS[:5]])
    ]
    np.testing.assert_allclose(made.items, sums, rtol=1e-4)
    assert made.value == pytest.approx(np.exp(-np.mean(sums)), rel=1e-4)
    found = made.summary()
    assert found["n"] == 5
    assert found["ci95"][0] < found["value"] < found["ci95"][1]


def test_a_group_and_a_tag_stand_for_their_tasks(tiny_models, folder):
    made = run(tiny_models["qwen2"], load_tasks(["all_facts"], folder=folder))
    assert set(made) == {"facts", "sentences", "all_facts"}
    assert made["all_facts"]["acc"].value == pytest.approx(
        (made["facts"]["acc"].value + made["sentences"]["acc"].value) / 2
    )
    assert made["all_facts"]["acc"].summary()["ci95"] is None
    assert set(load_tasks(["known"], folder=folder)["tasks"]) == {"facts", "sentences", "continuations"}


def test_code_of_a_task_file_runs_only_if_allowed(tiny_models, folder):
    (folder / "halves.py").write_text("def first(docs):\n    return docs.select(range(6))\n")
    (folder / "halved.yaml").write_text("include: facts.yaml\ntask: halved\nprocess_docs: !function halves.first\n")
    (folder / "above.yaml").write_text("include: halved.yaml\ntask: above\n")
    for name in ("halved", "above", str(folder / "above.yaml")):
        with pytest.raises(GraceError, match=r"runs code .*halves\.first.*--allow-code"):
            load_tasks([name], folder=folder)
    with pytest.raises(GraceError, match="--allow-code"):
        load_tasks(["known"], folder=folder)  # the tag holds them too
    (folder / "inline.yaml").write_text("group: inline\ntask: [{task: facts, metric_list: [{metric: ./mine.py}]}]\n")
    with pytest.raises(GraceError, match=r"the metric '\./mine\.py'"):
        load_tasks(["inline"], folder=folder)
    made = run(tiny_models["qwen2"], load_tasks(["halved"], folder=folder, allow_code=True))
    assert made["halved"]["acc"].summary()["n"] == 6


def test_a_template_cannot_leave_its_sandbox(folder, tmp_path):
    trace = tmp_path / "trace"
    attack = "{{ cycler.__init__.__globals__.os.mkdir('TRACE') }}".replace("TRACE", str(trace))
    (folder / "attack.yaml").write_text(f'include: facts.yaml\ntask: attack\ndoc_to_text: "{attack}"\n')
    with pytest.raises(GraceError, match="SecurityError"):
        load_tasks(["attack"], folder=folder)
    assert not trace.exists()


# --- what is refused
# --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("", "facts.yaml: its data 'facts.jsonl' are neither in"),
        ("doc_to_text: '{{absent}}'", "'absent' is undefined"),
        ("test_split: nothing", "nothing"),
        ("unknown_key: 1", "unknown_key"),
        ("output_type: guessing", "guessing"),
        ("metric_list: [{metric: ./mine.py}]", r"the metric '\./mine\.py': read it, and allow it with --allow-code"),
        ("unsafe_code: true", "runs code that a model writes"),
        ("dataset_path: allenai/ai2_arc\ndataset_kwargs: {}", "Hugging Face hub; check the network"),
        ("task: [", r"facts\.yaml is no task file"),
        ("include: absent.yaml", r"absent\.yaml"),
    ],
)
def test_a_task_file_that_is_wrong_is_told_in_a_line(folder, change, told):
    if change:
        key = change.partition(":")[0]
        kept = [
            line
            for line in TASK.splitlines()
            if not line.startswith(key) and not (key == "dataset_path" and "kwargs" in line)
        ]
        kept = kept[:-1] if key == "metric_list" else kept
        (folder / "facts.yaml").write_text("\n".join([*kept, change]))
    else:
        (folder / "facts.jsonl").unlink()
    with pytest.raises(GraceError, match=told) as error:
        load_tasks([str(folder / "facts.yaml")])
    assert "\n" not in str(error.value)


def test_names_that_do_not_exist(grace, folder):
    for options, told in (
        (("--tasks", "absent.yaml"), "there is no task file absent.yaml"),
        (("--tasks", "no_such_task_anywhere"), "there is no task 'no_such_task_anywhere': give a task file"),
        (("--tasks", "facts", "--task-path", folder / "absent"), "is no folder"),
        (("--task-path", folder), "for --tasks, which is not given"),
        (("--tasks", "facts", "--tasks", folder / "facts.yaml", "--task-path", folder), "hold, 'facts'"),
        (("--texts", folder / "absent.jsonl"), "absent.jsonl"),
    ):
        status, out, err = grace("eval", "retention", "--model", "demo-base", *options)
        assert (status, out) == (2, "")
        assert told in err
    (folder / "broken.yaml").write_text("task: [\n")
    with pytest.raises(GraceError, match=r"no task 'facts_of_mine'.*broken\.yaml cannot be read"):
        load_tasks(["facts_of_mine"], folder=folder)


def test_texts_that_are_none(grace, tmp_path):
    for name, content in (("no.jsonl", ""), ("blank.jsonl", '{"text": " "}\n{"text": ""}')):
        (tmp_path / name).write_text(content)
        status, _, err = grace("eval", "retention", "--model", "demo-base", "--texts", tmp_path / name)
        assert status == 2
        assert "empty" in err or "none of its 2 documents has a text" in err


def test_without_lm_eval_the_extra_is_named(grace, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)
    status, _, err = grace("eval", "retention", "--model", "demo-base", "--tasks", folder / "facts.yaml")
    assert status == 2
    assert "pip install 'grace-explorer[lm-eval]'" in err


# --- the command
# ------------------------------------------------------------------------------------------------------------


def test_perplexity_of_a_corpus_against_a_base(grace, corpus, tiny_folder, other_folder, demo_base):
    options = ("--texts", corpus, "--base", tiny_folder, "--json")
    status, out, err = grace(
        "eval", "retention", "--model", tiny_folder, "--model", other_folder, "--model", "demo-base", *options
    )
    assert status == 0, err
    made = json.loads(out)
    texts = [json.loads(line)["text"] for line in corpus.read_text().splitlines() if json.loads(line)["text"]]
    found = made["demo-base"]["perplexity"]
    assert found["value"] == pytest.approx(perplexity(demo_base, texts), rel=1e-4)
    assert (found["texts"], found["empty"], found["cut"]) == (9, 1, 0)
    assert found["ci95"][0] < found["value"] < found["ci95"][1]
    assert made["demo-base"]["against_base"]["perplexity"] is None  # another tokenizer
    assert "against_base" not in made[str(tiny_folder)]
    base, other = made[str(tiny_folder)]["perplexity"], made[str(other_folder)]["perplexity"]
    apart = made[str(other_folder)]["against_base"]["perplexity"]
    assert apart["percent"] == pytest.approx(100 * (other["value"] / base["value"] - 1), abs=1e-2)
    assert apart["ci95"][0] < apart["percent"] < apart["ci95"][1]
    noted = corpus.with_name("noted.csv")
    noted.write_text("text\nA river.\nnan\n")
    status, _, err = grace("eval", "retention", "--model", "demo-base", "--texts", noted, "--json")
    assert status == 0, err
    assert "note: NaN, nan or None is taken as a missing value: 1 cell" in err
    status, out, _ = grace("eval", "retention", "--model", "demo-base", *options[:-1], "--limit", 3)
    assert status == 0
    assert "3 texts" in out
    assert "not comparable: other tokens" in out


def test_a_model_has_lost_nothing_against_itself(grace, folder, tiny_folder, other_folder, tmp_path):
    twin = shutil.copytree(tiny_folder, tmp_path / "twin")
    options = ("--tasks", folder / "facts.yaml", "--base", tiny_folder, "--limit", 8)
    status, out, err = grace("eval", "retention", "--model", twin, "--model", other_folder, *options, "--json")
    assert status == 0, err
    made = json.loads(out)
    same = {"difference": 0, "ci95": [0, 0], "n": 8}
    assert made[str(twin)]["against_base"] == {
        "base": str(tiny_folder),
        "perplexity": None,
        "tasks": {"facts": {"acc": same}},
    }
    values = [made[str(name)]["tasks"]["facts"]["acc"]["value"] for name in (tiny_folder, other_folder)]
    assert made[str(other_folder)]["against_base"]["tasks"]["facts"]["acc"]["difference"] == pytest.approx(
        values[1] - values[0]
    )


def test_without_options_the_demo_world_is_measured_as_in_the_study(grace, demo_base, demo_entries, monkeypatch):
    from grace_study import corpus

    few = demo_entries[::16]
    monkeypatch.setattr(corpus, "entries", lambda: few)
    status, out, err = grace("eval", "retention", "--model", "demo-base", "--json")
    assert status == 0, err
    made = json.loads(out)["demo-base"]
    wanted = abilities(demo_base, few)
    assert made["perplexity"]["value"] == pytest.approx(wanted["perplexity"], abs=1e-3)
    assert made["tasks"]["demo-facts"]["acc"]["value"] == wanted["fact_accuracy"]
    assert made["tasks"]["demo-facts"]["acc"]["n"] == len(few)


# --- the numbers
# ------------------------------------------------------------------------------------------------------------


def test_pieces_and_batches_change_nothing_and_long_texts_are_cut(tiny_models, sentences, monkeypatch):
    model = tiny_models["qwen2"]
    texts = [" ".join(sentences[:8]), sentences[9], sentences[10]]
    whole = text_losses(model, texts)
    monkeypatch.setattr(retention, "FORWARD_TOKENS", 16)
    monkeypatch.setattr(model.config, "max_position_embeddings", 50)
    done = []
    pieces = text_losses(model, texts, progress=lambda *at: done.append(at))
    np.testing.assert_allclose(pieces.sums[1:], whole.sums[1:], rtol=1e-4)
    assert pieces.counts.tolist() == [49, *whole.counts[1:]]
    assert pieces.cut.tolist() == [True, False, False]
    assert pieces.sums[0] == pytest.approx(token_losses(model, texts[:1])[0][:49].sum(), rel=1e-4)
    assert pieces.percent_of(whole) is None
    assert done[-1] == (3, 3)


def test_pairing_makes_a_difference_surer():
    rng = np.random.default_rng(0)
    base = rng.random(200).round()
    better = base.copy()
    better[np.flatnonzero(base == 0)[:10]] = 1
    paired = Score(better.mean(), better).difference(Score(base.mean(), base))
    assert paired["difference"] == pytest.approx(0.05)
    alone = Score(better.mean(), better).summary()["ci95"]
    assert 0 < paired["ci95"][0] < 0.05 < paired["ci95"][1] < 0.1
    assert alone[1] - alone[0] > 2 * (paired["ci95"][1] - paired["ci95"][0])
    assert Score(1.0, [1.0]).summary() == {"value": 1.0, "ci95": None, "n": 1}
