"""Tiny sentence-transformers models, saved by that library itself, and a small collection with several columns."""

from __future__ import annotations

from pathlib import Path

import torch

from grace_core.collection import Collection
from grace_core.readers import Corpus, Document, Judgements

ODD = (
    "word",
    "钢铁是怎样炼成的。它在高温中变硬！",
    "The river. The river again!",
    "a b c",
    "naïve café — “quoted”, 12.5 %",
    "snow ❄️ rain 🌧️ sun",
    "summer",
)
QUERIES = (
    "river in the mountains",
    "children dance around the fountain",
    "how fast the ice melts in summer",
    "snow",
    "钢铁是怎样炼成的",
)


def wordpiece(sentences: list[str]):
    """A WordPiece tokenizer as BERT's, with CLS and SEP."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import BertTokenizer

    # every word of the sentences, and single characters for all else; not trained, which would not give the same twice
    texts = " ".join([*sentences, *ODD]).lower()
    characters = sorted({character for character in texts if not character.isspace()})
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = sorted({word.strip(".") for sentence in sentences for word in sentence.lower().split()} - set(characters))
    vocabulary = [*specials, *characters, *(f"##{character}" for character in characters), *words]
    numbers = {token: number for number, token in enumerate(vocabulary)}
    backend = Tokenizer(models.WordPiece(numbers, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = (
        normalizers.BertNormalizer(lowercase=True),
        pre_tokenizers.BertPreTokenizer(),
    )
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    )
    return BertTokenizer(tokenizer_object=backend, vocab=backend.get_vocab(), do_lower_case=True)


def save_encoder(
    folder: Path,
    sentences: list[str],
    *,
    pooling: str = "mean",
    dense: str | None = None,
    normalize: bool = True,
    limit: int = 32,
    prompts: dict[str, str] | None = None,
    include_prompt: bool = True,
    seed: int = 0,
) -> Path:
    """A BERT of two layers with random weights; ``dense`` is "identity" or "tanh"."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    tokenizer = wordpiece(sentences)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=tokenizer.pad_token_id,
    )
    body = folder.with_name(f"{folder.name}-body")
    BertModel(config).eval().save_pretrained(body)
    tokenizer.save_pretrained(body)
    modules = [
        Transformer(str(body), max_seq_length=limit),
        Pooling(24, pooling_mode=pooling, include_prompt=include_prompt),
    ]
    if dense:
        activation = torch.nn.Tanh() if dense == "tanh" else torch.nn.Identity()
        modules.append(Dense(24, 16, activation_function=activation))
    if normalize:
        modules.append(Normalize())
    SentenceTransformer(modules=modules, prompts=prompts, device="cpu").save(str(folder))
    return folder


def make_collection(folder: Path, sentences: list[str], count: int = 60) -> Collection:
    """Documents of one to three sentences, odd ones, copies, an empty one; with judgements."""
    texts = [" ".join(sentences[2 * i : 2 * i + 1 + i % 3]) for i in range(count)]
    texts[5], texts[17], texts[20] = texts[2], texts[2], ""
    documents = [
        Document(f"d{i:02}", f"Story {i}" if i % 4 == 0 else "", text, {"year": 1900 + i, "kind": "ab"[i % 2]})
        for i, text in enumerate(texts)
    ]
    documents[20] = Document("d20", "", "", {"year": 1920, "kind": "a"})
    documents += [Document(f"odd{i}", "", text, {"year": 2000 + i, "kind": "odd"}) for i, text in enumerate(ODD)]
    judgements = Judgements(
        {f"q{i}": query for i, query in enumerate(QUERIES)},
        {f"q{i}": {f"d{7 * i + 1:02}": 1} for i in range(len(QUERIES))},
        {},
    )
    return Collection.create(Corpus(documents, judgements, "made here", ["year", "kind"]), folder)
