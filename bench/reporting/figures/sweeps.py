"""Pruning-ratio studies: the landscape of the trials, their Pareto front and which ratio matters.

A study's objectives are score, FLOPs and parameters, in this order (bench.runs.ratios).
"""

import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import optuna
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as optuna_plots

from bench.reporting.figures.drawing import COLUMN, INK, STYLE, Absent, big, count_axis, panels, styled
from bench.runs.ratios import replay

FEWEST_FOR_IMPORTANCE = 10
"""Finished trials a ratio. fANOVA fits a forest, and on few trials ranks what chance put there: of a study of 8
trials over 3 ratios (the sketch's, on RTE), leaving out one trial made each of the three the first in turn."""


def kept_studies(sweeps: Path) -> dict[str, optuna.Study]:
    """The studies under results/<profile>/sweeps as <task>-<method>, each as its last history tells it."""
    studies = {}
    for folder in sorted(path for path in sweeps.glob("*/*") if path.is_dir()):
        histories = sorted(folder.glob("history-*.parquet"), key=lambda path: int(path.stem.split("-")[1]))
        if histories:
            studies[f"{folder.parent.name}-{folder.name}"] = replay(pd.read_parquet(histories[-1]))
    return studies


@styled
def landscape(study: optuna.Study) -> Figure:
    """Score against FLOPs of every trial, a panel a ratio with its value as the colour; the front is joined."""
    trials = _complete(study)
    names = sorted({name for trial in trials for name in trial.params})
    flops, score = (np.array([trial.values[i] for trial in trials]) for i in (1, 0))
    joined = sorted(_plane(study).best_trials, key=lambda trial: trial.values[1])
    figure, grid = panels(len(names), columns=min(3, len(names)), height=2.1)
    for axes, name in zip(grid, names, strict=True):
        values = np.array([float(trial.params.get(name, np.nan)) for trial in trials])
        axes.plot(
            [t.values[1] for t in joined], [100 * t.values[0] for t in joined],
            color=INK, linewidth=0.8, drawstyle="steps-post", zorder=1,
        )  # fmt: skip
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
    figure.supxlabel("mean FLOPs an example", fontsize=7.5)
    figure.supylabel("score × 100", fontsize=7.5)
    return figure


@styled
def pareto_front(study: optuna.Study) -> Figure:
    """Optuna's own picture of the front, of score and FLOPs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        axes = optuna_plots.plot_pareto_front(
            _plane(study),
            targets=lambda trial: (trial.values[1], 100 * trial.values[0]),
            target_names=["mean FLOPs an example", "score × 100"],
        )
    return _taken(axes, "Pareto front", lambda value, _: big(value))


@styled
def importances(study: optuna.Study) -> Figure:
    """How much each ratio explains of the score's variance (fANOVA), by Optuna."""
    trials = _complete(study)
    ratios = len({name for trial in trials for name in trial.params})
    if len(trials) < FEWEST_FOR_IMPORTANCE * ratios:
        wanted = f"{FEWEST_FOR_IMPORTANCE * ratios} finished trials ({FEWEST_FOR_IMPORTANCE} a ratio)"
        raise Absent(f"importance needs {wanted}, there are {len(trials)}: see the landscape")
    if len({trial.values[0] for trial in trials}) == 1:
        raise Absent("all trials have the same score")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        axes = optuna_plots.plot_param_importances(
            study,
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
            target=lambda trial: trial.values[0],
            target_name="score",
        )
    legend = axes.get_legend()
    if legend is not None:
        legend.remove()
    return _taken(axes, "Importance for the score", None)


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(trials) < 2:
        raise Absent(f"{len(trials)} finished trial{'s' * (len(trials) != 1)}")
    return trials


def _plane(study: optuna.Study) -> optuna.Study:
    """The study without its third objective, parameters: what is on the front of score and FLOPs alone."""
    plane = optuna.create_study(directions=study.directions[:2])
    for trial in _complete(study):
        kept = optuna.trial.create_trial(
            params=trial.params, distributions=trial.distributions, values=trial.values[:2]
        )
        plane.add_trial(kept)
    return plane


def _taken(axes: Axes, title: str, x_format: Callable[..., str] | None) -> Figure:
    """The figure that Optuna drew through pyplot, in our size and out of pyplot's hands."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    plt.close(figure)
    figure.set_size_inches(COLUMN * 1.25, 2.7)
    figure.set_layout_engine("constrained")
    axes.set_title("")
    axes.set_title(title, loc="left", fontsize=8, fontweight="bold")
    # Optuna switches to another style sheet; this brings its picture back to ours.
    figure.set_facecolor("white")
    axes.set_facecolor("white")
    axes.grid(color=STYLE["grid.color"], linewidth=0.5)
    axes.spines[["left", "bottom"]].set_visible(True)
    axes.spines[["left", "bottom"]].set(color=INK, linewidth=0.6)
    axes.tick_params(labelsize=7, colors=INK)
    for text in (axes.xaxis.label, axes.yaxis.label, *axes.texts):
        text.set(fontsize=7.5, color=INK)
    if x_format is not None:
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(x_format))
    return figure
