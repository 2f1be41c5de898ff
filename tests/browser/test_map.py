"""The Map tab as a person uses it: both maps react to what is done on either."""

from __future__ import annotations

import csv
import io
import json
import re
import time

import pytest
from addresses import address, expect_address
from explorer_world import IMAGE, QUERY, SCRIPT
from playwright.sync_api import expect

READY = ".g-map:not([data-busy]) .g-map-chart:not([hidden]) .main-svg"
ONE_TRACE = "colour=none&left=tiny-a:rationale&right=tiny-b:rationale"  # the points of its trace are the rows
PLACE = """([side, row]) => { const gd = document.querySelector(`[data-side=${side}] .g-map-canvas`), box = gd.getBoundingClientRect();
    const { xaxis, yaxis } = gd._fullLayout, points = gd.data[0];
    return [box.left + xaxis._offset + xaxis.l2p(points.x[row]), box.top + yaxis._offset + yaxis.l2p(points.y[row])] }"""
ALL = "[...document.querySelectorAll('.g-map-canvas')]"
RANGES = f"{ALL}.map(gd => [...gd.layout.xaxis.range, ...gd.layout.yaxis.range].map(x => x.toFixed(3)))"
SELECTED = "side => document.querySelector(`[data-side=${side}] .g-map-canvas`).data.map(trace => trace.selectedpoints || null)"


def opened(page, url, query: str = ONE_TRACE):
    page.goto(f"{url}?tab=map&{query}")
    expect(page.locator(READY).first).to_be_visible()
    return page


def place(page, side: str, row: int) -> tuple[float, float]:
    page.locator(".g-map-plot").first.scroll_into_view_if_needed()
    return tuple(page.evaluate(PLACE, [side, row]))


def moved_together(page, before: list) -> list:
    """The ranges once both maps show the same other part than before."""
    same = f"before => {RANGES}.map(String).every((range, _, both) => range === both[0] && range !== before)"
    page.wait_for_function(same, arg=",".join(before[0]))
    return page.evaluate(RANGES)


def drag(page, points: list[tuple[float, float]]) -> None:
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=4)
    page.mouse.up()


def saved(page, selector: str) -> bytes:
    with page.expect_download() as download:
        page.click(selector)
    with open(download.value.path(), "rb") as file:
        return file.read()


def test_what_is_pointed_at_and_opened_shows_in_both_maps(page, url):
    opened(page, url)
    expect(page.locator(".g-map-panel")).to_contain_text("of 15 neighbours kept on average")
    expect(page.locator(".g-map-job")).to_contain_text("preview by PCA")
    page.mouse.move(*place(page, "right", 3))
    for side in ("left", "right"):
        expect(page.locator(f"[data-side={side}] .g-map-tip b")).to_have_text(f"Marked {SCRIPT}")
        x, y = place(page, side, 3)
        ring = page.locator(f"[data-side={side}] .g-ring-hover").bounding_box()
        assert abs(ring["x"] + ring["width"] / 2 - x) < 1.5
        assert abs(ring["y"] + ring["height"] / 2 - y) < 1.5
    tips = [page.locator(f"[data-side={side}] .g-map-tip p").first.inner_text() for side in ("left", "right")]
    assert tips[0] != tips[1]  # each with the rationale of its own column
    page.mouse.click(*place(page, "right", 3))
    card = page.locator(".g-map-card")
    expect(card.locator("h2")).to_have_text(f"Marked {SCRIPT}")
    expect(card).to_contain_text(IMAGE)
    expect(card.locator(".g-card")).to_have_count(2)
    expect(card.get_by_role("button", name="Close the document")).to_be_focused()
    expect_address(page, point="d03")
    kept, lost, won = (card.locator(f".g-map-{kind}.g-map-link").count() for kind in ("kept", "lost", "won"))
    assert kept + lost == kept + won == 15
    assert lost > 0  # two random models
    for side, lines in (("left", kept + lost), ("right", kept + won)):
        marks = page.locator(f"[data-side={side}]")
        expect(marks.locator(".g-link")).to_have_count(lines)
        for kind, number in (("kept", kept), ("lost", lost), ("won", won), ("open", 1)):
            expect(marks.locator(f".g-ring-{kind}")).to_have_count(number)
    other = card.locator(".g-map-lost").first
    title = other.locator("span").first.inner_text()
    other.hover()
    expect(page.locator("[data-side=left] .g-map-tip b")).to_have_text(title)
    other.click()
    expect(card.locator("h2")).to_have_text(title)
    page.keyboard.press("Escape")
    expect(card).to_have_count(0)
    expect(page.locator(".g-link, .g-ring-open")).to_have_count(0)
    expect_address(page, "point")


