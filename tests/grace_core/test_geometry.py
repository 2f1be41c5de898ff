"""From part sums to vectors: what splits, what is where, and what happens where there is too little to
calibrate with.
"""

import json
import warnings

import numpy as np
import pytest

from grace_core.collection import Collection
from grace_core.errors import GraceError
from grace_core.explain import Explainer, explain, score_blocks
from grace_core.geometry import FEW, KINDS, RAW, Geometry, Statistics, fit, of_model
from grace_core.index import GraceIndex, build
from grace_core.model import GraceModel
from grace_core.pooling import RATIONALE, TEMPLATE, TEXT, Pooling, embeddings
from grace_core.readers import Corpus, Document
from grace_core.token_states import token_states

D = 24


def sample(n: int, seed: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Part sums and counts of n texts whose states share a large common direction, as real ones do."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(3, 40, (n, 3))
    counts[:, TEMPLATE] = 5
    common = np.zeros(D)
    common[:3] = 40 + shift
    means = common + rng.normal(size=(n, 3, D)) * rng.uniform(0.1, 3, D)
    return (means * counts[:, :, None]).astype(np.float32), counts


@pytest.fixture(scope="module")
def documents():
    return sample(200, 0)


@pytest.fixture(scope="module")
def queries():
    return sample(40, 1, shift=5.0)


@pytest.mark.parametrize("pooling", list(Pooling))
def test_raw_is_the_published_mean(documents, pooling):
    geometry = fit("raw", documents)
    np.testing.assert_array_equal(geometry.vectors(*documents, pooling), embeddings(*documents, pooling))
    np.testing.assert_array_equal(
        geometry.vectors(*documents, pooling, "query"), geometry.vectors(*documents, pooling, "document")
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", list(Pooling))
def test_parts_and_tokens_add_up_to_the_unit_vector(documents, queries, kind, pooling):
    geometry = fit(kind, documents, queries=queries)
    rng = np.random.default_rng(2)
    for role in ("query", "document"):
        vectors = geometry.vectors(*documents, pooling, role)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(geometry.parts(*documents, pooling, role).sum(axis=1), vectors, atol=1e-6)
        for row in range(0, 200, 23):
            parts = np.repeat(np.arange(3), documents[1][row])
            states = rng.normal(size=(len(parts), D))
            sums = np.stack([states[parts == part].sum(axis=0) for part in range(3)])[None]
            (vector,) = geometry.vectors(sums, documents[1][row : row + 1], pooling, role)
            np.testing.assert_allclose(geometry.tokens(states, parts, pooling, role).sum(axis=0), vector, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_by_a_double_loop_over_the_definition(documents, queries, kind):
    """One vector written out from the formula at the top of the module."""
    geometry = fit(kind, documents, queries=queries)
    for role, place in (("query", 0), ("document", 1)):
        sums, counts = documents[0][7], documents[1][7]
        total = np.zeros(D)
        for part in range(3):
            x = sums[part].astype(float) / counts[part] - geometry.means[place, part]
            matrix = np.diag(geometry.scale[part]) if geometry.scale[part].ndim == 1 else geometry.scale[part]
            y = np.array([sum(x[i] * matrix[i, j] for i in range(D)) for j in range(D)])
            total += geometry.weights[part] * y / np.sqrt(sum(value * value for value in y))
        total /= np.sqrt(sum(value * value for value in total))
        np.testing.assert_allclose(
            geometry.vectors(documents[0][7:8], documents[1][7:8], role=role)[0], total, atol=1e-6
        )


def test_whitening_evens_out_what_calibrating_leaves(documents):
    from grace_core.geometry import part_means

    def spread(kind):
        geometry = fit(kind, documents)
        rows = part_means(*documents)[0][:, TEXT] - geometry.means[1, TEXT]
        rows = rows * geometry.scale[TEXT] if geometry.scale[TEXT].ndim == 1 else rows @ geometry.scale[TEXT]
        values = np.linalg.eigvalsh(np.cov(rows.T))
        return values.max() / values.min()

    assert spread("whitened") < spread("calibrated") < spread("centred")


def test_roles_have_means_of_their_own(documents, queries):
    geometry = fit("calibrated", documents, queries=queries)
    as_queries = geometry.vectors(*queries, role="query")
    assert (as_queries @ geometry.vectors(*documents).T).mean() < (
        geometry.vectors(*queries, role="document") @ as_queries.T
    ).mean() + 1
    own = Statistics.of(queries).means[1]
    share = 40 / 45  # 40 queries against the 5 that what is known without them counts for
    np.testing.assert_allclose(geometry.means[0], share * own + (1 - share) * geometry.means[1], rtol=1e-5)


def test_a_text_without_rationale_is_text_and_template(documents):
    geometry = fit("whitened", documents)
    sums, counts = documents[0].copy(), documents[1].copy()
    sums[:, RATIONALE], counts[:, RATIONALE] = 0, 0
    np.testing.assert_allclose(geometry.vectors(sums, counts), geometry.vectors(*documents, Pooling.TEXT), atol=1e-6)
    assert not geometry.parts(*documents, Pooling.TEXT)[:, RATIONALE].any()


def test_few_documents_lean_on_the_model_s_own_statistics(documents, queries):
    model = Statistics.of(documents, queries)
    few = sample(2, 5)
    geometry = fit("calibrated", few, model=model)
    share = 2 / 32
    np.testing.assert_allclose(
        geometry.means[1], share * Statistics.of(few).means[1] + (1 - share) * model.means[1], rtol=1e-5
    )
    assert np.isfinite(geometry.vectors(*few)).all()
    alone = fit("whitened", sample(1, 6), model=model)
    assert np.isfinite(alone.vectors(*sample(1, 6))).all()
    with pytest.raises(GraceError, match=f"1 documents give no statistics.*at least {FEW}"):
        fit("whitened", sample(1, 6))


def test_a_dimension_that_never_changes_is_not_blown_up(documents):
    sums, counts = documents[0].copy(), documents[1]
    sums[:, :, 4] = 2.0 * counts
    geometry = fit("calibrated", (sums, counts))
    assert geometry.scale[:, 4].max() <= 20 * np.median(geometry.scale) * 1.01
    odd = sums[:3].copy()
    odd[:, :, 4] += 0.1 * counts[:3]
    assert (geometry.vectors(odd, counts[:3]) * geometry.vectors(sums[:3], counts[:3])).sum(axis=1).min() > 0.5
    same = np.repeat(sums[:1], 12, axis=0)  # twelve copies of one document: nothing differs from the mean
    with pytest.raises(GraceError, match="no vector in the geometry"):
        fit("calibrated", (same, np.repeat(counts[:1], 12, axis=0))).vectors(same, np.repeat(counts[:1], 12, axis=0))


def test_statistics_survive_their_file(documents, queries, tmp_path):
    statistics = Statistics.of(documents, queries, system="Say it.")
    statistics.save(tmp_path / "statistics.safetensors")
    again = Statistics.load(tmp_path / "statistics.safetensors")
    assert (again.system, again.documents, again.queries) == ("Say it.", 200, 40)
    np.testing.assert_allclose(again.means, statistics.means, rtol=1e-6)
    np.testing.assert_allclose(again.variances, statistics.variances, rtol=1e-6)
    assert of_model(again).kind == "calibrated"
    assert of_model(None) is RAW
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "statistics.safetensors").read_bytes()[:400])
    with pytest.raises(GraceError, match="holds no statistics"):
        Statistics.load(tmp_path / "cut.safetensors")


# --- an index
# ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def index(tiny_folder, sentences, tmp_path_factory) -> GraceIndex:
    documents = [Document(f"d{i}", "", " ".join(sentences[2 * i : 2 * i + 3]), {}) for i in range(40)]
    collection = Collection.create(Corpus(documents, None, "made here", []), tmp_path_factory.mktemp("geometry") / "c")
    return build(collection, GraceModel.from_pretrained(tiny_folder, device="cpu", max_new_tokens=6))


def test_every_score_of_an_index_splits(index, tiny_folder, sentences):
    """Random pairs, at all levels, in the geometry that the index chose."""
    assert index.geometry.kind == "calibrated"
    model = index.load_model(device="cpu")
    asked = list(dict.fromkeys(sentences[:25]))
    representations = model.represent(asked)
    states = token_states(model, asked, representations.rationale_ids)
    texts = [index.collection.documents[name].content for name in index.ids]
    of_documents = token_states(model, texts, index.rationale_ids)
    worst, pairs = 0.0, 0
    for pooling in Pooling:
        vectors, scores = (
            index.embed(representations, pooling),
            index.embed(representations, pooling) @ index.vectors(pooling).T,
        )
        assert vectors.shape == (len(asked), model.dim)
        for i, query in enumerate(states):
            blocks = score_blocks(
                (representations.sums[i : i + 1], representations.counts[i : i + 1]),
                (index.sums, index.counts),
                pooling,
                geometry=index.geometry,
            )
            worst = max(worst, np.abs(blocks.sum(axis=(1, 2)) - scores[i]).max())
            for row in range(0, len(index), 2):
                explanation = explain(
                    query, of_documents[row], float(scores[i, row]), pooling=pooling, geometry=index.geometry
                )
                levels = (
                    explanation.sum,
                    explanation.tokens.sum(),
                    explanation.query_tokens.sum(),
                    sum(explanation.blocks().values()),
                )
                worst, pairs = max(worst, *(abs(level - scores[i, row]) for level in levels)), pairs + 1
    assert pairs == 2 * len(asked) * 20
    assert worst <= 1e-5


def test_a_text_as_a_document_finds_itself(index):
    model = index.load_model(device="cpu")
    for row in (0, 7, 39):
        representations = model.represent([index.collection.documents[index.ids[row]].content])
        scores, rows = index.search(index.embed(representations, role="document"), 1)
        assert scores[0, 0] >= 0.99999
        assert index.rationales[rows[0, 0]] == index.rationales[row]


def test_the_geometry_is_changed_without_a_model_and_back(index, tmp_path):
    import shutil

    folder = tmp_path / "c"
    shutil.copytree(index.collection.folder, folder)
    copy = GraceIndex(folder, index.model_name)
    before = copy.vectors()
    copy.change_geometry("raw")
    np.testing.assert_array_equal(copy.vectors(), embeddings(copy.sums, copy.counts))
    assert not list(copy.folder.glob("geometry-*"))
    assert copy.verify()["ok"]
    copy.change_geometry("calibrated")
    np.testing.assert_allclose(copy.vectors(), before, atol=1e-6)
    again = GraceIndex(folder, index.model_name)
    assert again.geometry.as_dict() == copy.geometry.as_dict() == index.geometry.as_dict()
    assert again.verify()["ok"]
    # what a model was asked moves the mean of queries, and nothing else
    asked = again.load_model(device="cpu").represent([f"which river {i}" for i in range(20)])
    again.change_geometry("calibrated", queries=asked)
    assert dict(again.geometry.about)["queries"] == 20
    np.testing.assert_array_equal(again.vectors(), copy.vectors())
    assert np.abs(again.geometry.means[0] - copy.geometry.means[0]).max() > 1e-3
    with pytest.raises(GraceError, match="geometry must be one of"):
        again.change_geometry("round")


def test_a_damaged_geometry_is_told(index, tmp_path):
    import shutil

    folder = tmp_path / "c"
    shutil.copytree(index.collection.folder, folder)
    (path,) = (folder / index.model_name).glob("geometry-*")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(GraceError, match=r"missing or was changed.*grace index geometry"):
        GraceIndex(folder, index.model_name).vectors()


def test_an_index_of_before_is_raw(index, tmp_path):
    import shutil

    from grace_core.build import seal

    folder = tmp_path / "c"
    shutil.copytree(index.collection.folder, folder)
    GraceIndex(folder, index.model_name).change_geometry("raw")
    path = folder / index.model_name / "manifest.json"
    manifest = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("geometry", "sha256")}
    path.write_text(json.dumps(manifest | {"sha256": seal(manifest)}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert GraceIndex(folder, index.model_name).geometry is RAW


def test_explanations_of_an_index_are_in_its_geometry(index):
    explainer = Explainer(index, index.load_model(device="cpu"))
    (why,) = explainer.why("which river flows", [3])
    score = float(index.vectors()[3] @ explainer.query_vector("which river flows"))
    assert why.score == pytest.approx(score, abs=1e-6)
    assert abs(why.residual) <= 1e-5
    dropped = explainer.leave_one_out("which river flows", 3)
    assert len(dropped) == sum(sentence.part == RATIONALE for sentence in why.document.sentences)
    same = explainer.what_if("which river flows", 3, rationale=[*index.rationale_ids[3], 5])
    assert same.old_score == pytest.approx(score, abs=1e-6)


def test_geometry_of_a_manifest_is_refused_where_its_kind_is_unknown(tmp_path):
    with pytest.raises(GraceError):
        Geometry.load(tmp_path, {"kind": "whitened", "file": "geometry-x.safetensors", "sha256": "0"})


def test_documents_that_are_all_the_same_are_left_raw(tiny_folder, tmp_path):
    documents = [Document(f"d{i}", "", "The same words in every document.", {}) for i in range(31)]
    collection = Collection.create(Corpus(documents, None, "made here", []), tmp_path / "c")
    model = GraceModel.from_pretrained(tiny_folder, device="cpu", max_new_tokens=3)
    with pytest.warns(UserWarning, match="has the geometry raw, since calibrated is not possible"):
        index = build(collection, model)
    assert index.geometry is RAW
    with pytest.raises(GraceError, match="no vector in the geometry"):
        index.change_geometry("calibrated")
    assert GraceIndex(collection.folder, index.model_name).verify()["ok"]


def test_a_client_s_dot_product_is_the_score_of_a_search(index):
    from fastapi.testclient import TestClient

    from grace_core.serving.app import create_app

    model = index.load_model(device="cpu")
    query, row = "which river flows north", 4
    with TestClient(create_app(model, index=index)) as client:

        def vector(text, **options):
            asked = {"input": text, "model": model.name, **options}
            return np.array(client.post("/v1/embeddings", json=asked).json()["data"][0]["embedding"])

        asked, document = vector(query, input_type="query"), vector(index.collection.documents[index.ids[row]].content)
        hits = client.post("/search", json={"query": query, "k": len(index)}).json()["results"]
        score = next(hit["score"] for hit in hits if hit["id"] == index.ids[row])
        assert float(asked @ document) == pytest.approx(score, abs=1e-5)
        ranked = client.post(
            "/rerank", json={"query": query, "documents": [index.collection.documents[index.ids[row]].content]}
        ).json()
        assert ranked["results"][0]["relevance_score"] == pytest.approx(score, abs=1e-5)
        assert client.post(
            "/v1/embeddings", json={"input": query, "model": model.name, "input_type": "poem"}
        ).status_code in (400, 422)
        assert client.get("/info").json()["geometry"]["kind"] == "calibrated"
