"""How to use a tokenizer's chat template, found out by rendering it with known texts.

Templates are programs: some refuse or omit a system message, take a message as a list of parts, write today's date,
change the texts, or open no turn for the answer. :meth:`ChatTemplate.read_frame` tries the ways to pass a prompt and a
text to a template, and takes the first that renders both unchanged: a :class:`Frame`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta

from grace_core.errors import GraceError, first_line

DATE = "2025-01-01"  # default date for templates that write one; an index must not depend on the day
SENTINEL = "\u2402GRACE\u2403TEXT\u2402"
REMEDY = "put a chat_template.jinja beside its tokenizer files that {}"
RESERVED = {
    "messages",
    "conversation",
    "tokenize",
    "add_generation_prompt",
    "continue_final_message",
    "padding",
    "truncation",
    "max_length",
    "return_tensors",
    "return_dict",
    "return_assistant_tokens_mask",
    "tokenizer_kwargs",
    "strftime_now",
}
_WORDS = 'Some "words", 1 < 2'
_PROMPT, _ANSWER = "\u2402grace\u2403Prompt\u2402", "\u2402grace\u2403Answer\u2402"
# Each begins and ends with another character, and together they hold what template filters change; none has white space
# at its ends, which prompts are stripped of.
_PROBES = (
    "a word",
    "x < y & y > z; <b>bold</b> &amp; \"double\" 'single' `back` \\n C:\\temp /slash {x} {{ y }} {% z %} {# c #} |",
    "First line\n  second, indented\r\nthird\tafter a tab\n\n\nfourth  after  two  spaces https://a.org/b?c=d&e=f OK",
    "\u00e9 e\u0301 \u00df \u0130 \u01c6 \ufb01 \u6f22\u5b57 \ud55c\uae00 \u0e01\u0e33 a\u00a0b\u200bc \u201cq\u201d "
    "\u2013 \u2026 \u212b \U0001f469\u200d\U0001f680",
    "#2 g@h.org ~ ^ _under_ *star*",
    "- item.",
    "'q'",
    "[1, 2]",
    "# Title: (0.50)!",
    "0",
    "line of words, " * 20_000 + "end",
)


@dataclass(frozen=True)
class Frame:
    """How a template is used, and the markup around the text.

    A prompt is ``head`` + text + ``tail``. ``place`` is where the representation prompt is: in a message of role
    "system", before the text in the "user"'s turn, or "none" without one. ``content`` is the form of messages: "text" or
    "parts". ``dated`` is whether the template writes a date. ``opening`` is for templates that open no turn for the
    answer when asked to: the end of a conversation, and what it is replaced by before an answer; else None.
    """

    head: str
    tail: str
    place: str
    content: str
    dated: bool = False
    opening: tuple[str, str] | None = None


class _Unfit(Exception):
    """One way to use a template does not work; ``rank`` is higher the later the check that failed."""

    def __init__(self, rank: int, message: str):
        super().__init__(message)
        self.rank = rank


class ChatTemplate:
    """A tokenizer's chat template with the arguments ``template``, rendered as on ``day`` (YYYY-MM-DD)."""

    def __init__(self, tokenizer, template: dict | None = None, day: str = DATE):
        self.tokenizer, self.arguments, self.day = tokenizer, template or {}, day
        self.name = f"the chat template of {tokenizer.name_or_path!r}"
        known = {*tokenizer.special_tokens_map, "chat_template", "tools", "documents"}
        source = self._source()
        for key in self.arguments:
            if key not in known and not re.search(rf"\b{re.escape(key)}\b", source):
                raise GraceError(f"{self.name} never reads the argument {key!r}; check its spelling, or leave it out")

    def _source(self) -> str:
        """The template's text; of several, the one that the arguments name, or the default."""
        templates, choice = self.tokenizer.chat_template, self.arguments.get("chat_template")
        if isinstance(templates, str):
            return choice or templates
        if not isinstance(templates, dict):
            kind = type(templates).__name__
            problem = f"{self.name} is a value of type {kind}, expected a text, or several by their names"
            raise GraceError(f"{problem}; correct the tokenizer's files")
        if (choice or "default") not in templates:
            raise GraceError(
                f"the tokenizer of {self.tokenizer.name_or_path!r} has no chat template {choice or 'default'!r}; "
                f"choose one of {', '.join(templates)} with the template's argument chat_template"
            )
        return templates[choice or "default"]

    def render(self, messages: Sequence[dict], *, open_answer: bool = True, days: int = 0) -> str:
        """The text of a conversation, ``days`` after the date. Raises any error of the template."""
        later = timedelta(days=days, hours=days % 24, minutes=days % 60)  # another hour and minute too
        now = datetime.combine(date.fromisoformat(self.day), time()) + later
        options = {"tokenize": False, "add_generation_prompt": open_answer, "strftime_now": now.strftime}
        return self.tokenizer.apply_chat_template(list(messages), **options, **self.arguments)

    def read_frame(self, system: str) -> Frame:
        """How to pass ``system`` and a text to the template.

        Raises GraceError, with a remedy, if no way renders both unchanged.
        """
        failures = []  # the latest place first: of equal ranks max takes the first, so the simplest way tried last
        for place in ("system", "user") if system else ("none",):
            unfit = []
            for content in ("text", "parts"):
                try:
                    return self._with_opening(self._frame(system, place, content), system)
                except _Unfit as failure:
                    unfit.append(failure)
            failures = unfit + failures
        raise GraceError(str(max(failures, key=lambda failure: failure.rank)))

    def _frame(self, system: str, place: str, content: str) -> Frame:
        """The frame of one way to use the template. Raises _Unfit if it changes prompt or text."""

        def render_text(prompt: str, text: str, days: int = 0) -> str:
            try:
                return self.render(messages_of(prompt, text, place, content), days=days)
            except Exception as error:  # jinja raises its own types, and a template any
                messages = "a system and a user message" if place == "system" else "a user message"
                raise _Unfit(0, self._render_error(error, messages)) from error

        sample = render_text(system, SENTINEL)
        # it shows the text once, the same each time
        if render_text(system, SENTINEL) != sample:
            raise _Unfit(4, f"{self.name} renders the same messages differently each time; {REMEDY.format('does not')}")
        if (times := sample.count(SENTINEL)) != 1:
            change = "" if times else f" ({_change(sample, render_text(system, _WORDS))})"
            raise _Unfit(
                1,
                f"{self.name} shows the user's text {times} times, expected once{change}; "
                f"{REMEDY.format('shows every message once, as it is')}",
            )
        head, tail = sample.split(SENTINEL)
        if content == "parts" and re.search("[\"']type[\"']", head):  # the list of parts was printed as it is
            raise _Unfit(0, f"{self.name} takes no messages of several parts; {REMEDY.format('does')}")
        # it changes no text
        for probe in _PROBES:
            output = render_text(system, probe)
            if output != head + probe + tail:
                if output.startswith(head) and output.endswith(tail):
                    change = _difference(probe, output[len(head) : len(output) - len(tail)])
                else:
                    change = _difference(head + probe + tail, output)
                raise _Unfit(
                    3, f"{self.name} alters the user's text: {change}; {REMEDY.format('shows messages as they are')}"
                )
        # it shows the representation prompt once, unchanged and before the text
        if system:
            general = render_text(_PROMPT, SENTINEL).partition(SENTINEL)[0]
            if general.count(_PROMPT) != 1:  # omitted, after the text (and pooled with it), or changed
                message = f"{self.name} does not show the system prompt once, in front of the text"
                raise _Unfit(2, f"{message}; {REMEDY.format('does')}")
            if head not in {general.replace(_PROMPT, each) for each in (system, system.strip())}:
                raise _Unfit(2, f"{self.name} alters the system prompt; {REMEDY.format('shows messages as they are')}")
        dated = any(render_text(system, SENTINEL, days) != sample for days in (1, 45, 400))
        return Frame(head, tail, place, content, dated)

    def _with_opening(self, frame: Frame, system: str) -> Frame:
        """The frame with ``opening``, if the template opens no turn for the answer when asked to."""

        def render_text(text: str, answer: str | None = None) -> str:
            turns = messages_of(system, text, frame.place, frame.content)
            if answer is not None:
                turns.append({"role": "assistant", "content": _content(answer, frame.content)})
            return self.render(turns, open_answer=False)

        try:
            if render_text(SENTINEL).strip() != (frame.head + SENTINEL + frame.tail).strip():
                return frame
        except Exception:  # a template that renders only up to the answer
            return frame
        between = set()
        for text, answer in ((SENTINEL, _ANSWER), ("One text.", _ANSWER), (SENTINEL, "One answer.")):
            try:
                whole = render_text(text, answer)
            except Exception:
                whole = ""
            front, sign, rest = whole.partition(frame.head + text)
            middle, answered, _ = rest.partition(answer)
            between.add(middle if sign and not front and answered else None)
        if len(between) > 1 or None in between:
            raise GraceError(
                f"{self.name} opens no turn for the answer, and does not show how an answer stands behind a text; "
                + REMEDY.format("opens the assistant's turn if add_generation_prompt is set")
            )
        (middle,) = between
        if middle.strip() == frame.tail.strip():  # such as where the end of the user's turn begins the answer
            return frame
        return replace(frame, tail=middle, opening=(frame.tail, middle))

    def _render_error(self, error: Exception, messages: str) -> str:
        """The message for a template that cannot be rendered: where, why, and what to do."""
        from jinja2 import TemplateSyntaxError

        reason = first_line(error)
        line = error.lineno if isinstance(error, TemplateSyntaxError) else _line(error)
        where = f" (line {line})" if line else ""
        if isinstance(error, TemplateSyntaxError):
            return f"{self.name} cannot be read{where}: {reason}; {REMEDY.format('is right')}"
        return f"{self.name} does not accept {messages}{where}: {reason}; {REMEDY.format('does')}"


