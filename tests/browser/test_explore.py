"""The Explore tab as a person uses it."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from addresses import address, expect_address
from explorer_world import IMAGE, QUERY, SCRIPT
from playwright.sync_api import expect

from grace_app.explore.search import movements
from grace_app.page.words import stem

DONE = ".g-results:not([data-busy]) .g-columns"


@pytest.fixture
def explore(page, url):
    """The page with the text alone on the left and the same model's rationale on the right."""
    page.goto(f"{url}?a=tiny-a:text&b=tiny-a:rationale")
    expect(page.locator(".g-example").first).to_be_visible()
    return page


def ask(page, query: str) -> None:
    page.fill("#g-query textarea", query)
    page.press("#g-query textarea", "Enter")
    expect(page.locator(".g-results:not([data-busy])[data-view*='\"q\"']")).to_be_visible()
    page.wait_for_function(
        "q => { try { return JSON.parse(document.querySelector('.g-results:not([data-busy])').dataset.view).q === q } "
        "catch { return false } }",
        arg=query.strip(),
    )


def hits(page, side: str) -> list[str]:
    return page.locator(f".g-column-{side} .g-hit").evaluate_all("cards => cards.map(card => card.dataset.hit)")


def choose(page, box: str, label: str) -> None:
    page.click(f"{box} input")
    page.locator(box).get_by_role("option", name=label, exact=True).click()


def test_an_empty_page_says_what_to_do_and_compares_two_models(page, url):
    page.goto(url)
    expect(page.locator(".g-empty")).to_contain_text("Ask something")
    expect(page.locator(".g-empty")).to_contain_text("30 documents of world")
    assert page.locator(".g-example").all_inner_texts() == [QUERY, "children dance around the fountain"]
    expect(page.locator("#g-a input")).to_have_value("tiny-a · with rationale")
    expect(page.locator("#g-b input")).to_have_value("tiny-b · with rationale")
    assert urlsplit(page.url).query == ""


def test_what_is_typed_while_the_page_loads_stays(page, url):
    page.goto(url, wait_until="commit")
    page.fill("#g-query textarea", "snow and ice")
    expect(page.locator(".g-example").first).to_be_visible()
    expect(page.locator("#g-query textarea")).to_have_value("snow and ice")
    page.press("#g-query textarea", "Enter")
    expect(page.locator(DONE)).to_be_visible()
    expect_address(page, q="snow and ice")
    assert page.input_value("#g-query textarea") == "snow and ice"


