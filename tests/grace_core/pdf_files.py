"""PDF files for tests, written by hand: one line of text a line of a page, in a font that every reader has."""

from __future__ import annotations

import io
import zlib


def pdf(
    pages: list[str | None], *, title: str = "", packed: bool = False, contents: list[bytes] | None = None
) -> bytes:
    """A PDF file with a text a page; None is a page without one, as a scan is.

    ``contents`` are streams in the place of texts.
    """
    streams = contents or [b"0 0 100 100 re f" if text is None else _text_stream(text) for text in pages]
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Title (" + title.encode("latin-1") + b") >>",
    ]
    kids = []
    for stream in streams:
        data, how = (zlib.compress(stream), b"/Filter /FlateDecode ") if packed else (stream, b"")
        place = len(objects) + 1
        kids.append(b"%d 0 R" % place)
        objects.append(
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Resources << /Font << /F1 3 0 R >> >> /Contents %d 0 R >>"
            % (place + 1)
        )
        objects.append(b"<< %s/Length %d >>\nstream\n%s\nendstream" % (how, len(data), data))
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(streams), b" ".join(kids))
    return assembled(objects, trailer=b"/Info 4 0 R " if title else b"")


def _text_stream(text: str) -> bytes:
    lines = [line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)") for line in text.split("\n")]
    stream = b" T* ".join(b"(" + line.encode("latin-1") + b") Tj" for line in lines)
    return b"BT /F1 11 Tf 14 TL 50 780 Td " + stream + b" ET"


def assembled(objects: list[bytes], *, trailer: bytes = b"") -> bytes:
    """A file of these objects, the first of which is the catalog."""
    out, places = io.BytesIO(), []
    out.write(b"%PDF-1.4\n")
    for number, content in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, content))
    begin = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.writelines(b"%010d 00000 n \n" % place for place in places)
    out.write(b"trailer\n<< /Size %d /Root 1 0 R %s>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, begin))
    return out.getvalue()
