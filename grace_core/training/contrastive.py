"""The baselines: CL and SimCSE, on the same data in the same order as the policy, with sentence-transformers' loss.

Both train the vector of the text alone (``Pooling.TEXT``): the mean over the user's text inside the same chat
prompt, or, in the calibrated geometry, the calibrated vector of text and template. With normalised embeddings
z, temperature t and a batch of B items (MultipleNegativesRankingLoss):

    CL       -log-softmax over all positives and negatives d of the batch of cos(z_q, z_d)/t, at q's own positive
    SimCSE   -log-softmax over the batch's texts j of cos(z_i, z'_j)/t, at i; z and z' are two passes with different dropout

Decoder models are pretrained without dropout, so SimCSE's comes from dropout in attention, switched on for
the training alone. No rationale is written or pooled.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from datasets import Dataset
from safetensors.torch import load_model as load_weights
from safetensors.torch import save_model as save_weights
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.modules import InputModule
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from torch.utils.data import SequentialSampler

from grace_core.errors import GraceError
from grace_core.model import GraceModel
from grace_core.pooling import TEMPLATE, TEXT
from grace_core.prompt import PromptBuilder
from grace_core.training import calibration as calibrated
from grace_core.training.calibration import Calibration, part_sums, raw_vectors
from grace_core.training.config import TrainConfig
from grace_core.training.data import QUERY, Item, batches, generations_of
from grace_core.training.lora import with_lora
from grace_core.training.states import decoder_of

WEIGHTS = "model.safetensors"


class TextInPrompt(InputModule):
    """A causal LM as an encoder of the user's text inside its chat prompt."""

    def __init__(self, lm, tokenizer, builder: PromptBuilder, calibration: Calibration | None = None):
        super().__init__()
        self.lm, self.tokenizer, self.builder, self.calibration = lm, tokenizer, builder, calibration

    @property
    def causal_lm(self):
        return self.lm

    def preprocess(self, inputs: list[str], prompt: str | None = None, **_) -> dict[str, torch.Tensor]:
        """Token ids and masks; the trainer passes the dataset's column as ``prompt``, which tells queries apart."""
        prompts = [self.builder.build(text) for text in inputs]
        width = max(len(prompt.ids) for prompt in prompts)
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        ids, mask, pooled = (
            torch.full((len(prompts), width), pad),
            *(torch.zeros(len(prompts), width, dtype=torch.long) for _ in "mp"),
        )
        for row, encoded in enumerate(prompts):
            ids[row, : len(encoded.ids)] = torch.tensor(encoded.ids)
            mask[row, : len(encoded.ids)] = 1
            pooled[row, encoded.start : encoded.stop] = 1 + TEXT
            if self.calibration is not None:
                pooled[row, encoded.stop : len(encoded.ids)] = 1 + TEMPLATE
        roles = torch.full((len(prompts),), calibrated.QUERY if prompt == QUERY else calibrated.DOCUMENT)
        return {"input_ids": ids, "attention_mask": mask, "pooled": pooled, "roles": roles}

    def forward(self, features: dict[str, torch.Tensor], **_) -> dict[str, torch.Tensor]:
        states = decoder_of(self.lm)(
            features["input_ids"], attention_mask=features["attention_mask"], use_cache=False
        ).last_hidden_state
        pooled = part_sums(states, features["pooled"])
        if self.calibration is None:
            return features | {"sentence_embedding": raw_vectors(*pooled)}
        if self.training:
            self.calibration.update(*pooled, features["roles"])
        return features | {"sentence_embedding": self.calibration.vectors(*pooled, features["roles"])}

    def save(self, output_path: str, *_, **__) -> None:
        raise NotImplementedError("the model is saved as a plain model folder, see grace_core.training.checkpoints")


class ContrastiveTrainer(SentenceTransformerTrainer):
    """Sentence-transformers' trainer that reads its dataset from start to end, and keeps weights as
    safetensors in its checkpoints.
    """

    def get_batch_sampler(self, dataset, batch_size, drop_last, valid_label_columns=None, generator=None, seed=0):
        return DefaultBatchSampler(
            SequentialSampler(dataset),
            batch_size=batch_size,
            drop_last=True,
            valid_label_columns=valid_label_columns,
            generator=generator,
            seed=seed,
        )

    def create_model_card(self, *_, **__):
        """Writes no model card: training.json describes the model."""

    def _save(self, output_dir=None, state_dict=None):
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_weights(self.model, str(folder / WEIGHTS))
        if self.calibration:
            self.calibration.save(folder)

    @property
    def calibration(self) -> Calibration | None:
        return self.model[0].calibration

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        load_weights(self.model, str(Path(resume_from_checkpoint) / WEIGHTS))


def make_trainer(
    config: TrainConfig, model: GraceModel, items: list[Item], *, out: Path, processes: int = 1
) -> ContrastiveTrainer:
    """A trainer over the whole run's batches, in their order.

    Raises GraceError for a batch that cannot be shared out to the processes.
    """
    if config.batch % processes:
        raise GraceError(
            f"batch {config.batch} cannot be shared out to {processes} processes in whole items; use a multiple"
        )
    # the texts, in the order of the batches
    number = generations_of(config, len(items))
    order = batches(items, batch=config.batch, number=number, seed=config.seed, neighbours=config.data.neighbours)
    if config.method == "cl":
        columns = {
            "query": lambda item: item.query,
            "positive": lambda item: item.positive,
            "negative": lambda item: item.negative,
        }
    else:
        columns = {"text": lambda item: item.positive, "again": lambda item: item.positive}
    dataset = Dataset.from_dict({name: [of(items[place]) for place in order] for name, of in columns.items()})

    # the encoder
    lm = with_lora(model, config)
    if config.method == "simcse":
        for module in lm.modules():
            if hasattr(module, "attention_dropout"):
                module.attention_dropout = config.dropout
    if config.gradient_checkpointing:
        lm.gradient_checkpointing_enable()
    calibration = Calibration(model.statistics, system=config.system) if config.geometry == "calibrated" else None
    encoder = SentenceTransformer(modules=[TextInPrompt(lm, model.tokenizer, model.prompts, calibration)], device="cpu")
    # the trainer
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(out / "tensorboard")
    arguments = SentenceTransformerTrainingArguments(
        **config.trainer_arguments(number),
        output_dir=str(out),
        use_cpu=not torch.cuda.is_available(),
        max_steps=number,
        num_train_epochs=1,
        per_device_train_batch_size=config.batch // processes,
        save_steps=config.checkpoint_every(default=max(1, number // 10)),
        eval_strategy="no",
        disable_tqdm=True,
        seed=config.seed,
        data_seed=config.seed,
        ddp_find_unused_parameters=True if processes > 1 else None,
        dataloader_pin_memory=torch.cuda.is_available(),
        include_num_input_tokens_seen="no",
        prompts={name: name for name in columns},
    )
    loss = MultipleNegativesRankingLoss(
        encoder, scale=1 / config.contrastive_temperature, gather_across_devices=processes > 1
    )
    return ContrastiveTrainer(model=encoder, args=arguments, train_dataset=dataset, loss=loss)
