"""Which words two texts share, and marking them: reading help, no part of any score."""

from __future__ import annotations

import re

from grace_app.page.html import Safe, join, tag, text

_WORD = re.compile(r"\w+(?:['’]\w+)?")
_THINK = re.compile(r"(</?think>)")
_COMMON = frozenset(
    "a about above after again against all also although am among an and another any are as asks at be because been before being below "
    "between both but by can cannot could did do does doing done down during each either else ever every few first for from further get "
    "had has have having he her here hers him his how however i if in into is it its itself just know known last least less like made "
    "make many may me might mine more most much must my neither no nor not now of off often on once one only onto or other others our "
    "out over own part per rather said same she should since so some such text than that the their theirs them then there these they "
    "this those though through thus to too toward two under until up upon us used uses very via was we well were what when where "
    "whether which while who whom whose why will with within without would yet you your".split()
)


def stem(word: str) -> str:
    """A word as it is compared: case folded, without a plural s.

    Crude on purpose, as it must hold for any model's output.
    """
    word = word.casefold().replace("’", "'").removesuffix("'s")
    return word[:-1] if len(word) > 4 and word.endswith("s") and not word.endswith("ss") else word


def rationale_text(rationale: str, **classes: set[str]) -> Safe:
    """A rationale with its words marked as by :func:`mark`, and its think tags set apart from what it says."""
    parts = _THINK.split(rationale)
    return join(
        *(tag("span", part, class_="g-think") if i % 2 else mark(part, **classes) for i, part in enumerate(parts))
    )


def content_words(source: str) -> set[str]:
    """Stems of the words of ``source`` that are neither common English words nor a single character."""
    source = _THINK.sub(" ", source)
    return {stem(word) for word in _WORD.findall(source) if len(word) > 1 and word.casefold() not in _COMMON}


def mark(source: str, **classes: set[str]) -> Safe:
    """``source`` with every word whose stem is in one of ``classes`` in a ``<mark>`` of those class names."""
    parts, end = [], 0
    for match in _WORD.finditer(source):
        key = stem(match.group())
        names = [f"g-mark-{name}" for name, words in classes.items() if key in words]
        if names:
            parts += [text(source[end : match.start()]), tag("mark", match.group(), class_=" ".join(names))]
            end = match.end()
    return join(*parts, source[end:])
