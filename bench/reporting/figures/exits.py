"""Early exits: the score of each exit, how many examples exit where, and at which difficulty."""

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

from bench.analysis.budgets import RUN, control_rows, operating_points, run_folder, selection_split, succeeded
from bench.analysis.comparing.intervals import means
from bench.analysis.comparing.resampling import Resamples, records
from bench.analysis.roles import Roles
from bench.exit_policies.operating import exits_taken
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
from bench.reporting.tables.format.table import variant_names
from bench.tasks.catalogue import title as task_title
from bench.trace import Trace

SHARE = 0.5
"""Exits are shown at this share of a model's own full-depth FLOPs."""
WITHIN = 1.25
"""Largest factor by which the cost of a point may differ from that share."""
_WITH_POLICY = ("uniform", "per_exit")
# Variants of one method have its colour and differ in the line style.
_LINES: tuple[Any, ...] = ("-", "--", ":", "-.")


@styled
def score_per_exit(
    points: pd.DataFrame, roles: Roles, *, resamples: Resamples | None = None, main: str | None = None
) -> Figure:
    """Draw the score of each exit, used for all examples, against its layers, with bands; one panel for each task.

    Args:
        points: all-points.parquet.
        roles: the roles of the profile's methods.
        resamples: the resampled scores; None gives no bands.
        main: the contestant that alone has a band; None: all have one.

    Raises:
        Absent: where no method has more than one exit.
    """
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
    controls = 100 * control_rows(points).groupby("task")["score"].mean()
    for axes, task in zip(grid, tasks, strict=True):
        seen: list[float] = []
        for method, line, layers, bands in _by_layers(exits[exits["task"] == task], looks, resamples, main):
            mark = looks[method]
            axes.plot(layers, bands[:, 0], color=mark.colour, linestyle=line, marker=mark.marker, markersize=3.2)
            axes.fill_between(layers, bands[:, 1], bands[:, 2], color=mark.colour, alpha=0.13, linewidth=0, zorder=1.5)
            seen += [*bands.ravel()]
        for method, group in single[single["task"] == task].groupby("method"):
            mean, mark = group.groupby("mean_layers")["score"].mean(), looks[str(method)]
            axes.plot(
                mean.index, 100 * mean, color=mark.colour, marker=mark.marker,
                linestyle=mark.line if len(mean) > 1 else "none", markersize=7 if mark.marker == "*" else 3.6, zorder=5,
            )  # fmt: skip
            seen += [*(100 * mean)]
        if task in controls:
            axes.axhline(controls[task], color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), zorder=2)
            seen.append(controls[task])
        axes.set_ylim(*padded(seen))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        axes.set_title(task_title(task), loc="left")
    label_outer(grid, "layers run", "score × 100", columns=columns)
    baseline = Line2D([], [], color=GREY, linewidth=0.8, linestyle=(0, (1, 2)), label="constant baseline")
    handles = [*_variant_handles(exits, points, looks), *method_handles(single, looks), baseline]
    legend_below(figure, handles, columns=4)
    return figure


def _by_layers(
    rows: pd.DataFrame, looks: dict[str, Mark], resamples: Resamples | None, main: str | None
) -> list[tuple[str, Any, NDArray[np.float64], NDArray[np.float64]]]:
    """Return (method, line style, layers [E], score, low and high times 100 [E, 3]) of each variant.

    Low and high are NaN for methods without a band.
    """
    lines = variant_lines(rows)
    groups = {key: group for key, group in rows.groupby(["method", "variant"])}
    ordered = sorted(groups, key=lambda key: (list(looks).index(key[0]), key[1]))
    found = []
    for key in ordered:
        by_exit = {layers: [records(group)] for layers, group in groups[key].groupby("mean_layers")}
        bands = 100 * np.array(means(list(by_exit.values()), resamples if main in (None, key[0]) else None))
        found.append((key[0], lines[key], np.array(list(by_exit)), bands))
    return found


def variant_lines(rows: pd.DataFrame) -> dict[tuple[str, str], Any]:
    """Return a line style for each (method, variant): solid for a method's first variant."""
    styles: dict[tuple[str, str], Any] = {}
    for method, group in rows.groupby("method"):
        for i, variant in enumerate(sorted(group["variant"].unique())):
            styles[(str(method), str(variant))] = _LINES[i % len(_LINES)]
    return styles


def _variant_handles(
    rows: pd.DataFrame, points: pd.DataFrame, looks: dict[str, Mark], notes: Mapping[Any, str] | None = None
) -> list[Line2D]:
    """Return a legend entry for each (method, variant), with its note after the name."""
    lines, names = variant_lines(rows), variant_names(points)
    ordered = sorted(lines, key=lambda key: (list(looks).index(key[0]), key[1]))
    return [
        Line2D(
            [], [], color=looks[key[0]].colour, marker=looks[key[0]].marker, linestyle=lines[key],
            label=f"{looks[key[0]].name} {names[key]}".strip() + (notes or {}).get(key, ""),
        )
        for key in ordered
    ]  # fmt: skip


