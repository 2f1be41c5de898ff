"""CSV and its relations: delimiters, encodings, line ends and headers, as spreadsheets and databases write them."""

from __future__ import annotations

import csv
import io
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reader_files import fails, texts, write

from grace_core.readers import preview, read_corpus

ROWS = [
    ["id", "title", "text"],
    ["1", "Zürich", "Die größte Stadt, am See"],
    ["2", "Wien", 'die "Stadt"; groß | alt'],
    ["3", "B\tern", "x"],
]
WANTED = [tuple(row) for row in ROWS[1:]]
DELIMITERS = [",", ";", "\t", "|"]


def table(rows: list[list[str]], delimiter: str, quoting: int = csv.QUOTE_MINIMAL, end: str = "\r\n") -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("delimiter", DELIMITERS)
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_the_delimiter_is_found_and_told(tmp_path, delimiter, suffix, quoting):
    path = write(tmp_path / f"c.{suffix}", table(ROWS, delimiter, quoting))
    assert texts(path) == WANTED
    usual = delimiter == ("," if suffix == "csv" else "\t")
    assert [note.removeprefix(f"{path}: fields are separated by a ") != note for note in read_corpus(path).notes] == [
        True
    ] * (not usual)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", DELIMITERS)
def test_encodings_and_line_ends(tmp_path, encoding, end, delimiter):
    mark = "\ufeff" if encoding.endswith("e") else ""
    path = write(tmp_path / "c.csv", (mark + table(ROWS, delimiter, end=end)).encode(encoding))
    assert texts(path) == WANTED
    assert preview(path).mapping == {"id": "id", "title": "title", "text": "text"}


def test_utf16_without_a_mark_is_named(tmp_path):
    for encoding in ("utf-16-le", "utf-16-be"):
        fails(
            write(tmp_path / "c.csv", table(ROWS, ",").encode(encoding)),
            "UTF-16 without a byte order mark",
            "save the file as UTF-8",
        )


def test_other_encodings_are_refused_with_a_remedy(tmp_path):
    fails(write(tmp_path / "c.csv", table(ROWS, ";").encode("cp1252")), "c.csv, line 2", "not UTF-8", "'CSV UTF-8'")
    fails(write(tmp_path / "c.csv", table(ROWS, ";").encode("utf-16")[:-1]), "or later: not UTF-16")


@pytest.mark.parametrize("line", ["sep=;\r\n", "\ufeffsep=;\r\n", '"sep=;"\r\n', "SEP=;\n"])
def test_a_line_that_names_the_delimiter(tmp_path, line):
    path = write(tmp_path / "c.csv", line + table(ROWS, ";"))
    assert texts(path) == WANTED
    fails(write(tmp_path / "c.csv", line + "id;text\r\n1;x;y\r\n"), "line 3", "3 fields, expected 2", "semicolon")
    path = write(tmp_path / "d.csv", (line + table(ROWS, ";")).replace("=;", "=~").replace(";", "~"))
    assert texts(path)[0] == WANTED[0]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("id;text\n1;a,b\n2;c\n", [("1", "", "a,b"), ("2", "", "c")]),
        (
            "text;label\nIt rains, often;a\nIt snows, rarely;b\n",
            [("1", "", "It rains, often"), ("2", "", "It snows, rarely")],
        ),
        ('text,label\n"a;b",c\n"d;e",f\n', [("1", "", "a;b"), ("2", "", "d;e")]),
        ("text,label\na;b,c\nd;e,f\n", [("1", "", "a;b"), ("2", "", "d;e")]),
        ("id|text\n1|a;b,c\n2|d;e,f\n", [("1", "", "a;b,c"), ("2", "", "d;e,f")]),
        ("text\na;b\nc;d\n", [("1", "", "a;b"), ("2", "", "c;d")]),
        ('id, text\n1, "a, b"\n2, c\n', [("1", "", "a, b"), ("2", "", "c")]),
        ("id;title, short;text\n1;a, b;x\n2;c, d;y\n", [("1", "", "x"), ("2", "", "y")]),
        ("id\ttext\n1\ta,b,c\n2\td;e\n", [("1", "", "a,b,c"), ("2", "", "d;e")]),
        ("id;text\n", None),
    ],
)
def test_delimiters_within_texts_do_not_win(tmp_path, content, wanted):
    path = write(tmp_path / "c.csv", content)
    if wanted is None:
        fails(path, "is empty", "below the header")
    else:
        assert texts(path) == wanted


def test_errors_name_the_delimiter_that_the_file_has(tmp_path):
    for delimiter, name in (("|", "vertical bar"), (";", "semicolon"), ("\t", "tab"), (",", "comma")):
        path = write(tmp_path / "c.csv", "id,text\n1,x\n2,y,z\n".replace(",", delimiter))
        assert (
            "comma" in fails(path, "line 3: 3 fields, expected 2 as in the header", f"hold a {name} in quotes")
        ) == (delimiter == ",")
        path = write(tmp_path / "c.csv", "id,text\n1,x\n2\n".replace(",", delimiter))
        assert "comma" not in fails(path, "line 3: 1 fields, expected 2 as in the header", "a line break in quotes")


