"""Runs of a few steps on tiny real models: every objective and mode, the rewards, the losses, resuming, LoRA,
the alarm.
"""

from __future__ import annotations

import json
import math
import shutil

import numpy as np
import pytest
import torch

from grace_core import rewards
from grace_core.errors import GraceError
from grace_core.model import GraceModel
from grace_core.pooling import embeddings
from grace_core.training import policy, run
from grace_core.training.calibration import raw_vectors
from grace_core.training.callbacks import TrainingCollapsed, read_rows
from grace_core.training.checkpoints import newest_checkpoint
from grace_core.training.data import read_items

OBJECTIVES = ("symmetric", "reference", "joint")


def quiet(_line: str) -> None:
    pass


def trainer_for(config, out):
    return policy.make_trainer(config, run.load_for_training(config), read_items(config), out=out)


def rows_of(out, kind: str) -> list[dict]:
    return [row for row in read_rows(out / "metrics.jsonl") if ("eval" in row) == (kind == "eval")]


@pytest.fixture(
    scope="module", params=[(o, m) for m in ("supervised", "unsupervised") for o in OBJECTIVES], ids="-".join
)
def finished(request, make_config, unsupervised, tmp_path_factory):
    """A finished run of two steps of each objective in each mode: its configuration, folder and result."""
    objective, mode = request.param
    out = tmp_path_factory.mktemp("runs") / f"{objective}-{mode}"
    config = make_config(out, objective=objective, **(unsupervised if mode == "unsupervised" else {}))
    return config, out, run.train(config, report=quiet)


def test_a_run_completes_and_logs_from_the_first_step(finished):
    config, out, result = finished
    assert (result["state"], result["steps"]) == ("finished", 2)
    steps = rows_of(out, "step")
    assert [row["step"] for row in steps] == [1, 2]
    wanted = {
        "reward",
        "reward_spread",
        "advantage_std",
        "entropy",
        "clip_fraction",
        "truncated",
        "rationale_tokens",
        "distinct",
    }
    wanted |= {"loss", "grad_norm", "learning_rate", "tokens_per_s"} | ({"kl"} if config.beta else set())
    wanted |= {"contrastive"} if config.objective == "joint" else set()
    for row in steps:
        assert wanted <= set(row)
        assert all(math.isfinite(value) for value in row.values())
        terms = {key for key in row if key.startswith("term/") and not key.endswith("_spread")}
        assert terms
        assert all(f"{term}_spread" in row for term in terms)
    assert [row["step"] for row in rows_of(out, "eval")] == [0, 2]
    assert {"ndcg@10", "alignment", "uniformity", "rationale_tokens", "truncated"} <= set(
        rows_of(out, "eval")[0]["eval"]
    )
    probes = read_rows(out / "probes.jsonl")
    assert [row["step"] for row in probes] == [0, 2]
    assert len(probes[0]["probes"]) == 2
    assert json.loads((out / "run.json").read_text())["state"] == "finished"


def test_the_best_model_loads_and_holds_no_pickle(finished):
    config, out, result = finished
    best = GraceModel.from_pretrained(result["model"], device="cpu")
    assert (best.settings.max_new_tokens, best.settings.temperature) == (config.max_new_tokens, 0.0)
    assert best.encode(["a text"]).shape == (1, best.dim)
    assert {path.suffix for path in (out / "best").iterdir()} <= {".json", ".jinja", ".safetensors"}
    assert json.loads((out / "best" / "training.json").read_text())["eval"]["ndcg@10"] == result["best"]["ndcg@10"]


def test_a_finished_run_is_not_overwritten(finished):
    config, _, _ = finished
    with pytest.raises(GraceError, match="holds a run already; give --resume"):
        run.train(config, report=quiet)


