"""Loads a model's folder for GraceModel: tokenizer and weights, or tokenizer and an engine in another process."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch

from grace_core.errors import GraceError
from grace_core.files import read_json
from grace_core.geometry import FILE as STATISTICS_FILE
from grace_core.model_folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, base_name, is_adapter, stored_dtype
from grace_core.precision import default_dtype
from grace_core.settings import SETTINGS_FILE, Settings
from grace_core.sources import DEMO_MODELS_DIR, base_folder, first_line, packaged_folder
from grace_core.weights import shared, twin, with_adapter

BASE_HASH = "base_sha256"  # in an adapter's settings or configuration: the fingerprint of the base that it was made for


@dataclass
class Loaded:
    """``parts`` are arguments of GraceModel; ``weights`` must live as long as the model, so that others can share them."""

    parts: dict
    weights: torch.nn.Module | None = None
    adapter: object = field(default=None, repr=False)  # PEFT's wrapper around the model, if it has an adapter


def saved_settings(name: str | Path, folder: Path) -> dict:
    """A model's saved settings: ours for a packaged model, else those in its folder; for an adapter without any,
    those of its base.
    """
    file = (packaged_folder(name) or folder) / SETTINGS_FILE
    if file.exists():
        return {key: value for key, value in read_json(file, "correct or remove it").items() if key != BASE_HASH}
    return saved_settings(base_name(folder), base_folder(folder)) if is_adapter(folder) else {}


def folder_fingerprint(folder: Path) -> str:
    """SHA-256 over a model's files; for an adapter over its base's fingerprint and its own files."""
    digest = hashlib.sha256()
    if is_adapter(folder):
        digest.update(folder_fingerprint(base_folder(folder)).encode())
        patterns = (ADAPTER_CONFIG, ADAPTER_WEIGHTS, "tokenizer*.json", "*.jinja")
    else:
        patterns = ("*.safetensors", "config.json", "generation_config.json", "tokenizer*.json", "*.jinja")
    names = {path.name for pattern in patterns for path in folder.glob(pattern)} - {STATISTICS_FILE}
    for name in sorted(names):
        digest.update(name.encode())
        with open(folder / name, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def load_for_transformers(
    folder: Path, device: str | None, dtype: str | None, trust_remote_code: bool, share: bool
) -> Loaded:
    """Model and tokenizer. With ``share`` the weights are shared with models in this process from the same files."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:
        raise GraceError(f"device {device!r} cannot be used here: {first_line(error)}; use cpu") from error
    adapter, base = (folder, base_folder(folder)) if is_adapter(folder) else (None, folder)
    if adapter is not None:
        _check_base(adapter, base)
    # the indexes that ship were built with the demo models in float32
    stored = "float32" if base.parent == DEMO_MODELS_DIR else stored_dtype(base)
    chosen = dtype or default_dtype(device, stored)

    def read() -> torch.nn.Module:
        options = {"dtype": getattr(torch, chosen), "trust_remote_code": trust_remote_code, "use_safetensors": True}
        return AutoModelForCausalLM.from_pretrained(base, **options).to(place).eval()

    # first, so that an error in the configuration is not reported as one of the tokenizer
    AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
    own_tokenizer = adapter is not None and (adapter / "tokenizer.json").exists()
    tokenizer = _tokenizer(adapter if own_tokenizer else base, trust_remote_code)
    weights = shared(base, chosen, str(place), read) if share else read()
    model = twin(weights) if share else weights
    wrapped = None if adapter is None else with_adapter(model, adapter)
    return Loaded({"model": model, "tokenizer": tokenizer}, weights if share else None, wrapped)


def _tokenizer(folder: Path, trust_remote_code: bool):
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # tokenizers raises plain Exception, and a file that is not JSON any kind
        raise GraceError(
            f"the tokenizer in {folder} cannot be read ({first_line(error)}); fetch or save the model again"
        ) from error


def _check_base(adapter: Path, base: Path) -> None:
    """Raises GraceError if the adapter names the hash of its base, and ``base`` has another one."""
    for name in (SETTINGS_FILE, ADAPTER_CONFIG):
        expected = read_json(adapter / name).get(BASE_HASH) if (adapter / name).exists() else None
        if expected is not None and expected != (actual := folder_fingerprint(base)):
            raise GraceError(
                f"the adapter {adapter} was made for a base with SHA-256 {expected:.12}, and {base} has {actual:.12}; "
                f"restore that base, or take {BASE_HASH} out of {name} to use it with this one"
            )


def load_for_vllm(folder: Path, settings: Settings, dtype: str | None, trust_remote_code: bool) -> Loaded:
    """Tokenizer, configuration and engine; only vLLM's process has the weights."""
    from transformers import AutoConfig, GenerationConfig

    from grace_core.engines.vllm import VllmEngine

    if is_adapter(folder):
        raise GraceError(
            f"{folder} is an adapter, which is not given to vLLM; use the transformers engine, or merge it: "
            "GraceModel.from_pretrained(adapter).save_pretrained(folder)"
        )
    if trust_remote_code:
        raise GraceError("vLLM is not given a model's own code to run; use the transformers engine for it")
    tokenizer, config = _tokenizer(folder, False), AutoConfig.from_pretrained(folder)
    if (folder / "generation_config.json").exists():
        generation = GenerationConfig.from_pretrained(folder)
    else:
        generation = GenerationConfig.from_model_config(config)
    engine = VllmEngine(
        folder,
        dtype=dtype,
        pad_id=pad_id(tokenizer),
        end_ids=end_ids(generation, tokenizer),
        length=settings.max_prompt_tokens + settings.max_new_tokens,
        positions=getattr(config.get_text_config(), "max_position_embeddings", None),
    )
    return Loaded({"model": None, "tokenizer": tokenizer, "engine": engine, "config": config})


def pad_id(tokenizer) -> int | None:
    return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def end_ids(generation_config, tokenizer) -> set[int]:
    """The tokens that end a rationale. Raises GraceError if there are none."""
    ends = {tokenizer.eos_token_id}
    configured = getattr(generation_config, "eos_token_id", None)
    ends |= set(configured) if isinstance(configured, (list, tuple)) else {configured}
    ends.discard(None)
    if not ends:
        raise GraceError(
            f"{tokenizer.name_or_path!r} names no end token, so a rationale would never end; set eos_token_id"
        )
    return ends
