"""Verdicts on estimated differences, from tests that are corrected for the number of comparisons.

*Better* and *worse* come from a two-sided test of "no difference". *Equal* comes from two one-sided tests of "the
difference is at least the margin" (TOST: Schuirmann, 1987), of which the larger p-value counts. The null hypotheses are
opposite, so the two kinds of test are corrected (Holm) separately, and so is each family of comparisons. Within a
family, the probability of any wrong "better" or "worse" is at most 1 - level, and likewise that of any wrong "equal".

A missing estimate (None) has no verdict and does not count as a comparison.
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


def classify_differences(
    estimates: Sequence[Estimate | None], comparison: Comparison, families: Sequence[Hashable] | None = None
) -> pd.DataFrame:
    """Compute the interval, p-values and verdict of every estimate.

    Args:
        estimates: Differences; None where there is no estimate.
        comparison: Settings with level and margin.
        families: The family of each estimate, within which p-values are corrected; by default a single family.

    Returns:
        One row per estimate, with difference, low and high (interval at `level`, not corrected), p and p_equal
        (corrected), seeds, verdict ("" for None), and strict and strict_equal, the significance levels that Holm's
        procedure applies to the uncorrected p-values.
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
        verdict_of(*each, alpha, alpha) for each in zip(table["difference"], table["p"], table["p_equal"], strict=True)
    ]
    return table


def p_values(estimates: Sequence[Estimate], margin: float) -> tuple[Floats, Floats]:
    """Return uncorrected p-values [M] of "no difference" (two-sided) and of "a difference of at least `margin`"."""
    values = np.array([each.value for each in estimates])
    different = 2 * tails(np.abs(values), estimates)
    certain = np.array([each.seeds_variance + each.examples_variance == 0 for each in estimates])
    different[certain & (values == 0)] = 1.0
    return different, tails(margin - np.abs(values), estimates)


def holm(raw: Floats, alpha: float) -> tuple[Floats, Floats]:
    """Return the p-values [M] corrected by Holm's procedure, and the significance level of each uncorrected one.

    With M tests ordered by p, the r-th has level alpha / (M - r + 1). From the first test that is not rejected on, all
    have the level of that test. A corrected p is at most alpha where the procedure rejects.
    """
    order = np.argsort(raw, kind="stable")
    remaining = np.arange(len(raw), 0, -1)
    corrected, strict = np.empty(len(raw)), np.empty(len(raw))
    corrected[order] = np.minimum(np.maximum.accumulate(raw[order] * remaining), 1.0)
    kept: NDArray[np.int64] = np.flatnonzero(corrected[order] > alpha)
    if len(kept):
        remaining[kept] = remaining[kept[0]]
    strict[order] = alpha / remaining
    return corrected, strict


def verdict_of(difference: float, p: float, p_equal: float, strict: float, strict_equal: float) -> Verdict:
    """Return the verdict of one comparison; "equal" takes precedence over "better" and "worse"."""
    if np.isnan(difference):
        return ""
    if p_equal <= strict_equal:
        return "equal"
    if p <= strict:
        return "better" if difference > 0 else "worse"
    return "not decided"
