"""Frontiers of operating points: score up, FLOPs down."""

import moocore
import numpy as np
from numpy.typing import ArrayLike, NDArray


def nondominated(scores: ArrayLike, flops: ArrayLike) -> NDArray[np.bool_]:
    """[P] True where no other point has at least the score at most the FLOPs, and one of them better.

    Equal points are all kept; a NaN score (an undefined correlation) is always dominated.
    """
    points = np.column_stack([np.asarray(scores, dtype=np.float64), np.asarray(flops, dtype=np.float64)])
    result: NDArray[np.bool_] = np.asarray(~np.isnan(points).any(axis=1))
    if result.any():
        result[result] = moocore.is_nondominated(points[result], maximise=[True, False], keep_weakly=True)
    return result


def hypervolume(scores: ArrayLike, flops: ArrayLike, *, teacher_flops: float, floor: float) -> float:
    """Area the points [P] dominate, in score x log2(teacher FLOPs / FLOPs); 0 for none.

    FLOPs enter by the logarithm of their ratio to the teacher's, so that 2x -> 4x weighs as much as 4x -> 8x,
    and a point of score `floor` + s at half the teacher's cost is worth s. The reference point is (`floor`,
    the teacher's cost): only points above the one and below the other count.
    """
    halvings = np.log2(teacher_flops / np.asarray(flops, dtype=np.float64))
    points = np.column_stack([np.asarray(scores, dtype=np.float64), halvings])
    points = points[~np.isnan(points).any(axis=1)]
    return float(moocore.hypervolume(points, [floor, 0.0], maximise=True)) if len(points) else 0.0
