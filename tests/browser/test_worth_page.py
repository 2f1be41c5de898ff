"""Was it worth writing?, in the open hit: measured at a click, for a column that writes."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from explorer_world import QUERY
from playwright.sync_api import expect


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
