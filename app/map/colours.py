"""Colours of the Map tab: a code for every document, so that a hundred thousand of them are sent in as many bytes.

Values that are kinds get one code each, the most frequent first; beyond KINDS kinds the rest is one more,
"other". Numbers get their place between the 1st and the 99th percentile, in 255 steps: one outlier must not
leave all others in the same colour.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

KINDS = 20  # as many as there are colours in style.css; more could not be told apart
MISSING = 255  # the code of a document without a value
MAX_LABEL = 80


@dataclass(frozen=True)
class Coded:
    """``codes`` ``(n,)`` uint8 or uint16.

    With ``labels`` they are kinds, and ``tones`` says which colour each has (-1: the grey of the rest);
    without, places between ``low`` and ``high``, ``clipped`` where values lie beyond.
    """

    title: str
    codes: np.ndarray
    labels: list[str] | None = None
    tones: list[int] | None = None
    low: float = 0.0
    high: float = 0.0
    clipped: tuple[bool, bool] = (False, False)
    note: str = ""

    def as_dict(self) -> dict:
        wide = self.codes.dtype.itemsize == 2
        missing = 65535 if wide else MISSING
        record = {"title": self.title, "codes": packed(self.codes), "wide": wide, "note": self.note}
        if self.labels is None:
            return record | {
                "low": self.low,
                "high": self.high,
                "clipped": list(self.clipped),
                "missing": int((self.codes == missing).sum()),
            }
        counts = np.bincount(self.codes[self.codes != missing], minlength=len(self.labels)).tolist()
        return record | {"labels": self.labels, "tones": self.tones, "counts": counts}


def packed(array: np.ndarray) -> str:
    """Base64 of the array's bytes, little-endian."""
    return base64.b64encode(
        np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    ).decode("ascii")


def field_kind(values: Sequence[object]) -> str:
    """How a metadata column is coloured: "kinds", "numbers", or "" where a colour would say nothing (one
    value, or all different).
    """
    there = [value for value in values if value is not None and value != ""]
    distinct = len(set(map(str, there)))
    if distinct < 2:
        return ""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in there):
        return "numbers" if distinct > KINDS or any(isinstance(value, float) for value in there) else "kinds"
    return "kinds" if distinct < len(there) or distinct <= KINDS else ""


def code_values(title: str, values: Sequence[object]) -> Coded:
    """A metadata column in colours."""
    if field_kind(values) == "numbers":
        return code_numbers(title, [math.nan if value is None or value == "" else float(value) for value in values])
    return code_kinds(title, ["" if value is None else " ".join(str(value).split())[:MAX_LABEL] for value in values])


def code_kinds(title: str, values: Sequence[str]) -> Coded:
    """The KINDS most frequent values, or all if one more would be left over; ties in the order of the alphabet."""
    counts = Counter(value for value in values if value)
    ranked = sorted(counts, key=lambda value: (-counts[value], value))
    kept = ranked if len(ranked) <= KINDS else ranked[: KINDS - 1]
    place = {value: code for code, value in enumerate(kept)}
    rest = len(kept)
    codes = np.array([MISSING if not value else place.get(value, rest) for value in values], dtype=np.uint8)
    others = [f"other ({len(ranked) - rest:,} values)"] if len(ranked) > rest else []
    return Coded(title, codes, [*kept, *others], [*range(rest), *([-1] if others else [])])


def code_regions(title: str, labels: np.ndarray, names: Sequence[str], places: np.ndarray) -> Coded:
    """Regions: there may be more than colours, so those that share one lie far apart.

    ``places`` ``(r, 2)`` are their middles.
    """
    codes = np.where(labels < 0, 65535, labels).astype(np.uint16)
    tones = [0] * len(names)
    members: list[list[int]] = [[] for _ in range(KINDS)]
    for region in np.argsort(-np.bincount(labels[labels >= 0], minlength=len(names)), kind="stable").tolist():
        distances = [
            min((float(np.hypot(*(places[region] - places[other]))) for other in tone), default=math.inf)
            for tone in members
        ]
        tones[region] = int(np.argmax(distances))
        members[tones[region]].append(region)
    return Coded(title, codes, [name[:MAX_LABEL] for name in names], tones)


def code_numbers(
    title: str, values: Sequence[float], *, low: float | None = None, high: float | None = None, note: str = ""
) -> Coded:
    """Numbers, NaN or infinite where there is none."""
    numbers = np.asarray(values, dtype=np.float64)
    known = numbers[np.isfinite(numbers)]
    if low is None or high is None:
        low, high = (
            (float(edge) for edge in np.percentile(known, (1, 99), method="nearest")) if len(known) else (0.0, 0.0)
        )
    span = high - low or 1.0
    with np.errstate(invalid="ignore"):
        codes = np.where(np.isfinite(numbers), np.round(np.clip((numbers - low) / span, 0, 1) * 254), MISSING).astype(
            np.uint8
        )
    clipped = (bool((known < low).any()), bool((known > high).any()))
    return Coded(title, codes, low=low, high=high, clipped=clipped, note=note)
