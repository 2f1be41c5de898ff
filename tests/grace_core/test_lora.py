"""LoRA adapters: a model of their own over the weights of their base, which never hears of them."""

from __future__ import annotations

import copy
import gc
import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from grace_core.errors import GraceError
from grace_core.loading import folder_fingerprint
from grace_core.model import GraceModel
from grace_core.sources import find_model

SETTINGS = {"device": "cpu", "dtype": "float32", "max_new_tokens": 12}


def make_adapter(folder, base, *, named=None, seed: int = 0, **options):
    """A LoRA adapter with random weights, large enough to change what is written, saved by PEFT."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    lm = copy.deepcopy(base.model)
    targets = options.pop("target_modules", ["q_proj", "v_proj", "down_proj"])
    config = LoraConfig(
        r=4, lora_alpha=16, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False, **options
    )
    wrapped = get_peft_model(lm, config)
    wrapped.save_pretrained(folder)
    if named is not None:
        edit(folder, base_model_name_or_path=str(named))
    return wrapped.eval()


def edit(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture(scope="module")
def base_folder(tiny_folder):
    return tiny_folder


@pytest.fixture(scope="module")
def adapter(base_folder, tiny_models, tmp_path_factory):
    """An adapter of the saved Qwen2 model, and PEFT's own model with it."""
    folder = tmp_path_factory.mktemp("adapters") / "best"
    return folder, make_adapter(folder, tiny_models["qwen2"], named=base_folder)


def logits(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids])).logits


def bytes_of(*models) -> int:
    """Bytes of all parameters, each piece of memory once."""
    storages = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes()
        for model in models
        for p in model.model.parameters()
    }
    return sum(storages.values())


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}])
def test_an_adapter_is_a_model(options, base_folder, tiny_models, tmp_path, sentences):
    theirs = make_adapter(tmp_path / "adapter", tiny_models["qwen2"], named=base_folder, **options)
    base, adapted = (GraceModel.from_pretrained(folder, **SETTINGS) for folder in (base_folder, tmp_path / "adapter"))
    ids = base.prompts.build(sentences[0]).ids
    assert (logits(adapted.model, ids) - logits(theirs, ids)).abs().max() <= 1e-5
    assert (logits(adapted.model, ids) - logits(base.model, ids)).abs().max() > 0.1
    assert (logits(base.model, ids) - logits(tiny_models["qwen2"].model, ids)).abs().max() <= 1e-5
    assert base.settings == adapted.settings


def test_base_and_adapter_share_their_weights(base_folder, adapter):
    base = GraceModel.from_pretrained(base_folder, **SETTINGS)
    one = bytes_of(base)
    again, adapted = (GraceModel.from_pretrained(folder, **SETTINGS) for folder in (base_folder, adapter[0]))
    assert bytes_of(base, again) == one
    assert bytes_of(base, adapted) <= 1.15 * one
    held = {name.replace(".base_layer", ""): parameter for name, parameter in adapted.model.named_parameters()}
    for name, parameter in base.model.named_parameters():
        assert held[name].data_ptr() == parameter.data_ptr()
    assert not any("lora" in name for name in base.model.state_dict())


def test_the_order_of_loading_does_not_matter(base_folder, adapter):
    adapted = GraceModel.from_pretrained(adapter[0], **SETTINGS)
    base = GraceModel.from_pretrained(base_folder, **SETTINGS)
    assert base.model.get_input_embeddings().weight.data_ptr() == adapted.model.get_input_embeddings().weight.data_ptr()


def test_weights_are_shared_within_one_precision_and_freed_with_the_last(base_folder):
    from grace_core.weights import _held

    one, other = (
        GraceModel.from_pretrained(base_folder, **SETTINGS | {"dtype": dtype}) for dtype in ("float32", "bfloat16")
    )
    assert one.model.get_input_embeddings().weight.data_ptr() != other.model.get_input_embeddings().weight.data_ptr()
    before = len(_held)
    del one, other
    gc.collect()
    assert len(_held) <= before


def test_weights_that_were_changed_are_not_given_out(base_folder):
    one = GraceModel.from_pretrained(base_folder, **SETTINGS)
    with torch.no_grad():
        one.model.get_input_embeddings().weight.zero_()
    other = GraceModel.from_pretrained(base_folder, **SETTINGS)
    assert other.model.get_input_embeddings().weight.abs().max() > 0


def test_a_model_of_its_own_may_be_changed(base_folder):
    one = GraceModel.from_pretrained(base_folder, **SETTINGS)
    own = GraceModel.from_pretrained(base_folder, share=False, **SETTINGS)
    assert own.model.get_input_embeddings().weight.data_ptr() != one.model.get_input_embeddings().weight.data_ptr()
    cast = GraceModel.from_pretrained(base_folder, **SETTINGS)
    cast.model.to(torch.bfloat16)
    assert one.dtype == "float32"