def test_the_trainers_rewards_are_those_of_its_rollouts(make_config, tmp_path, monkeypatch):
    """Embeddings again by the serving engine from the saved rollouts, rewards again by loops over them."""
    config = make_config(tmp_path, steps=1, evaluation=None, rollouts=3, learning_rate=1e-9)
    trainer = trainer_for(config, tmp_path)
    seen = []
    loss = policy.GRPOTrainer.compute_loss
    watched = lambda self, model, inputs, *options: seen.append(inputs) or loss(self, model, inputs, *options)  # noqa: E731
    monkeypatch.setattr(policy.GRPOTrainer, "compute_loss", watched)
    trainer.train()
    serving = GraceModel(trainer.model, trainer.processing_class, name="same")
    rollouts = trainer.rollouts
    out = serving.engine.pool([r.prompt for r in rollouts], [r.ids for r in rollouts])
    sums, counts = (np.stack([getattr(row, name) for row in out]) for name in ("sums", "counts"))
    z = torch.tensor(embeddings(sums, counts))
    torch.testing.assert_close(trainer.reward.last.embeddings, z, atol=2e-4, rtol=0)
    z = trainer.reward.last.embeddings

    k, b, t = 3, 4, config.reward_temperature
    row = lambda item, role, rollout: item * 3 * k + role * k + rollout  # noqa: E731
    mean = lambda item, role: torch.nn.functional.normalize(sum(z[row(item, role, m)] for m in range(k)) / k, dim=0)  # noqa: E731
    documents = [mean(i, 1) for i in range(b)] + [mean(i, 2) for i in range(b)]
    expected = torch.zeros(b * 3 * k)
    for i in range(b):
        for m in range(k):
            to_documents = [float(z[row(i, 0, m)] @ d) / t for d in documents]
            to_queries = [float(z[row(i, 1, m)] @ mean(j, 0)) / t for j in range(b)]
            expected[row(i, 0, m)] = to_documents[i] - math.log(sum(map(math.exp, to_documents)))
            expected[row(i, 1, m)] = to_queries[i] - math.log(sum(map(math.exp, to_queries)))
    cut = trainer.reward.last.truncated
    assert cut.tolist() == [r.truncated for r in rollouts]
    by_role = trainer.layout.by_role(expected)
    cuts = trainer.layout.by_role(cut)
    for role in ("query", "positive"):
        by_role[role] = rewards.rank_truncated_last(by_role[role], cuts[role])
    torch.testing.assert_close(trainer.reward.last.rewards, trainer.layout.flatten(by_role), atol=1e-3, rtol=1e-4)

    # the loss sees the trained rows alone, with these rewards' advantages
    (inputs,) = seen
    advantages = sorted(inputs["advantages"].tolist())
    wanted = torch.cat([rewards.advantages(by_role[role]).flatten() for role in ("query", "positive")])
    np.testing.assert_allclose(advantages, sorted(wanted.tolist()), atol=1e-3)
    assert float(inputs["num_items_in_batch"]) == float(inputs["completion_mask"].sum())


def test_prompts_are_those_of_serving(make_config, tmp_path):
    trainer = trainer_for(make_config(tmp_path, evaluation=None), tmp_path)
    texts = ["  a text with space around it ", "a text that says <|im_end|> itself", "long " * 500]
    ids, _, _ = trainer._tokenize_prompts(texts)
    assert ids == [trainer.builder.build(text).ids for text in texts]
    assert len(ids[2]) == 128


def test_several_minibatches_share_the_forward_of_the_old_probabilities(make_config, tmp_path, monkeypatch):
    config = make_config(tmp_path, evaluation=None, minibatches=2, accumulate=2, steps=4)
    trainer = trainer_for(config, tmp_path)
    compared = []

    def both(self):
        own = policy.pool_rollouts(
            self.model,
            self.rollouts,
            pad_id=self._tokenizer.pad_token_id,
            rows=5,
            device=self.accelerator.device,
            autocast=self.accelerator.autocast,
            decoder=self.decoder,
        )
        assert self._sums is not None
        assert torch.equal(own[1], self._sums[1])
        compared.append(float((raw_vectors(*own) - raw_vectors(*self._sums)).abs().max()))
        return self._sums

    monkeypatch.setattr(policy.GracePolicyTrainer, "rollout_sums", both)
    trainer.train()
    assert len(compared) == 2  # two batches of rollouts for four optimizer steps
    assert max(compared) < 2e-4


def gradient(config, out, **loss_changes) -> torch.Tensor:
    trainer = trainer_for(config.model_copy(update=loss_changes), out)
    trainer.model.train()
    grads = []
    step = trainer.training_step

    def stop_after(model, inputs, number):
        loss = step(model, inputs, number)
        grads.append(torch.cat([p.grad.flatten().clone() for p in model.parameters() if p.grad is not None]))
        return loss

    trainer.training_step = stop_after
    trainer.train()
    return grads[0]


def test_joint_adds_its_contrastive_gradient(make_config, tmp_path):
    """With the same rollouts: weight 0 is symmetric, and the difference grows with the weight."""
    config = make_config(tmp_path, steps=1, evaluation=None, accumulate=2)
    symmetric = gradient(config, tmp_path / "s")
    none, some, twice = (
        gradient(config, tmp_path / str(weight), objective="joint", contrastive_weight=weight)
        for weight in (0.0, 0.3, 0.6)
    )
    torch.testing.assert_close(none, symmetric, atol=1e-6, rtol=1e-4)
    added = some - none
    assert added.norm() > 1e-3 * symmetric.norm()
    torch.testing.assert_close(twice - none, 2 * added, atol=1e-4, rtol=1e-2)


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8}], ids=["full", "lora"])
def test_the_retention_loss_holds_the_model_back(make_config, tmp_path, lora):
    drift = {}
    for weight in (1e-6, 10.0):
        config = make_config(
            tmp_path / str(weight), steps=6, evaluation=None, lora=lora, learning_rate=3e-3, retain_weight=weight
        )
        run.train(config, report=quiet)
        rows = [json.loads(line) for line in (tmp_path / str(weight) / "metrics.jsonl").read_text().splitlines()]
        assert rows[0]["retain"] == pytest.approx(0, abs=1e-4)  # before the first step it is the starting model
        drift[weight] = rows[-1]["retain"]
    assert 0 < drift[10.0] < 0.7 * drift[1e-6]


