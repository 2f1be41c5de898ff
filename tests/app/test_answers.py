"""What the server tells a page, message by message.

Gradio sends of every answer after an event's first only what is new in it, and its page applies that to the
answer before, also if it has not come to look at that one yet. What a later answer takes out of an update may
so never be told.
"""

from __future__ import annotations

import json

import httpx
import pytest
from judged_world import make_judged

ADDRESS = {"tab": "evaluate", "on": "judged", "x": "tiny-a:rationale", "y": "tiny-b:rationale", "split": "test"}


@pytest.fixture(scope="module")
def judged(tmp_path_factory, new_model, sentences):
    return make_judged(tmp_path_factory.mktemp("judged"), new_model, sentences)


@pytest.fixture(scope="module")
def demo(judged):
    from grace_app.main import build_app, launch

    made = build_app(judged.indexes, judged.runs, collection="unjudged", cache_path=judged.root / "cache.sqlite")
    made.address = launch(made, port=0)
    yield made
    made.close()


class Page:
    """A page's session with the server."""

    def __init__(self, demo, name: str):
        self.config, self.name, self.where = demo.config, name, f"{demo.address}gradio_api/queue/"

    def told(self, part: str, event: str, data: list, event_data: object = None, **address: str) -> list[list]:
        """The data of each message that answers the first ``event`` of the part with the elem_id ``part``, as sent."""
        (component,) = (one["id"] for one in self.config["components"] if one["props"].get("elem_id") == part)
        number = next(
            one["id"]
            for one in self.config["dependencies"]
            if [component, event] in [list(each) for each in one["targets"]]
        )
        asked = {
            "data": data,
            "event_data": event_data,
            "fn_index": number,
            "trigger_id": component,
            "session_hash": self.name,
        }
        httpx.post(f"{self.where}join", params=address, json=asked).raise_for_status()
        found = []
        with httpx.stream("GET", f"{self.where}data", params={"session_hash": self.name}, timeout=120) as lines:
            for line in lines.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line else {}
                if message.get("msg") in ("process_generating", "process_completed"):
                    assert message["success"], message
                    found.append(message["output"]["data"])
                if message.get("msg") == "process_completed":
                    return found
        raise AssertionError("the event did not end")


@pytest.fixture
def page(demo, request):
    return Page(demo, request.node.name)


def taken_away(messages: list[list]) -> list:
    """The edits by which messages after the first, and before the last, which is whole, take something away
    from an update.
    """
    return [edit for message in messages[1:-1] for edits in message for edit in edits if edit[0] == "delete"]


def test_every_answer_of_the_evaluate_tab_is_whole(page):
    messages = page.told("g-eval-picture", "shown", [None] * 7, **ADDRESS)
    assert len(messages) == 3  # without and with BM25, and the end
    for whole in (messages[0], messages[-1]):
        assert [update.get("value") for update in whole[:4]] == [
            "judged",
            "tiny-a:rationale",
            "tiny-b:rationale",
            "test",
        ]
    assert taken_away(messages) == []


def test_what_is_chosen_in_the_evaluate_tab_goes_before_the_address(page):
    page.told("g-eval-picture", "shown", [None] * 7, **ADDRESS)
    again = page.told(
        "g-eval-picture", "shown", ["judged", "tiny-a:text", "tiny-b:text", "dev", "all", [], ""], **ADDRESS
    )
    assert [update.get("value") for update in again[-1][:4]] == ["judged", "tiny-a:text", "tiny-b:text", "dev"]


def test_every_answer_of_an_evaluation_is_whole(page):
    page.told("g-eval-picture", "shown", [None] * 7, **ADDRESS)
    messages = page.told("g-eval-run", "click", ["judged", "tiny-a:text", "tiny-b:text", "test", "all", [], ""])
    assert len(messages) >= 3
    assert taken_away(messages) == []


def test_every_answer_of_a_search_is_whole(page):
    page.told("g-results", "ready", [], collection="judged")
    messages = page.told(
        "g-search", "click", ["judged", "tiny-a:rationale", "tiny-b:rationale", 5, "best", "", "river and town"]
    )
    assert len(messages) >= 3
    assert taken_away(messages) == []


def test_a_query_leads_to_explore_in_one_answer(page):
    page.told("g-eval-picture", "shown", [None] * 7, **ADDRESS)
    (only,) = page.told(
        "g-eval-cases",
        "select",
        ["judged", "tiny-a:rationale", "tiny-b:rationale", "test", "all", [], ""],
        {"query": "q02"},
    )
    assert {"selected": "explore", "__type__": "update"} in only


def test_a_file_that_is_taken_away_empties_every_column(page):
    (only,) = page.told("g-file", "change", [None, "", ""])
    assert [update["value"] for update in only[1:4]] == [""] * 3
