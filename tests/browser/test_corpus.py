"""The Corpus tab: from a file to a collection that can be asked."""

from __future__ import annotations

import re

import pytest
from explorer_world import SCRIPT
from playwright.sync_api import expect


@pytest.fixture
def corpus(page, url):
    page.goto(url)
    expect(page.locator(".g-example").first).to_be_visible()
    page.get_by_role("tab", name="Corpus").click()
    expect(page.locator("#g-build")).to_be_visible()
    return page


def upload(page, path) -> None:
    page.set_input_files("#g-file input[type=file]", str(path))


def choose(page, box: str, label: str) -> None:
    page.click(f"{box} input")
    page.locator(box).get_by_role("option", name=label, exact=True).click()


def fill_model(page, model: str) -> None:
    page.fill("#g-model input", model)
    page.press("#g-model input", "Enter")


def fill_name(page, name: str) -> None:
    page.fill("#g-name input, #g-name textarea", name)


def test_upload_map_build_explore(corpus, world):
    upload(corpus, world.files / "my notes.csv")
    expect(corpus.locator(".g-table")).to_be_visible()
    expect(corpus.locator("#g-name input, #g-name textarea")).to_have_value("my-notes")
    expect(corpus.locator("#g-col-text input")).to_have_value("body")
    expect(corpus.locator("#g-col-title input")).to_have_value("— none —")
    choose(corpus, "#g-col-id", "key")
    choose(corpus, "#g-col-title", "<i>heading</i>")
    expect(corpus.locator(".g-table th")).to_have_text(["keyid", "<i>heading</i>title", "bodytext"])
    expect(corpus.locator(".g-table tbody tr").first).to_contain_text(SCRIPT)
    fill_model(corpus, world.model)
    corpus.click("#g-estimate")
    expect(corpus.locator(".g-estimate")).to_contain_text("30 documents")
    corpus.click("#g-build")
    expect(corpus.locator(".g-job")).to_have_attribute("data-state", "done")
    expect(corpus.locator(".g-job")).to_contain_text("30 of 30 documents")
    corpus.get_by_role("button", name="Explore it").click()
    expect(corpus.locator("#g-collection input")).to_have_value("my-notes")
    expect(corpus.locator(".g-empty")).to_contain_text("30 documents of my-notes")
    corpus.fill("#g-query textarea", "note 0")
    corpus.press("#g-query textarea", "Enter")
    expect(corpus.locator(".g-results:not([data-busy]) .g-column-b .g-hit")).to_have_count(10)
    assert "collection=my-notes" in corpus.url


def test_cancel_and_resume_across_a_reload(corpus, world, url):
    upload(corpus, world.files / "many.jsonl")
    expect(corpus.locator("#g-col-text input")).to_have_value("text")
    fill_name(corpus, "many")
    fill_model(corpus, world.model)
    corpus.click("#g-build")
    progress = corpus.get_by_role("progressbar")
    expect(progress).to_have_attribute("aria-valuemax", "280")
    expect(progress).not_to_have_attribute("aria-valuenow", "0")
    expect(corpus.locator(".g-job")).to_contain_text("texts/s")
    corpus.get_by_role("button", name="Cancel").click()
    expect(corpus.locator(".g-job")).to_have_attribute("data-state", "stopped")
    assert not (world.indexes / "many" / "tiny-a" / "manifest.json").exists()
    done = int(progress.get_attribute("aria-valuenow"))
    assert 0 < done < 280
    corpus.reload()
    corpus.get_by_role("tab", name="Corpus").click()
    corpus.get_by_role("button", name="Resume").click()
    expect(corpus.locator(".g-job")).to_have_attribute(
        "data-state", re.compile("encoding|done")
    )  # what is left may be done at once
    corpus.goto(url)  # closing the tab does not end the build
    corpus.get_by_role("tab", name="Corpus").click()
    expect(corpus.locator(".g-job")).to_have_attribute("data-state", "done", timeout=120_000)
    expect(corpus.locator(".g-job")).to_contain_text("280 of 280 documents")
    assert (world.indexes / "many" / "tiny-a" / "manifest.json").exists()


def test_what_is_wrong_is_said_in_place(corpus, world, tmp_path):
    message = corpus.locator("#g-corpus-message .g-banner")
    corpus.click("#g-build")
    expect(message).to_contain_text("no name yet")
    fill_name(corpus, "../outside")
    corpus.click("#g-build")
    expect(message).to_contain_text("is no name for a collection")
    fill_name(corpus, "fine")
    corpus.click("#g-build")
    expect(message).to_contain_text("no file is chosen")
    upload(corpus, world.files / "broken.jsonl")
    expect(corpus.locator("#g-preview .g-banner")).to_contain_text("broken.jsonl")
    corpus.locator("#g-file button[aria-label*='emove'], #g-file button[aria-label*='lear']").first.click()
    upload(corpus, world.files / "my notes.csv")
    expect(corpus.locator(".g-table")).to_be_visible()
    choose(corpus, "#g-col-title", "body")
    expect(message).to_contain_text("chosen twice")
    choose(corpus, "#g-col-title", "— none —")
    expect(message).to_have_count(0)
    corpus.fill("#g-limit input, #g-limit textarea", "many")
    corpus.click("#g-estimate")
    expect(message).to_contain_text("the limit is 'many'")
    corpus.fill("#g-limit input, #g-limit textarea", "")
    fill_model(corpus, str(tmp_path))
    corpus.click("#g-estimate")
    expect(message).to_contain_text("not a model")
    fill_model(corpus, "nobody/has-this-model")
    corpus.click("#g-estimate")
    expect(message).to_contain_text("could not be fetched")
    assert corpus.locator(".toast-wrap .toast-body").count() == 0


def test_a_file_is_added_to_a_collection(corpus, world, tmp_path):
    for name, ids in {"first": range(12), "second": range(10, 30)}.items():
        corpus.reload()
        corpus.get_by_role("tab", name="Corpus").click()
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(f'{{"_id": "d{i}", "text": "Passage number {i} about rivers."}}' for i in ids))
        upload(corpus, path)
        expect(corpus.locator("#g-name input, #g-name textarea")).to_have_value(name)
        fill_name(corpus, "growing")
        fill_model(corpus, world.model)
        expect(corpus.get_by_label("Add to it")).to_be_checked()
        corpus.click("#g-build")
        expect(corpus.locator(".g-job")).to_contain_text(f"{max(ids) + 1} of {max(ids) + 1} documents")
        expect(corpus.locator(".g-job")).to_have_attribute("data-state", "done")
    expect(corpus.locator(".g-job")).to_contain_text("18 new ('d12', 'd13', 'd14', …); 12 stay as they are")
    corpus.get_by_role("button", name="Explore it").click()
    expect(corpus.locator(".g-empty")).to_contain_text("30 documents of growing")
