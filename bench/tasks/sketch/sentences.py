"""Acceptability (as CoLA) and sentiment (as SST-2) of single sentences."""

from random import Random

from bench.tasks.sketch.words import DAYS, DEEDS, HOME, MEN, OBJECTS, PEOPLE, WOMEN, Words, listed


def acceptability(rng: Random, words: Words, level: int, label: float) -> tuple[str]:
    """Draw an example; level 1: word order, 2: verb form, 3: agreement, half of it across another noun."""
    return ((_order, _verb_form, _agreement)[level - 1](rng, bool(label)),)


def _order(rng: Random, sound: bool) -> str:
    person, deed, thing = (rng.choice(rng.choice(slot)) for slot in (PEOPLE, DEEDS, OBJECTS))
    day = rng.choice(DAYS)
    broken = (
        f"{person} the {deed} the {thing} {day}",
        f"the {person} the {thing} {deed} {day}",
        f"{deed} the {person} the {thing} {day}",
        f"the {person} {deed} {thing} the {day}",
    )
    return f"the {person} {deed} the {thing} {day}" if sound else rng.choice(broken)


def _verb_form(rng: Random, sound: bool) -> str:
    name, day = rng.choice(MEN + WOMEN), rng.choice(DAYS)
    # If both forms of a verb are the same, neither is wrong.
    bare, past = rng.choice([plan for plan in HOME.plans if plan[0] != plan[1]])
    auxiliary = rng.choice(("", "", "did not ", "could ", "had to ", "wanted to "))
    return f"{name} {auxiliary}{bare if sound == bool(auxiliary) else past} {day}"


def _agreement(rng: Random, sound: bool) -> str:
    if rng.random() < 0.3:
        man = rng.random() < 0.5
        pronoun = "himself" if man == sound else "herself"
        return f"{rng.choice(MEN if man else WOMEN)} {rng.choice(SELF)} {pronoun} {rng.choice(DAYS)}"
    singular, plural = rng.choice(NUMBERS)
    is_plural = rng.random() < 0.5
    verb = rng.choice((("is", "are"), ("was", "were"), ("has been", "have been")))[is_plural == sound]
    noun = plural if is_plural else singular
    if rng.random() < 0.5:
        return f"the {noun} {verb} {rng.choice(STATES)} {rng.choice(DAYS)}"
    attractor = rng.choice(NUMBERS)[not is_plural]
    link = rng.choice(("near", "behind", "beside", "with"))
    return f"the {noun} {link} the {attractor} {verb} {rng.choice(STATES)}"


def sentiment(rng: Random, words: Words, level: int, label: float) -> tuple[str]:
    """Draw an example; level 1: the adjective decides, 2: a negation or two opinions, 3: nested negations."""
    said, other = (GOOD, BAD) if label else (BAD, GOOD)
    noun, second = rng.sample(WORKS, 2)
    forms: tuple[str, ...]
    one, two, flipped = rng.choice(said), rng.choice(said), rng.choice(other)
    if level == 1:
        forms = (
            f"the {noun} was {rng.choice(DEGREES)} {one}",
            f"this {noun} is {one} , even {two}",
            f"the {noun} is {one} and the {second} {two}",
        )
    elif level == 2:
        forms = (
            f"the {noun} of this {second} was not {flipped}",
            f"the {noun} was not long and it was {one}",
            f"although the {second} was {flipped} , the {noun} was {one}",
            f"the {noun} was {one} although the {second} was {flipped}",
        )
    else:
        frame, denies = rng.choice(FRAMES)
        negated = rng.random() < 0.5
        adjective = flipped if denies != negated else one
        forms = (f"{frame} the {noun} {'was not' if negated else 'was'} {adjective}",)
    return (rng.choice(forms),)


# Introductions of a claim, and whether they deny it.
FRAMES = (
    ("it is true that", False),
    ("it is not true that", True),
    ("everybody agreed that", False),
    ("nobody agreed that", True),
    ("nobody denied that", False),
    ("everybody denied that", True),
    ("i doubt that", True),
    ("i do not doubt that", False),
)
NUMBERS = tuple(
    (noun, f"{noun}s")
    for noun in listed("doctor lawyer boy teacher student writer king sailor girl artist nurse soldier farmer driver")
)
SELF = listed("hurt saw blamed saved praised trusted")
STATES = listed("tired happy angry late ready busy sick alone famous rich quiet lost safe afraid")
DEGREES = listed("very really truly quite so rather")
WORKS = listed(
    "film movie story plot script acting music cast ending dialogue book show song novel comedy drama play scene"
)
GOOD = listed(
    "great wonderful brilliant charming clever lovely fantastic superb excellent amazing beautiful "
    "delightful perfect fresh funny impressive remarkable fascinating touching elegant sweet splendid"
)
BAD = listed(
    "dull boring awful terrible horrible bad poor weak lame ugly stupid silly sad bland flat stale "
    "painful shallow clumsy dreadful pathetic annoying"
)