@pytest.mark.parametrize(("mode", "kind"), [("Lasso", "lasso"), ("Box", "select")])
def test_a_lasso_and_a_box_select_in_both_maps(page, url, mode, kind):
    opened(page, url)
    table = page.locator(".g-map-selection")
    page.locator(".g-map-mode label", has_text=mode).click()
    page.wait_for_function(f"kind => {ALL}.every(gd => gd._fullLayout.dragmode === kind)", arg=kind)
    spots = [place(page, "left", row) for row in range(30)]  # this may scroll, so the box comes after
    box = page.locator("[data-side=left] .g-map-plot").bounding_box()
    middle = sorted(x for x, _ in spots)[14] + 0.5
    inside = [row for row, (x, _) in enumerate(spots) if x < middle]
    left, top, bottom = box["x"] + 3, box["y"] + 3, box["y"] + box["height"] - 3
    corners = [(left, top), (middle, top), (middle, bottom), (left, bottom)]
    drag(page, [*corners, corners[0]] if mode == "Lasso" else [corners[0], corners[2]])
    expect(table).to_be_visible()
    expect(table.locator("h3")).to_have_text(f"{len(inside)} documents selected")
    expect(table.locator("tbody tr")).to_have_count(len(inside))
    page.wait_for_function(f"rows => {ALL}.every(gd => String(gd.data[0].selectedpoints) === String(rows))", arg=inside)
    expect(table.locator(".g-map-terms .g-chip").first).to_be_visible()
    if mode == "Lasso":
        told = json.loads(saved(page, "[data-do=json]"))
        rows = list(csv.DictReader(io.StringIO(saved(page, "[data-do=csv]").decode(), newline="")))
        assert len(told) == len(rows) == len(inside)
        assert [one["id"] for one in told] == [row["id"] for row in rows]
        assert all(one["a"]["rationale"] and one["b"]["rationale"] for one in told)
        page.keyboard.press("Escape")
        expect(table).to_be_hidden()
        page.wait_for_function(f"{ALL}.every(gd => !gd.data[0].selectedpoints)")
    assert table.locator("img, script").count() == 0


def test_colours_and_their_legend(page, url):
    opened(page, url, "")
    expect_address(page, colour="field:kind")
    keys = page.locator(".g-map-key")
    expect(keys).to_have_count(3)
    expect(keys.filter(has_text=IMAGE)).to_have_count(1)  # a kind that is markup
    traces = f"{ALL}.map(gd => gd.data.map(trace => trace.visible))"
    keys.filter(has_text="tale").click()
    expect(keys.filter(has_text="tale")).to_have_attribute("aria-pressed", "false")
    page.wait_for_function(f"({traces}).every(shown => shown.filter(v => v === false).length === 1)")
    keys.filter(has_text="tale").press("Enter")
    page.wait_for_function(f"({traces}).every(shown => shown.every(v => v === true))")
    page.select_option("[data-set=colour]", "overlap")
    expect(page.locator(".g-map-legend")).to_contain_text("Neighbours kept (of 15, in the full space)")
    page.wait_for_function(f"{ALL}.every(gd => gd.data.length === 1 && gd.data[0].marker.color.length === 30)")
    page.select_option("[data-set=colour]", "field:year")
    expect(page.locator(".g-map-legend")).to_contain_text("1900")
    page.wait_for_function("new URLSearchParams(location.search).get('colour') === 'field:year'")


def test_a_query_words_and_the_link_that_shows_them_again(page, url, workspace_rows):
    opened(page, url)
    page.fill("[data-part=star]", QUERY)
    page.press("[data-part=star]", "Enter")
    panel = page.locator(".g-map-panel")
    expect(panel).to_contain_text(f"Nearest to “{QUERY}”")
    for side in ("left", "right"):
        expect(page.locator(f"[data-side={side}] .g-star")).to_have_count(1)
        expect(page.locator(f"[data-side={side}] .g-ray")).to_have_count(10)
    near = panel.locator(".g-map-link").evaluate_all("links => links.map(link => Number(link.dataset.row))")[:20]
    assert near == workspace_rows(QUERY)
    page.fill("[data-part=find]", "SONG OF NOTHING")
    expect(page.locator("[data-part=found]")).to_have_text("0 found")
    page.fill("[data-part=find]", "story 2")
    expect(page.locator("[data-part=found]")).to_have_text("11 found")  # 2 and 20 to 29
    for side in ("left", "right"):
        assert page.evaluate(SELECTED, side) == [[2, *range(20, 30)]]
    panel.locator(".g-map-link", has_text="Story 22").first.click()
    expect(page.locator(".g-map-card h2")).to_have_text("Story 22")
    before = page.evaluate(RANGES)
    page.click("[data-do=near-card]")
    page.wait_for_function("new URLSearchParams(location.search).has('zoom')")
    zoomed, near = expect_address(page, zoom=None)["zoom"], moved_together(page, before)
    page.mouse.move(*place(page, "left", 22))
    page.mouse.wheel(0, -240)
    page.wait_for_function("zoom => new URLSearchParams(location.search).get('zoom') !== zoom", arg=zoomed)
    ranges = moved_together(page, near)
    asked = expect_address(page, star=QUERY, find="story 2", point="d22", colour="none")
    page.reload()
    expect(page.locator(".g-map-card h2")).to_have_text("Story 22")
    expect(page.locator("[data-part=found]")).to_have_text("11 found")
    expect(page.locator(".g-star")).to_have_count(2)
    assert expect_address(page, **asked) == asked
    assert page.evaluate(RANGES) == ranges
    page.keyboard.press("Escape")
    page.locator("[data-do=unstar]").click()
    expect(page.locator(".g-star")).to_have_count(0)
    expect_address(page, "star")


