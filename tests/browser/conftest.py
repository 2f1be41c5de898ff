"""A real Chromium, and the app served over a small world of tiny models."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "app"))

from explorer_world import make_world, served

FLAGS = "--no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update --disable-sync".split()
PATIENCE = 60_000  # milliseconds for a condition to come true: generous, as other work may keep the machine busy


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in Path(item.fspath).parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def world(tmp_path_factory, new_model, sentences):
    return make_world(tmp_path_factory.mktemp("explorer"), new_model, sentences)


@pytest.fixture(scope="session")
def url(world):
    with served(world, "--collection", "world") as address:
        yield address


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE)
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("GRACE_CHROMIUM") or next((found for name in names if (found := shutil.which(name))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A fresh page of 1440 by 900 that fails its test on a script error or a request to another host."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    made = context.new_page()
    made.set_default_timeout(PATIENCE)
    errors, elsewhere = [], []
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.on("request", lambda request: elsewhere.append(request.url))
    yield made
    pwned = made.evaluate("window.pwned") if not made.is_closed() else None
    context.close()
    assert not errors
    assert not [address for address in elsewhere if not address.startswith(("http://127.0.0.1:", "data:", "blob:"))]
    assert pwned is None


CONTRAST = """([selector, property]) => {
    const channel = (v) => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4 };
    const style = (e, what) => getComputedStyle(e)[what].match(/[\\d.]+/g).map(Number);
    const of = (c) => .2126 * channel(c[0]) + .7152 * channel(c[1]) + .0722 * channel(c[2]);
    const element = document.querySelector(selector); let under = element;
    while (under && (under instanceof SVGElement || (style(under, 'backgroundColor')[3] ?? 1) === 0)) under = under.parentElement;
    const [a, b] = [of(style(element, property)), of(style(under || document.body, 'backgroundColor'))];
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) }"""


@pytest.fixture
def contrast(page):
    """The contrast by WCAG of an element's colour (or fill, or stroke) with what is painted under it:
    ``contrast(selector, property)``.
    """
    return lambda selector, property: page.evaluate(CONTRAST, [selector, property])
