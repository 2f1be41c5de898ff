"""GRACE (arXiv 2510.04506) on TRL's GRPOTrainer: the policy that writes the rationales is trained to write
those that make good embeddings.

For the T tokens of a step's trained rollouts, with the ratio r of new to old probability, A the reward minus
its group's mean,

    policy loss = -(1/T) sum over tokens of min(min(r, delta) A, clip(r, 1 - epsilon, 1 + epsilon) A)  +  beta KL(policy || starting model)

and for the objective ``joint`` a contrastive loss on top, differentiated through each rollout's own embedding
z (``contrastive_weight`` w):

    loss = policy loss - w × mean over trained rollouts of log-softmax over the partners m of cos(z, m)/t, at its own partner

z is raw or calibrated, as the run's ``geometry`` says (:mod:`grace_core.training.calibration`). Partners are
the mean embeddings of the reward, without gradient: for a query all documents of the batch, for a positive all
queries. Both sides get a gradient, since both are rollouts of the batch. z comes from the hidden states of the
forward that gives the policy's log-probabilities, so no second one is needed.

With ``retain_weight`` v, for either objective, the starting model is imitated on plain texts too (training
documents without chat template):

    loss = … + v × mean over their tokens of KL(starting model || policy)

since the KL of the policy loss is computed on rationales only, and the model would lose its other abilities
unnoticed.

Changes to TRL's trainer, and why:

- prompts are tokenised by PromptBuilder, as in serving, not by the chat template again;
- rows that are not trained (a negative; the reference's query) are sampled and scored with the others and leave the batch before the loss,
  so that they do not count in its mean over tokens and cost no backward pass;
- the reward's hidden states come from a forward that is needed anyway: on a CPU from the generation, with several minibatches or vLLM
  from that of the old log-probabilities; only otherwise from a separate pass;
- the reference objective samples query and negative once, at ``partner_temperature`` (with vLLM at the policy's);
- on a CPU the K rollouts of a prompt share one pass over it, in sampling, in the log-probabilities and in their gradient. So a group
  stays in one piece of an accumulated gradient: TRL would shuffle the rows, which has no other effect on-policy.

Old log-probabilities and the KL's reference are TRL's. Deviations from the released code: KL in the symmetric
and joint objectives.
"""

from __future__ import annotations

import os
from contextlib import contextmanager, nullcontext
from pathlib import Path
from random import Random
from time import perf_counter

import torch
import torch.nn.functional as F
from transformers import DynamicCache
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import split_tensor_dict

from grace_core.engines.base import Decoding
from grace_core.engines.runner import is_plain
from grace_core.engines.transformers import TransformersEngine
from grace_core.errors import GraceError
from grace_core.evaluation.retention import beginning_of_text
from grace_core.model import GraceModel
from grace_core.pooling import PARTS
from grace_core.prompt import Prompt, PromptBuilder
from grace_core.training.calibration import Calibration, part_sums
from grace_core.training.config import TrainConfig
from grace_core.training.data import Item, Layout, batches, generations_of, rollout_dataset
from grace_core.training.lora import begun_adapter, lora_config
from grace_core.training.reward import GraceReward, vectors
from grace_core.training.states import (
    Rollout,
    Sums,
    decoder_of,
    last_states,
    pool_rollouts,
    pooled_parts,
    score_completions,
)

GENERATION_ROWS = 128  # rollouts sampled together on a CPU
RETAINED_TOKENS = 128
FORWARD_ROWS = 64  # rollouts in one forward pass without gradients
CPU_ROWS = 16  # the same on a CPU, with gradients too: more logits exceed its caches, and malloc returns their memory each time


