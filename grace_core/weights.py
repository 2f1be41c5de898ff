"""Weights that are in memory once for all models of a process that are made from them.

Every model has its own tree of modules over the same tensors, and an adapter is put into its own tree only.
So nothing is switched on and off, and a model and its adapted brother may run at the same time, each in its
own thread.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from weakref import WeakValueDictionary

import torch

from grace_core.errors import GraceError, first_line
from grace_core.model_folders import ADAPTER_WEIGHTS, adapter_config

_held: WeakValueDictionary = WeakValueDictionary()  # what was loaded from where -> a tree that nobody runs
_lock = Lock()


def shared(folder: Path, dtype: str, device: str, load: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """What ``load`` gives, or what it gave before for the same files, precision and device, as long as
    somebody keeps that.

    Run copies of it (:func:`twin`), never itself. Weights that were changed in place since are not given out again.
    """
    files = sorted(path for pattern in ("*.safetensors", "*.json") for path in folder.glob(pattern))
    stamp = tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    key = (str(folder.resolve()), stamp, dtype, device)
    with _lock:
        model = _held.get(key)
        if model is None or versions(model) != model.loaded_versions:
            model = load()
            model.loaded_versions = versions(model)
            _held[key] = model
        return model


def versions(model: torch.nn.Module) -> list[int]:
    """How often each parameter was changed in place; trees over the same tensors count together."""
    return [parameter._version for parameter in model.parameters()]


def twin(model: torch.nn.Module) -> torch.nn.Module:
    """A model of its own over the same tensors.

    Casting or moving it leaves the other as it is; writing into its weights does not.
    """
    own = {id(held): torch.nn.Parameter(held.detach(), requires_grad=held.requires_grad) for held in model.parameters()}
    return copy.deepcopy(model, own | {id(held): held for held in model.buffers()})


def with_adapter(model: torch.nn.Module, folder: Path):
    """Put a LoRA adapter into ``model``, a twin; returns PEFT's wrapper around it.

    Raises GraceError if PEFT is missing, or the adapter does not fit: it was made for another base.
    """
    try:
        from peft import PeftConfig, PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
    except ImportError as error:
        raise GraceError(
            f"{folder} is an adapter, for which the package peft is needed: pip install 'peft>=0.21,<0.22'"
        ) from error
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    name = adapter_config(folder)["base_model_name_or_path"]
    try:
        with warnings.catch_warnings(action="ignore"):  # of fields that PEFT does not know, our base_sha256 among them
            config = PeftConfig.from_pretrained(str(folder))
        config.inference_mode = True
        given = load_file(folder / ADAPTER_WEIGHTS)
    except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
        raise GraceError(f"the adapter {folder} cannot be read ({first_line(error)}); save it again") from error
    try:
        wrapped = PeftModel(model, config, autocast_adapter_dtype=False)
    except (ValueError, RuntimeError, TypeError, KeyError, AttributeError, ImportError) as error:
        reason = first_line(error)
        raise GraceError(
            f"the adapter {folder} does not fit its base {name!r} ({reason}); was it made for another one?"
        ) from error
    wanted = {
        key: tuple(value.shape)
        for key, value in get_peft_model_state_dict(wrapped, save_embedding_layers=False).items()
    }
    shapes = {key: tuple(value.shape) for key, value in given.items()}
    for key in [*wanted, *shapes]:  # a tensor too many would be written into the base's own
        if wanted.get(key) != shapes.get(key):
            raise GraceError(
                f"the adapter {folder} does not fit its base {name!r}: {key} is {_shape(shapes.get(key))} in the adapter, and "
                f"{_shape(wanted.get(key))} is expected; was it made for another one, or does it change the vocabulary? Then merge it"
            )
    set_peft_model_state_dict(wrapped, given)
    reference = next(model.parameters())
    for key, parameter in model.named_parameters():
        if ".lora_" in key or ".modules_to_save." in key:
            parameter.data = parameter.data.to(reference.device, reference.dtype)
    model.eval()
    return wrapped


def _shape(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else " × ".join(map(str, shape))
