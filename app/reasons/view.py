"""What the Reasons tab shows, as it stands in the address:
``?tab=reasons&corpus=&model=&size=&reason=&ask=&only=&steer=&against=&judged=&queries=``.

Whatever comes from a browser is read here and nowhere else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from grace_app.evaluate.view import ALL, read_judged, splits_of
from grace_app.page.address import LONGEST, PARAMETERS
from grace_app.workspace.view import Column, check_query, short, texts_of
from grace_app.workspace.writing_models import models_of, read_model
from grace_core.errors import GraceError

STEERED = 8  # reasons at once
STRONGEST = 2.0  # of the slider, in lengths of the query


@dataclass(frozen=True)
class ReasonsView:
    """A collection, a model of it, how many reasons (None: the default), and, once asked, the opened reason,
    the query, whether only hits with that reason are shown, and how strongly which reasons steer the query.

    ``against`` is another model that the first is compared with, or the column of its own text alone, over the judged
    queries of ``split`` ("" for all), the ``FIRST`` at random or, with ``every``, all of them.
    """

    corpus: str
    model: str
    size: int | None = None
    reason: int | None = None
    ask: str = ""
    only: bool = False
    steer: tuple[tuple[int, float], ...] = ()
    against: str = ""
    split: str = ""
    every: bool = False

    @property
    def text_alone(self) -> Column:
        """The model's column without its rationale."""
        return Column(self.model, rationale=False)

    @property
    def against_text(self) -> bool:
        return self.against == self.text_alone.id

    def params(self) -> dict[str, str]:
        """As :func:`read_reasons` takes it, and, with ``tab=reasons``, as the address holds it."""
        return {
            "corpus": self.corpus,
            "model": self.model,
            "size": "" if self.size is None else str(self.size),
            "reason": "" if self.reason is None else str(self.reason),
            "ask": self.ask if len(self.ask) <= LONGEST else "",
            "only": "1" if self.only else "",
            "steer": ",".join(f"{reason}:{strength:g}" for reason, strength in self.steer),
            "against": self.against,
            "judged": (self.split or ALL) if self.against else "",
            "queries": ALL if self.against and self.every else "",
        }


def read_reasons(workspace, params: object, *, strict: bool = False) -> tuple[ReasonsView, list[str]]:
    """The view that ``params`` ask for, and what is wrong with them; wrong parts stand at their default.

    Numbers of reasons are checked where the reasons are known. ``strict`` raises the first problem instead.
    Raises GraceError if nothing is built.
    """
    asked = texts_of(params, PARAMETERS["reasons"])
    problems: list[str] = []
    corpus, model = read_model(workspace, asked["corpus"], asked["model"], problems)
    view = ReasonsView(corpus, model)
    if asked["corpus"] not in ("", corpus) or asked["model"] not in ("", model):
        asked |= {"reason": "", "steer": ""}
    for key in ("size", "reason"):
        if asked[key].isascii() and asked[key].isdigit() and len(asked[key]) < 7:
            view = replace(view, **{key: int(asked[key])})
        elif asked[key]:
            problems.append(f"{key} is {asked[key][:60]!r}, expected a number")
    if asked["ask"].strip():
        try:
            view = replace(view, ask=check_query(asked["ask"]))
        except GraceError as error:
            problems.append(str(error))
    if asked["steer"]:
        try:
            view = replace(view, steer=read_steer(asked["steer"]))
        except GraceError as error:
            problems.append(str(error))
    view = _read_comparison(workspace, view, asked, problems)
    if strict and problems:
        raise GraceError(problems[0])
    return replace(view, only=asked["only"] == "1" and view.reason is not None), problems


def _read_comparison(workspace, view: ReasonsView, asked: dict, problems: list[str]) -> ReasonsView:
    """``view`` with the model that it is compared with, and over which queries."""
    splits = list(splits_of(workspace.collection(view.corpus)))
    models = models_of(workspace, view.corpus)
    others = [view.text_alone.id, *(model for model in models if model != view.model)] if models else []
    if asked["against"] in others:
        view = replace(view, against=asked["against"])
    elif asked["against"]:
        problems.append(
            f"{view.model} cannot be compared with {short(asked['against'])}; with: {', '.join(others) or 'none'}"
        )
    split, every = read_judged(view.corpus, splits, asked["judged"], asked["queries"], problems)
    return replace(view, split=split, every=every)


def read_steer(text: str) -> tuple[tuple[int, float], ...]:
    """``"3:0.5,7:-1"`` as reasons and strengths; those of 0 are left out.

    Raises GraceError if it is nothing like that.
    """
    strengths: dict[int, float] = {}
    for part in text[:400].split(",")[: STEERED + 1]:
        number, _, strength = part.partition(":")
        try:
            strengths[int(number)] = round(float(strength), 3)
        except (ValueError, OverflowError):
            raise GraceError(f"steer is {text[:60]!r}, expected reasons with strengths, such as 3:0.5,7:-1") from None
    if len(strengths) > STEERED or any(
        number < 0 or not math.isfinite(value) or abs(value) > STRONGEST for number, value in strengths.items()
    ):
        raise GraceError(
            f"steer is {text[:60]!r}, expected at most {STEERED} reasons with strengths from -{STRONGEST:g} to {STRONGEST:g}"
        )
    return tuple((number, value) for number, value in strengths.items() if value)
