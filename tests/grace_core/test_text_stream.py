"""Text that grows by a token at a time: the same as decoding all ids at the end, in linear time."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.tokenization_python import PythonBackend

from grace_core.serving.chat import Answer
from grace_core.text_stream import TextStream, read_pieces

TEXTS = [
    "plain words, and a line\nbreak",
    "emoji 🙂👩‍👩‍👧 and flags 🇳🇵",
    "汉字与标点。第二句！",
    "combining: e\u0301 a\u0308 न्दी",
    "  spaces   in rows  ",
    "isn't it ? yes , it ' is .",
    "already broken: \ufffd",
    "",
]


def byte_fallback_tokenizer():
    """As Llama 2's: what the vocabulary lacks is written as bytes."""
    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"▁abcdeimnot.,'é汉",
        "▁a",
        "▁b",
        "▁▁",
        "bc",
    ]
    merges = [("▁", "a"), ("▁", "b"), ("▁", "▁"), ("b", "c")]
    backend = Tokenizer(
        models.BPE(dict(zip(words, range(len(words)), strict=True)), merges, unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    replaced, stripped = decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)
    backend.decoder = decoders.Sequence([replaced, decoders.ByteFallback(), decoders.Fuse(), stripped])
    backend.add_special_tokens(["<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def word_tokenizer():
    """A WordPiece, after whose decoding transformers takes out the spaces in front of punctuation."""
    words = ["[UNK]", "[SEP]", *"abcdeimnotys.,'?汉", "##c", "##n", "##.", "n't", "it", "is", "yes"]
    backend = Tokenizer(models.WordPiece(dict(zip(words, range(len(words)), strict=True)), unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    backend.add_special_tokens(["[SEP]"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="[SEP]", clean_up_tokenization_spaces=True)


class InPython(PythonBackend):
    """A tokenizer without a library: a token is a byte."""

    vocab_size = 256

    def get_vocab(self):
        return {chr(byte): byte for byte in range(256)}

    def _tokenize(self, text):
        return [chr(byte) for byte in text.encode()]

    def _convert_token_to_id(self, token):
        return ord(token)

    def _convert_id_to_token(self, index):
        return chr(index)

    def convert_tokens_to_string(self, tokens):
        return bytes(map(ord, tokens)).decode(errors="replace")


@pytest.fixture(scope="module")
def tokenizers(new_tokenizer):
    return {
        "bytes": new_tokenizer(None),
        "fallback": byte_fallback_tokenizer(),
        "words": word_tokenizer(),
        "python": InPython(),
    }


@pytest.mark.parametrize("skip", [True, False], ids=["without specials", "with specials"])
@pytest.mark.parametrize("kind", ["bytes", "fallback", "words", "python"])
def test_pieces_are_the_text_that_all_ids_give(tokenizers, kind, skip):
    tokenizer, chance = tokenizers[kind], random.Random(0)
    lists = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
    noise = [
        [chance.randrange(tokenizer.vocab_size) for _ in range(6)] for _ in range(300)
    ]  # broken characters, special tokens
    lists += noise + [chance.choice(lists) + ids[:3] + chance.choice(lists) for ids in noise]
    for ids in lists:
        stream = TextStream(tokenizer, skip_special_tokens=skip)
        pieces = [stream.add(token) for token in ids]
        assert "".join(pieces) == stream.text
        assert "".join(pieces) + stream.end() == stream.text == tokenizer.decode(ids, skip_special_tokens=skip), ids


def test_a_byte_that_spoils_its_run_spoils_no_text_that_was_given_out(tokenizers):
    tokenizer = tokenizers["fallback"]
    ids = tokenizer.convert_tokens_to_ids(["a", "<0xE2>", "<0x82>", "<0xAC>", "</s>", "<0xFF>", "b"])
    stream = TextStream(tokenizer)
    assert [stream.add(token) for token in ids] == ["a", "", "", "", "", "", "\ufffd" * 4 + "b"]
    assert read_pieces(tokenizer, ids[:4]) == ["a", "", "", "€"]


def test_text_comes_as_soon_as_it_is_certain(tokenizers):
    for kind, text in [
        ("bytes", "the river 🙂 €!"),
        ("fallback", "a b🙂c"),
        ("words", "it is yes"),
        ("python", "the 🙂 €"),
    ]:
        stream, ids = TextStream(tokenizers[kind]), tokenizers[kind](text, add_special_tokens=False)["input_ids"]
        pieces = [stream.add(token) for token in ids]
        assert any(pieces[:-1])
        assert "\ufffd" not in "".join(pieces)


def test_a_long_text_is_decoded_once_and_not_at_every_token(tokenizers, tiny_models, monkeypatch):
    decoded = []
    model = tiny_models["qwen2"]
    decode = model.tokenizer._decode
    monkeypatch.setattr(
        model.tokenizer, "_decode", lambda token_ids, **options: decoded.append(1) or decode(token_ids, **options)
    )
    answer = Answer(model, ["no such stop"])
    ids = model.tokenizer("the river rises in mountains 🙂 " * 50, add_special_tokens=False)["input_ids"]
    assert len(ids) > 500
    sent = [answer.add(token) for token in ids]
    assert (len(decoded), answer.text[:9]) == (0, "the river")
    assert "".join(sent) + answer.end() == answer.text == decode(ids)
    assert len(decoded) == 1
    decoded.clear()
    *_, (_, made) = model.stream("the river rises")
    assert made.counts[0, 2] > 2
    assert len(decoded) == 1


def test_a_stop_at_the_very_end_of_an_answer_is_found_too(tokenizers, tiny_models, monkeypatch):
    model = tiny_models["qwen2"]
    monkeypatch.setattr(model, "tokenizer", tokenizers["fallback"])
    ids = model.tokenizer("a€", add_special_tokens=False)["input_ids"]
    answer = Answer(model, ["€"])
    assert [answer.add(token) for token in ids] == ["a", "", "", ""]  # a byte might follow that spoils it
    assert (answer.end(), answer.text, answer.stopped) == ("", "a", True)
