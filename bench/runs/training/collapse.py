"""Detect collapsed trainings: models that give the same answer to every example."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.analysis.points import predictions
from bench.encoder import Cascade, Encoder
from bench.trace import Trace

if TYPE_CHECKING:
    from bench.tasks.catalogue import Task

SPREAD = 0.05
"""Smallest difference between the largest and smallest prediction on regression, on a scale of 0 to 5."""


def collapsed(model: Encoder | Cascade, trace: Trace, task: Task) -> bool:
    """Return whether a trained model gives the same answer to all examples of the selection split.

    Args:
        model: Trained model. For an encoder its last exit is checked, for a cascade each member.
        trace: Trace of the selection split.
        task: Task of the run. On regression predictions that differ by less than `SPREAD` count as the same.
    """
    found = predictions(trace, task)
    checked = found if isinstance(model, Cascade) else found[-1:]
    return bool((np.ptp(checked, axis=1) < (SPREAD if task.regression else 1)).any())
