"""PDF files as documents: pages, titles, what has no text, and files that are broken, locked or made to do harm."""

from __future__ import annotations

import gzip
import io
import time
import zlib

import pytest
from pdf_files import assembled, pdf
from reader_files import fails, texts, write

from grace_core.errors import GraceError
from grace_core.readers import preview, read_corpus, stream_corpus
from grace_core.readers.extraction import Extractor

PAGE = "Rivers flow to the sea.\nThey carry silt (and stones)."


@pytest.mark.parametrize("packed", [False, True])
def test_a_file_is_a_document_whose_pages_end_in_form_feeds(tmp_path, packed):
    path = write(tmp_path / "Book.pdf", pdf([PAGE, "Second page.", "Third."], title="On rivers", packed=packed))
    assert texts(path) == [("Book.pdf", "On rivers", f"{PAGE}\fSecond page.\fThird.")]
    assert [document.text for document in stream_corpus(path).documents] == [f"{PAGE}\fSecond page.\fThird."]
    assert preview(path).mapping == {"id": "id", "title": "title", "text": "text"}
    assert read_corpus(path).notes == []


def test_without_a_title_it_has_the_name_of_its_file(tmp_path):
    assert texts(write(tmp_path / "Deep rivers.pdf", pdf(["x"])))[0][1] == "Deep rivers"


def test_one_packed_with_gzip(tmp_path):
    assert texts(write(tmp_path / "a.pdf.gz", gzip.compress(pdf([PAGE])))) == [("a.pdf.gz", "a", PAGE)]


def test_two_hundred_pages_are_read_once(tmp_path):
    path = write(tmp_path / "a.pdf", pdf([f"Page {number} tells of river {number}." for number in range(1, 201)]))
    first = texts(path)[0][2].split("\f")
    assert (len(first), first[0], first[199]) == (200, "Page 1 tells of river 1.", "Page 200 tells of river 200.")
    started = time.perf_counter()
    assert texts(path)[0][2].split("\f") == first
    assert time.perf_counter() - started < 0.1  # a corpus is gone through several times
    write(path, pdf(["Changed."]))
    assert texts(path)[0][2] == "Changed."


def test_pages_without_a_text_are_told(tmp_path):
    path = write(tmp_path / "a.pdf", pdf(["One.", None, "Three.", None]))
    corpus = read_corpus(path)
    assert corpus.documents[0].text == "One.\f\fThree.\f"
    (note,) = corpus.notes
    assert note.startswith("PDF pages without a text, as scanned ones are")
    assert note.endswith(f"2 pages, the first in {path}, page 2")
    assert "ocrmypdf" in note


def test_a_page_that_cannot_be_read_is_told_and_the_others_are_kept(tmp_path):
    many = b" " * 17_000_000  # more than the content of a page may unpack to
    path = write(tmp_path / "a.pdf", pdf(["x", "y"], contents=[many, b"BT /F1 11 Tf (Fine.) Tj ET"], packed=True))
    corpus = read_corpus(path)
    assert corpus.documents[0].text == "\fFine."
    assert (
        f"PDF pages that cannot be read are left out: 1 page, in {path}, page 1 (LimitReachedError" in corpus.notes[0]
    )


def locked(user: str) -> bytes:
    import pypdf

    writer = pypdf.PdfWriter(io.BytesIO(pdf([PAGE])))
    writer.encrypt(user, "owner", algorithm="RC4-128")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_one_that_anybody_may_open_is_read_and_one_with_a_password_refused(tmp_path):
    assert texts(write(tmp_path / "a.pdf", locked("")))[0][2] == PAGE
    fails(write(tmp_path / "b.pdf", locked("secret")), "b.pdf is encrypted with a password", "qpdf --decrypt")


