"""Folders of corpora: what is read, what is refused, and what is told."""

from __future__ import annotations

import json
import re

from .runner import MODEL, Case, check, documents, holds, inputs, lacks, same

BEIR = {"q1": {"d0": 1}, "q2": {"d1": 1}, "q3": {"d3": 1}}
BEIR_OTHERS = {  # the judgements that are right, and what must be told
    "dup-differ": (None, "have two scores"),
    "doc-not-in-corpus": ({"q1": {"d0": 1, "missing": 1}}, "1 judgement of documents that the"),
    "empty-doc": ({"q1": {"d0": 1, "e": 1}}, "1 judgement of documents without a text"),
    "float-scores": ({"q2": {"d1": 0.5}, "q3": None}, ""),
    "int-ids": ({"0": {"0": 1}, "1": {"1": 1}, "2": {"3": 1}, "q1": None, "q2": None, "q3": None}, ""),
    "negative": ({"q1": {"d0": 1, "d2": -1, "d4": 0}}, ""),
    "query-no-relevant": ({"q2": {"d1": 0}, "q3": None}, "without a relevant doc"),
    "query-not-in-queries": ({}, "judgements of queries that queries.jsonl lacks are left out: 1 judgement"),
    "space-sep": ({"q2": None, "q3": None}, ""),
    "trec-header-iter": ({"q3": None}, ""),
    "trec-space": ({"q3": None}, ""),
}


def beir(case: Case) -> None:
    from grace_core.collection import Collection

    for folder in sorted(path for path in case.folder.iterdir() if path.is_dir()):
        changes, told = BEIR_OTHERS.get(folder.name, ({}, ""))
        with case.judge(folder.name) as say:
            run = case.build(folder, case.work / folder.name)
            if changes is None:
                holds(run.refusal(), "query 'q1' and document 'd0'", told, "keep one")
                say(run.refusal())
                continue
            wanted = {query: grades for query, grades in (BEIR | changes).items() if grades is not None}
            holds("\n".join(run.result()["notes"]), told)
            judgements = Collection(case.work / folder.name).judgements
            same(judgements.qrels, wanted)
            split = {"custom-split": "holdout", "validation-split": "validation"}.get(folder.name, "test")
            same({judgements.splits[query] for query in wanted}, {split})
            found = case.grace("eval", "retrieval", case.work / folder.name, "--model", MODEL, "--json").result()
            relevant = [query for query, grades in wanted.items() if max(grades.values()) > 0]
            same(found[MODEL]["queries"], len(relevant))
            say(f"{len(wanted)} queries judged, {len(relevant)} evaluated, split {split}")


CITIES = [
    ("1", "Zürich", "Die größte Stadt der Schweiz liegt am See."),
    ("2", "Wien", "Wien liegt an der Donau; die Stadt ist groß."),
    ("3", "Bern", 'Bern ist die "Bundesstadt", nicht Hauptstadt.'),
]
TABLES = {
    "mixed.csv": "'text;label'",
    "cp1252.csv": "not UTF-8",
    "semicolon-cp1252.csv": "not UTF-8",
    "book.xlsx": "a zip archive",
    "book-renamed.csv": "a zip archive",
    "semi3.csv": [("1", "", "a,b"), ("2", "", "c")],
    "semicolon-no-commas.csv": [("1", "Rain", "It rains in spring"), ("2", "Snow", "It snows in winter")],
    "semicolon-one-comma-each.csv": [("1", "", "It rains, often"), ("2", "", "It snows, rarely")],
}


def csv_excel(case: Case) -> None:
    for path in inputs(case.folder):
        wanted = TABLES.get(path.name, CITIES)
        with case.judge(path.name) as say:
            run = case.build(path, case.work / path.name)
            if isinstance(wanted, str):
                holds(run.refusal(), wanted, "save " if "book" in path.name or "UTF-8" in wanted else "")
                lacks(run.refusal(), "fields that hold a comma", "rename it")
                say(run.refusal())
                continue
            notes = run.result()["notes"]
            same(documents(case.work / path.name), wanted)
            say(f"{len(wanted)} documents{': ' if notes else ''}{', '.join(notes)}".replace(f"{path}: ", ""))
    with case.judge("semicolon-no-commas.csv, its whole line as the text"):
        error = case.build(
            case.folder / "semicolon-no-commas.csv", case.work / "y", "--text-column", "id;title;text"
        ).refusal()
        holds(error, "no column 'id;title;text'", "'text'")


