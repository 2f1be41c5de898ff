"""Training runs: read as they are written, whatever their files hold; their curves; what the page may ask for."""

from __future__ import annotations

import json
import math
import os
import time

import gradio as gr
import pytest
from explorer_world import IMAGE, SCRIPT, write_run
from hypothesis import given
from hypothesis import strategies as st

from grace_app.training.curves import curves, reach_of, smooth, span, thin, ticks
from grace_app.training.render import compared_rows, render_probes, render_runs
from grace_app.training.runs import SILENT_AFTER, Runs
from grace_app.training.tab import TrainingTab, pick, refresh
from grace_app.workspace.view import COMPARED, TrainingView, change_training, read_training, revalidated
from grace_core.errors import GraceError


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_folder, sentences):
    """A real run of four steps, evaluated at every second one: its folder, and what ``train`` returned."""
    pytest.importorskip("trl")
    from grace_core.training.config import TrainConfig
    from grace_core.training.run import train

    root = tmp_path_factory.mktemp("trained")
    texts = [f"{number} {text}" for number, text in enumerate(sentences[:24])]
    triplets = [{"query": text[:20], "positive": text, "negative": texts[i - 1]} for i, text in enumerate(texts)]
    (root / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in triplets), encoding="utf-8")
    beir = root / "beir"
    (beir / "qrels").mkdir(parents=True)
    documents = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)]
    queries = [{"_id": f"q{i}", "text": texts[i][:12]} for i in range(6)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (beir / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (beir / "qrels" / "dev.tsv").write_text(
        "\n".join(["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(6))]) + "\n"
    )
    config = TrainConfig.model_validate(
        {
            "model": str(tiny_folder),
            "out": str(root / "runs" / "tiny"),
            "steps": 4,
            "batch": 2,
            "rollouts": 2,
            "learning_rate": 1e-3,
            "data": {"path": str(root / "triplets.jsonl"), "format": "triplets"},
            "max_prompt_tokens": 128,
            "max_new_tokens": 8,
            "evaluation": {"path": str(beir), "every": 2, "queries": 4, "documents": 12, "probes": 2},
            "report_to": [],
            "collapse": {"action": "warn"},
        }
    )
    return root / "runs" / "tiny", train(config, report=lambda line: None)


def ticked(runs: Runs) -> TrainingView:
    return read_training([run.name for run in runs.all()], {})[0]


def charts(runs: Runs, view: TrainingView | None = None) -> dict[str, dict]:
    return {chart["key"]: chart for chart in json.loads(curves(runs.all(), view or ticked(runs)))["charts"]}


def test_a_real_run_is_read_as_it_was(trained):
    folder, result = trained
    runs = Runs(folder.parent)
    run = runs.get("tiny")
    assert (run.state, run.reached, run.planned, run.problems) == ("finished", 4, 4, ())
    assert (run.best["step"], run.best["ndcg@10"]) == (
        result["best"]["step"],
        pytest.approx(result["best"]["ndcg@10"], abs=1e-5),
    )
    assert [row["step"] for row in run.steps] == [1, 2, 3, 4]
    assert [row["step"] for row in run.evaluations] == [row["step"] for row in run.probes] == [0, 2, 4]
    assert [len(row["probes"]) for row in run.probes] == [2, 2, 2]
    drawn = charts(runs)
    wanted = {
        "ndcg@10",
        "reward",
        "reward_spread",
        "kl",
        "entropy",
        "rationale_tokens",
        "truncated",
        "distinct",
        "loss",
    }
    assert wanted | {f"term/{name}{end}" for name in ("query", "document") for end in ("", "_spread")} <= set(drawn)
    assert drawn["ndcg@10"]["lines"][0]["base"] == pytest.approx(run.base, rel=1e-4)
    assert "symmetric objective, supervised" in render_runs(runs.all(), ticked(runs), runs.root)
    assert render_probes(runs.all(), ticked(runs)).count("g-time-pick") == 6


def test_a_run_of_best_of_n_is_called_so_and_has_its_curves(runs):
    config = {"method": "best_of_n", "mode": "supervised", "objective": "joint", "model": "tiny"}
    folder = write_run(runs.root / "best", config=config)
    with open(folder / "metrics.jsonl", "a") as file:  # the figures of a round stand with its first step
        file.write(json.dumps({"step": 7, "reward": -1, "best_reward": -0.5, "novelty": 0.8, "loss": 2.5}) + "\n")
    assert runs.get("best").kind == "best of n"
    assert {"reward", "best_reward", "novelty", "loss"} <= charts(runs).keys()
    assert "best of n" in render_runs(runs.all(), ticked(runs), runs.root)


def test_a_resumed_run_is_read_anew(trained, tmp_path):
    import shutil

    from grace_core.training.callbacks import RunFiles

    folder = shutil.copytree(trained[0], tmp_path / "runs" / "tiny")
    runs = Runs(folder.parent)
    assert runs.get("tiny").reached == 4
    RunFiles(folder).start(json.loads((folder / "run.json").read_text()), step=2)
    run = runs.get("tiny")
    assert (run.state, run.reached, [row["step"] for row in run.probes]) == ("running", 2, [0, 2])
    assert run.running
    assert run.seconds_left > 0


def test_a_run_is_followed_while_it_writes(runs):
    folder = write_run(runs.root / "a", state="running", steps=3, planned=10)
    assert runs.get("a").seconds_left == 14
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "rew')
        file.flush()
        before = runs.get("a")
        assert (before.reached, before.problems) == (3, ())
        file.write('ard": 0.25}\n{"step": 5, "reward": 0.5}')  # the last without its newline, and whole all the same
    after = runs.get("a")
    assert [(row["step"], row["reward"]) for row in after.steps[-2:]] == [(4, 0.25), (5, 0.5)]
    assert runs.get("a") is after  # nothing new, nothing read
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('\n{"step": 6, "reward": 1}\n')
    assert [row["step"] for row in runs.get("a").steps] == [1, 2, 3, 4, 5, 6]


def test_only_what_is_a_run_is_listed_newest_first(runs):
    assert runs.all() == []
    for age, name in enumerate(("new", "middle", "old")):
        write_run(runs.root / name, time=time.time() - age * 1000)
    (runs.root / "empty").mkdir()
    (runs.root / "file").write_text("no run")
    assert [run.name for run in runs.all()] == ["new", "middle", "old"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", '{"state": "runn', "run.json is damaged"),
        ("run.json", "[1, 2]", "run.json holds a list, expected an object"),
        ("run.json", "[" * 100_000, "run.json is damaged"),
        ("run.json", None, "run.json is missing"),
        (
            "metrics.jsonl",
            '{"step": 1}\nnonsense\n\n[3]\n{"step": "x"}\n',
            "metrics.jsonl: 3 lines that hold no row were left out (line 2)",
        ),
        ("metrics.jsonl", b"\xff\xfe\x00\n", "metrics.jsonl: a line that holds no row was left out (line 1)"),
        ("metrics.jsonl", "[" * 100_000 + "\n", "metrics.jsonl: a line"),
        ("probes.jsonl", '{"step": 0, "probes": {"text": 1}}\n{"probes": []}\n', "probes.jsonl: a line"),
    ],
)
def test_broken_files_give_a_line(runs, name, content, said):
    path = write_run(runs.root / "a") / name
    path.unlink()
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    run = runs.get("a")
    assert any(line.startswith(said) for line in run.problems), run.problems
    assert said.split(" (")[0] in render_runs(runs.all(), ticked(runs), runs.root).replace("&#x27;", "'")
    assert render_probes(runs.all(), ticked(runs))
    json.loads(curves(runs.all(), ticked(runs)))


@pytest.mark.parametrize(
    "about",
    [
        {"config": None, "steps": "many", "time": "never", "state": ["running"], "alarm": 5},
        {"config": {"method": 7, "model": {"a": 1}}, "steps": -3, "time": 1e300, "state": "dancing"},
        {"steps": 10**40, "time": float("nan"), "state": "running"},
    ],
)
def test_nonsense_in_run_json_is_not_believed(runs, about):
    (write_run(runs.root / "a") / "run.json").write_text(json.dumps(about))
    run = runs.get("a")
    assert run.planned is None
    assert run.state in ("running", "unknown")
    assert "step 6" in render_runs(runs.all(), ticked(runs), runs.root)
    json.dumps(run.summary(), allow_nan=False)


def test_numbers_that_are_none_leave_gaps(runs):
    folder = write_run(runs.root / "a")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(
            '{"step": 7, "reward": NaN, "loss": Infinity, "kl": 1%s}\n{"step": 8, "reward": true, "kl": "x"}\n'
            % ("0" * 400)
        )
    run = runs.get("a")
    assert [row.get("reward") for row in run.steps[-2:]] == [None, None]
    assert (run.steps[-2]["loss"], run.steps[-2]["kl"]) == (None, None)
    assert charts(runs)["reward"]["lines"][0]["y"][-1] is None


def test_what_is_no_file_is_not_opened(runs):
    folder = write_run(runs.root / "a")
    (folder / "metrics.jsonl").unlink()
    os.mkfifo(folder / "metrics.jsonl")  # to open it would wait for ever
    (folder / "probes.jsonl").unlink()
    (folder / "probes.jsonl").mkdir()
    assert (runs.get("a").steps, runs.get("a").probes) == ((), ())


def test_a_run_that_fell_silent_is_doubted(runs):
    folder = write_run(runs.root / "a", state="running", planned=100)
    assert runs.get("a").running
    for path in folder.iterdir():
        os.utime(path, (time.time() - SILENT_AFTER - 400,) * 2)
    run = runs.get("a")
    assert not run.running
    assert run.silent == "11 minutes"
    assert "no sign of life for 11 minutes" in render_runs([run], ticked(runs), runs.root)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "reward": 0, "seconds": 200}\n')
    os.utime(folder / "metrics.jsonl", (time.time() - SILENT_AFTER - 400,) * 2)
    assert runs.get("a").running  # its steps take that long


@pytest.mark.parametrize("name", ["../indexes", "/etc", "", "a/../a", ".", None, 3, "nope"])
def test_names_are_looked_up_and_never_opened(runs, name):
    write_run(runs.root / "a")
    with pytest.raises(GraceError, match="there is no run"):
        runs.get(name)
    with pytest.raises(GraceError, match=r"there is no run|does not fit"):
        change_training(TrainingView(("a",), "a"), ["a"], {"set": "run", "value": name})


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"set": "run"},
        {"set": "root", "value": "x"},
        {"set": "step", "value": "-1"},
        {"set": "probe", "value": "²"},
    ],
)
def test_events_that_do_not_fit_are_refused(runs, data):
    write_run(runs.root / "a")
    tab = TrainingTab(None, runs, None, None, None, None, None, None)
    before = ticked(runs)
    values = pick(tab, before, data)
    assert "g-banner" in values[0]
    assert values[3] == before