def test_a_typed_query_fills_both_columns(explore):
    query = "music and wine in the valley"
    ask(explore, query)
    assert len(hits(explore, "a")) == len(hits(explore, "b")) == 10
    expect(explore.locator(".g-column-a .g-rationale")).to_contain_text("embeds the text alone")
    assert len(explore.locator(".g-column-b .g-rationale-text").inner_text()) > 40
    assert address(explore) == {
        "collection": "world",
        "a": "tiny-a:text",
        "b": "tiny-a:rationale",
        "k": "10",
        "q": query,
    }
    scores = [float(score) for score in explore.locator(".g-column-b .g-score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)


def test_an_example_searches_and_its_judgements_are_shown(explore):
    explore.locator(".g-example").first.click()
    expect(explore.locator(DONE)).to_be_visible()
    expect(explore.locator("#g-query textarea")).to_have_value(QUERY)
    expect(explore.locator(".g-summary")).to_contain_text("2 judged relevant")
    for side in ("a", "b"):
        marked = explore.locator(f".g-column-{side} .g-hit:has(.g-relevant)").evaluate_all(
            "cards => cards.map(card => card.dataset.hit)"
        )
        assert set(marked) == set(hits(explore, side)) & {"d05", "d11"}


def test_the_rationale_is_seen_growing(explore):
    explore.evaluate("""() => {
        window.seen = [];
        new MutationObserver(() => {
            const box = document.querySelector('.g-column-b .g-rationale');
            if (box) window.seen.push([box.dataset.state, box.querySelector('.g-rationale-text').textContent.length,
                                       document.querySelectorAll('.g-column-a .g-open').length]);
        }).observe(document.querySelector('#g-results'), { subtree: true, childList: true, characterData: true, attributes: true });
    }""")
    ask(explore, "a query whose rationale is new to the cache")
    writing = [(length, others) for state, length, others in explore.evaluate("window.seen") if state == "writing"]
    lengths = sorted({length for length, _ in writing})
    assert len(lengths) >= 3
    assert any(others == 10 for _, others in writing)  # the text-only column did not wait


def test_what_moved_is_marked_in_both_columns(explore):
    choose(explore, "#g-b", "tiny-b · with rationale")
    ask(explore, "snow on the castle walls")
    found = {"a": hits(explore, "a"), "b": hits(explore, "b")}
    for mine, other in (("a", "b"), ("b", "a")):
        shown = explore.locator(f".g-column-{mine} .g-move > [aria-hidden]").all_inner_texts()
        expected = [
            "only here" if places is None else "=" if places == 0 else f"{'▲' if places > 0 else '▼'}{abs(places)}"
            for places in movements(found[mine], found[other])
        ]
        assert shown == expected
    both = len(set(found["a"]) & set(found["b"]))
    expect(explore.locator(".g-summary")).to_contain_text(f"{both} of 10 in both columns")


def test_a_change_of_column_or_size_asks_again(explore):
    ask(explore, "snow on the castle walls")
    explore.locator("#g-k label", has_text="20").click()
    expect(explore.locator(".g-column-a .g-hit:not(.g-skeleton)")).to_have_count(20)
    choose(explore, "#g-a", "tiny-b · text only")
    expect(explore.locator(".g-column-a h2")).to_have_text("tiny-b · text only")
    expect(explore.locator(DONE)).to_be_visible()
    expect_address(explore, a="tiny-b:text", k="20")


def test_facets_narrow_and_stand_in_the_address(explore):
    ask(explore, "snow on the castle walls")
    explore.click("#g-facets summary")
    song = explore.locator("[data-facet=kind]", has_text="song")
    expect(song).to_have_text("song13")
    song.click()
    expect(explore.locator(".g-summary")).to_contain_text("13 of 30 documents satisfy the filter")
    expect(explore.locator("#g-where").get_by_role("textbox")).to_have_value("kind = 'song'")
    expect(explore.locator("[data-facet=kind][aria-checked=true]")).to_have_text("song13")
    assert set(hits(explore, "a")) <= {f"d{i:02}" for i in range(1, 30, 2)} - {"d03", "d07"}
    expect_address(explore, where="kind = 'song'")
    field = explore.locator("#g-where").get_by_role("textbox")
    field.fill("kind = 'song' and year > 1920")
    field.press("Enter")
    expect(explore.locator(".g-summary")).to_contain_text("5 of 30 documents satisfy the filter")
    assert len(hits(explore, "a")) == len(hits(explore, "b")) == 5
    expect(explore.locator("[data-facet=kind][aria-checked=true]")).to_have_text("song5")
    explore.reload()
    expect(explore.locator(".g-summary")).to_contain_text("5 of 30 documents satisfy the filter")
    expect(explore.locator("[data-facet=kind][aria-checked=true]")).to_have_text("song5")
    explore.locator("[data-facet=kind][aria-checked=true]").click()
    expect(explore.locator(".g-summary")).to_contain_text("9 of 30 documents satisfy the filter")
    expect_address(explore, where="year > 1920")
    field.fill("year > 'x'")
    field.press("Enter")
    expect(explore.locator(".g-banner")).to_contain_text("filter, character 8: 'year' holds numbers, got 'x'")


def test_another_collection_is_asked_with_its_own_columns(explore):
    choose(explore, "#g-collection", "plain")
    expect(explore.locator(".g-empty")).to_contain_text("8 documents of plain")
    ask(explore, "the old town")
    assert len(hits(explore, "a")) == 8
    assert hits(explore, "a") == hits(explore, "b")
    assert set(explore.locator(".g-move > [aria-hidden]").all_inner_texts()) == {"="}


def test_a_hit_opens_by_mouse_and_closes_by_button(explore):
    ask(explore, QUERY)
    card = explore.locator(".g-column-b .g-hit").nth(2)
    document = card.get_attribute("data-hit")
    score = card.locator(".g-score").inner_text()
    card.click(position={"x": 150, "y": 60})
    dialog = explore.get_by_role("dialog")
    expect(dialog).to_be_visible()
    expect(dialog.locator("h2")).to_have_text(card.locator(".g-open").inner_text())
    expect(dialog.locator(".g-place-b")).to_contain_text("rank 3 of 30")
    expect(dialog.locator(".g-place-b .g-score")).to_have_text(score)
    expect(dialog).to_contain_text("This column uses no rationale.")
    expect(dialog.locator(".g-card")).to_have_count(2)
    explore.wait_for_function("doc => new URLSearchParams(location.search).get('doc') === doc", arg=document)
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_have_count(0)
    explore.wait_for_function("!new URLSearchParams(location.search).has('doc')")


def test_a_hit_opens_by_enter_and_closes_by_escape(explore):
    ask(explore, QUERY)
    button = explore.locator(".g-column-a .g-open").nth(1)
    button.focus()
    explore.keyboard.press("Enter")
    dialog = explore.get_by_role("dialog")
    expect(dialog).to_be_visible()
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    explore.keyboard.press("Tab")
    expect(dialog.get_by_role("button", name="Save as a file")).to_be_focused()
    explore.keyboard.press("Tab")
    expect(dialog.get_by_role("tab", name="Rationales")).to_be_focused()
    explore.keyboard.press("Tab")
    expect(dialog.get_by_role("button", name="Show on the map")).to_be_focused()
    for _ in range(8):  # what the views of the hit offer, and round again
        explore.keyboard.press("Tab")
        expect(dialog.locator(":focus")).to_have_count(1)
        if dialog.get_by_role("button", name="Close").evaluate("button => button === document.activeElement"):
            break
    expect(dialog.get_by_role("button", name="Close")).to_be_focused()
    explore.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(button).to_be_focused()


def test_two_models_stand_side_by_side_with_their_shared_words(explore):
    choose(explore, "#g-a", "tiny-a · with rationale")
    choose(explore, "#g-b", "tiny-b · with rationale")
    ask(explore, QUERY)
    explore.locator(".g-column-a .g-open").first.click()
    dialog = explore.get_by_role("dialog")
    expect(dialog.locator(".g-card")).to_have_count(2)
    expect(dialog.locator(".g-legend mark")).to_have_count(2)
    words = [set(dialog.locator(f".g-card-{side} mark.g-mark-both").all_inner_texts()) for side in "ab"]
    assert {stem(word) for word in words[0]} == {stem(word) for word in words[1]}


def test_a_link_opens_the_same_state_again(explore, chromium):
    choose(explore, "#g-b", "tiny-b · with rationale")
    explore.locator("#g-k label", has_text="5").first.click()
    ask(explore, "honey & bread <b>at</b> the market + more")
    explore.locator(".g-column-b .g-open").nth(1).click()
    expect(explore.get_by_role("dialog")).to_be_visible()
    explore.wait_for_function("new URLSearchParams(location.search).has('doc')")
    before = (hits(explore, "a"), hits(explore, "b"), explore.locator(".g-dialog").inner_text(), explore.url)
    explore.reload()
    expect(explore.get_by_role("dialog")).to_be_visible()
    expect(explore.locator("#g-query textarea")).to_have_value("honey & bread <b>at</b> the market + more")
    expect(explore.locator("#g-b input")).to_have_value("tiny-b · with rationale")
    expect(explore.locator("#g-k label.selected, #g-k label:has(input:checked)")).to_have_text("5")
    assert (hits(explore, "a"), hits(explore, "b"), explore.locator(".g-dialog").inner_text(), explore.url) == before


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?collection=nope&q=hello", "there is no collection 'nope' here; there are: "),
        ("?a=%3Cscript%3Ewindow.pwned%3D1%3C/script%3E&k=seven&q=x", "has no column '<script>"),
        ("?collection=..%2F..%2Fetc&q=x", "there is no collection '../../etc'"),
        ("?tab=nosuch&q=river", "there is no tab 'nosuch', there are explore, map, "),
        ("?q=%20%20", "the query is empty"),
        ("?collection=world&q=river&doc=nope", "world has no document 'nope'"),
    ],
)
def test_nonsense_in_the_address_gives_a_sentence(page, url, query, said):
    page.goto(url + query)
    expect(page.locator(".g-banner")).to_contain_text(said)
    expect(page.locator("body")).not_to_contain_text("Traceback")
    expect(page.locator("#g-collection input")).to_have_value("world")


