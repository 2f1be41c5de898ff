"""Checks whether a folder holds a causal language model, an adapter of one, or something else."""

from __future__ import annotations

import json
from pathlib import Path

from grace_core.errors import GraceError
from grace_core.files import read_json
from grace_core.geometry import FILE as STATISTICS_FILE
from grace_core.gguf_files import convert, gguf_in

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SHARDS = "model.safetensors.index.json"
LONGEST_HEAD = 100_000_000  # bytes, the limit of safetensors itself
TOKENIZERS = ("*token*", "vocab*", "merges.txt", "*.model", "tekken.json", "*.tiktoken")
FOREIGN_WEIGHTS = {  # weights in the formats of other programs
    "*.onnx": "ONNX",
    "onnx/*.onnx": "ONNX",
    "*.h5": "TensorFlow",
    "*.msgpack": "Flax",
    "*.mlmodel": "Core ML",
    "*.npz": "MLX",
    "*.engine": "TensorRT",
    "*.mlc": "MLC",
    "*.tflite": "TensorFlow Lite",
    "openvino_model.*": "OpenVINO",
}
CAUSAL = ("ForCausalLM", "LMHeadModel")
HEADLESS = (
    "Model",
    "ForMaskedLM",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForPreTraining",
)


def weight_files(folder: Path) -> list[Path]:
    """A folder's weights in safetensors, without those of an adapter and without statistics."""
    return sorted(path for path in folder.glob("*.safetensors") if path.name not in (ADAPTER_WEIGHTS, STATISTICS_FILE))


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds a LoRA adapter and no whole model."""
    return (folder / ADAPTER_CONFIG).exists() and not weight_files(folder)


def usable(folder: Path) -> Path:
    """The folder to load: this one, or the one that its GGUF file was converted to.

    Raises GraceError with what the folder holds instead of a causal language model, and what to do.
    """
    if is_adapter(folder):
        if not (folder / ADAPTER_WEIGHTS).exists():
            raise GraceError(
                f"{folder} is an adapter without {ADAPTER_WEIGHTS}; save it again with peft's save_pretrained"
            )
        return folder
    if not weight_files(folder) and (path := gguf_in(folder)):
        return convert(path)
    if not (folder / "config.json").exists():
        raise GraceError(_without_config(folder))
    _check_kind(folder, _config(folder))
    if not weight_files(folder):
        raise GraceError(_without_weights(folder))
    for path in weight_files(folder):
        _check_weights(path)
    _check_shards(folder)
    if not any(any(folder.glob(pattern)) for pattern in TOKENIZERS):
        raise GraceError(
            f"{folder} holds a model without its tokenizer; fetch or save tokenizer.json and the like into it too"
        )
    return folder


def _check_weights(path: Path) -> None:
    """Raises GraceError for a safetensors file that is incomplete, by the length in its header."""
    size, pointer, cause = path.stat().st_size, b"version https://git-lfs", None
    with path.open("rb") as file:
        start = file.read(len(pointer))
        length = int.from_bytes(start[:8], "little")
        file.seek(8)
        head = file.read(length) if length <= min(size, LONGEST_HEAD) else b""
    if start == pointer:
        raise GraceError(f"{path} is a Git LFS pointer, expected the weights; fetch them with `git lfs pull`")
    try:
        tensors = [entry for name, entry in json.loads(head).items() if name != "__metadata__"]
        expected = 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0)
    except (ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        expected, cause = None, error
    if expected != size:
        what = (
            "it begins like no safetensors file"
            if expected is None
            else f"it has {size:,} bytes, expected {expected:,}"
        )
        message = f"{path} is not a causal language model that can be loaded: {what}; it is cut off or damaged, fetch or save it again"
        raise GraceError(message) from cause


def _check_shards(folder: Path) -> None:
    """Raises GraceError if a file that the index of the weights names is missing."""
    if (folder / "model.safetensors").exists() or not (folder / SHARDS).exists():
        return
    names = read_json(folder / SHARDS, "fetch or save the model again").get("weight_map")
    missing = (
        sorted({str(name) for name in names.values() if not (folder / str(name)).exists()})
        if isinstance(names, dict)
        else [SHARDS]
    )
    if missing:
        raise GraceError(
            f"{folder} lacks {', '.join(missing)[:200]}, which {SHARDS} names; fetch or save the whole model"
        )


def _config(folder: Path) -> dict:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise GraceError(f"{folder / 'config.json'} cannot be read ({error}); save or fetch the model again") from error
    if not isinstance(config, dict):
        raise GraceError(
            f"{folder / 'config.json'} holds a {type(config).__name__}, expected an object; save or fetch the model again"
        )
    return config


def stored_dtype(folder: Path) -> str | None:
    """The precision of a model's weights by its config.json; None if it names none."""
    config = _config(folder)
    text = config.get("text_config") or {}
    return config.get("dtype") or config.get("torch_dtype") or text.get("dtype") or text.get("torch_dtype")