BROKEN = {
    "nothing but a head": (b"%PDF-1.4\n%fake\n", "is a damaged PDF file"),
    "cut off": (pdf([PAGE] * 3)[:400], "cannot be read|is a damaged|has no page"),
    "no page": (pdf([]), "has no page"),
    "text": (b"Just some text.\n", "is a damaged PDF file"),
    "empty": (b"", "cannot be read|is a damaged"),
    "an image": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "is a PNG image, expected PDF"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files(tmp_path, kind):
    content, expected = BROKEN[kind]
    message = fails(write(tmp_path / "b.pdf", content), "b.pdf")
    assert any(part in message for part in expected.split("|")), message
    assert ": " in message.split("b.pdf", 1)[1]  # with a remedy


def test_a_folder_keeps_the_others_and_tells_of_each_that_is_left_out(tmp_path):
    write(tmp_path / "a.txt", "text")
    write(tmp_path / "b.pdf", b"%PDF-1.4\n%fake\n")
    write(tmp_path / "c.pdf", pdf(["Third."]))
    write(tmp_path / "d.pdf", locked("secret"))
    corpus = read_corpus(tmp_path)
    assert [document.id for document in corpus.documents] == ["a.txt", "c.pdf"]
    assert [note.split(" is ")[0] for note in corpus.notes] == [
        f"left out: {tmp_path / name}" for name in ("b.pdf", "d.pdf")
    ]
    for number in range(30):
        write(tmp_path / f"e{number}.pdf", b"%PDF-1.4\n")
    notes = read_corpus(tmp_path).notes
    assert len([note for note in notes if note.startswith("left out")]) == 20
    assert notes[-1].startswith("other HTML and PDF files that cannot be read are left out: 12 files")


def test_a_folder_of_broken_files_only_is_refused(tmp_path):
    write(tmp_path / "a.pdf", b"%PDF-1.4\n")
    write(tmp_path / "b.pdf", b"%PDF-1.4\n")
    fails(tmp_path, "b.pdf is a damaged PDF file")


def test_an_address_is_refused():
    fails("https://example.org/a.pdf", "is an address", "fetch it first")


# Files that are made to do harm


def form(name: bytes) -> bytes:
    """A form that draws itself."""
    head = (
        b"<< /Type /XObject /Subtype /Form /BBox [0 0 1 1] /Resources << /XObject << /%s 5 0 R >> >> /Length 6 >>"
        % name
    )
    return head + b"\nstream\n/%s Do\nendstream" % name


def page(content: bytes, resources: bytes = b"<< >>", more: tuple[bytes, ...] = ()) -> bytes:
    stream = b"<< /Length %d >>\nstream\n%s\nendstream" % (len(content), content)
    return assembled(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 1 1] /Resources " + resources + b" /Contents 4 0 R >>",
            stream,
            *more,
        ]
    )


def bomb() -> bytes:
    """A content that unpacks to 1 GiB."""
    packer, parts = zlib.compressobj(9), []
    for _ in range(1024):
        parts.append(packer.compress(bytes(1024 * 1024)))
    data = b"".join([*parts, packer.flush()])
    stream = b"<< /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream" % (len(data), data)
    return pdf([""], contents=[b""]).replace(b"<< /Length 0 >>\nstream\n\nendstream", stream)


HOSTILE = {
    "a form that draws itself": page(b"/X Do", b"<< /XObject << /X 5 0 R >> >>", (form(b"X"),)),
    "pages among their own pages": assembled(
        [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Count 9 /Kids [2 0 R 2 0 R] >>"]
    ),
    "a catalog that is its pages": assembled([b"<< /Type /Catalog /Pages 1 0 R /Kids [1 0 R] /Count 1 >>"]),
    "a million brackets": page(b"[" * 1_000_000),
    "nested objects": assembled([b"<< /Type /Catalog /Pages " + b"[" * 100_000 + b" >>"]),
    "a length that refers to itself": assembled(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Count 1 /Kids [3 0 R] >>",
            b"<< /Type /Page /Parent 2 0 R /Contents 4 0 R >>",
            b"<< /Length 4 0 R >>\nstream\nx\nendstream",
        ]
    ),
    "a billion pages": assembled(
        [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Count 1000000000 /Kids [] >>"]
    ),
    "a bomb": bomb(),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_end_in_an_error_or_in_a_note(tmp_path, kind):
    path = write(tmp_path / "h.pdf", HOSTILE[kind])
    started = time.perf_counter()
    refused, corpus = "", None
    try:
        corpus = read_corpus(path)
    except GraceError as error:
        refused = str(error)
    if corpus is None:
        assert "h.pdf" in refused
        assert "\n" not in refused
    else:
        assert corpus.documents[0].text.strip() == ""
        assert corpus.notes
    assert time.perf_counter() - started < 60
    assert texts(write(tmp_path / "fine.pdf", pdf(["Fine."])))[0][2] == "Fine."


def test_a_file_that_takes_too_long_is_given_up_and_the_next_is_read(tmp_path):
    slow = write(tmp_path / "slow.html", b"<a " * 200_000)  # minutes for the parser of the standard library
    fine = write(tmp_path / "fine.pdf", pdf(["Fine."]))
    with Extractor(answer_seconds=2) as extractor:
        with pytest.raises(GraceError, match=r"slow.html takes more than 2 seconds to read: save it"):
            extractor.extract(slow, "html")
        assert extractor.extract(fine, "pdf").text == "Fine."


def test_a_process_that_is_gone_is_started_again(tmp_path):
    first, second = (write(tmp_path / name, pdf([name])) for name in ("a.pdf", "b.pdf"))
    with Extractor() as extractor:
        assert extractor.extract(first, "pdf").text == "a.pdf"
        extractor._process.kill()
        extractor._process.wait()
        assert extractor.extract(second, "pdf").text == "b.pdf"


def test_text_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("grace_core.readers.extraction.MAX_LINE_BYTES", 1000)
    fails(
        write(tmp_path / "a.pdf", pdf(["word " * 100] * 5)), "a.pdf has more than 1,000 characters of text", "split it"
    )
