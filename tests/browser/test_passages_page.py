"""Passages in the page: seen before a build, and in the whole document of a hit."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "grace_core"))

from pdf_files import pdf
from reader_files import write

from grace_core.collection import Collection
from grace_core.index import build
from grace_core.model import GraceModel
from grace_core.passages import Chunk
from grace_core.readers import read_corpus
from grace_core.readers.chunked import chunked

HOSTILE = "<img src=x onerror=\"window.pwned='passage'\">"


@pytest.fixture(scope="module")
def book(world, sentences):
    """A collection of passages beside the world's own: a PDF file of two hundred pages, and a page of HTML
    with markup as text.
    """
    files = world.files / "book"
    write(
        files / "book.pdf",
        pdf([f"{sentences[page]} Page {page + 1} tells of bell number {page + 1}." for page in range(200)]),
    )
    write(
        files / "notes.md",
        f"# Notes {HOSTILE}\n\nA river rises. {HOSTILE}\n\n## Towers\n\nThe tower has a zebra. {HOSTILE}\n",
    )
    collection = Collection.create(chunked(read_corpus(files), Chunk(12)), world.indexes / "book")
    build(collection, GraceModel.from_pretrained(world.model, max_new_tokens=4), rationale=True)
    return collection


def ask(page, url: str, query: str) -> None:
    page.goto(f"{url}?collection=book&a=bm25&b=bm25&k=5&q={query}")
    expect(page.locator(".g-results:not([data-busy]) .g-column-a .g-hit").first).to_be_visible()


def test_the_page_opens_at_the_passage_and_the_others_are_a_click_away(page, url, book):
    ask(page, url, "bell+number+117")
    first = page.locator(".g-column-a .g-hit").first
    expect(first).to_contain_text("page 117")
    expect(page.locator(".g-column-a .g-hit")).to_have_count(2)  # documents, not passages
    first.click()
    lit = page.locator("#g-passage")
    expect(lit).to_contain_text("bell number 117")
    box, place = page.locator(".g-whole").bounding_box(), lit.bounding_box()
    assert box["y"] <= place["y"] <= box["y"] + box["height"]
    expect(page.locator(".g-whole")).to_contain_text("bell number 200")
    expect(page.locator(".g-page-break", has_text=re.compile("^page 117$"))).to_be_visible()
    current = page.locator(".g-passages [aria-current]")
    expect(current).to_contain_text("page 117")
    row = page.locator(".g-passages li", has_text="page 42").first
    row.locator("button").click()
    expect(page.locator(".g-passages [aria-current]")).to_contain_text("page 42")
    expect(page.locator(".g-lit").first).not_to_contain_text("number 117")
    box, place = page.locator(".g-whole").bounding_box(), page.locator("#g-passage").bounding_box()
    assert box["y"] <= place["y"] <= box["y"] + box["height"]
    assert re.search(r"doc=book\.pdf%23\d+", page.url)
    page.reload()
    expect(page.locator(".g-passages [aria-current]")).to_contain_text("page 42")
    page.get_by_role("tab", name="Why?").click()
    expect(page.locator("#g-panel-why")).to_be_visible()


def test_headings_are_told_and_markup_stays_text(page, url, book):
    ask(page, url, "zebra+tower")
    first = page.locator(".g-column-a .g-hit").first
    expect(first).to_contain_text("Towers")
    first.click()
    expect(page.locator(".g-lit", has_text="zebra").first).to_be_visible()
    expect(page.locator(".g-whole")).to_contain_text(HOSTILE)
    expect(page.locator(".g-whole img, .g-passages img")).to_have_count(0)


def test_passages_are_shown_before_a_build_of_several_files(page, url, world, tmp_path):
    one = write(
        tmp_path / "rivers.md",
        f"# Rivers\n\nThe river rises. It flows to the sea.\n\n## Deltas {HOSTILE}\n\nSilt settles there.",
    )
    two = write(tmp_path / "pages.pdf", pdf(["A first page about bells.", "A second page about towers."]))
    three = write(tmp_path / "site.html", "<title>Site</title><h1>Snow</h1><p>Snow lies deep.")
    page.goto(url)
    expect(page.locator(".g-example").first).to_be_visible()
    page.get_by_role("tab", name="Corpus").click()
    expect(page.locator("#g-build")).to_be_visible()
    page.set_input_files("#g-file input[type=file]", [str(path) for path in (one, two, three)])
    expect(page.locator(".g-table tbody tr")).to_have_count(3)
    page.fill("#g-words input, #g-words textarea", "6")
    rows = page.locator(".g-split li")
    expect(rows).to_have_count(7)
    expect(page.locator(".g-split-preview")).to_contain_text("The 3 documents make 7 passages of at most 6 words")
    expect(rows.nth(1)).to_contain_text("page 2")
    page.fill("#g-shared input, #g-shared textarea", "9")
    expect(page.locator("#g-corpus-message")).to_contain_text("expected fewer words than the 6 of a passage")
    page.fill("#g-shared input, #g-shared textarea", "")
    page.fill("#g-name input, #g-name textarea", "several")
    page.fill("#g-model input", world.model)
    page.press("#g-model input", "Enter")
    page.click("#g-build")
    expect(page.locator(".g-job")).to_have_attribute("data-state", "done")
    expect(page.locator(".g-job")).to_contain_text("7 of 7 passages")
    page.get_by_role("button", name="Explore it").click()
    expect(page.locator(".g-empty")).to_contain_text("3 documents of several")
    assert Collection(world.indexes / "several").chunk == Chunk(6)


def test_documents_rank_by_the_sum_of_their_passages(page, url, book):
    ask(page, url, "bell+tower+zebra")
    by = page.locator("#g-by")
    expect(by).to_be_visible()
    expect(page.locator(".g-summary")).not_to_contain_text("sum of its passages")
    best = page.locator(".g-column-a .g-hit", has_text="book").locator(".g-score").inner_text()
    by.get_by_label("the sum of its passages").check()
    expect(page.locator(".g-summary")).to_contain_text("a document ranks by the sum of its passages")
    first = page.locator(".g-column-a .g-hit").first
    expect(first).to_contain_text("book")
    total = float(first.locator(".g-score").inner_text())
    assert total > 10 * float(best)
    page.wait_for_function("new URL(location).searchParams.get('by') === 'sum'")
    page.reload()  # the link
    expect(page.locator(".g-results:not([data-busy]) .g-column-a .g-hit .g-score").first).to_have_text(f"{total:.4f}")
    expect(by.get_by_label("the sum of its passages")).to_be_checked()
    page.locator(".g-column-a .g-hit").first.click()
    expect(page.locator("#g-panel-read")).to_contain_text(f"ranks by their sum: {total:.4f} in A, {total:.4f} in B")
    page.goto(f"{url}?collection=world&by=sum&q=bell")
    expect(page.locator(".g-banner").first).to_contain_text("world is not split into passages")
    expect(by).to_be_hidden()


def test_the_list_of_passages_is_one_stop_of_the_tab_key(page, url, book):
    ask(page, url, "bell+number+117")
    page.locator(".g-column-a .g-hit").first.click()
    options = page.get_by_role("listbox", name="Passages of this document").get_by_role("option")
    expect(options.first).to_be_visible()
    assert options.count() > 200
    assert options.evaluate_all("all => all.filter(one => one.tabIndex === 0).length") == 1
    page.locator(".g-whole").focus()
    page.keyboard.press("Tab")
    expect(page.locator(".g-passages [aria-current]")).to_be_focused()
    at = options.evaluate_all("all => all.indexOf(document.activeElement)")
    for key, to in (
        ("ArrowDown", at + 1),
        ("ArrowUp", at),
        ("PageUp", at - 10),
        ("End", options.count() - 1),
        ("Home", 0),
    ):
        page.keyboard.press(key)
        expect(options.nth(to)).to_be_focused()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.g-passages')") is None
    page.keyboard.press("Shift+Tab")
    expect(options.first).to_be_focused()  # where one was
    page.keyboard.press("Enter")
    expect(page.locator(".g-passages [aria-current]")).to_contain_text("page 1")
    expect(options.first).to_have_attribute("aria-selected", "true")
