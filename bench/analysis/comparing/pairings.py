"""Which methods are compared with which, at which speed-ups, and which of these comparisons are primary.

A method of full cost (the reference, or one trained longer) has no cheaper points. Its rivals at 2x, 4x and 8x are
compared with it at 1x.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from bench.analysis.budgets import TOLERANCE, operating_points, selection_split
from bench.errors import UserError
from bench.settings import Comparison


@dataclass(frozen=True)
class Pairing:
    """A comparison: a minus b, each at its best point that is at least so many times cheaper than the reference."""

    a: str
    budget_a: float
    b: str
    budget_b: float
    primary: bool = False
    """Declared by the profile before the results were seen; the others are exploratory."""


def every_pair(
    points: pd.DataFrame, *, reference: str, ablations: Iterable[str] = (), first: str | None = None
) -> list[tuple[str, str]]:
    """Every pair of contestants, and each of them with the reference; `first` stands before its rivals."""
    methods = [m for m in dict.fromkeys(points["method"]) if m not in {reference, *ablations}]
    methods.sort(key=lambda method: method != first)
    known = [reference] if reference in set(points["method"]) else []
    return [*((method, name) for name in known for method in methods), *combinations(methods, 2)]


def pairings(
    points: pd.DataFrame,
    pairs: Iterable[tuple[str, str]],
    comparison: Comparison,
    *,
    reference: str,
    budgets: Sequence[float],
) -> list[Pairing]:
    """Return the comparisons of pairs of methods at speed-ups `budgets`: the primary ones first, then a pair at a time.

    Primary are those at `comparison.primary.speedups` of the declared contestant with its rivals, and of every method
    with the reference. Raises UserError for an unknown method.
    """
    pairs = list(pairs)
    known = list(dict.fromkeys(points["method"]))
    for method in dict.fromkeys(name for pair in pairs for name in pair):
        if method not in known:
            raise UserError(f"no method {method!r} in the points; choose from {', '.join(known)}")
    whole = full_cost(points, reference)
    declared = comparison.primary
    made: dict[Pairing, None] = {}
    for a, b in pairs:
        for budget in budgets:
            at_a, at_b = (1.0 if method in whole else float(budget) for method in (a, b))
            named = reference in (a, b) or declared.contestant in (a, b)
            primary = named and max(at_a, at_b) in declared.speedups
            made[Pairing(a, at_a, b, at_b, primary)] = None
    return sorted(made, key=lambda pairing: not pairing.primary)


def full_cost(points: pd.DataFrame, reference: str) -> set[str]:
    """The reference and the methods none of whose operating points is cheaper than it."""
    rows = operating_points(points)
    rows = rows[(rows["split"] == selection_split(points)) & rows["speedup"].notna()]
    fastest = rows.groupby("method")["speedup"].max()
    return {reference, *(str(name) for name in fastest.index[fastest <= 1 / (1 - TOLERANCE)])}
