"""What is on the screen as one HTML file, opened from the disk with the network off; hits as CSV and JSON.
The corpus is hostile.
"""

from __future__ import annotations

import csv
import io
import json
import re
from urllib.parse import urlencode

import pytest
from explorer_world import IMAGE, QUERY, SCRIPT
from playwright.sync_api import expect


def link(url: str, **more: str) -> str:
    asked = {"collection": "world", "a": "tiny-a:rationale", "b": "tiny-b:rationale", "k": "20", "q": QUERY}
    return f"{url}?{urlencode(asked | more)}"


def saved(page, press, path):
    with page.expect_download() as waiting:
        press()
    waiting.value.save_as(path)
    return waiting.value.suggested_filename


@pytest.fixture
def offline(chromium):
    """Opens a saved file in a browser without network; fails its test on a script error, a request, or
    anything that ran.
    """
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page = context.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("console", lambda message: wrong.append(f"console: {message.text}") if message.type == "error" else None)
    page.on(
        "request",
        lambda request: wrong.append(request.url) if not request.url.startswith(("file://", "data:")) else None,
    )

    def show(path):
        page.goto(path.as_uri())
        return page

    yield show
    assert page.evaluate("window.pwned") is None
    context.close()
    assert wrong == []


def is_inert(page) -> None:
    assert page.locator("script, iframe, object, embed, form, link, button, input, textarea").count() == 0
    names = page.evaluate("[...document.querySelectorAll('*')].flatMap((one) => one.getAttributeNames())")
    assert not [name for name in names if name.startswith("on") or name in ("href", "srcdoc", "action")]
    assert page.evaluate(
        "[...document.images].every((i) => i.src.startsWith('data:image/png') && i.complete && i.naturalWidth > 0)"
    )


def test_a_search_is_saved(page, url, offline, tmp_path):
    page.goto(link(url))
    expect(page.locator(".g-results:not([data-busy]) .g-column-b .g-hit")).to_have_count(20)
    shown = {side: page.locator(f".g-column-{side} .g-open").all_inner_texts() for side in "ab"}
    rationales = page.locator(".g-rationale-text").all_inner_texts()
    name = saved(page, lambda: page.get_by_role("button", name="This page as a file").click(), tmp_path / "saved.html")
    assert re.fullmatch(r"grace-world-\d{4}-\d\d-\d\d\.html", name)
    expect(page.locator(".g-saved")).to_have_text(re.compile(rf"^Saved {re.escape(name)}, \d+ kB$"))
    text = (tmp_path / "saved.html").read_text(encoding="utf-8")
    assert SCRIPT not in text
    assert IMAGE not in text
    alone = offline(tmp_path / "saved.html")
    is_inert(alone)
    assert alone.title() == f"{QUERY} · GRACE Explorer"
    expect(alone.locator("h1")).to_have_text(QUERY)
    for side in "ab":
        assert alone.locator(f".g-column-{side} .g-open").all_inner_texts() == shown[side]
    assert alone.locator(".g-rationale-text").all_inner_texts() == rationales
    hostile = alone.locator(".g-hit", has_text="Marked <script>").first
    hostile.locator("summary").click()
    expect(hostile.locator("details p").last).to_contain_text(IMAGE)
    assert len(hostile.locator(".g-rationale-said").inner_text()) > 100
    alone.screenshot(path=tmp_path / "saved.png", full_page=True)


def test_an_opened_explanation_and_an_edit_are_saved(page, url, offline, tmp_path):
    page.goto(link(url, k="5", doc="d03", why="a"))
    expect(page.locator(".g-figure-heat-map .g-cell").first).to_be_visible()
    sums, cells = page.locator(".g-why-body > .g-sum").inner_text(), page.locator(".g-figure-heat-map .g-cell").count()
    page.get_by_role("tab", name="What if?").click()
    expect(page.locator(".g-outcome .g-new")).to_be_visible()
    page.locator(".g-strike").first.click()
    expect(page.locator(".g-outcome:not([aria-busy]) .g-new")).to_be_visible()
    outcome = page.locator(".g-new b").inner_text()
    saved(page, lambda: page.get_by_role("button", name="Save as a file").click(), tmp_path / "opened.html")
    expect(page.locator(".g-dialog .g-keep")).to_contain_text("Saved grace-world-")
    alone = offline(tmp_path / "opened.html")
    is_inert(alone)
    expect(alone.locator(".g-dialog h2").first).to_have_text(f"Marked {SCRIPT}")
    expect(alone.locator(".g-panel > h2")).to_have_text(["Rationales", "Why?", "What if?"])
    assert alone.locator(".g-why-body > .g-sum").inner_text() == sums
    expect(alone.locator(".g-figure-heat-map .g-cell")).to_have_count(cells)
    assert alone.locator(".g-new b").inner_text() == outcome
    expect(alone.locator(".g-column-a .g-hit")).to_have_count(5)
    alone.screenshot(path=tmp_path / "opened.png", full_page=True)


