"""Why? and What if? on an opened document, as a person uses them."""

from __future__ import annotations

import json
import re
from urllib.parse import urlencode

import pytest
from addresses import address, expect_address
from explorer_world import QUERY, SCRIPT
from playwright.sync_api import expect


def link(url: str, **more: str) -> str:
    asked = {
        "collection": "world",
        "a": "tiny-a:rationale",
        "b": "tiny-b:rationale",
        "k": "5",
        "q": QUERY,
        "doc": "d05",
    }
    return f"{url}?{urlencode(asked | more)}"


@pytest.fixture
def why(page, url):
    page.goto(link(url, why="a"))
    expect(page.locator(".g-figure-heat-map .g-cell").first).to_be_visible()
    return page


@pytest.fixture
def what_if(page, url):
    page.goto(link(url, whatif="a"))
    expect(page.locator(".g-outcome .g-new")).to_be_visible()
    return page


def outcome(page) -> tuple[str, str]:
    expect(page.locator(".g-outcome:not([aria-busy]) .g-new")).to_be_visible()
    return page.locator(".g-new b").inner_text(), page.locator(".g-new-rank b").inner_text()


def saved(page, press) -> bytes:
    with page.expect_download() as waiting:
        press()
    with open(waiting.value.path(), "rb") as file:
        return file.read()


def test_a_hit_is_explained(page, url):
    page.goto(link(url, doc=""))
    page.locator(".g-column-b .g-open").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("tab", name="Why?").click()
    expect(dialog.locator(".g-figure-blocks rect").first).to_be_visible()
    expect(dialog.locator(".g-figure-heat-map .g-cell").first).to_be_visible()
    sums, scores = (
        dialog.locator(".g-why-body > .g-sum"),
        [dialog.locator(f".g-place-{side} .g-score").inner_text() for side in "ab"],
    )
    expect(sums).to_contain_text(f"score {scores[1]} =")
    expect(sums).to_contain_text(re.compile(r"largest residual \de-\d"))
    assert dialog.locator(".g-row-score td").all_inner_texts()[:2] == [score.replace("-", "−") for score in scores]
    expect_address(page, why="b")  # the column of the hit
    dialog.get_by_role("radio", name="A · tiny-a").check(force=True)
    page.wait_for_function("new URLSearchParams(location.search).get('why') === 'a'")
    expect(sums).to_contain_text(f"score {scores[0]} =")
    dialog.get_by_role("tab", name="Rationales").click()
    page.wait_for_function("!new URLSearchParams(location.search).has('why')")
    expect(dialog.locator(".g-body")).to_be_visible()


def test_the_heat_map_says_what_it_counts_by_mouse_and_by_keyboard(why):
    readout = why.locator(".g-figure-heat-map .g-readout")
    cell = why.locator(".g-figure-heat-map .g-cell").nth(1)
    cell.hover()
    expect(readout).to_contain_text("token pairs")
    expect(readout).to_contain_text("T2 of the document")
    by_mouse = readout.inner_text()
    why.mouse.move(2, 2)
    expect(readout).to_contain_text("Point at a cell")
    why.locator(".g-token-box").focus()
    why.keyboard.press("Shift+Tab")  # the drawing stands before the tokens
    expect(why.locator(".g-figure-heat-map .g-drawing")).to_be_focused()
    why.keyboard.press("ArrowRight")
    expect(readout).to_have_text(by_mouse)
    expect(why.locator(".g-token-lit").first).to_be_visible()


def test_tokens_are_told_and_can_be_shown_as_they_are(why):
    readout = why.locator(".g-tokens .g-readout")
    why.locator(".g-figure-heat-map .g-drawing").focus()
    why.keyboard.press("Tab")
    expect(why.locator(".g-token-box")).to_be_focused()
    why.keyboard.press("ArrowRight")
    expect(readout).to_contain_text("in the document’s text")
    above = readout.inner_text()
    why.get_by_text("As it is", exact=True).click()
    why.locator(".g-token-box").focus()
    why.keyboard.press("Home")
    why.keyboard.press("ArrowRight")
    expect(readout).not_to_have_text(above)
    assert why.locator(".g-token").first.evaluate("e => e.style.getPropertyValue('--w')") != ""


def test_two_hits_are_compared_and_the_link_opens_the_same_again(why):
    why.locator(".g-against").focus()
    why.locator(".g-against").select_option(index=1)
    expect(why.locator(".g-figure-difference-blocks .g-amount").first).to_be_visible()
    expect(why.locator(".g-figure-difference-other .g-amount").first).to_be_visible()
    expect(why.locator(".g-against")).to_be_focused()
    asked = expect_address(why, vs=None)
    assert asked["vs"] == why.locator(".g-against").input_value() != ""
    before = why.locator(".g-comparison .g-sum").inner_text()
    difference, total = (
        float(number.replace("−", "-")) for number in re.findall(r"(?:: |up to )([+−]\d\.\d+)", before)
    )
    assert difference == pytest.approx(total, abs=1.1e-4)
    why.reload()
    expect(why.locator(".g-comparison .g-sum")).to_have_text(before)
    assert address(why) == asked


