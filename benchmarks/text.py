"""Embedding texts without rationales, compared with sentence-transformers with the same weights and mean pooling.

``vs_sentence_transformers``  texts a second of ``GraceModel.encode(texts, rationale=False)`` over those of ``SentenceTransformer.encode``
                              on the same conversations: system prompt, text and template, the same tokens
``vs_bare_text``              the same peer with the text alone, without GRACE's prompt: fewer tokens

All tokenise, sort by length, run in batches of the same size, pool and normalise. The peer's mean pooling includes
the tokens of the prompt; that its states equal those of our decoder is checked beforehand.
"""

from __future__ import annotations

import numpy as np
import torch

from grace_benchmarks.rounds import demo_passages, median_seconds
from grace_core.model import GraceModel


def run(model: str = "demo-base", *, texts: int = 256, runs: int = 5, batch_size: int = 64) -> dict:
    """Medians of ``runs`` rounds, the contenders in turn: ``{ratios, texts_per_second, runs, model, texts,
    threads}``.
    """
    grace = GraceModel.from_pretrained(model)
    peer = sentence_transformer(grace)
    passages = demo_passages(texts)
    conversations = [grace.prompts.head + text + grace.prompts.tail for text in passages]

    def peer_vectors(rows: list[str]) -> np.ndarray:
        return peer.encode(rows, batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False)

    contenders = {
        "grace": lambda: grace.encode(passages, rationale=False, batch_size=batch_size),
        "sentence_transformers": lambda: peer_vectors(conversations),
        "bare_text": lambda: peer_vectors(passages),
    }
    _check(grace, peer_vectors, conversations[:8])
    seconds = median_seconds(contenders, runs)
    rates = {name: len(passages) / value for name, value in seconds.items()}
    return {
        "ratios": {
            f"vs_{peer}": round(rates["grace"] / rates[peer], 3) for peer in ("sentence_transformers", "bare_text")
        },
        "texts_per_second": {name: round(rate, 1) for name, rate in rates.items()},
        "runs": runs,
        "model": model,
        "texts": len(passages),
        "threads": torch.get_num_threads(),
    }


def sentence_transformer(grace: GraceModel):
    """A SentenceTransformer with the model's weights and mean pooling."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    # without this, a chat template is applied to the texts
    plain = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
    transformer = Transformer(
        str(grace._folder),
        model_kwargs={"dtype": grace.model.dtype},
        modality_config=plain,
        module_output_name="token_embeddings",
    )
    return SentenceTransformer(
        modules=[transformer, Pooling(grace.dim, pooling_mode="mean")], device=str(grace.engine.device)
    )


def _check(grace: GraceModel, peer_vectors, conversations: list[str]) -> None:
    """Raises RuntimeError if the peer's vectors are not the means of our decoder's states."""
    ours = []
    for conversation in conversations:
        ids = torch.tensor(
            [grace.tokenizer(conversation, add_special_tokens=False)["input_ids"]], device=grace.engine.device
        )
        with torch.inference_mode():
            ours.append(grace.model.get_decoder()(ids).last_hidden_state[0].float().mean(0).cpu().numpy())
    ours = np.stack(ours)
    ours /= np.linalg.norm(ours, axis=1, keepdims=True)
    cosine = (ours * peer_vectors(conversations)).sum(1).min()
    if cosine < 0.999:
        raise RuntimeError(f"the peer's vectors are not of the same model and tokens (cosine {cosine:.4f})")


if __name__ == "__main__":
    import json

    print(json.dumps(run(), indent=2))