def test_the_map_is_saved_with_its_selection(page, url, offline, tmp_path):
    page.goto(
        f"{url}?{urlencode({'tab': 'map', 'corpus': 'world', 'left': 'tiny-a:rationale', 'right': 'tiny-b:rationale'})}"
    )
    expect(page.locator(".g-map-title").first).to_contain_text("tiny-a")
    expect(page.locator(".g-map-canvas .main-svg").first).to_be_visible()
    page.fill(".g-map-find input", "story")
    page.locator("[data-do=select-found]").click()
    expect(page.locator(".g-map-selection")).to_contain_text("selected")
    page.get_by_role("tab", name="Explore").click()
    page.fill("#g-query textarea", QUERY)
    page.press("#g-query textarea", "Enter")
    expect(page.locator(".g-results:not([data-busy]) .g-column-b .g-hit").first).to_be_visible()
    saved(page, lambda: page.get_by_role("button", name="This page as a file").click(), tmp_path / "map.html")
    alone = offline(tmp_path / "map.html")
    is_inert(alone)
    expect(alone.locator(".g-map-image")).to_have_count(2)
    expect(alone.locator(".g-map-selection")).to_contain_text("selected")
    alone.screenshot(path=tmp_path / "map.png", full_page=True)


def test_the_map_has_a_button_of_its_own(page, url, offline, tmp_path):
    asked = {"tab": "map", "corpus": "world", "left": "tiny-a:rationale", "right": "tiny-b:rationale"}
    page.goto(f"{url}?{urlencode(asked | {'star': QUERY, 'find': 'story', 'point': 'd03'})}")
    card = page.locator(".g-map-card")
    expect(card).to_contain_text(f"Marked {SCRIPT}")
    expect(page.locator(".g-star")).to_have_count(2)
    press = page.locator("#g-map").get_by_role("button", name="Save as a file").click
    name = saved(page, press, tmp_path / "map.html")
    assert re.fullmatch(r"grace-world-map-\d{4}-\d\d-\d\d\.html", name)
    expect(page.locator(".g-map-saved")).to_have_text(re.compile(rf"^Saved {re.escape(name)}, \d+ kB$"))
    alone = offline(tmp_path / "map.html")
    is_inert(alone)
    expect(alone.locator("h1")).to_have_text("Map of world")
    head = "A: tiny-a · with rationale · B: tiny-b · with rationale · coloured by kind"
    expect(alone.locator("header p").first).to_have_text(f"{head} · query on the maps: {QUERY} · highlighted: story")
    expect(alone.locator(".g-map-image")).to_have_count(2)
    expect(alone.locator(".g-map-card")).to_contain_text(IMAGE)
    expect(alone.locator(".g-star")).to_have_count(2)
    expect(alone.locator(".g-column-a .g-hit")).to_have_count(0)  # of the map alone
    alone.screenshot(path=tmp_path / "map.png", full_page=True)


def test_hits_are_saved_as_tables(page, url, tmp_path):
    page.goto(link(url, k="20"))
    expect(page.locator(".g-results:not([data-busy]) .g-column-b .g-hit")).to_have_count(20)
    ids = [
        page.locator(f".g-column-{side} .g-hit").evaluate_all("all => all.map((hit) => hit.dataset.hit)")
        for side in "ab"
    ]
    scores = page.locator(".g-column-a .g-score").all_inner_texts()
    saved(page, lambda: page.get_by_role("button", name="Hits as JSON").click(), tmp_path / "hits.json")
    found = json.loads((tmp_path / "hits.json").read_text(encoding="utf-8"))
    assert [[hit["id"] for hit in column["hits"]] for column in found["columns"]] == ids
    assert [f"{hit['score']:.4f}" for hit in found["columns"][0]["hits"]] == scores
    assert (found["query"], found["columns"][1]["label"]) == (QUERY, "tiny-b · with rationale")
    assert found["columns"][0]["query_rationale"]
    saved(page, lambda: page.get_by_role("button", name="Hits as CSV").click(), tmp_path / "hits.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "hits.csv").read_text(encoding="utf-8-sig"))))
    assert [row["id"] for row in rows] == [*ids[0], *ids[1]]
    assert {row["year"] for row in rows} >= {"1905"}
    assert all(row["rationale"] for row in rows)


def test_without_a_search_there_is_nothing_to_save(page, url):
    page.goto(url)
    expect(page.locator(".g-example").first).to_be_visible()
    page.get_by_role("button", name="This page as a file").click()
    expect(page.locator(".g-saved")).to_have_text("ask something first: there is nothing to save yet")