@pytest.mark.slow
def test_nothing_crosses_between_32_requests(base_folder, adapter, tiny_models, sentences, tmp_path):
    make_adapter(tmp_path / "second", tiny_models["qwen2"], named=base_folder, seed=1)
    models = [
        GraceModel.from_pretrained(folder, **SETTINGS) for folder in (base_folder, adapter[0], tmp_path / "second")
    ]
    jobs = [(models[i % 3], sentences[i * 4 : i * 4 + 4], i % 2 == 0) for i in range(96)]

    def run(job):
        model, texts, rationale = job
        return model.represent(texts, rationale=rationale, batch_size=2)

    alone = [run(job) for job in jobs]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(run, jobs))
    for a, b in zip(alone, together, strict=True):
        assert a.rationale_ids == b.rationale_ids
        np.testing.assert_allclose(a.sums, b.sums, atol=1e-4)
    by_model = [models[i].represent(sentences[:8]).rationale_ids for i in range(3)]
    assert by_model[0] != by_model[1] != by_model[2] != by_model[0]


def test_it_is_saved_merged(adapter, tmp_path, sentences):
    adapted = GraceModel.from_pretrained(adapter[0], **SETTINGS)
    adapted.save_pretrained(tmp_path / "merged")
    merged = GraceModel.from_pretrained(tmp_path / "merged", **SETTINGS)
    ids = adapted.prompts.build(sentences[0]).ids
    assert (logits(adapted.model, ids) - logits(merged.model, ids)).abs().max() <= 1e-4
    assert any("lora" in name for name, _ in adapted.model.named_parameters())


def test_fingerprint(base_folder, adapter, tiny_models, tmp_path):
    base, adapted = (GraceModel.from_pretrained(folder, **SETTINGS) for folder in (base_folder, adapter[0]))
    assert base.fingerprint != adapted.fingerprint == folder_fingerprint(adapter[0])
    make_adapter(tmp_path / "best", tiny_models["qwen2"], named=base_folder, seed=2)
    assert GraceModel.from_pretrained(tmp_path / "best", **SETTINGS).fingerprint != adapted.fingerprint


def test_bases_are_found_by_every_kind_of_name(adapter, tmp_path, demo_base):
    make_adapter(tmp_path / "of-demo", demo_base, named="demo-base", target_modules=["q_proj"])
    adapted = GraceModel.from_pretrained(tmp_path / "of-demo", **SETTINGS)
    assert adapted.settings.system == demo_base.settings.system
    folder = tmp_path / "beside"
    shutil.copytree(adapter[0], folder)
    shutil.copytree(
        json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"], folder / "base"
    )
    edit(folder, base_model_name_or_path="./base")
    assert GraceModel.from_pretrained(folder, **SETTINGS).dim == 48


def test_refused(adapter, base_folder, tiny_models, other_folder, tmp_path):
    def changed(name, **values):
        shutil.copytree(adapter[0], tmp_path / name)
        edit(tmp_path / name, **values)
        return tmp_path / name

    cases = {
        changed("missing", base_model_name_or_path=str(tmp_path / "nowhere")): "nowhere' is .*|which is missing",
        changed("nameless", base_model_name_or_path=None): "names no base",
        changed("hub", base_model_name_or_path="nobody/nothing"): "is an adapter of 'nobody/nothing', which is missing",
        changed("other shape", base_model_name_or_path="demo-base"): "does not fit its base 'demo-base'",
        changed("hash", base_sha256="0" * 64): "was made for a base with SHA-256 000000000000",
        changed("prefix", peft_type="PREFIX_TUNING"): "'PREFIX_TUNING', expected LORA",
        changed("classifier", task_type="SEQ_CLS"): "an adapter for SEQ_CLS",
        changed("of adapter", base_model_name_or_path=str(adapter[0])): "itself an adapter",
        changed("other rank", r=8): "does not fit its base",
        changed("nothing to adapt", target_modules=["c_attn"]): "does not fit its base",
    }
    pickled = changed("pickled")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    cases[pickled] = "without adapter_model.safetensors"
    cut = changed("cut")
    (cut / "adapter_model.safetensors").write_bytes((adapter[0] / "adapter_model.safetensors").read_bytes()[:200])
    cases[cut] = "cannot be read"
    for folder, told in cases.items():
        with pytest.raises(GraceError, match=told) as error:
            GraceModel.from_pretrained(folder, **SETTINGS)
        assert "\n" not in str(error.value)
    right = changed("right hash", base_sha256=folder_fingerprint(base_folder))
    assert GraceModel.from_pretrained(right, **SETTINGS).dim == 48
    edit(right, base_model_name_or_path=str(other_folder))  # the same shapes, other weights
    with pytest.raises(GraceError, match="restore that base"):
        GraceModel.from_pretrained(right, **SETTINGS)
    with pytest.raises(GraceError, match="not given to vLLM"):
        GraceModel.from_pretrained(adapter[0], engine="vllm")


def test_vocabulary_in_an_adapter_is_not_written_into_the_base(base_folder, adapter, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(adapter[0], tmp_path / "with embeddings")
    path = tmp_path / "with embeddings" / "adapter_model.safetensors"
    base = GraceModel.from_pretrained(base_folder, **SETTINGS)
    before = base.model.get_input_embeddings().weight.clone()
    save_file(load_file(path) | {"base_model.model.model.embed_tokens.weight": torch.zeros_like(before)}, path)
    with pytest.raises(GraceError, match="embed_tokens"):
        GraceModel.from_pretrained(tmp_path / "with embeddings", **SETTINGS)
    assert torch.equal(base.model.get_input_embeddings().weight, before)


def test_an_adapter_folder_is_found(adapter):
    assert find_model(adapter[0]) == adapter[0]
