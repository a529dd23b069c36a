"""Early exits: what each exit is worth, who leaves where, and whether easy examples leave early."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from bench.analysis.budgets import RUN, operating_points, run_folder, selection_split, succeeded
from bench.analysis.roles import Roles
from bench.errors import UserError
from bench.exit_policies.operating import left
from bench.reporting.figures.drawing import (
    GREY,
    INK,
    Absent,
    Mark,
    label_outer,
    legend_below,
    marks,
    method_handles,
    padded,
    panels,
    styled,
    task_order,
)
from bench.reporting.tables.table import variant_names
from bench.tasks.catalogue import title as task_title
from bench.trace import Trace

NEAR = 2.0
"""The speed-up at which exits are looked at: the one that most papers report."""
WITHIN = 1.25
"""A point is near a speed-up that it misses by no more than this factor."""
_RULED = ("uniform", "per_exit")
# Variants of one method share its colour and differ in these.
_LINES: tuple[Any, ...] = ("-", "--", ":", "-.")


@styled
def score_per_exit(points: pd.DataFrame, roles: Roles) -> Figure:
    """The score when everyone leaves at the same exit, against the layers run until there; a panel a task."""
    rows = succeeded(roles.contestants(points))
    rows = rows[(rows["split"] == "validation") & rows["score"].notna()]
    exits = rows[rows["kind"] == "fixed_exit"]
    exits = exits[exits.groupby(RUN)["exit"].transform("nunique") > 1]
    if exits.empty:
        raise Absent("no method with more than one exit")
    single = rows[(rows["kind"] == "static") & ~rows["method"].isin(exits["method"].unique())]
    looks, tasks = marks(points, roles), task_order(points, exits)
    many = len(exits.drop_duplicates(["method", "variant"])) > 6
    columns = 2 if many else 3
    figure, grid = panels(len(tasks), columns=columns, height=2.5 if many else 1.75)
    for axes, task in zip(grid, tasks, strict=True):
        for method, line, mean in _by_layers(exits[exits["task"] == task], looks):
            mark = looks[method]
            axes.plot(mean.index, 100 * mean, color=mark.colour, linestyle=line, marker=mark.marker, markersize=3.2)
        for method, group in single[single["task"] == task].groupby("method"):
            mean, mark = group.groupby("mean_layers")["score"].mean(), looks[str(method)]
            many = len(mean) > 1
            axes.plot(
                mean.index, 100 * mean, color=mark.colour, marker=mark.marker,
                linestyle=mark.line if many else "none", markersize=7 if mark.marker == "*" else 3.6, zorder=5,
            )  # fmt: skip
        axes.set_ylim(*padded([100 * y for line in axes.get_lines() for y in np.atleast_1d(line.get_ydata()) / 100]))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        axes.set_title(task_title(task), loc="left")
    label_outer(grid, "layers run", "score × 100", columns=columns)
    legend_below(figure, [*_variant_handles(exits, points, looks), *method_handles(single, looks)], columns=4)
    return figure


def _by_layers(rows: pd.DataFrame, looks: dict[str, Mark]) -> list[tuple[str, Any, pd.Series]]:
    """(method, line style, mean score by layers run) of each variant, in the order of the legend."""
    lines = variant_lines(rows)
    groups = {key: group for key, group in rows.groupby(["method", "variant"])}
    ordered = sorted(groups, key=lambda key: (list(looks).index(key[0]), key[1]))
    return [(key[0], lines[key], groups[key].groupby("mean_layers")["score"].mean()) for key in ordered]


def variant_lines(rows: pd.DataFrame) -> dict[tuple[str, str], Any]:
    """A line style for each (method, variant): the method's first variant is solid."""
    styles: dict[tuple[str, str], Any] = {}
    for method, group in rows.groupby("method"):
        for i, variant in enumerate(sorted(group["variant"].unique())):
            styles[(str(method), str(variant))] = _LINES[i % len(_LINES)]
    return styles


def _variant_handles(
    rows: pd.DataFrame, points: pd.DataFrame, looks: dict[str, Mark], notes: Mapping[Any, str] | None = None
) -> list[Line2D]:
    """A legend entry for each (method, variant); notes: what is added to its name."""
    lines, names = variant_lines(rows), variant_names(points)
    ordered = sorted(lines, key=lambda key: (list(looks).index(key[0]), key[1]))
    return [
        Line2D(
            [], [], color=looks[key[0]].colour, marker=looks[key[0]].marker, linestyle=lines[key],
            label=f"{looks[key[0]].name} {names[key]}".strip() + (notes or {}).get(key, ""),
        )
        for key in ordered
    ]  # fmt: skip


