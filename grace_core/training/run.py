"""One training run from a configuration to a model folder: checks, trainer, evaluations, files, resuming."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import numpy as np
from transformers import PrinterCallback

from grace_core.cache import RepresentationCache
from grace_core.errors import GraceError
from grace_core.files import only_writer, read_json
from grace_core.model import GraceModel, Representations
from grace_core.precision import default_dtype
from grace_core.training.callbacks import HeldOutEvaluation, Recorder, RunFiles, TrainingCollapsed
from grace_core.training.checkpoints import (
    finish_saving,
    full_state,
    merged_state,
    newest_checkpoint,
    save_model,
    settings_of,
    sharded,
    trained_module,
)
from grace_core.training.config import TrainConfig
from grace_core.training.data import Item, count_overlong, folders_of, read_items, silent
from grace_core.training.heldout import HeldOut


def print_progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def train(
    config: TrainConfig,
    *,
    resume: bool = False,
    report: Callable[[str], None] = print_progress,
    cache: RepresentationCache | None = None,
) -> dict:
    """Train and return ``{"out", "model", "state", "steps", "best": {"step", "ndcg@10", …}, "seconds", …}``.

    The best model by held-out nDCG@10 (without an evaluation, the last) is saved in ``out/best``. With
    ``resume`` the run continues from its newest checkpoint, or from the start if it has none. ``cache`` is for
    the evaluation before the first step, which is the same for all runs from one starting model. Raises
    GraceError for bad input before anything is trained, and TrainingCollapsed if the collapse alarm stops the
    run, after which the best model so far is still saved.
    """
    import torch
    from accelerate import PartialState

    processes = PartialState(cpu=not torch.cuda.is_available())  # without it, processes on CPUs do not see each other
    main = processes.is_main_process
    out = Path(config.out)
    if not main:
        report = silent
    if not resume and any(out.glob("checkpoint-*")):
        raise GraceError(
            f"{out} holds a run already; give --resume to go on with it, another out, or remove the folder"
        )
    config = with_precision(config, out if resume else None, report=lambda note: report(f"note: {note}"))
    # read texts and model, and report what is cut or left out
    items = read_items(config, report=lambda note: report(f"note: {note}"))
    heldout = HeldOut.read(config.evaluation) if config.evaluation else []
    model = load_for_training(config)
    model.cache = cache
    overlong = count_overlong(items, model.prompts)
    watched = count_overlong([Item(positive=text) for sample in heldout for text in sample.texts], model.prompts)
    for kind, counts in (("training", overlong), ("held-out", watched)):
        if counts["cut"]:
            report(
                f"note: {counts['cut']} of {counts['looked_at']} {kind} texts are cut to fit max_prompt_tokens {config.max_prompt_tokens}: "
                "raise it in the configuration, or split them"
            )
    for note in dict.fromkeys(note for sample in heldout for note in sample.notes):
        report(f"note: {note}")
    # the trainer, from the newest checkpoint if the run is resumed
    if config.method == "grace":
        from grace_core.training.policy import make_trainer
    elif config.method == "best_of_n":
        from grace_core.training.best_of_n import make_trainer
    else:
        from grace_core.training.contrastive import make_trainer
    trainer = make_trainer(config, model, items, out=out, processes=processes.num_processes)
    checkpoint = newest_checkpoint(out) if resume else None
    done = int(checkpoint.name.split("-")[1]) if checkpoint else 0
    if main:
        with only_writer(out):
            for name in ("best", "last"):
                finish_saving(out / name)
            return _run(
                config, trainer, model, heldout, out, checkpoint, done, {"items": len(items), "texts": overlong}, report
            )
    return _run(config, trainer, model, heldout, out, checkpoint, done, {}, report)


def with_precision(config: TrainConfig, run: Path | None, *, report: Callable[[str], None]) -> TrainConfig:
    """The configuration with ``precision: auto`` decided for this machine, or as the resumed ``run`` had it."""
    import torch

    if config.precision != "auto":
        return config
    path = run / "run.json" if run else None
    begun = read_json(path, "remove the run's folder and start again") if path and path.exists() else None
    precision = begun["config"]["precision"] if begun else default_dtype("cuda" if torch.cuda.is_available() else "cpu")
    report(
        f"precision auto: {precision}, {'as the run was begun' if begun else 'which this machine multiplies faster'}"
    )
    return config.model_copy(update={"precision": precision})


def load_for_training(config: TrainConfig) -> GraceModel:
    """The starting model on the CPU; the trainer moves it. Weights are fp32, except those frozen below LoRA.

    A step changes a weight by about a millionth, which bf16 would round away; so bf16 comes by autocast.
    """
    import torch

    frozen_in_bf16 = config.lora is not None and config.precision == "bfloat16"
    settings = asdict(settings_of(config, serving=False))  # not those of the starting model
    dtype = "bfloat16" if frozen_in_bf16 else "float32"
    model = GraceModel.from_pretrained(config.model, device="cpu", dtype=dtype, share=False, **settings)
    limit = getattr(model.model.config.get_text_config(), "max_position_embeddings", None)
    if limit and config.max_prompt_tokens + config.max_new_tokens > limit and config.writes:
        raise GraceError(
            f"max_prompt_tokens {config.max_prompt_tokens} + max_new_tokens {config.max_new_tokens} do not fit into the {limit} positions "
            f"of {config.model}; lower one of them"
        )
    torch.manual_seed(config.seed)  # a fresh adapter's first weights are drawn next
    return model


def _run(config, trainer, model, heldout, out: Path, checkpoint: Path | None, done: int, counts: dict, report) -> dict:
    tokenizer, steps, rationale = model.tokenizer, trainer.args.max_steps, config.writes
    files = RunFiles(out, main=trainer.accelerator.is_main_process)
    evaluations = files.start({"config": config.model_dump(), "steps": steps, **counts}, step=done)
    recorder = Recorder(files, config.collapse if config.method == "grace" else None, report=report)

    def save(scores: dict, name: str = "best") -> None:
        state = full_state(trainer)
        if trainer.accelerator.is_main_process:
            about = {"step": trainer.state.global_step, "eval": scores, "base": config.model}
            statistics = trainer.calibration.statistics() if trainer.calibration else None
            parts = {"model": trained_module(trainer), "tokenizer": tokenizer, "state": state, "statistics": statistics}
            save_model(out / name, config=config, about=about, **parts)
        trainer.accelerator.wait_for_everyone()

    def evaluate() -> tuple[dict[str, float], list[dict]]:
        options = {"rationale": rationale, "batch_size": config.evaluation.batch_size, "seed": config.seed}
        temperatures = config.evaluation.temperatures if rationale else [0.0]
        statistics = trainer.calibration.statistics() if trainer.calibration else None
        with live_model(trainer, config, tokenizer) as live:
            if live and model.cache and not trainer.state.global_step:
                live.fingerprint, live.cache = model.fingerprint, model.cache
            represented = [
                [represent(trainer, live, sample.texts, temperature=t, **options) for t in temperatures]
                for sample in heldout
            ]
        geometry = {"rationale": rationale, "kind": config.geometry, "statistics": statistics}
        results = [
            [sample.evaluate(part, **geometry) for part in parts]
            for sample, parts in zip(heldout, represented, strict=True)
        ]
        first = [scores for (scores, _), *_ in results]
        scores = {name: float(np.mean([sample[name] for sample in first])) for name in first[0]}
        if len(temperatures) > 1:
            each = np.mean([[scores["ndcg@10"] for scores, _ in parts] for parts in results], axis=0)
            scores |= {f"ndcg@10_at_{t:g}": float(value) for t, value in zip(temperatures, each, strict=True)}
            scores["ndcg@10"] = float(np.mean(each))
        if len(results) > 1:
            names = [folder.name for folder in folders_of(config.evaluation.path)]
            values = [float(np.mean([scores["ndcg@10"] for scores, _ in parts])) for parts in results]
            scores |= {f"ndcg@10 {name}": value for name, value in zip(names, values, strict=True)}
        return scores, [probe for parts in results for probe in parts[0][1]]

    def announce(scores: dict[str, float]) -> None:
        pending = trainer.control.should_log  # on_log would clear it
        trainer.callback_handler.on_log(trainer.args, trainer.state, trainer.control, scores)
        trainer.control.should_log = pending

    # callbacks: evaluation, and metrics with the collapse alarm
    if config.method == "best_of_n":
        trainer.report = report
    watcher = None
    if heldout:
        every = trainer.round_steps if config.method == "best_of_n" else config.evaluation.every
        watcher = HeldOutEvaluation(
            files,
            recorder,
            every=every,
            patience=config.evaluation.patience,
            evaluate=evaluate,
            save=save,
            announce=announce,
            report=report,
        )
        watcher.recall(evaluations)
        trainer.add_callback(watcher)
    trainer.add_callback(recorder)
    trainer.remove_callback(PrinterCallback)  # prints every row as a dict; the recorder reports
    if checkpoint:
        report(f"going on from {checkpoint}, step {done} of {steps}")
    # train
    began = time.time()
    if checkpoint and trainer.calibration:
        trainer.calibration.load(checkpoint)
    if done < steps:
        with warnings.catch_warnings():
            # at every checkpoint PEFT looks on the hub for the base's vocabulary, which is not saved anyway
            warnings.filterwarnings("ignore", "Unable to fetch remote file|Could not find a config file", module="peft")
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    state = "collapsed" if recorder.alarm else "stopped early" if watcher and watcher.stopped_early else "finished"
    # save: without an evaluation the last model is the best; an adapter is small, so its last one is saved too
    kept_apart = config.lora is not None and not config.lora.merge
    name = "last" if watcher else "best"
    if state == "finished" and (not watcher or kept_apart) and (done < steps or not (out / name).exists()):
        if done >= steps:  # the run was killed after its last step, before the model was saved
            trainer._load_from_checkpoint(str(checkpoint))
        save({}, name)
    result = {
        "out": str(out),
        "model": str(out / "best"),
        "state": state,
        "steps": trainer.state.global_step or done,
        "best": watcher.best if watcher else None,
        "seconds": round(time.time() - began, 1),
        **counts,
    }
    files.state(state, result=result, **({"alarm": recorder.alarm} if recorder.alarm else {}))
    if recorder.alarm:
        raise TrainingCollapsed(f"{recorder.alarm} (best model so far: {out / 'best'})")
    return result


@contextmanager
def live_model(trainer, config: TrainConfig, tokenizer):
    """A GraceModel of the current weights, in eval mode; if these are sharded, None on all but the main process.

    A sharded model needs all processes in step, which generation of different lengths does not allow, so its
    weights are gathered into a plain copy on the main process.
    """
    module = trained_module(trainer)
    if sharded(trainer):
        from transformers import AutoModelForCausalLM

        state = full_state(trainer)
        if not trainer.accelerator.is_main_process:
            yield None
            return
        if config.lora:
            state = merged_state(state, scale=config.lora.alpha / config.lora.r)
        plain = AutoModelForCausalLM.from_config(module.config)
        plain.load_state_dict(state, strict=False)  # a tied output embedding is not stored twice
        plain.tie_weights()
        yield _live(plain.to(trainer.accelerator.device), tokenizer, config)
        return
    training = module.training
    try:
        yield _live(module, tokenizer, config)
    finally:
        module.train(training)


def _live(module, tokenizer, config: TrainConfig) -> GraceModel:
    model = GraceModel(module, tokenizer, settings_of(config, serving=False), name="live")
    model.fingerprint = "live"  # spares a hash over all weights; nothing is cached
    return model


def represent(trainer, live: GraceModel | None, texts: list[str], **options) -> Representations:
    """Representations of all ``texts``, on every process; each encodes a part of them, unless only the main
    process has a model.
    """
    from accelerate.utils import broadcast_object_list, gather_object

    accelerator = trainer.accelerator
    if accelerator.num_processes == 1:
        return live.represent(texts, **options)
    if sharded(trainer):
        shared = [live.represent(texts, **options) if live else None]
        broadcast_object_list(shared)
        return shared[0]
    rank, n = accelerator.process_index, accelerator.num_processes
    parts = gather_object([live.represent(texts[rank::n], **options)])
    back = np.argsort(np.concatenate([np.arange(len(texts))[part::n] for part in range(n)]), kind="stable")
    arrays = ("sums", "counts", "truncated", "text_truncated")
    arrays = {name: np.concatenate([getattr(part, name) for part in parts])[back] for name in arrays}
    lists = {
        name: [value for part in parts for value in getattr(part, name)] for name in ("rationales", "rationale_ids")
    }
    return Representations(**{name: [values[i] for i in back] for name, values in lists.items()}, **arrays)
