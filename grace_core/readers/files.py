"""Text files: what a file is by its first bytes, gzip, encodings, and lines of a bounded length."""

from __future__ import annotations

import gzip
import io
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from grace_core.errors import GraceError
from grace_core.readers.documents import MAX_LINE_BYTES, Notes

HEAD_BYTES = 64 * 1024  # of a file, from which encoding, line ends and delimiter are guessed
MANY_ZEROS = 4  # a head with this many zero bytes, and more than 1 % of them, is binary
MAX_UNPACKED, MAX_RATIO = 256 * 1024 * 1024, 400  # unpacked bytes from which this ratio to the packed ones is refused
_TEXT, _PLAIN, _CSV = "extract its text first", "save it as plain text (UTF-8)", "save the sheet as 'CSV UTF-8'"
_UNPACK, _EXPORT = "unpack it first", "export its rows as Parquet, CSV or JSONL"
# the first bytes of a file, its kind, what to do
_MAGIC: list[tuple[bytes, str, str]] = [
    (b"%PDF-", "a PDF file", "give it the ending .pdf"),
    (b"{\\rtf", "an RTF document", _PLAIN),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document", f"{_CSV} or as plain text (UTF-8)"),
    (b"\xfd7zXZ\0", "an xz file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!\x1a", "a RAR archive", _UNPACK),
    (b"\x04\x22\x4d\x18", "an lz4 file", _UNPACK),
    (b"ARROW1\0", "an Arrow file", "write it as Parquet"),
    (b"Obj\x01", "an Avro file", _EXPORT),
    (b"SQLite format 3\0", "an SQLite database", _EXPORT),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", _EXPORT),
    (b"\x93NUMPY", "a NumPy array", _EXPORT),
    (b"\x89PNG\r\n", "a PNG image", _TEXT),
    (b"\xff\xd8\xff", "a JPEG image", _TEXT),
    (b"GIF87a", "a GIF image", _TEXT),
    (b"GIF89a", "a GIF image", _TEXT),
    (b"II*\0", "a TIFF image", _TEXT),
    (b"MM\0*", "a TIFF image", _TEXT),
    (b"ID3\x02", "an MP3 recording", _TEXT),
    (b"ID3\x03", "an MP3 recording", _TEXT),
    (b"ID3\x04", "an MP3 recording", _TEXT),
    (b"OggS\0", "an Ogg recording", _TEXT),
    (b"%!PS", "a PostScript file", _TEXT),
    (b"AT&TFORM", "a DjVu file", _TEXT),
    (b"GGUF", "a GGUF model", "name a file that holds text"),
    (b"version https://git-lfs.github.com/spec/", "a Git LFS pointer", "fetch the file itself with `git lfs pull`"),
    (b"\x7fELF", "a program", "name a file that holds text"),
    (b"\xca\xfe\xba\xbe", "a program", "name a file that holds text"),
    (b"\xcf\xfa\xed\xfe", "a program", "name a file that holds text"),
]
_PATTERNS = [
    (re.compile(rb"PAR1[\0-\x1f]"), "a Parquet file", "give it the ending .parquet"),
    (re.compile(rb"BZh[1-9]1AY&SY"), "a bzip2 file", _UNPACK),
    (re.compile(rb"MZ.{0,58}\0", re.S), "a program", "name a file that holds text"),
    (re.compile(rb"BM.{4}\0\0\0\0", re.S), "a BMP image", _TEXT),
    (re.compile(rb"RIFF.{4}(WEBP|WAVE|AVI )", re.S), "an image or a recording", _TEXT),
    (re.compile(rb"\0\0\0.ftyp", re.S), "a film or an image", _TEXT),
    (
        re.compile(rb"\x80[\x01-\x05]|\(?[dl]p[0-9]+\n|\(i?ccopy_reg\n|ccopy_reg\n"),
        "a pickle",
        "it may run code when it is opened, so it is never read: write it as Parquet, CSV or JSONL",
    ),
    (
        re.compile(rb"(\xef\xbb\xbf)?\s*(<!doctype html|<html[\s>]|<table[\s>])", re.I),
        "an HTML page",
        "give it the ending .html",
    ),
    (re.compile(rb"(\xef\xbb\xbf)?<\?xml\s", re.I), "an XML file", _TEXT),
    (re.compile(rb".{257}ustar", re.S), "a tar archive", _UNPACK),
]
_BY_SUFFIX = {
    ".xml": _TEXT,
    ".epub": _TEXT,
    ".mhtml": "save it as an HTML page",
    ".mht": "save it as an HTML page",
    ".docx": _PLAIN,
    ".doc": _PLAIN,
    ".odt": _PLAIN,
    ".rtf": _PLAIN,
    ".xlsx": _CSV,
    ".xls": _CSV,
    ".ods": _CSV,
    ".zip": _UNPACK,
    ".tar": _UNPACK,
    ".tgz": _UNPACK,
    ".bz2": _UNPACK,
    ".xz": _UNPACK,
    ".zst": _UNPACK,
    ".7z": _UNPACK,
    ".rar": _UNPACK,
    ".db": _EXPORT,
    ".sqlite": _EXPORT,
    ".feather": _EXPORT,
    ".arrow": _EXPORT,
    ".pkl": _EXPORT,
    ".pickle": _EXPORT,
    ".npy": _EXPORT,
    ".h5": _EXPORT,
}