def near_twice(points: pd.DataFrame, roles: Roles, split: str = "validation") -> pd.DataFrame:
    """The operating point of every run with an exit rule that is nearest to `NEAR` times the teacher's speed.

    Nearest by the ratio of speed-ups on the selection split, ties to the better score there; the rows are those
    of `split`. A run that has no point within `WITHIN` of it has no row. Raises Absent where none has one.
    """
    ruled = operating_points(roles.contestants(points))
    ruled = ruled[ruled["kind"].isin(_RULED) & ruled["score"].notna()]
    if ruled.empty:
        raise Absent("no method with an exit rule")
    selected = ruled[(ruled["split"] == selection_split(points)) & (ruled["speedup"] > 0)]
    selected = selected.assign(far=np.log(selected["speedup"] / NEAR).abs().round(12))
    selected = selected[selected["far"] <= np.log(WITHIN)]
    selected = selected.sort_values(["far", "score", "kind", "point"], ascending=[True, False, True, True])
    nearest = selected.drop_duplicates(RUN)[[*RUN, "kind", "point"]]
    rows = nearest.merge(ruled[ruled["split"] == split], on=[*RUN, "kind", "point"])
    if rows.empty:
        raise Absent(f"no exit rule has a point near {NEAR:g}×: the nearest is {_nearest(ruled):.2g}×")
    return rows.sort_values(RUN, ignore_index=True)


def _nearest(ruled: pd.DataFrame) -> float:
    known = ruled.loc[ruled["speedup"] > 0, "speedup"]
    return float(known.loc[np.log(known / NEAR).abs().idxmin()]) if len(known) else float("nan")


def left_out(points: pd.DataFrame, roles: Roles, rows: pd.DataFrame) -> str:
    """The models with an exit rule that have no row in `rows`, in words; empty where all have one."""
    looks, names = marks(points, roles), variant_names(points)
    ruled = succeeded(roles.contestants(points))
    ruled = ruled[ruled["kind"].isin(_RULED)]
    there = {*zip(rows["method"], rows["variant"], strict=True)}
    keys = sorted({*zip(ruled["method"], ruled["variant"], strict=True)} - there)
    missing = ", ".join(f"{looks[method].name} {names[(method, variant)]}".strip() for method, variant in keys)
    return f"without a point within {100 * (WITHIN - 1):g} % of {NEAR:g}×: {missing}" if missing else ""


@styled
def exit_histogram(points: pd.DataFrame, roles: Roles) -> Figure:
    """The share of examples that leaves at each exit, near twice the teacher's speed; a panel a task."""
    rows = near_twice(points, roles)
    looks, names, tasks = marks(points, roles), variant_names(points), task_order(points, rows)
    keys = sorted({*zip(rows["method"], rows["variant"], strict=True)}, key=lambda k: (list(looks).index(k[0]), k[1]))
    depth = int(rows["exits"].map(len).max())
    colours = matplotlib.colormaps["viridis_r"](np.linspace(0.08, 0.92, depth))
    columns = 2 if len(keys) > 4 else 3
    figure, grid = panels(len(tasks), height=0.6 + 0.17 * len(keys), columns=columns)
    for i, (axes, task) in enumerate(zip(grid, tasks, strict=True)):
        for y, key in enumerate(keys):
            run = rows[(rows["task"] == task) & (rows["method"] == key[0]) & (rows["variant"] == key[1])]
            if run.empty:
                axes.text(50, y, f"no point near {NEAR:g}×", ha="center", va="center", fontsize=6, color=GREY)
                continue
            _shares(axes, y, np.mean(np.stack([np.asarray(each, float) for each in run["exits"]]), axis=0), colours)
            axes.text(101, y, reached(run["speedup"]), ha="left", va="center", fontsize=6, color=INK)
        labels = [f"{looks[m].name} {names[(m, v)]}".strip() for m, v in keys]
        axes.set_yticks(range(len(keys)), labels if i % columns == 0 else [""] * len(keys))
        axes.tick_params(axis="y", length=0)
        axes.grid(False)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(keys) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_title(task_title(task), loc="left")
    label_outer(grid, "examples (%)", columns=columns)
    handles = [Patch(color=shade, label=f"exit {e + 1}") for e, shade in enumerate(colours)]
    legend_below(figure, handles, columns=12, note=left_out(points, roles, rows))
    return figure


