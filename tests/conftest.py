"""What all tests share: tiny real models of three architectures, a place for scratch files, and the ``grace``
command in process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

_scratch = tempfile.TemporaryDirectory(prefix="grace-tests-")
os.environ |= {
    "GRACE_CACHE": f"{_scratch.name}/representations.sqlite",  # never the user's own
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_WAIT_POLICY": "PASSIVE",  # tiny steps on a busy machine are 100 times slower where threads spin while they wait
}

import hypothesis  # noqa: E402
import pytest  # noqa: E402 - the environment must be set before anything reads it
import torch  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
hypothesis.settings.register_profile("thorough", max_examples=10_000, deadline=None)  # --hypothesis-profile=thorough
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)

WORDS = (
    "the river rises in mountains of north and flows through forest to sea a bridge was built by king over old town people come every "
    "summer see tower where bell rings at noon in winter snow lies deep on roads so only trains reach valley cheese made there is sold "
    "market with bread honey wine music begins when lamps are lit children dance around fountain until stars shine above castle walls "
    "scientists measured how fast ice melts they found that warm wind from desert carries dust into clouds which then bring rain"
).split()
SENTENCES = [
    " ".join(WORDS[(i * 7 + j * 3) % len(WORDS)] for j in range(5 + i % 11)).capitalize() + "." for i in range(300)
]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# trims the content, and opens the assistant's turn with an empty thought, as reasoning models do
CHATML_NO_THOUGHT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}{% endif %}"
)
HEADER_IDS = (
    "{{ '<|begin_of_text|>' }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
# the text stands between ordinary words, so that tokens merge across its borders
PLAIN_MARKUP = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + ' end' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' assistant: ' }}{% endif %}"
)
ARCHITECTURES = ("qwen2", "qwen3", "llama")
END_WEIGHTS = {"qwen2": 3.0, "qwen3": 3.5, "llama": 1.5}  # with these about half of the rationales end within 16 tokens
SPECIALS = {
    "chatml": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "headers": ["<|finetune_pad|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
}


def make_tokenizer(template: str | None, specials: list[str], vocab_size: int = 640):
    """A byte-level BPE trained on SENTENCES and the representation prompt; the last special token ends a
    turn, the first one pads.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    from grace_core.prompt import REPRESENTATION_PROMPT

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.ByteLevel(
        trim_offsets="<|eot_id|>" in specials
    )  # as Llama 3 does, and Qwen does not
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([*SENTENCES, REPRESENTATION_PROMPT, "system user assistant: end"] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token=specials[0], eos_token=specials[-1])
    tokenizer.chat_template = template
    return tokenizer


def make_causal_lm(architecture: str, tokenizer, *, seed: int = 0, end_weight: float | None = None):
    """Random weights, large enough that the best token leads clearly.

    ``end_weight`` scales the output row of the end token: with 0 it is never the best."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    config_class, model_class, extra = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
        "llama": (LlamaConfig, LlamaForCausalLM, {}),
    }[architecture]
    torch.manual_seed(seed)
    model = model_class(
        config_class(
            vocab_size=len(tokenizer),
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
            initializer_range=0.2,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **extra,
        )
    )
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] *= END_WEIGHTS[architecture] if end_weight is None else end_weight
        model.lm_head.weight[tokenizer.pad_token_id] = 0
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval()


def make_model(architecture: str, *, seed: int = 0, end_weight: float | None = None, **settings):
    """A GraceModel in memory; ``settings`` are those of grace_core.model.Settings."""
    from grace_core.model import GraceModel, Settings

    template = {"qwen2": CHATML, "qwen3": CHATML_NO_THOUGHT, "llama": HEADER_IDS}[architecture]
    tokenizer = make_tokenizer(template, SPECIALS["headers" if architecture == "llama" else "chatml"])
    lm = make_causal_lm(architecture, tokenizer, seed=seed, end_weight=end_weight)
    return GraceModel(lm, tokenizer, Settings(**{"max_new_tokens": 16, **settings}), name=f"tiny-{architecture}")


@pytest.fixture(scope="session")
def new_model():
    """Makes a GraceModel of its own: ``new_model(architecture, seed=0, end_weight=None, **settings)``."""
    return make_model


@pytest.fixture(scope="session")
def new_tokenizer():
    """Makes a tokenizer: ``new_tokenizer(template, specials=…)``; the templates by name are in
    ``new_tokenizer.templates``.
    """

    def make(template: str | None, specials: list[str] | None = None):
        return make_tokenizer(template, specials or SPECIALS["chatml"])

    make.templates = {
        "chatml": CHATML,
        "no thought": CHATML_NO_THOUGHT,
        "headers": HEADER_IDS,
        "plain markup": PLAIN_MARKUP,
    }
    make.specials = SPECIALS
    return make


@pytest.fixture(scope="session")
def tiny_models():
    """A GraceModel of each architecture, to be left as it is."""
    return {architecture: make_model(architecture) for architecture in ARCHITECTURES}


@pytest.fixture(params=ARCHITECTURES)
def tiny(request, tiny_models):
    """Each of the three tiny models in turn."""
    return tiny_models[request.param]


@pytest.fixture(scope="session")
def tiny_folder(tiny_models, tmp_path_factory) -> Path:
    """The Qwen2 model, saved."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_models["qwen2"].save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def other_folder(tmp_path_factory) -> Path:
    """Another Qwen2 model under the same name: other weights."""
    folder = tmp_path_factory.mktemp("other-models") / "tiny"
    make_model("qwen2", seed=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def words() -> list[str]:
    return WORDS


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    return SENTENCES


@pytest.fixture(scope="session")
def demo_base():
    """The model that ships."""
    from grace_core.model import GraceModel

    return GraceModel.from_pretrained("demo-base", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def demo_collection():
    """The collection that ships."""
    from grace_core.collection import Collection

    return Collection(ROOT / "indexes" / "demo")


@pytest.fixture(scope="session")
def demo_entries():
    """The demo world: every thing with its kind and split."""
    from grace_study.corpus import entries

    return entries()


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture
def grace(monkeypatch, capsys):
    """Runs the ``grace`` command in this process: ``grace("search", …) -> (exit status, stdout, stderr)``."""
    from grace_cli.main import main

    def run(*args) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["grace", *map(str, args)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        return exit_.value.code or 0, out, err

    return run


@pytest.fixture(scope="session")
def python():
    """Runs Python in a process of its own, in the repository's root: ``python("-c", code) -> CompletedProcess``."""

    def run(*args, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, *map(str, args)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500, **options
        )

    return run
