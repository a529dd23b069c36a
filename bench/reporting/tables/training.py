"""The table of training costs."""

from collections.abc import Sequence

import pandas as pd

from bench.analysis.budgets import RUN, succeeded
from bench.reporting.tables.main import title_of
from bench.reporting.tables.table import Format, Table, plain

_COLUMNS = {
    "Steps": "training_steps",
    "TFLOP": "training_flops",
    "TFLOP with sources": "training_flops_in_all",
    "Seconds": "training_seconds",
    "Peak memory, MB": "peak_memory_bytes",
}
_UNITS = {"TFLOP": 1e12, "TFLOP with sources": 1e12, "Peak memory, MB": 1e6}


def training(points: pd.DataFrame, notes: Sequence[str]) -> Table | None:
    """Return the table of training costs, averaged over tasks and seeds, or None if no cost is known.

    Args:
        points: All operating points.
        notes: Notes that all tables share.
    """
    rows = succeeded(points).drop_duplicates(RUN)
    if not rows.get("training_steps", pd.Series(dtype=float)).notna().any():
        return None
    lines = []
    for (_, _, label), runs in rows.groupby(["method", "variant", "label"], sort=False):
        line: dict[str, object] = {"Model": label}
        for title, column in _COLUMNS.items():
            line[title] = runs[column].mean() / _UNITS.get(title, 1)
        again = int(runs["restarts"].sum())
        line |= {"Restarts": again, "Collapsed": int(runs["collapsed"].sum()), "Runs": len(runs)}
        lines.append(line)
    formats: dict[str, Format] = dict.fromkeys([*_COLUMNS, "Restarts", "Collapsed", "Runs"], plain)
    return Table(
        "training",
        "Training behind each model, mean over tasks and seeds",
        pd.DataFrame(lines),
        formats,
        notes=[
            *notes,
            "Steps: optimizer steps of the model's own stages and of the models whose weights it continues. TFLOP: "
            "floating-point operations (10^12) of its own training, with the passes of teachers, checkpoint selection "
            "and traces; with sources: also those of every run that it needs, such as its teacher. Seconds and memory "
            "depend on the machine.",
            "Restarts: trainings that were repeated with another seed because the model gave the same answer for every "
            "example of the selection split; seconds include them, steps and TFLOP count one training. "
            "Collapsed: runs where this is still the case after the last attempt; they are included in all results.",
            *_collapsed(rows),
        ],
    )


def _collapsed(rows: pd.DataFrame) -> list[str]:
    """Return a note that names the runs that collapsed."""
    found = rows[rows["collapsed"].eq(True)]
    named = [f"{label} on {title_of(task)}, seed {seed}" for label, task, seed in
             zip(found["label"], found["task"], found["seed"], strict=True)]  # fmt: skip
    return [f"Collapsed: {'; '.join(named)}."] if named else []
