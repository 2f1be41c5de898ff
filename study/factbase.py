"""The fact base of the demo world: true facts about real things, each said in three ways.

There is one YAML file per kind in ``study/facts/``. A fact is three finite predicates without their subject:

``say``   the fact as in a reference text,
``alt``   the same fact in another sentence, for another passage,
``hint``  the same fact by someone who does not know the name, with as few words of ``say`` as possible.

So ``f"{subject} {say}."`` and ``f"which river {hint}?"`` are both grammatical. ``queries`` are written by
hand, as people type them, and name the facts (counted from 1) that answer them.

Check the files with ``python -m grace_study.factbase [FILE …]``.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

FACTS_DIR = Path(__file__).parent / "facts"

Line = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\n\t]+$")]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=True)


class Fact(Strict):
    """One fact in three wordings; every wording is a predicate that follows the subject."""

    say: Line
    alt: Line
    hint: Line

    @model_validator(mode="after")
    def _predicates(self):
        for key in ("say", "alt", "hint"):
            text = getattr(self, key)
            if text[0].isupper() or text[-1] in ".?!;,:":
                raise ValueError(f"{key} must be a predicate without capital or final stop, got {text!r}")
            if not 3 <= len(text.split()) <= 24:
                raise ValueError(f"{key} must have 3 to 24 words, got {len(text.split())}: {text!r}")
        return self


class Query(Strict):
    """A question as typed, and the 1-based numbers of the facts that answer it."""

    q: Line
    facts: list[int] = Field(min_length=1)


class Thing(Strict):
    """A real thing: its names, what it is, facts about it, and queries for it."""

    name: Line
    subject: Line
    pronoun: Literal["it", "he", "she", "they"]
    aka: list[Line] = []
    region: str
    era: str
    gist: Line
    facts: list[Fact] = Field(min_length=6)
    queries: list[Query] = Field(min_length=3)

    @model_validator(mode="after")
    def _consistent(self):
        for query in self.queries:
            if bad := [n for n in query.facts if not 1 <= n <= len(self.facts)]:
                raise ValueError(f"query {query.q!r} names fact {bad[0]}, but {self.name} has {len(self.facts)}")
        names = [self.name, *self.aka]
        for text in [fact.hint for fact in self.facts] + [query.q for query in self.queries] + [self.gist]:
            for name in names:
                if re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE):
                    raise ValueError(f"{text!r} gives the name {name!r} away")
        return self


class Kind(Strict):
    """A kind of thing, in the words of a question about it."""

    kind: Line
    plural: Line
    ask: Line
    things: list[Thing] = Field(min_length=1)


def _read(text: str) -> object:
    """As ``yaml.safe_load``, by libyaml where PyYAML has it, which takes a tenth of the time."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def load_kind(path: Path) -> Kind:
    """Reads one fact file. Raises ValueError, with file and place, if it is not as described above."""
    try:
        return Kind.model_validate(_read(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ValueError(f"{path.name}: not valid YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{path.name}: {place}: {first['msg']} ({error.error_count()} problems)") from error


def load_kinds(folder: Path = FACTS_DIR) -> list[Kind]:
    """All kinds, sorted by file name. Raises ValueError if a thing's name occurs twice."""
    kinds = [load_kind(path) for path in sorted(folder.glob("*.yaml"))]
    counts = Counter(thing.name.lower() for kind in kinds for thing in kind.things)
    if double := sorted(name for name, n in counts.items() if n > 1):
        raise ValueError(f"the fact base names these things more than once: {', '.join(double)}")
    return kinds


def main(paths: list[str]) -> int:
    """Check the given files (default: all) and print what they hold."""
    files = [Path(path) for path in paths] or sorted(FACTS_DIR.glob("*.yaml"))
    status = 0
    for path in files:
        try:
            kind = load_kind(path)
        except ValueError as error:
            print(f"error: {error}")
            status = 2
            continue
        facts = sum(len(thing.facts) for thing in kind.things)
        queries = sum(len(thing.queries) for thing in kind.things)
        print(f"{path.name}: {len(kind.things)} things, {facts} facts, {queries} queries")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
