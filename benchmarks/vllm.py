"""Encoding with vLLM, compared with plain vLLM generation of the same tokens, and with a second forward for the states.

``vs_generation``     peer: the same prompts through the same vLLM engine without pooling: our tokens per second over theirs
``vs_second_forward`` peer: plain generation, then the transformers model over text and rationale in one forward, pooled

All write the same greedy rationales (checked). Before each run the prefix cache is emptied, so that each run
computes the system prompt once, and every text. ``ratios`` are of wall time; ``cpu_ratios`` of the processor time
of all processes, which other load affects less. The worker also inspects the peers' requests, which takes
microseconds a step.
"""

from __future__ import annotations

import itertools
import statistics
import time

import psutil

from grace_benchmarks.rounds import demo_passages
from grace_core.model import GraceModel


def run(model: str = "demo-base", *, texts: int = 256, runs: int = 5, batch_size: int = 64) -> dict:
    """Medians of ``runs`` rounds over ``texts`` demo passages: ``{ratios, cpu_ratios, tokens_per_second,
    runs, model, texts, …}``.

    ``batch_size`` is the second forward's.
    """
    grace, second = GraceModel.from_pretrained(model, engine="vllm"), GraceModel.from_pretrained(model)
    prompts = sorted((grace.prompts.build(text) for text in demo_passages(texts)), key=lambda prompt: -len(prompt.ids))
    ours, plain = grace.engine, _plain(grace)

    def two_passes() -> list[list[int]]:
        rows = plain(prompts)
        for start in range(0, len(prompts), batch_size):
            second.engine.pool(prompts[start : start + batch_size], rows[start : start + batch_size])
        return rows

    contenders = {
        "encode": lambda: [row.rationale_ids for row in ours.generate(prompts, grace.settings.decoding)],
        "generation": lambda: plain(prompts),
        "second_forward": two_passes,
    }
    written = {name: work() for name, work in contenders.items()}  # warms up
    if any(rows != written["encode"] for rows in written.values()):
        raise RuntimeError("the contenders wrote different rationales")
    seconds, cpu = {name: [] for name in contenders}, {name: [] for name in contenders}
    for _ in range(runs):
        for name, work in contenders.items():
            ours.forget()
            began, spent = time.perf_counter(), _cpu_seconds()
            work()
            seconds[name].append(time.perf_counter() - began)
            cpu[name].append(_cpu_seconds() - spent)
    grace.engine.close()
    tokens = sum(map(len, written["encode"]))
    return {
        "ratios": _ratios(seconds),
        "cpu_ratios": _ratios(cpu),
        "tokens_per_second": {name: round(tokens / statistics.median(values)) for name, values in seconds.items()},
        "runs": runs,
        "model": model,
        "texts": len(prompts),
        "tokens": tokens,
        "device": str(ours.device),
        "dtype": grace.dtype,
    }


def _plain(grace: GraceModel):
    """A function for vLLM's own generation on the engine of ``grace``: rationale ids of prompts."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    engine, ends, numbers = grace.engine._engine, grace.engine.end_ids, itertools.count()
    params = SamplingParams(
        temperature=0.0,
        max_tokens=grace.settings.max_new_tokens,
        stop_token_ids=sorted(ends),
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )

    def generate(prompts) -> list[list[int]]:
        names, outputs = [f"plain-{next(numbers)}" for _ in prompts], {}
        for name, prompt in zip(names, prompts, strict=True):
            engine.add_request(name, {"prompt_token_ids": prompt.ids}, params)
        while engine.has_unfinished_requests():
            outputs |= {output.request_id: output.outputs[0].token_ids for output in engine.step()}
        return [[token for token in outputs[name] if token not in ends] for name in names]

    return generate


def _cpu_seconds() -> float:
    """Processor time of this process and its descendants."""
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in [own, *own.children(recursive=True)])


def _ratios(values: dict[str, list[float]]) -> dict[str, float]:
    medians = {name: statistics.median(seconds) for name, seconds in values.items()}
    return {f"vs_{peer}": round(medians[peer] / medians["encode"], 3) for peer in ("generation", "second_forward")}


if __name__ == "__main__":
    import json

    print(json.dumps(run(), indent=2))
