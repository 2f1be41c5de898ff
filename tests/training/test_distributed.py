"""Two processes on the CPU (gloo) give the rewards that one gives for the same batch, and a run of them completes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.slow

# The scripts leave by os._exit once all is done: native threads of the libraries sometimes abort the
# interpreter's way out.
SCORE = """
import json, os, sys, torch
from grace_core.training import policy, run
from grace_core.training.config import TrainConfig
from grace_core.training.data import read_items
from grace_core.training.states import Rollout

config = TrainConfig.model_validate_json(open(sys.argv[1]).read())
from accelerate import PartialState
world = PartialState(cpu=True).num_processes
from pathlib import Path
trainer = policy.make_trainer(config, run.load_for_training(config), read_items(config), out=Path(config.out), processes=world)
rows = [trainer.train_dataset[i] for i in range(config.batch * len(trainer.layout.roles)) for _ in range(config.rollouts)]
generator = torch.Generator().manual_seed(7)  # rollouts that are the same however many processes there are
made = [torch.randint(3, 600, (int(torch.randint(1, 9, (1,), generator=generator)),), generator=generator).tolist() for _ in rows]
made = [ids + [trainer.eos_token_ids[0]] if i % 3 else ids for i, ids in enumerate(made)]
mine = slice(len(rows) // world * trainer.accelerator.process_index, len(rows) // world * (trainer.accelerator.process_index + 1))
trainer.rollouts = [Rollout.of(trainer.builder.build(r["prompt"]), ids, trainer.end_ids) for r, ids in zip(rows[mine], made[mine])]
measured = {}
texts = {"prompts": [row["prompt"] for row in rows[mine]], "completions": trainer._tokenizer.batch_decode(made[mine])}
local = trainer.reward(**texts, completion_ids=made[mine], log_metric=measured.__setitem__)
everyone = trainer.accelerator.gather(torch.tensor(local)).tolist()
if trainer.accelerator.is_main_process:
    print("RESULT " + json.dumps({"rewards": everyone, "measured": measured}), flush=True)
PartialState().wait_for_everyone()
PartialState().destroy_process_group()
os._exit(0)
"""

TRAIN = """
import json, os, sys
from grace_core.training import run
from grace_core.training.config import TrainConfig

result = run.train(TrainConfig.model_validate_json(open(sys.argv[1]).read()))
print("RESULT " + json.dumps({"state": result["state"], "best": result["best"]}), flush=True)
from accelerate import PartialState

PartialState().wait_for_everyone()
PartialState().destroy_process_group()
os._exit(0)
"""


@pytest.fixture
def launch(root, tmp_path):
    """Runs a script under torchrun: ``launch(code, config, processes) -> [what each process gave as its result]``."""

    def run(code: str, config, processes: int) -> list[dict]:
        (tmp_path / "script.py").write_text(code, encoding="utf-8")
        (tmp_path / "config.json").write_text(config.model_dump_json(), encoding="utf-8")
        environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        environment |= {"CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        done = subprocess.run(
            [*command, str(tmp_path / "script.py"), str(tmp_path / "config.json")],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=560,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return [
            json.loads(line.removeprefix("RESULT ")) for line in done.stdout.splitlines() if line.startswith("RESULT ")
        ]

    return run


def test_two_processes_give_the_rewards_of_one(launch, make_config, tmp_path):
    config = make_config(tmp_path / "run", evaluation=None)
    (single,), (double,) = launch(SCORE, config, 1), launch(SCORE, config, 2)
    torch.testing.assert_close(torch.tensor(double["rewards"]), torch.tensor(single["rewards"]), atol=1e-5, rtol=1e-5)
    assert double["measured"] == pytest.approx(single["measured"], abs=1e-5)
    assert len(set(single["rewards"])) > 16


def test_a_run_of_two_processes_completes(launch, make_config, tmp_path):
    config = make_config(tmp_path / "run", objective="joint", accumulate=2)
    results = launch(TRAIN, config, 2)
    assert [result["state"] for result in results] == ["finished", "finished"]
    assert results[0]["best"] == results[1]["best"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]  # one process writes
    assert (tmp_path / "run" / "best" / "model.safetensors").exists()
