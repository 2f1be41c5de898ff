"""The LoRA adapter that a run trains: a fresh one on the starting model, or, where that is an adapter itself,
this one further.

An adapter that is trained further keeps its base: the saved adapter names it, and a KL term compares with it.
"""

from __future__ import annotations

from grace_core.errors import GraceError
from grace_core.model import GraceModel
from grace_core.model_folders import base_name, is_adapter
from grace_core.sources import find_model
from grace_core.training.config import TrainConfig


def lora_config(config: TrainConfig):
    """PEFT's configuration of a fresh adapter."""
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora.r, lora_alpha=config.lora.alpha, target_modules=config.lora.targets, task_type="CAUSAL_LM"
    )


def with_lora(model: GraceModel, config: TrainConfig):
    """The module to train: the model as it is, or with an adapter if ``config.lora`` asks for one.

    Raises GraceError if the starting model is an adapter and ``config.lora`` is missing or has another shape.
    """
    begun = begun_adapter(model, config)
    if begun is not None or config.lora is None:
        return model.model if begun is None else begun
    from peft import get_peft_model

    return get_peft_model(model.model, lora_config(config))


def begun_adapter(model: GraceModel, config: TrainConfig):
    """PEFT's wrapper around a starting model that is an adapter, its weights in fp32 and ready to be trained;
    None for other models.
    """
    wrapped = model.adapter
    if wrapped is None:
        return None
    adapter = wrapped.peft_config["default"]
    if config.lora is None:
        raise GraceError(
            f"{config.model} is an adapter; give lora: {{r: {adapter.r}, alpha: {adapter.lora_alpha}}} to train it further"
        )
    if (adapter.r, adapter.lora_alpha) != (config.lora.r, config.lora.alpha):
        raise GraceError(
            f"{config.model} is an adapter with r {adapter.r} and alpha {adapter.lora_alpha}, got lora with r {config.lora.r} and alpha "
            f"{config.lora.alpha}; give the adapter's own"
        )
    adapter.inference_mode = False
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if ".lora_" in name:
            parameter.data = parameter.data.float()
    return wrapped


def base_of(name: str) -> str:
    """The base that an adapter names; of any other model, the model itself."""
    folder = find_model(name)
    return base_name(folder) if is_adapter(folder) else name