def folder_files(case: Case) -> None:
    with case.judge("docs") as say:
        run = case.build(case.folder / "docs", case.work / "x")
        holds("\n".join(run.result()["notes"]), "left out: ", "c.pdf is a damaged PDF file")
        wanted = [("a.txt", "a", "Rivers flow to the sea.\nThey carry silt."), ("b.md", "Metals", "Mercury is liquid.")]
        same([(name, title, text.strip()) for name, title, text in documents(case.work / "x")], wanted)
        say("a document a file; the PDF is told")


UPDATES = {  # what is told of each version after the one before, and how many documents are encoded
    "v2-added": ("10 new", 10),
    "v3-deleted": ("11 gone", 0),
    "v4-changed": ("1 new ('d4'), 1 changed ('d0')", 2),
    "v5-reordered": ("1 changed ('d0')", 1),
    "v6-metadata": ("15 with other metadata", 0),
}


def incremental(case: Case) -> None:
    from grace_core.collection import Collection
    from grace_core.readers import read_corpus

    out = case.work / "x"
    with case.judge("v1.jsonl") as say:
        for told in ([], [f"{MODEL}: {out} has this corpus already, nothing was encoded"]):
            found = case.build(case.folder / "v1.jsonl", out).result()
            same((found["models"][MODEL]["encoded"], found["notes"]), (15, told))
        say("built, and again")
    for name, (told, encoded) in UPDATES.items():
        with case.judge(f"{name}.jsonl") as say:
            run = case.build(case.folder / f"{name}.jsonl", out)
            same(run.result()["models"][MODEL]["encoded_now"], encoded)
            holds(run.err, told)
            same(Collection(out).corpus.documents, read_corpus(case.folder / f"{name}.jsonl").documents)
            same(case.grace("index", "verify", out).status, 0)
            say(f"{told}; {encoded} encoded")


FIVE = [(str(i), f"t{i}", f"a short text number {i} about mountains") for i in range(5)]
JSON = {
    "bool-text.jsonl": "column 'text' holds a value of type list, expected a string",
    "concat.jsonl": "one JSON object a line",
    "dict.json": "put the documents into one array",
    "wrapped.json": "put the documents into one array",
    "docs.csv.gz": [("1", "", "packed one")],
    "docs.jsonl.gz": 5,
    "gz-renamed.jsonl": 5,
    "int-id.jsonl": [(str(i), "", f"text {i}") for i in range(3)],
    "null-text.jsonl": 6,
}


def jsonl(case: Case) -> None:
    for path in inputs(case.folder):
        wanted = JSON.get(path.name, FIVE)
        with case.judge(path.name) as say:
            run = case.build(path, case.work / path.name)
            if isinstance(wanted, str):
                holds(run.refusal(), wanted)
                say(run.refusal())
                continue
            counts, there = run.result()["models"][MODEL], documents(case.work / path.name)
            if path.name == "null-text.jsonl":
                same((counts["encoded"], counts["empty"]), (1, 5))
            elif path.name.endswith(".gz") or path.name.startswith("gz"):
                check(there and all(re.search("[a-z]", text) for *_, text in there), there)
            else:
                same(there, wanted)
            say(f"{counts['encoded']} of {counts['documents']} documents encoded")


