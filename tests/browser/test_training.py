"""The Training tab as a person uses it, over runs whose files grow while it is open."""

from __future__ import annotations

import shutil

import pytest
from explorer_world import IMAGE, SCRIPT, write_run
from playwright.sync_api import expect

MARKED = "<img src=x onerror=window.pwned=3>"


@pytest.fixture
def runs(world):
    """Three runs, made anew for each test: one that goes on, one that has ended, and one full of markup."""
    shutil.rmtree(world.runs, ignore_errors=True)
    write_run(world.runs / "going-on", state="running", planned=20)
    write_run(world.runs / "ended", state="stopped early", time=1_700_000_000)
    nasty = [{"text": f"{SCRIPT} asks", "rationale": f"{IMAGE} <b>answers</b>"}]
    write_run(world.runs / MARKED, state="collapsed", time=1_600_000_000, probes=nasty, alarm=f"collapse: {SCRIPT}")
    yield world.runs
    shutil.rmtree(world.runs)


def opened(page, url, query: str = ""):
    page.goto(f"{url}?tab=training{query}")
    expect(page.locator(".g-chart").first).to_be_visible()
    return page


def row(page, name: str):
    return page.locator(f'.g-run[data-run="{name}"]')


def tick(page, name: str) -> None:
    row(page, name).click(position={"x": 300, "y": 12})


def address(page, text: str) -> None:
    page.wait_for_function("text => decodeURIComponent(location.search).includes(text)", arg=text)


def curve(page, key: str, place: int) -> str:
    return page.locator(f'.g-chart[data-key="{key}"] .g-curve.g-run-{place} path').first.get_attribute("d")


def test_without_runs_the_tab_says_how_to_start_one(page, url, world):
    shutil.rmtree(world.runs, ignore_errors=True)
    page.goto(url)
    expect(page.locator(".g-example").first).to_be_visible()
    page.get_by_role("tab", name="Training").click()
    empty = page.locator(".g-training .g-empty")
    expect(empty).to_contain_text("grace train configs/demo-grace.yaml")
    expect(empty).to_contain_text(str(world.runs))
    expect(page.locator(".g-chart")).to_have_count(0)
    write_run(world.runs / "first", state="running", planned=20)
    expect(row(page, "first").get_by_role("checkbox")).to_be_checked()  # found while the tab is open
    expect(page.locator(".g-chart").first).to_be_visible()
    shutil.rmtree(world.runs)


def test_runs_are_listed_compared_and_found_again_by_their_address(page, url, runs):
    opened(page, url)
    expect(page.locator(".g-run")).to_have_count(3)
    assert page.locator(".g-run .g-open").all_inner_texts() == ["going-on", "ended", MARKED]
    expect(row(page, "going-on")).to_contain_text("running")
    expect(row(page, "going-on")).to_contain_text("step 6 of 20")
    expect(row(page, "going-on")).to_contain_text("0.5000")
    expect(row(page, "going-on")).to_contain_text("+0.2000")
    expect(row(page, "ended")).to_contain_text("stopped early")
    assert len(page.locator(".g-chart").all()) == 7
    assert curve(page, "reward", 0).count("L") == 5
    expect(page.locator('.g-chart[data-key="ndcg@10"] .g-base')).to_have_count(1)
    tick(page, "ended")
    expect(page.locator(".g-run-legend > span")).to_have_text(["going-on", "ended"])
    tick(page, "going-on")
    expect(page.locator(".g-run-legend")).to_have_count(0)
    expect(page.locator(".g-curve.g-run-1").first).to_be_attached()  # it keeps its colour
    address(page, "run=/ended")
    page.reload()
    expect(row(page, "ended").get_by_role("checkbox")).to_be_checked()
    expect(row(page, "going-on").get_by_role("checkbox")).not_to_be_checked()
    page.get_by_role("tab", name="Explore").click()
    page.wait_for_function("!location.search.includes('training')")


def test_values_are_read_by_pointer_and_by_keys(page, url, runs):
    opened(page, url)
    chart = page.locator('.g-chart[data-key="reward"]')
    chart.scroll_into_view_if_needed()
    box = chart.locator("svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 12, box["y"] + 60)
    expect(page.locator(".g-tip")).to_contain_text("Reward, step 6")
    expect(page.locator(".g-tip")).to_contain_text("-1.400")
    page.mouse.move(2, 2)
    expect(page.locator(".g-tip")).to_be_hidden()
    chart.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".g-tip")).to_contain_text("Reward, step 2")


