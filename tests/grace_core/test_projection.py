"""Maps: their places, quality, alignment and files, and every input that cannot be laid out."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from columns_world import save_encoder

from grace_core.collection import Collection
from grace_core.columns import encoded
from grace_core.columns.encoder import Encoder
from grace_core.errors import GraceError
from grace_core.files import only_writer
from grace_core.index import GraceIndex, build
from grace_core.map_report import displaced
from grace_core.neighbours import change, map_quality, neighbours
from grace_core.pooling import Pooling
from grace_core.projection import (
    MapStopped,
    aligned,
    displacement,
    load_map,
    make_maps,
    map_collection,
    place,
    preview,
)
from grace_core.readers import Corpus, Document

KINDS, SIZE, MOVED = 8, 45, 60


@pytest.fixture(scope="module")
def columns():
    """Vectors of 360 documents of eight kinds in two columns.

    The first 60 stand elsewhere in the second, the others nearly do not move.
    """
    random = np.random.default_rng(0)
    middles, kinds = 2.5 * random.normal(size=(KINDS, 24)), random.integers(KINDS, size=KINDS * SIZE)
    first = middles[kinds] + random.normal(size=(KINDS * SIZE, 24))
    second = first + 0.02 * random.normal(size=first.shape)
    second[:MOVED] = middles[(kinds[:MOVED] + 3) % KINDS] + random.normal(size=(MOVED, 24))
    second = np.concatenate([second, np.zeros((len(second), 8))], axis=1)  # another width, as other models have
    return {"first": first.astype(np.float32), "second": second.astype(np.float32)}


@pytest.fixture(scope="module")
def made(columns):
    return make_maps(columns, seed=1)


@pytest.fixture(scope="module")
def alone(columns):
    """umap-learn's own map of each column."""
    import umap

    return [
        umap.UMAP(metric="cosine", random_state=seed, n_jobs=1).fit_transform(column)
        for seed, column in enumerate(columns.values())
    ]


@pytest.fixture(scope="module")
def collection(sentences, tiny_folder, other_folder, tmp_path_factory):
    """Sixty documents, encoded by one model with rationales and by another without."""
    from grace_core.model import GraceModel

    folder = tmp_path_factory.mktemp("mapped")
    documents = [Document(f"d{i}", "", f"{sentences[i % 200]} {sentences[(i * 7) % 200]}", {}) for i in range(60)]
    found = Collection.create(Corpus(documents, None, "made here", []), folder / "x")
    for name, source in (("first", tiny_folder), ("second", other_folder)):
        shutil.copytree(source, folder / name)
        build(found, GraceModel.from_pretrained(folder / name, max_new_tokens=8), rationale=name == "first")
    return found


@pytest.fixture
def copy(collection, tmp_path):
    """A collection of its own for each test, without maps."""
    shutil.copytree(collection.folder, tmp_path / "x", ignore=shutil.ignore_patterns("map*"))
    return Collection(tmp_path / "x")


def files(collection) -> list[str]:
    return sorted(
        path.name for model in collection.models for path in (collection.folder / model).iterdir() if "map" in path.name
    )


def test_a_map_keeps_neighbours_as_umap_learn_does(columns, made, alone):
    for (name, column), theirs in zip(columns.items(), alone, strict=True):
        peer = map_quality(column, theirs, neighbours(column))
        assert made[name].quality["trustworthiness"] > peer["trustworthiness"] - 0.01
        assert made[name].quality["knn_preservation"] > peer["knn_preservation"] - 0.05
        assert made[name].parameters["method"] == "umap"


def test_documents_that_kept_their_neighbours_stay_put_and_others_move(columns, made, alone):
    found = change(*columns.values())
    a, b = (points.points for points in made.values())
    assert displaced(a, b, *alone, found)["ratio"] < 1 / 3
    far = displacement(a, b)
    assert np.median(far[:MOVED]) > 5 * np.median(far[MOVED:])


def test_the_same_seed_gives_the_same_bits_with_any_number_of_threads(columns, made):
    import numba

    threads = numba.get_num_threads()
    try:
        numba.set_num_threads(1)
        again = make_maps(columns, seed=1)
    finally:
        numba.set_num_threads(threads)
    for name, points in made.items():
        assert again[name].points.tobytes() == points.points.tobytes()
        assert again[name].parameters == points.parameters
    assert (make_maps(columns, seed=2)["first"].points != made["first"].points).any()