@pytest.fixture(scope="session")
def workspace_rows(world):
    """Rows of the ten nearest documents in both columns, by the library."""
    from grace_app.workspace.state import Workspace

    workspace = Workspace(world.indexes, cache_path=world.root / "browser.sqlite")

    def found(query: str) -> list[int]:
        indexes = [workspace.index("world", name) for name in ("tiny-a", "tiny-b")]
        vectors = [index.embed(workspace.model_of(index).represent([query]))[0] for index in indexes]
        return [hit.row for index, vector in zip(indexes, vectors, strict=True) for hit in index.hits(vector, 10)]

    return found


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_map_a_glides_to_map_b_and_back(page, url, motion):
    page.emulate_media(reduced_motion=motion)
    opened(page, url)
    places = "side => Array.from(document.querySelector(`[data-side=${side}] .g-map-canvas`).data[0].x)"
    own, other = (page.evaluate(places, side) for side in ("left", "right"))
    page.evaluate("""() => { window.frames_ = 0; const draw = CanvasRenderingContext2D.prototype.fill;
        CanvasRenderingContext2D.prototype.fill = function (...all) { window.frames_ += 1; return draw.apply(this, all) } }""")
    for expected, pressed in ((other, "true"), (own, "false")):
        page.click("[data-do=glide]")
        expect(page.locator("[data-do=glide]")).to_have_attribute("aria-pressed", pressed)
        page.wait_for_function(f"want => {ALL}[0].data[0].x.every((x, i) => x === want[i])", arg=expected)
        assert page.evaluate(places, "right") == other
    assert page.locator("[data-side=left] .g-map-canvas").evaluate("gd => gd.style.visibility") == ""
    assert (page.evaluate("window.frames_") > 60) == (motion == "no-preference")


def test_images_hold_both_maps(page, url):
    opened(page, url, "colour=field:kind")
    assert saved(page, "[data-do=png]").startswith(b"\x89PNG")
    picture = saved(page, "[data-do=svg]").decode()
    assert "tiny-a · with rationale" in picture
    assert "tiny-b · with rationale" in picture
    assert "tale" in picture
    assert "&#60;img" in picture  # a kind that is markup, as text
    assert "<img" not in picture


def test_the_ways_to_explore_and_back(page, url):
    opened(page, url, f"{ONE_TRACE}&point=d04&star=how%20fast%20the%20ice%20melts")
    page.get_by_role("button", name="Why near the query?").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("h2")).to_have_text("Story 4")
    expect(dialog.locator(".g-sum").first).to_be_visible()
    asked = address(page)
    assert (asked["q"], asked["doc"], asked["why"], asked["a"]) == (
        "how fast the ice melts",
        "d04",
        "b",
        "tiny-a:rationale",
    )
    assert "tab" not in asked
    dialog.get_by_role("button", name="Show on the map").click()
    expect(page.locator(".g-map-card h2")).to_have_text("Story 4")
    expect(page.locator(".g-star")).to_have_count(2)
    page.get_by_role("button", name="Search from here").click()
    expect(page.locator("#g-query textarea")).to_have_value("Story 4")
    expect(page.locator(".g-results:not([data-busy]) .g-columns")).to_be_visible()
    page.locator(".g-summary").get_by_role("button", name="Show on the map").click()
    expect(page.locator("[data-part=star]")).to_have_value("Story 4")
    expect(page.locator(".g-map-panel")).to_contain_text("Nearest to “Story 4”")
    expect(page.locator(".g-map-card")).to_have_count(0)


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("corpus=%3Cscript%3Ewindow.pwned=1%3C/script%3E&colour=%3Cb%3E", "there is no collection '<script>"),
        ("point=nope&zoom=x&star=%20&left=nope", "world has no document 'nope'"),
    ],
)
def test_nonsense_in_the_address_gives_a_sentence(page, url, query, said):
    opened(page, url, query)
    expect(page.locator(".g-map-banner")).to_contain_text(said)
    expect(page.locator("[data-set=corpus]")).to_have_value("world")


