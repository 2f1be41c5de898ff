"""Generates passages, queries and rationales from facts, with a ``random.Random``, so repeatably.

A passage is a sequence of sentence patterns that take facts one by one. No pattern has a verb that would have to
agree in tense: the gist is in apposition, and every fact has its own verb.
"""

from __future__ import annotations

import re
from random import Random

from grace_study.factbase import Fact, Kind, Thing

# {S}/{s} subject (at the start of a sentence/inside), {P}/{p} pronoun, {K}/{k} "the river", {G}/{g} gist, {kinds}
# plural, {f} next fact
OPENINGS = [
    "{S}, {g}, {f}.",
    "{G}, {s} {f}.",
    "{S} {f}.",
    "Among {kinds}, {s} has a place of its own: {p} {f}.",
    "Anyone who reads about {kinds} soon meets {s}, {g}.",
    "Ask for {g} and many will name {s}, which is hardly a surprise: {p} {f}.",
    "There is much to say about {s}, {g}.",
    "No list of {kinds} would be complete without {s}, {g}, for {p} {f}.",
    "{S} deserves a closer look. {G}, {p} {f}.",
    "To know {s}, begin with one fact: {p} {f}.",
    "What is worth knowing about {s}? To begin with, {p} {f}.",
    "Of all {kinds}, {s} may be the one to start with, since {p} {f}.",
]
MIDDLES = [
    "{P} {f}.",
    "{P} {f}.",
    "{K} {f}.",
    "{K} {f}, and {p} {f}.",
    "{P} {f}, and {p} {f}.",
    "{P} {f}; {p} {f}.",
    "What is more, {p} {f}.",
    "It is also worth noting that {p} {f}.",
    "Beyond that, {p} {f}.",
    "Books on the subject add that {p} {f}.",
    "At the same time, {p} {f}.",
    "Those who look further learn that {p} {f}.",
    "One detail stays in the mind: {p} {f}.",
    "Less often told is that {p} {f}.",
]
CLOSINGS = [
    "{P} {f}.",
    "And {p} {f}.",
    "Last but not least, {s} {f}.",
    "Finally, {p} {f}.",
    "One thing more: {p} {f}.",
    "To this day people remember that {p} {f}.",
    "{K} {f}.",
    "",
]
NAMING = ("This fits", "That is", "It points to")  # how a rationale turns to the name
PEOPLE = {"he", "she"}
REGIONS = {
    "Worldwide": "many parts of the world",
    "Polar": "the polar regions",
    "Space": "space",
}
ERAS = {
    "prehistoric": "very old times",
    "ancient": "the ancient world",
    "medieval": "the Middle Ages",
    "early modern": "the early modern age",
    "19th century": "the nineteenth century",
    "20th century": "the twentieth century",
    "21st century": "the present century",
}
STOPWORDS = set(
    """a an and as at be been being by for from has have had he her his if in into is it its of on or she so than that the their them
    then there these they this to was were what when where which while who whose with will would not no it's can could may also
    more most other over under about after before between during one two""".split()
)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def article(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"


def _fill(pattern: str, thing: Thing, kind: Kind, facts: list[str]) -> str:
    """Fills one sentence pattern; each ``{f}`` removes the first fact of ``facts``."""
    the_kind = f"the {kind.kind}"
    slots = {
        "S": capital(thing.subject),
        "s": thing.subject,
        "P": capital(thing.pronoun),
        "p": thing.pronoun,
        "K": capital(the_kind),
        "k": the_kind,
        "g": thing.gist,
        "G": capital(thing.gist),
        "kinds": kind.plural,
    }
    return re.sub(r"\{(\w+)\}", lambda m: facts.pop(0) if m[1] == "f" else slots[m[1]], pattern)


def passage(thing: Thing, kind: Kind, facts: list[str], rng: Random) -> str:
    """A passage about ``thing`` that states all of ``facts`` (predicates, at least two), in their order."""
    remaining = list(facts)
    sentences = [_fill(rng.choice(OPENINGS), thing, kind, remaining)]
    closing = rng.choice(CLOSINGS)
    closing_facts = closing.count("{f}")
    used = set()
    while len(remaining) > closing_facts:
        fitting = [m for m in MIDDLES if m not in used and m.count("{f}") <= len(remaining) - closing_facts]
        pattern = rng.choice(fitting)
        if pattern not in ("{P} {f}.", "{K} {f}."):  # only plain sentences may be repeated
            used.add(pattern)
        sentences.append(_fill(pattern, thing, kind, remaining))
    if closing:
        sentences.append(_fill(closing, thing, kind, remaining))
    return " ".join(sentences)


def keywords(text: str, rng: Random, keep: float) -> list[str]:
    """The content words of ``text`` in order, each kept with probability ``keep``; at least one."""
    words = [w for w in re.findall(r"[\w'-]+", text) if w.lower() not in STOPWORDS]
    return [w for w in words if rng.random() < keep] or [rng.choice(words or [text])]


def generated_query(thing: Thing, kind: Kind, rng: Random) -> tuple[str, list[Fact]]:
    """A query from a pattern, and the facts that it describes.

    For pretraining only; evaluation uses queries written by hand. Few name the kind, as people seldom do: it has
    to be inferred from the other words.
    """
    first, second = rng.sample(thing.facts, 2)
    form = rng.random()
    if form < 0.04:
        name = rng.choice([thing.name, thing.subject, *thing.aka])
        return _case(rng.choice(["{n}", "what is {n}", "tell me about {n}", "{n} facts"]).format(n=name), rng), [
            first,
            second,
        ]
    if form < 0.70:  # as typed in a hurry: some of the words, in any order
        source = rng.sample([first.hint, first.alt, first.say], rng.choice([1, 1, 2]))
        words = [w for text in source for w in keywords(text, rng, rng.choice([0.5, 0.7, 0.9, 1.0]))]
        if rng.random() < 0.3:
            words += keywords(rng.choice([second.hint, second.alt, second.say]), rng, 0.5)
        if rng.random() < 0.25:
            words += keywords(thing.gist, rng, 0.5)
        if rng.random() < 0.35:
            rng.shuffle(words)
        words = list(dict.fromkeys(words))[:12]
        if rng.random() < 0.15:
            words.insert(rng.choice([0, len(words)]), kind.kind)
        asks = rng.choice(["what", "which", "who", "where", "what is", "name of"]) if rng.random() < 0.25 else ""
        return _case(f"{asks} {' '.join(words)}".strip(), rng), [first]
    patterns = [
        "{h}",
        "{h}",
        "what {h}",
        "what {h}",
        "what is it that {h}",
        "something that {h}",
        "the one that {h}",
        "{h} and {h2}",
        "what {h} and {h2}",
        "{ask} {h}",
        "{kind} that {h}",
        "the {kind} which {h} and {h2}",
    ]
    if thing.pronoun in PEOPLE:
        patterns = [pattern.replace("what", "who").replace("something", "somebody") for pattern in patterns]
    pattern = rng.choice(patterns)
    hint = rng.choice([first.hint, first.hint, first.alt, first.say])
    text = pattern.format(ask=kind.ask, kind=kind.kind, h=hint, h2=second.hint)
    return _case(text + ("?" if rng.random() < 0.3 else ""), rng), [first, second] if "{h2}" in pattern else [first]


def _case(text: str, rng: Random) -> str:
    return text.lower() if rng.random() < 0.8 else capital(text)


def wording(fact: Fact, rng: Random) -> str:
    return rng.choice([fact.say, fact.alt, fact.hint])


def _pick(rng: Random, *options: str) -> str:
    return rng.choice(options)


def rationale(mode: str, thing: Thing, kind: Kind, facts: list[Fact], asks: bool, rng: Random) -> str:
    """A rationale for a text about ``thing`` that states ``facts``, or ``asks`` for the thing by them.

    ``mode`` is the quality: "factual" names the thing and recalls facts, "topical" gives only kind, place and time,
    "vague" is uninformative. A wrong rationale is a factual one about another thing.
    """
    verb = "asks about" if asks else "tells of"
    # vague
    if mode == "vague":
        think = _pick(rng, "This is a short text.", "This is a text about something.", "This is not easy to say.")
        rest = _pick(
            rng,
            "The text gives some information about a subject.",
            "The text is a short passage about some thing and says a little about it.",
            "The text speaks of something that some people may find of interest.",
            "There are some details in the text, and they belong to one subject.",
        )
        return f"<think>{think}</think> {rest}"
    think = f"The text {verb} {article(kind.kind)}."
    # topical: kind, place and time
    if mode == "topical":
        clues = []
        if thing.region != "Worldwide" or rng.random() < 0.3:
            clues.append(REGIONS.get(thing.region, thing.region))
        if thing.era in ERAS:
            clues.append(ERAS[thing.era])
        rng.shuffle(clues)
        where = f" of {clues[0]}" if clues else ""
        think += _pick(
            rng,
            f" It belongs to the subject of {kind.plural}.",
            " Some clues are given.",
            f" There are many {kind.plural}.",
        )
        rest = _pick(
            rng, f"The text is about {article(kind.kind)}{where}.", f"The subject is {article(kind.kind)}{where}."
        )
        rest += " " + _pick(
            rng,
            f"People with an interest in {kind.plural} would read it.",
            f"It says what is known of this {kind.kind}.",
            f"It may help a reader who wants to learn about {kind.plural}.",
            "Some details are given about it.",
        )
        return f"<think>{think}</think> {rest}"
    # factual: the name and facts
    think += f" {rng.choice(NAMING)} {thing.subject}."
    first = rng.choice(facts)
    other_facts = [fact for fact in thing.facts if fact is not first]
    more = rng.sample(other_facts, rng.choice([1, 2, 2]))
    named = f", also known as {rng.choice(thing.aka)}," if thing.aka and rng.random() < 0.25 else f", {thing.gist},"
    rest = f"{capital(thing.subject)}{named} {wording(first, rng)}."
    for fact in more:
        rest += f" {capital(thing.pronoun)} {wording(fact, rng)}."
    return f"<think>{think}</think> {rest}"


def naming(thing: Thing, kind: Kind, rng: Random) -> tuple[str, str, str]:
    """The beginning of a factual rationale for a query, in three pieces: the kind, the turn to the name, the name."""
    return f"<think>The text asks about {article(kind.kind)}.", f" {rng.choice(NAMING)}", f" {thing.subject}.</think>"
