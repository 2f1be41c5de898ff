"""The Evaluate tab as a person uses it: evaluating, reading the picture, and going on to Explore."""

from __future__ import annotations

import pytest
from explorer_world import IMAGE, SCRIPT, served
from judged_world import QUERIES, TEST, add_slow, make_judged
from playwright.sync_api import expect

READY = "#g-eval-scores .g-eval-lexical"  # the row of BM25, which comes last
COLUMNS = "&x=tiny-a:rationale&y=tiny-b:rationale"


@pytest.fixture(scope="module")
def judged(tmp_path_factory, new_model, sentences):
    """With everything of the collection evaluated beforehand, as a collection is shipped."""
    from grace_app.evaluate.evaluations import Evaluations, evaluate
    from grace_app.evaluate.view import ALL, read_evaluate
    from grace_app.workspace.state import Workspace

    world = make_judged(tmp_path_factory.mktemp("judged"), new_model, sentences)
    add_slow(world, new_model, sentences)
    workspace = Workspace(world.indexes, cache_path=world.root / "cache.sqlite")
    for way in ("text", "rationale"):
        view, _ = read_evaluate(workspace, {"on": "judged", "x": f"tiny-a:{way}", "y": f"tiny-b:{way}", "split": ALL})
        list(evaluate(Evaluations(workspace), view))
    return world


@pytest.fixture(scope="module")
def url(judged):
    with served(judged, "--collection", "judged") as address:
        yield address


def opened(page, url, query: str = ""):
    page.goto(f"{url}?tab=evaluate{query}")
    expect(page.locator(READY)).to_be_visible()
    return page


def params(page) -> dict[str, str]:
    return page.evaluate("Object.fromEntries(new URLSearchParams(location.search))")


def texts(page, column: str) -> list[str]:
    return page.locator(f".g-eval-table .g-eval-{column} b").all_inner_texts()


def searched(page) -> dict[str, str]:
    """The address once Explore has answered."""
    expect(page.locator(".g-results:not([data-busy]) .g-column-b .g-hit").first).to_be_visible()
    page.wait_for_function("location.search.includes('q=') && !location.search.includes('tab=')")
    return params(page)


def test_what_is_stored_is_shown_at_once_and_a_link_opens_it_again(page, url):
    opened(page, url)
    expect(page.locator(".g-eval-which")).to_have_text(f"{TEST} judged queries of the split test.")
    expect(page.locator("#g-eval-run")).to_be_disabled()
    assert sum(int(n) for n in page.locator(".g-eval-words b").all_inner_texts()) == TEST
    assert [len(texts(page, name)) for name in ("a", "b", "difference", "lexical")] == [3, 3, 3, 3]
    asked = {"tab": "evaluate", "on": "judged", "x": "tiny-a:rationale", "y": "tiny-b:rationale", "split": "test"}
    assert params(page) == asked
    page.click("#g-eval-b input")
    page.locator("#g-eval-b").get_by_role("option", name="tiny-b · text only").click()
    page.wait_for_function("location.search.includes('tiny-b%3Atext')")
    page.click("#g-eval-split input")
    page.locator("#g-eval-split").get_by_role("option", name="all splits · 30").click()
    expect(page.locator(".g-eval-which")).to_have_text(f"{QUERIES} judged queries.")
    figures = texts(page, "b")
    page.wait_for_function("location.search.includes('split=all')")
    page.reload()
    expect(page.locator(READY)).to_be_visible()
    expect(page.locator(".g-eval-which")).to_have_text(f"{QUERIES} judged queries.")
    assert texts(page, "b") == figures
    expect(page.locator("#g-eval-b input")).to_have_value("tiny-b · text only")
    page.get_by_role("tab", name="Corpus").click()
    page.wait_for_function("location.search === ''")
    page.get_by_role("tab", name="Evaluate").click()
    page.wait_for_function("location.search.includes('split=all')")