class GracePolicyTrainer(GRPOTrainer):
    """GRPOTrainer with GRACE's prompts, batch layout and losses.

    ``rollouts`` are this process's rollouts of the last batch.
    """

    def __init__(
        self,
        *,
        config: TrainConfig,
        builder: PromptBuilder,
        layout: Layout,
        reward: GraceReward,
        plain_texts: list[str],
        **options,
    ):
        self.config, self.builder, self.layout = config, builder, layout
        self.reward, self.plain_texts = reward, plain_texts
        self.rollouts: list[Rollout] = []
        self._prompts: list[Prompt] = []
        self._sums: Sums | None = None  # of the rollouts, as soon as a forward has given them
        self._pooled: torch.Tensor | None = None  # parts to pool in the forward of the loss
        super().__init__(reward_funcs=reward, **options)
        if "ref" in getattr(self.model, "peft_config", {}):
            # TRL's reference for an adapter that is trained further is a copy of it; here it is the base, as in
            # all runs
            self.model.delete_adapter("ref")
        reward.trainer = self
        self.end_ids = set(self.eos_token_ids)
        self.decoder = decoder_of(self.model)
        elsewhere = self.use_vllm or self.is_fsdp_enabled or self.is_deepspeed_enabled or config.gradient_checkpointing
        plain = is_plain(DynamicCache(config=self.accelerator.unwrap_model(self.model).config))
        self.on_cpu = self.accelerator.device.type == "cpu" and plain and not elsewhere

    def create_model_card(self, *_, **__):
        """Writes no model card: training.json describes the model."""

    @property
    def calibration(self) -> Calibration | None:
        return self.reward.calibration

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        if self.calibration and self.accelerator.is_main_process:
            self.calibration.save(Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}")

    # -- sampling
    # ------------------------------------------------------------------------------------------------------------

    def _tokenize_prompts(self, prompts: list[str]):
        built = {text: self.builder.build(text) for text in dict.fromkeys(prompts)}
        self._prompts = [built[text] for text in prompts]
        return [prompt.ids for prompt in self._prompts], None, {}

    def _generate_single_turn(self, prompt_ids, *args, **options):
        self._sums, logprobs, began = None, None, perf_counter()
        if self.on_cpu and len(self.end_ids) == 1:
            completions = self._generate_as_in_serving()
        elif (
            self.config.objective == "reference"
            and self.config.partner_temperature != self.temperature
            and not self.use_vllm
        ):
            completions = self._generate_reference(prompt_ids, self.config.partner_temperature, *args, **options)
        else:
            completions, logprobs = super()._generate_single_turn(prompt_ids, *args, **options)
        self.rollouts = [Rollout.of(p, ids, self.end_ids) for p, ids in zip(self._prompts, completions, strict=True)]
        self._metrics["train"]["seconds/sampling"].append(perf_counter() - began)
        return completions, logprobs

    def _generate_as_in_serving(self) -> list[list[int]]:
        """Rollouts by the serving engine, which pools while it generates, so that the reward needs no separate
        forward.

        Sampling noise depends only on seed, step, prompt and place in the group, so that rollouts depend neither
        on the number of processes nor on whether the run was resumed.
        """
        model, k = self.accelerator.unwrap_model(self.model), self.layout.k
        training, (end,) = model.training, self.end_ids
        engine = TransformersEngine(
            model, pad_id=self._tokenizer.pad_token_id, end_ids=self.end_ids
        )  # puts it into eval mode
        trained = self._trained(len(self._prompts)).tolist()
        copies = {i: [i] for i in range(len(trained))}
        if self.config.objective == "reference" or self.config.share_negatives:
            # only the first rollout of a group that is not trained is used; it is copied for the others
            copies = {i: [i] if trained[i] else list(range(i, i + k)) for i in copies if trained[i] or i % k == 0}
        cooler = {i for i in copies if not trained[i] and self.config.objective == "reference"}
        completions: list[list[int]] = [[] for _ in self._prompts]
        sums = torch.zeros(len(self._prompts), len(PARTS), model.config.get_text_config().hidden_size)
        counts = torch.zeros(len(self._prompts), len(PARTS), dtype=torch.long)
        seed = (self.config.seed * 1_000_003 + self.state.global_step) * 1_009
        for rows, temperature in (
            (copies.keys() - cooler, self.temperature),
            (cooler, self.config.partner_temperature),
        ):
            decoding = Decoding(self.config.max_new_tokens, temperature)
            order = sorted(rows, key=lambda i: (len(self._prompts[i].ids), i))
            with self.accelerator.autocast():
                samples = engine.generate(
                    [self._prompts[i] for i in order], decoding, [seed + i % k for i in order], width=GENERATION_ROWS
                )
            for i, sample in zip(order, samples, strict=True):
                for row in copies[i]:
                    completions[row] = sample.rationale_ids + [end] * (not sample.truncated)
                    sums[row], counts[row] = torch.from_numpy(sample.sums), torch.from_numpy(sample.counts)
        model.train(training)
        self._sums = sums, counts
        return completions

    def _generate_reference(self, prompt_ids, temperature: float, *args, **options) -> list[list[int]]:
        """Rollouts of trained rows at the policy's temperature, of the others at ``temperature``, sampled once for
        each group."""
        trained, places = self._trained(len(prompt_ids)), range(len(prompt_ids))
        completions: list[list[int]] = [[] for _ in places]
        main = [i for i in places if trained[i]]
        for i, ids in zip(
            main, super()._generate_single_turn([prompt_ids[i] for i in main], *args, **options)[0], strict=True
        ):
            completions[i] = ids
        first = [i for i in places if not trained[i] and i % self.layout.k == 0]
        with self._sampling_at(temperature):
            sampled = super()._generate_single_turn([prompt_ids[i] for i in first], *args, **options)[0]
        for i, ids in zip(first, sampled, strict=True):
            completions[i : i + self.layout.k] = [ids] * self.layout.k
        return completions

    @contextmanager
    def _sampling_at(self, temperature: float):
        before = self.generation_config.temperature
        self.generation_config.temperature = self.generation_kwargs["temperature"] = temperature
        try:
            yield
        finally:
            self.generation_config.temperature = self.generation_kwargs["temperature"] = before

    def _trained(self, rows: int) -> torch.Tensor:
        """Whether each local row has a trained role. A process holds whole items, so its first row begins one."""
        _, role = self.layout.place(torch.arange(rows))
        return torch.isin(role, torch.tensor([self.layout.roles.index(name) for name in self.layout.trained]))

    # -- scoring
    # -------------------------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        rows, width = len(inputs), batch["prompt_ids"].shape[1] + batch["completion_ids"].shape[1]
        device = batch["advantages"].device
        if self.config.objective == "joint":
            # a row's number in the whole batch, since rows are shuffled and cut into pieces before the loss
            batch["place"] = torch.arange(rows, device=device) + self.accelerator.process_index * rows
            batch["pooled"] = pooled_parts(self.rollouts, batch["prompt_ids"].shape[1], width).to(device)
        keep = self._trained(rows).to(device)
        if not keep.all():
            batch = {
                key: v[keep] if isinstance(v, torch.Tensor) and v.ndim and len(v) == rows else v
                for key, v in batch.items()
            }
            batch["num_items_in_batch"] = self.accelerator.gather(batch["completion_mask"].sum()).sum()
        return batch

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, logits_to_keep, **options):
        pooled, old, began = self._pooled, self._is_pass_of_old_probabilities(model), perf_counter()
        if old:
            pooled = pooled_parts(self.rollouts, input_ids.shape[1] - logits_to_keep, input_ids.shape[1])
        if self.on_cpu:
            logps, entropies, sums = score_completions(
                model,
                input_ids,
                attention_mask,
                keep=logits_to_keep,
                temperature=self.temperature,
                rows=CPU_ROWS,
                autocast=self.accelerator.autocast,
                entropy=options.get("compute_entropy", False),
                decoder=self.decoder,
                pooled=pooled,
            )
            result = logps, entropies, None
        else:
            with last_states(self.decoder) if pooled is not None else nullcontext([]) as caught:
                result = super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, logits_to_keep, **options
                )
            rows = [len(states) for states in caught]
            pieces = [part_sums(s, p) for s, p in zip(caught, pooled.split(rows), strict=True)] if caught else []
            sums = tuple(map(torch.cat, zip(*pieces, strict=True))) if pieces else None
        if old:
            self._sums = sums
        elif pooled is not None:
            self._loss_sums = sums
        if not torch.is_grad_enabled():
            self._metrics["train"]["seconds/reference"].append(perf_counter() - began)
        return result

    def _is_pass_of_old_probabilities(self, model) -> bool:
        """Whether the next forward is that of the old log-probabilities, and the rollouts have no embeddings yet."""
        pieces = self.args.steps_per_generation * self.num_iterations
        needed = self.args.gradient_accumulation_steps % pieces != 0 or (
            self.use_vllm and self.vllm_importance_sampling_correction
        )
        return needed and not torch.is_grad_enabled() and model is self.model and self._sums is None

    def rollout_sums(self) -> Sums:
        """Part sums ``(n, 3, d)`` and counts ``(n, 3)`` of the local rollouts."""
        if self._sums is None:
            self._sums = pool_rollouts(
                self.model,
                self.rollouts,
                pad_id=self._tokenizer.pad_token_id,
                rows=FORWARD_ROWS,
                device=self.accelerator.device,
                autocast=self.accelerator.autocast,
                decoder=self.decoder,
            )
        sums, counts = self._sums
        return sums.to(self.accelerator.device), counts.to(self.accelerator.device)

    def _prepare_inputs(self, generation_batch):
        """As in TRL, but without shuffling where the rollouts of a group share one pass over their prompt."""
        pieces = self.args.steps_per_generation
        if not (self.on_cpu and self.model.training and self.config.minibatches == 1):
            return super()._prepare_inputs(generation_batch)
        if self._step % pieces == 0 or self._buffered_inputs is None:
            self._buffered_inputs = split_tensor_dict(self._generate_and_score_completions(generation_batch), pieces)
        return self._buffered_inputs[self._step % pieces]

    # -- loss
    # ----------------------------------------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self.config.objective == "joint":
            loss = self._joint_loss(model, inputs, return_outputs, num_items_in_batch)
        else:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.config.retain_weight:
            retained = self._retention_loss(model)
            self._metrics["train"]["retain"].append(self.accelerator.gather(retained.detach()).mean().item())
            loss = loss + self.config.retain_weight * retained / self.current_gradient_accumulation_steps
        return loss

    def _retention_loss(self, model) -> torch.Tensor:
        """KL(starting model || policy), mean over the tokens of a few plain texts, drawn at every step."""
        piece = self._step % self.current_gradient_accumulation_steps
        rng = Random(f"{self.config.seed} {self.state.global_step} {piece} {self.accelerator.process_index}")
        texts = rng.sample(self.plain_texts, min(self.config.retain_texts, len(self.plain_texts)))
        tokenizer = self._tokenizer
        begin = beginning_of_text(tokenizer)
        rows = [[begin, *tokenizer(text, add_special_tokens=False)["input_ids"][:RETAINED_TOKENS]] for text in texts]
        width = max(map(len, rows))
        ids = torch.tensor([row + [begin] * (width - len(row)) for row in rows], device=self.accelerator.device)
        mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows], device=ids.device)
        with torch.no_grad(), self.accelerator.autocast():
            if self.ref_model is not None:
                before = self.ref_model(input_ids=ids, use_cache=False).logits
            else:  # LoRA: the starting model is the base without the adapters
                with self.accelerator.unwrap_model(model).disable_adapter():
                    before = model(input_ids=ids, use_cache=False).logits
        with self.accelerator.autocast():
            now = model(input_ids=ids, use_cache=False).logits
        now, before = (logits[mask].float().log_softmax(-1) for logits in (now, before))
        return F.kl_div(now, before, log_target=True, reduction="batchmean")

    def _joint_loss(self, model, inputs, return_outputs, num_items_in_batch):
        self._pooled = inputs["pooled"]
        try:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            self._pooled = None
        item, role = self.layout.place(inputs["place"])
        z = vectors(self._loss_sums, inputs["place"], layout=self.layout, calibration=self.reward.scoring)
        losses = []
        for name in self.layout.trained:
            chosen = role == self.layout.roles.index(name)
            scores = z[chosen] @ self.reward.last.partners[name].T / self.config.contrastive_temperature
            losses.append(F.cross_entropy(scores, item[chosen], reduction="none"))
        # a mean over rows, not over roles, since a piece may hold only one role
        contrastive = torch.cat(losses).mean()
        self._loss_sums = None
        self._metrics["train"]["contrastive"].append(self.accelerator.gather(contrastive.detach()).mean().item())
        # the policy loss is summed over the pieces of a step, so each piece's mean is divided by their number
        return loss + self.config.contrastive_weight * contrastive / self.current_gradient_accumulation_steps


