"""``grace train``: reads the configuration, trains, and says where the model lies."""

from __future__ import annotations

from pathlib import Path


def train_command(config: Path, overrides: list[str], *, resume: bool = False) -> tuple[dict, str]:
    """Train as ``config`` says; returns the result (see :func:`grace_core.training.run.train`) and the same as one line of text.

    Progress goes to stderr. Raises GraceError for a bad configuration before any model is loaded.
    """
    from grace_core.training.config import load_config

    checked = load_config(config, overrides)
    from transformers.utils import logging

    from grace_core.training.run import train

    logging.disable_progress_bar()
    result = train(checked, resume=resume)
    best = result["best"]
    score = f", held-out nDCG@10 {best['ndcg@10']:.4f} at step {best['step']}" if best else ""
    return result, f"{result['state']} after {result['steps']} steps{score}: {result['model']}"