def metadata_filter(case: Case) -> None:
    with case.judge("year.csv") as say:
        from grace_core.collection import Collection

        case.build(case.folder / "year.csv", case.work / "x").result()
        rows = [line.split(",") for line in (case.folder / "year.csv").read_text().splitlines()]
        names, kept = rows[0], Collection(case.work / "x").corpus.documents
        for row, document in zip(rows[1:], kept, strict=True):
            same(
                {name: str(value) for name, value in document.plain_metadata.items()},
                dict(zip(names[3:], row[3:], strict=True)),
            )
        same([type(kept[0].metadata[name]) for name in ("year", "price")], [int, float])
        say(f"{len(kept)} documents with {', '.join(names[3:])} as they stand in the file, year and price as numbers")
    with case.judge("year.csv, searched with --where") as say:
        filters = {
            "year > 2000": lambda row: int(row["year"]) > 2000,
            "published < '2003-06-01' and tag = 'a'": lambda row: row["published"] < "2003-06-01" and row["tag"] == "a",
            "price >= 2.5 or year in (1990, 1991)": lambda row: (
                float(row["price"]) >= 2.5 or int(row["year"]) in (1990, 1991)
            ),
        }
        asked = ("search", case.work / "x", "river", "--model", MODEL, "-k", 100, "--json", "--where")
        for where, satisfies in filters.items():
            found = [hit["id"] for hit in case.grace(*asked, where).result()]
            wanted = [row[0] for row in rows[1:] if satisfies(dict(zip(names, row, strict=True)))]
            check(wanted, "a filter that nothing satisfies")
            same(sorted(found), sorted(wanted))
        refused = case.grace(*asked, "yaer > 2000").refusal()
        holds(refused, "filter, character 1: there is no column 'yaer': do you mean 'year'?")
        say(refused)


NESTED = {
    "list-text.parquet": "column 'text' holds a value of type list, expected a string",
    "nan-id.parquet": "row 3: the id (column 'id') is empty or missing",
    "odd-names.parquet": "",
    "pandas-index.parquet": "",
    "struct-text.parquet": "no text column: columns found are ['meta']",
}


def parquet_nested(case: Case) -> None:
    from grace_core.collection import Collection
    from grace_core.readers import preview

    for path in inputs(case.folder):
        with case.judge(path.name) as say:
            run = case.build(path, case.work / path.name)
            if NESTED.get(path.name):
                holds(run.refusal(), NESTED[path.name])
                say(run.refusal())
                continue
            notes, corpus = "\n".join(run.result()["notes"]), Collection(case.work / path.name).corpus
            say(f"{len(corpus.documents)} documents, fields {', '.join(corpus.fields) or 'none'}")
            if path.name in ("nested.parquet", "dir.parquet"):
                same([d.text for d in corpus.documents], ["river one", "river two", "river three"])
                first = corpus.documents[0].metadata
                same((first["tags"], json.loads(first["meta"])), (["x", "y"], {"a": 1, "b": "q"}))
                holds(
                    notes, "'meta' holds objects or nested lists, which are kept as JSON", "'blob' (binary) is left out"
                )
                shown = preview(path)
                holds("\n".join(shown.notes), "'meta' holds", "'blob' (binary) is left out")
                same(shown.rows[0]["tags"], ["x", "y"])
                holds(case.grace("index", "info", case.work / path.name).out, "tags", "meta")


def pdf(case: Case) -> None:
    with case.judge("two-hundred-pages.pdf") as say:
        case.build(case.folder / "two-hundred-pages.pdf", case.work / "x").result()
        ((name, _, text),) = documents(case.work / "x")
        pages = text.split("\f")
        same(
            (name, len(pages), pages[99]),
            ("two-hundred-pages.pdf", 200, "Page 100 tells of river number 100 and its towns."),
        )
        say("200 pages, joined by form feeds")
    with case.judge("renamed.txt") as say:
        error = case.build(case.folder / "renamed.txt", case.work / "y").refusal()
        holds(error, "is a PDF file, expected plain text: give it the ending .pdf")
        check(not (case.work / "y").exists(), "a collection")
        say(error)


def tiny(case: Case) -> None:
    out = case.work / "x"
    with case.judge("all-empty.jsonl") as say:
        run = case.build(case.folder / "all-empty.jsonl", out)
        holds(run.refusal(), "none of the 2 documents of", "has any text")
        check(not out.exists(), "a collection is left")
        say(run.refusal())
    with case.judge("two.jsonl, into the same --out"):
        same(case.build(case.folder / "two.jsonl", out).result()["models"][MODEL]["encoded"], 2)
    with case.judge("one.jsonl"):
        same(case.build(case.folder / "one.jsonl", case.work / "one").result()["models"][MODEL]["encoded"], 1)
        (hit,) = case.grace("search", case.work / "one", "river", "--model", MODEL, "-k", 100, "--json").result()
        same(hit["id"], "only")
