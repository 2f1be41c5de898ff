"""The Mend tab as a person uses it: from a failing query to a kept mend and back, and the ways that lead there."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from addresses import expect_address
from explorer_world import QUERY, SCRIPT, make_world, served
from playwright.sync_api import expect
from small_world import make_small

VIEW = "?tab=mend&corpus=world&model=tiny-a&judged=all"
WORDS = f"A river under a bridge in summer. {SCRIPT}"


@pytest.fixture(scope="module")
def mending(tmp_path_factory, new_model, sentences):
    """The address of an app over collections of its own, which a test may change if it reverts that."""
    world = make_world(tmp_path_factory.mktemp("mending"), new_model, sentences)
    make_small(world, sentences)
    with served(world, "--collection", "world") as url:
        yield url


def test_from_a_failing_query_to_a_kept_mend_and_back(page, mending):
    page.goto(mending + VIEW)
    expect(page.locator(".g-mend")).to_contain_text("Nothing was mended here yet.")
    page.get_by_role("button", name="Find failing queries").click()
    first = page.locator(".g-mend-query").first
    first.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".g-mend [data-part=query]")).to_contain_text("is not relevant")
    expect(first).to_have_attribute("aria-pressed", "true")
    expect_address(page, query=first.get_attribute("data-query"))
    page.get_by_role("button", name="Change the rationale of").last.click()
    page.get_by_label("Rationale of tiny-a").fill(WORDS)
    page.get_by_role("button", name="Try these words").click()
    expect(page.locator(".g-mend-replay")).to_contain_text("over all 3 replayed queries")
    expect(page.locator(".g-mend-replay")).to_contain_text(WORDS)
    document = expect_address(page, document=None)["document"]
    page.get_by_label("Note").fill("too general")
    page.get_by_role("button", name="Keep").click()
    expect(page.locator(".g-mend-banner")).to_contain_text(f"Kept as m1: {document}")
    entry = page.locator(".g-mend-history > li")
    expect(entry).to_have_count(1)
    expect(entry).to_contain_text("too general")
    expect(page.get_by_label("Rationale of tiny-a")).to_have_value(WORDS)
    page.get_by_role("button", name="Revert m1").click()
    expect(page.locator(".g-mend-banner")).to_contain_text("m1 is reverted")
    expect(entry).to_contain_text("reverted")
    expect(page.get_by_role("button", name="Revert m1")).to_have_count(0)


def test_a_link_opens_query_and_document_and_a_remedy_is_tried(page, mending):
    page.goto(mending + VIEW + "&query=q3&document=d09")
    expect(page.get_by_label("Rationale of tiny-a")).to_be_visible()
    expect(page.locator(".g-mend [data-part=query] section")).to_contain_text("how fast the ice melts")
    page.get_by_role("button", name="Try without it").last.click()
    expect(page.locator(".g-mend-replay")).to_contain_text("no rationale")
    page.get_by_role("button", name="Write it again").click()
    expect(page.locator(".g-mend-replay")).not_to_contain_text("no rationale")
    page.get_by_role("button", name="Open in Explore").click()
    expect(page.locator(".g-hit").first).to_be_visible()
    expect_address(page, q="how fast the ice melts")


def test_the_open_hit_leads_to_its_rationale(page, mending):
    page.goto(f"{mending}?collection=world&a=tiny-a:text&b=tiny-b:rationale&k=5&q={quote(QUERY)}&doc=d05")
    page.get_by_role("button", name="Mend tiny-b’s rationale").click()
    expect(page.get_by_label("Rationale of tiny-b")).to_be_visible()
    expect(page.locator(".g-overlay")).to_have_count(0)
    expect_address(page, tab="mend", model="tiny-b", document="d05")


def test_a_query_in_evaluate_leads_to_its_causes(page, mending):
    page.goto(f"{mending}?tab=evaluate&on=world&x=tiny-a:rationale&y=tiny-a:rationale&judged=all")
    page.get_by_role("button", name="Evaluate", exact=True).click()
    page.get_by_role("button", name="Mend tiny-a").first.click()
    expect(page.locator(".g-mend [data-part=query] section")).to_contain_text("is not relevant")
    expect_address(page, tab="mend", query=None)


def test_where_nothing_can_be_mended_a_line_says_so(page, mending):
    for corpus, line in (("plain", "plain has no rationales"), ("unjudged", "unjudged has no judged queries")):
        page.goto(f"{mending}?tab=mend&corpus={corpus}")
        expect(page.locator(".g-mend")).to_contain_text(line)
        expect(page.get_by_role("button", name="Find failing queries")).to_be_hidden()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1180, 1440])
def test_nothing_overflows_and_words_can_be_read(page, mending, contrast, theme, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(mending + VIEW + f"&query=q3&document=d09&__theme={theme}")
    page.get_by_role("button", name="Find failing queries").click()
    expect(page.locator(".g-mend-query").first).to_be_visible()
    page.get_by_role("button", name="Try these words").click()
    expect(page.locator(".g-mend [data-part=replay] section")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for selector in (".g-mend-figure", ".g-mend-text", ".g-mend textarea", ".g-mend section p", ".g-mend-causes p"):
        assert contrast(selector, "color") >= 4.5, selector


def test_the_address_is_that_of_the_tab_that_is_looked_at(page, mending):
    page.goto(mending + VIEW + "&query=q3&document=d09")
    expect(page.get_by_label("Rationale of tiny-a")).to_be_visible()
    page.get_by_role("tab", name="Reasons").click()
    expect_address(page, "query", "document", "judged", tab="reasons", model=None)
    page.get_by_role("tab", name="Mend").click()
    expect_address(page, tab="mend", query="q3", document="d09", judged="all")
    page.get_by_role("tab", name="Explore").click()
    expect_address(page, "tab", "corpus", "query", "document")
