"""The figures of a profile, drawn from its points table and written as PNG and PDF."""

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

from bench.analysis.budgets import has_traces
from bench.analysis.comparing.resampling import resamples_of
from bench.analysis.roles import Roles
from bench.reporting.figures.comparisons import (
    ablation_intervals,
    difference_from_teacher,
    promised_against_measured,
    tasks_at_budget,
)
from bench.reporting.figures.costs import COSTS, score_against_cost
from bench.reporting.figures.drawing import Absent, save, task_order
from bench.reporting.figures.exits import exit_against_difficulty, exit_histogram, score_per_exit
from bench.reporting.figures.frontiers import (
    frontier,
    frontier_average,
    score_against_milliseconds,
)
from bench.reporting.figures.sweeps import importances, kept_studies, landscape
from bench.settings import Comparison
from bench.tasks.catalogue import TASKS
from bench.tasks.catalogue import title as task_title

__all__ = [
    "COSTS",
    "Skipped",
    "ablation_intervals",
    "begin",
    "describe",
    "difference_from_teacher",
    "drawn",
    "exit_against_difficulty",
    "exit_histogram",
    "frontier",
    "frontier_average",
    "importances",
    "landscape",
    "promised_against_measured",
    "score_against_cost",
    "score_against_milliseconds",
    "score_per_exit",
    "tasks_at_budget",
]


_LEVEL = "at the profile's confidence (95 % by default), as in the tables"
_BAND = (
    "Bands are intervals over seeds and examples (over examples only with one seed) of the contestant that the profile "
    f"declares for comparisons (of all, if it declares none), {_LEVEL}."
)
_COST = (
    "Full-depth score of each variant that has one on every task, averaged over tasks; bars are one standard deviation "
    "over seeds."
)
# Title and caption of each figure by the beginning of its file name, in reading order. {rest}: the rest of the name.
_CAPTIONS = {
    "frontier-average": (
        "Frontier, mean of tasks",
        "Mean score over the learned tasks (all tasks, if none is learned) at matched budgets. At each budget every "
        "task contributes the point that was chosen for it on the selection split, read on validation and averaged "
        "over seeds. Markers are models and thresholds that exist; between them the line holds the score of the next "
        f"cheaper point. A method is drawn where it has a point on each of these tasks. {_BAND} Faint: the same answer "
        "for all examples on half of the tasks or more.",
    ),
    "differences": (
        "Difference from the teacher",
        "Mean score over all tasks minus the teacher's at 2×, 4× and 8× fewer FLOPs, paired by seed. Bars are "
        f"intervals over seeds and examples {_LEVEL}, without a correction for several comparisons (see the table of "
        "verdicts). A method without a point on every task at a budget has no mark there.",
    ),
    "tasks": (
        "Methods and tasks at 4×",
        "Score of the point chosen at 4× fewer FLOPs, mean over seeds. Colour: difference from the teacher over the "
        "seeds that both have, darkest from 20 points on.",
    ),
    "frontier-": (
        "Frontier, {rest}",
        "Score against mean FLOPs per example. Points are chosen on the selection split and shown as they are on "
        "validation, so a line may go down. With several seeds the line is their mean and starts at the cost "
        f"from which every seed has a point; small marks are those of each seed. {_BAND} Faint and hollow: the "
        "same answer for all examples. Horizontal lines: teacher and constant baseline. Other hollow marks: published "
        "results.",
    ),
    "milliseconds": (
        "Score against measured time",
        "Score of every timed point against its median time per example at batch size 1. A line joins the points that "
        "no faster point of the method beats on the selection split. Dashed: teacher; dashed grey: constant baseline. "
        "Points and lines are those of the first seed, the only timed one, so scores differ from those over all seeds.",
    ),
    "parameters": ("Score against parameters", _COST),
    "training": (
        "Score against training cost",
        f"{_COST} Training FLOPs include passes of teachers and of checkpoint selection; of a model for several tasks "
        "each has an equal part. A contestant that differs "
        "from another one by its training budget has the same mark, so the line is a learning curve.",
    ),
    "memory": (
        "Score against memory of training",
        f"{_COST} Peak memory of the whole process, with data and libraries; it depends on the machine. Models without "
        "training of their own are left out.",
    ),
    "trainable": (
        "Score against trained parameters",
        f"{_COST} Parameters that an optimizer changes, in the stage with most. Models without training of their own "
        "are left out.",
    ),
    "stored": (
        "Score against parameters stored for all tasks",
        f"{_COST} A method with a model of its own for each task stores them all; what the models of all tasks share "
        "is stored once.",
    ),
    "latency": (
        "Measured and calculated speed-up",
        "Measured speed-up (median; bar: quartiles) against speed-up in FLOPs, both over the teacher. On the dashed "
        "diagonal they are equal.",
    ),
    "exits-score": (
        "Score of each exit",
        f"Score when every example uses the same exit, against the number of layers computed. {_BAND} Dotted: constant "
        "baseline.",
    ),
    "exits-histogram": (
        "Examples at each exit",
        "Share of validation examples at each exit, at the operating point nearest to half of the model's own "
        "full-depth FLOPs on the selection split. The last exit of every model has the same colour. Beside each bar: "
        "its speed-up over the teacher on validation.",
    ),
    "exits-difficulty": (
        "Exit and difficulty",
        "Mean exit of the examples of each difficulty, which is known for generated text, at the operating point "
        "nearest to half of the model's own full-depth FLOPs on the selection split. The legend has the speed-ups over "
        "the teacher on validation. A rising line means that hard examples exit later.",
    ),
    "ablations": (
        "Ablations",
        "Score of each ablation minus the full method's, paired by seed. Left: full depth, mean over tasks with its "
        f"interval over seeds and examples {_LEVEL}, and each task. Right: every example at one exit.",
    ),
    "sweep-landscape-": (
        "Ratio study, {rest}",
        "Every trial of the study, coloured by each searched ratio; the line joins the trials that no other one beats.",
    ),
    "sweep-importance-": (
        "Ratio study, {rest}: importance",
        "Share of the score's variance that each ratio explains (fANOVA, by Optuna).",
    ),
}


