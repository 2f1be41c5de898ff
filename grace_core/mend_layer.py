"""The layer of mends beside an index: every mend that there was, and what the index held before and holds since.

See :mod:`grace_core.mends` for the files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from grace_core.errors import GraceError
from grace_core.files import read_json, sha256, write_atomically, write_json
from grace_core.pooling import RATIONALE

LIST, TENSORS = "mends.json", "mends.safetensors"
SCHEMA = 1
STATES = ("kept", "reverted", "stale")
REMEDY = f"restore it, or remove {LIST} and {TENSORS} there: the index stays as it is, and its mends cannot be reverted any more"


@dataclass(frozen=True, eq=False)
class Content:
    """What an index holds of one document: its rationale with token ids, part sums ``(3, d)`` fp32 and counts
    ``(3,)``.
    """

    rationale: str
    ids: list[int]
    truncated: bool
    sums: np.ndarray
    counts: np.ndarray

    def equals(self, other: Content) -> bool:
        return (
            self.ids == other.ids
            and self.rationale == other.rationale
            and self.truncated == other.truncated
            and np.array_equal(self.sums, other.sums)
            and np.array_equal(self.counts, other.counts)
        )


@dataclass(frozen=True, eq=False)
class Mend:
    """A mend that was kept once. ``reason`` and ``ended`` tell why and since when it is not in force any more."""

    id: str
    kind: str
    note: str
    time: str
    document: str
    text_sha256: str
    state: str
    old: Content
    new: Content
    reason: str = ""
    ended: str = ""

    def as_dict(self) -> dict:
        """For JSON, without the numbers."""
        payload = {
            name: getattr(self, name) for name in ("id", "kind", "note", "time", "document", "text_sha256", "state")
        }
        if self.state != "kept":
            payload |= {"reason": self.reason, "ended": self.ended}
        sides = {"old": self.old, "new": self.new}
        return payload | {
            name: {"rationale": side.rationale, "truncated": side.truncated, "tokens": int(side.counts[RATIONALE])}
            for name, side in sides.items()
        }


class Layer:
    """All mends of one index, oldest first. ``unmended`` is the manifest of before the first of those in force."""

    def __init__(self, mends: Sequence[Mend] = (), unmended: dict | None = None):
        self.mends, self.unmended = list(mends), unmended

    @classmethod
    def load(cls, folder: Path) -> Layer:
        """Those of a model's folder; none where there is no mends.json. Raises GraceError if the files do not hold."""
        if not (folder / LIST).exists():
            return cls()
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        stored = read_json(folder / LIST, REMEDY)
        path = folder / TENSORS
        if stored.get("schema") != SCHEMA:
            raise GraceError(
                f"{folder / LIST} has schema {stored.get('schema')!r}, this version reads {SCHEMA}; {REMEDY}"
            )
        if not path.is_file() or sha256(path) != stored.get("sha256"):
            raise GraceError(f"{path} is missing or was changed (its hash is not that of {LIST}); {REMEDY}")
        try:
            tensors = load_file(path)
            return cls([_read_mend(entry, tensors) for entry in stored["mends"]], stored["unmended"])
        except (KeyError, TypeError, ValueError, SafetensorError) as error:
            raise GraceError(
                f"{folder / LIST} cannot be read ({error!r}); it was damaged or edited: {REMEDY}"
            ) from error

    def save(self, folder: Path) -> None:
        from safetensors.numpy import save_file

        tensors = {
            f"{mend.id}.{name}.{what}": array
            for mend in self.mends
            for name, side in (("old", mend.old), ("new", mend.new))
            for what, array in (
                ("sums", side.sums.astype(np.float32)),
                ("counts", side.counts.astype(np.int64)),
                ("ids", np.array(side.ids, np.int32)),
            )
        }
        write_atomically(folder / TENSORS, lambda path: save_file(tensors, path))
        entries = [mend.as_dict() for mend in self.mends]
        stored = {"schema": SCHEMA, "sha256": sha256(folder / TENSORS), "mends": entries, "unmended": self.unmended}
        write_json(folder / LIST, stored)

    def kept(self) -> dict[str, list[Mend]]:
        """The mends in force by document, those of one document one upon the other."""
        by_document: dict[str, list[Mend]] = {}
        for mend in self.mends:
            if mend.state == "kept":
                by_document.setdefault(mend.document, []).append(mend)
        return by_document

    def numbers(self) -> dict[str, int]:
        """How many are ``in_force``, ``reverted`` and ``stale``."""
        return {
            "in_force" if state == "kept" else state: sum(mend.state == state for mend in self.mends)
            for state in STATES
        }

    def find(self, mend_id: str) -> Mend:
        for mend in self.mends:
            if mend.id == mend_id:
                return mend
        there = ", ".join(f"{mend.id} ({mend.document})" for mend in self.mends) or "none"
        raise GraceError(f"there is no mend {mend_id[:40]!r}; there are: {there[:200]}")

    def ended(self, mend: Mend, state: str, reason: str) -> None:
        self.mends[self.mends.index(mend)] = replace(mend, state=state, reason=reason, ended=timestamp())


def _read_mend(entry: dict, tensors: Mapping[str, np.ndarray]) -> Mend:
    sides = {}
    for name in ("old", "new"):
        sums, counts, ids = (tensors[f"{entry['id']}.{name}.{what}"] for what in ("sums", "counts", "ids"))
        sides[name] = Content(str(entry[name]["rationale"]), ids.tolist(), bool(entry[name]["truncated"]), sums, counts)
    if entry["state"] not in STATES:
        raise ValueError(f"state {entry['state']!r}")
    texts = {name: str(entry[name]) for name in ("id", "kind", "note", "time", "document", "text_sha256", "state")}
    return Mend(**texts, **sides, reason=str(entry.get("reason", "")), ended=str(entry.get("ended", "")))


def timestamp() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
