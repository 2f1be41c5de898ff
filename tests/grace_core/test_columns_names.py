"""The grammar of column names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace_core.columns.names import PARTS, Ranks, Single, Sum, parse
from grace_core.errors import GraceError

TEXT, RATIONALE, BM25 = Single("grace", "smollm2", False), Single("grace", "smollm2", True), Single("bm25")
MINI = Single("encoder", "all-MiniLM-L6-v2")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("bm25", BM25),
        ("smollm2", Single("grace", "smollm2")),
        ("smollm2:text", TEXT),
        ("smollm2:rationale", RATIONALE),
        ("Qwen/Qwen2.5-0.5B:text", Single("grace", "Qwen/Qwen2.5-0.5B", False)),
        ("./models/mine", Single("grace", "./models/mine")),
        ("st:all-MiniLM-L6-v2", MINI),
        ("st:sentence-transformers/all-MiniLM-L6-v2", Single("encoder", "sentence-transformers/all-MiniLM-L6-v2")),
        ('st:"/my models/a+b"', Single("encoder", "/my models/a+b")),
        ('"a b":text', Single("grace", "a b", False)),
        ('"bm25"', Single("grace", "bm25")),
        ("bm25:text", Single("grace", "bm25", False)),
        ("7B", Single("grace", "7B")),
        ("bm25+smollm2:rationale", Sum(((1.0, BM25), (1.0, RATIONALE)))),
        (" 0.7 * bm25 + .3*smollm2:text ", Sum(((0.7, BM25), (0.3, TEXT)))),
        ("2*bm25+st:all-MiniLM-L6-v2+0.25*smollm2:text", Sum(((2.0, BM25), (1.0, MINI), (0.25, TEXT)))),
        ("rrf(bm25, smollm2:text)", Ranks((BM25, TEXT))),
        ("rrf (bm25,st:all-MiniLM-L6-v2,smollm2:rationale)", Ranks((BM25, MINI, RATIONALE))),
        ("rrf", Single("grace", "rrf")),
    ],
)
def test_a_name_is_read_and_written(text, name):
    assert parse(text) == name
    assert parse(name.id) == name


def test_names_are_written_shortest():
    assert parse(" 1*bm25 + 0.30*smollm2:text").id == "bm25+0.3*smollm2:text"
    assert parse("rrf( bm25 , smollm2:text )").id == "rrf(bm25,smollm2:text)"
    assert parse("0.00001*bm25+a").id == "0.00001*bm25+a"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected a column"),
        ("  ", "the end"),
        ("+bm25", "expected a column"),
        ("bm25+", "got the end"),
        ("bm25 smollm2", "%2B"),
        ("0*bm25+a", "above 0"),
        ("0.5*bm25", "weighs a single column"),
        ("-1*bm25+a", "no name of a column"),
        ("1e3*bm25+a", "got '\\*bm25"),
        ("nan*bm25+a", "a weight stands before its column, a number above 0"),
        ("0.0000001*bm25+a", "at most six digits on either side"),
        ("bm25*0.7+a", "a weight stands before its column"),
        ("bm25+bm25", "stands twice"),
        ("rrf(bm25)", "at least two"),
        ("rrf(bm25,a", "closing parenthesis"),
        ("rrf(bm25,a)b", "the end"),
        ("rrf(2*bm25,a)", "comma or a closing parenthesis, and no weights"),
        ("(bm25+a)", "expected a column"),
        ("st:", "the name of a model"),
        (":text", "the name of a model"),
        ('st:"a', "expected"),
        ('st:a"b"', "around a whole name"),
        ("a\x00b", "the name of a model"),
        ("+".join(f"a{i}" for i in range(PARTS + 1)), "at most 8"),
        ("a" * 3000, "3,000 characters"),
    ],
)
def test_what_is_no_name_is_refused_with_what_was_expected(text, told):
    with pytest.raises(GraceError, match=told):
        parse(text)


@given(st.text(max_size=60) | st.text(alphabet='abst:m25+*.07(),"rf ', max_size=30))
def test_whatever_is_given_is_a_name_that_reads_back_or_a_clear_error(text):
    try:
        name = parse(text)
    except GraceError:
        return
    assert parse(name.id) == name


MODELS = st.text(
    alphabet=st.characters(exclude_characters='"', categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=12
)
SINGLES = (
    st.just(BM25)
    | st.builds(Single, st.just("encoder"), MODELS.filter(str.strip))
    | st.builds(Single, st.just("grace"), MODELS.filter(str.strip), st.sampled_from([None, False, True]))
)
WEIGHTS = st.integers(1, 10**9).map(lambda n: n / 10**6) | st.integers(1, 999_999).map(float)


@given(SINGLES)
def test_every_single_column_has_a_name(single):
    assert parse(single.id) == single


@given(st.lists(st.tuples(WEIGHTS, SINGLES), min_size=2, max_size=4, unique_by=lambda pair: pair[1]))
def test_every_fusion_has_a_name(terms):
    fused, ranked = Sum(tuple(terms)), Ranks(tuple(part for _, part in terms))
    assert parse(fused.id) == fused
    assert parse(ranked.id) == ranked
