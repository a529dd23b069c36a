"""The figures of a profile: every one a function of the points table, written as PNG and PDF."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from bench.analysis.comparing.resampling import resamples_of
from bench.analysis.roles import Roles
from bench.reporting.figures.comparisons import ablation_bars, promised_against_measured
from bench.reporting.figures.drawing import Absent, save, task_order
from bench.reporting.figures.exits import exit_against_difficulty, exit_histogram, score_per_exit
from bench.reporting.figures.fonts import families
from bench.reporting.figures.frontiers import frontier, frontier_average, score_against_parameters
from bench.reporting.figures.sweeps import importances, kept_studies, landscape, pareto_front
from bench.settings import Comparison
from bench.tasks.catalogue import TASKS
from bench.tasks.catalogue import title as task_title

__all__ = [
    "Skipped",
    "ablation_bars",
    "begin",
    "describe",
    "drawn",
    "exit_against_difficulty",
    "exit_histogram",
    "frontier",
    "frontier_average",
    "importances",
    "landscape",
    "pareto_front",
    "promised_against_measured",
    "score_against_parameters",
    "score_per_exit",
]


# What a figure shows, by the beginning of its name: title and caption. {rest} is what follows in the name.
_CAPTIONS = {
    "frontier-average": (
        "Frontier, mean of all tasks",
        "Mean score over tasks at matched speed-ups: at each budget every task gives the point chosen for it on "
        "the selection split, read on validation, mean over seeds. A method is drawn where it has a point on every "
        "task. Band: the interval of the mean over seeds and examples at the profile's confidence (95 % by default), "
        "as in the tables; with one seed over examples. Faint: one answer for all examples on half of the tasks or "
        "more.",
    ),
    "frontier-": (
        "Frontier, {rest}",
        "Score against mean FLOPs an example; points chosen on the selection split and shown as they are on "
        "validation, so a line may go down. With several seeds the line is the mean over seeds at each cost, from "
        "where every seed has a point (small marks: each seed's points). Band: the interval of that mean over seeds "
        "and examples at the profile's confidence (95 % by default), as in the tables; with one seed over examples. "
        "Faint and hollow: points that give every example the same answer. Lines across are the teacher and the best "
        "constant answer; clear hollow marks are what others reported.",
    ),
    "parameters": (
        "Score against parameters",
        "Full-depth score of each variant that has one on every task, averaged over tasks; bars are one standard "
        "deviation over seeds.",
    ),
    "latency": (
        "Promised and measured speed-up",
        "Speed-up on a clock (median; bar: quartiles, where they were kept) against speed-up in FLOPs, both over "
        "the teacher. On the dashed diagonal a promise is kept in full; below it part of the saving is lost.",
    ),
    "exits-score": (
        "Score of each exit",
        "The score when everyone leaves at the same exit, against the layers run until there.",
    ),
    "exits-histogram": (
        "Who leaves where",
        "Share of validation examples that leaves at each exit, at the operating point nearest to 2× fewer FLOPs "
        "on the selection split; beside each bar the speed-up that it reached on validation. Models without a "
        "point within 25 % of 2× are left out.",
    ),
    "exits-difficulty": (
        "Do easy examples leave early?",
        "Mean exit of the examples of each difficulty, which the generated text knows by construction, at the "
        "operating point nearest to 2× fewer FLOPs on the selection split; the legend says what speed-ups were "
        "reached on validation. A rising line is an exit rule that tells easy from hard. Models without a point "
        "within 25 % of 2× are left out.",
    ),
    "ablations": (
        "Ablations",
        "Score of each ablation minus the full method's: at full depth (bar: mean, dots: tasks), and when "
        "everyone leaves at the same exit.",
    ),
    "sweep-landscape-": ("Ratio study, {rest}", "Every trial of the study; colours are the searched ratios."),
    "sweep-front-": ("Ratio study, {rest}: Pareto front", "The trials that no other trial beats, by Optuna."),
    "sweep-importance-": (
        "Ratio study, {rest}: importance",
        "How much of the score's variance each ratio explains (fANOVA, by Optuna).",
    ),
}


def describe(name: str) -> tuple[str, str]:
    """Title and caption of the figure with this file name."""
    for start, (title, caption) in _CAPTIONS.items():
        if name == start or (start.endswith("-") and name.startswith(start)):
            return title.format(rest=task_title(name.removeprefix(start))), caption
    raise KeyError(name)


class Skipped(NamedTuple):
    """A figure that was not drawn, and why."""

    name: str
    reason: str


def begin(
    points: pd.DataFrame,
    results: Path,
    roles: Roles,
    *,
    published: pd.DataFrame | None = None,
    comparison: Comparison | None = None,
) -> Callable[[], list[Skipped]]:
    """Begins to draw every figure that has data into <results>/figures/<name>.png and .pdf, in processes of their own.

    The returned call waits for them and gives those left out; figures of an earlier call that are not drawn again are
    removed. points: all-points.parquet. results: results/<profile>, for its kept traces and studies. published: rows
    of `bench.reporting.published`, where text and backbone are the papers' own. comparison: confidence and resamples of
    the bands.
    """
    folder, plan = results / "figures", _plan(points, results, roles, published, comparison or Comparison())
    families()  # once for all processes
    if sys.platform == "linux":
        cores = min(len(os.sched_getaffinity(0)), len(plan))
        pool: Executor = ProcessPoolExecutor(cores, multiprocessing.get_context("fork"))
    else:  # a forked process may not draw
        pool = ThreadPoolExecutor(1)
    drawing = [pool.submit(_drawn, draw, folder, name) for name, draw in plan.items()]

    def finish() -> list[Skipped]:
        with pool:
            found = [future.result() for future in drawing]
        kept = {file for files in found if not isinstance(files, Skipped) for file in files}
        for old in [*folder.glob("*.png"), *folder.glob("*.pdf")]:
            if old not in kept:
                old.unlink()
        return [each for each in found if isinstance(each, Skipped)]

    return finish


def _drawn(draw: Callable[[], Figure], folder: Path, name: str) -> list[Path] | Skipped:
    try:
        return save(draw(), folder, name)
    except Absent as reason:
        return Skipped(name, str(reason))


def drawn(folder: Path) -> list[Path]:
    """The PNG files that `begin` left in results/<profile>/figures, in reading order."""
    starts, tasks = list(_CAPTIONS), list(TASKS)

    def rank(path: Path) -> tuple[int, int, str]:
        start = next(i for i, each in enumerate(starts) if path.stem.startswith(each))
        task = path.stem.removeprefix(starts[start])
        return start, tasks.index(task) if task in tasks else len(tasks), path.stem

    return sorted(folder.glob("*.png"), key=rank)


def _plan(
    points: pd.DataFrame, results: Path, roles: Roles, published: pd.DataFrame | None, comparison: Comparison
) -> dict[str, Callable[[], Figure]]:
    """Every figure that could be drawn, by file name, in the order in which they are read."""
    runs = results / "runs"
    resamples = resamples_of(points, runs, comparison)
    plan: dict[str, Callable[[], Figure]] = {
        "frontier-average": partial(frontier_average, points, roles, resamples=resamples)
    }
    for task in task_order(points):
        plan[f"frontier-{task}"] = partial(frontier, points, task, roles, resamples=resamples, published=published)
    plan["parameters"] = partial(score_against_parameters, points, roles)
    plan["latency"] = partial(promised_against_measured, points, roles)
    plan["exits-score"] = partial(score_per_exit, points, roles)
    plan["exits-histogram"] = partial(exit_histogram, points, roles)
    plan["exits-difficulty"] = partial(exit_against_difficulty, points, roles, runs=runs)
    plan["ablations"] = partial(ablation_bars, points, roles)
    for name, study in kept_studies(results / "sweeps").items():
        plan[f"sweep-landscape-{name}"] = partial(landscape, study)
        plan[f"sweep-front-{name}"] = partial(pareto_front, study)
        plan[f"sweep-importance-{name}"] = partial(importances, study)
    return plan
