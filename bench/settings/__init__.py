"""Settings: their sections, and the one loader of profiles."""

from bench.settings.loading import PACKAGED, check, load, load_several, profile_file
from bench.settings.sections import (
    CLASS_METRICS,
    GLUE,
    SCORE_METRICS,
    Comparison,
    Data,
    OwnTask,
    RatioStudy,
    Settings,
)
from bench.settings.values import LARGEST_SEED, NAME, expand, explain, valid_name

__all__ = [
    "CLASS_METRICS",
    "GLUE",
    "LARGEST_SEED",
    "NAME",
    "PACKAGED",
    "SCORE_METRICS",
    "Comparison",
    "Data",
    "OwnTask",
    "RatioStudy",
    "Settings",
    "check",
    "expand",
    "explain",
    "load",
    "load_several",
    "profile_file",
    "valid_name",
]
