"""Encoding in one pass, against two peers with the same model, prompts, batches and greedy decoding.

``vs_generate``   plain ``model.generate()``: only writes the rationales, without embeddings
``vs_two_pass``   generate, detokenise, tokenise the conversation again, a second forward for the hidden states, pool

Both ratios are our tokens per second over the peer's, which runs transformers' own attention over the same weights. In
float32 all three write the same tokens (checked); in bfloat16 now and then another one. The peers' batches are sorted
by length as ours are.

``busy``          our tokens per second beside a process that keeps one core busy, over those on an idle machine
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import torch

from grace_benchmarks.rounds import demo_passages
from grace_core.model import GraceModel
from grace_core.weights import twin


def run(model: str = "demo-base", *, texts: int = 128, runs: int = 5, batch_size: int = 64) -> dict:
    """Medians of ``runs`` rounds over ``texts`` demo passages: ``{ratios, tokens_per_second, runs, model,
    texts, threads}``.
    """
    grace = GraceModel.from_pretrained(model)
    peer = twin(grace.model)
    peer.set_attn_implementation("sdpa")
    prompts = sorted((grace.prompts.build(text) for text in demo_passages(texts)), key=lambda prompt: -len(prompt.ids))
    batches = [prompts[i : i + batch_size] for i in range(0, len(prompts), batch_size)]

    def generate(batch) -> list[list[int]]:
        ids, mask = grace.engine.runner.pad_left([prompt.ids for prompt in batch])
        out = peer.generate(
            ids,
            attention_mask=torch.ones_like(ids) if mask is None else mask,
            do_sample=False,
            max_new_tokens=grace.settings.max_new_tokens,
            pad_token_id=grace.engine.pad_id,
            eos_token_id=sorted(grace.engine.end_ids),
            repetition_penalty=1.0,  # some models' settings have another
        )
        rows = []
        for row in out[:, ids.shape[1] :].tolist():
            end = next((i for i, token in enumerate(row) if token in grace.engine.end_ids), len(row))
            rows.append(row[:end])
        return rows

    @torch.inference_mode()
    def two_pass(batch) -> int:
        rows = generate(batch)
        conversations = [
            grace.tokenizer.decode(p.ids + row, skip_special_tokens=False) for p, row in zip(batch, rows, strict=True)
        ]
        again = grace.tokenizer(
            conversations, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
        )
        again = again.to(grace.engine.device)
        states = peer(**again, output_hidden_states=True, use_cache=False).hidden_states[-1]
        mask = again["attention_mask"].clone()
        for i, prompt in enumerate(batch):
            first = int((again["attention_mask"][i] == 0).sum())
            mask[i, : first + prompt.start] = 0
        torch.nn.functional.normalize((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True), dim=-1)
        return sum(map(len, rows))

    # time them in turn
    contenders = {
        "one_pass": lambda batch: sum(
            len(row.rationale_ids) for row in grace.engine.generate(batch, grace.settings.decoding)
        ),
        "generate": lambda batch: sum(map(len, generate(batch))),
        "two_pass": two_pass,
    }
    seconds: dict[str, list[float]] = {}
    # a warm-up round, which counts the tokens
    tokens = {name: sum(work(batch) for batch in batches) for name, work in contenders.items()}
    if len(set(tokens.values())) != 1 and grace.model.dtype == torch.float32:
        raise RuntimeError(f"the contenders wrote different numbers of tokens: {tokens}")

    def note(name: str, work) -> None:
        started = time.perf_counter()
        for batch in batches:
            work(batch)
        seconds.setdefault(name, []).append(time.perf_counter() - started)

    for _ in range(runs):
        for name, work in contenders.items():
            note(name, work)
        spinning = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            note("busy", contenders["one_pass"])
        finally:
            spinning.kill()
            spinning.wait()
    tokens["busy"] = tokens["one_pass"]
    rates = {name: tokens[name] / statistics.median(values) for name, values in seconds.items()}
    ratios = {f"vs_{name}": round(rates["one_pass"] / rates[name], 3) for name in ("generate", "two_pass")}
    ratios["busy"] = round(rates["busy"] / rates["one_pass"], 3)
    return {
        "ratios": ratios,
        "tokens_per_second": {name: round(rate) for name, rate in rates.items()},
        "runs": runs,
        "model": model,
        "texts": len(prompts),
        "tokens": tokens["one_pass"],
        "threads": torch.get_num_threads(),
        "dtype": str(grace.model.dtype).removeprefix("torch."),
    }


if __name__ == "__main__":
    import json

    print(json.dumps(run(), indent=2))
