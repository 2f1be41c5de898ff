"""``/v1/chat/completions``: an answer as one object, or as server-sent events while it is written."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from grace_core.engines.base import Decoding
from grace_core.errors import GraceError
from grace_core.model import GraceModel
from grace_core.serving.batching import Batcher, Chat
from grace_core.serving.chat import Answer, conversation
from grace_core.serving.errors import ApiError, from_failure, to_json
from grace_core.serving.limits import Limits
from grace_core.serving.metrics import Metrics
from grace_core.serving.schemas import ChatRequest
from grace_core.serving.texts import positions_of


@dataclass(eq=False)
class PendingChat:
    """A chat that was handed to the batcher, and what comes back: token ids, at last "stop", "length" or an
    exception.
    """

    chat: Chat
    came: asyncio.Queue
    answer: Answer
    id: str
    created: int


def submit(
    model: GraceModel, batcher: Batcher, limits: Limits, asked: ChatRequest, loop: asyncio.AbstractEventLoop
) -> PendingChat:
    """Check and tokenise a conversation, and let the model answer.

    Raises ApiError, GraceError, QueueFull, Closing or Ended.
    """
    characters = sum(len(message.content) for message in asked.messages)
    if characters > limits.max_characters:
        raise ApiError(
            400,
            f"the messages have {characters:,} characters, at most {limits.max_characters:,} are taken",
            param="messages",
        )
    try:
        prompt = conversation(model, asked.messages)
    except GraceError as error:
        raise ApiError(400, str(error), param="messages") from error
    decoding = _decoding(model, limits, asked, len(prompt.ids))
    came: asyncio.Queue = asyncio.Queue()

    def emit(item: int | str | Exception) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(came.put_nowait, item)

    chat = Chat(prompt, decoding, emit)
    batcher.chat(chat)
    return PendingChat(chat, came, Answer(model, asked.stop), f"chatcmpl-{secrets.token_hex(12)}", int(time.time()))


def _decoding(model: GraceModel, limits: Limits, asked: ChatRequest, prompt: int) -> Decoding:
    """Temperature and top_p default to 1, as OpenAI's; without a seed every answer has its own."""
    positions = positions_of(model)
    room = min(positions - prompt - 1, limits.max_chat_tokens)
    given = asked.max_completion_tokens or asked.max_tokens
    if positions - prompt < 2 or (given and given > room):
        raise ApiError(
            400,
            f"the messages take {prompt} tokens and {given or 1} may follow; the model has {positions} positions, and an answer at most "
            f"{limits.max_chat_tokens} tokens",
            param="messages" if positions - prompt < 2 else "max_tokens",
            code="context_length_exceeded",
        )
    temperature = 1.0 if asked.temperature is None else asked.temperature
    seed = secrets.randbits(48) if asked.seed is None else asked.seed
    return Decoding(
        given or min(model.settings.max_new_tokens, room),
        temperature,
        1.0 if asked.top_p is None else asked.top_p,
        seed,
    )


async def _pieces(metrics: Metrics, pending: PendingChat) -> AsyncIterator[tuple[str, str | None]]:
    """New text and, at last, why the answer ended. Whoever stops listening stops the model."""
    answer = pending.answer
    try:
        while True:
            item = await pending.came.get()
            if isinstance(item, Exception):
                raise from_failure(item)
            if isinstance(item, str):
                rest = answer.end()
                yield rest, "stop" if answer.stopped else item
                return
            piece = answer.add(item)
            yield piece, "stop" if answer.stopped else None
            if answer.stopped:
                return
    finally:
        pending.chat.cancelled = True
        metrics.tokens.labels("prompt").inc(len(pending.chat.prompt.ids))
        metrics.tokens.labels("completion").inc(len(answer.ids))


def _usage(pending: PendingChat) -> dict[str, int]:
    prompt, completion = len(pending.chat.prompt.ids), len(pending.answer.ids)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


async def complete(metrics: Metrics, pending: PendingChat, asked: ChatRequest) -> dict:
    """The whole answer."""
    reasons = [reason async for _, reason in _pieces(metrics, pending)]
    message = {"role": "assistant", "content": pending.answer.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reasons[-1]}
    shared = {"id": pending.id, "object": "chat.completion", "created": pending.created, "model": asked.model}
    return shared | {"choices": [choice], "usage": _usage(pending)}


async def stream(metrics: Metrics, pending: PendingChat, asked: ChatRequest) -> AsyncIterator[bytes]:
    """The answer in pieces, an event each; the last one is ``[DONE]``."""
    shared = {"id": pending.id, "object": "chat.completion.chunk", "created": pending.created, "model": asked.model}

    def chunk(delta: dict, reason: str | None = None) -> bytes:
        return _event(shared | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}]})

    try:
        yield chunk({"role": "assistant", "content": ""})
        async with aclosing(_pieces(metrics, pending)) as pieces:  # a client that goes away ends them at once
            async for piece, reason in pieces:
                if piece:
                    yield chunk({"content": piece})
                if reason:
                    yield chunk({}, reason)
        if asked.stream_options and asked.stream_options.include_usage:
            yield _event(shared | {"choices": [], "usage": _usage(pending)})
        yield b"data: [DONE]\n\n"
    except ApiError as error:  # the status was sent long ago
        yield _event(error.as_dict())
    finally:
        pending.chat.cancelled = True


def _event(value: dict) -> bytes:
    return b"data: " + to_json(value) + b"\n\n"
