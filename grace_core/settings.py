"""Settings: what decides a representation besides the weights."""

from __future__ import annotations

from dataclasses import dataclass, field

from grace_core.chat_templates import DATE, checked_arguments, checked_date
from grace_core.engines.inflight import Decoding
from grace_core.prompt import REPRESENTATION_PROMPT

SETTINGS_FILE = "grace_config.json"


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
