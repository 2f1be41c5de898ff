"""What a file is by its first bytes, gzip, folders of files, and nested values: read, or said what it is and
what to do.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import tracemalloc
import zipfile
from datetime import date

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reader_files import fails, jsonl, texts, write

from grace_core.readers import Document, preview, read_corpus, stream_corpus

SUFFIXES = ("txt", "jsonl", "json", "csv", "tsv", "md")


def zipped(*names: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return out.getvalue()


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": ["x"]}), out)
    return out.getvalue()


KINDS = {
    "pdf": (b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n1 0 obj\n", "a PDF file", "give it the ending .pdf"),
    "xlsx": (zipped("[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook", "save the sheet as 'CSV UTF-8'"),
    "docx": (zipped("[Content_Types].xml", "word/document.xml"), "a Word document", "save it as plain text (UTF-8)"),
    "odt": (zipped("mimetype", "content.xml"), "an OpenDocument file", "plain text"),
    "zip": (zipped("a.txt"), "a zip archive", "unpack it first"),
    "broken zip": (b"PK\x03\x04\xff\xff", "a zip archive", "unpack it first"),
    "xls": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(50), "an old Office document", "CSV UTF-8"),
    "rtf": (b"{\\rtf1\\ansi hello}", "an RTF document", "plain text"),
    "tar": (tarred(), "a tar archive", "unpack it first"),
    "tar.gz": (gzip.compress(tarred()), "a tar archive", "unpack it first"),
    "gz.gz": (gzip.compress(gzip.compress(b"x")), "gzip within gzip", "unpack it first"),
    "pdf.gz": (gzip.compress(b"%PDF-1.7\n"), "a PDF file", "give it the ending .pdf"),
    "xz": (b"\xfd7zXZ\0\0", "an xz file", "unpack it first"),
    "zst": (b"\x28\xb5\x2f\xfd\x04", "a zstd file", "unpack it first"),
    "bz2": (b"BZh91AY&SY\x00", "a bzip2 file", "unpack it first"),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image", "extract its text first"),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image", "extract its text first"),
    "gif": (b"GIF89a\x01\0", "a GIF image", "extract its text first"),
    "webp": (b"RIFF\x10\0\0\0WEBPVP8 ", "an image or a recording", "extract its text first"),
    "parquet": (parquet(), "a Parquet file", "give it the ending .parquet"),
    "sqlite": (b"SQLite format 3\0\x10\0", "an SQLite database", "export its rows"),
    "pickle": (pickle.dumps({"text": "x"}), "a pickle", "write it as Parquet"),
    "old pickle": (pickle.dumps(["x"], protocol=0), "a pickle", "write it as Parquet"),
    "elf": (b"\x7fELF\x02\x01", "a program", "name a file that holds text"),
    "exe": (b"MZ\x90\0\x03\0\0\0", "a program", "name a file that holds text"),
    "npy": (b"\x93NUMPY\x01\0", "a NumPy array", "export its rows"),
    "html": (b"\n<!DOCTYPE html>\n<html><p>x</html>", "an HTML page", "give it the ending .html"),
    "xml": (b"\xef\xbb\xbf<?xml version='1.0'?><a/>", "an XML file", "extract its text first"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_no_text_is_called_by_its_name(tmp_path, kind, suffix):
    content, what, remedy = KINDS[kind]
    assert "rename" not in fails(
        write(tmp_path / f"c.{suffix}", content), f"c.{suffix} is {what}, expected plain text: ", remedy
    )


def test_endings_that_are_not_read(tmp_path):
    for kind in ("xlsx", "docx", "zip", "pickle"):
        assert "rename" not in fails(
            write(tmp_path / f"c.{kind}", KINDS[kind][0]), f"c.{kind} is {KINDS[kind][1]}", KINDS[kind][2]
        )
    fails(write(tmp_path / "c.docx", "x"), "of type '.docx'", ".jsonl", "save it as plain text (UTF-8)")
    fails(write(tmp_path / "c.log", "x"), "of type '.log'", "a text file with a document on every line is called .txt")
    fails(write(tmp_path / "c.gz", gzip.compress(b"x")), "or one of these with .gz", "is called .txt")
    fails(write(tmp_path / "c.parquet.gz", gzip.compress(parquet())), "a Parquet file")


@pytest.mark.parametrize(
    "text",
    [
        "BM25 ranks.",
        "MZ is no word.",
        "ORCHIDS grow.",
        "PK fire.",
        "ID3 is a tag.",
        "BZh",
        "PAR1 is short.",
        "lp0 x",
        "%PDF",
    ],
)
def test_text_that_begins_like_another_kind_is_text(tmp_path, text):
    assert texts(write(tmp_path / "c.txt", text + "\nanother\n")) == [("1", "", text), ("2", "", "another")]


# gzip

CONTENTS = {
    "jsonl": '{"text": "x"}\n{"text": "y"}\n',
    "ndjson": '{"text": "x"}\n{"text": "y"}\n',
    "json": '[{"text": "x"}, {"text": "y"}]',
    "csv": "text\nx\ny\n",
    "tsv": "text\nx\ny\n",
    "txt": "x\ny\n",
}


@pytest.mark.parametrize("suffix", CONTENTS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("name", ["c.{}.gz", "c.{}.GZ", "c.{}"])
def test_packed_text(tmp_path, suffix, encoding, name):
    path = write(tmp_path / name.format(suffix), gzip.compress(CONTENTS[suffix].encode(encoding)))
    assert [text for _, _, text in texts(path)] == ["x", "y"]
    assert [document.text for document in stream_corpus(path).documents] == ["x", "y"]
    assert preview(path, 1).rows == [{"text": "x"}]


def test_packed_in_several_pieces(tmp_path):
    assert len(texts(write(tmp_path / "c.txt.gz", gzip.compress(b"x\n") + gzip.compress(b"y\n")))) == 2


@pytest.mark.parametrize("suffix", CONTENTS)
def test_damaged_gzip(tmp_path, suffix):
    whole = gzip.compress(
        json.dumps([{"text": str(i)} for i in range(50_000)]).encode()
        if suffix == "json"
        else CONTENTS[suffix].encode() * 9000
    )
    fails(write(tmp_path / f"c.{suffix}.gz", whole[: len(whole) // 2]), "is damaged", "fetch or pack it again")
    fails(write(tmp_path / f"d.{suffix}.gz", whole[:-8] + bytes(8)), "is damaged")


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "txt", "md"])
@pytest.mark.parametrize("filler", [b" ", b"\n", b'"\n",', b"x"])
def test_what_unpacks_to_far_more_is_bounded(tmp_path, monkeypatch, suffix, filler):
    monkeypatch.setattr("grace_core.readers.files.MAX_UNPACKED", 512 * 1024)
    path = write(
        tmp_path / f"c.{suffix}.gz",
        gzip.compress(b"text\n" * (suffix == "csv") + filler * (1024 * 1024 // len(filler))),
    )
    tracemalloc.start()
    fails(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 * 1024 * 1024


# Folders


def test_front_matter_becomes_metadata(tmp_path):
    write(
        tmp_path / "a.md",
        "---\ntitle: Of rivers\nid: r-1\nyear: 2001\nday: 2024-02-29\ntags: [water, 12:30]\nby: {name: Ann}\nnone: ~\n---\n"
        "# Rivers\n\nA text.",
    )
    write(tmp_path / "b.md", "---\nyear: 1999\ndraft: no\n...\n# Hills\nB text.")
    write(tmp_path / "c.md", "---\n---\nNothing in front.")
    corpus = read_corpus(tmp_path)
    first, second, third = corpus.documents
    assert (first.id, first.title, first.text) == ("a.md", "Of rivers", "# Rivers\n\nA text.")
    assert first.metadata == {
        "source_id": "r-1",
        "year": 2001,
        "day": date(2024, 2, 29),
        "tags": ["water", "12:30"],
        "by": '{"name": "Ann"}',
        "none": None,
    }
    assert (second.title, second.text, second.metadata) == ("Hills", "B text.", {"year": 1999, "draft": "no"})
    assert (third.title, third.text, third.metadata) == ("c", "Nothing in front.", {})
    assert list(stream_corpus(tmp_path).documents) == corpus.documents
    assert read_corpus(tmp_path / "b.md").documents[0].metadata == {"year": 1999, "draft": "no"}


@pytest.mark.parametrize(
    ("front", "told"),
    [
        ("a: [1\n", "malformed YAML"),
        ("? [1, 2]\n: x\n", "malformed YAML"),
        ("a: &a [x, x]\nb: [*a, *a]\n", "YAML with aliases"),
        ("[" * 5000 + "\n", "malformed YAML"),
        ("a: " + "x" * 70_000 + "\n", "longer than 65,536 characters"),
        ("A line between two rules.\n", ""),
        ("- a\n- list\n", ""),
    ],
)
def test_front_matter_that_cannot_be_read_stays(tmp_path, front, told):
    text = f"---\n{front}---\n\nThe text."
    write(tmp_path / "a.md", text)
    corpus = read_corpus(tmp_path / "a.md")
    assert corpus.documents == [Document("a.md", "a", text, {})]
    assert [note for note in corpus.notes if "front matter" in note] == (
        [f"front matter that cannot be read ({told}) stays in the text: 1 file, in {tmp_path / 'a.md'}"] if told else []
    )


def test_a_folder_of_texts(tmp_path):
    write(tmp_path / "b.md", "\n# Heading *one* #\n\nBody of b.\n\n## Another\n")
    write(tmp_path / "a.txt", "First line\r\nsecond line\r\n")
    write(tmp_path / "deep" / "er" / "c.markdown", "no heading here\n\n```\n# a comment\n```\nHeading two\n===\nmore")
    write(tmp_path / "deep" / "d.MD", "---\ntitle: x\n---\nText, and no heading.")
    write(tmp_path / "deep" / "e.txt.gz", gzip.compress("packed".encode("utf-16")))
    write(tmp_path / "empty.txt", "")
    write(tmp_path / ".hidden.txt", "x")
    write(tmp_path / ".git" / "x.md", "x")
    write(tmp_path / "c.pdf", "%PDF-1.4")
    write(tmp_path / "d.pdf", "%PDF-1.4")
    write(tmp_path / "Makefile", "all:")
    corpus = read_corpus(tmp_path)
    assert corpus.documents == [
        Document("a.txt", "a", "First line\nsecond line\n", {}),
        Document("b.md", "Heading *one*", "\n\nBody of b.\n\n## Another\n", {}),
        Document("deep/d.MD", "x", "Text, and no heading.", {}),
        Document("deep/e.txt.gz", "e", "packed", {}),
        Document(
            "deep/er/c.markdown", "Heading two", "no heading here\n\n```\n# a comment\n```\nHeading two\n===\nmore", {}
        ),
        Document("empty.txt", "empty", "", {}),
    ]
    assert corpus.notes[0] == f"{tmp_path}: not read, since neither text, Markdown, HTML nor PDF: 1 no ending"
    left = [note.split(" is a damaged")[0] for note in corpus.notes if "left out" in note]
    assert left == [f"left out: {tmp_path / name}" for name in ("c.pdf", "d.pdf")]
    assert list(stream_corpus(tmp_path).documents) == corpus.documents
    assert preview(tmp_path).mapping == {"id": "id", "title": "title", "text": "text"}
    assert len(read_corpus(tmp_path, limit=2).documents) == 2


def test_links_of_a_folder_are_read_once_or_told(tmp_path):
    write(tmp_path / "a" / "same.md", "# One\n\nText.")
    write(tmp_path / "b" / "same.md", "# Two\n\nOther text.")
    (tmp_path / "again.md").symlink_to("a/same.md")
    (tmp_path / "a" / "loop").symlink_to("..")
    (tmp_path / "b" / "gone.md").symlink_to("nowhere.md")
    (tmp_path / "self.md").symlink_to("self.md")
    corpus = read_corpus(tmp_path)
    assert [document.id for document in corpus.documents] == ["a/same.md", "again.md", "b/same.md"]
    assert corpus.notes == [
        f"{tmp_path}: links to folders are not followed: a/loop",
        f"{tmp_path}: links that lead nowhere: self.md, b/gone.md",
    ]


def test_one_markdown_file_is_one_document(tmp_path):
    assert texts(write(tmp_path / "a.md", "# One\n\ntext\n\nmore\n")) == [("a.md", "One", "\ntext\n\nmore\n")]


def test_what_is_wrong_in_a_folder_names_the_file(tmp_path):
    write(tmp_path / "a.txt", "x")
    fails(write(tmp_path / "b.txt", b"a\n\xff").parent, "b.txt, line 2", "UTF-8")
    fails(write(tmp_path / "b.txt", KINDS["pdf"][0]).parent, "b.txt is a PDF file")
    (tmp_path / "b.txt").write_bytes(b"x" * 17_000_000)
    fails(tmp_path, "b.txt", "split")
    (tmp_path / "b.txt").unlink()
    write(tmp_path / "a\nb.txt", "x")
    fails(tmp_path, "control character")


def test_a_folder_with_neither_says_what_it_holds(tmp_path):
    fails(
        jsonl(tmp_path / "docs.jsonl", {"text": "x"}).parent,
        "it holds docs.jsonl",
        "name the file that holds the documents",
    )
    fails(write(tmp_path / "x" / "c.docx", "x").parent, "it holds c.docx")


def test_a_folder_of_parquet_parts(tmp_path):
    for number, year in enumerate(["2019", "2020", "__HIVE_DEFAULT_PARTITION__"]):
        (tmp_path / f"year={year}").mkdir()
        table = pa.table(
            {"id": [f"{number}a", f"{number}b"], "text": ["x", "y"], **({"more": [1, 2]} if number else {})}
        )
        pq.write_table(table, tmp_path / f"year={year}" / "part-0.parquet")
    write(tmp_path / "_SUCCESS", "")
    write(tmp_path / "_delta" / "x.parquet", "x")
    write(tmp_path / "README.md", "# About")
    corpus = read_corpus(tmp_path)
    assert [(d.id, d.metadata) for d in corpus.documents] == [
        ("0a", {"year": "2019"}),
        ("0b", {"year": "2019"}),
        ("1a", {"year": "2020", "more": 1}),
        ("1b", {"year": "2020", "more": 2}),
        ("2a", {"year": None, "more": 1}),
        ("2b", {"year": None, "more": 2}),
    ]
    assert corpus.notes[0].startswith(f"{tmp_path}: 3 Parquet files are read: year=2019/part-0.parquet, ")
    pq.write_table(pa.table({"id": ["0a"], "text": ["z"]}), tmp_path / "year=2020" / "part-1.parquet")
    fails(tmp_path, "row 5", "'0a'", "row 1")


# Nested values


def test_lists_keep_their_items_and_what_is_nested_deeper_is_kept_as_json(tmp_path):
    table = pa.table(
        {
            "text": ["x", "y"],
            "tags": [["a", "ä"], []],
            "meta": [{"a": 1, "b": [None]}, None],
            "many": [[{"k": "v"}], None],
            "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
            "vector": [[0.5] * 100, None],
            "fixed": pa.array([[0.5] * 65] * 2, pa.list_(pa.float32(), 65)),
            "few": [[0.5, 1.0], None],
            "blobs": [[b"x"], None],
            "bytes": [b"x", None],
            "dotted.name": ["u", "v"],
        }
    )
    pq.write_table(table, tmp_path / "c.parquet")
    corpus = read_corpus(tmp_path / "c.parquet")
    assert corpus.documents[0].metadata == {
        "tags": ["a", "ä"],
        "meta": '{"a": 1, "b": [null]}',
        "many": '[{"k": "v"}]',
        "map": '[["k", 1]]',
        "few": [0.5, 1.0],
        "dotted.name": "u",
    }
    notes = "\n".join(corpus.notes)
    for part in (
        "'vector' (list<element: double>) is left out: vectors of 100",
        "'fixed' (",
        "'bytes' (binary) is left out",
        "'blobs' is left out",
        "'meta' holds objects or nested lists, which are kept as JSON: 1 value",
        "'map' holds",
    ):
        assert part in notes
    assert "'tags'" not in notes
    assert set(corpus.documents[1].metadata.values()) == {None, "v"}
    seen = preview(tmp_path / "c.parquet")
    assert seen.rows[0]["tags"] == ["a", "ä"]
    assert len(seen.notes) == len(corpus.notes)


def test_nested_values_of_json(tmp_path):
    path = jsonl(
        tmp_path / "c.jsonl",
        {"text": "x", "metadata": {"url": "u"}, "vector": [0.1] * 70},
        {"text": "y", "metadata": {}, "empty": []},
    )
    corpus = read_corpus(path)
    assert [d.metadata for d in corpus.documents] == [{"metadata": '{"url": "u"}'}, {}]
    assert corpus.notes == [
        f"column 'metadata' holds objects or nested lists, which are kept as JSON: 1 value, in {path}, line 1",
        f"column 'vector' is left out: vectors are no metadata: 1 value, in {path}, line 1",
    ]


# What was done without a word


def test_repairs_are_told(tmp_path):
    path = write(
        tmp_path / "c.jsonl",
        '{"text": "a\\u0000b", "k": 1, "k": 2}\n{"text": "\\ud800", "r": Infinity, "title": "T"}\n',
    )
    corpus = read_corpus(path, columns={"title": ""})
    assert corpus.documents[0] == Document("1", "", "ab", {"k": 2})
    assert corpus.notes == [
        f"{path}: column 'title' is kept as metadata called 'source_title'",
        f"a key stands twice in an object, and its last value is kept: 1 row, in {path}, line 1",
        f"NUL characters are removed: 1 value, in {path}, line 1",
        f"halves of surrogate pairs are replaced by U+FFFD: 1 value, in {path}, line 2",
        f"column 'r': infinity is kept as no value: 1 value, in {path}, line 2",
    ]


def test_two_columns_that_would_have_one_name_are_refused(tmp_path):
    fails(
        jsonl(tmp_path / "c.jsonl", {"text": "x", "title": "t", "source_title": "u"}),
        "'source_title'",
        columns={"title": ""},
    )
    fails(jsonl(tmp_path / "c.jsonl", {"text": "x", "a": 1, "a\0": 2}), "two columns would be called 'a'")


def test_json_under_the_other_name(tmp_path):
    fails(write(tmp_path / "c.jsonl", '[{"text": "x"}]'), "a file with one array of objects is called .json")
    fails(
        write(tmp_path / "c.jsonl", '[\n{"text": "x"}\n]'), "line 1", "a file with one array of objects is called .json"
    )
    fails(
        write(tmp_path / "c.json", '{"data": [{"text": "x"}]}'), "put the documents into one array", "is called .jsonl"
    )


def test_notes_are_not_repeated_by_going_through_a_stream(tmp_path):
    corpus = stream_corpus(jsonl(tmp_path / "c.jsonl", *({"text": str(i), "tags": {"a": 1}} for i in range(300))))
    for _ in range(2):
        assert len(list(corpus.documents)) == 300
    assert len(corpus.notes) == 1
    assert "300 values" in corpus.notes[0]
