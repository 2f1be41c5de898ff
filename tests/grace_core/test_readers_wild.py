"""Files as people have them: other delimiters, line ends, layouts and names than the formats ask for."""

from __future__ import annotations

import gzip
import io
import json

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from reader_files import beir, fails, jsonl, texts, write

from grace_core.readers import read_corpus

ROW = '{"_id": "1", "text": "a"}\n'
TWO = [("1", "", "a"), ("2", "", "b")]
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("c.csv", "id,text\n1,a,\n2,b,,\n", TWO),  # ends of records that no column stands above
        ("c.csv", "id;text\n1;a;\n2;b;\n", TWO),
        ("c.csv", "id,text\n1,a\n2,b\n\x1a", TWO),  # DOS wrote an end of file
        ("c.csv", "\ufeff\ufeffid,text\n1,a\n2,b\n", TWO),
        ("c.csv", "sep=^\nid^text\n1^a\n2^b\n", TWO),
        ("c.csv", "id||text\n1||a\n2||b\n", TWO),
        ("c.txt", ROW + '{"_id": "2", "text": "b"}\n', TWO),
        ("c.txt", ROW * 3000, "line 2: the id '1' is already that of line 1"),
        ("c.txt", '{"a": 1}\n[2]\n', [("1", "", '{"a": 1}'), ("2", "", "[2]")]),
        ("c.txt", '{"a": 1}\n', [("1", "", '{"a": 1}')]),  # no text in it
        ("c.jsonl", '{"docno": 1, "contents": "a"}\n{"docno": 2.0, "contents": "b"}\n', TWO),
        ("c.jsonl", '{"_id": 1e300, "text": "a"}\n', [("1e+300", "", "a")]),
        ("corpus.json", f"[{ROW}]", [("1", "", "a")]),
    ],
)
def test_read(tmp_path, name, content, wanted):
    path = write(tmp_path / name, content)
    fails(path, wanted) if isinstance(wanted, str) else [texts(path)] == [wanted] or pytest.fail(str(texts(path)))


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        (
            "c.csv",
            "id^text\n1^a\n",
            ("it looks like columns with '^' between them: put a line sep=^ above it, or use one of , ; tab |",),
        ),
        ("c.csv", "id\x1ftext\n1\x1fa\n", ("with '\\x1f' between them: use one of",)),
        ("c.csv", "# of 2024\nid,text\n1,a\n", ("line 2: 2 fields, expected 1", "remove what stands above the header")),
        (
            "c.csv",
            "text\nrain, and snow\n",
            ("line 2: 2 fields, expected 1", "call the file .txt if every line is a document"),
        ),
        (
            "c.csv",
            "id,text\r\n1,a\n2,b\r3,c\n",
            ("line 3: a CR within a field without quotes", "one kind of line ends"),
        ),
        (
            "c.tsv",
            "d1\tThe river rises\nd2\tA violin\n",
            ("if the first line is a document, put a line with names of the columns above",),
        ),
        ("c.csv", ROW * 2, ("is JSON, expected a table: call it .jsonl if every line is an object",)),
        ("c.csv", '{"text": 1}\n{"text": 2}\n', ("it is JSON: call it .jsonl if every line",)),
        ("c.csv", "<table><tr><td>x</td></tr></table>", ("an HTML page",)),
        ("c.jsonl", '"a"\n"b"\n', ("line 1: a string, expected a JSON object", "a text on every line is called .txt")),
        ("c.jsonl", "null\n", ("line 1: null, expected a JSON object",)),
        ("c.jsonl", '{"text": "a", "n": ' + "9" * 5000 + "}\n", ("malformed JSON (a number of too many digits)",)),
        ("c.jsonl", '{"text": ' + "[" * 100_000, ("malformed JSON (nested too deeply)",)),
        ("c.jsonl", '{"id": "x"}\n' * 120 + ROW, ("columns found in its first rows are ['id']", "--text-column")),
        ("c.json", '["a"]', ("item 1: malformed JSON (got a string, expected an object or ']')",)),
        ("c.json", ROW * 2, ("got an object, expected an array", "a file with one object a line is called .jsonl")),
        ("c.txt", POINTER, ("a Git LFS pointer", "git lfs pull")),
        ("c.csv", POINTER, ("a Git LFS pointer",)),
        ("c.parquet", POINTER, ("a Git LFS pointer, expected Parquet",)),
        ("c.txt", b"\x10\0\0\0\x02text\0\x02\0\0\0a\0\0" * 9, ("a binary file (79 of its first 153 bytes are zero",)),
        ("c.txt", b"%!PS-Adobe-3.0\n", ("a PostScript file",)),
        ("c.txt", b"GGUF\x03\0\0\0", ("a GGUF model",)),
        ("c.parquet", "", ("unreadable Parquet: the file is empty",)),
        ("c.parquet", b"%PDF-1.4", ("a PDF file, expected Parquet",)),
        (
            "c.parquet",
            "id,text\n1,a\n",
            ("unreadable Parquet: it begins with b'id,text", "give it the ending of what it is"),
        ),
        ("c.parquet", gzip.compress(b"PAR1", mtime=0), ("it is packed with gzip: unpack it first",)),
    ],
)
def test_refused_with_what_it_is_and_what_to_do(tmp_path, name, content, parts):
    assert "rename it" not in fails(write(tmp_path / name, content), *parts)


def test_an_arrow_file_with_another_name(tmp_path):
    out = io.BytesIO()
    pa.feather.write_feather(pa.table({"text": ["a"]}), out)
    fails(write(tmp_path / "c.parquet", out.getvalue()), "an Arrow file, expected Parquet")


