"""Was it worth writing?, in the open hit: measured at a click, for a column that writes; and in the Evaluate tab: curves of
what was kept of a model.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from urllib.parse import quote

import pytest
from explorer_world import QUERY
from playwright.sync_api import expect

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "grace_core"))

from worth_world import ABOUT, BUDGETS, random_summary


def opened(page, url: str, a: str, b: str, more: str = ""):
    page.goto(f"{url}?collection=world&a={a}&b={b}&k=5&q={quote(QUERY)}&doc=d05{more}")
    expect(page.locator(".g-dialog h2")).to_be_visible()


def test_it_is_measured_at_a_click_and_starts_from_the_ranks_that_are_shown(page, url):
    opened(page, url, "tiny-a:text", "tiny-b:rationale")
    expect(page.locator(".g-worth table")).to_have_count(0)
    expect(page.get_by_role("button", name="Measure in column A")).to_have_count(0)
    page.get_by_role("button", name="Measure in column B").press("Enter")
    rows = page.locator(".g-worth tbody tr")
    expect(rows).to_have_count(4)
    score = page.locator(".g-place-b .g-score").inner_text()
    rank = re.search(r"rank ([\d,]+)", page.locator(".g-place-b").inner_text())[1]
    for cell in rows.first.locator("td").all():
        assert cell.inner_text().replace("−", "-").split() == [score, "rank", rank]
    expect(page.locator(".g-worth")).to_contain_text("200 tokens")


def test_columns_that_write_nothing_have_no_such_section(page, url):
    opened(page, url, "tiny-a:text", "bm25")
    expect(page.locator(".g-worth")).to_have_count(0)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1180, 1440])
def test_it_fits_and_can_be_read(page, url, contrast, theme, width):
    page.set_viewport_size({"width": width, "height": 900})
    opened(page, url, "tiny-a:rationale", "tiny-b:rationale", f"&__theme={theme}")
    for side in "AB":
        page.get_by_role("button", name=f"Measure in column {side}").click()
    expect(page.locator(".g-worth tbody tr")).to_have_count(8)
    box = page.locator(".g-worth")
    assert box.evaluate("one => one.scrollWidth <= one.clientWidth")
    for selector in (".g-worth td", ".g-worth td span", ".g-worth thead th:last-child"):
        assert contrast(selector, "color") >= 4.5, selector


EVALUATE = "?tab=evaluate&on=world&x=tiny-a%3Atext&y=tiny-a%3Arationale"


@pytest.fixture(scope="module")
def kept(world, url):
    """The address, once something is kept of tiny-a."""
    from grace_core.evaluation import stored_worth
    from grace_core.index import GraceIndex

    index = GraceIndex(world.indexes / "world", "tiny-a")
    stored_worth.save(index, ABOUT, random_summary())
    yield url
    (index.folder / stored_worth.FILE).unlink()


def test_what_was_kept_is_drawn_once_it_is_unfolded_and_can_be_saved(page, kept):
    page.goto(kept + EVALUATE)
    section = page.locator(".g-eval-worth")
    expect(section).to_have_count(1)
    section.locator("summary").press("Enter")
    expect(section.locator("svg")).to_have_count(2)
    dots = section.locator(".g-figure-tokens circle")
    expect(dots).to_have_count(3 * (1 + len(BUDGETS)))
    expect(section.locator(".g-figure-gate circle")).to_have_count(3)
    expect(section.locator(".g-eval-worth-words").first).to_contain_text("Writing was worth it")
    result = random_summary()["budgets"]["queries"][128]
    tip = f"queries write, documents have theirs, 128 tokens: {result['mean']:.3f}, 95 % interval"
    assert any(text.startswith(tip) for text in section.locator("title").all_text_contents())
    with page.expect_download() as download:
        section.get_by_role("button", name="as SVG").first.click()
    assert download.value.suggested_filename == "grace-tokens.svg"
    section.locator("summary").press("Enter")
    expect(section.locator("svg").first).to_be_hidden()


def test_where_nothing_was_kept_nothing_is_shown(page, kept):
    page.goto(kept + "?tab=evaluate&on=world&x=tiny-b%3Atext&y=tiny-b%3Arationale")
    expect(page.locator(".g-eval-which")).to_be_visible()
    expect(page.locator(".g-eval-worth, .g-eval-worth-stale")).to_have_count(0)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1180, 1440])
def test_the_curves_fit_and_can_be_read(page, kept, contrast, theme, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(f"{kept}{EVALUATE}&__theme={theme}")
    page.locator(".g-eval-worth summary").click()
    expect(page.locator(".g-eval-worth svg")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(".g-eval-worth .g-drawing").evaluate_all(
        "all => all.every(one => one.scrollWidth <= one.clientWidth)"
    )
    for selector, what in (
        (".g-eval-worth-words", "color"),
        (".g-eval-worth .g-words", "color"),
        (".g-eval-worth-table thead th", "color"),
        (".g-eval-worth .g-tick", "fill"),
    ):
        assert contrast(selector, what) >= 4.5, selector
    for side in ("both", "queries", "alone", "gate", "random"):
        assert contrast(f".g-eval-worth .g-eval-line.g-eval-by-{side}", "stroke") >= 3, side
