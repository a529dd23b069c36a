"""Paraphrase (as MRPC) and graded similarity (as STS-B) of two sentences.

Each sentence has the same distribution for every label, so one sentence alone does not predict it.
"""

from collections.abc import Iterable
from random import Random

from bench.tasks.sketch.words import ACTIONS, DEEDS, MANNERS, OBJECTS, PEOPLE, Words

# Slots: agent, action, object or patient, manner. A meaning is the index of a pair of synonyms in each slot, a face the
# index of one of the two.
Slots = tuple[tuple[tuple[str, str], ...], ...]
Numbers = tuple[int, ...]

THINGS: Slots = (PEOPLE, DEEDS, OBJECTS, MANNERS)
PERSONS: Slots = (PEOPLE, ACTIONS, PEOPLE, MANNERS)
WEIGHTS = (1, 2, 1, 1)
"""Points for the same meaning in each slot, 5 in total."""
KEPT = [[slot for slot in range(4) if mask >> slot & 1] for mask in range(16)]


def paraphrase(rng: Random, words: Words, level: int, label: float) -> tuple[str, str]:
    """Draw an example; level 1: synonyms or another topic, 2: passive voice or one other word, 3: exchanged roles."""
    slots = PERSONS if level == 3 else THINGS
    first = second = _meaning(rng, slots)
    if not label:
        if level == 3:
            second = _swap(first)
        else:
            second = _change(rng, slots, first, range(4) if level == 1 else [rng.randrange(3)])
    faces = _faces(rng)
    return _say(rng, slots, (first, second), (faces, _other(rng, faces, 0.3)), voice=level > 1)


def similarity(rng: Random, words: Words, level: int, label: float) -> tuple[str, str]:
    """Draw an example; level 1: the same words, 2: synonyms and passive voice, 3: also exchanged roles."""
    slots = PERSONS if level == 3 else THINGS
    first = _meaning(rng, slots)
    kept = rng.choice([kept for kept in KEPT if sum(WEIGHTS[slot] for slot in kept) == label])
    if level == 3 and 0 not in kept and 2 not in kept:
        second = _change(rng, slots, _swap(first), [slot for slot in (1, 3) if slot not in kept])
    else:
        second = _change(rng, slots, first, [slot for slot in range(4) if slot not in kept])
    faces = _faces(rng)
    return _say(rng, slots, (first, second), (faces, _other(rng, faces, 0 if level == 1 else 0.7)), voice=level > 1)


def _meaning(rng: Random, slots: Slots) -> Numbers:
    agent = rng.randrange(len(PEOPLE))
    rest = tuple(rng.randrange(len(slot)) for slot in slots[1:])
    # Agent and patient are different persons.
    return (agent, *rest) if slots is THINGS or agent != rest[1] else _meaning(rng, slots)


def _swap(meaning: Numbers) -> Numbers:
    agent, action, patient, how = meaning
    return patient, action, agent, how


def _change(rng: Random, slots: Slots, meaning: Numbers, changed: Iterable[int]) -> Numbers:
    """Return a meaning with another pair in each of these slots, and different persons."""
    new = list(meaning)
    for slot in changed:
        alike = [other for other in range(4) if slots[other] is slots[slot]]
        taken = {said[other] for said in (meaning, new) for other in alike}
        new[slot] = rng.choice([number for number in range(len(slots[slot])) if number not in taken])
    return tuple(new)


def _faces(rng: Random) -> Numbers:
    return tuple(rng.randrange(2) for _ in range(4))


def _other(rng: Random, faces: Numbers, chance: float) -> Numbers:
    return tuple(1 - face if rng.random() < chance else face for face in faces)


def _say(
    rng: Random, slots: Slots, meanings: tuple[Numbers, Numbers], faces: tuple[Numbers, Numbers], voice: bool
) -> tuple[str, str]:
    """Return both sentences, in active voice or, with `voice`, one of them in passive voice."""
    passive = (rng.random() < 0.5) if voice else None
    one, two = (
        _sentence([slot[number][face] for slot, number, face in zip(slots, meaning, own, strict=True)], turned)
        for meaning, own, turned in zip(meanings, faces, (passive is True, passive is False), strict=True)
    )
    return one, two


def _sentence(words: list[str], passive: bool) -> str:
    agent, done, other, how = words
    if passive:
        return f"the {other} was {how} {PARTICIPLES.get(done, done)} by the {agent}"
    return f"the {agent} {how} {done} the {other}"


PARTICIPLES = {"hid": "hidden", "chose": "chosen", "showed": "shown"}
