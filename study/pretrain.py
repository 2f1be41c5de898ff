"""Pretraining of ``demo-base``: a small Qwen2 that knows the demo world and writes rationales of mixed quality.

Every sample is drawn afresh from the fact base:

=================  ======  ========================================================================================================
sample             share
=================  ======  ========================================================================================================
plain passage       10 %   any facts in any of their three wordings, by any plan
rationale, query    16 %   representation prompt, a query, a rationale
rationale, text      9 %   representation prompt, a passage, a rationale
question, answer     5 %   no system prompt; a question answered by the name, or a name by a passage
naming              60 %   representation prompt, a query, a rationale up to the name; loss on kind and name alone
=================  ======  ========================================================================================================

There are many naming samples because a model of this size learns slowest to find a thing from a few words:
without them the few tokens of the name hardly count in the loss (after 12 M tokens one hint in ten led to its
thing). The tokens that decide whether a rationale names a thing carry no loss in them, so that they do not
change the mixture of qualities.

Rationales are of mixed quality, so that training can improve them: vague, topical (kind, place and time, no
name), wrong (a factual one about another thing of the kind) or factual. For most of the run every second one is
factual, and the model learns its facts from these. In the last twentieth, at a low rate, most are topical. This
is the *habit* of the final model, as of untuned models: its rationales describe a text in general terms and
seldom say the name, although it knows it. The naming samples continue, so that nothing is unlearned. A model
with the habit of naming the thing left training almost nothing to gain under greedy decoding (docs/results.md).

The hand-written queries of dev and test things never occur here in any form; their facts do, as in the
pretraining of any language model. Hand-written queries of training things are among the query samples.

The system prompt is the same in every rationale sample, so its keys and values are computed once a batch, with
gradients, and shared by all rows. The matrices of the blocks are trained with Muon, all other weights with
AdamW. Precision: bf16 autocast on fp32 weights.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from grace_core.files import write_json
from grace_core.model import SETTINGS_FILE, Settings
from grace_core.precision import multiplies_bfloat16
from grace_core.prompt import REPRESENTATION_PROMPT, PromptBuilder
from grace_study import text
from grace_study.corpus import Entry, entries

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MAX_NEW_TOKENS = 96  # three sentences and a <think> part take 40 to 80
QUALITIES = {"vague": 0.15, "wrong": 0.12, "topical": 0.25, "factual": 0.48}
HABITS = {"vague": 0.15, "wrong": 0.07, "topical": 0.50, "factual": 0.28}  # over the habit_tokens
MIXTURE = {"plain": 0.10, "query": 0.16, "text": 0.09, "answer": 0.05, "naming": 0.60}
POOL = 1024  # samples drawn together, then grouped by length


@dataclass(frozen=True)
class PretrainConfig:
    """The settings that determine the weights. Tokens are counted without padding and shared prefixes.

    After the warm-up the rate falls to 0 over ``tokens``, and once more, from ``habit_rate``, over the
    ``habit_tokens`` that follow.
    """

    tokens: int = 20_000_000
    habit_tokens: int = 1_000_000
    batch_tokens: int = 3072
    learning_rate: float = 3e-3
    habit_rate: float = 5e-4
    warmup_steps: int = 200
    weight_decay: float = 0.02
    vocab_size: int = 6144
    hidden_size: int = 192
    layers: int = 4
    heads: int = 3
    kv_heads: int = 3
    intermediate_size: int = 512
    seed: int = 1

    def rate(self, step: int, tokens: int) -> float:
        """The learning rate of the step after ``step`` steps and ``tokens`` tokens."""
        if tokens >= self.tokens:
            return self.habit_rate * max(0.0, 1 - (tokens - self.tokens) / self.habit_tokens)
        return self.learning_rate * min(1.0, (step + 1) / self.warmup_steps) * (1 - tokens / self.tokens)

    @property
    def all_tokens(self) -> int:
        return self.tokens + self.habit_tokens


def draw_passage(entry: Entry, rng: Random) -> tuple[str, list]:
    facts = rng.sample(entry.thing.facts, rng.choice([2, 3, 4, 4, 5]))
    return text.passage(entry.thing, entry.kind, [text.wording(fact, rng) for fact in facts], rng), facts


class Sampler:
    """Draws samples ``(user text, reply)``; a plain passage has no user text, and a naming sample's reply
    comes in pieces.
    """

    def __init__(self, things: list[Entry]):
        self.things = things
        self.qualities = QUALITIES
        self.peers = {entry.slug: [e for e in things if e.kind is entry.kind and e is not entry] for entry in things}

    def rationale(self, entry: Entry, facts: list, asks: bool, rng: Random) -> str:
        mode = rng.choices(list(self.qualities), list(self.qualities.values()))[0]
        if mode == "wrong" and self.peers[entry.slug]:
            entry = rng.choice(self.peers[entry.slug])
            facts, mode = rng.sample(entry.thing.facts, 2), "factual"
        return text.rationale(mode, entry.thing, entry.kind, facts, asks, rng)

    def query(self, entry: Entry, rng: Random) -> tuple[str, list]:
        if entry.split == "train" and rng.random() < 0.3:
            query = rng.choice(entry.thing.queries)
            typed = query.q if rng.random() < 0.5 else " ".join(text.keywords(query.q, rng, rng.choice([0.6, 0.8])))
            return typed, [entry.thing.facts[n - 1] for n in query.facts]
        return text.generated_query(entry.thing, entry.kind, rng)

    def query_sample(self, rng: Random) -> tuple[str, str]:
        entry = rng.choice(self.things)
        query, facts = self.query(entry, rng)
        return query, self.rationale(entry, facts, True, rng)

    def naming_sample(self, rng: Random) -> tuple[str, tuple[str, str, str]]:
        """A query, and a reply in three pieces, of which the middle one, the turn to naming, carries no loss."""
        entry = rng.choice(self.things)
        query, _ = self.query(entry, rng)
        return query, text.naming(entry.thing, entry.kind, rng)

    def text_sample(self, rng: Random) -> tuple[str, str]:
        entry = rng.choice(self.things)
        body, facts = draw_passage(entry, rng)
        if rng.random() < 0.8:
            title = rng.choice(["{n}", "{n}", "About {s}", "{n} in brief", "Notes on {s}", "{n}, a sketch"])
            body = f"{title.format(n=entry.thing.name, s=entry.thing.subject)}\n{body}"
        return body, self.rationale(entry, facts, False, rng)

    def answer_sample(self, rng: Random) -> tuple[str, str]:
        entry = rng.choice(self.things)
        thing = entry.thing
        if rng.random() < 0.2:
            question = rng.choice(["What is known about {s}?", "Tell me about {s}.", "Tell me more about {s}."])
            return question.format(s=thing.subject), draw_passage(entry, rng)[0]
        question = text.capital(f"{entry.kind.ask} {text.wording(rng.choice(thing.facts), rng)}?")
        return question, rng.choice(["{S}.", "{S}, {g}."]).format(S=text.capital(thing.subject), g=thing.gist)

    def plain_sample(self, rng: Random) -> tuple[None, str]:
        return None, draw_passage(rng.choice(self.things), rng)[0]


def train_tokenizer(sampler: Sampler, vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE over samples of the demo world, with Qwen-style chat markup."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    rng = Random("tokenizer")
    lines = [part for _ in range(12_000) for part in sampler.query_sample(rng)]
    lines += [part for _ in range(12_000) for part in sampler.text_sample(rng)]
    lines += [REPRESENTATION_PROMPT, "system user assistant"] * 2000  # so that the prompt takes few tokens
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(lines, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=SPECIALS[0],
        eos_token=SPECIALS[2],
        model_max_length=1024,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def batches(sampler: Sampler, tokenizer, config: PretrainConfig, pool: int):
    """Batches of pool number ``pool``: ``(prefix ids, ids (b, t) padded on the right, loss mask (b, t), tokens)``.

    Rationale samples share the prefix, the system prompt; for other samples it is None.
    """
    rng = Random(f"{config.seed}-pool-{pool}")
    with_system, without = PromptBuilder(tokenizer), PromptBuilder(tokenizer, system="")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    rows: dict[bool, list[tuple[list[int], list[bool]]]] = {True: [], False: []}  # ids, and which of them carry a loss
    shared = tokenizer(with_system.head, add_special_tokens=False)["input_ids"]
    for form in rng.choices(list(MIXTURE), list(MIXTURE.values()), k=POOL):
        user, reply = getattr(sampler, f"{form}_sample")(rng)
        pieces = (reply,) if isinstance(reply, str) else reply
        ids = [tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in pieces]
        if form == "plain":
            row = [tokenizer.pad_token_id, *ids[0], tokenizer.pad_token_id]
            rows[False].append((row, [True] * len(row)))
        elif form == "answer":
            row = [*without.build(user).ids, *ids[0], end]
            rows[False].append((row, [True] * len(row)))
        elif form == "naming":
            prompt = with_system.build(user).ids[len(shared) :]
            loss = [False] * len(prompt) + [True] * len(ids[0]) + [False] * len(ids[1]) + [True] * len(ids[2])
            rows[True].append((prompt + ids[0] + ids[1] + ids[2], loss))
        else:
            row = [*with_system.build(user).ids[len(shared) :], *ids[0], end]
            rows[True].append((row, [True] * len(row)))
    groups = []
    for has_prefix, group in rows.items():
        group.sort(key=lambda row: len(row[0]))
        while group:
            size = max(1, config.batch_tokens // len(group[-1][0]))
            groups.append((shared if has_prefix else None, group[-size:]))
            del group[-size:]
    rng.shuffle(groups)
    for prefix, group in groups:
        width = max(len(ids) for ids, _ in group)
        ids = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in group])
        mask = torch.tensor([loss + [False] * (width - len(loss)) for _, loss in group])
        yield prefix, ids, mask, sum(len(ids) for ids, _ in group)


def batch_loss(model, prefix: list[int] | None, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean next-token loss over the tokens that carry one."""
    cache, begin = None, 0
    if prefix is not None:
        begin = len(prefix)
        cache = model.model(torch.tensor([prefix]), use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(ids))
    positions = torch.arange(begin, begin + ids.shape[1])[None, :]
    states = model.model(
        ids, position_ids=positions, past_key_values=cache, use_cache=cache is not None
    ).last_hidden_state
    keep = mask[:, 1:]
    logits = model.lm_head(states[:, :-1][keep])
    return F.cross_entropy(logits.float(), ids[:, 1:][keep])


