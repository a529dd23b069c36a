"""Two checks on a claim: is the speed-up there on a clock, and which part of a method brings its score?"""

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure

from bench.analysis.budgets import succeeded
from bench.analysis.roles import Roles
from bench.reporting.figures.drawing import (
    GREY,
    INK,
    PAGE,
    Absent,
    legend_below,
    marks,
    method_handles,
    new_figure,
    ratio_axis,
    styled,
)

BATCHES = (1, 32)


@styled
def promised_against_measured(points: pd.DataFrame, roles: Roles) -> Figure:
    """Speed-up on a clock against speed-up in FLOPs, on all tasks; the diagonal is a promise kept.

    The promise is of exactly the timed examples where the points say it (promised_1, promised_32), else of the
    whole split; bars are the quartiles of the rounds (latency_1_low, latency_1_high, ..) where they are there.
    """
    rows = succeeded(roles.contestants(points))
    rows = rows[rows["method"].ne(roles.reference)]
    measured = [frame for batch in BATCHES if len(frame := _measured(rows, batch))]
    if not measured:
        raise Absent("no latency was measured")
    every = np.concatenate([frame[["promised", "median", "low", "high"]].to_numpy(float).ravel() for frame in measured])
    low, high = np.nanmin(every) / 1.1, np.nanmax(every) * 1.1
    looks = marks(points, roles)
    figure = new_figure(PAGE if len(measured) > 1 else PAGE / 2, 3.1)
    for axes, frame in zip(figure.subplots(1, len(measured), squeeze=False).flat, measured, strict=True):
        axes.plot([low, high], [low, high], color=INK, linewidth=0.8, linestyle=(0, (6, 2)), zorder=1)
        axes.fill_between([low, high], [low, high], low, color="#F4F4F4", linewidth=0, zorder=0)
        for method, mark in looks.items():
            group = frame[frame["method"] == method]
            axes.vlines(group["promised"], group["low"], group["high"], color=mark.colour, linewidth=0.7, alpha=0.5)
            axes.plot(
                group["promised"], group["median"], **mark.dots,
                markersize=4.5, alpha=0.75, markeredgecolor="white", markeredgewidth=0 if mark.marker == "x" else 0.4,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlim(low, high)
        axes.set_ylim(low, high)
        axes.set_aspect("equal")
        ratio_axis(axes.xaxis, low, high)
        ratio_axis(axes.yaxis, low, high)
        axes.set_xlabel("promised: FLOPs of the teacher / FLOPs")
        axes.set_ylabel("measured: seconds of the teacher / seconds")
        axes.set_title(f"batch size {frame['batch'].iloc[0]}", loc="left")
        axes.text(0.97, 0.04, "slower than promised", transform=axes.transAxes, ha="right", fontsize=6.5, color=GREY)
    legend_below(figure, method_handles(pd.concat(measured), looks), columns=4)
    return figure


def _measured(rows: pd.DataFrame, batch: int) -> pd.DataFrame:
    """method, batch, promised, median, low and high of the timed points of a batch size, speed-ups all."""
    rows = rows[rows["split"] == "validation"] if "split" in rows else rows[:0]
    nothing = pd.Series(np.nan, index=rows.index)
    promised = rows.get(f"promised_{batch}", nothing).fillna(rows.get("speedup", nothing))
    frame = pd.DataFrame({"method": rows["method"], "batch": batch, "promised": promised})
    for name, column in (("median", ""), ("low", "_low"), ("high", "_high")):
        frame[name] = rows.get(f"latency_{batch}{column}", nothing)
    return frame[(frame["median"] > 0) & (frame["promised"] > 0)]


def ablation_differences(points: pd.DataFrame, roles: Roles) -> pd.DataFrame:
    """Score of each ablation minus that of its full method, on validation, at full depth and at each exit.

    One row a (ablation, full, variant, task, exit); exit 0 is full depth. Means over the seeds of both.
    """
    rows = succeeded(points)
    rows = rows[(rows["split"] == "validation") & rows["kind"].isin(["static", "fixed_exit"])]
    keys = ["task", "variant", "seed", "exit"]
    found = []
    for ablation, full in roles.ablations.items():
        sides = [rows.loc[rows["method"] == method, [*keys, "score"]].dropna() for method in (ablation, full)]
        both = sides[0].merge(sides[1], on=keys, suffixes=("", "_full"))
        both["difference"] = both["score"] - both["score_full"]
        mean = both.groupby(["variant", "task", "exit"])["difference"].mean().reset_index()
        found.append(mean.assign(exit=mean["exit"].astype(int), ablation=ablation, full=full))
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame()
    if table.empty:
        raise Absent("no ablation has a variant, task and seed in common with its full method")
    return table


@styled
def ablation_bars(points: pd.DataFrame, roles: Roles) -> Figure:
    """What each ablation loses: at full depth (bar: mean; dots: tasks), and at each exit."""
    if not roles.ablations:
        raise Absent("no ablations are named in the settings")
    table = ablation_differences(points, roles)
    labels = points.drop_duplicates(["method", "variant"]).set_index(["method", "variant"])["label"]
    keys = sorted({*zip(table["full"], table["ablation"], table["variant"], strict=True)})
    exits = sorted(set(table["exit"]) - {0})
    figure = new_figure(PAGE, 1.25 + 0.3 * len(keys))
    ratios = [1.1, 0.16 * max(len(exits), 1) + 0.2] if exits else [1]
    grid = figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False, sharey=True).flat
    bars, looks = grid[0], marks(points, roles)
    heat = np.full((len(keys), len(exits)), np.nan)
    for y, (full, ablation, variant) in enumerate(keys):
        own = table[(table["ablation"] == ablation) & (table["variant"] == variant)]
        depth = 100 * own.loc[own["exit"] == 0, "difference"]
        bars.barh(y, depth.mean(), height=0.62, color=looks[full].colour, alpha=0.35, zorder=2)
        bars.plot(depth, np.full(len(depth), y), "o", color=looks[full].colour, markersize=3, alpha=0.85, zorder=3)
        bars.plot([depth.mean()] * 2, [y - 0.31, y + 0.31], color=INK, linewidth=1.4, zorder=4)
        means = 100 * own.groupby("exit")["difference"].mean()
        heat[y] = [means.get(e, np.nan) for e in exits]
    bars.axvline(0, color=INK, linewidth=0.8)
    bars.set_yticks(range(len(keys)), [str(labels[(ablation, variant)]) for _, ablation, variant in keys])
    bars.set_ylim(len(keys) - 0.4, -0.6)
    bars.set_xlabel("score × 100 minus the full method's, at full depth")
    bars.set_title("Full depth (bar: mean, dots: tasks)", loc="left")
    if exits:
        _heat(grid[1], heat, exits)
    return figure


def _heat(axes: matplotlib.axes.Axes, heat: np.ndarray, exits: list[int]) -> None:
    """Differences at each exit as a table with a colour behind each number: orange is worse."""
    limit = max(1.0, float(np.nanmax(np.abs(heat))))
    colours = matplotlib.colormaps["PuOr"]
    axes.imshow(heat, aspect="auto", cmap=colours, norm=TwoSlopeNorm(0, -1.7 * limit, 1.7 * limit))
    for y, x in np.ndindex(heat.shape):
        if np.isfinite(heat[y, x]):
            axes.text(x, y, f"{heat[y, x]:+.1f}", ha="center", va="center", fontsize=6.5, color=INK)
    axes.set_xticks(range(len(exits)), [str(e) for e in exits])
    axes.set_xlabel("exit")
    axes.set_title("All leave at one exit (mean of tasks)", loc="left")
    axes.grid(False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
