"""Whatever a file or a request holds: a result, or one line that says what is wrong; never a traceback, never
half a file.

A few inputs of each kind here; ``pytest tests/grace_core/test_properties.py --hypothesis-profile=thorough``
takes ten thousand.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tempfile
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.readers import SUFFIXES, Corpus, preview, read_corpus, stream_corpus

EXAMPLES = settings().max_examples if settings().max_examples > 100 else 25
few = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

# Contents of files: bytes, words, and documents in every format, whole or with an accident.

WORDS = st.sampled_from(
    [
        "id",
        "_id",
        "text",
        "title",
        "a river",
        "Zürich",
        "1",
        "2",
        "0.5",
        "-1",
        "nan",
        "None",
        "",
        " ",
        "\t",
        ",",
        ";",
        "|",
        '"',
        '""',
        "'",
        "\n",
        "\r\n",
        "\r",
        "\0",
        "\ufeff",
        "\u2028",
        "\u200b",
        "河流。",
        "sep=;",
        "{",
        "}",
        "[",
        "]",
        ":",
        "null",
        "true",
        '{"text": "x"}',
        "\x1f",
        "\\",
        "2000-01-31",
        "1e999",
        "9" * 25,
        "=1+1",
        "<b>",
        "../x",
        "query-id\tcorpus-id\tscore",
        "q1 0 d1 1",
        "# T",
        "---",
        "%PDF-1.4",
        "PK\x03\x04",
    ]
)
TEXT = st.one_of(WORDS, st.text(max_size=20), st.lists(WORDS, max_size=6).map("".join))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), TEXT)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)
NAMES = st.one_of(st.sampled_from(["_id", "id", "title", "text", "year", "tags", "source_text", "a.b", ""]), TEXT)
ROWS = st.lists(st.dictionaries(NAMES, st.one_of(TEXT, JSON), max_size=5), max_size=5)


def table(rows: list[dict], delimiter: str, end: str) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([row.get(name, "") for name in names] for row in rows)]
    return end.join(delimiter.join(str(cell) for cell in line) for line in lines)


CONTENTS = st.one_of(
    st.binary(max_size=60),
    st.lists(TEXT, max_size=12).map("".join),
    ROWS.map(lambda rows: "\n".join(map(json.dumps, rows))),
    ROWS.map(json.dumps),
    JSON.map(json.dumps),
    st.builds(table, ROWS, st.sampled_from([",", ";", "\t", "|", "^"]), st.sampled_from(["\n", "\r\n", "\r"])),
)


@st.composite
def files(draw) -> bytes:
    content = draw(CONTENTS)
    if isinstance(content, str):
        content = content.encode(
            draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])), "surrogatepass"
        )
    if draw(st.integers(0, 5)) == 0:
        content = gzip.compress(content)
    if content and draw(st.integers(0, 4)) == 0:  # cut off, or a byte changed
        place = draw(st.integers(0, len(content) - 1))
        content = (
            content[:place]
            if draw(st.booleans())
            else content[:place] + draw(st.binary(max_size=2)) + content[place + 1 :]
        )
    return content


ARROW = {
    pa.string(): TEXT.map(lambda text: text.encode("utf-8", "replace").decode()),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): st.floats(),
    pa.bool_(): st.booleans(),
    pa.binary(): st.binary(max_size=5),
    pa.date32(): st.dates(),
    pa.timestamp("us"): st.datetimes(),
    pa.timestamp("ns"): st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)),
    pa.timestamp("us", "Europe/Berlin"): st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC)),
    pa.duration("s"): st.integers(0, 10**6).map(lambda seconds: timedelta(seconds=seconds)),
    pa.decimal128(20, 3): st.decimals(-(10**16), 10**16, places=3),
    pa.large_string(): st.sampled_from(["x", ""]),
    pa.dictionary(pa.int32(), pa.string()): st.sampled_from(["x", "y"]),
    pa.null(): st.none(),
    pa.time64("us"): st.times(),
    pa.list_(pa.string()): st.lists(st.sampled_from(["x", "y", None]), max_size=3),
    pa.list_(pa.float32()): st.lists(st.just(0.5), max_size=70),
    pa.list_(pa.int64()): st.lists(st.integers(0, 9), max_size=3),
    pa.list_(pa.date32()): st.lists(st.dates(date(1, 1, 1)), max_size=2),
    pa.list_(pa.list_(pa.int8())): st.lists(st.lists(st.integers(0, 9), max_size=2), max_size=2),
    pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))]): st.fixed_dictionaries(
        {"a": st.integers(0, 9), "b": st.just(["x"])}
    ),
    pa.map_(pa.string(), pa.binary()): st.lists(st.tuples(st.just("k"), st.binary(max_size=2)), max_size=2),
}


@st.composite
def parquet(draw) -> bytes:
    rows, out, columns = draw(st.integers(0, 3)), io.BytesIO(), []
    names = NAMES.filter(
        lambda name: name not in ("id", "_id", "text") and not any("\ud800" <= c <= "\udfff" for c in name)
    )
    wanted = draw(st.sampled_from([["text"], ["text"], ["text", "id"], []]))
    for name in [*wanted, *draw(st.lists(names, max_size=3, unique=draw(st.integers(0, 9)) > 0))]:
        kind = draw(
            st.sampled_from(
                [pa.string(), pa.string(), pa.string(), *ARROW] if name in wanted else [pa.string(), *ARROW]
            )
        )
        columns.append(
            (name, pa.array(draw(st.lists(st.one_of(st.none(), ARROW[kind]), min_size=rows, max_size=rows)), kind))
        )
    pq.write_table(pa.Table.from_arrays([column for _, column in columns], names=[name for name, _ in columns]), out)
    return out.getvalue()


def checked(read):
    """What is read, or None with one line of error."""
    try:
        return read()
    except GraceError as error:
        told = str(error)
    assert "\n" not in told
    assert 10 < len(told) < 1500, told
    event("refused")
    return None


def judge(source: Path) -> None:
    """The readers agree on a source, and a collection keeps what they read."""
    corpus, seen = checked(lambda: read_corpus(source)), checked(lambda: preview(source))
    streamed = checked(lambda: stream_corpus(source))
    assert (corpus is None) == (streamed is None)
    if corpus is None:
        return
    assert seen is not None
    assert list(streamed.documents) == corpus.documents
    assert (streamed.fields, streamed.judgements) == (corpus.fields, corpus.judgements)
    ids = [document.id for document in corpus.documents]
    assert len(set(ids)) == len(ids)
    assert all(ids)
    json.dumps([document.plain_metadata for document in corpus.documents], allow_nan=False).encode()
    "".join([*(document.title + document.text for document in corpus.documents), *corpus.notes]).encode()
    event("read")
    keep(corpus, streamed, source.parent / "collection")


def keep(corpus: Corpus, again: Corpus, out: Path) -> None:
    made = checked(lambda: Collection.create(corpus, out))
    if made is None:
        assert not out.exists() or not list(out.glob("[!.]*"))
        return
    there = made.corpus.documents
    assert [(d.id, d.title, d.text) for d in there] == [(d.id, d.title, d.text) for d in corpus.documents]
    assert not list(out.glob(".*.tmp"))
    assert Collection.create(again, out).hash == made.hash
    event("kept")


def placed(name: str, content: bytes) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="grace-property-"))
    (folder / "in").mkdir()
    (folder / "in" / name).write_bytes(content)
    return folder


@few
@given(content=files(), suffix=st.sampled_from([*SUFFIXES, ".jsonl.gz", ".csv.gz", ".text", ".dat", ".pdf", ""]))
def test_any_file(content, suffix):
    folder = placed(f"corpus{suffix}", content)
    try:
        judge(folder / "in" / f"corpus{suffix}")
    finally:
        shutil.rmtree(folder)


@few
@given(content=parquet())
def test_any_parquet_file(content):
    folder = placed("corpus.parquet", content)
    try:
        judge(folder / "in" / "corpus.parquet")
    finally:
        shutil.rmtree(folder)


QRELS = st.one_of(
    files(),
    st.lists(
        st.tuples(
            st.sampled_from(["q1", "q2", "q 3", '"q1"', "query-id", ""]),
            st.sampled_from(["0", "Q0", None]),
            st.sampled_from(["d1", "d2", "gone", '"d1"', "corpus-id"]),
            st.sampled_from(["1", "0.5", "-1", "nan", "score", "", "1e9"]),
        ),
        max_size=6,
    ).flatmap(
        lambda rows: st.sampled_from(["\t", " ", ",", ";", "|", "\t\t"]).map(
            lambda sign: "\n".join(sign.join(cell for cell in row if cell is not None) for row in rows).encode()
        )
    ),
)
QUERIES = st.one_of(files(), st.just(b'{"_id": "q1", "text": "one"}\n{"_id": "q2", "text": "two"}\n'))


@few
@given(
    corpus=st.one_of(files(), st.just(b'{"_id": "d1", "text": "x"}\n{"_id": "d2", "text": ""}\n')),
    queries=QUERIES,
    qrels=st.dictionaries(
        st.sampled_from(["qrels.tsv", "qrels/test.tsv", "qrels/dev.tsv", "qrels/x.json", "qrels", "test.qrels"]),
        QRELS,
        max_size=3,
    ),
    others=st.dictionaries(st.sampled_from(["a.txt", "README.md", "b.md", "x.csv", "more/c.txt"]), files(), max_size=2),
    limit=st.sampled_from([None, 1, 2]),
)
def test_any_folder(corpus, queries, qrels, others, limit):
    folder = placed("queries.jsonl", queries)
    try:
        for name, content in (({"corpus.jsonl": corpus} if corpus else {}) | qrels | others).items():
            path = folder / "in" / name
            if not path.parent.is_file() and not path.is_dir():
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
        judge(folder / "in")
        checked(lambda: read_corpus(folder / "in", limit=limit))
    finally:
        shutil.rmtree(folder)