def describe(name: str) -> tuple[str, str]:
    """Return title and caption of the figure with this file name."""
    title, caption = _CAPTIONS[start := _start(name)]
    return title.format(rest=task_title(name.removeprefix(start))), caption


class Skipped(NamedTuple):
    """A figure that was not drawn, with the reason."""

    name: str
    reason: str


def begin(
    points: pd.DataFrame,
    results: Path,
    roles: Roles,
    *,
    published: pd.DataFrame | None = None,
    comparison: Comparison | None = None,
    times: pd.DataFrame | None = None,
) -> Callable[[], list[Skipped]]:
    """Start to draw every figure that has data into <results>/figures/<name>.png and .pdf, in processes of their own.

    Args:
        points: all-points.parquet.
        results: results/<profile>, with its kept traces and studies.
        roles: the roles of the profile's methods.
        published: rows of `bench.reporting.published`, where text and backbone are those of the papers.
        comparison: confidence and resamples of the intervals.
        times: latency.parquet; None or empty if nothing was measured.

    Returns:
        A function that waits for the figures, removes those of an earlier call, and returns what was skipped.
    """
    folder, plan = (
        results / "figures",
        _plan(
            points, results, roles, published, comparison or Comparison(), pd.DataFrame() if times is None else times
        ),
    )
    if sys.platform == "linux":
        cores = min(len(os.sched_getaffinity(0)), len(plan))
        pool: Executor = ProcessPoolExecutor(cores, multiprocessing.get_context("fork"))
    else:  # elsewhere a forked process must not draw
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
    """Return the PNG files in results/<profile>/figures in reading order; files of other names are left out."""
    starts, tasks = list(_CAPTIONS), list(TASKS)

    def rank(path: Path) -> tuple[int, int, str]:
        task = path.stem.removeprefix(_start(path.stem))
        return starts.index(_start(path.stem)), tasks.index(task) if task in tasks else len(tasks), path.stem

    return sorted((path for path in folder.glob("*.png") if _start(path.stem)), key=rank)


def _start(name: str) -> str:
    """Return the key of `_CAPTIONS` that a file name belongs to, or "" for none."""
    return next((s for s in _CAPTIONS if name == s or (s.endswith("-") and name.startswith(s))), "")


def _plan(
    points: pd.DataFrame,
    results: Path,
    roles: Roles,
    published: pd.DataFrame | None,
    comparison: Comparison,
    times: pd.DataFrame,
) -> dict[str, Callable[[], Figure]]:
    """Return the drawing function of every figure that could be drawn, by file name."""
    runs = results / "runs"
    resamples = resamples_of(points, runs, comparison)
    traced, main = points[has_traces(points)], comparison.primary.contestant
    main = main if main in set(traced["method"]) else None
    plan: dict[str, Callable[[], Figure]] = {
        "frontier-average": partial(frontier_average, traced, roles, resamples=resamples, main=main),
        "differences": partial(difference_from_teacher, traced, roles, resamples=resamples),
        "tasks": partial(tasks_at_budget, points, roles),
    }
    for task in task_order(traced):
        plan[f"frontier-{task}"] = partial(
            frontier, traced, task, roles, resamples=resamples, published=published, main=main
        )
    plan["milliseconds"] = partial(score_against_milliseconds, points, roles, times=times)
    plan |= {name: partial(score_against_cost, points, roles, cost=cost) for name, cost in COSTS.items()}
    plan["latency"] = partial(promised_against_measured, points, roles)
    plan["exits-score"] = partial(score_per_exit, traced, roles, resamples=resamples, main=main)
    plan["exits-histogram"] = partial(exit_histogram, points, roles)
    plan["exits-difficulty"] = partial(exit_against_difficulty, traced, roles, runs=runs)
    plan["ablations"] = partial(ablation_intervals, traced, roles, resamples=resamples)
    for name, study in kept_studies(results / "sweeps").items():
        plan[f"sweep-landscape-{name}"] = partial(landscape, study)
        plan[f"sweep-importance-{name}"] = partial(importances, study)
    return plan