def test_the_picture_is_read_by_pointer_and_keys_and_leads_to_explore(page, url):
    opened(page, url, f"{COLUMNS}&split=all")
    counts = page.evaluate("""() => [...document.querySelectorAll('.g-eval-dot')].map(dot => {
        const box = dot.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2, box.width] })""")
    assert 2 <= len(counts) <= QUERIES
    x, y, _ = max(counts, key=lambda found: found[2])  # the largest bubble
    page.mouse.move(x, y)
    expect(page.locator(".g-eval-tip")).to_contain_text("queries · A ")
    expect(page.locator(".g-eval-ring circle")).to_have_count(1)
    page.mouse.click(x, y)
    panel = page.locator(".g-eval-panel")
    expect(panel.locator(".g-probe").first).to_be_focused()
    listed = panel.locator(".g-probe").all_inner_texts()
    assert f"{len(listed)} queries" in panel.inner_text()
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(page.locator(".g-eval-figure")).to_be_focused()
    page.keyboard.press("End")
    lost = page.locator(".g-eval-tip").inner_text()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert page.locator(".g-eval-tip").inner_text() != lost
    page.keyboard.press("End")
    expect(page.locator(".g-eval-tip")).to_have_text(lost, use_inner_text=True)
    page.keyboard.press("Enter")
    if panel.is_visible():
        page.keyboard.press("Enter")  # the first query of the list
    asked = searched(page)
    assert asked.pop("q") in lost
    assert asked == {"collection": "judged", "a": "tiny-a:rationale", "b": "tiny-b:rationale", "k": "10"}
    expect(page.locator("#g-query textarea")).to_be_visible()
    expect(page.locator(".g-summary").filter(has_text="judged relevant")).to_be_visible()


def test_wins_and_losses_are_listed_with_what_was_written(page, url):
    opened(page, url, f"{COLUMNS}&split=all")
    wins = page.get_by_role("region", name="Biggest wins of B")
    first = wins.locator(".g-eval-case").first
    expect(first.locator(".g-eval-written")).to_have_count(4)
    assert float(first.locator(".g-eval-gain").inner_text()) > 0
    gain = page.get_by_role("region", name="Biggest losses of B").locator(".g-eval-gain").first
    assert gain.inner_text().startswith("−")
    second = wins.locator(".g-eval-case").nth(1)
    expect(second.locator(".g-eval-open")).to_be_hidden()
    second.locator("summary").press("Enter")
    query = second.locator(".g-eval-query").inner_text()
    second.get_by_role("button", name="Open in Explore").click()
    assert searched(page)["q"] == query
    assert page.evaluate("scrollY") == 0  # however far down the query was


def test_evaluating_shows_its_progress_can_be_stopped_and_goes_on(page, url):
    opened(page, url, "&on=slow")
    expect(page.locator(".g-eval-which")).to_contain_text("The 30 judged queries are not evaluated yet.")
    expect(page.locator(".g-eval-figure")).to_have_count(0)
    page.click("#g-eval-run")
    expect(page.locator("#g-eval-job .g-job")).to_contain_text("of 60 queries encoded")
    expect(page.locator(".g-eval-figure")).to_be_visible()  # of the first queries, while the others are still to come
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#g-eval-job")).to_contain_text("Stopped. What was evaluated is kept")
    expect(page.locator(".g-eval-which")).to_contain_text("of 30 judged queries so far")
    expect(page.locator("#g-eval-run")).to_be_enabled()
    expect(page.locator(".g-eval-case").first).to_be_visible()
    page.locator("#g-eval-first").get_by_role("radio", name="100").click()
    page.wait_for_function("location.search.includes('first=100')")


def test_a_single_column_has_a_histogram_and_a_collection_without_judgements_says_what_is_missing(page, url):
    opened(page, url, "&x=tiny-a:text&y=tiny-a:text")
    expect(page.locator(".g-eval-bar").first).to_be_visible()
    expect(page.locator(".g-eval-dot, .g-eval-difference")).to_have_count(0)
    page.locator(".g-eval-bar").first.click()
    expect(page.locator(".g-eval-panel .g-probe").first).to_be_visible()
    page.click("#g-eval-collection input")
    page.locator("#g-eval-collection").get_by_role("option", name="unjudged").click()
    empty = page.locator("#g-eval-scores .g-empty")
    expect(empty).to_contain_text("unjudged has no judged queries")
    expect(empty).to_contain_text("grace index build FOLDER --out indexes/unjudged --model MODEL")
    expect(page.locator(".g-eval-figure, .g-eval-case")).to_have_count(0)
    expect(page.locator("#g-eval-run")).to_be_disabled()


