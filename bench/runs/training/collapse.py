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
"""Least difference between the largest and the smallest prediction of a regression, on its scale of 0 to 5."""


def collapsed(model: Encoder | Cascade, trace: Trace, task: Task) -> bool:
    """Return whether a trained model answers all examples of the selection split alike at full depth.

    Args:
        model: The trained model. Each member of a cascade must give different answers, of an encoder its last exit.
        trace: Its trace of the selection split.
        task: The task. Predictions of a regression are alike within `SPREAD`.
    """
    found = predictions(trace, task)
    checked = found if isinstance(model, Cascade) else found[-1:]
    return bool((np.ptp(checked, axis=1) < (SPREAD if task.regression else 1)).any())