def test_a_sentence_is_struck_out_and_back(what_if):
    start = outcome(what_if)
    first = what_if.locator(".g-edit section").first.locator(".g-sentence").first
    effect = first.locator(".g-effect").inner_text()
    first.get_by_role("button").click()
    expect(what_if.locator(".g-new b")).not_to_have_text(start[0])
    expect(what_if.locator(".g-new .g-effect-minus, .g-new .g-effect-plus")).to_have_text(effect)
    struck = outcome(what_if)
    expect(first).to_have_class(re.compile("g-struck"))
    what_if.locator(".g-undo").click()
    expect(what_if.locator(".g-new b")).to_have_text(start[0])
    assert outcome(what_if) == start
    expect(first).not_to_have_class(re.compile("g-struck"))
    expect(what_if.locator(".g-redo")).to_be_focused()  # Undo has nothing left and handed the focus on
    what_if.keyboard.press("Enter")
    expect(what_if.locator(".g-new b")).to_have_text(struck[0])
    assert what_if.locator(".g-figure-ranks .g-slope-this").count() == 1


def test_a_sentence_is_rewritten_and_markup_stays_text(what_if):
    start = outcome(what_if)
    area = what_if.get_by_role("textbox", name="Text, sentence 2")
    area.fill(f"Ice and {SCRIPT} <b>snow</b>.")
    expect(what_if.locator(".g-new b")).not_to_have_text(start[0])
    expect(what_if.locator(".g-rewritten")).to_have_count(1)
    assert what_if.locator("#g-detail script, .g-outcome b b").count() == 0
    what_if.get_by_role("button", name="Restore all").click()
    expect(what_if.locator(".g-new b")).to_have_text(start[0])
    expect(what_if.locator(".g-rewritten")).to_have_count(0)


def test_the_other_column_s_rationale_is_swapped_in(what_if):
    start = outcome(what_if)
    own = what_if.get_by_role("textbox", name="Rationale, sentence 1").input_value()
    what_if.locator(".g-swap").select_option(label="column B: tiny-b")
    expect(what_if.locator(".g-new b")).not_to_have_text(start[0])
    expect(what_if.get_by_role("heading", name="Rationale, swapped in")).to_be_visible()
    expect(what_if.get_by_role("textbox", name="Rationale, sentence 1")).not_to_have_value(own)
    what_if.locator(".g-undo").click()
    expect(what_if.locator(".g-new b")).to_have_text(start[0])
    expect(what_if.get_by_role("textbox", name="Rationale, sentence 1")).to_have_value(own)
    assert outcome(what_if) == start


def test_an_emptied_text_is_refused_in_a_sentence(what_if):
    for row in what_if.locator(".g-edit section").first.locator(".g-sentence").all():
        row.get_by_role("button").click()
    expect(what_if.locator(".g-outcome .g-banner")).to_contain_text("the edited text is empty")
    what_if.locator(".g-undo").click()
    expect(what_if.locator(".g-outcome .g-new")).to_be_visible()


def test_the_keyboard_alone_goes_everywhere_and_stays_inside(page, url):
    page.goto(link(url, doc=""))
    hit = page.locator(".g-column-a .g-open").first
    hit.focus()
    page.keyboard.press("Enter")
    expect(page.locator(".g-close")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Save as a file")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_role("tab", name="Rationales")).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".g-figure-heat-map .g-cell").first).to_be_visible()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        inside, name = page.evaluate("""() => { const at = document.activeElement;
            return [!!at.closest('.g-dialog'), at.className || at.value || at.tagName] }""")
        assert inside
        reached.add(name.split(" ")[0])
    assert {"g-close", "g-drawing", "g-token-box", "g-against", "g-button"} <= reached
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(hit).to_be_focused()


def test_what_is_shown_can_be_saved(why):
    figure = why.locator(".g-figure-heat-map")
    svg = saved(why, lambda: figure.get_by_role("button", name="as SVG").click()).decode()
    assert svg.startswith("<svg")
    assert "var(" not in svg
    assert svg.count("<rect") > 4
    png = saved(why, lambda: figure.get_by_role("button", name="as PNG").click())
    assert png.startswith(b"\x89PNG")
    assert len(png) > 2000
    told = json.loads(saved(why, lambda: why.locator("#g-panel-why .g-save-json").click()))
    assert f"{told['score']:.4f}" == why.locator(".g-place-a .g-score").inner_text()
    assert sum(map(sum, told["raw"])) == pytest.approx(told["score"], abs=1e-5)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"why": "c"}, "why is 'c', expected a or b"),
        ({"whatif": "<i>"}, "whatif is '<i>', expected a or b"),
        ({"why": "a", "vs": "<b>nope"}, "world has no document '<b>nope'"),
    ],
)
def test_nonsense_in_the_address_gives_a_sentence(page, url, more, said):
    page.goto(link(url, **more))
    expect(page.locator(".g-banner")).to_contain_text(said)


@pytest.mark.parametrize("panel", ["why", "whatif"])
def test_it_fits_a_phone_and_markup_in_documents_is_text(page, url, panel):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(link(url, doc="d03", **{panel: "b"}))
    expect(page.locator(".g-figure-heat-map .g-cell, .g-outcome .g-slope-this").first).to_be_attached()
    assert page.evaluate("(e => e.scrollWidth - e.clientWidth)(document.querySelector('.g-overlay'))") <= 0
    assert page.locator("#g-detail script, #g-detail img").count() == 0
