"""Frontiers of operating points: high score, low FLOPs."""

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray


def nondominated(scores: ArrayLike, flops: ArrayLike) -> NDArray[np.bool_]:
    """Return which of P points are on the frontier, a boolean mask [P].

    A point is dominated if another point is at least as good in score and FLOPs, and better in one of them. Of equal
    points all are kept. A point with a NaN score (an undefined correlation) is always dominated.
    """
    points = np.column_stack([np.asarray(scores, dtype=np.float64), np.asarray(flops, dtype=np.float64)])
    result: NDArray[np.bool_] = np.asarray(~np.isnan(points).any(axis=1))
    if result.any():
        result[result] = moocore.is_nondominated(points[result], maximise=[True, False], keep_weakly=True)
    return result


def hypervolume(scores: ArrayLike, flops: ArrayLike, *, teacher_flops: float, floor: float) -> float:
    """Compute the area that points dominate in the plane of score and log2(teacher FLOPs / FLOPs); 0 without points.

    On the logarithmic scale the step from 2x to 4x counts as much as that from 4x to 8x. A point with score `floor` + s
    at half the teacher's cost has area s.

    Args:
        scores: Scores [P].
        flops: FLOPs [P].
        teacher_flops: FLOPs of the teacher. More expensive points do not count.
        floor: Lowest score that counts.
    """
    halvings = np.log2(teacher_flops / np.asarray(flops, dtype=np.float64))
    points = np.column_stack([np.asarray(scores, dtype=np.float64), halvings])
    points = points[~np.isnan(points).any(axis=1)]
    return float(moocore.hypervolume(points, [floor, 0.0], maximise=True)) if len(points) else 0.0
