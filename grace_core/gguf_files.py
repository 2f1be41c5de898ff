"""GGUF files: converted once by transformers to safetensors in the user's cache, and from then on loaded like
any other model.

A tensor is stored in the smallest of bfloat16, float16 and float32 that holds its values exactly, so in float32
the converted model gives the same logits as transformers' own reading of the file. A quantised tensor (block
scale times a few bits) needs float32 for that. Models that come as packages are rounded to bfloat16: half the
disk, and the same weights whether a machine computes in bfloat16 or in float32.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from pathlib import Path

import numpy as np

from grace_core.cache import default_path
from grace_core.console import tell
from grace_core.errors import GraceError
from grace_core.files import needs_room, sha256

SOURCE_FILE = "gguf_source.json"  # in a converted folder: the file that it was converted from
FORMAT = 1  # of converted folders: part of their name, so that those of an older format are not used
SPLIT = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$", re.IGNORECASE)


def models_dir() -> Path:
    """The folder of converted models: ``models`` beside the cache of representations."""
    return default_path().parent / "models"


def gguf_in(folder: Path) -> Path | None:
    """The GGUF file of a folder, None where there is none. Raises GraceError where there are several."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".gguf")
    if len(files) > 1 and not all(SPLIT.search(path.name) for path in files):
        raise GraceError(
            f"{folder} holds several GGUF files; name one of them: {', '.join(str(path) for path in files)}"
        )
    return files[0] if files else None


def read_header(path: Path) -> dict:
    """Metadata of a GGUF file: ``architecture``, ``name``, ``licence``, ``parameters``, ``types``, ``quantised``,
    and whether it has a chat ``template``.

    Raises GraceError for a file that is no GGUF file, is cut off, or is one of several parts.
    """
    return _header(_open(path))


def _open(path: Path):
    """A GGUFReader of the file. Raises GraceError as :func:`read_header` does."""
    part = SPLIT.search(path.name)
    if part and int(part[2]) > 1:
        raise GraceError(
            f"{path} is one of {int(part[2])} parts of a split GGUF file, which cannot be read here; "
            f"join them with `llama-gguf-split --merge {path.name} whole.gguf`, or take a file in one piece"
        )
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise GraceError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error
    if magic != b"GGUF":
        raise GraceError(
            f"{path} is no GGUF file: it begins with {magic!r}, not b'GGUF'; download it again, or name another"
        )
    from gguf import GGUFReader

    class Reader(GGUFReader):
        def __setattr__(self, name, value):
            # a slice of a memory map costs several times that of an array over the same memory, and the
            # reader makes millions
            super().__setattr__(name, value.view(np.ndarray) if isinstance(value, np.memmap) else value)

    try:
        reader = Reader(path)
    except Exception as error:  # for a damaged file the reader raises ValueError, IndexError, UnicodeDecodeError, …
        size = path.stat().st_size
        raise GraceError(
            f"{path} is cut off or damaged ({size} bytes, {type(error).__name__}); download it again"
        ) from error
    if "split.count" in reader.fields and (count := int(reader.fields["split.count"].contents())) > 1:
        raise GraceError(f"{path} is one of {count} parts of a split GGUF file; take a file in one piece")
    return reader


def _header(reader) -> dict:
    from gguf import GGMLQuantizationType

    fields = {key: field.contents() for key, field in reader.fields.items() if key.startswith("general.")}
    plain = (GGMLQuantizationType.F32, GGMLQuantizationType.F16, GGMLQuantizationType.BF16)
    weights = {tensor.tensor_type for tensor in reader.tensors if len(tensor.shape) > 1}
    return {
        "architecture": str(fields.get("general.architecture", "")),
        "name": str(fields.get("general.name", "")),
        "licence": str(fields.get("general.license", "")),
        "parameters": int(sum(int(tensor.n_elements) for tensor in reader.tensors)),
        "types": sorted(kind.name for kind in weights),
        "quantised": not weights <= set(plain),
        "template": "tokenizer.chat_template" in reader.fields,
    }


@lru_cache(maxsize=64)
def _hash(path: Path, _size: int, _changed: int) -> str:
    return sha256(path)


def converted_folder(path: Path, *, rounded: bool = False) -> Path:
    """The folder that a GGUF file is, or will be, converted to, named by the file's SHA-256."""
    state = path.stat()
    return (
        models_dir() / f"{_hash(path.resolve(), state.st_size, state.st_mtime_ns)}-{FORMAT}{'-bf16' if rounded else ''}"
    )


