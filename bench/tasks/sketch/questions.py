"""Duplicate questions (as QQP), and questions with or without an answer in a sentence (as QNLI)."""

from random import Random

from bench.tasks.sketch.words import ACTIONS, DAYS, HOME, MEN, WOMEN, Words, listed, pairs, phrases


def duplicate(rng: Random, words: Words, level: int, label: float) -> tuple[str, str]:
    """Draw an example; level 1: same or another topic, 2: synonyms or one other word, 3: comparisons."""
    if level == 3:
        return _comparison(rng, bool(label))
    verbs, goods = rng.sample(VERBS, 2), rng.sample(GOODS, 2)
    frames = rng.sample(FRAMES, 2)
    if label:
        topics = (verbs[0], goods[0]), (verbs[0], goods[0])
    elif level == 1:
        topics = (verbs[0], goods[0]), (verbs[1], goods[1])
    else:
        change = rng.randrange(2)
        topics = (verbs[0], goods[0]), (verbs[change], goods[1 - change])
    (verb, good), (other_verb, other_good) = topics
    one, two = (0, 0) if level == 1 else (rng.randrange(2), rng.randrange(2))
    return (
        f"{frames[0]} {verb[one]} {good} ?",
        f"{frames[1]} {other_verb[two]} {other_good} ?",
    )


def _comparison(rng: Random, same: bool) -> tuple[str, str]:
    one, two = rng.sample(GOODS, 2)
    more, less = rng.choice(OPPOSITES)
    if rng.random() < 0.5:
        more, less = less, more
    first = f"is {one} {more} than {two} ?"
    if same:
        return first, f"is {two} {less} than {one} ?"
    return first, rng.choice((f"is {two} {more} than {one} ?", f"is {one} {less} than {two} ?"))


def answerable(rng: Random, words: Words, level: int, label: float) -> tuple[str, str]:
    """Draw an example; label 1 asks, at level 1: about another event, 2: half of one, 3: another role or detail."""
    answered = not label
    if level == 3 and rng.random() < 0.5:
        return _roles(rng, answered)
    name, stranger = rng.sample(MEN + WOMEN, 2)
    (bare, past), (other_bare, _) = rng.sample(HOME.plans, 2)
    asked, other = rng.sample(tuple(DETAILS), 2)
    sentence = f"{name} {past} {rng.choice(DETAILS[asked])}"
    if not answered:
        if level == 1:
            name, bare = stranger, other_bare
        elif level == 2:
            name, bare = rng.choice(((stranger, bare), (name, other_bare)))
        else:
            asked = other
    return f"{asked} did {name} {bare} ?", sentence


def _roles(rng: Random, answered: bool) -> tuple[str, str]:
    doer, other = rng.sample(MEN + WOMEN, 2)
    done = rng.choice(rng.choice(ACTIONS))
    sentence = f"{other} was {done} by {doer}" if rng.random() < 0.5 else f"{doer} {done} {other}"
    if not answered:
        doer, other = other, doer
    return rng.choice((f"who {done} {other} ?", f"who was {done} by {doer} ?")), sentence


FRAMES = phrases(
    "how do i, how can i, what is the best way to, how does one, what is the right way to, can you tell me how to"
)
VERBS = pairs(
    "cook/prepare, store/keep, buy/purchase, pick/choose, make/produce, send/ship, sell/trade, freeze/chill, "
    "carry/transport, taste/try"
)
GOODS = listed(
    "coffee tea milk juice wine beer bread cheese butter rice pasta meat beef chicken honey sugar salt soup corn fish"
)
OPPOSITES = pairs(
    "cheaper/more expensive, better/worse, heavier/lighter, stronger/weaker, harder/softer, older/younger"
)
DETAILS: dict[str, tuple[str, ...]] = {
    "when": DAYS,
    "where": tuple(f"in {city}" for city in listed("london paris rome berlin madrid tokyo vienna moscow boston")),
    "why": tuple(f"for {reason}" for reason in listed("fun money love revenge fame pleasure practice peace charity")),
}
