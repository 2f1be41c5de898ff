"""Configurations: those that ship load; what cannot be trained is refused with the key, the value and a remedy."""

from __future__ import annotations

import pytest

from grace_core.errors import GraceError
from grace_core.training.config import load_config


def shipped(root):
    return sorted((root / "configs").glob("*.yaml"))


BACKBONES = ("qwen2.5-1.5b", "llama-3.2-3b", "qwen2.5-3b", "qwen3-4b")


def test_all_recipes_load(root):
    names = {path.stem for path in shipped(root)}
    assert {"smollm2-grace", "smollm2-cl", "smollm2-best-of-n", "smollm2-grace-after-best-of-n"} <= names
    assert {f"{backbone}-{mode}" for backbone in BACKBONES for mode in ("supervised", "unsupervised")} <= names
    assert {"demo-grace", "demo-grace-joint", "demo-grace-unsup", "demo-reference", "demo-cl", "demo-simcse"} <= names
    for path in shipped(root):
        assert load_config(path).out == f"runs/{path.stem}"


def test_the_papers_recipes_with_the_published_settings_and_with_lora(root):
    for path in (path for path in shipped(root) if path.stem.startswith(BACKBONES)):
        paper = load_config(path, ["extends=common/paper.yaml"])
        assert (paper.objective, paper.batch, paper.rollouts, paper.minibatches) == ("reference", 64, 8, 4)
        assert (paper.learning_rate, paper.beta, paper.epsilon, paper.delta, paper.epochs) == (1e-6, 0, 0.2, 3.0, 2)
        lora = load_config(path, ["lora={r: 8}", "learning_rate=1e-5"])
        assert (lora.lora.r, lora.lora.alpha, lora.learning_rate) == (8, 32, 1e-5)


def test_overrides_reach_into_sections(root):
    config = load_config(
        root / "configs" / "demo-grace.yaml", ["evaluation.every=5", "data.limit=40", "evaluation.patience=null"]
    )
    assert (config.evaluation.every, config.evaluation.patience, config.data.limit) == (5, None, 40)
    assert config.evaluation.queries == 400  # the rest of the section stays


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rollouts=1"], "rollouts: Input should be greater than or equal to 2, got 1"),
        (["batch=1"], "batch: Input should be greater than or equal to 2, got 1"),
        (
            ["accumulate=7"],
            "batch 16 × rollouts 8 = 128 cannot be cut into minibatches 1 × accumulate 7 = 7 equal pieces",
        ),
        (["learning_rates=1"], "learning_rates: there is no such setting"),
        (["data.paths=x"], "data.paths: there is no such setting"),
        (["epochs=1"], "give either epochs or steps"),
        (["data.format=texts"], "supervised training needs pairs"),
        (["method=cl", "mode=unsupervised"], "method cl is supervised"),
        (["reward_geometry=raw"], "is for calibrated runs that write rationales, got geometry raw"),
        (["objective=reference"], "no KL term, got beta 0.05"),
        (["minibatches=4", "save_every=6"], "save_every 6 falls between the 4 minibatches"),
        (["learning_rate=fast"], "learning_rate: Input should be a valid number, got 'fast'"),
        (["steps"], "expected key=value"),
    ],
)
def test_what_cannot_be_trained_is_refused(root, overrides, message):
    with pytest.raises(GraceError) as error:
        load_config(root / "configs" / "demo-grace.yaml", overrides)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_no_configuration(tmp_path):
    with pytest.raises(GraceError, match="does not exist"):
        load_config(tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("model: [")
    with pytest.raises(GraceError, match="no readable YAML"):
        load_config(bad)
    bad.write_text("- a\n")
    with pytest.raises(GraceError, match="holds list"):
        load_config(bad)
    bad.write_text("extends: bad.yaml\n")
    with pytest.raises(GraceError, match="extends itself"):
        load_config(bad)