def test_a_map_has_three_dimensions_if_asked(columns):
    first = make_maps({"first": columns["first"]}, dims=3, neighbours=10, min_dist=0.3)["first"]
    assert first.points.shape == (KINDS * SIZE, 3)
    assert np.linalg.matrix_rank(first.points - first.points.mean(axis=0)) == 3
    assert (first.parameters["dims"], first.parameters["neighbours"], first.parameters["min_dist"]) == (3, 10, 0.3)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_documents_too_few_for_umap_are_laid_out_by_pca(columns, number):
    for dims in (2, 3):
        found = make_maps({name: column[:number] for name, column in columns.items()}, dims=dims)
        for points in found.values():
            assert points.points.shape == (number, dims)
            assert np.isfinite(points.points).all()
            assert len(np.unique(points.points, axis=0)) == number
            assert points.parameters["method"] == ("disc" if number == 1 else "pca")
            assert (points.quality["trustworthiness"] is None) == (number < 3)


def test_equal_vectors_get_a_disc_and_the_other_column_its_map(columns):
    found = make_maps({"equal": np.ones((40, 3)), "first": columns["first"][:40]})
    assert [points.parameters["method"] for points in found.values()] == ["disc", "umap"]
    assert len(np.unique(found["equal"].points, axis=0)) == 40
    assert np.isfinite(found["first"].points).all()


def test_copies_groups_without_links_and_fewer_documents_than_neighbours(columns):
    apart = np.repeat(np.eye(4, 8, dtype=np.float32), 30, axis=0)  # four vectors, thirty copies of each
    found = make_maps({"copies": apart})["copies"]
    assert found.parameters["init"] == "pca"
    assert np.isfinite(found.points).all()
    assert found.quality["trustworthiness"] > 0.9
    few = make_maps({"first": columns["first"][:12]}, neighbours=50)["first"]
    assert few.parameters["method"] == "umap"
    assert np.isfinite(few.points).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": 4}, "2 or 3 dimensions, got 4"),
        ({"neighbours": 1}, "from 2 to 200, got 1"),
        ({"min_dist": float("nan")}, "min_dist must be from 0 to 1, got nan"),
        ({"seed": -1}, "seed must be from 0"),
    ],
)
def test_settings_that_make_no_map_are_refused(columns, options, message):
    with pytest.raises(GraceError, match=message):
        make_maps(columns, **options)


def test_vectors_that_make_no_map_are_refused(columns):
    bad = columns["first"].copy()
    bad[7, 3] = np.nan
    with pytest.raises(GraceError, match="bad: row 7 holds NaN"):
        make_maps({"bad": bad})
    with pytest.raises(GraceError, match=r"different numbers of documents \(first: 360, second: 3\)"):
        make_maps({"first": columns["first"], "second": columns["second"][:3]})
    with pytest.raises(GraceError, match="no column"):
        make_maps({})


def test_progress_goes_up_to_the_end_and_stopping_stops(columns):
    for number in (60, 5):
        told = []
        make_maps({"first": columns["first"][:number]}, progress=lambda *step, told=told: told.append(step))
        done, totals = zip(*told, strict=True)
        assert list(done) == sorted(done)
        assert done[-1] == totals[-1] == max(totals) == min(totals)
    asked = iter([False] * 20)
    with pytest.raises(MapStopped):
        make_maps(columns, should_stop=lambda: next(asked, True))


def test_a_preview_is_pca_turned_to_the_first_column(columns):
    from sklearn.decomposition import PCA

    found = preview(columns)
    exact = columns["first"] / np.linalg.norm(columns["first"], axis=1, keepdims=True)
    expected = PCA(2).fit_transform(exact)
    expected /= np.sqrt((expected**2).sum(axis=1).mean())
    assert displacement(expected, found["first"], turn=True).max() < 1e-3
    assert (
        np.median(displacement(*found.values())[MOVED:]) < 0.3
    )  # two axes of eight kinds are not those of the other column
    assert preview({"a": np.ones((3, 1))}, 3)["a"].tolist() == [[0, 0, 0]] * 3


