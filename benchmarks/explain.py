"""What "Why?" costs: query and hits explained with all sentences and tokens, against encoding the same texts without generating.

``vs_encoding``    peer: one forward over query and hits with their rationales, pooled (``represent_given``): the same tokens
``vs_text_only``   peer: one forward over query and hits without rationales, pooled: the fewest tokens that give a vector

Each ratio is our time over the peer's. Rationales are there beforehand in all three, as they are in an index; nothing is generated.
"""

from __future__ import annotations

import statistics
import time

import torch

from grace_core.demo.corpus import beir
from grace_core.explain import explain, token_states
from grace_core.model import GraceModel


def run(model: str = "demo-base", *, hits: int = 10, runs: int = 7) -> dict:
    """Medians of ``runs`` rounds, the contenders in turn: ``{ratios, milliseconds, runs, model, hits, tokens, threads}``.

    The hits are ``hits`` demo passages spread over the corpus, with the rationales that the model writes about them.
    """
    grace = GraceModel.from_pretrained(model)
    rows, queries = beir()[:2]
    passages = [f"{row['title']}\n{row['text']}" for row in rows]
    texts = [queries[0]["text"], *passages[:: max(1, len(passages) // hits)][:hits]]
    made = grace.represent(texts)
    scores = made.embeddings()[1:] @ made.embeddings()[0]

    def why() -> None:
        query, *documents = token_states(grace, texts, made.rationale_ids, batch_size=len(texts))
        for document, score in zip(documents, scores, strict=True):
            explain(query, document, float(score)).as_dict()

    contenders = {
        "why": why,
        "encoding": lambda: grace.represent_given(texts, made.rationale_ids, batch_size=len(texts)).embeddings(),
        "text_only": lambda: grace.represent(texts, rationale=False, batch_size=len(texts)),
    }
    seconds = {name: [] for name in contenders}
    for number in range(runs + 1):
        for name, work in contenders.items():
            started = time.perf_counter()
            work()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "ratios": {f"vs_{peer}": round(medians["why"] / medians[peer], 3) for peer in ("encoding", "text_only")},
        "milliseconds": {name: round(1000 * value, 1) for name, value in medians.items()},
        "runs": runs, "model": model, "hits": len(texts) - 1, "tokens": int(made.counts.sum()), "threads": torch.get_num_threads(),
    }  # fmt: skip


if __name__ == "__main__":
    import json

    print(json.dumps(run(), indent=2))