def at_half_cost(points: pd.DataFrame, roles: Roles, split: str = "validation") -> pd.DataFrame:
    """Return each run's operating point nearest to half the FLOPs of its own full depth; runs with an exit policy only.

    Nearest by the ratio of FLOPs on the selection split, ties to the better score there. A run without a point within a
    factor of `WITHIN` has no row.

    Returns:
        Rows of `split`.

    Raises:
        Absent: where no run has such a point.
    """
    known = operating_points(roles.contestants(points))
    known = known[known["score"].notna()]
    full = known[known["kind"] == "static"].set_index([*RUN, "split"])["flops"].rename("full")
    known = known[known["kind"].isin(_WITH_POLICY)].join(full, on=[*RUN, "split"])
    if known.empty:
        raise Absent("no method with an exit policy")
    selected = known[known["split"] == selection_split(points)]
    selected = selected.assign(far=np.log(selected["flops"] / selected["full"] / SHARE).abs().round(12))
    selected = selected[selected["far"] <= np.log(WITHIN)]
    selected = selected.sort_values(["far", "score", "kind", "point"], ascending=[True, False, True, True])
    nearest = selected.drop_duplicates(RUN)[[*RUN, "kind", "point"]]
    rows = nearest.merge(known[known["split"] == split], on=[*RUN, "kind", "point"])
    if rows.empty:
        raise Absent("no model has a point near half of its full cost")
    return rows.sort_values(RUN, ignore_index=True)


def left_out(points: pd.DataFrame, roles: Roles, rows: pd.DataFrame) -> str:
    """Return a note that names the models with an exit policy but no row in `rows`; empty where there are none."""
    looks, names = marks(points, roles), variant_names(points)
    known = succeeded(roles.contestants(points))
    known = known[known["kind"].isin(_WITH_POLICY)]
    there = {*zip(rows["method"], rows["variant"], strict=True)}
    keys = sorted({*zip(known["method"], known["variant"], strict=True)} - there)
    missing = ", ".join(f"{looks[method].name} {names[(method, variant)]}".strip() for method, variant in keys)
    return f"no point near half of the model's own FLOPs: {missing}" if missing else ""


@styled
def exit_histogram(points: pd.DataFrame, roles: Roles) -> Figure:
    """Draw the share of examples at each exit, at half of each model's full cost; one panel for each task.

    Raises:
        Absent: where no model has a point near half of its full cost.
    """
    rows = at_half_cost(points, roles)
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
                axes.text(50, y, "no point near half of its FLOPs", ha="center", va="center", fontsize=6, color=GREY)
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
        axes.text(101, -0.6, "speed-up", ha="left", va="bottom", fontsize=6, color=INK)
        axes.set_title(task_title(task), loc="left")
    label_outer(grid, "examples (%)", columns=columns)
    handles = [Patch(color=shade, label=f"exit {e + 1}") for e, shade in enumerate(colours[:-1])]
    handles.append(Patch(color=colours[-1], label="last exit"))
    legend_below(figure, handles, columns=12, note=left_out(points, roles, rows))
    return figure


def _shares(axes: Axes, y: int, shares: NDArray[np.float64], colours: NDArray[np.float64]) -> None:
    """Draw the shares of the exits as one bar, with percentages where there is room."""
    left = 0.0
    shades = [*colours[: len(shares) - 1], colours[-1]]  # the last exit has the same colour for all models
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
    """Return the range of speed-ups as text: "2.1×", or "1.9–2.2×"."""
    low, high = (f"{value:.1f}" for value in (speedups.min(), speedups.max()))
    return f"{low}×" if low == high else f"{low}–{high}×"


def mean_exit_by_difficulty(points: pd.DataFrame, roles: Roles, runs: Path) -> pd.DataFrame:
    """Return the mean exit of the examples of each known difficulty on validation, at half of each model's full cost.

    Returns:
        One row per run and difficulty: task, method, variant, seed, difficulty, depth (mean exit as a share of the
        model's exits), examples, and the point's speed-up over the teacher on validation.

    Raises:
        Absent: No trace has difficulties.
        UserError: A trace is missing or broken.
    """
    chosen = at_half_cost(points, roles)
    rows = []
    for _, row in chosen.iterrows():
        trace = Trace.load(run_folder(row, runs) / "trace-validation.parquet")
        if trace.difficulty is None:
            continue
        taken = 1 + exits_taken(row, trace)
        depth = pd.Series(taken / len(trace.logits)).groupby(trace.difficulty)
        for difficulty, mean in depth.mean().items():
            size = int(depth.size()[difficulty])
            known = {"depth": mean, "examples": size, "speedup": row["speedup"]}
            rows.append({**row[RUN], "difficulty": int(str(difficulty)), **known})
    if not rows:
        raise Absent("the data source has no difficulties")
    return pd.DataFrame(rows)


@styled
def exit_against_difficulty(points: pd.DataFrame, roles: Roles, *, runs: Path) -> Figure:
    """Draw the mean exit against known difficulty, at half of each model's full cost; one panel for each task."""
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
    label_outer(grid, "difficulty of the generated example", "mean exit (% of exits)")
    speeds = {key: f" at {reached(group['speedup'])}" for key, group in table.groupby(["method", "variant"])}
    handles = _variant_handles(table, points, looks, speeds)
    legend_below(figure, handles, columns=3, note=left_out(points, roles, table))
    return figure
