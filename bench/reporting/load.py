"""Write the table and the figure of latency under load."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from bench.reporting.figures.drawing import COLUMN, appearances, legend_below, new_figure, save, styled


def write_load(table: pd.DataFrame, file: Path) -> list[Path]:
    """Write the table of `bench.deploy.load.measure` as CSV, and its figure beside it as PNG and PDF."""
    file.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(file, index=False)
    return [file, *save(figure(table), file.parent, file.stem)]


@styled
def figure(table: pd.DataFrame) -> Figure:
    """Draw the 99th percentile of the latency against the rate of arrival.

    One line for each model, dashed without early exit. Markers are empty where not all texts were answered, so that
    the value is a lower bound.
    """
    drawing = new_figure(COLUMN * 1.25, 2.6)
    axes = drawing.subplots()
    looks = appearances({name: "" for name in table["model"]})
    handles = []
    for (model, early), rows in table.groupby(["model", "early_exit"], sort=False):
        colour, marker, _ = looks[model]
        line = "-" if early else "--"
        axes.plot(rows["rate"], rows["p99_ms"], line, color=colour)
        for late, some in rows.groupby(rows["answered"] < rows["requests"]):
            filled = "none" if late else colour
            axes.plot(some["rate"], some["p99_ms"], marker, color=colour, markerfacecolor=filled)
        label = f"{Path(model).name}, {'early exit' if early else 'full depth'}"
        handles.append(Line2D([], [], color=colour, linestyle=line, marker=marker, label=label))
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_xlabel("texts that arrive in a second")
    axes.set_ylabel("p99 of the latency in ms")
    legend_below(drawing, handles, columns=2)
    return drawing
