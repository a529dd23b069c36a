"""Pronoun resolution (as WNLI)."""

from random import Random

from bench.tasks.sketch.words import HOME, MEN, WOMEN, Words


def resolution(rng: Random, words: Words, level: int, label: float) -> tuple[str, str]:
    """Draw an example; level 1: one person in the text, 2: two of different gender, 3: verb and reason decide."""
    men = rng.random() < 0.5
    pronoun, same, opposite = ("he", MEN, WOMEN) if men else ("she", WOMEN, MEN)
    verb, about_first, about_second = rng.choice(REASONS)
    if level == 1:
        meant, stranger = rng.sample(same, 2)
        reason = rng.choice(about_first + about_second)
        event = f"{meant} {rng.choice(HOME.plans)[1]} because {pronoun} was {reason}"
        return event, f"{meant if label else stranger} was {reason}"
    to_first = rng.random() < 0.5
    if level == 2:
        meant, other = rng.choice(same), rng.choice(opposite)
        reason = rng.choice(about_first + about_second)
    else:
        meant, other = rng.sample(same, 2)
        reason = rng.choice(about_first if to_first else about_second)
    first, second = (meant, other) if to_first else (other, meant)
    return (
        f"{first} {verb} {second} because {pronoun} was {reason}",
        f"{meant if label else other} was {reason}",
    )


REASONS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("thanked", ("grateful", "polite"), ("kind", "generous")),
    ("attacked", ("angry", "drunk"), ("weak", "helpless")),
    ("fed", ("generous", "kind"), ("hungry", "poor")),
    ("trusted", ("naive", "foolish"), ("honest", "loyal")),
    ("robbed", ("greedy", "evil"), ("rich", "wealthy")),
    ("carried", ("strong", "brave"), ("tired", "injured")),
    ("avoided", ("shy", "nervous"), ("rude", "boring")),
    ("hugged", ("happy", "proud"), ("sad", "lonely")),
    ("rescued", ("brave", "strong"), ("trapped", "helpless")),
    ("visited", ("curious", "bored"), ("sick", "lonely")),
)
