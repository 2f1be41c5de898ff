"""The folders that a run writes: the best model as a plain model folder, and the trainer's checkpoints.

``best/`` holds safetensors, tokenizer and grace_config.json, and GraceModel.from_pretrained reads it. LoRA
weights are merged into it,

    W = W_base + (alpha / r) B A

unless ``lora.merge`` is false: then the folder holds the adapter alone, which names its base. A run in the
calibrated geometry stores its running statistics beside them.

``checkpoint-N/`` is written by transformers' Trainer: the weights are safetensors, but its arguments and the
states of optimizer, scheduler and random generators are torch's own ``.bin``, ``.pt`` and ``.pth`` files,
pickles that it reads back with ``weights_only=True`` or not at all. They serve only to resume a run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from grace_core.files import write_json
from grace_core.geometry import FILE as STATISTICS_FILE
from grace_core.geometry import Statistics
from grace_core.loading import BASE_HASH, folder_fingerprint
from grace_core.model import SETTINGS_FILE, Settings
from grace_core.model_folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from grace_core.sources import find_model, packaged_folder
from grace_core.training.config import TrainConfig
from grace_core.training.lora import base_of


def settings_of(config: TrainConfig, *, serving: bool = True) -> Settings:
    """The settings of the trained model: the prompt and limits of training, with ``serving`` the limits of that
    section where it sets them; greedy decoding.
    """
    limits = {"max_prompt_tokens": config.max_prompt_tokens, "max_new_tokens": config.max_new_tokens}
    if serving:
        limits |= {name: value for name, value in config.serving.model_dump().items() if value}
    return Settings(system=config.system, template=config.template, **limits)


def merged_state(state: dict[str, Tensor], *, scale: float) -> dict[str, Tensor]:
    """The weights of a plain model, under its own names, from those of a PEFT model whose LoRA adapters are
    merged in fp32.
    """
    merged = {}
    for name, weight in state.items():
        name = name.removeprefix("base_model.model.")
        if ".lora_" in name:
            continue
        if ".base_layer." in name:
            stem, kind = name.split(".base_layer.")
            a, b = (state.get(f"base_model.model.{stem}.lora_{side}.default.weight") for side in "AB")
            if kind == "weight" and a is not None:
                weight = (weight.float() + scale * b.float() @ a.float()).to(weight.dtype)
            name = f"{stem}.{kind}"
        merged[name] = weight
    return merged


def save_model(
    folder: Path,
    *,
    model,
    tokenizer,
    state: dict[str, Tensor],
    config: TrainConfig,
    about: dict,
    statistics: Statistics | None = None,
) -> None:
    """Writes a model folder beside ``folder`` and then moves it there, so that there is always a complete one.

    ``model`` is unwrapped; ``state`` its full weights (gathered, if it is sharded). ``about`` goes into
    training.json. An adapter that is not to be merged is saved as one, in bfloat16, with the name and the
    hash of its base.
    """
    finish_saving(folder)
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    if config.lora and not config.lora.merge:
        _save_adapter(fresh, model, state, config)
    else:
        plain = model.get_base_model() if hasattr(model, "get_base_model") else model
        if config.lora:
            state = merged_state(state, scale=config.lora.alpha / config.lora.r)
        plain.save_pretrained(fresh, state_dict=state)
        tokenizer.save_pretrained(fresh)
    write_json(fresh / SETTINGS_FILE, asdict(settings_of(config)))
    write_json(fresh / "training.json", about | {"config": config.model_dump()})
    if statistics is not None:
        statistics.save(fresh / STATISTICS_FILE)
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def finish_saving(folder: Path) -> None:
    """Completes a :func:`save_model` that was killed: once the old folder is moved away, the new one is complete."""
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    if old.exists() and not folder.exists():
        os.replace(fresh if fresh.exists() else old, folder)
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)


def _save_adapter(folder: Path, model, state: dict[str, Tensor], config: TrainConfig) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    adapter = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
    save_file(
        {name: weight.to(torch.bfloat16).contiguous() for name, weight in adapter.items()}, folder / ADAPTER_WEIGHTS
    )
    about = model.peft_config["default"].to_dict() | {
        "base_model_name_or_path": (base := base_of(config.model)),
        "inference_mode": True,
    }
    if packaged_folder(base) is None:  # a packaged model is found by its name and has its own hash
        about |= {BASE_HASH: folder_fingerprint(find_model(base))}
    write_json(
        folder / ADAPTER_CONFIG,
        {name: sorted(value) if isinstance(value, set) else value for name, value in about.items()},
    )


def newest_checkpoint(out: Path) -> Path | None:
    """The newest complete checkpoint of a run: trainer_state.json is among the last files that it gets."""
    checkpoints = [
        path for path in out.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name) and _whole(path)
    ]
    return max(checkpoints, key=lambda path: int(path.name.split("-")[1]), default=None)


def _whole(folder: Path) -> bool:
    try:
        step = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["global_step"]
    except (OSError, ValueError, KeyError):
        return False
    return step == int(folder.name.split("-")[1])


def trained_module(trainer):
    """The causal LM that the trainer trains, with PEFT's wrapper if there is one, without that of data
    parallelism.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    return model[0].causal_lm if isinstance(model, torch.nn.Sequential) else model


def sharded(trainer) -> bool:
    """Whether a process holds only a part of the weights."""
    return trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled


def full_state(trainer) -> dict[str, Tensor]:
    """All weights of the causal LM, on the main process. Every process must call it: sharded weights are gathered."""
    if sharded(trainer):
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
        return {name.removeprefix("0.lm."): weight for name, weight in state.items()}
    return dict(trained_module(trainer).state_dict())
