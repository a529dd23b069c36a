"""Typed settings of a benchmark, and the loader of profiles."""

from bench.settings.loading import PACKAGED, check, load, load_several, packaged_profiles, profile_file
from bench.settings.sections import Comparison, Latency, Primary, RatioStudy, Settings
from bench.settings.tasks import CLASS_METRICS, GLUE, SCORE_METRICS, Data, OwnTask
from bench.settings.values import (
    BatchCount,
    Checkpoint,
    Count,
    Layers,
    LearningRate,
    Values,
    Width,
    blank,
    expand,
    explain,
    lookalike,
    twins,
)

__all__ = [
    "CLASS_METRICS",
    "GLUE",
    "PACKAGED",
    "SCORE_METRICS",
    "BatchCount",
    "Checkpoint",
    "Comparison",
    "Count",
    "Data",
    "Latency",
    "Layers",
    "LearningRate",
    "OwnTask",
    "Primary",
    "RatioStudy",
    "Settings",
    "Values",
    "Width",
    "blank",
    "check",
    "expand",
    "explain",
    "load",
    "load_several",
    "lookalike",
    "packaged_profiles",
    "profile_file",
    "twins",
]
