"""BM25, sentence encoders and fusions as a person uses them: chosen, typed, explained, edited, compared, linked to."""

from __future__ import annotations

import os
from urllib.parse import quote

import pytest
from addresses import expect_address
from columns_app import add_encoders
from explorer_world import QUERY, World, served
from playwright.sync_api import expect

FUSED = "0.7*bm25+0.3*tiny-a:rationale"


@pytest.fixture(scope="module")
def site(world, tmp_path_factory, sentences):
    root = tmp_path_factory.mktemp("columns-site")
    add_encoders(world, root, sentences)
    (root / "runs").mkdir()
    with served(World(root)) as address:
        yield address


def searched(page) -> None:
    expect(page.locator(".g-results:not([data-busy]) .g-column-b .g-hit").first).to_be_visible()


def shoot(page, name: str) -> None:
    if folder := os.environ.get("GRACE_SHOTS"):
        page.wait_for_timeout(500)
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def test_columns_are_chosen_and_a_fusion_is_typed(page, site):
    page.goto(f"{site}?q={quote(QUERY)}&a=tiny-a:text&b=tiny-a:rationale")
    searched(page)
    page.click("#g-a input")
    options = page.locator("#g-a").get_by_role("option")
    expect(options.filter(has_text="BM25").first).to_be_visible()
    assert {"BM25", "mini", "BM25 + mini"} <= set(options.all_inner_texts())
    page.locator("#g-a").get_by_role("option", name="BM25", exact=True).click()
    expect(page.locator(".g-column-a h2")).to_have_text("BM25")
    searched(page)
    page.fill("#g-b input", FUSED)
    page.press("#g-b input", "Enter")
    expect(page.locator(".g-column-b h2")).to_have_text("0.7 × BM25 + 0.3 × tiny-a · with rationale")
    searched(page)
    page.wait_for_function(
        "() => new URL(location).searchParams.get('b') && new URL(location).searchParams.get('b').includes('0.7')"
    )
    expect_address(page, a="bm25", b=FUSED)
    shoot(page, "search")
    page.fill("#g-b input", "0.7*bm25+nobody")
    page.press("#g-b input", "Enter")
    expect(page.locator(".g-banner").first).to_contain_text("nobody is none of them")


def test_a_link_opens_the_ledger_of_a_fusion(page, site):
    page.goto(f"{site}?q={quote(QUERY)}&a={quote(FUSED)}&b=bm25&doc=d05&why=a")
    body = page.locator(".g-why-body")
    expect(body.locator(".g-sum").first).to_contain_text("all parts add up to")
    expect(body).to_contain_text("average document")
    residual = float(body.locator(".g-sum").first.inner_text().split("largest residual ")[1])
    assert residual < 1e-5
    expect(body.locator(".g-figure-totals svg text").first).to_be_visible()
    inner = body.locator(".g-ledger details")
    assert inner.count() >= 6
    body.locator(".g-ledger summary", has_text="text × rationale").first.click()
    expect(body.locator(".g-ledger").get_by_text("text × rationale").first).to_be_visible()
    shoot(page, "why-fusion")
    page.locator("#g-panel-why .g-columns-choice label").nth(1).click()
    expect(body.locator("th", has_text="idf")).to_be_visible()
    expect(body).to_contain_text("term of the query")
    shoot(page, "why-bm25")
    expect_address(page, why="b")
    body.locator(".g-against").select_option(index=1)
    expect(body.locator(".g-comparison")).to_contain_text("less")


def test_an_encoder_is_explained_token_by_token_and_a_cls_state_is_not(page, site):
    page.goto(f"{site}?q={quote(QUERY)}&a=st:mini&b=st:cls&doc=d05&why=a")
    expect(page.locator(".g-why-body .g-figure-heat-map")).to_be_visible()
    expect(page.locator(".g-token").first).to_be_visible()
    shoot(page, "why-encoder")
    page.locator("#g-panel-why .g-columns-choice label").nth(1).click()
    expect(page.locator(".g-why-body")).to_contain_text("the exact part ends here")


def test_a_struck_sentence_moves_the_document(page, site):
    page.goto(f"{site}?q={quote(QUERY)}&a={quote(FUSED)}&b=bm25&doc=d05&whatif=a")
    rank = page.locator(".g-new-rank")
    expect(rank).to_be_visible()
    before = page.locator(".g-new b").inner_text()
    page.locator(".g-edit [aria-label^='Strike out text sentence']").first.click()
    expect(page.locator(".g-new b")).not_to_have_text(before)
    page.locator(".g-edit textarea").nth(1).fill(QUERY)
    expect(rank.locator("b")).to_contain_text("→")
    shoot(page, "what-if")


def test_many_columns_in_one_table(page, site):
    page.goto(f"{site}?tab=evaluate&on=world&x=tiny-a:text&y=bm25&more={quote('st:mini|bm25+st:mini')}&split=all")
    expect(page.locator("#g-eval-run")).to_be_enabled()
    page.click("#g-eval-run")
    pairs = page.locator("[aria-label='Differences of pairs']")
    expect(pairs).to_be_visible()
    assert pairs.locator("tbody tr").count() == 4
    expect(page.locator("[aria-label='Metrics'] tbody tr")).to_have_count(5)  # four columns, and B less A
    shoot(page, "evaluate")
    expect_address(page, more="st:mini|bm25+st:mini")


def test_the_map_has_encoders_and_says_that_bm25_and_fusions_have_no_vectors(page, site):
    page.goto(f"{site}?tab=map&corpus=world&left=st:mini&right=tiny-a:text")
    expect(page.locator(".g-map:not([data-busy]) .g-map-chart .main-svg").first).to_be_visible()
    expect(page.locator(".g-map-title").first).to_have_text("mini")
    expect(page.locator(".g-map-panel")).to_contain_text("of 15 neighbours kept on average")
    page.fill("[data-part=star]", QUERY)
    page.press("[data-part=star]", "Enter")
    expect(page.locator(".g-map-panel")).to_contain_text("Nearest to")
    expect(page.locator("[data-side=left] .g-star")).to_be_visible()
    shoot(page, "map-encoder")
    options = page.locator("select[data-set=left] optgroup option")
    assert options.all_inner_texts() == ["BM25 (counts words)", "fusions (put scores together)"]
    assert options.evaluate_all("all => all.every(one => one.disabled)")
    page.goto(f"{site}?tab=map&corpus=world&left=bm25&right={quote(FUSED)}")
    banners = page.locator(".g-map-banner")
    expect(banners).to_contain_text("BM25 counts words and has no vectors, so it has no map; it is compared in Explore")
    expect(banners).to_contain_text("has no vectors of its own")
