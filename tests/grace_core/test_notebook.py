"""Hits, explanations and maps in a notebook: static, whole, and inert whatever the corpus holds."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from columns_world import save_encoder

from grace_core.collection import Collection
from grace_core.columns import encoded
from grace_core.columns.encoder import Encoder
from grace_core.columns.opened import Columns
from grace_core.explain import Explainer
from grace_core.index import build
from grace_core.notebook import LINES, POINTS, Hits, map_html
from grace_core.projection import Map, map_collection
from grace_core.readers import Corpus, Document
from grace_core.regions import Regions

SCRIPT, IMAGE = "<script>window.pwned = 1</script>", '"><img src=x onerror="window.pwned = 2">'


class Elements(HTMLParser):
    """The names of the elements and of their attributes, and the text."""

    def __init__(self, html: str):
        super().__init__()
        self.names, self.attributes, self.text, self.open = [], set(), "", []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("br", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in ("br", "path") or self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def inert(html: str) -> Elements:
    found = Elements(html)
    assert not set(found.names) & {"script", "img", "iframe", "link", "style", "object"}
    assert not [name for name in found.attributes if name.startswith("on") or name in ("href", "src")]
    assert found.open == []
    return found


@pytest.fixture(scope="module")
def index(tiny_models, sentences, tmp_path_factory):
    documents = [Document(f"d{i}", "", sentences[i], {}) for i in range(9)]
    documents[0] = Document(IMAGE, SCRIPT, f"{sentences[0]} {IMAGE}", {})
    folder = tmp_path_factory.mktemp("notebook") / "c"
    return build(Collection.create(Corpus(documents, None, "made here", []), folder), tiny_models["qwen2"])


def test_hits_show_themselves(index, tiny_models):
    hits = index.hits(tiny_models["qwen2"].encode(["a river"], role="query")[0], 9)
    assert isinstance(hits, list)
    found = inert(hits._repr_html_())
    assert found.names.count("tr") == 10
    for hit in hits:
        assert f"{hit.score:.4f}" in found.text
        assert " ".join(hit.document.text.split())[:100] in found.text
    assert SCRIPT in found.text
    assert inert(Hits()._repr_html_()).text == "No document was found."


def test_an_explanation_shows_itself(index, tiny_models):
    explainer = Explainer(index, tiny_models["qwen2"])
    (explanation,) = explainer.why("a river", [explainer.row(IMAGE)])
    found = inert(explanation._repr_html_())
    assert f"score {explanation.score:.4f}" in found.text
    for name, value in explanation.blocks().items():
        assert f"{name}{value:+.4f}".replace("-", "−") in found.text
    assert found.names.count("tr") == 2 + len(explanation.blocks()) + len(explanation.document_sentences())


def test_a_map_shows_itself(index):
    ((_, made),) = map_collection(index.collection, [(index.model_name, index.default_pooling)], save=False).items()
    found = inert(made._repr_html_())
    assert "9 documents" in found.text
    assert found.names.count("svg") == 1
    assert made._repr_html_().count("h0") == 9


def test_a_large_map_is_thinned_and_its_names_are_texts():
    points = np.random.default_rng(0).normal(size=(12_001, 3)).astype(np.float32)
    regions = Regions((np.arange(12_001) % 3 - 1).astype(np.int32), [SCRIPT, "rivers"], [[], []])
    html = map_html(Map([], points, {"column": IMAGE}, {}, regions))
    found = inert(html)
    assert SCRIPT in found.text
    assert "rivers" in found.text
    assert "12,001 documents, of which 4,001 are drawn" in found.text
    assert html.count("h0") == 4001 <= POINTS
    assert len(html) < 150_000


@pytest.fixture(scope="module")
def columns(index, tiny_models, sentences, tmp_path_factory):
    """Those of the same collection, with encoders whose vectors split (mini) and do not (cls)."""
    root = tmp_path_factory.mktemp("notebook-encoders")
    for name, pooling in (("mini", "mean"), ("cls", "cls")):
        encoded.build(index.collection, Encoder.load(str(save_encoder(root / name, sentences, pooling=pooling))))
    return Columns(index.collection, explainer=lambda opened: Explainer(opened, tiny_models["qwen2"]))


@pytest.mark.parametrize("name", ["bm25", "st:mini", "st:cls", "bm25+0.5*st:mini", "bm25+MODEL", "rrf(bm25,st:mini)"])
def test_ledgers_show_themselves(columns, index, sentences, name):
    column = columns.open(name.replace("MODEL", index.model_name))
    ledger = column.explain(f"river {sentences[0]} {SCRIPT}", IMAGE)
    shown = inert(ledger._repr_html_())
    assert f"{IMAGE}: rank {ledger.rank} by {column.id}, score {ledger.score:.4f} = the sum of its parts" in shown.text
    opened = [line.opened for line in ledger.walk() if line.opened]
    lines = [line for one in (ledger, *opened) for line in one.walk() if line.kind != "token"]
    for line in lines:
        assert f"{line.value:+.4f}".replace("-", "−") in shown.text
    # a head, a line for each part, one for each ledger inside, and where there are several groups theirs
    totals = ledger.totals()
    assert shown.names.count("tr") == 1 + len(lines) + len(opened) + (1 + len(totals)) * (len(totals) > 1)
    for note in ledger.notes:
        assert note in shown.text
    assert ("script" in shown.text) == (name != "st:cls")


def test_a_long_ledger_says_what_it_leaves_out(columns):
    ledger = columns.open("bm25").explain("river", IMAGE)
    shown = inert(replace(ledger, lines=ledger.lines * (LINES + 3))._repr_html_())
    assert shown.names.count("tr") == 1 + LINES
    assert "3 further parts are not shown" in shown.text
