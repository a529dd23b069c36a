"""Ratio studies: the trials with their frontier, and the importance of each ratio.

A study's objectives are score, FLOPs and parameters, in this order (bench.runs.ratios).
"""

from pathlib import Path

import numpy as np
import optuna
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from bench.analysis.frontier import nondominated
from bench.reporting.figures.drawing import COLUMN, INK, Absent, count_axis, new_figure, panels, styled
from bench.runs.ratios import replay
from bench.store import read_parquet

FEWEST_FOR_IMPORTANCE = 10
"""Finished trials per ratio. fANOVA fits a random forest, whose ranking is chance on few trials: with 8 trials over 3
ratios, leaving out one trial made each of the ratios the most important one in turn."""


def kept_studies(sweeps: Path) -> dict[str, optuna.Study]:
    """Return the studies under results/<profile>/sweeps by <task>-<method>, each from its last history."""
    studies = {}
    for folder in sorted(path for path in sweeps.glob("*/*") if path.is_dir()):
        histories = sorted(folder.glob("history-*.parquet"), key=lambda path: int(path.stem.split("-")[1]))
        if histories:
            studies[f"{folder.parent.name}-{folder.name}"] = replay(read_parquet(histories[-1]))
    return studies


@styled
def landscape(study: optuna.Study) -> Figure:
    """Draw score against FLOPs of every trial, one panel for each ratio, which gives the colour.

    Raises:
        Absent: for less than two finished trials.
    """
    trials = _complete(study)
    names = sorted({name for trial in trials for name in trial.params})
    flops, score = (np.array([trial.values[i] for trial in trials]) for i in (1, 0))
    front = np.flatnonzero(nondominated(score, flops))
    front = front[np.lexsort((score[front], flops[front]))]
    figure, grid = panels(len(names), columns=min(3, len(names)), height=2.1)
    for axes, name in zip(grid, names, strict=True):
        values = np.array([float(trial.params.get(name, np.nan)) for trial in trials])
        axes.plot(flops[front], 100 * score[front], color=INK, linewidth=0.8, drawstyle="steps-post", zorder=1)
        dots = axes.scatter(
            flops, 100 * score, c=values, cmap="viridis", s=26, edgecolors=INK, linewidths=0.4, zorder=2
        )
        bar = figure.colorbar(dots, ax=axes, pad=0.02, aspect=18)
        bar.outline.set_linewidth(0.4)
        bar.ax.tick_params(labelsize=6, length=2)
        distinct = np.unique(values[np.isfinite(values)])
        if len(distinct) <= 6:
            bar.set_ticks(list(distinct), labels=[f"{value:g}" for value in distinct])
        axes.set_xscale("log")
        axes.set_xlim(flops.min() / 1.1, flops.max() * 1.1)
        count_axis(axes.xaxis)
        axes.set_title(f"coloured by {name.replace('_', ' ')}", loc="left")
    figure.supxlabel("mean FLOPs per example", fontsize=7.5)
    figure.supylabel("score × 100", fontsize=7.5)
    return figure


@styled
def importances(study: optuna.Study) -> Figure:
    """Draw how much of the score's variance each ratio explains (fANOVA, Hutter et al., ICML 2014, by Optuna).

    Raises:
        Absent: for less than `FEWEST_FOR_IMPORTANCE` finished trials per ratio, or equal scores.
    """
    trials = _complete(study)
    ratios = len({name for trial in trials for name in trial.params})
    if len(trials) < FEWEST_FOR_IMPORTANCE * ratios:
        wanted = f"{FEWEST_FOR_IMPORTANCE * ratios} finished trials ({FEWEST_FOR_IMPORTANCE} a ratio)"
        raise Absent(f"importance needs {wanted}, there are {len(trials)}")
    if len({trial.values[0] for trial in trials}) == 1:
        raise Absent("all trials have the same score")
    found = optuna.importance.get_param_importances(
        study,
        evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
        target=lambda trial: trial.values[0],
    )
    figure = new_figure(COLUMN * 1.25, 0.7 + 0.25 * len(found))
    axes = figure.add_subplot()
    names = [name.replace("_", " ") for name in found]
    bars = axes.barh(names[::-1], list(found.values())[::-1], color="#0072B2", height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=7)
    axes.set_xlim(0, 1.08)
    axes.set_xlabel("importance for the score")
    return figure


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(trials) < 2:
        raise Absent(f"{len(trials)} finished trial{'s' * (len(trials) != 1)}")
    return trials
