"""The configuration of a training run: a YAML file, checked before anything is loaded.

A file may extend others (``extends``, paths relative to it); its own keys override theirs. ``--set key=value``
overrides the file: dots lead into sections (``data.limit=100``), values are read as YAML (``lora={r: 16}``),
and ``extends`` itself may be set.

Sizes. A step samples B triplets (``batch``), each a row for every role (supervised: query, positive,
negative), each row K rollouts (``rollouts``). The rows that are trained (see
``grace_core.training.data.Layout``) are then cut into ``minibatches`` optimizer steps, and each of these into
``accumulate`` forward and backward passes on every process.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from grace_core.errors import GraceError
from grace_core.prompt import REPRESENTATION_PROMPT

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(gt=0, le=10)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Data(Section):
    """Where training texts come from: ``demo``, a BEIR folder, a JSONL file of triplets, or for unsupervised
    runs any corpus.
    """

    path: str | list[str] = "demo"  # several are put together
    format: Literal["triplets", "beir", "texts"] = "beir"
    split: str | None = "train"  # of a BEIR folder: queries of this split, and negatives from documents judged in it
    hard_negatives: Positive = 10  # a BEIR negative is drawn from BM25's first N that are not relevant
    limit: Annotated[int, Field(ge=2)] | None = None  # the first N triplets or texts of each path
    neighbours: Positive = 1  # group so many items whose positives are similar by BM25 in a batch


class Evaluation(Section):
    """Held-out retrieval during training: dev queries against their relevant passages and a fixed sample of
    the others.
    """

    path: str | list[str] = "demo"  # of several, each is evaluated, and the mean counts
    split: str | None = "dev"
    every: Positive = 10  # optimizer steps
    queries: Positive = 200
    documents: Positive = 400
    batch_size: Positive = 64
    # of the rationales; nDCG@10, by which the best model is chosen, is the mean over them. 0 is greedy
    temperatures: Annotated[list[Annotated[float, Field(ge=0, le=10)]], Field(min_length=1)] = [0.0]
    probes: Annotated[int, Field(ge=0)] = 6  # fixed texts whose rationales are saved at every evaluation
    patience: Positive | None = None  # stop after N evaluations without a new best nDCG@10


class Collapse(Section):
    """When rationales have collapsed, that is, hardly differ any more.

    Thresholds hold for the mean over ``window`` steps; 0 (1 for ``truncated``) switches one off.
    """

    spread: Annotated[float, Field(ge=0)] = 0.005  # standard deviation of the reward within groups
    distinct: Share = 0.05  # distinct rationales among all rollouts of a step
    truncated: Share = 0.9  # rollouts cut off at the length limit
    window: Positive = 5
    action: Literal["stop", "warn"] = "stop"


class Lora(Section):
    r: Positive = 16
    alpha: Positive = 32
    targets: list[str] | Literal["all-linear"] = "all-linear"
    merge: bool = True  # into a plain model; otherwise best/ is an adapter folder, which names its base


class Serving(Section):
    """The limits of the trained model, where they differ from those of training."""

    max_prompt_tokens: Positive | None = None
    max_new_tokens: Positive | None = None


class Vllm(Section):
    """Rollouts from vLLM beside the trainer (``colocate``) or from a server started with ``trl vllm-serve``."""

    mode: Literal["colocate", "server"] = "colocate"
    memory: Annotated[float, Field(gt=0, lt=1)] = 0.3
    tensor_parallel: Positive = 1
    host: str = "127.0.0.1"
    port: Positive = 8000


class BestOfN(Section):
    """``best_of_n`` only: every round samples ``rollouts`` rationales of each text, keeps one of them, and
    trains on the kept ones.
    """

    rounds: Positive = 2
    batches: Positive = 8  # of items, sampled and rewarded in a round; every round has others
    texts: Positive = 16  # with their rationales, in an optimizer step
    passes: Positive = 1  # over what a round kept
    # if none of a text's rationales ended: keep the best up to its last whole sentence, or none
    unfinished: Literal["cut", "drop"] = "cut"
    min_novelty: Share = 0.0  # a rationale with less is not kept


class TrainConfig(Section):
    """A run.

    ``method`` grace trains the policy, best_of_n imitates the best of what it writes; cl and simcse are
    baselines without rationales, which ignore the rollout settings."""

    model: str = "demo-base"
    out: str
    method: Literal["grace", "best_of_n", "cl", "simcse"] = "grace"
    mode: Literal["supervised", "unsupervised"] = "supervised"
    objective: Literal["symmetric", "reference", "joint"] = "symmetric"
    geometry: Literal["raw", "calibrated"] = "raw"  # of the vectors that are rewarded, and evaluated
    reward_geometry: Literal["raw"] | None = None  # ablation: rewards by raw cosines, calibrated evaluations
    data: Data = Data()
    evaluation: Evaluation | None = Evaluation()
    serving: Serving = Serving()
    best_of_n: BestOfN = BestOfN()

    system: str = REPRESENTATION_PROMPT
    template: dict[str, Any] = {}  # arguments of the chat template, such as enable_thinking
    max_prompt_tokens: Positive = 1024
    max_new_tokens: Positive = 512
    batch: Annotated[int, Field(ge=2)] = 16
    rollouts: Annotated[int, Field(ge=2)] = 8
    minibatches: Positive = 1
    accumulate: Positive = 1
    temperature: Temperature = 1.0
    partner_temperature: Temperature = 0.5  # reference only: of the single rollouts of query and negative
    reward_temperature: Temperature = 0.05  # t of the symmetric reward's softmax
    without: list[str] = []  # ablation: reward terms that are logged but do not count
    rank_truncated_last: bool = True  # symmetric and joint; the reference has its flat -1
    # subtracted from the reward of a cut-off rollout, if these do not rank last
    truncation_penalty: Annotated[float, Field(ge=0)] = 0.0
    # weight of a rationale's novelty (the share of its content words that its text lacks), added to its reward;
    # best_of_n chooses by the sum
    novelty_weight: Annotated[float, Field(ge=0)] = 0.0
    share_negatives: bool = False  # sample each negative once, not ``rollouts`` times
    contrastive_weight: Annotated[float, Field(ge=0)] = 0.3  # joint only
    contrastive_temperature: Temperature = 0.05  # joint, cl and simcse
    beta: Annotated[float, Field(ge=0)] = 0.05  # weight of the KL divergence to the starting model
    # weight of the KL divergence to the starting model on plain training texts
    retain_weight: Annotated[float, Field(ge=0)] = 0.0
    retain_texts: Positive = 16  # per step and process, their first 128 tokens
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 0.2  # PPO clip
    delta: Annotated[float, Field(gt=1)] = 3.0  # dual clip

    epochs: Annotated[float, Field(gt=0)] | None = None
    steps: Positive | None = None  # optimizer steps; this or epochs
    learning_rate: Annotated[float, Field(gt=0)] = 1e-6
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: Share = 0.0  # share of the steps
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    # simcse only: attention dropout that makes the two views of a text
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    lora: Lora | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "float32"  # auto: bfloat16 where the machine multiplies it
    gradient_checkpointing: bool = False
    vllm: Vllm | None = None

    collapse: Collapse = Collapse()
    save_every: Positive | None = None  # optimizer steps; default: evaluation.every, or a tenth of the run
    keep_checkpoints: Positive = 2
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = ["tensorboard"]
    seed: int = 0

    @model_validator(mode="after")
    def _fits_together(self) -> TrainConfig:
        # best of n, and the length of the run
        if self.method == "best_of_n":
            if self.epochs is not None or self.steps is not None:
                lengths = f"epochs {self.epochs} and steps {self.steps}"
                raise ValueError(
                    f"method best_of_n counts rounds, got {lengths}; set them to null, and best_of_n.rounds"
                )
            if self.objective == "reference":
                raise ValueError(
                    "method best_of_n chooses by the symmetric reward, got objective reference; set it to symmetric"
                )
            if self.minibatches != 1 or self.vllm:
                raise ValueError("method best_of_n knows neither minibatches nor vllm; leave them out")
            if self.accumulate > self.best_of_n.texts:
                raise ValueError(
                    f"accumulate {self.accumulate} cuts best_of_n.texts {self.best_of_n.texts} into empty pieces; lower it"
                )
        elif (self.epochs is None) == (self.steps is None):
            raise ValueError(f"give either epochs or steps, got epochs {self.epochs} and steps {self.steps}")
        # data and mode
        if self.mode == "supervised" and self.data.format == "texts":
            raise ValueError(
                "supervised training needs pairs, got data.format texts; use triplets or beir, or mode unsupervised"
            )
        if self.method == "cl" and self.mode != "supervised":
            raise ValueError("method cl is supervised; for unsupervised training use method simcse")
        if self.method == "simcse" and self.mode != "unsupervised":
            raise ValueError("method simcse is unsupervised; set mode: unsupervised, or use method cl")
        # objective and reward
        if self.objective == "reference" and self.beta > 0 and self.method == "grace":
            raise ValueError(f"objective reference has no KL term, got beta {self.beta}; set beta: 0")
        if self.objective == "reference" and self.method == "grace" and self.geometry != "raw":
            raise ValueError(
                f"objective reference is rewarded by raw cosines, as published, got geometry {self.geometry}; set it to raw"
            )
        if self.reward_geometry and (self.geometry == "raw" or not self.writes):
            raise ValueError(
                f"reward_geometry is for calibrated runs that write rationales, got geometry {self.geometry} and method {self.method}; "
                "leave it out"
            )
        if self.novelty_weight and self.objective == "reference":
            raise ValueError(
                f"objective reference is rewarded as published, got novelty_weight {self.novelty_weight}; set it to 0"
            )
        if self.truncation_penalty and self.rank_truncated_last:
            raise ValueError("truncation_penalty is for rollouts that do not rank last; set rank_truncated_last: false")
        if self.retain_weight and not self.beta:
            raise ValueError(
                "retain_weight compares with the starting model, which is kept for beta > 0 only, got beta 0; set both"
            )
        terms = {"reference": ("positive", "negative", "consistency", "cross")}.get(
            self.objective, ("query", "document")
        )
        if self.mode == "unsupervised":
            terms = ("positive", "consistency", "cross") if self.objective == "reference" else ("text",)
        if unknown := set(self.without) - set(terms):
            raise ValueError(
                f"without names {', '.join(sorted(unknown))}; {self.objective}, {self.mode} has {', '.join(terms)}"
            )
        if set(self.without) == set(terms):
            raise ValueError(f"without names all terms ({', '.join(terms)}), so there is no reward; leave one")
        # the sizes of a step
        if self.method == "grace":
            rows, pieces = self.batch * self.rollouts, self.minibatches * self.accumulate
            if rows % pieces:
                raise ValueError(
                    f"batch {self.batch} × rollouts {self.rollouts} = {rows} cannot be cut into minibatches {self.minibatches} × "
                    f"accumulate {self.accumulate} = {pieces} equal pieces; change one of them"
                )
            every = self.checkpoint_every(default=self.minibatches)
            if every % self.minibatches:
                raise ValueError(
                    f"save_every {every} falls between the {self.minibatches} minibatches of one batch of rollouts, from where a run "
                    "cannot be resumed exactly; use a multiple"
                )
        elif self.method != "best_of_n" and self.vllm:
            raise ValueError(f"vllm writes rollouts, and method {self.method} has none; remove vllm")
        elif self.method != "best_of_n" and (self.minibatches != 1 or self.accumulate != 1):
            raise ValueError(f"method {self.method} contrasts a batch as a whole; set minibatches and accumulate to 1")
        return self

    @property
    def writes(self) -> bool:
        """Whether the trained model writes rationales."""
        return self.method in ("grace", "best_of_n")

    def trainer_arguments(self, steps: int) -> dict[str, Any]:
        """The arguments of transformers' trainer that all methods share: optimizer, schedule, logs, checkpoints."""
        return {
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": "constant_with_warmup" if self.schedule == "constant" else self.schedule,
            "warmup_steps": round(self.warmup * steps),
            "weight_decay": self.weight_decay,
            "max_grad_norm": self.max_grad_norm,
            "optim": "adamw_torch",
            "bf16": self.precision == "bfloat16",
            "logging_steps": 1,
            "logging_first_step": True,
            "logging_nan_inf_filter": False,
            "report_to": list(self.report_to) or "none",
            "save_strategy": "steps",
            "save_total_limit": self.keep_checkpoints,
        }

    def checkpoint_every(self, *, default: int) -> int:
        return self.save_every or (self.evaluation.every if self.evaluation else default)


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> TrainConfig:
    """Reads and checks a configuration. Raises GraceError with the file, the key and what was expected."""
    path = Path(path)
    changes: dict[str, Any] = {}
    for item in overrides:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise GraceError(f"--set {item!r}: expected key=value, such as --set learning_rate=1e-5")
        section = changes
        *sections, last = key.strip().split(".")
        for name in sections:
            section = section.setdefault(name, {})
        section[last] = _parse_floats(yaml.safe_load(value))
    raw = _read(path, extends=changes.pop("extends", None))
    try:
        return TrainConfig.model_validate(_merge(raw, changes))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        got = "" if isinstance(first["input"], dict) else f", got {first['input']!r}"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        message = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message, got = "there is no such setting", ""
        raise GraceError(f"{path}: {f'{where}: ' if where else ''}{message}{got}{more}") from None


