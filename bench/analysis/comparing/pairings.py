"""Pairs of methods and budgets to compare, and which of these comparisons are primary.

A method of full cost (such as the reference) has no cheaper points. Other methods at 2x, 4x and 8x are compared with it
at 1x, and methods that cost more than the reference at any cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from bench.analysis.budgets import ANY_COST, TOLERANCE, costlier, operating_points, selection_split
from bench.errors import UserError
from bench.settings import Comparison


@dataclass(frozen=True)
class Pairing:
    """A comparison of two methods: the score of a minus that of b.

    Attributes:
        a: The first method.
        budget_a: Its budget, as a speed-up over the reference.
        b: The second method.
        budget_b: Its budget.
        primary: Whether the profile declares the comparison in advance; otherwise it is exploratory.
    """

    a: str
    budget_a: float
    b: str
    budget_b: float
    primary: bool = False


def every_pair(
    points: pd.DataFrame, *, reference: str, ablations: Iterable[str] = (), first: str | None = None
) -> list[tuple[str, str]]:
    """Return every pair of contestants, and of the reference with each of them.

    Args:
        points: All operating points.
        reference: The reference contestant.
        ablations: Contestants to leave out.
        first: The contestant that is the first of its pairs.
    """
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
    """Return the comparisons of pairs of methods at each budget, the primary ones first.

    A comparison is primary if it involves the contestant that the profile declares, or the reference, at one of
    `comparison.primary.speedups`.

    Args:
        points: All operating points.
        pairs: Pairs of methods.
        comparison: Settings of comparisons.
        reference: The reference contestant.
        budgets: Speed-ups over the reference.

    Raises:
        UserError: For an unknown method.
    """
    pairs = list(pairs)
    known = list(dict.fromkeys(points["method"]))
    for method in dict.fromkeys(name for pair in pairs for name in pair):
        if method not in known:
            raise UserError(f"no method {method!r} in the points; choose from {', '.join(known)}")
    whole, more = full_cost(points, reference), costlier(points)
    declared = comparison.primary
    made: dict[Pairing, None] = {}
    for a, b in pairs:
        for budget in budgets:
            at_a, at_b = (_budget_of(method, budget, whole, more) for method in (a, b))
            named = reference in (a, b) or declared.contestant in (a, b)
            primary = named and max(at_a, at_b) in declared.speedups
            made[Pairing(a, at_a, b, at_b, primary)] = None
    return sorted(made, key=lambda pairing: not pairing.primary)


def _budget_of(method: str, budget: float, whole: set[str], more: set[str]) -> float:
    """Return the budget at which a method is compared: any cost, 1x, or `budget`."""
    if method in more:
        return ANY_COST
    return 1.0 if method in whole else float(budget)


def full_cost(points: pd.DataFrame, reference: str) -> set[str]:
    """Return the reference and all methods without an operating point that is cheaper than the reference."""
    rows = operating_points(points)
    rows = rows[(rows["split"] == selection_split(points)) & rows["speedup"].notna()]
    fastest = rows.groupby("method")["speedup"].max()
    return {reference, *(str(name) for name in fastest.index[fastest <= 1 / (1 - TOLERANCE)])}
