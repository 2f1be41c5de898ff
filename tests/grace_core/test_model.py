"""GraceModel: settings, saving and loading, and what it refuses."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

from grace_core.errors import GraceError
from grace_core.model import GraceModel, Settings
from grace_core.sources import find_model, model_name


def refusal(name, **options) -> str:
    """The one line with which loading is refused."""
    with pytest.raises(GraceError) as error:
        GraceModel.from_pretrained(name, **options)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.fixture
def copy_of(tiny_folder, tmp_path):
    """A copy of the saved model, to be spoiled."""
    return shutil.copytree(tiny_folder, tmp_path / "copy")


def test_saving_and_loading_keeps_settings_and_results(tiny, tmp_path, sentences):
    settings = Settings(max_new_tokens=9, temperature=0.5, top_p=0.9, seed=4, system="Say what it is.")
    changed = GraceModel(tiny.model, tiny.tokenizer, settings)
    changed.save_pretrained(tmp_path / "saved")
    loaded = GraceModel.from_pretrained(tmp_path / "saved", dtype="float32", device="cpu")
    assert loaded.settings == changed.settings
    before, after = changed.represent(sentences[:10]), loaded.represent(sentences[:10])
    assert before.rationale_ids == after.rationale_ids
    np.testing.assert_array_equal(before.sums, after.sums)
    assert not list((tmp_path / "saved").glob("*.bin"))


def test_settings_given_override_those_saved(tiny_folder):
    loaded = GraceModel.from_pretrained(tiny_folder, max_new_tokens=3, seed=9)
    assert (loaded.settings.max_new_tokens, loaded.settings.seed) == (3, 9)
    assert loaded.settings.max_prompt_tokens == 1024


def test_given_rationales_are_pooled_as_if_written(tiny, sentences):
    texts = sentences[:12]
    written = tiny.represent(texts)
    given = tiny.represent_given(texts, written.rationale_ids, batch_size=5)
    assert given.rationales == written.rationales
    np.testing.assert_array_equal(given.counts, written.counts)
    np.testing.assert_allclose(given.sums, written.sums, atol=1e-4)
    other = tiny.represent_given(texts, ["wine and bread"] * 12)
    assert other.rationales == ["wine and bread"] * 12
    assert np.abs(other.embeddings() - written.embeddings()).max() > 1e-3
    with pytest.raises(GraceError, match="12 texts and 1 rationales"):
        tiny.represent_given(texts, ["one"])


def test_a_call_s_settings_hold_for_that_call_only(tiny, sentences):
    before = tiny.represent(sentences[:4])
    short = tiny.represent(sentences[:4], max_new_tokens=2, system="Be brief.", max_prompt_tokens=400)
    assert short.counts[:, 2].max() <= 2
    assert not np.array_equal(short.sums, before.sums)
    np.testing.assert_array_equal(tiny.represent(sentences[:4]).sums, before.sums)


def test_texts_that_were_cut_are_flagged(tiny, words):
    made = tiny.represent(["short", " ".join(words * 5)], max_prompt_tokens=tiny.prompts.overhead + 20)
    assert made.text_truncated.tolist() == [False, True]
    assert made.counts[1, 0] == 20


def test_unknown_settings_are_refused_with_those_known(tiny_models, tiny_folder):
    with pytest.raises(GraceError, match=r"max_tokens.*known are system, max_prompt_tokens, max_new_tokens"):
        tiny_models["qwen2"].represent(["words"], max_tokens=4)
    assert "known are" in refusal(tiny_folder, max_tokens=4)


def test_a_prompt_beyond_the_model_s_positions_is_refused(tiny_models, words):
    with pytest.raises(GraceError, match="only 4096 positions; lower max_prompt_tokens or max_new_tokens"):
        tiny_models["qwen2"].represent([" ".join(words)], max_new_tokens=4000)


def test_fingerprint_changes_with_weights_tokenizer_and_template(tiny_folder, other_folder, tmp_path):
    first = GraceModel.from_pretrained(tiny_folder).fingerprint
    assert GraceModel.from_pretrained(tiny_folder, max_new_tokens=2).fingerprint == first
    assert GraceModel.from_pretrained(other_folder).fingerprint != first
    changed = shutil.copytree(tiny_folder, tmp_path / "template")
    template = changed / "chat_template.jinja"
    template.write_text(template.read_text().replace("assistant", "helper"))
    assert GraceModel.from_pretrained(changed).fingerprint != first
    changed = shutil.copytree(tiny_folder, tmp_path / "moved")
    assert GraceModel.from_pretrained(changed).fingerprint == first


def test_fingerprint_of_a_model_in_memory_changes_with_its_weights(new_model):
    assert new_model("qwen2").fingerprint == new_model("qwen2").fingerprint
    changed = new_model("qwen2")
    with torch.no_grad():
        changed.model.lm_head.weight[5, 5] += 0.001
    assert changed.fingerprint != new_model("qwen2").fingerprint


def test_weights_in_pickles_are_refused(copy_of, tiny_models):
    (copy_of / "model.safetensors").unlink()
    torch.save(tiny_models["qwen2"].model.state_dict(), copy_of / "pytorch_model.bin")
    assert "pytorch_model.bin only, a pickle" in refusal(copy_of)


def test_damaged_weights_are_refused(copy_of):
    data = (copy_of / "model.safetensors").read_bytes()
    (copy_of / "model.safetensors").write_bytes(data[: len(data) // 2])
    assert "not a causal language model that can be loaded" in refusal(copy_of)


@pytest.mark.parametrize("content", ["{", "[]", '{"temperature": 99}', '{"speed": 1}'])
def test_damaged_settings_are_refused(copy_of, content):
    (copy_of / "grace_config.json").write_text(content)
    refusal(copy_of)


def test_a_folder_without_a_model_is_refused(tmp_path):
    assert "folder without config.json" in refusal(tmp_path)


def test_a_model_of_another_kind_is_refused(copy_of):
    config = json.loads((copy_of / "config.json").read_text())
    (copy_of / "config.json").write_text(
        json.dumps(config | {"model_type": "unheard_of", "architectures": ["Unheard"]})
    )
    assert "not a causal language model that can be loaded" in refusal(copy_of)


def test_an_unknown_demo_model_is_refused_with_those_there_are():
    assert "there is no demo model 'demo-nothing'" in refusal("demo-nothing")


@pytest.mark.parametrize(
    "name", ["a/b/c", "../x", "/nowhere/at/all", "what is this", "x//y", "", "nul\0nul", "n" * 5000, "ü/ö?"]
)
def test_what_can_be_no_model_s_name_is_refused(name):
    refusal(name)


def test_an_id_that_is_not_here_is_refused_in_one_line_when_offline():
    message = refusal("some-owner/some-model-that-is-not-cached")
    assert "could not be fetched from the Hugging Face hub" in message
    assert "use demo-base" in message


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_here_is_refused(tiny_folder, device):
    assert device in refusal(tiny_folder, device=device)


def test_an_unknown_dtype_is_refused(tiny_folder):
    assert "dtype must be float32, bfloat16 or float16" in refusal(tiny_folder, dtype="int8")


def test_a_tokenizer_without_any_end_token_is_refused(new_model):
    model = new_model("qwen2")
    model.tokenizer.eos_token = None
    model.model.generation_config.eos_token_id = None
    with pytest.raises(GraceError, match="would never end"):
        GraceModel(model.model, model.tokenizer, name="endless")


@pytest.mark.parametrize(
    ("name", "safe"),
    [("demo-base", "demo-base"), ("Qwen/Qwen2.5-0.5B", "Qwen2.5-0.5B"), ("/a/b c/", "b-c"), ("x/..y", "y")],
)
def test_a_model_s_folder_name_is_safe(name, safe):
    assert model_name(name) == safe


def test_find_model_gives_a_local_folder_as_it_is(tiny_folder):
    assert find_model(str(tiny_folder)) == tiny_folder


def test_similarity_is_the_cosine(tiny, sentences):
    vectors = tiny.encode(sentences[:5])
    np.testing.assert_allclose(np.diag(tiny.similarity(vectors, vectors)), 1, atol=1e-6)
    assert tiny.similarity(vectors[:2], vectors).shape == (2, 5)