def messages_of(system: str, text: str, place: str, content: str) -> list[dict]:
    """The messages of a prompt for ``text``; ``place`` and ``content`` as in :class:`Frame`."""
    if place == "system":
        turns = [{"role": "system", "content": system}, {"role": "user", "content": text}]
    else:
        turns = [{"role": "user", "content": f"{system}\n\n{text}" if place == "user" else text}]
    return [turn | {"content": _content(turn["content"], content)} for turn in turns]


def adapted_turns(frame: Frame, turns: Sequence[dict]) -> list[dict]:
    """A conversation in the form of the frame: without a system role, that message is joined to the user's."""
    turns = list(turns)
    if frame.place == "user" and [turn["role"] for turn in turns[:2]] == ["system", "user"]:
        turns[:2] = [{"role": "user", "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}]
    return [turn | {"content": _content(turn["content"], frame.content)} for turn in turns]


def checked_arguments(template: dict) -> dict:
    """A copy of a template's arguments. Raises GraceError unless they are a dict of JSON values by names."""
    if not isinstance(template, dict):
        raise GraceError(f"template must be a dict of the chat template's arguments, got {type(template).__name__}")
    for key in template:
        if not isinstance(key, str) or not key.isidentifier():
            raise GraceError(f"a chat template's arguments have names, got {key!r}; expected one like enable_thinking")
        if key in RESERVED:
            raise GraceError(f"{key!r} is no argument of a chat template that can be chosen; leave it out of template")
    try:
        copied = json.loads(json.dumps(template, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise GraceError(f"template must hold JSON values only: {error}") from error
    if copied != template:
        raise GraceError("template must hold JSON values only, got a tuple or a key that is no str; use a list, a str")
    return copied


def checked_date(day: str) -> str:
    """The date as YYYY-MM-DD. Raises GraceError for anything else."""
    try:
        return date.fromisoformat(day).isoformat()
    except (TypeError, ValueError) as error:
        raise GraceError(f"date must be a day as YYYY-MM-DD, such as {DATE}, got {day!r}") from error


def parse_arguments(pairs: Sequence[str] | None) -> dict | None:
    """Arguments from ``key=value`` of a command line, values read as JSON if possible, else as str.

    None without pairs, so that a model keeps its own arguments.
    """
    if not pairs:
        return None
    arguments = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise GraceError(f"--template is {pair!r}, expected key=value, such as enable_thinking=false")
        try:
            arguments[key.strip()] = json.loads(value)
        except ValueError:
            arguments[key.strip()] = value
    return checked_arguments(arguments)


def _content(text: str, kind: str) -> str | list[dict]:
    return [{"type": "text", "text": text}] if kind == "parts" else text


def _line(error: BaseException) -> int | None:
    """The line of the template that raised an error, from jinja's traceback."""
    line, trace = None, error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename in ("<template>", "<unknown>"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _common(a_text: str, b_text: str) -> int:
    """The length of the common beginning of two texts."""
    differing = (i for i, (a, b) in enumerate(zip(a_text, b_text, strict=False)) if a != b)
    return next(differing, min(len(a_text), len(b_text)))


def _change(sample: str, output: str) -> str:
    """How ``_WORDS`` comes out in ``output``: the part that differs from ``sample``, which has another text."""
    begin = _common(sample, output)
    end = _common(sample[begin:][::-1], output[begin:][::-1])
    return f"{_WORDS!r} comes out as {output[begin : len(output) - end][:40]!r}"


def _difference(expected: str, output: str) -> str:
    """The first difference of two texts, in a few characters of each."""
    place = _common(expected, output)
    begin = max(0, place - 8)
    return f"{expected[begin : place + 12]!r} comes out as {output[begin : place + 12]!r}"