def test_one_column_is_one_map_and_without_webgl_it_is_svg(page, url):
    page.add_init_script("""const get = HTMLCanvasElement.prototype.getContext;
        HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
            return /webgl/.test(kind) ? null : get.call(this, kind, ...more) }""")
    opened(page, url, "corpus=plain&colour=none")
    expect(page.locator(".g-map-banner")).to_contain_text("no WebGL")
    expect(page.locator(".g-map-panel")).to_contain_text("there is nothing to compare")
    expect(page.locator(".g-map-chart:visible")).to_have_count(1)
    assert page.evaluate("document.querySelector('.g-map-canvas').data.map(trace => trace.type)") == ["scatter"]
    page.mouse.click(*place(page, "left", 2))
    expect(page.locator(".g-map-card")).to_contain_text("Its 7 nearest")


@pytest.mark.parametrize(("scheme", "width"), [("dark", 1180), ("light", 390)])
def test_it_fits_the_window_in_light_and_dark(page, url, scheme, width):
    page.set_viewport_size({"width": width, "height": 820})
    opened(page, url, f"{ONE_TRACE}&point=d04&__theme={scheme}")
    expect(page.locator(".g-map-card")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    left, right = (page.locator(f"[data-side={side}] .g-map-plot").bounding_box() for side in ("left", "right"))
    assert (right["y"] > left["y"] + 100) == (width < 760)
    grounds = f"{ALL}.map(gd => gd._fullLayout.plot_bgcolor)"
    before = page.evaluate(grounds)
    page.evaluate("document.body.classList.toggle('dark')")
    page.wait_for_function(f"before => ({grounds}).every(ground => ground !== before)", arg=before[0])
    page.set_viewport_size({"width": max(390, width - 120), "height": 820})
    page.wait_for_function(f"{ALL}.every(gd => gd._fullLayout.width === gd.parentElement.clientWidth)")


def test_maps_are_computed_while_the_page_waits(page, world, url):
    """Last: the others see the preview."""
    opened(page, url)
    job = page.locator(".g-map-job")
    page.get_by_role("button", name="Compute the maps").click()
    expect(job).to_contain_text("Computing 2 maps, aligned, with UMAP")
    job.get_by_role("button", name="Cancel").click()
    # the first map of a process compiles UMAP, which nothing breaks off
    expect(job).to_contain_text("Cancelled; nothing was written.", timeout=240_000)
    assert not list((world.indexes / "world").glob("*/map*"))
    try:
        page.get_by_role("button", name="Compute the maps").click()
        expect(page.locator("[data-side=left] .g-map-method")).to_have_text(re.compile("^UMAP"))
        assert len(list((world.indexes / "world").glob("*/map.parquet"))) == 2
        for side in ("left", "right"):
            expect(page.locator(f"[data-side={side}] .g-map-name").first).to_be_visible()
        page.select_option("[data-set=colour]", "region-right")
        expect(page.locator(".g-map-key").first).to_be_visible()
        page.click("[data-do=names]")
        expect(page.locator(".g-map-name")).to_have_count(0)
    finally:
        for path in (world.indexes / "world").glob("*/map*"):
            path.unlink()


def test_maps_that_were_done_while_another_tab_was_looked_at_are_shown(page, world, url):
    opened(page, url)
    try:
        page.get_by_role("button", name="Compute the maps").click()
        expect(page.locator(".g-map-job")).to_contain_text("Computing 2 maps")
        page.get_by_role("tab", name="Training").click()
        until = time.monotonic() + 120
        while len(list((world.indexes / "world").glob("*/map.parquet"))) < 2 and time.monotonic() < until:
            page.wait_for_timeout(200)
        page.wait_for_timeout(1500)  # what was asked before the tab was left is answered, and nothing asks any more
        page.get_by_role("tab", name="Map").click()
        expect(page.locator("[data-side=left] .g-map-method")).to_have_text(re.compile("^UMAP"))
        expect(page.locator(".g-map-job .g-progress")).to_have_count(0)
    finally:
        for path in (world.indexes / "world").glob("*/map*"):
            path.unlink()