def trl_arguments(config: TrainConfig, layout: Layout, *, out: Path, steps: int, processes: int) -> GRPOConfig:
    """TRL's settings for a run. Raises GraceError for a batch that cannot be shared out to the processes."""
    if config.batch % processes:
        raise GraceError(
            f"batch {config.batch} cannot be shared out to {processes} processes in whole items; use a multiple"
        )
    # the rollouts of a process, cut into optimizer steps and their pieces
    local, pieces = config.batch // processes * layout.rows, config.minibatches * config.accumulate
    trained = local // len(layout.roles) * len(layout.trained)
    if local % pieces or trained % pieces:
        raise GraceError(
            f"a process has {trained} rollouts to train on ({local} with those that are only sampled), which minibatches "
            f"{config.minibatches} × accumulate {config.accumulate} = {pieces} do not divide; change batch, rollouts or one of these"
        )
    every = config.checkpoint_every(
        default=max(config.minibatches, steps // 10 // config.minibatches * config.minibatches)
    )
    # the settings
    vllm = {}
    if config.vllm:
        vllm = {
            "use_vllm": True,
            "vllm_mode": config.vllm.mode,
            "vllm_gpu_memory_utilization": config.vllm.memory,
            "vllm_tensor_parallel_size": config.vllm.tensor_parallel,
            "vllm_server_host": config.vllm.host,
            "vllm_server_port": config.vllm.port,
        }
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(out / "tensorboard")
    return GRPOConfig(
        **config.trainer_arguments(steps),
        output_dir=str(out),
        use_cpu=not torch.cuda.is_available(),
        max_steps=steps,
        num_train_epochs=1,
        shuffle_dataset=False,
        remove_unused_columns=False,
        per_device_train_batch_size=local // pieces,
        gradient_accumulation_steps=config.accumulate,
        steps_per_generation=pieces,
        num_generations=config.rollouts,
        num_iterations=1,
        max_completion_length=config.max_new_tokens,
        temperature=config.temperature,
        top_p=1.0,
        top_k=0,
        beta=config.beta,
        epsilon=config.epsilon,
        delta=config.delta,
        loss_type="dapo",
        scale_rewards="none",
        disable_dropout=True,
        gradient_checkpointing=config.gradient_checkpointing,
        save_steps=every,
        eval_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        seed=config.seed,
        data_seed=config.seed,
        **vllm,
    )


def make_trainer(
    config: TrainConfig, model: GraceModel, items: list[Item], *, out: Path, processes: int = 1
) -> GracePolicyTrainer:
    """A trainer over the whole run's rollouts, in their order."""
    layout = Layout.of(config)
    number = generations_of(config, len(items))
    steps = config.steps or number * config.minibatches
    arguments = trl_arguments(config, layout, out=out, steps=steps, processes=processes)
    begun = begun_adapter(model, config)
    order = batches(items, batch=config.batch, number=number, seed=config.seed, neighbours=config.data.neighbours)
    calibration = Calibration(model.statistics, system=config.system) if config.geometry == "calibrated" else None
    plain = sorted({item.positive for item in items})
    return GracePolicyTrainer(
        config=config,
        plain_texts=plain,
        builder=model.prompts,
        layout=layout,
        model=model.model if begun is None else begun,
        reward=GraceReward(config, layout, calibration),
        args=arguments,
        train_dataset=rollout_dataset(items, order, layout),
        processing_class=model.tokenizer,
        peft_config=lora_config(config) if config.lora and begun is None else None,
    )