def test_columns_of_the_found_delimiter_are_chosen_by_name(tmp_path):
    path = write(tmp_path / "c.csv", "id;heading;words\n1;a;b, c\n")
    assert texts(path, columns={"text": "words"}) == [("1", "", "b, c")]
    fails(path, "no column 'id;heading;words'", "'id', 'heading', 'words'", columns={"text": "id;heading;words"})
    fails(write(tmp_path / "c.csv", "id^text\n1^x\n"), "no text column", "'id^text'")


def test_a_text_file_that_is_a_table_is_read_as_one(tmp_path):
    path = write(tmp_path / "c.txt", table(ROWS, "\t").encode("utf-16"))
    assert texts(path) == WANTED
    assert any("is read as a table, since its first line names columns" in note for note in read_corpus(path).notes)
    for content in ("Title, text and other words\nanother line\n", "text\nx\n", "a\tb\nc\td\n", "id\ttext\n1\tx\ty\n"):
        path = write(tmp_path / "d.txt", content)
        assert [text for _, _, text in texts(path)] == content.splitlines()


@pytest.mark.parametrize(
    "content",
    [
        "1,Rain,It rains in spring and it snows in winter.\n2,Snow,It snows.\n",
        "It rains in spring.\nIt snows in winter.\n",
        "It rains in spring, and a lot of it;a\nIt snows in winter;b\n",
        "a;x\nb;x\nc;y\n",
        "2020-01-01;first;one\n2020-01-02;second;two\n",
        "1,document,The longest of all rivers is found in the south of the land\n2,document,x\n",
        "0.5|" + "word " * 30 + "\n0.7|x\n",
    ],
)
def test_a_file_without_a_header_is_noticed(tmp_path, content):
    path = write(tmp_path / "c.csv", content)
    assert "rename" not in fails(path, "line 1: no header, the first record reads like data", "put a line with")
    assert any("no header" in note for note in preview(path).notes)
    first = preview(path).columns[-1]
    corpus = read_corpus(path, columns={"text": first, "id": "", "title": ""})
    assert any(
        "the first line reads like data, and is taken for the names of the columns" in note for note in corpus.notes
    )


def test_a_first_record_with_equal_fields_is_noticed(tmp_path):
    fails(
        write(tmp_path / "c.csv", "x,x,some words\ny,z,others\n"), "line 1: no header, the first record reads like data"
    )
    fails(
        write(tmp_path / "c.csv", "id,text,text\n1,a,b\n"),
        "line 1: column 'text' occurs twice in the header: rename one",
    )


@pytest.mark.parametrize(
    "header", ["country,2019,2020,text", "key,story", "id,text,How would you describe it, in a few words of your own?"]
)
def test_a_header_is_no_data(tmp_path, header):
    width = header.count(",") + 1
    path = write(tmp_path / "c.csv", header + "\n" + ",".join("abcdef"[:width]) + "\n")
    assert not any("reads like data" in note for note in preview(path).notes)


def test_missing_cells_are_counted(tmp_path):
    corpus = read_corpus(write(tmp_path / "c.csv", "id,text,year\n1,x,nan\n2,None,NaN\n"))
    assert corpus.notes == [
        f"NaN, nan or None is taken as a missing value: 3 cells, the first in {tmp_path}/c.csv, line 2"
    ]


def test_a_record_without_an_end_is_not_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("grace_core.readers.delimited._RECORD_CHARACTERS", 1000)
    path = write(tmp_path / "c.csv", "id,text\n1,x\n" + '"\n",' * 1000)
    fails(path, "a record of more than 1,000 characters", "close its quotes")


CELLS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=30
)  # the writer leaves \r unquoted


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8),
    delimiter=st.sampled_from(DELIMITERS),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    suffix=st.sampled_from(["csv", "tsv"]),
)
def test_what_a_writer_writes_is_read_back(tmp_path, rows, delimiter, end, encoding, suffix):
    rows = [*rows, ("", "a cell that is text, so that all of its column are")]
    content = table([["id", "text", "extra"], *([str(i), *row] for i, row in enumerate(rows))], delimiter, end=end)
    path = write(tmp_path / f"c.{suffix}", content.encode(encoding))
    missing = ("NaN", "nan", "None")
    documents = read_corpus(path).documents
    assert [d.text for d in documents] == ["" if row[0] in missing else row[0] for row in rows]
    assert [d.metadata for d in documents] == [{"extra": None if row[1] in missing else row[1]} for row in rows]


def test_a_wrong_delimiter_never_makes_whole_lines_the_text(tmp_path):
    for delimiter, order in itertools.product(DELIMITERS, itertools.permutations(["id", "title", "text"])):
        path = write(tmp_path / "c.csv", table([list(order), ["a b", "c, d", "e; f"], ["g", "h", "i"]], delimiter))
        document = read_corpus(path).documents[0]
        assert sorted([document.id, document.title, document.text]) == ["a b", "c, d", "e; f"]
