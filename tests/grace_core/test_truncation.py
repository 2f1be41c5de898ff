"""Texts that are cut to fit the prompt, and rows without a text: every command counts them, and says what helps."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest

from grace_core.index import GraceIndex
from grace_core.model import GraceModel

LIMIT, WRITTEN, POSITIONS = 120, 4, 200  # tokens of a prompt, of a rationale, and of both
LONGEST = POSITIONS - WRITTEN
REMEDY = f"--max-prompt-tokens, up to {LONGEST} with this model"


@pytest.fixture(scope="module")
def model(new_model, tmp_path_factory):
    made = new_model("qwen2", max_prompt_tokens=LIMIT, max_new_tokens=WRITTEN)
    made.model.config.max_position_embeddings = POSITIONS
    folder = tmp_path_factory.mktemp("cut") / "tiny"
    made.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def documents(sentences, tmp_path_factory):
    """Six rows, two of which are too long and three empty."""
    path = tmp_path_factory.mktemp("cut") / "docs.jsonl"
    texts = {
        "long": "river " * 300,
        "short": sentences[3],
        "empty": "",
        "blank": " \n",
        "longer": "snow " * 400,
        "null": None,
    }
    path.write_text("\n".join(json.dumps({"_id": name, "text": text}) for name, text in texts.items()))
    return path


@pytest.fixture(scope="module")
def index(documents, model, tmp_path_factory):
    from grace_core.collection import Collection
    from grace_core.index import build
    from grace_core.readers import read_corpus

    folder = tmp_path_factory.mktemp("cut") / "x"
    return build(Collection.create(read_corpus(documents), folder), GraceModel.from_pretrained(model))


def both(grace, *arguments) -> tuple[str, dict, str]:
    """What a command prints without and with ``--json``, and what the latter tells on stderr."""
    status, text, err = grace(*arguments)
    assert status == 0, err
    status, out, err = grace(*arguments, "--json")
    assert status == 0, err
    return text, json.loads(out), err


def test_a_build_and_its_info_count_the_cut_texts_and_name_the_remedy(grace, index, documents, model):
    text, made, _ = both(grace, "index", "build", documents, "--out", index.collection.folder, "--model", model)
    counts = made["models"]["tiny"]
    assert (counts["documents"], counts["encoded"], counts["empty"], counts["truncated_texts"]) == (6, 3, 3, 2)
    assert "3 documents encoded, 3 empty ones left out" in text
    assert "rationales cut off, 2 texts cut to fit the prompt" in text
    (note,) = [note for note in made["notes"] if "has this corpus already" not in note]
    assert f"note: {note}" in text.splitlines()
    assert note.startswith(f"tiny: 2 of 3 texts are cut to fit the prompt, which takes {LIMIT} tokens")
    assert REMEDY in note
    assert "another --name or --out" in note

    text, info, _ = both(grace, "index", "info", index.collection.folder)
    assert "cut off, 2 texts cut to fit the prompt" in text
    (note,) = info["notes"]
    assert f"note: {note}" in text.splitlines()
    assert "a larger --max-prompt-tokens" in note


def test_the_remedy_is_true(grace, index, documents, model):
    longer = ("index", "build", documents, "--out", index.collection.folder, "--model", model, "--name", "longer")
    status, _, err = grace(*longer, "--max-prompt-tokens", LONGEST + 1)
    assert (status, "positions" in err) == (2, True)
    _, made, _ = both(grace, *longer, "--max-prompt-tokens", LONGEST)
    kept = [GraceIndex(index.collection.folder, name).counts[0, 0] for name in ("tiny", "longer")]
    assert kept[1] - kept[0] == LONGEST - LIMIT
    (note,) = [
        note for note in made["notes"] if "has this corpus already" not in note
    ]  # no more can be had, and so it says
    assert "a smaller --max-new-tokens" in note
    assert f"share the model's {POSITIONS} positions" in note


def test_a_search_marks_the_cut_hits_apart_from_the_cut_rationales(grace, index):
    text, hits, err = both(grace, "search", index.collection.folder, "river", "--model", "tiny")
    assert {hit["id"]: hit["text_truncated"] for hit in hits} == {"long": True, "longer": True, "short": False}
    flags = dict(zip(index.ids, index.truncated, strict=True))
    assert {hit["id"]: hit["truncated"] for hit in hits} == flags
    assert text.count(f"(text cut after {index.counts[0, 0]} tokens)") == 2
    for told in (text, err):
        assert "note: 2 of 3 texts found are cut to fit the prompt" in told
        assert REMEDY in told
        assert "the query" not in told
    text, hits, err = both(grace, "search", index.collection.folder, "river " * 150, "--model", "tiny", "-k", 1)
    tokens = len(
        GraceModel.from_pretrained(index.manifest["model_id"]).tokenizer(("river " * 150).strip())["input_ids"]
    )
    for told in (text, err):
        assert f"note: the query is cut after {index.counts[0, 0]} of its {tokens} tokens" in told


def test_an_explanation_and_its_what_if_tell_a_cut_text(grace, index):
    asked = ("explain", index.collection.folder, "river", "--model", "tiny", "--with-text")
    for name, edited, text_cut, edit_cut in (("long", "a river", True, False), ("short", "river " * 200, False, True)):
        text, told, _ = both(grace, *asked, edited, name)
        assert (told["text_truncated"], told["what_if"]["text_truncated"]) == (text_cut, edit_cut)
        assert (f"text cut after {index.counts[0, 0]} tokens" in text) == text_cut
        assert ("the text is cut to fit the prompt" in text) == edit_cut


def test_the_library_warns_of_cut_texts(model, recwarn):
    loaded = GraceModel.from_pretrained(model)
    loaded.encode(["a river"], rationale=False)
    assert not [warning for warning in recwarn if "prompt" in str(warning.message)]
    with pytest.warns(UserWarning, match=r"embedded without their end.*text_truncated.*max_prompt_tokens"):
        loaded.encode(["a river", "river " * 200], rationale=False)


def test_encode_counts_what_is_cut_and_what_is_empty(grace, documents, model, tmp_path):
    text, made, _ = both(grace, "encode", documents, "--model", model, "--out", tmp_path / "v.parquet")
    assert (made["documents"], made["empty"], made["left_out"]) == (3, 3, ["empty", "blank", "null"])
    assert made["truncated_texts"] == 2
    assert "3 embeddings" in text
    assert "3 without any text left out: empty, blank, null" in text
    assert f"{made['truncated_rationales']} rationales cut off, 2 texts cut to fit the prompt" in text
    (note,) = [note for note in made["notes"] if "has this corpus already" not in note]
    assert f"note: {note}" in text.splitlines()
    assert REMEDY in note
    assert "--name" not in note  # there is no index that would have one
    table = pq.read_table(tmp_path / "v.parquet")
    assert dict(zip(*(table[name].to_pylist() for name in ("_id", "text_truncated")), strict=True)) == {
        "long": True,
        "short": False,
        "longer": True,
    }


def test_nothing_is_noted_where_nothing_is_cut(grace, model, tmp_path):
    (tmp_path / "c.txt").write_text("a river\n")
    text, made, err = both(grace, "encode", tmp_path / "c.txt", "--model", model, "--out", tmp_path / "v.parquet")
    assert made["notes"] == []
    assert "note: " not in text + err
    assert "0 texts cut to fit the prompt" in text


def test_a_model_without_a_limit_has_none_in_the_remedy():
    from grace_core.settings import Settings
    from grace_core.truncation import notes_on_cut_query, notes_on_cut_texts

    (note,) = notes_on_cut_texts(1, 5, Settings())
    assert note.startswith("1 of 5 texts is cut to fit the prompt, which takes 1,024 tokens")
    assert "as far as the model's positions allow" in note
    assert notes_on_cut_query(9, 0, Settings()) == []