def test_displacement_knows_no_scale_and_turns_only_if_asked():
    points = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    turned = points @ np.array([[0, 1], [-1, 0]]) * 3 + 5
    assert displacement(points, turned, turn=True).max() < 1e-5
    assert displacement(points, points * 2 + 1).max() < 1e-5
    assert displacement(points, turned).mean() > 0.5


def test_a_query_gets_one_place_alone_or_in_a_batch(columns, made):
    vectors, points = columns["first"], made["first"].points
    queries = vectors[::9] + 0.1
    batch = place(points, vectors, queries)
    assert batch.shape == (len(queries), 2)
    for query, expected in zip(queries, batch, strict=True):
        assert place(points, vectors, query[None]).tobytes() == expected[None].tobytes()
    assert place(points, vectors, queries[0]).tobytes() == batch[:1].tobytes()


def test_a_query_lands_among_its_nearest_documents(columns, made):
    vectors, points = columns["first"], made["first"].points
    far = np.linalg.norm(place(points, vectors, vectors) - points, axis=1)
    size = np.sqrt(((points - points.mean(axis=0)) ** 2).sum(axis=1).mean())
    assert np.median(far) < 0.15 * size
    assert place(points[:1], vectors[:1], vectors[5:6]).tolist() == points[:1].tolist()
    copies = np.ones((20, 4), np.float32)
    np.testing.assert_allclose(place(np.arange(40).reshape(20, 2), copies, copies[:1]), [[14, 15]])


def test_queries_of_another_model_or_map_are_refused(columns, made):
    with pytest.raises(GraceError, match="queries have 5 dimensions, the documents 24"):
        place(made["first"].points, columns["first"], np.ones((1, 5)))
    with pytest.raises(GraceError, match="queries: row 0 holds NaN"):
        place(made["first"].points, columns["first"], np.full((1, 24), np.nan))
    with pytest.raises(GraceError, match="the map has 5 documents"):
        place(made["first"].points[:5], columns["first"], np.ones((1, 24)))


def test_maps_are_saved_with_the_collection_and_found_again(copy):
    wanted = [("first", Pooling.FULL), ("first", Pooling.TEXT), ("second", Pooling.TEXT)]
    made = map_collection(copy, wanted, seed=4)
    assert files(copy) == ["map-text.parquet", "map.parquet", "map.parquet"]
    for model, pooling in wanted:
        index = GraceIndex(copy, model)
        found, expected = load_map(index, pooling), made[model, pooling]
        assert found.ids == expected.ids == index.ids
        assert found.points.tobytes() == expected.points.tobytes()
        assert (found.parameters, found.quality) == (expected.parameters, expected.quality)
        assert found.parameters["seed"] == 4
        assert found.parameters["versions"]["umap-learn"]
        assert (found.regions.names, found.regions.terms) == (expected.regions.names, expected.regions.terms)
        assert found.regions.labels.tolist() == expected.regions.labels.tolist()
    assert load_map(GraceIndex(copy, "second")).ids == GraceIndex(copy, "second").ids
    assert load_map(GraceIndex(copy, "first"), dims=3) is None
    assert aligned(made["first", Pooling.FULL], made["second", Pooling.TEXT])
    later = map_collection(copy, wanted[:1], seed=4, save=False)["first", Pooling.FULL]
    assert not aligned(later, made["second", Pooling.TEXT])
    assert load_map(GraceIndex(copy, "first")).parameters == made["first", Pooling.FULL].parameters


def test_a_map_of_other_vectors_or_a_damaged_one_is_as_good_as_none(copy):
    index = GraceIndex(copy, "second")
    map_collection(copy, [("second", Pooling.TEXT)])
    path = index.folder / "map.parquet"
    table, whole = pq.read_table(path), path.read_bytes()
    about = json.loads(table.schema.metadata[b"grace"])
    about["parameters"]["vectors_sha256"] = "0" * 64
    pq.write_table(table.replace_schema_metadata({"grace": json.dumps(about)}), path)
    assert load_map(index) is None
    x = table["x"].to_numpy().copy()
    x[3] = np.nan
    damaged = [
        whole[:200],
        b"",
        table.replace_schema_metadata(None),
        table.drop_columns("y"),
        table.set_column(1, "x", [x]),
    ]
    for content in damaged:
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            pq.write_table(content, path)
        with pytest.warns(UserWarning, match="is damaged"):
            assert load_map(index) is None


