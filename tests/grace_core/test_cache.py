"""The cache of representations: nothing is generated twice, and nothing wrong comes out of it."""

from __future__ import annotations

import copy
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from grace_core.cache import VERSION, RepresentationCache, default_path
from grace_core.errors import GraceError
from grace_core.model import GraceModel
from grace_core.prompt import PromptBuilder


@pytest.fixture
def cached(tiny_models, tmp_path, monkeypatch):
    """A model with a fresh cache; ``cached.written`` lists how many prompts each run of the engine got."""
    tiny = tiny_models["qwen2"]
    model = GraceModel(
        tiny.model, tiny.tokenizer, tiny.settings, name="tiny", cache=RepresentationCache(tmp_path / "cache.sqlite")
    )
    model.written = []
    for method in ("decode", "pool"):
        original = getattr(model.engine, method)

        def counting(prompts, *args, original=original, **options):
            model.written.append(len(prompts))
            return original(prompts, *args, **options)

        monkeypatch.setattr(model.engine, method, counting)
    return model


def test_a_hit_is_identical_and_generates_nothing(cached, sentences):
    first = cached.represent(sentences[:10])
    assert cached.written == [10]
    again = cached.represent(sentences[:10])
    assert cached.written == [10]
    assert again.rationale_ids == first.rationale_ids
    assert again.rationales == first.rationales
    np.testing.assert_array_equal(again.sums, first.sums)
    np.testing.assert_array_equal(again.counts, first.counts)
    np.testing.assert_array_equal(again.truncated, first.truncated)


def test_only_what_is_missing_is_generated(cached, sentences):
    cached.represent(sentences[:4])
    cached.represent([*sentences[:6], sentences[5]])
    assert cached.written == [4, 2]


def test_a_text_that_was_met_before_is_not_tokenised(cached, sentences, monkeypatch):
    first = cached.represent(sentences[:6], max_prompt_tokens=90)
    built = []
    build = PromptBuilder.build
    monkeypatch.setattr(PromptBuilder, "build", lambda builder, text: built.append(text) or build(builder, text))
    again = cached.represent([*sentences[:6][::-1], sentences[7]], max_prompt_tokens=90)
    assert [text for text in built if text in sentences] == [sentences[7]]
    np.testing.assert_array_equal(again.sums[:6], first.sums[::-1])
    assert again.rationales[:6] == first.rationales[::-1]
    assert again.text_truncated[:6].tolist() == first.text_truncated[::-1].tolist()


def test_another_template_is_met_for_the_first_time(cached, sentences):
    cached.represent(sentences[:2])
    tokenizer = copy.deepcopy(cached.tokenizer)
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "reader")
    assert tokenizer.chat_template != cached.tokenizer.chat_template
    other = GraceModel(cached.model, tokenizer, cached.settings, name="tiny", cache=cached.cache)
    other.fingerprint = cached.fingerprint  # what the cache is told of the model is the same
    before = len(cached.cache)
    other.represent(sentences[:2])
    assert len(cached.cache) == before + 2


def test_bad_texts_are_named_by_their_place_among_texts_that_are_known(cached, sentences):
    cached.represent(sentences[:2])
    with pytest.raises(GraceError, match="text 2: the text is empty"):
        cached.represent([*sentences[:2], " "])
    with pytest.raises(GraceError, match="text 1: a text must be a str, got int"):
        cached.represent([sentences[0], 7])


def test_streaming_fills_the_cache_and_uses_it(cached, sentences):
    *_, (_, first) = cached.stream(sentences[0])
    steps = list(cached.stream(sentences[0]))
    assert len(steps) == 1
    np.testing.assert_array_equal(steps[0][1].sums, first.sums)
    cached.represent([sentences[0]])
    assert cached.written == [1]


@pytest.mark.parametrize(
    "change",
    [
        {"max_new_tokens": 5},
        {"system": "Another."},
        {"temperature": 0.5},
        {"temperature": 0.5, "seed": 1},
        {"temperature": 0.5, "top_p": 0.5},
        {"rationale": False},
    ],
)
def test_other_settings_are_another_entry(cached, sentences, change):
    cached.represent(sentences[:2])
    cached.represent(sentences[:2], temperature=0.5) if change != {"temperature": 0.5} else None
    before = len(cached.written)
    cached.represent(sentences[:2], **change)
    assert len(cached.written) == before + 1


def test_greedy_decoding_shares_its_entries_among_seeds(cached, sentences):
    cached.represent(sentences[:2], seed=1)
    cached.represent(sentences[:2], seed=2, top_p=0.5)
    assert cached.written == [2]


def test_another_model_does_not_get_the_entries_of_the_first(cached, new_model, sentences):
    cached.represent(sentences[:3])
    other = new_model("qwen2", seed=1)
    without = other.represent(sentences[:3])
    other.cache = cached.cache
    np.testing.assert_array_equal(other.represent(sentences[:3]).sums, without.sums)


def test_entries_outlive_the_process_s_connection(cached, sentences):
    first = cached.represent(sentences[:3])
    cached.cache.close()
    cached.cache = RepresentationCache(cached.cache.path)
    np.testing.assert_array_equal(cached.represent(sentences[:3]).sums, first.sums)
    assert len(cached.cache) == 3
    assert cached.written == [3]