def test_columns_of_vectors_with_one_name(tmp_path):
    vectors = pa.array([[0.5] * 100], pa.list_(pa.float32()))
    pq.write_table(
        pa.Table.from_arrays([pa.array(["x"]), vectors, vectors], names=["text", "v", "v"]), tmp_path / "c.parquet"
    )
    fails(tmp_path / "c.parquet", "column 'v' occurs twice: rename one")


def test_one_zero_byte_in_a_text_is_no_binary_file(tmp_path):
    assert texts(write(tmp_path / "c.txt", b"a\0b\n\0\0c\n")) == [("1", "", "ab"), ("2", "", "c")]
    assert len(texts(write(tmp_path / "c.txt", b"many words and few zeros " * 100 + b"\0\0\0\0"))) == 1


def test_what_is_left_out_is_counted(tmp_path):
    path = write(tmp_path / "c.csv", "id,text\n1,a,\n2,b,,\n3,c\n")
    assert read_corpus(path).notes == [
        f"empty fields behind the last column are left out: 2 records, the first in {path}, line 2"
    ]
    path = write(tmp_path / "c.txt", ROW)
    assert read_corpus(path).notes[0].startswith(f"{path} is read as JSONL, since every line is an object with a text")


def test_addresses_are_not_fetched():
    for address in ("https://example.org/docs.csv", "s3://bucket/docs.jsonl", "file:///tmp/a.txt"):
        fails(address, "is an address, expected a file", "fetch it first")


# Folders


def test_what_is_about_a_folder_is_not_its_corpus(tmp_path):
    write(tmp_path / "README.md", "# About")
    write(tmp_path / "LICENSE.txt", "All of it")
    assert len(texts(tmp_path)) == 2
    jsonl(tmp_path / "train.jsonl", {"text": "x"})
    fails(tmp_path, "its text files are about the others", "train.jsonl", "name the file that holds the documents")
    jsonl(tmp_path / "test.jsonl", {"text": "x"})
    fails(tmp_path, "put several together into one")
    write(tmp_path / "readme-first.md", "x")
    write(tmp_path / "story.txt", "x")
    assert len(texts(tmp_path)) == 4


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("corpus.csv", "_id,text\nd1,x\n"),
        ("corpus.tsv", "_id\ttext\nd1\tx\n"),
        ("corpus.json", '[{"_id":"d1","text":"x"}]'),
    ],
)
def test_a_corpus_of_another_kind_in_its_folder(tmp_path, name, content):
    write(tmp_path / name, content)
    jsonl(tmp_path / "queries.jsonl", {"_id": "q", "text": "one"})
    write(tmp_path / "qrels.tsv", "q\td1\t1\n")
    assert read_corpus(tmp_path).judgements.qrels == {"q": {"d1": 1}}
    assert any("queries.jsonl is not read, since corpus." in note for note in read_corpus(tmp_path / name).notes)


# Judgements

LAYOUTS = {
    "quoted, commas": '"query-id","corpus-id","score"\n"q1","d1",1\n"q2","d""2",0.5\n',
    "quoted, tabs": '"query-id"\t"corpus-id"\t"score"\n"q1"\t"d1"\t"1"\n"q2"\t"d""2"\t"0.5"\n',
    "quoted, no header": '"q1","d1","1"\n"q2","d""2","0.5"\n',
    "semicolons": 'query-id;corpus-id;score\nq1;d1;1\nq2;d"2;0.5\n',
    "bars": 'q1|d1|1\nq2|d"2|0.5\n',
    "five columns": 'query-id\tsplit\tcorpus-id\tscore\tby\nq1\tx\td1\t1\ta\nq2\tx\td"2\t0.5\tb\n',
    "another order": 'relevance,docid,qid\n1,d1,q1\n0.5,d"2,q2\n',
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_judgements(tmp_path, layout):
    folder = beir(tmp_path / "b", {"qrels/test.tsv": LAYOUTS[layout]})
    assert read_corpus(folder).judgements.qrels == {"q1": {"d1": 1}, "q2": {'d"2': 0.5}}


def test_judgements_elsewhere_are_told(tmp_path):
    for name in ("test.tsv", "qrels.test.txt", "dev.qrels"):
        folder = beir(tmp_path / name, {name: "q1\td1\t1\n"})
        assert (
            f"{folder}: {name} not read: judgements are expected in qrels.tsv, or in the files of qrels/"
            in read_corpus(folder).notes
        )
    folder = beir(tmp_path / "run", {"qrels/test.tsv": "q1 Q0 d1 1 12.5 run\n"})
    fails(folder, "6 fields, as the run of a search has")


@pytest.mark.parametrize(
    "row",
    [{"qid": "q1", "query": "one"}, {"query_id": "q1", "Question": "one"}, {"_id": "q1", "text": "one", "query": "x"}],
)
def test_queries_that_are_called_so(tmp_path, row):
    folder = beir(tmp_path / "b", {"qrels/test.tsv": "q1\td1\t1\n"}, [row])
    assert read_corpus(folder).judgements.queries == {"q1": "one"}


def test_names_of_queries_are_no_names_of_documents(tmp_path):
    fails(jsonl(tmp_path / "c.jsonl", {"qid": "1", "query": "x"}), "no text column")


@pytest.mark.parametrize("rows", [[], [{}], [{"text": None}]])
def test_rows_without_anything(tmp_path, rows):
    path = write(tmp_path / "c.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    if rows and rows[0]:
        assert texts(path) == [("1", "", "")]
    else:
        fails(path, "is empty" if not rows else "no text column")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "c.parquet")
    fails(tmp_path / "c.parquet", "is empty")
