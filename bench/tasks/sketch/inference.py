"""Entailment with three classes (as MNLI) and two classes (as RTE).

The hypothesis is drawn independently of the label, so the hypothesis alone does not predict it.
"""

from random import Random

from bench.tasks.sketch.words import ACTIONS, DAYS, PEOPLE, Words, pairs

ENTAILMENT, NEUTRAL, CONTRADICTION = 0, 1, 2


def three_way(rng: Random, words: Words, level: int, label: float) -> tuple[str, str]:
    """Draw an example; level 1: overlap or negation, 2: verbs that may imply their complement, 3: monotonicity."""
    return (_plain, _implicative, _monotone)[level - 1](rng, words, int(label))


def two_way(rng: Random, words: Words, level: int, label: float) -> tuple[str, str]:
    """Draw an example as `three_way` does; label 1: not entailed; level 3 also has exchanged roles."""
    if level == 3 and rng.random() < 0.5:
        return _roles(rng, bool(label))
    return three_way(rng, words, level, rng.choice((NEUTRAL, CONTRADICTION)) if label else ENTAILMENT)


def _plain(rng: Random, words: Words, label: int) -> tuple[str, str]:
    name, company, *strangers = rng.sample(words.names, 4)
    (bare, past), (_, other_past) = rng.sample(words.plans, 2)
    day = rng.choice(DAYS)
    if label == ENTAILMENT:
        return f"{name} and {company} {past} {day}", f"{name} {past}"
    if label == CONTRADICTION:
        return f"{name} and {company} did not {bare}", f"{name} {past}"
    return f"{strangers[0]} and {strangers[1]} {other_past} {day}", f"{name} {past}"


# Verbs, bare and in the past tense, whose complement is true, false, or open.
DID = pairs("manage to/managed to, remember to/remembered to, bother to/bothered to")
DID_NOT = pairs("fail to/failed to, forget to/forgot to, refuse to/refused to")
MIGHT = pairs("want to/wanted to, plan to/planned to, hope to/hoped to")


def _implicative(rng: Random, words: Words, label: int) -> tuple[str, str]:
    name = rng.choice(words.names)
    bare, past = rng.choice(words.plans)
    denied, turned = rng.random() < 0.4, rng.random() < 0.4
    came_true = (label == ENTAILMENT) != denied
    verbs = MIGHT if label == NEUTRAL else DID if came_true != turned else DID_NOT
    verb = rng.choice(verbs)
    premise = f"{name} {f'did not {verb[0]}' if turned else verb[1]} {bare} {rng.choice(DAYS)}"
    return premise, f"{name} did not {bare}" if denied else f"{name} {past}"


# Quantifier of a hypothesis about the middle kind -> label -> premises (quantifier, index of a kind, 0 the narrowest).
PREMISES: dict[str, dict[int, tuple[tuple[str, int], ...]]] = {
    "all": {
        ENTAILMENT: (("all", 2),),
        NEUTRAL: (("all", 0), ("some", 1)),
        CONTRADICTION: (("no", 1), ("no", 0), ("no", 2)),
    },
    "some": {
        ENTAILMENT: (("some", 0), ("all", 1)),
        NEUTRAL: (("some", 2),),
        CONTRADICTION: (("no", 1), ("no", 2)),
    },
    "no": {
        ENTAILMENT: (("no", 2),),
        NEUTRAL: (("no", 0),),
        CONTRADICTION: (("some", 1), ("all", 1), ("some", 0)),
    },
}


def _monotone(rng: Random, words: Words, label: int) -> tuple[str, str]:
    quantifier = rng.choice(tuple(PREMISES))
    kinds, event, day = rng.choice(words.kinds), rng.choice(words.happenings), rng.choice(DAYS)
    above, kind = rng.choice(PREMISES[quantifier][label])
    return f"{day} {above} {kinds[kind]} {event}", f"{day} {quantifier} {kinds[1]} {event}"


def _roles(rng: Random, reversed_: bool) -> tuple[str, str]:
    (one, _), (two, _) = rng.sample(PEOPLE, 2)
    done = rng.choice(rng.choice(ACTIONS))
    active, passive = f"the {one} {done} the {two}", f"the {two} was {done} by the {one}"
    turned = f"the {two} {done} the {one}", f"the {one} was {done} by the {two}"
    if rng.random() < 0.5:
        return turned[1] if reversed_ else passive, active
    return turned[0] if reversed_ else active, passive
