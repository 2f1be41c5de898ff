"""GraceModel: a causal LM that writes a rationale for a text and embeds text and rationale together."""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from grace_core.cache import RepresentationCache
from grace_core.engines.base import Decoding, Engine
from grace_core.engines.transformers import TransformersEngine
from grace_core.errors import GraceError, first_line
from grace_core.geometry import DEFAULT, DOCUMENTS, Geometry, Role, Statistics, of_model
from grace_core.geometry import FILE as STATISTICS_FILE
from grace_core.loading import (
    Loaded,
    end_ids,
    folder_fingerprint,
    load_for_transformers,
    load_for_vllm,
    pad_id,
    saved_settings,
)
from grace_core.pooling import PARTS, RATIONALE, TEXT, Pooling, Representation, Representations
from grace_core.precision import DTYPES
from grace_core.prompt import Prompt, PromptBuilder
from grace_core.settings import SETTINGS_FILE, Settings, check_names
from grace_core.sources import DEMO_MODELS_DIR, find_model, full_name, model_name, packaged_folder
from grace_core.text_stream import TextStream
from grace_core.texts import as_list, as_texts

ENGINES = ("transformers", "vllm")


class GraceModel:
    """A policy with its tokenizer, prompt and decoding settings.

    Build one with :meth:`from_pretrained`; the constructor takes parts that are already in memory: a
    transformers model, or None and an ``engine`` that runs elsewhere, with the configuration of its model.
    """

    def __init__(
        self,
        model,
        tokenizer,
        settings: Settings = Settings(),
        *,
        name: str = "",
        cache: RepresentationCache | None = None,
        engine: Engine | None = None,
        config=None,
    ):
        if tokenizer.pad_token_id is None and tokenizer.eos_token_id is None:
            raise GraceError(
                f"the tokenizer of {name or tokenizer.name_or_path!r} has neither a padding nor an end token; set one"
            )
        self._model, self.tokenizer, self.settings = model, tokenizer, settings
        self.config = model.config if engine is None else config
        self.source = name or tokenizer.name_or_path or "model"
        self.name = model_name(self.source)
        self.cache = cache
        self.prompts = PromptBuilder(tokenizer, **settings.prompt)
        self.engine = engine or TransformersEngine(
            model, pad_id=pad_id(tokenizer), end_ids=end_ids(model.generation_config, tokenizer)
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | None = None,
        dtype: str | None = None,
        revision: str | None = None,
        cache: RepresentationCache | None = None,
        trust_remote_code: bool = False,
        engine: str | None = None,
        share: bool = True,
        **settings,
    ) -> GraceModel:
        """Load a model by its name: demo-base, smollm2, a folder, a GGUF file, a LoRA adapter, a Hugging Face
        id (docs/models.md).

        ``device`` defaults to CUDA where there is one; ``dtype`` to
        :func:`grace_core.precision.default_dtype`. ``settings`` are fields of :class:`Settings` and override
        those saved with the model. ``engine`` is transformers, the default, or vllm (docs/vllm.md), which
        decides about the device itself. Models from the same files ``share`` their weights in memory: without
        it a model has its own, which may be changed. Raises GraceError with one line if the model cannot be
        found, fetched or read.
        """
        engine = engine or "transformers"
        check_engine(engine, device)
        folder = find_model(name, revision=revision)
        given = saved_settings(name, folder) | settings
        check_names(given, f" for {name}")
        try:
            chosen = Settings(**given)
        except GraceError as error:
            raise GraceError(f"{name}: {error}; correct it in the call, or in the model's {SETTINGS_FILE}") from error
        if dtype not in (None, *DTYPES):
            raise GraceError(f"dtype must be float32, bfloat16 or float16, got {dtype!r}")
        try:
            if engine == "vllm":
                loaded = load_for_vllm(folder, chosen, dtype, trust_remote_code)
            else:
                loaded = load_for_transformers(folder, device, dtype, trust_remote_code, share)
        except GraceError:
            raise
        except (
            Exception
        ) as error:  # transformers, tokenizers, huggingface_hub and safetensors each have their own kinds
            cause = first_line(error)
            if "ignore_mismatched_sizes" in cause:
                cause = "its weights have other shapes than its config.json tells; fetch or save the model again"
            raise GraceError(
                f"{name}: not a causal language model that can be loaded from {folder}: {cause}"
            ) from error
        model = cls(settings=chosen, name=full_name(name), cache=cache, **loaded.parts)
        model._loaded, model._folder, model._packaged = loaded, folder, packaged_folder(name)
        return model

    _loaded: Loaded | None = None
    _folder: Path | None = None
    _packaged: Path | None = None  # the folder with our settings for a model whose weights come from elsewhere

    @property
    def model(self):
        """The transformers model. Raises GraceError where it runs in another engine."""
        if self._model is None:
            raise GraceError(
                f"{self.name} runs in {self.engine_name}, and this needs it in memory here: load it with engine transformers"
            )
        return self._model

    @property
    def adapter(self):
        """PEFT's wrapper around :attr:`model` where that was loaded with an adapter, else None."""
        return self._loaded.adapter if self._loaded else None

    def close(self) -> None:
        """End what runs for this model outside of this process, and free its memory; the model is of no use
        afterwards.
        """
        self.engine.close()

    @property
    def engine_name(self) -> str:
        """transformers or vllm."""
        return self.engine.name

    @property
    def dim(self) -> int:
        return self.config.get_text_config().hidden_size

    @property
    def dtype(self) -> str:
        return self.engine.dtype

    @property
    def positions(self) -> int | None:
        """The longest sequence that the model reads, prompt and rationale together; None where its
        configuration names no limit.
        """
        return getattr(self.config.get_text_config(), "max_position_embeddings", None)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights, configuration, tokenizer and chat template: what two indexes must share to be
        comparable.
        """
        if self._folder is not None:
            return folder_fingerprint(self._folder)
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy())
        digest.update(self.tokenizer.backend_tokenizer.to_str().encode())
        digest.update(str(self.tokenizer.chat_template).encode())
        return digest.hexdigest()

    def represent(
        self,
        texts: Sequence[str],
        *,
        rationale: bool = True,
        batch_size: int = 64,
        progress: bool | Callable[[int, int], None] = False,
        **settings,
    ) -> Representations:
        """Rationales and part sums of ``texts``, any sequence of strings, in its order; what is in the cache
        is not generated again.

        Texts are run by length, ``batch_size`` of them at a time. ``settings`` override fields of
        :class:`Settings` for this call. ``progress`` shows a bar, or is called with (done, all). Without
        ``rationale`` only the prompt is run, and the rationale part is empty. Raises GraceError for an empty
        text (with its position) or a bad setting.
        """
        texts = as_texts(texts)
        chosen, builder = self._chosen(settings)
        names = self._names(texts, chosen, builder, rationale) if self.cache is not None else []
        stored = self.cache.get_texts(names) if names else {}
        new = [i for i in range(len(texts)) if not (names and names[i] in stored)]
        prompts = dict(zip(new, self._build([texts[i] for i in new], chosen, builder, new), strict=True))
        keys = {i: self._key(prompt, chosen, rationale) for i, prompt in prompts.items()}
        rows = self._cached({keys[i]: prompts[i] for i in keys})
        missing = {key: i for i, key in keys.items() if key not in rows}  # one position for each text that occurs
        order = sorted(missing.values(), key=lambda i: -len(prompts[i].ids))
        batch_size = self.batch_size(batch_size)
        with _Progress(progress, len(texts)) as bar:
            bar(len(texts) - len(order))
            new_rows: dict[str, Representation] = {}
            try:
                for place, row in self._run([prompts[i] for i in order], chosen.decoding, rationale, batch_size):
                    new_rows[keys[order[place]]] = row
                    bar(1)
                    if len(new_rows) == batch_size:
                        rows |= self._keep(new_rows)
                        new_rows = {}
            finally:  # also of a run that is stopped
                rows |= self._keep(new_rows)
        if names and new:
            self.cache.name_texts({names[i]: (keys[i], prompts[i].text_truncated) for i in new})
        results = [
            (rows[keys[i]], prompts[i].text_truncated) if i in keys else stored[names[i]] for i in range(len(texts))
        ]
        return self.representations([row for row, _ in results], [cut for _, cut in results])

    def representations(self, rows: Sequence[Representation], text_truncated: Sequence[bool]) -> Representations:
        """The rows of several texts as one batch, with their rationales as text."""
        return Representations.of(rows, text_truncated, self.decode, self.dim)

    def _run(
        self, prompts: list[Prompt], decoding: Decoding, rationale: bool, width: int
    ) -> Iterator[tuple[int, Representation]]:
        """The rows of prompts as they are done; ``width`` of them run at a time."""
        if rationale and prompts:
            yield from self.engine.each(prompts, decoding, width=width)
            return
        for start in range(0, len(prompts), width):
            yield from enumerate(self.engine.pool(prompts[start : start + width]), start)

    def _cached(self, prompts: dict[str, Prompt]) -> dict[str, Representation]:
        """The cache's rows by key, without those that cannot be of the key's prompt and this model."""
        rows = self.cache.get(list(prompts)) if self.cache is not None else {}
        return {
            key: row
            for key, row in rows.items()
            if row.sums.shape == (len(PARTS), self.dim)
            and row.counts[TEXT] == prompts[key].stop - prompts[key].start
            and row.counts[RATIONALE] == len(row.rationale_ids)
        }

    def _keep(self, rows: dict[str, Representation]) -> dict[str, Representation]:
        if self.cache is not None and rows:
            self.cache.put(rows)
        return rows

    def represent_given(
        self, texts: Sequence[str], rationales: Sequence[str | Sequence[int]], *, batch_size: int = 32, **settings
    ) -> Representations:
        """Representations of ``texts`` with the given rationales, as text or as token ids, instead of ones of
        the model's own.

        One forward pass a batch, nothing is generated and nothing cached. Raises GraceError for lists of
        different lengths.
        """
        texts, rationales = as_texts(texts), as_texts(rationales, "rationales")
        ids = [
            self.tokenizer(r, add_special_tokens=False)["input_ids"] if isinstance(r, str) else _token_ids(r)
            for r in rationales
        ]
        prompts, batches = self.with_rationales(texts, ids, batch_size=self.batch_size(batch_size), **settings)
        rows: dict[int, Representation] = {}
        for batch in batches:
            rows |= zip(batch, self.engine.pool([prompts[i] for i in batch], [ids[i] for i in batch]), strict=True)
        return self.representations([rows[i] for i in range(len(texts))], [p.text_truncated for p in prompts])

    def with_rationales(
        self, texts: Sequence[str], rationale_ids: Sequence[Sequence[int]], *, batch_size: int, **settings
    ) -> tuple[list[Prompt], list[list[int]]]:
        """Prompts of ``texts``, and batches of their positions by length with the rationale that is to stand
        behind each.
        """
        texts, rationale_ids = as_texts(texts), as_list(rationale_ids, "rationales", of="token ids")
        if len(texts) != len(rationale_ids):
            raise GraceError(
                f"every text needs its rationale, got {len(texts)} texts and {len(rationale_ids)} rationales"
            )
        longest = max(map(len, rationale_ids), default=0)
        prompts, _ = self._prompts(texts, settings | {"max_new_tokens": max(longest, 1)})
        order = sorted(range(len(texts)), key=lambda i: -len(prompts[i].ids) - len(rationale_ids[i]))
        return prompts, [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

    def encode(
        self, texts: Sequence[str], rationale: bool = True, *, role: str = Role.DOCUMENT, **options
    ) -> np.ndarray:
        """L2-normalised embeddings ``(n, d)`` fp32, over text and rationale or over the text alone.

        Options as in :meth:`represent`.

        In the model's own :attr:`geometry`, in which queries and documents differ by their ``role``; in the
        raw one they do not. Warns where a text was cut to fit the prompt; :meth:`represent` tells which.
        """
        batch = self.represent(texts, rationale=rationale, **options)
        if batch.text_truncated.any():
            warnings.warn(
                "texts that are too long for the prompt are embedded without their end: represent() tells which "
                "(text_truncated), and the setting max_prompt_tokens is the limit",
                stacklevel=2,
            )
        return self.geometry.vectors(batch.sums, batch.counts, Pooling.FULL if rationale else Pooling.TEXT, role)

    @cached_property
    def statistics(self) -> Statistics | None:
        """The model's own statistics, where it comes with some that were made with its present system prompt."""
        for folder in (self._folder, self._packaged):
            if folder is not None and (folder / STATISTICS_FILE).is_file():
                statistics = Statistics.load(folder / STATISTICS_FILE)
                return statistics if statistics.system == self.settings.system else None
        return None

    @cached_property
    def geometry(self) -> Geometry:
        """What makes vectors of texts that belong to no collection: calibrated by the model's own statistics,
        or raw.
        """
        return of_model(self.statistics)

    def default_geometry(self, documents: int) -> str:
        """The geometry of a new index over so many documents: raw for a model that was trained for raw
        cosines, or where there is nothing to calibrate with."""
        if self.statistics is not None:
            return DEFAULT
        trained = (
            self._folder is None or (self._folder / "training.json").exists() or self._folder.parent == DEMO_MODELS_DIR
        )
        return "raw" if trained or documents < DOCUMENTS else DEFAULT

    def generate_rationales(self, texts: Sequence[str], **options) -> list[str]:
        """The rationale of each text. Options as in :meth:`represent`, which also tells which of them were cut off."""
        return self.represent(texts, **options).rationales

    def stream(self, text: str, **settings) -> Iterator[tuple[str, Representations | None]]:
        """The rationale of one text as it grows: ``(rationale so far, None)``, at last ``(rationale,
        Representations)``.

        It grows by whole characters. A text that is in the cache comes at once.
        """
        (prompt,), chosen = self._prompts([text], settings)
        key = self._key(prompt, chosen, True)
        row = self._cached({key: prompt}).get(key)
        if row is None:
            rationale = TextStream(self.tokenizer)
            for tokens, finished in self.engine.decode([prompt], chosen.decoding, stream=True):
                for _, token in tokens:
                    rationale.add(token)
                if tokens:
                    yield rationale.text.strip(), None
                row = dict(finished).get(0)
            self._keep({key: row})
        batch = self.representations([row], [prompt.text_truncated])
        yield batch.rationales[0], batch

    def similarity(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Cosine similarities ``(len(a), len(b))`` of embeddings."""
        return np.asarray(a) @ np.asarray(b).T

    def decode(self, ids: list[list[int]]) -> list[str]:
        """Rationale ids to text; markup tokens that a model wrote in the middle of its rationale are left out."""
        if not any(ids):  # a collection without rationales has many of them
            return [""] * len(ids)
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def save_pretrained(self, folder: str | Path) -> None:
        """Weights (safetensors), tokenizer, template and settings; :meth:`from_pretrained` reads them back.

        An adapter is merged in.
        """
        folder = Path(folder)
        model = self.model if self.adapter is None else copy.deepcopy(self.adapter).merge_and_unload()
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        (folder / SETTINGS_FILE).write_text(json.dumps(asdict(self.settings), indent=2) + "\n", encoding="utf-8")

    def _prompts(self, texts: Sequence[str], overrides: dict) -> tuple[list[Prompt], Settings]:
        """Prompts of ``texts`` under the settings with ``overrides``; GraceError names the position of a bad text."""
        chosen, builder = self._chosen(overrides)
        return self._build(texts, chosen, builder, range(len(texts))), chosen

    def _chosen(self, overrides: dict) -> tuple[Settings, PromptBuilder]:
        """The settings with ``overrides``, and who builds their prompts."""
        check_names(overrides)
        chosen = replace(self.settings, **overrides)
        if chosen.prompt == self.settings.prompt:
            return chosen, self.prompts
        return chosen, PromptBuilder(self.tokenizer, **chosen.prompt)

    def _build(
        self, texts: Sequence[str], chosen: Settings, builder: PromptBuilder, positions: Sequence[int]
    ) -> list[Prompt]:
        """Prompts of ``texts``, which errors call by their ``positions``."""
        prompts = []
        for position, text in zip(positions, texts, strict=True):
            try:
                prompts.append(builder.build(text))
            except GraceError as error:
                raise GraceError(f"text {position}: {error}") from error
        limit = self.positions
        if limit and prompts and (longest := max(len(p.ids) for p in prompts)) + chosen.max_new_tokens > limit:
            raise GraceError(
                f"the longest prompt has {longest} tokens and {chosen.max_new_tokens} may follow, but {self.name} has only {limit} "
                "positions; lower max_prompt_tokens or max_new_tokens"
            )
        return prompts

    def _names(self, texts: Sequence[str], chosen: Settings, builder: PromptBuilder, rationale: bool) -> list[str]:
        """What the cache knows every text by: a hash over it, and over what makes its prompt and its representation.

        Template, system prompt and tokenizer are represented by the prompt of one fixed text.
        """
        parts = [
            self._key(builder.build("One text,\nfor all."), chosen, rationale),
            chosen.max_prompt_tokens,
            chosen.max_new_tokens,
        ]
        common = hashlib.sha256(json.dumps(parts).encode())
        names = []
        for text in texts:
            digest = common.copy()
            digest.update(
                text.encode("utf-8", "surrogatepass") if isinstance(text, str) else b""
            )  # refused when its prompt is built
            names.append(digest.hexdigest())
        return names

    def batch_size(self, asked: int) -> int:
        """How many prompts the engine is given at once: more than ``asked`` where it forms its own batches."""
        return max(asked, self.engine.preferred_batch)

    def _key(self, prompt: Prompt, chosen: Settings, rationale: bool) -> str:
        decoding = asdict(chosen.decoding) if rationale else None
        if decoding and not chosen.temperature:
            decoding |= {"seed": 0, "top_p": 1.0}  # greedy decoding looks at neither
        parts = [self.fingerprint, self.dtype, prompt.ids, prompt.start, prompt.stop, decoding]
        if self.engine.variant:
            parts.append(self.engine.variant)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _token_ids(rationale: Sequence[int]) -> list[int]:
    """A rationale's token ids as plain integers."""
    ids = as_list(rationale, "a rationale", of="token ids")
    if not all(isinstance(token, (int, np.integer)) and not isinstance(token, bool) for token in ids):
        raise GraceError(f"a rationale must be a str or a list of token ids, got {str(ids)[:60]}")
    return [int(token) for token in ids]


def check_engine(engine: str, device: str | None = None) -> None:
    """Raises GraceError for an unknown engine, or for a device where the engine chooses it."""
    if engine not in ENGINES:
        raise GraceError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
    if engine == "vllm" and device is not None:
        raise GraceError(
            f"vLLM runs on the device that it was built for, got device {device!r}; leave it out, or set CUDA_VISIBLE_DEVICES"
        )


class _Progress:
    """A rich progress bar, a callback ``(done, all)``, or nothing; called with the number of texts just finished."""

    def __init__(self, show: bool | Callable[[int, int], None], total: int):
        self.show, self.total, self.done = show, total, 0

    def __enter__(self):
        self.bar = None
        if self.show is True:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("encoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self.bar = Progress(*columns, console=Console(stderr=True))
            self.bar.start()
            self.task = self.bar.add_task("", total=self.total)
        return self

    def __call__(self, count: int) -> None:
        self.done += count
        if self.bar:
            self.bar.advance(self.task, count)
        elif callable(self.show):
            self.show(self.done, self.total)

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()
