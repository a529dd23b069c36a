"""Better, worse, equal or not decided: tests of estimated differences, corrected for their number.

*Better, worse*: the two-sided test of "no difference". *Equal*: two one-sided tests of "the difference is the margin
or more, on one side or the other" (TOST: Schuirmann, 1987); the larger of both p-values counts. The two kinds of test
have opposite hypotheses, so each has a Holm correction of its own, and each family of comparisons too. In each family
some wrong "better" or "worse" has probability 1 - level at most, and so has some wrong "equal".

A comparison that cannot be made (None) has no verdict and is not counted.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.comparing.estimates import Estimate, Floats, tails
from bench.settings import Comparison

Verdict = Literal["better", "worse", "equal", "not decided", ""]
COLUMNS = ["difference", "low", "high", "p", "p_equal", "seeds", "verdict"]


def judged(
    estimates: Sequence[Estimate | None], comparison: Comparison, families: Sequence[Hashable] | None = None
) -> pd.DataFrame:
    """Judge every estimate: its interval, p-values and verdict, one row each.

    Args:
        estimates: differences; None for one that could not be made.
        comparison: level and margin.
        families: the family of each estimate, within which p-values are corrected; one for all by default.

    Returns:
        Columns difference, low and high (at `level`, this comparison alone), p and p_equal (corrected), seeds,
        verdict ("" for None), and strict, strict_equal: the levels of significance at which Holm's procedure
        judged p and p_equal without correction.
    """
    table = pd.DataFrame(
        {
            "difference": [np.nan if each is None else each.value for each in estimates],
            "low": [np.nan if each is None else each.interval(comparison.level)[0] for each in estimates],
            "high": [np.nan if each is None else each.interval(comparison.level)[1] for each in estimates],
            **dict.fromkeys(["p", "p_equal"], np.nan),
            "seeds": [0 if each is None else each.seeds for each in estimates],
            "verdict": "",
            **dict.fromkeys(["strict", "strict_equal"], np.nan),
        }
    )
    alpha = 1 - comparison.level
    groups = pd.Series(list(families) if families is not None else [0] * len(table), dtype=object)
    for _, group in groups.groupby(groups, sort=False):
        at = [place for place in group.index if estimates[place] is not None]
        made = [each for each in (estimates[place] for place in at) if each is not None]
        if not made:
            continue
        different, equal = p_values(made, comparison.margin / 100)
        table.loc[at, "p"], table.loc[at, "strict"] = holm(different, alpha)
        table.loc[at, "p_equal"], table.loc[at, "strict_equal"] = holm(equal, alpha)
    table["verdict"] = [
        word(*each, alpha, alpha) for each in zip(table["difference"], table["p"], table["p_equal"], strict=True)
    ]
    return table


def p_values(estimates: Sequence[Estimate], margin: float) -> tuple[Floats, Floats]:
    """Return uncorrected p-values [M] of "no difference" (two-sided) and of "a difference of `margin` or more"."""
    values = np.array([each.value for each in estimates])
    different = 2 * tails(np.abs(values), estimates)
    certain = np.array([each.seeds_variance + each.examples_variance == 0 for each in estimates])
    different[certain & (values == 0)] = 1.0
    return different, tails(margin - np.abs(values), estimates)


def holm(raw: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Return the p-values [M] corrected by Holm's procedure, and the level at which each uncorrected one was judged.

    With M tests ordered by p, the r-th is judged at alpha / (M - r + 1); after the first that is not rejected, the
    others are judged at its level. A corrected p is at most alpha where the procedure rejects.
    """
    order = np.argsort(raw, kind="stable")
    left = np.arange(len(raw), 0, -1)
    corrected, strict = np.empty(len(raw)), np.empty(len(raw))
    corrected[order] = np.minimum(np.maximum.accumulate(raw[order] * left), 1.0)
    kept: NDArray[np.int64] = np.flatnonzero(corrected[order] > alpha)
    if len(kept):
        left[kept] = left[kept[0]]
    strict[order] = alpha / left
    return corrected, strict


def word(difference: float, p: float, p_equal: float, strict: float, strict_equal: float) -> Verdict:
    """Return the verdict of one comparison; "equal" comes first: a certain difference may be within the margin."""
    if np.isnan(difference):
        return ""
    if p_equal <= strict_equal:
        return "equal"
    if p <= strict:
        return "better" if difference > 0 else "worse"
    return "not decided"
