"""Settings: what decides a representation besides the weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from numbers import Integral, Real

from grace_core.chat_templates import DATE, checked_arguments, checked_date
from grace_core.engines.base import Decoding
from grace_core.errors import GraceError
from grace_core.prompt import REPRESENTATION_PROMPT

SETTINGS_FILE = "grace_config.json"
_KINDS = {
    "system": (str, "a text"),
    "max_prompt_tokens": (Integral, "a whole number"),
    "max_new_tokens": (Integral, "a whole number"),
    "temperature": (Real, "a number"),
    "top_p": (Real, "a number"),
    "seed": (Integral, "a whole number"),
}


@dataclass(frozen=True)
class Settings:
    """What decides a representation besides the weights. Stored with a saved model and with every index.

    ``template`` holds arguments of the chat template, JSON values by name; ``date`` (YYYY-MM-DD) is what a template
    that writes the date is told.
    """

    system: str = REPRESENTATION_PROMPT
    max_prompt_tokens: int = 1024
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    template: dict = field(default_factory=dict, hash=False)
    date: str = DATE

    def __post_init__(self):
        for name, (kind, word) in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise GraceError(f"{name} must be {word}, got {value!r:.60}")
        object.__setattr__(self, "template", checked_arguments(self.template))
        object.__setattr__(self, "date", checked_date(self.date))
        _ = self.decoding  # a value out of range is refused before anything is done with it

    @property
    def decoding(self) -> Decoding:
        return Decoding(self.max_new_tokens, self.temperature, self.top_p, self.seed)

    @property
    def prompt(self) -> dict:
        """What decides a prompt, as PromptBuilder takes it."""
        return {name: getattr(self, name) for name in ("system", "max_prompt_tokens", "template", "date")}


def check_names(names: Iterable[str], of: str = "") -> None:
    """Raises GraceError for an unknown setting; ``of`` is what it was given for."""
    known = [each.name for each in fields(Settings)]
    if unknown := [name for name in names if name not in known]:
        raise GraceError(f"unknown setting{of}: {', '.join(map(repr, unknown))[:200]}; known are {', '.join(known)}")