def interrupted(config, *, after: int, monkeypatch) -> None:
    """Run until the rewards of step ``after`` + 1 are to be computed, and die there."""
    score = policy.GraceReward.__call__

    def dying(self, **options):
        if self.trainer.state.global_step == after:
            raise KeyboardInterrupt
        return score(self, **options)

    with monkeypatch.context() as patch:
        patch.setattr(policy.GraceReward, "__call__", dying)
        with pytest.raises(KeyboardInterrupt):
            run.train(config, report=quiet)


def test_a_killed_run_goes_on_as_if_it_had_not_been(make_config, tmp_path, monkeypatch):
    items = []
    score = policy.GraceReward.__call__
    monkeypatch.setattr(policy.GraceReward, "__call__", lambda self, **o: items.append(o["item"]) or score(self, **o))
    whole, halves = make_config(tmp_path / "whole", steps=5), make_config(tmp_path / "halves", steps=5)
    run.train(whole, report=quiet)
    straight, items[:] = list(items), []
    interrupted(halves, after=3, monkeypatch=monkeypatch)
    assert newest_checkpoint(tmp_path / "halves").name == "checkpoint-2"
    partial = tmp_path / "halves" / "checkpoint-4"
    partial.mkdir()  # a checkpoint that was being written
    (partial / "trainer_state.json").write_text('{"global_st')
    items[:] = []
    assert run.train(halves, resume=True, report=quiet)["state"] == "finished"
    assert items == straight[2:]  # the data order goes on
    whole_rows, resumed_rows = (rows_of(tmp_path / name, "step") for name in ("whole", "halves"))
    assert [row["step"] for row in resumed_rows] == [1, 2, 3, 4, 5]
    for a, b in zip(whole_rows, resumed_rows, strict=True):
        assert b["reward"] == pytest.approx(a["reward"], abs=1e-3)  # and so do the random states, so the very rollouts
    assert [row["step"] for row in rows_of(tmp_path / "halves", "eval")] == [0, 2, 4, 5]


def test_lora_trains_adapters_and_saves_a_plain_model(make_config, tiny_models, tmp_path):
    config = make_config(tmp_path, objective="joint", lora={"r": 4, "alpha": 8}, learning_rate=1e-2, steps=4)
    trainer = trainer_for(config, tmp_path / "t")
    assert {name.split(".")[-3] for name, p in trainer.model.named_parameters() if p.requires_grad} == {
        "lora_A",
        "lora_B",
    }
    result = run.train(config.model_copy(update={"evaluation": None}), report=quiet)
    weights = GraceModel.from_pretrained(result["model"], device="cpu").model.state_dict()
    before = tiny_models["qwen2"].model.state_dict()
    assert set(weights) == set(before)
    changed = {name for name in before if not torch.equal(weights[name], before[name])}
    assert changed
    assert all("_proj.weight" in name for name in changed)


def test_merged_lora_weights_encode_like_the_live_model(make_config, tmp_path):
    config = make_config(tmp_path, lora={"r": 4, "alpha": 8}, learning_rate=1e-2, evaluation=None)
    trainer = trainer_for(config, tmp_path)
    trainer.train()
    from grace_core.training.checkpoints import full_state, save_model

    options = {"tokenizer": trainer.processing_class, "state": full_state(trainer), "config": config, "about": {}}
    save_model(tmp_path / "best", model=trainer.model, **options)
    with run.live_model(trainer, config, trainer.processing_class) as live:
        mine = live.encode(["a text", "another text"])
    saved = GraceModel.from_pretrained(tmp_path / "best", device="cpu").encode(["a text", "another text"])
    np.testing.assert_allclose(mine, saved, atol=1e-4)