def test_a_map_that_is_interrupted_leaves_nothing(copy):
    columns = [("first", Pooling.FULL), ("second", Pooling.TEXT)]

    def interrupt(done: int, everything: int) -> None:
        if done == everything:  # the very last moment, when all maps are made
            raise KeyboardInterrupt

    for seed, options in enumerate(({"should_stop": lambda: True}, {"progress": interrupt})):
        with pytest.raises((MapStopped, KeyboardInterrupt)):
            map_collection(copy, columns, seed=seed, **options)
        assert files(copy) == []
    (copy.folder / "first" / ".map.parquet.1.tmp").write_bytes(b"left by a killed process")
    map_collection(copy, columns)
    assert files(copy) == ["map.parquet", "map.parquet"]


def test_an_index_that_another_process_writes_to_and_an_unknown_one_are_refused(copy):
    with only_writer(copy.folder / "first"), pytest.raises(GraceError, match="another process"):
        map_collection(copy, [("first", Pooling.FULL), ("second", Pooling.TEXT)])
    with pytest.raises(GraceError, match="no index of model 'third'"):
        map_collection(copy, [("third", Pooling.FULL)])
    with pytest.raises(GraceError, match="without rationales"):
        map_collection(copy, [("second", Pooling.FULL)])
    assert files(copy) == []


def test_the_command_maps_all_models_of_a_collection(grace, copy):
    status, out, err = grace("map", copy.folder, "--text", "--compare-independent", "--json")
    assert status == 0, err
    result = json.loads(out)
    assert list(result["models"]) == ["first", "second", "first:text"]
    for about in result["models"].values():
        assert about["regions"]
        assert 0.5 < about["trustworthiness"] <= 1
        assert about["trustworthiness"] > about["umap_learn"]["trustworthiness"] - 0.05  # sixty documents
    assert list(result["overlap"]) == ["first → second", "first → first:text"]
    assert result["overlap"]["first → second"] == pytest.approx(
        change(GraceIndex(copy, "first").vectors(), GraceIndex(copy, "second").vectors()).mean
    )
    assert result["displacement_ratio"] == max(pair["displacement"]["ratio"] for pair in result["changes"].values())
    moved = result["changes"]["first → second"]["moved"]
    assert [one["overlap"] for one in moved] == sorted(one["overlap"] for one in moved)
    assert len(moved[0]["lost"]) == len(moved[0]["won"]) == 15 - len(moved[0]["kept"])
    assert files(copy) == ["map-text.parquet", "map.parquet", "map.parquet"]


def test_the_command_maps_one_model_and_refuses_what_it_cannot_map(grace, copy):
    status, out, _ = grace("map", copy.folder, "--model", "second", "--json")
    result = json.loads(out)
    assert (status, result["displacement_ratio"], result["overlap"]) == (0, None, {})
    for options, message in (
        (("--model", "third"), "no index of model 'third'"),
        (("--dims", "4"), "2 or 3 dimensions"),
    ):
        status, out, err = grace("map", copy.folder, *options)
        assert (status, out) == (2, "")
        assert message in err


def test_the_command_maps_a_sentence_encoder_beside_a_model(grace, copy, sentences, tmp_path):
    encoder = Encoder.load(str(save_encoder(tmp_path / "mini", sentences)))
    vectors = encoded.build(copy, encoder).vectors
    status, out, err = grace("map", copy.folder, "--json")
    assert status == 0, err
    assert list(json.loads(out)["models"]) == ["first", "second", "st:mini"]
    assert json.loads(out)["overlap"]["first → st:mini"] == pytest.approx(
        change(GraceIndex(copy, "first").vectors(), vectors).mean
    )
    index = encoded.EncodedIndex(copy, "mini")
    assert aligned(load_map(index), load_map(GraceIndex(copy, "first")))
    assert load_map(index).regions.names
    status, _, err = grace("map", copy.folder, "--model", "st:nobody")
    assert (status, "has no vectors of the encoder st:nobody, there are: st:mini" in err) == (2, True)


def test_importing_the_module_loads_nothing_heavy(python):
    run = python("-c", "import sys, grace_core.projection; print(*{name.split('.')[0] for name in sys.modules})")
    assert run.returncode == 0, run.stderr
    assert not set(run.stdout.split()) & {"umap", "numba", "sklearn", "faiss", "plotly", "gradio"}