def test_threads_and_connections_share_a_file(tmp_path):
    path = tmp_path / "cache.sqlite"
    caches = [RepresentationCache(path), RepresentationCache(path)]
    sums, counts = np.ones((3, 8), np.float32), np.array([1, 2, 3])

    def work(number: int) -> None:
        cache = caches[number % 2]
        for i in range(50):
            cache.put({f"{number}-{i}": ([number, i], sums * number, counts, False), "same": ([1], sums, counts, True)})
            ids, got, _, _ = cache.get([f"{number}-{i}"])[f"{number}-{i}"]
            assert ids == [number, i]
            np.testing.assert_array_equal(got, sums * number)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(caches[0]) == 201


def test_two_threads_encode_with_one_model(cached, tiny_models, sentences):
    expected = tiny_models["qwen2"].represent(sentences[:20])
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(lambda texts: cached.represent(texts, batch_size=3), [sentences[:20], sentences[:20]]))
    for one in made:
        assert one.rationale_ids == expected.rationale_ids
        np.testing.assert_allclose(one.embeddings(), expected.embeddings(), atol=1e-5)


def test_more_keys_than_sqlite_takes_at_once(tmp_path):
    cache = RepresentationCache(tmp_path / "cache.sqlite")
    row = ([1], np.zeros((3, 4), np.float32), np.array([1, 1, 1]), False)
    cache.put({str(i): row for i in range(1300)})
    assert len(cache.get([str(i) for i in range(1500)])) == 1300


def test_a_file_that_is_no_cache_is_refused_with_a_remedy(tmp_path):
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(GraceError, match=r"cannot be used .*remove the file, or set GRACE_CACHE"):
        RepresentationCache(path)


def test_a_cache_damaged_within_is_refused_with_a_remedy(cached, sentences):
    cached.represent(sentences[:30])
    cached.cache.close()
    path = cached.cache.path
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(bytes(data))

    def use_again():
        cached.cache = RepresentationCache(path)
        cached.represent(sentences[:30])

    with pytest.raises(GraceError, match="remove the file"):
        use_again()


def test_another_table_of_that_name_is_refused_with_a_remedy(tmp_path):
    path = tmp_path / "cache.sqlite"
    with sqlite3.connect(path) as db:
        db.execute(f"CREATE TABLE representations_{VERSION} (key TEXT)")
    with pytest.raises(GraceError, match="remove the file"):
        RepresentationCache(path).get(["key"])


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(GraceError, match="set GRACE_CACHE"):
        RepresentationCache(tmp_path / "file" / "cache.sqlite")


def test_the_environment_names_the_file(monkeypatch, tmp_path):
    monkeypatch.setenv("GRACE_CACHE", str(tmp_path / "here.sqlite"))
    assert default_path() == tmp_path / "here.sqlite"
    monkeypatch.delenv("GRACE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "grace" / "representations.sqlite"


def test_an_entry_under_another_key_is_never_returned(tmp_path):
    path = tmp_path / "cache.sqlite"
    cache = RepresentationCache(path)
    row = ([1, 2], np.ones((3, 4), np.float32), np.array([1, 2, 2]), False)
    cache.put({"a": row, "b": ([3], *row[1:])})
    cache.name_texts({"text a": ("a", False), "text b": ("b", False)})
    with sqlite3.connect(path) as db:
        (ids,) = db.execute(f"SELECT ids FROM representations_{VERSION} WHERE key = 'b'").fetchone()
        db.execute(f"UPDATE representations_{VERSION} SET ids = ? WHERE key = 'a'", (ids,))
        db.execute(f"UPDATE texts_{VERSION} SET key = 'a' WHERE name = 'text b'")
    assert cache.get(["a", "b"]).keys() == {"b"}
    assert cache.get_texts(["text a", "text b"]) == {}


def test_what_cannot_have_been_made_of_the_text_is_made_again(cached, sentences):
    right = cached.represent(sentences[:2])
    (prompt, *_), chosen = cached._prompts(sentences[:2], {})
    key = cached._key(prompt, chosen, True)
    ids, sums, counts, cut = cached.cache.get([key])[key]
    with sqlite3.connect(cached.cache.path) as db:
        db.execute(f"DELETE FROM texts_{VERSION}")
    cached.cache.put({key: (ids, sums * 2, counts + np.array([1, 0, 0]), cut)})
    np.testing.assert_allclose(cached.represent(sentences[:2]).sums, right.sums, atol=1e-4)
    assert cached.written == [2, 1]


def test_entries_of_an_older_version_are_not_read_and_stay(tmp_path):
    path = tmp_path / "cache.sqlite"
    with sqlite3.connect(path) as db:
        db.execute(
            "CREATE TABLE representations (key TEXT PRIMARY KEY, ids BLOB, sums BLOB, counts BLOB, truncated INTEGER) WITHOUT ROWID"
        )
        db.execute("INSERT INTO representations VALUES ('a', x'', x'', x'', 0)")
    assert RepresentationCache(path).get(["a"]) == {}
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT COUNT(*) FROM representations").fetchone() == (1,)


def test_a_folder_holds_the_file(monkeypatch, tmp_path):
    (tmp_path / "is").mkdir()
    for place in (tmp_path / "is", f"{tmp_path}/will be/"):
        monkeypatch.setenv("GRACE_CACHE", str(place))
        assert RepresentationCache().path.name == "representations.sqlite"
        assert RepresentationCache().path.is_file()
    (tmp_path / "is" / "representations.sqlite").unlink()
    (tmp_path / "is" / "representations.sqlite").mkdir()
    with pytest.raises(GraceError) as caught:
        RepresentationCache(tmp_path / "is")
    assert "remove" not in str(caught.value)