def _without_config(folder: Path) -> str:
    if (folder / "modules.json").exists():
        return (
            f"{folder} is a sentence-transformers folder, an encoder that writes no text; name a causal language model"
        )
    if (folder / "model_index.json").exists():
        return f"{folder} is a diffusion pipeline, which makes images; name a causal language model"
    if kind := next((kind for pattern, kind in FOREIGN_WEIGHTS.items() if any(folder.glob(pattern))), None):
        return f"{folder} has its weights for {kind} only, and no config.json; take the safetensors of this model"
    within = sorted(
        str(path.parent.relative_to(folder))
        for depth in ("*", "snapshots/*")
        for path in folder.glob(f"{depth}/config.json")
    )
    if within:
        return f"{folder} holds no model itself; name one of the folders in it: {', '.join(within[-5:])[:200]}"
    if any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        return f"{folder} holds a tokenizer alone, without config.json and weights; name the folder that the whole model was saved to"
    return f"{folder} is a folder without config.json, so not a model; name the folder that a model was saved to"


def _without_weights(folder: Path) -> str:
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickles:
        return (
            f"{folder} has its weights as {pickles[0]} only, a pickle, which may run code when it is read; take the safetensors of this "
            "model, or, if you trust it, convert it: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(new_folder)"
        )
    for pattern, kind in FOREIGN_WEIGHTS.items():
        if any(folder.glob(pattern)):
            return f"{folder} has its weights for {kind} only; take the safetensors of this model"
    return f"{folder} has a config.json but no *.safetensors; fetch or save the weights too"


def _check_kind(folder: Path, config: dict) -> None:
    """Raises GraceError for a model that is no causal language model, by the class that its config.json names."""
    classes = [name for name in config.get("architectures") or [] if isinstance(name, str)]
    if (
        not classes
        or any(name.endswith(CAUSAL) for name in classes)
        or "AutoModelForCausalLM" in (config.get("auto_map") or {})
    ):
        return
    name, way_out = classes[0], "name a causal language model (its config.json says …ForCausalLM)"
    if "vision_config" in config or "VL" in name or "Vision" in name:
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

        if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
            return
        raise GraceError(
            f"{folder} holds a vision-language model ({name}), which cannot be used here; take the text model of its family"
        )
    if name.endswith("ForConditionalGeneration") or config.get("is_encoder_decoder"):
        raise GraceError(f"{folder} holds an encoder-decoder ({name}), which has no single stack to pool; {way_out}")
    if (folder / "modules.json").exists():
        raise GraceError(
            f"{folder} is a sentence-transformers model ({name}), an encoder that writes no text; {way_out}"
        )
    if name.endswith(HEADLESS):  # unknown classes are left to transformers
        raise GraceError(
            f"{folder} holds an encoder or a model without a language-modelling head ({name}): it writes no text; {way_out}"
        )


def adapter_config(folder: Path) -> dict:
    """An adapter's configuration. Raises GraceError if it is no LoRA adapter of a causal language model."""
    config = read_json(folder / ADAPTER_CONFIG, "save the adapter again")
    if config.get("peft_type") != "LORA":
        kind = config.get("peft_type")
        raise GraceError(
            f"{folder} is an adapter of the kind {kind!r}, expected LORA; merge it into its base and save that"
        )
    if config.get("task_type") not in (None, "CAUSAL_LM"):
        what = f"{folder} is an adapter for {config['task_type']}, expected CAUSAL_LM: it writes no text"
        raise GraceError(f"{what}; take one of a causal language model")
    return config


def base_name(folder: Path) -> str:
    """The name or path of an adapter's base. Raises GraceError if it has none."""
    name = adapter_config(folder).get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise GraceError(f"{folder} names no base; write it as base_model_name_or_path into its {ADAPTER_CONFIG}")
    beside = folder / name
    return str(beside) if name.startswith(".") and beside.is_dir() else name