def test_a_view_comes_back_from_its_address():
    names = ["a", "b b", "c,d"]
    view = TrainingView(("a", "", "c,d"), "c,d", probe=2, start=10, step=40)
    assert read_training(names, view.params()) == (view, [])
    view, problems = read_training(names, {"run": "../../etc/a", "probe": "x", "step": "1" * 30, "of": "b b"})
    assert view == TrainingView(("", "", "", "a"), "a")
    assert problems[0] == "there is no run '..' here"
    assert len(problems) == 5
    assert read_training([], {"run": "a"})[0] == TrainingView()


def test_a_run_keeps_its_colour_while_others_come_and_go():
    names = list("abcdefgh")
    view = revalidated(TrainingView(("a",)), names)
    for name in "bcdef":
        view = change_training(view, names, {"set": "run", "value": name})
    with pytest.raises(GraceError, match=f"at most {COMPARED} runs"):
        change_training(view, names, {"set": "run", "value": "g"})
    view = change_training(view, names, {"set": "run", "value": "a"})
    assert (view.runs, view.of) == (("", "b", "c", "d", "e", "f"), "b")
    view = change_training(view, names, {"set": "run", "value": "g"})
    assert view.runs == ("g", "b", "c", "d", "e", "f")
    assert revalidated(view, ["c", "g"]).runs == ("g", "", "c")


