"""Best-of-n, or expert iteration: the model imitates the best of what it writes itself, round after round,
without a policy gradient.

A round samples n rationales (``rollouts``) of each query and document of ``best_of_n.batches`` batches from
the model as it is, scores them by GRACE's symmetric reward among their batch, in the geometry of the run, and
keeps one of each text (:mod:`grace_core.training.choosing`). Then it trains on these, ``best_of_n.passes``
times over, by cross-entropy. With c the kept rationale of a text x, its end token included, and T the tokens
of all c of an optimizer step:

    loss = -(1/T) sum over texts x, sum over the tokens of c of log p(c_t | prompt of x, c_<t)

The prompt has no loss of its own. In the calibrated geometry the statistics follow the sampled rationales,
batch by batch, and while the weights move the kept ones, step by step.

The kept rationales of every batch are stored below ``rounds/`` of the run's folder, ``ROUND/BATCH/kept.json``,
so that a resumed run does not sample them again. Rounds after the checkpoint that a run is resumed from are
removed first.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from random import Random
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from grace_core.engines.base import Decoding
from grace_core.engines.runner import token_positions
from grace_core.engines.transformers import TransformersEngine
from grace_core.errors import GraceError
from grace_core.files import read_json, write_json
from grace_core.model import GraceModel
from grace_core.text_stream import read_pieces
from grace_core.training import calibration as calibrated
from grace_core.training.calibration import Calibration, part_sums
from grace_core.training.choosing import choose, whole_sentences
from grace_core.training.config import TrainConfig
from grace_core.training.data import NEGATIVE, QUERY, Item, Layout, batches, silent
from grace_core.training.lora import with_lora
from grace_core.training.reward import measures, novelty, score, text_roles, vectors
from grace_core.training.states import Rollout, Sums, decoder_of, last_states, pooled_parts

SAMPLING_BATCH = 128  # rationales that are sampled at a time
# settings that do not change what is sampled
NOT_SAMPLING = {"out", "report_to", "evaluation", "serving", "collapse", "save_every", "keep_checkpoints"}
REPORTED_FIGURES = (
    *("reward", "best_reward", "kept_reward", "kept", "kept_finished"),
    *("truncated", "rationale_tokens", "novelty", "kept_novelty"),
)


@dataclass(frozen=True)
class Kept:
    """A text and the rationale of it to imitate; ``ids`` are without the end token, which training appends."""

    text: str
    role: str
    ids: tuple[int, ...]


def fine_tuning_loss(model, rollouts: Sequence[Rollout], *, pad_id: int, end_id: int, decoder) -> tuple[Tensor, Sums]:
    """Minus the summed log-probability of the rollouts' rationales and end tokens, and part sums ``(n, 3,
    d)`` and counts without gradient.

    Prompts are padded on the left, rationales follow, as in TRL. Only the logits that predict a rationale's
    tokens are computed.
    """
    begin, keep = max(len(r.prompt.ids) for r in rollouts), max(len(r.ids) for r in rollouts) + 1
    ids = torch.full((len(rollouts), begin + keep), pad_id)
    mask, labels = torch.zeros_like(ids), torch.full((len(rollouts), keep), -100)
    for row, rollout in enumerate(rollouts):
        target = [*rollout.ids, end_id]
        start, stop = begin - len(rollout.prompt.ids), begin + len(target)
        ids[row, start:stop] = torch.tensor([*rollout.prompt.ids, *target])
        mask[row, start:stop] = 1
        labels[row, : len(target)] = torch.tensor(target)
    device = next(model.parameters()).device
    ids, mask, labels = ids.to(device), mask.to(device), labels.to(device)
    with last_states(decoder) as caught:
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=token_positions(mask),
            use_cache=False,
            logits_to_keep=keep + 1,
        ).logits
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels.flatten(), ignore_index=-100, reduction="sum")
    return loss, part_sums(caught[0].detach(), pooled_parts(rollouts, begin, begin + keep))


class _Rounds(TrainerCallback):
    """Saves at the end of every round, whatever ``save_every`` is, and removes rounds that were sampled after
    the checkpoint that a run is resumed from.
    """

    def __init__(self, trainer: BestOfNTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **_):
        for folder in self.trainer.rounds.glob("*"):
            if folder.name.isdigit() and int(folder.name) * self.trainer.round_steps > state.global_step:
                shutil.rmtree(folder)

    def on_step_end(self, args, state, control, **_):
        if state.global_step % self.trainer.round_steps == 0:
            control.should_save = True


class BestOfNTrainer(Trainer):
    """Transformers' trainer whose rows are pieces of optimizer steps; a round is sampled at its first piece."""

    def __init__(
        self, *, config: TrainConfig, model: GraceModel, items: list[Item], out: Path, calibration: Calibration | None
    ):
        rule, self.layout = config.best_of_n, Layout.of(config)
        self.config, self.builder, self.tokenizer, self.items = config, model.prompts, model.tokenizer, items
        self.calibration, self.rounds, self.report = calibration, out / "rounds", silent
        texts = rule.batches * config.batch * len(self.layout.trained)
        self.pass_steps = ceil(texts / rule.texts)
        self.round_steps = self.pass_steps * rule.passes
        number, steps = rule.rounds * rule.batches, rule.rounds * self.round_steps
        self.order = batches(
            items, batch=config.batch, number=number, seed=config.seed, neighbours=config.data.neighbours
        )
        self.pad_id, self.end_ids = model.engine.pad_id, model.engine.end_ids
        self.end_id = self.tokenizer.eos_token_id if self.tokenizer.eos_token_id in self.end_ids else min(self.end_ids)
        settings = config.model_dump(exclude=NOT_SAMPLING, exclude_defaults=True)
        self.digest = hashlib.sha256(json.dumps([model.fingerprint, settings], sort_keys=True).encode()).hexdigest()
        self._round: tuple[int, list[Kept]] | None = None
        self._figures: dict[str, float] = {}
        self._seen: list[tuple[Tensor, Tensor, Tensor]] = []  # part sums, counts and roles of the pieces of a step
        module = with_lora(model, config)
        super().__init__(
            model=module,
            args=arguments(config, out=out, steps=steps, round_steps=self.round_steps),
            train_dataset=[{"piece": piece} for piece in range(steps * config.accumulate)],
            data_collator=lambda rows: {"piece": torch.tensor([row["piece"] for row in rows])},
        )
        self.loss_is_scaled_for_ga = True  # compute_loss divides by the tokens of the whole step
        self.decoder = decoder_of(self.model)
        self.add_callback(_Rounds(self))

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        if self.calibration:
            self.calibration.save(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")

    def create_model_card(self, *_, **__):
        """Writes no model card: training.json describes the model."""

    def log(self, logs: dict[str, float], *args, **options) -> None:
        if "loss" in logs:
            logs, self._figures = logs | self._figures, {}
        super().log(logs, *args, **options)

    # -- training
    # ------------------------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        step, piece = divmod(int(inputs["piece"][0]), self.config.accumulate)
        kept = self.kept_of(step)
        part = [kept[i] for i in np.array_split(np.arange(len(kept)), self.config.accumulate)[piece]]
        if part:
            rollouts = [Rollout(self.builder.build(entry.text), list(entry.ids), truncated=False) for entry in part]
            loss, sums = fine_tuning_loss(model, rollouts, pad_id=self.pad_id, end_id=self.end_id, decoder=self.decoder)
            loss = loss / sum(len(entry.ids) + 1 for entry in kept)
            roles = [calibrated.QUERY if entry.role == QUERY else calibrated.DOCUMENT for entry in part]
            self._seen.append((*sums, torch.tensor(roles, device=sums[0].device)))
            self.state.num_input_tokens_seen += sum(r.stop + 1 for r in rollouts)
        else:
            loss = 0.0 * next(p for p in model.parameters() if p.requires_grad).sum()
        if piece == self.config.accumulate - 1:
            if self.calibration and self._seen:
                self.calibration.update(*map(torch.cat, zip(*self._seen, strict=True)))
            self._seen = []
        return loss

    def kept_of(self, step: int) -> list[Kept]:
        """The texts of an optimizer step, sorted by length, so that those of a piece are about equally long."""
        number, place = divmod(step, self.round_steps)
        if self._round is None or self._round[0] != number:
            self._round = number, self._sample_round(number, first=place == 0)
        kept = list(self._round[1])
        Random(f"{self.config.seed} {number} {place // self.pass_steps}").shuffle(kept)
        chosen = np.array_split(np.arange(len(kept)), self.pass_steps)[place % self.pass_steps]
        return sorted(
            (kept[i] for i in chosen), key=lambda entry: len(self.builder.build(entry.text).ids) + len(entry.ids)
        )

    # -- sampling
    # ------------------------------------------------------------------------------------------------------------

    def _sample_round(self, number: int, *, first: bool) -> list[Kept]:
        """The kept rationales of a round; its figures are logged with its ``first`` step."""
        rule = self.config.best_of_n
        pieces = [self._piece(number, batch) for batch in range(rule.batches)]
        if first:
            names = {name for piece in pieces for name in piece["figures"]}
            self._figures = {
                name: float(np.mean([p["figures"][name] for p in pieces if name in p["figures"]])) for name in names
            }
            self._figures["seconds/sampling"] = sum(piece["seconds"] for piece in pieces)
        kept = [Kept(row["text"], row["role"], tuple(row["ids"])) for piece in pieces for row in piece["kept"]]
        if not kept:
            raise GraceError(
                f"round {number + 1} kept no rationale of {rule.batches * self.config.batch} items: none ended, or none was new enough; "
                "set best_of_n.unfinished to cut, lower best_of_n.min_novelty, or raise max_new_tokens"
            )
        return kept

    def _piece(self, number: int, batch: int) -> dict:
        """The kept rationales and figures of a batch of a round: sampled, or read if they were stored before."""
        folder = self.rounds / str(number) / str(batch)
        if (folder / "kept.json").exists():
            stored = read_json(folder / "kept.json", "remove the folder, it is sampled again")
            if stored.get("of") == self.digest:
                if self.calibration and self.state.global_step % self.round_steps == 0:
                    self.calibration.load(folder)
                return stored
        began = perf_counter()
        sampled = self._sample(number * self.config.best_of_n.batches + batch)
        sampled |= {"of": self.digest, "seconds": round(perf_counter() - began, 2)}
        folder.mkdir(parents=True, exist_ok=True)
        if self.calibration:
            self.calibration.save(folder)
        write_json(folder / "kept.json", sampled)
        figures = "  ".join(
            f"{name} {sampled['figures'][name]:.3g}" for name in REPORTED_FIGURES if name in sampled["figures"]
        )
        of = f"{batch + 1}/{self.config.best_of_n.batches}"
        self.report(
            f"round {number + 1}/{self.config.best_of_n.rounds}, batch {of} sampled  {figures}  {sampled['seconds']:.0f} s"
        )
        return sampled

    def _sample(self, place: int) -> dict:
        """``{"kept": […], "figures": {…}}`` of the batch at this place of the run."""
        # sample k rationales of every text
        config, layout = self.config, self.layout
        items = [self.items[i] for i in self.order[place * config.batch : (place + 1) * config.batch]]
        texts = [(getattr(item, role) or item.positive, role) for item in items for role in layout.roles]
        rows = [entry for entry in texts for _ in range(layout.k)]
        rollouts, pooled = self._rollouts(rows, seed=(config.seed * 1_000_003 + place) * 1_009)
        cut, lengths = torch.tensor([r.truncated for r in rollouts]), torch.tensor([len(r.ids) for r in rollouts])
        keys = torch.tensor([r.key for r in rollouts])
        # score them among their batch
        number = torch.arange(len(rows))
        if self.calibration:
            self.calibration.update(*pooled, text_roles(number, layout))
        scoring = None if config.reward_geometry else self.calibration
        scored = score(vectors(pooled, number, layout=layout, calibration=scoring), cut, layout=layout, config=config)
        words = [
            text.strip() for text in self.tokenizer.batch_decode([r.ids for r in rollouts], skip_special_tokens=True)
        ]
        new = [novelty(text, rationale) for (text, _), rationale in zip(rows, words, strict=True)]
        stops = [whole_sentences(read_pieces(self.tokenizer, r.ids)) if r.truncated else len(r.ids) for r in rollouts]
        # keep one of each text
        kept, best = [], []
        for i, (text, role) in enumerate(texts):
            if role not in layout.trained:
                continue
            group = range(i * layout.k, (i + 1) * layout.k)
            rewards = [float(scored.rewards[row]) for row in group]
            finished = [not rollouts[row].truncated for row in group]
            best.append(max(rewards))
            chosen = choose(
                rewards,
                [new[row] or 0.0 for row in group],
                finished,
                [stops[row] for row in group],
                config.best_of_n,
                novelty_weight=config.novelty_weight,
            )
            if chosen is not None:
                ids = rollouts[group[chosen]].ids[: stops[group[chosen]]]
                kept.append(
                    {
                        "text": text,
                        "role": role,
                        "rationale": self.tokenizer.decode(ids, skip_special_tokens=True).strip(),
                        "ids": ids,
                        "finished": finished[chosen],
                        "reward": rewards[chosen],
                        "mean_reward": float(np.mean(rewards)),
                        "novelty": new[group[chosen]],
                    }
                )
        # the figures of the batch
        self.state.num_input_tokens_seen += sum(r.stop for r in rollouts)
        figures = measures(scored, lengths, keys, layout=layout)
        trained = [
            value for value, (_, role) in zip(new, rows, strict=True) if role in layout.trained and value is not None
        ]
        figures |= {
            "kept": len(kept) / (len(items) * len(layout.trained)),
            "novelty": _mean(trained),
            "best_reward": _mean(best),
        }
        if kept:
            figures |= {f"kept_{name}": _mean([entry[name] for entry in kept]) for name in ("reward", "finished")}
            figures |= {"kept_tokens": _mean([len(entry["ids"]) for entry in kept])}
            figures |= {"kept_novelty": _mean([entry["novelty"] for entry in kept if entry["novelty"] is not None])}
        return {"kept": kept, "figures": figures}

    def _rollouts(self, rows: Sequence[tuple[str, str]], *, seed: int) -> tuple[list[Rollout], Sums]:
        """Sampled rationales of texts, given with their roles, and their part sums.

        The noise depends only on the seed, the prompt and the place in the group.
        """
        model, k = self.accelerator.unwrap_model(self.model), self.layout.k
        prompts, training = [self.builder.build(text) for text, _ in rows], model.training
        stands_for = {i: [i] for i in range(len(rows))}
        if self.config.share_negatives:  # the first rollout of a negative is used for all
            stands_for = {
                i: list(range(i, i + k)) if role == NEGATIVE else [i]
                for i, (_, role) in enumerate(rows)
                if role != NEGATIVE or i % k == 0
            }
        order = sorted(stands_for, key=lambda i: (len(prompts[i].ids), i))
        engine = TransformersEngine(model, pad_id=self.pad_id, end_ids=self.end_ids)  # puts it into eval mode
        decoding = Decoding(self.config.max_new_tokens, self.config.temperature)
        with self.accelerator.autocast():
            samples = engine.generate(
                [prompts[i] for i in order], decoding, [seed + i % k for i in order], width=SAMPLING_BATCH
            )
        model.train(training)
        source = {row: place for place, i in enumerate(order) for row in stands_for[i]}
        samples = [samples[source[row]] for row in range(len(rows))]
        rollouts = [Rollout(p, s.rationale_ids, s.truncated) for p, s in zip(prompts, samples, strict=True)]
        sums, counts = ([getattr(sample, name) for sample in samples] for name in ("sums", "counts"))
        return rollouts, (torch.tensor(np.stack(sums)), torch.tensor(np.stack(counts)))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def arguments(config: TrainConfig, *, out: Path, steps: int, round_steps: int) -> TrainingArguments:
    """Transformers' settings for a run: a row is a piece of an optimizer step."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(out / "tensorboard")
    return TrainingArguments(
        **config.trainer_arguments(steps),
        output_dir=str(out),
        use_cpu=not torch.cuda.is_available(),
        max_steps=steps,
        num_train_epochs=1,
        remove_unused_columns=False,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=config.accumulate,
        dataloader_pin_memory=torch.cuda.is_available(),
        gradient_checkpointing=config.gradient_checkpointing,
        save_steps=config.save_every or round_steps,
        eval_strategy="no",
        disable_tqdm=True,
        seed=config.seed,
        data_seed=config.seed,
        include_num_input_tokens_seen="no",
    )


def make_trainer(
    config: TrainConfig, model: GraceModel, items: list[Item], *, out: Path, processes: int = 1
) -> BestOfNTrainer:
    """A trainer over all rounds. Raises GraceError for several processes."""
    if processes > 1:
        raise GraceError(f"method best_of_n runs in one process, got {processes}; start it without accelerate launch")
    calibration = Calibration(model.statistics, system=config.system) if config.geometry == "calibrated" else None
    return BestOfNTrainer(config=config, model=model, items=items, out=out, calibration=calibration)