def convert(path: Path, *, rounded: bool = False) -> Path:
    """The folder with the model of a GGUF file, converted if it was not before; ``rounded`` stores all of it in
    bfloat16.

    One process converts a file, and others that need it wait. Raises GraceError for a file that cannot be used,
    and for a cache that cannot be written.
    """
    if not path.is_file():
        raise GraceError(f"{path} is not a file; check the path, or name another model")
    if SPLIT.search(path.name):
        read_header(path)  # raises the error that it is one of several
    folder = converted_folder(path, rounded=rounded)
    if (folder / SOURCE_FILE).exists():
        return folder
    reader = _open(path)
    header = _header(reader)
    _check(path, header)
    from filelock import FileLock

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            for leftover in folder.parent.glob(f".{folder.name}.*"):  # of a conversion that was killed
                if leftover.is_dir():
                    shutil.rmtree(leftover)
            if not (folder / SOURCE_FILE).exists():
                tell(f"converting {path.name} ({path.stat().st_size / 1e6:.0f} MB), once, into {folder}")
                with needs_room(folder), _read_once(path, reader):
                    _convert(path, header, folder, rounded)
    except OSError as error:
        raise GraceError(
            f"the converted model cannot be written to {folder.parent} ({error.strerror or error}); set GRACE_CACHE to a file in a folder "
            "that can be written"
        ) from error
    return folder


def _check(path: Path, header: dict) -> None:
    """Raises GraceError for an architecture that transformers cannot read, and for a missing chat template."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES as KNOWN

    name = header["architecture"]
    spellings = {name, name.replace("-", "_"), re.sub(r"moe$", "_moe", name), re.sub(r"-?moe$", "_moe", name)}
    if not spellings & set(KNOWN):
        raise GraceError(
            f"{path} has the architecture {name!r}, which transformers does not read from GGUF; it reads {', '.join(KNOWN)}"
        )
    if not header["template"]:
        raise GraceError(
            f"{path} has no chat template, so it was not made to follow instructions; take the instruct or chat version of it"
        )


@contextmanager
def _read_once(path: Path, reader) -> Iterator[None]:
    """Makes transformers use ``reader`` within the block: by itself it would open the file three times, each as
    slow as all the rest, and build the table of names for every module."""
    import gguf

    own, names = gguf.GGUFReader, gguf.get_tensor_name_map
    gguf.GGUFReader = lambda file, *rest: reader if Path(file).resolve() == path.resolve() else own(file, *rest)
    gguf.get_tensor_name_map = cache(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = own, names


def _convert(path: Path, header: dict, folder: Path, rounded: bool) -> None:
    import torch
    import transformers.modeling_gguf_pytorch_utils as reading
    from tqdm import tqdm
    from transformers import AutoModelForCausalLM, AutoTokenizer

    reading.tqdm = partial(tqdm, disable=True)  # one line is printed instead, by the caller
    place = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**place)
        loaded = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    except Exception as error:  # transformers raises any kind, and tokenizers plain Exception
        raise GraceError(
            f"{path} cannot be read by transformers ({_first(error)}); take the safetensors of this model"
        ) from error
    # a model that can be saved, in the stored precisions
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # of the GGUF file
    with torch.device("meta"):  # a new one, since transformers refuses to save a model that it read from a GGUF file
        model = type(loaded)(config)
    try:
        model.load_state_dict(loaded.state_dict(), assign=True)
    except RuntimeError as error:
        raise GraceError(
            f"{path} holds other shapes than its metadata tell ({_first(error)}); take safetensors instead"
        ) from error
    model.tie_weights()
    model.generation_config = loaded.generation_config
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16) if rounded else _smallest(parameter.data)
    # save it in a temporary folder, and move that into place
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        _forget_offline(temporary / "tokenizer_config.json")
        saved = json.loads((temporary / "config.json").read_text(encoding="utf-8"))
        # the precision that the model was trained for, not the one in which it is stored
        saved["dtype"] = "float32" if header["types"] == ["F32"] else "bfloat16"
        saved.pop("_name_or_path", None)
        (temporary / "config.json").write_text(json.dumps(saved, indent=2) + "\n", encoding="utf-8")
        source = {"file": path.name, "path": str(path.resolve()), "sha256": folder.name.split("-")[0], **header}
        (temporary / SOURCE_FILE).write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp and safetensors grant access to the owner only
        for file in temporary.iterdir():
            file.chmod(0o644)
        if folder.exists():  # incomplete, since it lacks SOURCE_FILE
            shutil.rmtree(folder)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _first(error: Exception) -> str:
    """The beginning of an error's message, on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _forget_offline(path: Path) -> None:
    """Removes from a tokenizer's configuration whether transformers was offline, which would change the model's
    fingerprint.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    if config.get("local_files_only"):
        config["local_files_only"] = False
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _smallest(tensor):
    """The tensor in the smallest float type that holds all of its values exactly."""
    import torch

    for dtype in (torch.bfloat16, torch.float16):
        small = tensor.to(dtype)
        if torch.equal(small.to(tensor.dtype), tensor):
            return small
    return tensor