def test_the_best_is_compared_with_the_first_until_something_else_is_chosen(runs):
    write_run(runs.root / "a")
    run, view = runs.get("a"), ticked(runs)
    assert [row["step"] for row in compared_rows(run, view)] == [0, 4]
    write_run(runs.root / "worse", steps=2)
    with open(runs.root / "worse" / "metrics.jsonl", "a") as file:
        file.write('{"step": 0, "eval": {"ndcg@10": 0.9}}\n')
    assert runs.get("worse").best["step"] == 0
    assert [row["step"] for row in compared_rows(runs.get("worse"), view)] == [0, 2]
    view = change_training(view, ["a"], {"set": "from", "value": "2"})
    view = change_training(view, ["a"], {"set": "step", "value": "6"})
    assert [row["step"] for row in compared_rows(run, view)] == [2, 6]
    page = render_probes([run], view)
    assert 'class="g-mark-new">number6<' in page
    assert 'class="g-mark-gone">number2<' in page


def test_markup_stays_text_wherever_it_stands(runs):
    nasty = f"{SCRIPT}{IMAGE}</script>"
    name = "<img src=x onerror=alert(1)>"
    config = {"method": nasty, "mode": nasty, "objective": nasty, "model": nasty}
    write_run(
        runs.root / name, state="collapsed", probes=[{"text": nasty, "rationale": nasty}], config=config, alarm=nasty
    )
    with open(runs.root / name / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 7, f"term/{nasty}": 1.0}) + "\n")
    listed, view = runs.all(), ticked(runs)
    pages = [
        render_runs(listed, view, runs.root, message=nasty),
        render_probes(listed, view),
        render_runs([], view, runs.root / nasty),
    ]
    page = "".join(pages)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;window.pwned = 1&lt;/script&gt;" in page
    assert f"Term: {nasty}" in [
        chart["title"] for chart in json.loads(curves(listed, view))["charts"]
    ]  # set as text by the script


