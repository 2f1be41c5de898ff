"""What is said of texts that were cut to fit the prompt, and what helps: one wording for the commands and the app.

A prompt takes ``max_prompt_tokens`` tokens, its own markup among them. A longer text loses its end, and the
end is in no vector.
"""

from __future__ import annotations

from grace_core.settings import Settings

AGAIN = "run `grace index build` again under another --name or --out"  # an index has vectors of one limit only
SPLIT = "split long documents into passages, with `grace index build --chunk 200` into another --out"


def cut_texts(cut: int) -> str:
    """``4 texts cut to fit the prompt``, for a line of counts."""
    return f"{cut:,} {'text' if cut == 1 else 'texts'} cut to fit the prompt"


def notes_on_cut_texts(
    cut: int,
    texts: int,
    settings: Settings,
    *,
    positions: int | None = None,
    again: str = "encode again",
    what: str = "texts",
) -> list[str]:
    """A line with the number of texts that were cut and the remedy; nothing if none was.

    ``positions`` are those of the model, where it is at hand, ``again`` is what has to be done for another
    limit to count, and ``what`` names the texts that are counted.
    """
    if not cut:
        return []
    note = (
        f"{cut:,} of {texts:,} {what} {'is' if cut == 1 else 'are'} cut to fit the prompt, which takes {settings.max_prompt_tokens:,} "
        "tokens, and the rest of each is in no vector"
    )
    return [f"{note}: {remedy(settings, positions=positions, again=again)}, or {SPLIT}"]


def cut_text_notes(manifest: dict, *, positions: int | None = None) -> list[str]:
    """What is told of the texts of an index that were cut; ``positions`` are those of its model, where it is
    at hand.
    """
    counts, settings = manifest["counts"], Settings(**manifest["settings"])
    return notes_on_cut_texts(counts["truncated_texts"], counts["encoded"], settings, positions=positions, again=AGAIN)


def notes_on_cut_query(kept: int, left_out: int, settings: Settings) -> list[str]:
    """A line for a query of which ``left_out`` tokens did not fit; nothing if all did.

    An index has one limit, for queries too.
    """
    if not left_out:
        return []
    return [
        f"the query is cut after {kept:,} of its {kept + left_out:,} tokens to fit the prompt, which takes "
        f"{settings.max_prompt_tokens:,} tokens in this index: shorten it"
    ]


def notes_on_cut_queries(cut: int, queries: int, settings: Settings, *, positions: int | None = None) -> list[str]:
    """A line with the number of judged queries that were cut and the remedy; nothing if none was."""
    if not cut:
        return []
    many, them = ("is", "it") if cut == 1 else ("are", "them")
    limit, further = f"{settings.max_prompt_tokens:,} tokens", remedy(settings, positions=positions, again=AGAIN)
    return [
        f"{cut:,} of {queries:,} queries {many} cut to fit the prompt, which takes {limit} in this index, and the rest of each ranks "
        f"nothing: shorten {them}, or {further}"
    ]


def remedy(settings: Settings, *, positions: int | None, again: str) -> str:
    """How to embed more of a text with the same model. Prompt and rationale share its ``positions``."""
    longest = None if positions is None else positions - settings.max_new_tokens
    if longest is None:
        return f"{again} with a larger --max-prompt-tokens, as far as the model's positions allow"
    if longest > settings.max_prompt_tokens:
        return f"{again} with a larger --max-prompt-tokens, up to {longest:,} with this model"
    return (
        f"{again} with a smaller --max-new-tokens and a larger --max-prompt-tokens, which share the model's {positions:,} positions, "
        "or with a model that has more"
    )
