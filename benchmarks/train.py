"""A training step of GRACE, compared with a plain GRPO step: TRL's GRPOTrainer on the same texts with a constant
reward.

``cost_of_method``  our seconds per token of prompts and rollouts over theirs. The plain step has no embeddings, no
similarities and no reward signal; all else (model, prompts, rollouts, KL, one optimizer step) is the same.

Both sample at temperature 1, so their tokens differ a little; hence seconds per token, medians over the steps
after the first.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from transformers import PrinterCallback, TrainerCallback

from grace_core.training.config import TrainConfig
from grace_core.training.data import Layout, batches, read_items
from grace_core.training.policy import make_trainer, trl_arguments
from grace_core.training.run import load_for_training


class _Clock(TrainerCallback):
    """Seconds per token of every step."""

    def __init__(self):
        self.rates: list[float] = []

    def on_step_begin(self, args, state, control, **_):
        self._began, self._tokens = time.perf_counter(), state.num_input_tokens_seen

    def on_step_end(self, args, state, control, **_):
        self.rates.append((time.perf_counter() - self._began) / (state.num_input_tokens_seen - self._tokens))


def run(
    model: str = "demo-base", *, objective: str = "symmetric", batch: int = 8, rollouts: int = 8, runs: int = 5
) -> dict:
    """``{ratios, seconds_per_thousand_tokens, runs, model, texts, threads}`` from ``runs`` timed steps of each."""
    import torch

    with tempfile.TemporaryDirectory() as scratch:
        config = TrainConfig(
            model=model,
            out=scratch,
            objective=objective,
            beta=0.0 if objective == "reference" else 0.05,
            batch=batch,
            rollouts=rollouts,
            max_prompt_tokens=256,
            max_new_tokens=96,
            steps=runs + 1,
            learning_rate=1e-6,
            evaluation=None,
            report_to=[],
        )
        rates = {"grace": _timed(_ours(config)), "plain_grpo": _timed(_plain(config))}
    medians = {name: statistics.median(steps[1:]) for name, steps in rates.items()}
    return {
        "ratios": {"cost_of_method": round(medians["grace"] / medians["plain_grpo"], 3)},
        "seconds_per_thousand_tokens": {name: round(1000 * rate, 3) for name, rate in medians.items()},
        "runs": runs,
        "model": model,
        "texts": batch * 3,
        "rollouts": rollouts,
        "objective": objective,
        "threads": torch.get_num_threads(),
    }


def _timed(trainer) -> list[float]:
    clock = _Clock()
    trainer.add_callback(clock)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return clock.rates


def _ours(config: TrainConfig):
    return make_trainer(config, load_for_training(config), read_items(config), out=Path(config.out))


def _plain(config: TrainConfig):
    """TRL's own trainer on the same rows in the same order."""
    from datasets import Dataset
    from trl import GRPOTrainer

    model, items, layout = load_for_training(config), read_items(config), Layout.of(config)
    order = batches(items, batch=config.batch, number=config.steps, seed=config.seed)
    texts = [getattr(items[place], role) for place in order for role in layout.roles]
    prompts = [[{"role": "system", "content": config.system}, {"role": "user", "content": text}] for text in texts]

    def constant(completions, **_) -> list[float]:
        return [0.0] * len(completions)

    return GRPOTrainer(
        model=model.model,
        reward_funcs=constant,
        processing_class=model.tokenizer,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        args=trl_arguments(config, layout, out=Path(config.out), steps=config.steps, processes=1),
    )