def test_nothing_is_sent_when_nothing_changed(runs):
    tab = TrainingTab(None, runs, None, None, None, None, None, None)
    empty = tab.show([], TrainingView())
    assert "grace train configs/demo-grace.yaml" in empty[0]
    assert str(runs.root) in empty[0]
    folder = write_run(runs.root / "a", state="running", planned=20)
    first = refresh(tab, empty[3], empty[4])  # the first run is ticked as it comes
    assert first[3].ticked == ["a"]
    assert all(value == gr.skip() for value in refresh(tab, first[3], first[4]))
    assert all(value == gr.skip() for value in refresh(tab, None, None))
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "reward": 0}\n')
    later = refresh(tab, first[3], first[4])
    assert "step 7 of 20" in later[0]
    write_run(runs.root / "b")
    assert refresh(tab, later[3], later[4])[3].ticked == ["a"]


def test_kept_runs_are_shown_best_first_until_there_is_one(tmp_path):
    for name, steps in (("better", 6), ("worse", 2)):
        write_run(tmp_path / "kept" / name, steps=steps, time=time.time() - steps)
    runs = Runs(tmp_path / "runs", tmp_path / "kept")
    tab = TrainingTab(None, runs, None, None, None, None, None, None)
    values = tab.show(runs.all(), ticked(runs))
    assert [run.name for run in runs.all()] == ["better", "worse"]
    assert "Finished runs of the study, the best first." in values[0]
    write_run(runs.root / "own", state="running", steps=2, planned=10)
    later = refresh(tab, values[3], values[4])
    assert later[3].ticked == ["own"]
    assert "Finished runs" not in later[0]
    assert [run.name for run in runs.all()] == ["own"]
    assert not Runs(tmp_path / "none", tmp_path / "neither").all()


def test_the_kept_runs_of_the_study_can_be_looked_at():
    from grace_app.main import STUDY

    listed = Runs("none", STUDY).all()
    assert {run.objective for run in listed} >= {"symmetric", "reference", "joint"}
    assert not any(run.problems for run in listed)
    for run in listed:
        assert run.state in ("finished", "stopped early", "collapsed"), run.name
        assert run.best is not None
    assert all(run.probes for run in listed if run.method == "grace")


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50))
def test_axes_hold_their_values_and_have_round_ticks(values):
    low, high = span(values)
    assert low < high or math.isclose(low, high)
    assert low <= min(values) <= max(values) <= high
    numbers = ticks(low, high, 4)
    assert all(low - 1e-6 * abs(low) <= tick <= high + 1e-6 * abs(high) for tick in numbers)
    assert len(numbers) <= 12


@given(st.lists(st.one_of(st.none(), st.floats(-1e3, 1e3)), min_size=1, max_size=900))
def test_a_thinned_line_keeps_its_ends_and_extremes(values):
    kept = thin(values, 60)
    assert kept == sorted(set(kept))
    assert {0, len(values) - 1} <= set(kept)
    assert len(kept) <= 62 or len(values) <= 60
    known = [value for value in values if value is not None]
    if known:
        assert {min(known), max(known)} <= {values[place] for place in kept}
    mean = smooth(values, 5)
    assert [value is None for value in mean] == [value is None for value in values]


def test_means_and_ends_of_axes():
    assert smooth([1.0, 3.0, 5.0, None, 9.0], 1) == pytest.approx([1.0, 3.0, 4.0, None, 9.0])
    assert [reach_of(reached, 100) for reached in (0, 1, 12, 47, 83, 100)] == [100, 1, 15, 50, 100, 100]
    assert reach_of(83, 0) == 83  # an ended run stands in all of its chart