def _read(path: Path, *, extends=None, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path.resolve() in seen:
        raise GraceError(f"{path} extends itself; remove the circle")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GraceError(f"{path} does not exist; name a YAML file, such as one of configs/") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise GraceError(f"{path} is no readable YAML ({' '.join(str(error).split())[:200]}); correct it") from None
    if not isinstance(raw, dict):
        raise GraceError(
            f"{path} holds {'nothing' if raw is None else type(raw).__name__}, expected keys and values; see configs/"
        )
    extended = raw.pop("extends", None) if extends is None else extends
    raw.pop("extends", None)
    inherited: dict[str, Any] = {}
    for name in [extended] if isinstance(extended, str) else extended or []:
        inherited = _merge(inherited, _read(path.parent / name, seen=(*seen, path.resolve())))
    return _merge(inherited, _parse_floats(raw))


def _merge(under: dict, over: dict) -> dict:
    """``under`` with the values of ``over``, section by section."""
    merged = dict(under)
    for key, value in over.items():
        merged[key] = (
            _merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
        )
    return merged


def _parse_floats(value):
    """Turns strings such as "1e-6" into floats: YAML 1.1 reads only 1.0e-6 as a number."""
    if isinstance(value, dict):
        return {key: _parse_floats(item) for key, item in value.items()}
    if isinstance(value, str) and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value
