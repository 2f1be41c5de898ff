"""Files dropped into the Corpus tab: one, or several, and a look at their passages."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "grace_core"))

from pdf_files import pdf
from reader_files import write

from grace_app.corpus.render import render_split
from grace_app.corpus.uploads import PREVIEWED, SHOWN, preview_upload, read_chunk, read_upload, shortened, split_upload
from grace_core.errors import GraceError
from grace_core.passages import Chunk


@pytest.fixture
def files(tmp_path):
    """Each in a folder of its own, as Gradio puts uploads."""
    write(tmp_path / "1" / "a.md", "# Rivers\n\nOne two three. Four five six.\n\n## Deltas\n\nSeven eight.")
    write(tmp_path / "2" / "b.pdf", pdf(["First page.", None, "Third page."]))
    write(tmp_path / "3" / "c.html", "<title>C</title><p>Words.")
    write(tmp_path / "4" / "t.csv", "id,text\n1,x\n")
    return {path.name: str(path) for path in sorted(tmp_path.glob("*/*"))}


def test_several_files_are_a_document_each(files):
    chosen = [files["c.html"], files["a.md"], files["b.pdf"]]
    corpus = read_upload(chosen, None)
    assert [(document.id, document.title) for document in corpus.documents] == [
        ("a.md", "Rivers"),
        ("b.pdf", "b"),
        ("c.html", "C"),
    ]
    assert len(corpus.notes) == 1
    assert corpus.notes[0].endswith("1 page, in b.pdf, page 2")
    assert preview_upload(chosen).mapping == {"id": "id", "title": "title", "text": "text"}
    assert len(read_upload(chosen, None, "2").documents) == 2


def test_one_file_in_a_list_is_read_as_ever(files):
    assert [document.id for document in read_upload([files["t.csv"]], None).documents] == ["1"]


def test_what_cannot_be_read_together_is_refused_by_its_name(files, tmp_path):
    with pytest.raises(
        GraceError, match=r"^t.csv is no text, Markdown, HTML or PDF file, of which several are read at once: choose it"
    ):
        read_upload([files["a.md"], files["t.csv"]], None)
    with pytest.raises(GraceError, match=r"^two files are called a.md: rename one"):
        read_upload([files["a.md"], str(write(tmp_path / "5" / "a.md", "x"))], None)
    with pytest.raises(GraceError, match=r"^z.txt, line 1"):
        read_upload([files["a.md"], str(write(tmp_path / "6" / "z.txt", b"\xff"))], None)
    with pytest.raises(GraceError, match="no file is chosen yet"):
        read_upload([], None)


def test_an_error_names_an_upload_without_its_place(files):
    assert (
        shortened(f"{files['a.md']} is bad, and {files['b.pdf']}", [files["a.md"], files["b.pdf"]])
        == "a.md is bad, and b.pdf"
    )


TYPED = {"": None, " 1,000 ": Chunk(1000), "5": Chunk(5)}


@pytest.mark.parametrize("words", TYPED)
def test_words_as_they_are_typed(words):
    assert read_chunk(words, "") == TYPED[words]
    assert read_chunk("9", "2") == Chunk(9, 2)


WRONG = {
    "letters": (("many", ""), "the number of words of a passage is 'many', expected a whole number, or nothing"),
    "negative": (("5", "-1"), "the number of shared words is '-1'"),
    "none": (("0", ""), "the number of words of a passage is 0, expected 1 to"),
    "shared alone": (("", "5"), "passages are to share 5 words, and there are none"),
    "all shared": (("5", "5"), "the number of shared words is 5, expected fewer words than the 5 of a passage"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_numbers_that_make_no_sense(kind):
    typed, part = WRONG[kind]
    with pytest.raises(GraceError) as caught:
        read_chunk(*typed)
    assert part in str(caught.value)
    assert "--" not in str(caught.value)


def test_a_look_at_the_passages(files, tmp_path):
    split = split_upload([files["a.md"], files["b.pdf"]], None, Chunk(5, 2))
    assert (split.count, split.documents, split.whole) == (5, 2, True)
    html = str(render_split(split))
    assert "The 2 documents make 5 passages of at most 5 words, up to 2 of them shared" in html
    assert all(part in html for part in ("page 3", "Deltas", "a.md#1"))
    many = str(write(tmp_path / "m.txt", "\n".join(f"One {number}. Two." for number in range(50))))
    split = split_upload(many, None, Chunk(2))
    assert (len(split.passages), split.documents, split.whole) == (SHOWN, PREVIEWED, False)
    assert f"The first {PREVIEWED} documents make {split.count}" in str(render_split(split))


def test_passages_are_escaped(tmp_path):
    path = str(write(tmp_path / "<b>.md", "# <script>alert(1)</script>\n\nText <img src=x onerror=alert(1)>. More."))
    html = str(render_split(split_upload(path, None, Chunk(3, 1))))
    assert "<script" not in html
    assert "<img" not in html
