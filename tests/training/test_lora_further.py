"""An adapter that is trained further: it begins where it was, keeps its base, and is compared with that."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from grace_core.errors import GraceError
from grace_core.model import GraceModel
from grace_core.training import best_of_n, contrastive, policy, run
from grace_core.training.callbacks import read_rows
from grace_core.training.data import read_items

LORA = {"r": 4, "alpha": 8, "merge": False}
TRAINERS = {"grace": policy, "best_of_n": best_of_n, "cl": contrastive}
TEXTS = ["the river rises in mountains", "old town people come every summer"]


def quiet(_line: str) -> None:
    pass


@pytest.fixture(scope="module")
def adapter(make_config, tmp_path_factory):
    """The last adapter of a run in the calibrated geometry, moved well away from its base."""
    out = tmp_path_factory.mktemp("begun") / "run"
    config = make_config(out, geometry="calibrated", lora=LORA, learning_rate=3e-2, steps=3)
    run.train(config, report=quiet)
    return out / "last"


def config_of(make_config, out, adapter, method="grace", **changes):
    settings = {"model": str(adapter), "method": method, "geometry": "calibrated", "lora": LORA, "learning_rate": 1e-2}
    if method == "best_of_n":
        settings |= {"steps": None, "best_of_n": {"rounds": 1, "batches": 1, "texts": 8}}
    return make_config(out, **(settings | changes))


@pytest.mark.parametrize("method", TRAINERS)
def test_training_begins_where_the_adapter_was(make_config, adapter, tmp_path, method):
    config = config_of(make_config, tmp_path, adapter, method, evaluation=None)
    model = run.load_for_training(config)
    trainer = TRAINERS[method].make_trainer(config, model, read_items(config), out=tmp_path)
    trained = {name: p for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert {name.split(".")[-3] for name in trained} == {"lora_A", "lora_B"}
    assert {p.dtype for p in trained.values()} == {torch.float32}
    expected = GraceModel.from_pretrained(adapter, device="cpu", dtype="float32")
    np.testing.assert_allclose(trainer.calibration.statistics().means, expected.statistics.means, atol=1e-6)
    with run.live_model(trainer, config, model.tokenizer) as live:
        mine = live.represent(TEXTS)
    theirs = expected.represent(TEXTS, max_prompt_tokens=128, max_new_tokens=8)
    assert mine.rationale_ids == theirs.rationale_ids
    np.testing.assert_allclose(mine.sums, theirs.sums, atol=1e-3)


@pytest.mark.parametrize("method", TRAINERS)
def test_what_is_saved_names_the_base_of_the_adapter(make_config, adapter, tiny_folder, tmp_path, method):
    config = config_of(make_config, tmp_path / "run", adapter, method)
    run.train(config, report=quiet)
    last = tmp_path / "run" / "last"
    about = json.loads((last / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == str(tiny_folder)
    weights = [
        {
            name: p.float()
            for name, p in GraceModel.from_pretrained(folder, device="cpu", share=False).model.named_parameters()
        }
        for folder in (last, adapter)
    ]
    changed = {name for name, weight in weights[0].items() if not torch.equal(weight, weights[1][name])}
    assert changed
    assert all(".lora_" in name for name in changed)


def test_the_kl_is_that_to_the_base(make_config, adapter, tmp_path):
    """So it is there before the first step, as it is not for a fresh adapter."""
    fresh = config_of(make_config, tmp_path / "fresh", make_config(tmp_path).model, steps=1, evaluation=None, beta=0.1)
    further = config_of(make_config, tmp_path / "further", adapter, steps=1, evaluation=None, beta=0.1)
    divergences = {}
    for config in (fresh, further):
        run.train(config, report=quiet)
        divergences[config.out] = read_rows(tmp_path / config.out / "metrics.jsonl")[0]["kl"]
    assert divergences[fresh.out] == pytest.approx(0, abs=1e-6)
    assert divergences[further.out] > 1e-3


def test_a_killed_run_goes_on(make_config, adapter, tmp_path, monkeypatch):
    configs = [config_of(make_config, tmp_path / name, adapter, steps=4, beta=0.1) for name in ("whole", "halves")]
    run.train(configs[0], report=quiet)
    score = policy.GraceReward.__call__

    def dying(self, **options):
        if self.trainer.state.global_step == 3:
            raise KeyboardInterrupt
        return score(self, **options)

    with monkeypatch.context() as patch:
        patch.setattr(policy.GraceReward, "__call__", dying)
        with pytest.raises(KeyboardInterrupt):
            run.train(configs[1], report=quiet)
    run.train(configs[1], resume=True, report=quiet)
    whole, resumed = (
        [row for row in read_rows(tmp_path / n / "metrics.jsonl") if "loss" in row] for n in ("whole", "halves")
    )
    for name in ("reward", "kl", "loss"):
        assert [row[name] for row in resumed] == pytest.approx([row[name] for row in whole], abs=1e-3)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (None, r"is an adapter; give lora: \{r: 4, alpha: 8\} to train it further"),
        ({"r": 8, "alpha": 8, "merge": False}, "is an adapter with r 4 and alpha 8, got lora with r 8 and alpha 8"),
    ],
    ids=["none", "another rank"],
)
def test_an_adapter_of_another_shape_is_refused(make_config, adapter, tmp_path, lora, message):
    with pytest.raises(GraceError, match=message):
        run.train(config_of(make_config, tmp_path, adapter, lora=lora), report=quiet)