@pytest.mark.parametrize(("query", "said"), [("   ", "the query is empty"), ("x" * 20_001, "shorten it")])
def test_bad_queries_are_said_in_place(explore, query, said):
    explore.fill("#g-query textarea", query)
    explore.click("#g-search")
    expect(explore.locator(".g-banner")).to_contain_text(said)
    ask(explore, "a good one")
    expect(explore.locator(".g-banner")).to_have_count(0)


def test_a_very_long_query_is_cut_and_says_so(explore):
    explore.fill("#g-query textarea", "castle walls and bells " * 600)
    explore.click("#g-search")
    expect(explore.locator(DONE)).to_be_visible()
    expect(explore.locator(".g-column-a .g-rationale .g-flag")).to_have_text(
        re.compile(r"query cut after [\d,]+ of 3,001 tokens")
    )
    assert urlsplit(explore.url).query == ""
    explore.locator(".g-column-a .g-open").first.click()  # it opens all the same
    expect(explore.get_by_role("dialog")).to_be_visible()


def test_markup_in_documents_is_text(explore):
    explore.locator("#g-k label", has_text="20").click()
    ask(explore, f"marked {SCRIPT} {IMAGE} ${{7*7}} {{{{7*7}}}}")
    explore.goto(explore.url + "&doc=d03")
    dialog = explore.get_by_role("dialog")
    expect(dialog.locator("h2")).to_have_text(f"Marked {SCRIPT}")
    expect(dialog.locator(".g-body")).to_contain_text(IMAGE)
    expect(dialog.locator(".g-facts")).to_contain_text(IMAGE)
    assert (
        explore.locator(
            "#g-results img, #g-results script, #g-detail img, #g-detail script, #g-examples script"
        ).count()
        == 0
    )
    expect(explore.locator("#g-query textarea")).to_have_value(re.compile(r"\$\{7\*7\}"))


