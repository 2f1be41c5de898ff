"""Best-of-n on tiny real models: the choice, the loss, a round that goes on where it was killed, and that the
reward rises.
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from grace_core.errors import GraceError
from grace_core.geometry import FILE as STATISTICS
from grace_core.model import GraceModel
from grace_core.training import best_of_n, run
from grace_core.training.calibration import part_sums
from grace_core.training.callbacks import read_rows
from grace_core.training.choosing import choose, whole_sentences
from grace_core.training.config import BestOfN
from grace_core.training.data import read_items
from grace_core.training.states import Rollout, decoder_of, last_states

LORA = {"r": 4, "alpha": 8, "merge": False}


def quiet(_line: str) -> None:
    pass


@pytest.fixture(scope="module")
def make(make_config):
    def config(out, **changes):
        settings = {
            "steps": None,
            "accumulate": 2,
            "best_of_n": {"rounds": 2, "batches": 2, "texts": 8},
            "share_negatives": True,
        }
        return make_config(out, method="best_of_n", **(settings | {"geometry": "calibrated", "lora": LORA} | changes))

    return config


def trainer_for(config, out):
    return best_of_n.make_trainer(config, run.load_for_training(config), read_items(config), out=out)


# --- the choice
# -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewards", "novelties", "finished", "stops", "rule", "expected"),
    [
        ([1, 3, 2], [0, 0, 0], [1, 1, 1], [4, 4, 4], {}, 1),
        ([1, 9, 2], [0, 0, 0], [1, 0, 1], [4, 4, 4], {}, 2),  # one that ended goes before one that did not
        ([3, 3], [0, 0], [1, 1], [4, 4], {}, 0),  # the first of equals
        ([5, 1], [0, 0], [1, 1], [0, 4], {}, 1),  # nothing was written
        ([5, 1], [0, 0], [0, 0], [3, 4], {}, 0),
        ([5, 1], [0, 0], [0, 0], [0, 4], {}, 1),  # no whole sentence
        ([5, 1], [0, 0], [0, 0], [0, 0], {}, None),
        ([5, 1], [0, 0], [0, 0], [3, 4], {"unfinished": "drop"}, None),
        ([1.0, 0.9], [0.2, 0.5], [1, 1], [4, 4], {"min_novelty": 0.3}, 1),
        ([1.0, 0.9], [0.2, 0.5], [1, 0], [4, 4], {"min_novelty": 0.3}, 1),  # of those that are new enough none ended
        ([1.0, 0.9], [0.2, 0.1], [1, 1], [4, 4], {"min_novelty": 0.3}, None),
    ],
)
def test_which_rationale_is_kept(rewards, novelties, finished, stops, rule, expected):
    assert choose(rewards, novelties, finished, stops, BestOfN(**rule)) == expected


def test_novelty_counts_in_the_choice_as_it_is_weighted():
    options = [1.0, 0.9], [0.0, 0.5], [True, True], [4, 4], BestOfN()
    assert [choose(*options, novelty_weight=weight) for weight in (0.0, 0.1, 1.0)] == [0, 0, 1]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["It", " is", " so", ".", " And", " then"], 4),
        (["One", ".", " Two", "!", '"', " thr"], 5),
        (["at", " 3", ".", "5", " metres"], 0),
        (["no", " end"], 0),
        ([], 0),
        (["So", ". ", "Now"], 2),  # a token that goes on behind the end
        (["これ", "は", "本", "。", "そして"], 4),
    ],
)
def test_the_end_of_the_last_whole_sentence(pieces, expected):
    assert whole_sentences(pieces) == expected


# --- the loss
# ---------------------------------------------------------------------------------------------------------------


def test_the_masked_loss_against_a_loop(tiny):
    """Log-probabilities token by token, each by a forward of its own over an unpadded prefix; the same for
    the part sums.
    """
    texts = ["the river rises in mountains", "old town", "wine and honey and bread are sold there"]
    rationales = [[11, 45, 7], [], [9, 8, 7, 6, 5]]
    rollouts = [
        Rollout(tiny.prompts.build(text), ids, truncated=False) for text, ids in zip(texts, rationales, strict=True)
    ]
    end, decoder = tiny.tokenizer.eos_token_id, decoder_of(tiny.model)
    loss, (sums, counts) = best_of_n.fine_tuning_loss(
        tiny.model, rollouts, pad_id=tiny.engine.pad_id, end_id=end, decoder=decoder
    )
    expected = 0.0
    with torch.no_grad():
        for row, rollout in enumerate(rollouts):
            sequence = list(rollout.prompt.ids)
            for token in [*rollout.ids, end]:
                expected -= float(tiny.model(torch.tensor([sequence])).logits[0, -1].log_softmax(-1)[token])
                sequence.append(token)
            with last_states(decoder) as caught:
                tiny.model(torch.tensor([sequence[:-1]]))
            parts = torch.zeros(1, len(sequence) - 1, dtype=torch.uint8)
            prompt = rollout.prompt
            (
                parts[0, prompt.start : prompt.stop],
                parts[0, prompt.stop : len(prompt.ids)],
                parts[0, len(prompt.ids) :],
            ) = 1, 2, 3
            alone, number = part_sums(caught[0], parts)
            torch.testing.assert_close(sums[row], alone[0], atol=2e-3, rtol=1e-4)
            assert torch.equal(counts[row], number[0])
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_pieces_of_a_step_add_up_to_its_mean_over_tokens(make, tmp_path):
    gradients = {}
    for accumulate in (1, 3):
        config = make(
            tmp_path / str(accumulate),
            accumulate=accumulate,
            evaluation=None,
            best_of_n={"rounds": 1, "batches": 1, "texts": 8},
        )
        trainer = trainer_for(config, tmp_path / str(accumulate))
        trainer.args.max_steps = 1
        recorded = {}
        clip = trainer.accelerator.clip_grad_norm_

        def keep(parameters, *args, trainer=trainer, recorded=recorded, clip=clip, **options):
            recorded |= {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
            return clip(parameters, *args, **options)

        trainer.accelerator.clip_grad_norm_ = keep
        trainer.train()
        gradients[accumulate] = recorded
    assert gradients[1]
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[3][name], gradient, atol=1e-5, rtol=1e-3)


# --- runs
# -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(make, tmp_path_factory):
    out, lines = tmp_path_factory.mktemp("runs") / "best-of-n", []
    config = make(out)
    return config, out, run.train(config, report=lines.append), lines


def test_a_run_completes_and_logs(finished):
    _config, out, result, lines = finished
    # 2 batches × 4 items × 2 roles = 16 texts a round, 8 a step
    assert (result["state"], result["steps"]) == ("finished", 4)
    rows = read_rows(out / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert all(math.isfinite(value) for row in steps for value in row.values())
    wanted = {
        "reward",
        "kept_reward",
        "kept",
        "kept_finished",
        "kept_tokens",
        "kept_novelty",
        "truncated",
        "rationale_tokens",
        "novelty",
    }
    wanted |= {"seconds_sampling", "distinct", "best_reward"}
    assert [wanted <= row.keys() for row in steps] == [
        True,
        False,
        True,
        False,
    ]  # a round's figures stand with its first step
    assert all(row["best_reward"] > row["reward"] for row in steps if "reward" in row)
    assert all(row["best_reward"] >= row["kept_reward"] for row in steps if "reward" in row)
    assert [row["step"] for row in rows if "eval" in row] == [0, 2, 4]  # after every round
    assert len([line for line in lines if line.startswith("round ")]) == 4


def test_what_is_kept_is_what_the_rule_chooses(finished):
    config, out, _, _ = finished
    tiny = GraceModel.from_pretrained(config.model, device="cpu")
    for number in range(2):
        for batch in range(2):
            piece = json.loads((out / "rounds" / str(number) / str(batch) / "kept.json").read_text())
            assert piece["kept"]
            for entry in piece["kept"]:
                assert entry["reward"] > entry["mean_reward"] or not entry["finished"]
                assert entry["ids"]
                assert tiny.tokenizer.eos_token_id not in entry["ids"]
                if not entry["finished"]:
                    assert entry["rationale"].rstrip("\"'”’)]").endswith((".", "!", "?", "…"))


def test_a_run_leaves_the_best_and_the_last_adapter_with_their_statistics(finished):
    config, out, _, _ = finished
    for name in ("best", "last"):
        model = GraceModel.from_pretrained(out / name, device="cpu")
        assert model.statistics.system == config.system
        assert {path.name for path in (out / name).iterdir()} >= {
            "adapter_model.safetensors",
            STATISTICS,
            "training.json",
        }
    assert json.loads((out / "last" / "training.json").read_text())["step"] == 4


def dying_trainer(monkeypatch, *, name: str, when):
    """A method of the trainer that raises KeyboardInterrupt when ``when(trainer, *arguments)``."""
    method = getattr(best_of_n.BestOfNTrainer, name)

    def dying(self, *args, **options):
        if when(self, *args):
            raise KeyboardInterrupt
        return method(self, *args, **options)

    monkeypatch.setattr(best_of_n.BestOfNTrainer, name, dying)


@pytest.mark.parametrize(
    ("name", "when", "sampled_again"),
    [
        ("_sample", lambda _trainer, place: place == 3, [3]),  # in the middle of sampling the second round
        ("compute_loss", lambda trainer, *_: trainer.state.global_step == 3, []),  # and of training on it
        ("_sample", lambda _trainer, place: place == 1, [1, 2, 3]),  # before there was a checkpoint
    ],
    ids=["sampling", "training", "first round"],
)
def test_a_killed_run_goes_on_as_if_it_had_not_been(make, finished, tmp_path, monkeypatch, name, when, sampled_again):
    config = make(tmp_path / "halves", save_every=1)
    with monkeypatch.context() as patch:
        dying_trainer(patch, name=name, when=when)
        with pytest.raises(KeyboardInterrupt):
            run.train(config, report=quiet)
    places, sample = [], best_of_n.BestOfNTrainer._sample
    monkeypatch.setattr(
        best_of_n.BestOfNTrainer, "_sample", lambda self, place: places.append(place) or sample(self, place)
    )
    result = run.train(config, resume=True, report=quiet)
    assert (result["state"], result["steps"]) == ("finished", 4)
    assert places == sampled_again
    whole, resumed = (
        [row for row in read_rows(out / "metrics.jsonl") if "loss" in row] for out in (finished[1], tmp_path / "halves")
    )
    assert [row["loss"] for row in resumed] == pytest.approx([row["loss"] for row in whole], abs=1e-4)
    ours, theirs = (
        GraceModel.from_pretrained(out / "last", device="cpu") for out in (tmp_path / "halves", finished[1])
    )
    np.testing.assert_allclose(ours.statistics.means, theirs.statistics.means, atol=1e-3)
    np.testing.assert_allclose(
        ours.encode(["a river"]), theirs.encode(["a river"]), atol=2e-2
    )  # adapters are kept in bf16


def test_the_reward_of_what_the_model_writes_rises(make, triplets, tmp_path):
    """The same eight items round after round, imitated several times over: the mean reward of what is sampled
    follows the best's.
    """
    data = {"path": str(triplets), "format": "triplets", "limit": 8}
    config = make(
        tmp_path,
        best_of_n={"rounds": 4, "batches": 1, "texts": 8, "passes": 6},
        data=data,
        batch=8,
        rollouts=16,
        max_new_tokens=16,
        learning_rate=3e-3,
        lora=None,
        geometry="raw",
        rank_truncated_last=False,
        evaluation=None,
    )
    run.train(config, report=quiet)
    steps = [row for row in read_rows(tmp_path / "metrics.jsonl") if "loss" in row]
    rounds = [row for row in steps if "reward" in row]
    assert len(rounds) == 4
    assert rounds[-1]["reward"] > rounds[0]["reward"] + 0.3
    assert rounds[-1]["truncated"] < 0.5 * rounds[0]["truncated"]  # and it has learned to end
    assert steps[11]["loss"] < 0.9 * steps[0]["loss"]


def test_without_rounds_or_with_what_it_does_not_know_a_run_is_refused(make, tmp_path):
    for changes, message in (
        ({"steps": 3}, "counts rounds, got epochs None and steps 3"),
        ({"objective": "reference", "geometry": "raw"}, "chooses by the symmetric reward"),
        ({"minibatches": 2}, "neither minibatches nor vllm"),
        ({"accumulate": 9}, "into empty pieces"),
    ):
        with pytest.raises(ValueError, match=message):
            make(tmp_path, **changes)
    with pytest.raises(GraceError, match="runs in one process, got 2"):
        best_of_n.make_trainer(make(tmp_path), None, [], out=tmp_path, processes=2)


def test_a_round_that_keeps_nothing_says_what_to_do(make, tmp_path, new_model):
    new_model("qwen2", end_weight=0.0).save_pretrained(tmp_path / "endless")
    rule = {"rounds": 1, "batches": 1, "unfinished": "drop"}
    config = make(tmp_path / "run", model=str(tmp_path / "endless"), best_of_n=rule, evaluation=None)
    with pytest.raises(
        GraceError, match=r"round 1 kept no rationale of 4 items: none ended.* set best_of_n.unfinished to cut"
    ):
        run.train(config, report=quiet)


def test_unsupervised_texts(make, unsupervised, tmp_path):
    result = run.train(make(tmp_path, evaluation=None, **unsupervised), report=quiet)
    assert (result["state"], result["steps"]) == ("finished", 2)  # 8 texts a round