def test_a_run_that_grows_updates_the_page_in_place(page, url, runs):
    opened(page, url, "&run=going-on/ended")
    expect(page.locator(".g-run-legend > span")).to_have_count(2)
    chart = page.locator('.g-chart[data-key="kl"]')
    chart.scroll_into_view_if_needed()
    box = chart.locator("svg").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    expect(page.locator(".g-tip")).to_be_visible()
    before = page.evaluate("""() => { window.node = document.querySelector('.g-chart[data-key="kl"]');
        return [scrollY, window.node.getBoundingClientRect().top, document.querySelector('.g-tip').textContent] }""")
    with open(runs / "going-on" / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "reward": 0.75, "kl": 0.01}\n{"step": 8, "rew')
    expect(row(page, "going-on")).to_contain_text("step 7 of 20")
    after = page.evaluate("""() => [scrollY, document.querySelector('.g-chart[data-key="kl"]').getBoundingClientRect().top,
        document.querySelector('.g-tip').textContent]""")
    assert after == before
    assert page.evaluate("window.node === document.querySelector('.g-chart[data-key=\"kl\"]')")
    assert curve(page, "kl", 0).count("L") == 6
    expect(page.locator(".g-run-legend > span")).to_have_text(["going-on", "ended"])
    expect(row(page, "going-on").locator(".g-run-problem")).to_have_count(0)


def test_two_evaluations_stand_side_by_side(page, url, runs):
    opened(page, url, "&run=ended")
    left, right = page.locator(".g-card-left"), page.locator(".g-card-right")
    expect(left).to_contain_text("Step 0")
    expect(left).to_contain_text("nDCG@10 0.3000")
    expect(right).to_contain_text("Step 4")
    expect(right).to_contain_text("nDCG@10 0.5000")
    expect(right.locator("mark.g-mark-new")).to_have_text(["number4"])
    expect(left.locator("mark.g-mark-gone")).to_have_text(["number0"])
    page.locator(".g-time").nth(3).click()
    expect(right).to_contain_text("number6")
    page.locator(".g-probe").nth(1).click()
    expect(right).to_contain_text("of 1")
    page.locator("[data-set=from][aria-checked=true]").focus()
    page.keyboard.press("ArrowRight")
    expect(left).to_contain_text("Step 2")
    expect(page.locator("[data-set=from][data-value='2']")).to_be_focused()
    address(page, "probe=2&from=2&step=6")
    page.reload()
    expect(right).to_contain_text("number6 of 1")
    expect(left).to_contain_text("number2 of 1")


def test_markup_in_runs_and_probes_is_text(page, url, runs):
    opened(page, url)
    tick(page, MARKED)
    expect(page.locator(".g-run-legend > span").nth(1)).to_have_text(MARKED)
    page.get_by_role("radio", name=MARKED).click()
    expect(page.locator(".g-probe-text")).to_contain_text(SCRIPT)
    expect(page.locator(".g-card-right")).to_contain_text(f"{IMAGE} <b>answers</b>")
    expect(row(page, "going-on")).to_be_visible()
    expect(page.locator(".g-run-alarm")).to_have_text(f"collapse: {SCRIPT}")
    assert (
        page.locator(
            "#g-runs img, #g-curves img, #g-probes img, #g-runs script, #g-curves script, #g-probes script"
        ).count()
        == 0
    )


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("&run=../../etc", "there is no run '..' here"),
        (
            "&run=ended&step=%3Cscript%3Ewindow.pwned=1%3C/script%3E",
            "step is '<script>window.pwned=1</script>', expected a whole number",
        ),
    ],
)
def test_nonsense_in_the_address_gives_a_sentence(page, url, runs, query, said):
    opened(page, url, query)
    expect(page.locator(".g-training .g-banner")).to_contain_text(said)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 1100)])
def test_it_can_be_read_in_light_and_dark(page, url, runs, contrast, scheme, width):
    page.set_viewport_size({"width": width, "height": 900})
    opened(page, url, f"&run=going-on/ended&__theme={scheme}")
    expect(page.locator(".g-card-right")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    texts = (
        ".g-run .g-open",
        ".g-run-kind",
        ".g-state-running",
        ".g-gain",
        ".g-chart b",
        ".g-chart-note",
        ".g-time-score",
    )
    for selector in (*texts, ".g-card-right p"):
        assert contrast(selector, "color") >= 4.5, selector
    assert contrast(".g-tick", "fill") >= 4.5
    for place in (0, 1):
        assert contrast(f".g-curve.g-run-{place} path", "stroke") >= 3, place
