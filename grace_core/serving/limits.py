"""What one client may ask of the server, and how much may wait. Checked once, when the server is made."""

from __future__ import annotations

from dataclasses import dataclass, fields

from grace_core.errors import GraceError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Everything is counted before any work is done on it, except for tokens, which are counted before the
    model sees them.
    """

    max_body: int = 8 << 20  # bytes of one request
    max_texts: int = 2048  # texts of one request, as OpenAI's
    max_characters: int = 100_000  # of one text
    max_request_tokens: int = 300_000  # of all texts of one request, as OpenAI's
    max_queue: int = 2048  # texts and chats that may wait; more are refused with 429
    max_batch: int = 64  # texts in one batch
    max_batch_tokens: int = (
        65_536  # texts of a batch times the longest of them, rationale included: bounds the key-value cache
    )
    max_wait: float = (
        0.05  # seconds that a batch waits for more texts while they keep arriving; a tenth of it when none arrives
    )
    max_chat_tokens: int = 1024  # tokens of one answer
    max_k: int = 1000  # documents of one search
    upload_seconds: float = 30.0  # for one request to arrive
    shutdown_seconds: float = 60.0  # for what was accepted to be finished

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0 or (value == 0 and field.name != "max_wait"):
                raise GraceError(f"{field.name} must be more than 0, got {value}")
        if self.max_texts > self.max_queue:
            raise GraceError(
                f"max_queue must be at least max_texts, got {self.max_queue} and {self.max_texts}: else the largest request never fits"
            )
