"""Evaluations of columns that are no models, kept in the collection: read back, and believed only while they fit."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace

import pytest
from columns_world import make_collection, save_encoder

from grace_core.collection import Collection
from grace_core.columns import encoded
from grace_core.columns.encoder import Encoder
from grace_core.columns.opened import Columns
from grace_core.errors import GraceError
from grace_core.evaluation import stored
from grace_core.evaluation.retrieval import Retrieved, judged_queries, retrieve, retrieve_by
from grace_core.files import only_writer
from grace_core.index import GraceIndex, build
from grace_core.living import update
from grace_core.model import GraceModel
from grace_core.passages import Chunk
from grace_core.pooling import Pooling
from grace_core.readers import Corpus, Document, Judgements
from grace_core.readers.chunked import chunked

NAMES = ("bm25", "st:mini", "bm25+tiny", "rrf(bm25,st:mini)")
OLDER = "is older than what .* ranks by, which has been built or updated since"


@pytest.fixture(scope="module")
def world(tiny_folder, tmp_path_factory, sentences):
    """A collection with a model and an encoder, and both."""
    root = tmp_path_factory.mktemp("kept-columns")
    collection = make_collection(root / "world", sentences, 30)
    model = GraceModel.from_pretrained(tiny_folder, device="cpu", max_new_tokens=4)
    encoder = Encoder.load(str(save_encoder(root / "encoders" / "mini", sentences, limit=24)))
    build(collection, model)
    encoded.build(collection, encoder)
    return collection.folder, model, encoder


@pytest.fixture
def folder(world, tmp_path):
    return shutil.copytree(world[0], tmp_path / "world")


def columns_of(folder) -> Columns:
    """Opened anew, as by another process."""
    return Columns(Collection(folder))


def keep(folder) -> dict[str, dict[str, Retrieved]]:
    columns, made = columns_of(folder), {}
    queries = judged_queries(columns.collection.judgements)
    for name in NAMES:
        made[name] = retrieve_by(columns.open(name), queries)
        stored.save_column(columns.open(name), made[name])
    return made


def kept(folder) -> list[str]:
    """The columns whose evaluations are there and fit."""
    columns, fitting = columns_of(folder), []
    for name in NAMES:
        with suppress(GraceError):
            fitting += [name] if stored.load_column(columns.open(name)) else []
    return fitting


def test_each_column_is_read_back_from_a_file_of_its_own(folder):
    assert kept(folder) == []
    made, columns = keep(folder), columns_of(folder)
    paths = {stored.path_of(columns.open(name)) for name in NAMES}
    assert all(path.is_file() for path in paths)
    assert len(paths) == len(NAMES)
    assert stored.path_of(columns.open("st:mini")) == folder / "st-mini" / stored.FILE
    assert {name: stored.load_column(columns.open(name)) for name in NAMES} == made
    assert stored.load_column(columns.open("0.5*bm25+tiny")) == {}  # another column
    row = {"q0": replace(made["bm25"]["q0"], ranking=("d01",))}
    stored.save_column(columns.open("bm25"), row)
    assert stored.load_column(columns.open("bm25")) == made["bm25"] | row
    assert Collection(folder).models == ["tiny"]


def test_a_changed_corpus_makes_all_of_them_old(folder, world):
    keep(folder)
    corpus = Collection(folder).corpus
    longer = replace(corpus, documents=[*corpus.documents, Document("new", "", "a river", {"year": 1, "kind": "a"})])
    with update(folder, longer) as papers:
        papers.build(world[1])
        papers.encode(world[2])
        papers.commit()
    assert kept(folder) == []
    with pytest.raises(GraceError, match=OLDER):
        stored.load_column(columns_of(folder).open("bm25"))
    made = keep(folder)  # replaces what does not fit
    assert kept(folder) == list(NAMES)
    assert all(len(rows) == 5 for rows in made.values())


def test_a_part_that_was_built_again_makes_its_fusion_old(folder, tiny_folder):
    keep(folder)
    shutil.rmtree(folder / "tiny")
    model = GraceModel.from_pretrained(tiny_folder, device="cpu", max_new_tokens=5)
    build(Collection(folder), model, name="tiny")
    assert kept(folder) == ["bm25", "st:mini", "rrf(bm25,st:mini)"]


def test_queries_of_a_geometry_count_though_they_move_no_document(folder, world):
    index = GraceIndex(folder, "tiny")
    index.change_geometry("calibrated")
    keep(folder)
    stored.save(index, {Pooling.FULL: {}})
    queries = judged_queries(index.collection.judgements)
    before = index.manifest["files"]["index.faiss"]
    index.change_geometry("calibrated", queries=world[1].represent(list(queries.values())))
    assert index.manifest["files"]["index.faiss"] == before
    with pytest.raises(GraceError, match="was made with another index, or is older"):
        stored.load(index)
    assert kept(folder) == ["bm25", "st:mini", "rrf(bm25,st:mini)"]


def test_queries_that_read_otherwise_and_files_that_are_another_column_s(folder):
    keep(folder)
    columns = columns_of(folder)
    text = (folder / "queries.jsonl").read_text()
    (folder / "queries.jsonl").write_text(text.replace("river in the mountains", "another question"))
    assert sorted(stored.load_column(columns_of(folder).open("bm25"))) == ["q1", "q2", "q3", "q4"]
    path, other = (stored.path_of(columns.open(name)) for name in ("bm25", "bm25+tiny"))
    shutil.copy(other, path)
    with pytest.raises(GraceError, match=OLDER):
        stored.load_column(columns.open("bm25"))
    path.write_bytes(b"PAR1 nothing of the kind")
    with pytest.raises(GraceError, match="cannot be read"):
        stored.load_column(columns.open("bm25"))
    stored.save_column(columns.open("bm25"), {"q1": Retrieved("children dance around the fountain", ("nowhere",))})
    with pytest.raises(GraceError, match="was damaged or edited"):
        stored.load_column(columns.open("bm25"))


def test_only_one_writes_at_a_time(folder):
    with only_writer(folder / stored.FOLDER), pytest.raises(GraceError, match="another process"):
        keep(folder)


def test_rankings_of_documents_that_are_split_into_passages(world, tmp_path, sentences):
    documents = [Document(f"d{i}", "", " ".join(sentences[6 * i : 6 * i + 6]), {}) for i in range(4)]
    judgements = Judgements({"q": sentences[8]}, {"q": {"d1": 1}}, {})
    split = chunked(Corpus(documents, judgements, "made here", []), Chunk(20))
    index = build(Collection.create(split, tmp_path / "split"), world[1])
    queries = judged_queries(judgements)
    assert len(index) > 4
    made = {pooling: retrieve(index, world[1], queries, pooling) for pooling in Pooling}
    stored.save(index, made)
    assert stored.load(index) == made
    column = columns_of(tmp_path / "split").open("bm25")
    stored.save_column(column, retrieve_by(column, queries))
    assert stored.load_column(column)["q"].ranking[0] == "d1"
