"""A page whose requests overtake one another, as they do between a busy browser and a busy server."""

from __future__ import annotations

from playwright.sync_api import expect

# What was asked before the page's controls held anything comes late.
LATE = """
const send = window.fetch;
window.fetch = async (...about) => {
    if (String(about[0]).includes('/queue/join') && about[1].body.startsWith('{"data":[null')) {
        await new Promise((done) => setTimeout(done, 1500));
    }
    return send(...about);
};
"""
LINK = "?collection=world&a=tiny-a:rationale&b=tiny-b:rationale&k=5&q=river+and+town&doc=d05"


def test_a_link_to_a_document_opens_with_its_query(page, url):
    page.add_init_script(LATE)
    page.goto(url + LINK)
    expect(page.get_by_role("dialog")).to_be_visible()
    page.wait_for_timeout(1500)  # for what is late
    expect(page.locator("#g-query textarea")).to_have_value("river and town")
    held = [page.locator(f"{part} input").first.input_value() for part in ("#g-collection", "#g-a", "#g-b")]
    assert held == ["world", "tiny-a · with rationale", "tiny-b · with rationale"]
    expect(page.locator("#g-k label:has(input:checked)")).to_have_text("5")
    expect(page.locator(".g-column-a .g-hit")).to_have_count(5)