def test_an_id_of_signs_opens(page, url):
    page.goto(url + "?q=river&k=20&doc=%3Cb%3E%26%22%27")
    expect(page.get_by_role("dialog").locator("h2")).to_have_text("An id of signs")
    expect(page.locator(".g-facts")).to_contain_text("<b>&\"'")


def test_the_last_of_many_quick_questions_wins(explore):
    for query in ("first question", "second question", "third question", "the last question"):
        explore.fill("#g-query textarea", query)
        explore.click("#g-search")
    explore.wait_for_function(
        "document.querySelector('.g-results:not([data-busy])')?.dataset.view?.includes('the last question')"
    )
    explore.wait_for_function(
        "new URLSearchParams(location.search).get('q') === 'the last question'", timeout=5000
    )  # in a frame to come
    for _ in range(3):
        explore.locator(".g-column-a .g-open").nth(0).dispatch_event("click")
        explore.locator(".g-column-a .g-open").nth(3).dispatch_event("click")
    title = explore.locator(".g-column-a .g-open").nth(3).inner_text()
    expect(explore.locator(".g-dialog h2")).to_have_text(title)


def test_nothing_jumps_while_a_search_runs(explore):
    ask(explore, "one question before")
    before = explore.locator(".g-hits").first.bounding_box()
    explore.evaluate("""() => {
        window.tops = new Set();
        const look = () => {
            const list = document.querySelector('.g-hits');
            if (list) window.tops.add(Math.round(list.getBoundingClientRect().top));
        };
        new MutationObserver(look).observe(document.querySelector('#g-results'), { subtree: true, childList: true, characterData: true });
    }""")
    ask(explore, "and another one that is new")
    assert explore.evaluate("[...window.tops]") == [round(before["y"])]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_dark_and_light_have_contrast(page, url, scheme):
    page.goto(f"{url}?__theme={scheme}&q=river&a=tiny-a:text&b=tiny-a:rationale")
    expect(page.locator(DONE)).to_be_visible()
    luminance = """(selector) => { const channel = (v) => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 };
        const style = (e, what) => getComputedStyle(e)[what].match(/[\\d.]+/g).map(Number);
        const of = (c) => .2126 * channel(c[0]) + .7152 * channel(c[1]) + .0722 * channel(c[2]);
        const element = document.querySelector(selector); let under = element;
        while (under && (style(under, 'backgroundColor')[3] ?? 1) === 0) under = under.parentElement;
        const [a, b] = [of(style(element, 'color')), of(style(under || document.body, 'backgroundColor'))];
        return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) }"""
    texts = (
        ".g-open",
        ".g-snippet",
        ".g-chip",
        ".g-score",
        ".g-column-a .g-rank",
        ".g-column-b .g-rank",
        ".g-example",
        ".g-header h1",
    )
    for selector in (*texts, ".g-column-b .g-rationale-text p", ".g-column-a .g-quiet", ".g-letter-a", ".g-letter-b"):
        assert page.evaluate(luminance, selector) >= 4.5, selector
    assert page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
    assert "__theme" in page.url


@pytest.mark.parametrize("width", [1440, 1100, 390])
def test_columns_fit_the_window(page, url, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{url}?q=river")
    expect(page.locator(DONE)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    a, b = (page.locator(f".g-column-{side}").bounding_box() for side in "ab")
    assert (b["y"] > a["y"] + 100) == (width < 760)