@dataclass(frozen=True)
class TextFile:
    """A file whose content is text, and how it is decoded.

    ``newline`` is "" where lines end in CR, else a line feed.
    """

    path: Path
    encoding: str
    newline: str
    head: str  # the first characters, which may end within a line
    whole: bool  # whether ``head`` is all there is


def open_text(path: Path, notes: Notes) -> TextFile:
    """How to decode a text file, by its first bytes. Raises GraceError for other files, with kind and remedy."""
    with open_bytes(path) as file:
        head = file.read(HEAD_BYTES)
    refuse_binary(path, head)
    encoding = _encoding(path, head)
    zeros = head.rstrip(b"\0").count(0)  # zeros at the end only reserve space
    if encoding == "utf-8-sig" and zeros >= MANY_ZEROS and zeros > len(head) // 100:
        what = f"{zeros:,} of its first {len(head):,} bytes are zero, as in no text"
        raise GraceError(f"{path} is a binary file ({what}), expected plain text: {_TEXT}")
    text = head.decode(encoding, errors="ignore")  # a character may be cut in two at the end
    whole = len(head) < HEAD_BYTES
    newline = "" if "\n" not in text and "\r" in (text if whole else text[:-1]) else "\n"
    if encoding != "utf-8-sig":
        notes.count(f"text is read as {encoding.upper()}", "file", str(path))
    return TextFile(path, encoding, newline, text, whole)


def refuse_binary(path: Path, head: bytes, expected: str = "plain text") -> None:
    """Raises GraceError if a file that begins with ``head`` is of a known kind that is not plain text."""
    kind = next(((what, remedy) for magic, what, remedy in _MAGIC if head.startswith(magic)), None)
    kind = kind or next(((what, remedy) for pattern, what, remedy in _PATTERNS if pattern.match(head)), None)
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"):
        kind = _zip_kind(path)
    if head[:2] == b"\x1f\x8b":
        kind = ("gzip within gzip", _UNPACK)
    if kind:
        raise GraceError(f"{path} is {kind[0]}, expected {expected}: {kind[1]}")


def unknown_type(path: Path, expected: tuple[str, ...]) -> GraceError:
    """The error for a file whose ending is of no format that is read."""
    with open_bytes(path) as file:
        head = file.read(HEAD_BYTES)
    refuse_binary(path, head)
    remedy = _BY_SUFFIX.get(suffix_of(path))
    if remedy is None:
        remedy = "a text file with a document on every line is called .txt, one with an object on every line .jsonl, a table .csv"
    expectation = f"expected one of {' '.join(expected)}, or one of these with .gz"
    return GraceError(f"{path} is of type {path.suffix.lower()!r}, {expectation}: {remedy}")


