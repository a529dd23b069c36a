"""Pruning-ratio studies: the landscape of the trials, their Pareto front and which ratio matters."""

import warnings

import matplotlib
import numpy as np
import optuna
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as optuna_plots

from bench.reporting.figures.drawing import COLUMN, INK, Absent, big, count_axis, panels, styled

# What a study optimises, in this order: bench.sweeping.ratios.
OBJECTIVES = ("score", "FLOPs", "parameters")
FEWEST_FOR_IMPORTANCE = 4


@styled
def landscape(study: optuna.Study) -> Figure:
    """Score against FLOPs of every trial, a panel a searched ratio with its value as the colour; the front is joined."""
    trials = _complete(study)
    names = sorted({name for trial in trials for name in trial.params})
    flops, score = (np.array([trial.values[i] for trial in trials]) for i in (1, 0))
    best = sorted(study.best_trials, key=lambda trial: trial.values[1])
    # With parameters as a third objective the front is a surface; its trace on this plane is joined.
    joined = [t for i, t in enumerate(best) if t.values[0] >= max(b.values[0] for b in best[: i + 1])]
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
        axes.tick_params(axis="x", labelrotation=30)
        axes.set_title(f"coloured by {name.replace('_', ' ')}", loc="left")
    figure.supxlabel("mean FLOPs an example", fontsize=7.5)
    figure.supylabel("score × 100", fontsize=7.5)
    return figure


@styled
def pareto_front(study: optuna.Study) -> Figure:
    """Optuna's own picture of the front, of score and FLOPs."""
    _complete(study)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        axes = optuna_plots.plot_pareto_front(
            study,
            targets=lambda trial: (trial.values[1], 100 * trial.values[0]),
            target_names=["mean FLOPs an example", "score × 100"],
        )
    return _taken(axes, "Pareto front", lambda value, _: big(value))


@styled
def importances(study: optuna.Study) -> Figure:
    """How much each ratio explains of the score's variance (fANOVA), by Optuna."""
    trials = _complete(study)
    if len(trials) < FEWEST_FOR_IMPORTANCE:
        raise Absent(f"importance needs {FEWEST_FOR_IMPORTANCE} finished trials; there are {len(trials)}")
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
    return _taken(axes, "Importance for the score", None)


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(trials) < 2:
        raise Absent(f"{len(trials)} finished trial{'s' * (len(trials) != 1)}")
    return trials


def _taken(axes: Axes, title: str, x_format: object) -> Figure:
    """The figure that Optuna drew through pyplot, in our size and out of pyplot's hands."""
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    plt.close(figure)
    figure.set_size_inches(COLUMN * 1.25, 2.7)
    figure.set_layout_engine("constrained")
    axes.set_title(title, loc="left")
    if x_format is not None:
        axes.xaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(x_format))
    return figure