def test_the_alarm_stops_a_constant_policy(make_config, new_model, tmp_path):
    """A model that always ends at once: every rationale is empty."""
    model = new_model("qwen2")
    with torch.no_grad():
        model.model.lm_head.weight.zero_()
        model.model.model.norm.weight.fill_(1.0)
    model.model.generation_config.eos_token_id = list(range(len(model.tokenizer)))  # every token ends
    model.save_pretrained(tmp_path / "constant")
    collapse = {"window": 2, "spread": 1e-4, "distinct": 0.05}
    config = make_config(tmp_path / "run", model=str(tmp_path / "constant"), steps=6, collapse=collapse)
    lines = []
    with pytest.raises(
        TrainingCollapsed, match=r"collapse at step 2: (reward_spread|distinct) is .* set collapse.action: warn"
    ):
        run.train(config, report=lines.append)
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "collapsed"
    assert len(rows_of(tmp_path / "run", "step")) == 2
    warning = make_config(
        tmp_path / "warn", model=str(tmp_path / "constant"), steps=3, collapse=collapse | {"action": "warn"}
    )
    assert run.train(warning, report=lines.append)["state"] == "finished"


def test_stops_early_when_nothing_gets_better(make_config, beir, tmp_path, monkeypatch):
    from grace_core.training.heldout import HeldOut

    monkeypatch.setattr(HeldOut, "evaluate", lambda *_, **__: ({"ndcg@10": 0.5}, []))
    evaluation = {"path": str(beir), "split": "dev", "every": 1, "queries": 4, "documents": 12, "patience": 2}
    result = run.train(make_config(tmp_path, steps=6, evaluation=evaluation), report=quiet)
    assert (result["state"], result["steps"], result["best"]["step"]) == ("stopped early", 2, 0)


def test_the_best_model_by_several_decodings(make_config, tmp_path):
    evaluation = make_config(tmp_path).evaluation.model_dump() | {"temperatures": [0, 1.5]}
    result = run.train(make_config(tmp_path / "run", evaluation=evaluation), report=quiet)
    for row in rows_of(tmp_path / "run", "eval"):
        scores = row["eval"]
        assert scores["ndcg@10"] == pytest.approx((scores["ndcg@10_at_0"] + scores["ndcg@10_at_1.5"]) / 2, abs=1e-4)
    assert result["best"]["ndcg@10"] == pytest.approx(
        max(row["eval"]["ndcg@10"] for row in rows_of(tmp_path / "run", "eval")), abs=1e-6
    )


def test_bad_input_is_refused_before_training(make_config, new_model, tmp_path):
    model = new_model("qwen2")
    model.tokenizer.chat_template = None
    model.save_pretrained(tmp_path / "plain")
    with pytest.raises(GraceError, match="no chat template"):
        run.train(make_config(tmp_path / "a", model=str(tmp_path / "plain")), report=quiet)
    with pytest.raises(GraceError, match="do not fit into the 4096 positions"):
        run.train(make_config(tmp_path / "b", max_prompt_tokens=4000, max_new_tokens=200), report=quiet)
    with pytest.raises(GraceError, match="cannot be shared out to 3 processes"):
        policy.make_trainer(
            make_config(tmp_path / "c"), run.load_for_training(make_config(tmp_path)), [], out=tmp_path, processes=3
        )
    assert not any((tmp_path / name / "metrics.jsonl").exists() for name in "abc")


def test_the_command(make_config, beir, tmp_path, grace):
    heldout = shutil.copytree(beir, tmp_path / "beir")
    with open(heldout / "qrels" / "dev.tsv", "a") as file:
        file.write("q6\tgone\t1\n")
    row = {"_id": "q6", "text": "river " * 200}
    queries = [json.loads(line) for line in (heldout / "queries.jsonl").read_text().splitlines()]
    (heldout / "queries.jsonl").write_text(
        "".join(json.dumps(row if query["_id"] == "q6" else query) + "\n" for query in queries)
    )
    config = make_config(tmp_path / "run", steps=1).model_dump() | {"out": str(tmp_path / "elsewhere")}
    config["evaluation"] |= {"path": str(heldout), "queries": 6}
    (tmp_path / "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    status, line, err = grace(
        "train", tmp_path / "config.yaml", "--set", f"out={tmp_path / 'run'}", "--set", "evaluation.probes=1"
    )
    assert status == 0
    assert line.startswith("finished after 1 steps, held-out nDCG@10 0.")
    assert line.strip().endswith(f": {tmp_path / 'run' / 'best'}")
    assert "step 1/1" in err
    assert f"note: {heldout}" in err
    assert "1 judgement of documents that the corpus lacks" in err
    assert "held-out texts are cut to fit max_prompt_tokens 128: raise it" in err
    assert "training texts are cut" not in err


@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_the_other_architectures_train(make_config, tiny_models, tmp_path, architecture):
    tiny_models[architecture].save_pretrained(tmp_path / architecture)
    config = make_config(
        tmp_path / "run", model=str(tmp_path / architecture), objective="joint", steps=1, evaluation=None
    )
    result = run.train(config, report=quiet)
    assert GraceModel.from_pretrained(result["model"], device="cpu").name == "best"