def _zip_kind(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        names = []
    for start, what, remedy in (
        ("xl/", "an Excel workbook", _CSV),
        ("word/", "a Word document", _PLAIN),
        ("ppt/", "a PowerPoint presentation", _PLAIN),
        ("content.xml", "an OpenDocument file", f"{_CSV} or as plain text (UTF-8)"),
        ("META-INF/container.xml", "an e-book", _TEXT),
    ):
        if any(name.startswith(start) for name in names):
            return what, remedy
    return "a zip archive", _BY_SUFFIX.get(suffix_of(path), f"{_UNPACK}; if it is a workbook, {_CSV}")


def _encoding(path: Path, head: bytes) -> str:
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "utf-32"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    start = head[:4096]
    even, odd = start[::2].count(0), start[1::2].count(0)
    if len(start) >= 4 and max(even, odd) > 0.3 * len(start) and min(even, odd) < 0.05 * len(start):
        raise GraceError(f"{path} looks like UTF-16 without a byte order mark, expected UTF-8: save the file as UTF-8")
    return "utf-8-sig"


def suffix_of(path: Path) -> str:
    """The ending of a file's name in lower case; of ``name.csv.gz`` it is ``.csv``."""
    return Path(path.stem if path.suffix.lower() == ".gz" else path.name).suffix.lower()


def open_bytes(path: Path) -> BinaryIO:
    """Opens a file for its bytes; one that begins as gzip does is unpacked."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise GraceError(f"{path} cannot be opened ({error.strerror}): check that it is there and readable") from None
    return io.BufferedReader(_Unpacked(path, file), HEAD_BYTES) if file.peek(2)[:2] == b"\x1f\x8b" else file


class _Unpacked(io.RawIOBase):
    """The unpacked bytes of a gzip file, as a stream.

    Raises GraceError for a damaged file, and for one that unpacks to far more than text does.
    """

    def __init__(self, path: Path, file: BinaryIO):
        self._path, self._file, self._gzip = path, file, gzip.GzipFile(fileobj=file)
        self._size, self._unpacked = os.fstat(file.fileno()).st_size, 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._unpacked

    def readinto(self, buffer) -> int:
        try:
            data = self._gzip.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise GraceError(
                f"{self._path} is damaged ({str(error)[:100]}), expected gzip: fetch or pack it again"
            ) from None
        self._unpacked += len(data)
        if self._unpacked > MAX_UNPACKED and self._unpacked > MAX_RATIO * self._size:
            what = f"unpacks to more than {MAX_RATIO} times its size, expected text"
            raise GraceError(f"{self._path} {what}: unpack it yourself if it is meant")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def lines(file: TextFile) -> Iterator[tuple[int, str]]:
    """Lines with their number (from 1) and their line end.

    Split at line feeds only, or at CR where the file has no line feeds: U+2028 and the like are part of a text.
    """
    if file.encoding == "utf-8-sig" and file.newline == "\n":
        yield from _utf8_lines(file.path)
        return
    number = 0
    with io.TextIOWrapper(open_bytes(file.path), file.encoding, newline=file.newline) as text:
        while True:
            try:
                line = text.readline(MAX_LINE_BYTES + 2)
            except UnicodeError:
                name = "UTF-8" if file.encoding == "utf-8-sig" else file.encoding.upper()
                raise GraceError(
                    f"{file.path}, line {number + 1} or later: not {name}: save the file as UTF-8"
                ) from None
            if not line:
                return
            number += 1
            if len(line.rstrip("\r\n")) > MAX_LINE_BYTES:
                raise _too_long(file.path, number)
            yield number, line


def _utf8_lines(path: Path) -> Iterator[tuple[int, str]]:
    offset = 0
    with open_bytes(path) as file:
        for number, raw in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 2), b""), 1):
            if len(raw.rstrip(b"\r\n")) > MAX_LINE_BYTES:
                raise _too_long(path, number)
            try:
                line = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                where = f"{path}, line {number}, byte {offset + error.start} of the file (from 0)"
                raise GraceError(f"{where}: not UTF-8: save the file as UTF-8 (in Excel as 'CSV UTF-8')") from None
            offset += len(raw)
            yield number, line.lstrip("\ufeff") if number == 1 else line


def _too_long(path: Path, number: int) -> GraceError:
    return GraceError(
        f"{path}, line {number}: longer than {MAX_LINE_BYTES:,} bytes: split the document or check line ends"
    )
