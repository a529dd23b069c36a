"""Typed settings of a benchmark, and the loader of profiles."""

from bench.settings.loading import PACKAGED, check, load, load_several, profile_file
from bench.settings.sections import (
    CLASS_METRICS,
    GLUE,
    SCORE_METRICS,
    Comparison,
    Data,
    OwnTask,
    Primary,
    RatioStudy,
    Settings,
)
from bench.settings.values import Checkpoint, expand, explain, lookalike, twins

__all__ = [
    "CLASS_METRICS",
    "GLUE",
    "PACKAGED",
    "SCORE_METRICS",
    "Checkpoint",
    "Comparison",
    "Data",
    "OwnTask",
    "Primary",
    "RatioStudy",
    "Settings",
    "check",
    "expand",
    "explain",
    "load",
    "load_several",
    "lookalike",
    "profile_file",
    "twins",
]