def make_optimizers(model, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(
        matrices, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
    return [muon, adam]


def save_checkpoint(folder: Path, model, optimizers, progress: dict) -> None:
    """One safetensors file with weights, optimizer state and progress, written beside and renamed."""
    tensors = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    for number, optimizer in enumerate(optimizers):
        for key, state in optimizer.state_dict()["state"].items():
            tensors |= {
                f"optimizer.{number}.{key}.{name}": torch.as_tensor(value).clone() for name, value in state.items()
            }
    temporary = folder / "checkpoint.safetensors.tmp"
    save_file(tensors, temporary, metadata={"progress": json.dumps(progress)})
    os.replace(temporary, folder / "checkpoint.safetensors")


def load_checkpoint(path: Path, model, optimizers) -> dict:
    with safe_open(path, "pt") as file:
        progress = json.loads(file.metadata()["progress"])
        weights, states = {}, [{} for _ in optimizers]
        for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
            head, rest = name.split(".", 1)
            if head == "model":
                weights[rest] = file.get_tensor(name)
            else:
                number, key, field = rest.split(".")
                states[int(number)].setdefault(int(key), {})[field] = file.get_tensor(name)
    model.load_state_dict(weights, strict=False)  # the tied output embedding is not stored twice
    model.tie_weights()
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return progress


def pretrain(
    out: Path, work: Path, config: PretrainConfig = PretrainConfig(), *, report=print, checkpoint_seconds: float = 120
) -> None:
    """Trains and writes the model to ``out``; checkpoints and the log go to ``work``, from which a killed run continues.

    A checkpoint is written after a pool of samples if the last one is ``checkpoint_seconds`` or more ago.
    """
    # settings, tokenizer and model, or those of the run that is continued
    work.mkdir(parents=True, exist_ok=True)
    settings = work / "config.json"
    if settings.exists() and json.loads(settings.read_text()) != asdict(config):
        raise ValueError(f"{work} holds a run with other settings; remove the folder or name another")
    settings.write_text(json.dumps(asdict(config), indent=1))
    sampler = Sampler(entries())
    if (work / "tokenizer").exists():  # that of this run, since the fact base may have changed since it began
        tokenizer = PreTrainedTokenizerFast.from_pretrained(work / "tokenizer")
    else:
        tokenizer = train_tokenizer(sampler, config.vocab_size)
        tokenizer.save_pretrained(work / "tokenizer")
    torch.manual_seed(config.seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    optimizers = make_optimizers(model, config)
    progress = {"pool": 0, "step": 0, "tokens": 0, "seconds": 0.0}
    if (work / "checkpoint.safetensors").exists():
        progress = load_checkpoint(work / "checkpoint.safetensors", model, optimizers)
        report(f"going on at step {progress['step']}, {progress['tokens'] / 1e6:.1f} M tokens")
    report(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, vocabulary {len(tokenizer)}")
    # train, pool by pool
    model.train()
    started, saved, losses = time.time() - progress["seconds"], time.time(), []
    with open(work / "log.jsonl", "a", encoding="utf-8") as log:
        while progress["tokens"] < config.all_tokens:
            sampler.qualities = QUALITIES if progress["tokens"] < config.tokens else HABITS
            for prefix, ids, mask, count in batches(sampler, tokenizer, config, progress["pool"]):
                done = progress["tokens"] / config.all_tokens
                rate = config.rate(progress["step"], progress["tokens"])
                for optimizer in optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16()):
                    loss = batch_loss(model, prefix, ids, mask)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
                losses.append(loss.item())
                progress["step"] += 1
                progress["tokens"] += count
                if progress["step"] % 50 == 0:
                    seconds = time.time() - started
                    seconds_left = seconds / max(done, 1e-9) * (1 - done)
                    row = {
                        "step": progress["step"],
                        "tokens": progress["tokens"],
                        "loss": round(sum(losses) / len(losses), 4),
                        "tokens_per_s": round(progress["tokens"] / seconds),
                        "minutes_left": round(seconds_left / 60, 1),
                    }
                    log.write(json.dumps(row) + "\n")
                    log.flush()
                    report(json.dumps(row))
                    losses = []
            progress["pool"] += 1
            if time.time() - saved >= checkpoint_seconds:
                saved = time.time()
                save_checkpoint(work, model, optimizers, progress | {"seconds": saved - started})
                export(model, tokenizer, work / "latest")
    export(model, tokenizer, out)
    report(f"wrote {out} after {(time.time() - started) / 60:.1f} minutes")


def export(model, tokenizer, folder: Path) -> None:
    """Weights as fp16 safetensors, with tokenizer, template and generation settings."""
    half = Qwen2ForCausalLM(model.config).to(torch.float16)
    half.load_state_dict({name: value.to(torch.float16) for name, value in model.state_dict().items()})
    half.generation_config.eos_token_id = tokenizer.eos_token_id
    half.generation_config.pad_token_id = tokenizer.pad_token_id
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / SETTINGS_FILE, asdict(Settings(max_new_tokens=MAX_NEW_TOKENS)))
