"""Runs that were killed while they saved: the best model is there again, and whole."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

from grace_core.model import GraceModel
from grace_core.training import run
from grace_core.training.checkpoints import finish_saving


def quiet(_line: str) -> None:
    pass


@pytest.mark.parametrize("lora", [None, {"r": 4, "alpha": 8, "merge": False}])
def test_a_run_without_evaluation_that_was_killed_before_it_saved(make_config, tmp_path, lora):
    config = make_config(tmp_path / "run", evaluation=None, save_every=1, learning_rate=1e-2, lora=lora)
    best = run.train(config, report=quiet)["model"]
    wanted = GraceModel.from_pretrained(best, device="cpu", share=False).model.state_dict()
    shutil.rmtree(best)
    assert run.train(config, resume=True, report=quiet)["state"] == "finished"
    saved = GraceModel.from_pretrained(best, device="cpu", share=False).model.state_dict()
    assert saved.keys() == wanted.keys()
    assert all(torch.equal(saved[name], wanted[name]) for name in wanted)


def tree(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_model_is_put_in_its_place_whatever_the_moment_of_a_kill(tmp_path):
    new, old, best = tmp_path / ".best.new", tmp_path / ".best.old", tmp_path / "best"
    for folder in (new, best):
        folder.mkdir()
        (folder / "weights").write_text(folder.name)

    finish_saving(best)  # killed while the new one was written
    assert tree(tmp_path) == {"best/weights": "best"}

    shutil.copytree(best, new)
    (new / "weights").write_text("new")
    os.replace(best, old)  # killed between the two moves
    finish_saving(best)
    assert tree(tmp_path) == {"best/weights": "new"}

    shutil.copytree(best, old)  # killed before the old one was removed
    finish_saving(best)
    finish_saving(best)
    assert tree(tmp_path) == {"best/weights": "new"}

    os.replace(best, old)  # as an older version may have left it
    finish_saving(best)
    assert tree(tmp_path) == {"best/weights": "new"}
