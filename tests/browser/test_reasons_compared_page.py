"""Two models by reasons, and a model beside its text alone, as a person uses it; and the Reasons tab of collections in
which there is little to show.
"""

from __future__ import annotations

import pytest
from addresses import expect_address
from explorer_world import QUERY, make_world, served
from playwright.sync_api import expect
from small_world import make_small

VIEW = "?tab=reasons&corpus=world&model=tiny-a"
WAIT = 120_000


@pytest.fixture(scope="module")
def compared(tmp_path_factory, new_model, sentences, chromium):
    """The address of the app once tiny-a was compared with tiny-b and with its text alone by the buttons, over the split
    test.
    """
    world = make_world(tmp_path_factory.mktemp("compared"), new_model, sentences)
    make_small(world, sentences)
    with served(world, "--collection", "world") as url:
        page = chromium.new_page()
        page.set_default_timeout(WAIT)
        page.goto(url + VIEW)
        page.get_by_role("button", name="Find the reasons").click()
        expect(page.locator(".g-reason").first).to_be_visible(timeout=WAIT)
        expect(page.locator("select[data-set=judged]")).to_be_disabled()
        page.get_by_label("Compare with").select_option("tiny-b")
        expect(page.locator(".g-reasons-comparison")).to_contain_text("2 judged queries of the split test")
        page.get_by_role("button", name="Compare", exact=True).click()
        expect(page.locator(".g-versus-way")).to_have_count(3, timeout=WAIT)
        page.get_by_label("Compare with").select_option(label="tiny-a, its text alone")
        expect(page.locator(".g-reasons-comparison")).to_contain_text("of the documents nothing is encoded again")
        page.get_by_role("button", name="Compare", exact=True).click()
        expect(page.locator(".g-versus-way")).to_have_count(2, timeout=WAIT)
        page.close()
        yield url


def test_a_link_opens_the_comparison_and_a_reason_of_it(page, compared):
    page.goto(compared + VIEW + "&against=tiny-b&judged=test")
    expect(page.locator(".g-versus-way")).to_have_count(3)
    expect(page.get_by_role("button", name="Compare", exact=True)).to_be_hidden()
    name = page.locator(".g-versus-reasons .g-versus-name").first
    words = name.inner_text()
    name.click()
    expect(page.locator(".g-reasons-opened h2")).to_have_text(words)
    expect_address(page, against="tiny-b")
    page.get_by_label("Judged queries").select_option("all")
    expect(page.locator(".g-reasons-comparison")).to_contain_text("3 judged queries")
    expect(page.get_by_role("button", name="Compare", exact=True)).to_be_visible()
    expect_address(page, judged="all")
    page.get_by_label("Compare with").select_option("")
    expect(page.locator(".g-reasons-comparison")).to_be_hidden()
    expect_address(page, "against", "judged", "queries")


def test_a_telling_query_leads_to_explore_with_both_models(page, compared):
    page.goto(compared + VIEW + "&against=tiny-b&judged=test")
    page.locator(".g-versus-query", has_text=QUERY).focus()
    page.keyboard.press("Enter")
    expect(page.locator(".g-hit").first).to_be_visible()
    expect_address(page, q=QUERY, a="tiny-a:rationale", b="tiny-b:rationale")


def test_the_text_alone_says_what_moves_hits_and_leads_to_explore_with_both_columns(page, compared):
    page.goto(compared + VIEW + "&against=tiny-a%3Atext&judged=test")
    expect(page.locator(".g-versus h3")).to_have_text("tiny-a: text and rationale against its text alone")
    expect(page.locator(".g-versus-moved")).to_contain_text("nothing else can move them")
    expect(page.locator(".g-versus-step")).to_have_text(["words →"])
    heads = page.locator(".g-versus-reasons").get_by_role("columnheader")
    expect(heads).to_have_text(["reason", "change, drawn", "change", "lift", "before", "after"])
    query = page.locator(".g-versus-query", has_text=QUERY)
    expect(query).to_contain_text("came: ")
    query.press("Enter")
    expect(page.locator(".g-hit").first).to_be_visible()
    expect_address(page, q=QUERY, a="tiny-a:text", b="tiny-a:rationale")


def test_a_collection_without_judgements_says_so(page, compared):
    page.goto(compared + "?tab=reasons&corpus=unjudged&model=tiny-a")
    page.get_by_role("button", name="Find the reasons").click()
    page.get_by_label("Compare with").select_option("tiny-b")
    expect(page.locator(".g-reasons-comparison")).to_contain_text("unjudged has no judged queries")
    expect(page.get_by_role("button", name="Compare", exact=True)).to_be_hidden()


@pytest.mark.parametrize("corpus", ["five", "chinese"])
def test_small_and_chinese_collections(page, compared, corpus):
    """Whatever is opened, split and clicked there: ``page`` fails the test on a script error."""
    page.goto(compared + f"?tab=reasons&corpus={corpus}&model=tiny-a")
    page.get_by_role("button", name="Find the reasons").click()
    expect(page.locator(".g-reason").first).to_be_visible()
    expect(page.get_by_label("Compare with").locator("option")).to_have_text(["nothing", "tiny-a, its text alone"])
    page.locator(".g-reason").first.click()
    expect(page.locator(".g-reason-document").first).to_be_visible()
    page.get_by_label("Query to split by reasons").fill("河流在哪里" if corpus == "chinese" else "river")
    page.keyboard.press("Enter")
    expect(page.locator(".g-split-hit").first).to_be_visible()
    page.get_by_label("How much more, or less, of this reason").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".g-split-steered").first).to_be_visible()
    expect(page.locator(".g-reasons-banner")).to_be_empty()


def test_a_collection_without_rationales_offers_no_comparison(page, compared):
    page.goto(compared + "?tab=reasons&corpus=plain")
    expect(page.locator(".g-reasons")).to_contain_text("plain has no rationales")
    expect(page.get_by_label("Compare with")).to_be_hidden()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1180, 1440])
@pytest.mark.parametrize("against", ["tiny-b", "tiny-a:text"])
def test_nothing_overflows_and_words_can_be_read(page, compared, contrast, theme, width, against):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(compared + VIEW + f"&against={against}&judged=test&__theme={theme}")
    expect(page.locator(".g-versus-query").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(".g-versus-share").evaluate_all("all => all.every(one => one.scrollWidth <= one.clientWidth)")
    for selector in (
        ".g-versus-step",
        ".g-versus-share",
        ".g-versus-table thead th",
        ".g-versus-first",
        ".g-versus-name",
    ):
        assert contrast(selector, "color") >= 4.5, selector