def _shares(axes: Axes, y: int, shares: NDArray[np.float64], colours: NDArray[np.float64]) -> None:
    """One bar of what leaves at each exit, with its percentage where there is room."""
    left = 0.0
    # A model with fewer exits spreads over the colours, so that the last exit looks the same for all.
    shades = colours[np.linspace(0, len(colours) - 1, len(shares)).round().astype(int)]
    for share, shade in zip(100 * shares, shades, strict=True):
        axes.barh(y, share, left=left, height=0.74, color=shade, edgecolor="white", linewidth=0.5)
        if share >= 13:
            dark = matplotlib.colors.rgb_to_hsv(shade[:3])[2] < 0.66
            axes.text(
                left + share / 2, y, f"{share:.0f}", ha="center", va="center", fontsize=5.8,
                color="white" if dark else INK,
            )  # fmt: skip
        left += share


def reached(speedups: pd.Series) -> str:
    """ "2.1×", or "1.9–2.2×" where runs differ as printed."""
    low, high = (f"{value:.1f}" for value in (speedups.min(), speedups.max()))
    return f"{low}×" if low == high else f"{low}–{high}×"


def exits_taken(row: pd.Series, trace: Trace) -> np.ndarray:
    """[N] the 1-based exit of each example at a swept operating point, a row of `operating_points`."""
    return 1 + left(row, trace)


def mean_exit_by_difficulty(points: pd.DataFrame, roles: Roles, runs: Path) -> pd.DataFrame:
    """Mean exit, as a share of the model's exits, of the examples of each known difficulty on validation.

    One row a (run, difficulty): task, method, variant, seed, difficulty, depth (0 to 1), examples, and the speed-up
    that the point reached on validation.
    """
    chosen = near_twice(points, roles)
    rows, reason = [], "no trace was kept"
    for _, row in chosen.iterrows():
        try:
            trace = Trace.load(run_folder(row, runs) / "trace-validation.parquet")
        except UserError:
            continue
        if trace.difficulty is None:
            reason = "the source does not know how difficult an example is"
            continue
        taken = exits_taken(row, trace)
        depth = pd.Series(taken / len(trace.logits)).groupby(trace.difficulty)
        for difficulty, mean in depth.mean().items():
            size = int(depth.size()[difficulty])
            known = {"depth": mean, "examples": size, "speedup": row["speedup"]}
            rows.append({**row[RUN], "difficulty": int(str(difficulty)), **known})
    if not rows:
        raise Absent(reason)
    return pd.DataFrame(rows)


@styled
def exit_against_difficulty(points: pd.DataFrame, roles: Roles, *, runs: Path) -> Figure:
    """Do easy examples leave early?  Mean exit against known difficulty, near twice the teacher's speed."""
    table = mean_exit_by_difficulty(points, roles, runs)
    looks, tasks = marks(points, roles), task_order(points, table)
    lines = variant_lines(table)
    figure, grid = panels(len(tasks), height=1.6)
    for axes, task in zip(grid, tasks, strict=True):
        rows = table[table["task"] == task]
        for (method, variant), group in rows.groupby(["method", "variant"]):
            mark, mean = looks[str(method)], group.groupby("difficulty")["depth"].mean()
            axes.plot(
                mean.index,
                100 * mean,
                color=mark.colour,
                marker=mark.marker,
                linestyle=lines[(str(method), str(variant))],
            )
        levels = sorted(table["difficulty"].unique())
        named = {1: "easy", 2: "medium", 3: "hard"}
        axes.set_xticks(levels, [named.get(level, str(level)) for level in levels])
        axes.set_xlim(min(levels) - 0.3, max(levels) + 0.3)
        axes.set_ylim(0, 103)
        axes.set_title(task_title(task), loc="left")
    label_outer(grid, "difficulty by construction", "mean exit (% of exits)")
    speeds = {key: f" at {reached(group['speedup'])}" for key, group in table.groupby(["method", "variant"])}
    handles = _variant_handles(table, points, looks, speeds)
    legend_below(figure, handles, columns=3, note=left_out(points, roles, table))
    return figure
