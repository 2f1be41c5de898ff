"""The time of "Why?", which explains query and hits with all sentences and tokens, compared with encoding the same
texts without generation.

``vs_encoding``    peer: one forward over query and hits with their rationales, pooled (``represent_given``): the same tokens
``vs_text_only``   peer: one forward over query and hits without rationales, pooled: the fewest tokens that give a vector

Each ratio is our time over the peer's. Rationales exist beforehand, as in an index; nothing is generated.
"""

from __future__ import annotations

import torch

from grace_benchmarks.rounds import demo_passages, median_seconds
from grace_core.explain import explain
from grace_core.model import GraceModel
from grace_core.token_states import token_states
from grace_study.corpus import beir


def run(model: str = "demo-base", *, hits: int = 10, runs: int = 7) -> dict:
    """Medians of ``runs`` rounds, the contenders in turn: ``{ratios, milliseconds, runs, model, hits, tokens,
    threads}``.

    The hits are ``hits`` demo passages spread over the corpus, with the rationales that the model writes about them.
    """
    grace = GraceModel.from_pretrained(model)
    texts = [beir()[1][0]["text"], *demo_passages(hits)]
    representations = grace.represent(texts)
    scores = representations.embeddings()[1:] @ representations.embeddings()[0]

    def why() -> None:
        query, *documents = token_states(grace, texts, representations.rationale_ids, batch_size=len(texts))
        for document, score in zip(documents, scores, strict=True):
            explain(query, document, float(score)).as_dict()

    contenders = {
        "why": why,
        "encoding": lambda: grace.represent_given(
            texts, representations.rationale_ids, batch_size=len(texts)
        ).embeddings(),
        "text_only": lambda: grace.represent(texts, rationale=False, batch_size=len(texts)),
    }
    medians = median_seconds(contenders, runs)
    return {
        "ratios": {f"vs_{peer}": round(medians["why"] / medians[peer], 3) for peer in ("encoding", "text_only")},
        "milliseconds": {name: round(1000 * value, 1) for name, value in medians.items()},
        "runs": runs,
        "model": model,
        "hits": len(texts) - 1,
        "tokens": int(representations.counts.sum()),
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    import json

    print(json.dumps(run(), indent=2))