def test_markup_in_queries_titles_and_the_address_is_text(page, url):
    opened(page, url, f"&y={SCRIPT}&split=%3Cb%3E")
    banner = page.locator("#g-eval-scores .g-banner-error")
    expect(banner).to_contain_text(f"judged has no column '{SCRIPT}'")
    expect(banner).to_contain_text("judged has no split '<b>'; there are: test, dev, all")
    assert "<b>" in params(page)["split"]  # the address stays until something is chosen
    page.goto(f"{url}?tab=evaluate&x=tiny-a:text&y=tiny-a:text")  # where every query can be listed
    expect(page.locator(READY)).to_be_visible()
    seen = ""
    for bar in page.locator(".g-eval-bar").all():
        bar.click()
        seen += page.locator(".g-eval-panel").inner_text()
        page.keyboard.press("Escape")
    assert IMAGE in seen
    assert SCRIPT in seen
    for part in ("picture", "cases", "scores"):
        expect(page.locator(f"#g-eval-{part} img, #g-eval-{part} script")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark_and_on_a_phone(page, url, contrast, scheme):
    opened(page, url, f"{COLUMNS}&__theme={scheme}")
    for width in (1440, 1180, 390):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(
            "() => Math.abs(document.querySelector('.g-eval-plot svg').viewBox.baseVal.width - "
            "document.querySelector('.g-eval-plot').clientWidth) < 1"
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator(".g-eval-table").bounding_box()["width"] <= width
    words = (
        ".g-eval-interval",
        ".g-eval-level",
        ".g-eval-gain",
        ".g-eval-from",
        ".g-eval-number-better",
        ".g-eval-written",
    )
    for selector in (*words, ".g-eval-open h4"):
        assert contrast(selector, "color") >= 4.5, selector
    for selector in (".g-tick", ".g-eval-axis-a", ".g-eval-axis-b"):
        assert contrast(selector, "fill") >= 4.5, selector
    for selector in (".g-eval-sign-a", ".g-eval-sign-b"):
        assert contrast(selector, "fill") >= 3, selector


def test_a_filter_narrows_the_documents_and_goes_along_to_explore(page, url):
    opened(page, url)
    field = page.locator("#g-eval-where input, #g-eval-where textarea")
    field.fill("_id < 'd10")
    field.press("Enter")
    expect(page.locator("#g-eval-scores .g-banner")).to_contain_text("the quote ' is never closed")
    expect(field).to_have_value("_id < 'd10")  # stays, to be mended
    field.fill("_id < 'd10'")
    field.press("Enter")
    which = page.locator(".g-eval-which")
    expect(which).to_contain_text("The 10 judged queries of the split test are not evaluated yet")
    expect(which).to_contain_text("among the 10 documents that satisfy _id < 'd10'")
    page.click("#g-eval-run")
    expect(which).to_have_text("10 judged queries of the split test, among the 10 documents that satisfy _id < 'd10'.")
    expect(page.locator("#g-eval-job")).to_contain_text("only those on all documents are stored")
    assert params(page)["among"] == "_id < 'd10'"
    figures = texts(page, "a")
    page.reload()
    expect(which).to_contain_text("among the 10 documents")
    expect(field).to_have_value("_id < 'd10'")
    expect(page.locator(READY)).to_be_visible()
    assert texts(page, "a") == figures
    page.locator(".g-eval-cases [data-query]").first.click()
    address = searched(page)
    assert address["where"] == "_id < 'd10'"
    expect(page.locator(".g-results .g-summary")).to_contain_text("10 of 48 documents satisfy the filter")
