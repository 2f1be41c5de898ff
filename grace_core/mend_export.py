"""Mends as one JSON file, to be taken into another index of the collection, or of another model.

Of every mend in force the file has the document's id, a hash of its text, the rationale in words and in token
ids, and the sum of the rationale's hidden states. That sum is taken by an index whose model has the same
weights, precision, prompt and settings; any other encodes the words again. The file may come from anywhere:
everything in it is checked, and nothing of it is run.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from grace_core.errors import GraceError
from grace_core.files import read_json, write_json
from grace_core.index import GraceIndex
from grace_core.mend_layer import Content, Layer
from grace_core.mends import Change, content_of, encoded, text_hash
from grace_core.model import GraceModel
from grace_core.pooling import RATIONALE

FORMAT = 1
SAME = ("model", "dtype", "settings", "prompt")  # of two manifests: what makes their sums exchangeable
LARGEST = 2**28  # bytes of a file that is read


@dataclass
class Read:
    """What a file of mends means for an index: ``changes`` to be kept, and a line about each mend that is left out."""

    changes: list[Change] = field(default_factory=list)
    encoded: int = 0  # of the changes, those that were encoded again
    left_out: list[str] = field(default_factory=list)


def write_export(index: GraceIndex, path: Path) -> int:
    """Write the mends in force to ``path``; how many they are. Raises GraceError if there is none."""
    kept = [mends[-1] for mends in Layer.load(index.folder).kept().values()]
    if not kept:
        raise GraceError(
            f"{index.folder} has no mend in force, so there is nothing to export; `grace mend keep` makes one"
        )
    entries = [
        {
            "document": mend.document,
            "text_sha256": mend.text_sha256,
            "kind": mend.kind,
            "note": mend.note,
            "time": mend.time,
            "rationale": mend.new.rationale,
            "truncated": mend.new.truncated,
            "ids": mend.new.ids,
            "sum": base64.b64encode(mend.new.sums[RATIONALE].astype("<f4").tobytes()).decode(),
        }
        for mend in kept
    ]
    made_by = {name: index.manifest.get(name) for name in SAME} | {"model_id": index.manifest["model_id"]}
    write_json(path, {"grace_mends": FORMAT, "collection": index.collection.name, "made_by": made_by, "mends": entries})
    return len(entries)


def read_export(index: GraceIndex, path: Path, model: GraceModel, *, anew: bool = False) -> Read:
    """The mends of a file that fit ``index``; with ``anew`` all of them are encoded by its ``model``, also
    where the sums would do.

    Left out are those of documents that the index does not hold, or whose text is another one, and those that
    it has already. Raises GraceError for a file that holds no mends.
    """
    remedy = "write it again by `grace mend export`"
    if path.is_file() and path.stat().st_size > LARGEST:
        raise GraceError(f"{path} has {path.stat().st_size:,} bytes, expected at most {LARGEST:,}; export fewer mends")
    stored = read_json(path, remedy)
    if stored.get("grace_mends") != FORMAT or not isinstance(stored.get("mends"), list):
        raise GraceError(
            f"{path} holds no mends of format {FORMAT}, got {str(stored.get('grace_mends'))[:20]!r}; {remedy}"
        )
    made_by = stored.get("made_by")
    same = isinstance(made_by, dict) and all(made_by.get(name) == index.manifest.get(name) for name in SAME)
    read = Read()
    for number, entry in enumerate(stored["mends"]):
        try:
            document, rationale = _text(entry, "document"), _text(entry, "rationale")
            if document not in index.row:
                read.left_out.append(f"{document[:80]!r}: the index does not hold it")
                continue
            row = index.row[document]
            if _text(entry, "text_sha256") != text_hash(index.collection, document):
                read.left_out.append(f"{document[:80]!r}: its text is another one here")
                continue
            new = (
                encoded(index, model, row, rationale)
                if anew or not same
                else _stored(entry, content_of(index, row), model)
            )
            note = _text(entry, "note")
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise GraceError(f"{path}: mend {number} cannot be read ({str(error)[:100]}); {remedy}") from error
        if new.ids == index.rationale_ids[row]:
            read.left_out.append(f"{document[:80]!r}: it has that rationale already")
            continue
        read.encoded += anew or not same
        read.changes.append(Change(document, "import", new, note))
    return read


def _text(entry: dict, name: str) -> str:
    value = entry[name]
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a text, got {type(value).__name__}")
    return value


def _stored(entry: dict, held: Content, model: GraceModel) -> Content:
    """What the index holds of a document, with the rationale of an entry."""
    ids, words = entry["ids"], len(model.tokenizer)
    if not isinstance(ids, list) or not all(type(token) is int and 0 <= token < words for token in ids):
        raise ValueError(f"ids must be a list of token ids below {words}")
    state = np.frombuffer(base64.b64decode(_text(entry, "sum"), validate=True), "<f4")
    if state.shape != held.sums[RATIONALE].shape or not np.isfinite(state).all():
        raise ValueError(f"sum must be {held.sums.shape[1]} finite numbers, got {len(state)}")
    sums, counts = held.sums.copy(), held.counts.copy()
    sums[RATIONALE], counts[RATIONALE] = state, len(ids)
    return Content(_text(entry, "rationale"), ids, entry["truncated"] is True, sums, counts)
