"""The tables of training cost, of storage and of measured latency."""

from collections.abc import Sequence

import pandas as pd

from bench.analysis.budgets import RUN, at_budget, budget_title, by_budget, succeeded, teacher_rows, timed_points
from bench.analysis.comparing.seeds import geometric
from bench.analysis.roles import Roles
from bench.reporting.tables.format.table import Format, Table, display_names, fraction, plain, score, speedup
from bench.reporting.tables.main import title_of
from bench.settings import Latency

_COLUMNS = {
    "Steps": "training_steps",
    "TFLOP": "training_flops",
    "TFLOP with sources": "training_flops_in_all",
    "Seconds": "training_seconds",
    "CPU seconds": "cpu_seconds",
    "Peak memory, MB": "peak_memory_bytes",
    "Trained parameters, M": "trainable_parameters",
}
OF_TEACHER = "Steps / teacher's"
_STORED = {
    "Parameters, M": "parameters",
    "On disk, MB": "model_bytes",
    "Parameters for all tasks, M": "parameters_all_tasks",
}
_SIZES = (1, 32)
"""Batch sizes of the latency."""
_FEWEST_ROUNDS = 3
"""Fewest rounds for which quartiles are reported."""
_UNITS = {"TFLOP": 1e12, "TFLOP with sources": 1e12, "Peak memory, MB": 1e6, "Trained parameters, M": 1e6}


def training(points: pd.DataFrame, notes: Sequence[str], roles: Roles) -> Table | None:
    """Return the table of training costs, averaged over tasks and seeds, or None if no cost is known.

    Args:
        points: All operating points.
        notes: Notes that all tables share.
        roles: The roles of the methods.
    """
    rows = succeeded(points).drop_duplicates(RUN)
    if not rows.get("training_steps", pd.Series(dtype=float)).notna().any():
        return None
    steps = rows[rows["method"] == roles.reference].groupby("task")["training_steps"].mean()
    lines = []
    for _, runs in rows.groupby(["method", "variant"], sort=False):
        line: dict[str, object] = {"Model": _usual_label(runs)}
        line[OF_TEACHER] = (runs["training_steps"] / runs["task"].map(steps)).mean()
        for title, column in _COLUMNS.items():
            known = runs.get(column, pd.Series(dtype=float))
            line[title] = (known.median() if title == "Seconds" else known.mean()) / _UNITS.get(title, 1)
        again = int(runs["restarts"].sum())
        line |= {"Restarts": again, "Collapsed": int(runs["collapsed"].sum()), "Runs": len(runs)}
        lines.append(line)
    values = pd.DataFrame(lines)
    formats: dict[str, Format] = dict.fromkeys([*_COLUMNS, OF_TEACHER, "Restarts", "Collapsed", "Runs"], plain)
    formats[OF_TEACHER] = fraction
    columns = ["Model", "Steps", OF_TEACHER, *list(_COLUMNS)[1:], "Restarts", "Collapsed", "Runs"]
    known = [name for name in columns if values[name].notna().any()]
    return Table(
        "training",
        "Training behind each model, mean over tasks and seeds",
        values[known],
        {name: form for name, form in formats.items() if name in known},
        notes=[
            *notes,
            "Steps: optimizer steps of the model's own stages and of the models whose weights it continues. TFLOP: "
            "floating-point operations (10^12) of its own training, with the passes of teachers, checkpoint selection "
            "and traces; with sources: also those of every run that it needs, such as its teacher; if one model "
            "serves several tasks, each has an equal part. Seconds (of training, wall-clock time; the median over "
            "tasks and seeds, since a machine may pause), CPU seconds (of the whole run, with its traces) and memory "
            "(of the whole process) depend on the machine and on other programs that run there. Trained parameters: "
            "those that an optimizer changes, in the stage with most.",
            "Restarts: trainings that were repeated with another seed because the model gave the same answer for every "
            "example of the selection split; seconds include them, steps and TFLOP count one training. "
            "Collapsed: runs where this is still the case after the last attempt; they are included in all results.",
            *_unequal(values),
            *_collapsed(rows),
        ],
    )


def _usual_label(runs: pd.DataFrame) -> str:
    """Return the label of most of a model's runs; on a regression, for instance, it may have no exit policy."""
    return str(runs["label"].value_counts(sort=True).index[0])


def _unequal(lines: pd.DataFrame) -> list[str]:
    """Return a note on the models whose steps differ from the teacher's by more than 5 %, with their shares."""
    apart = lines[(lines[OF_TEACHER] - 1).abs() > 0.05]
    said = [
        f"{row['Model']} {row[OF_TEACHER]:.2f}" if row[OF_TEACHER] else f"{row['Model']} trains nothing"
        for row in apart.to_dict("records")
    ]
    return [f"More than 5 % more or fewer steps than the teacher: {'; '.join(said)}."] if said else []


def _collapsed(rows: pd.DataFrame) -> list[str]:
    """Return a note that names the runs that collapsed."""
    found = rows[rows["collapsed"].eq(True)]
    named = [f"{label} on {title_of(task)}, seed {seed}" for label, task, seed in
             zip(found["label"], found["task"], found["seed"], strict=True)]  # fmt: skip
    return [f"Collapsed: {'; '.join(named)}."] if named else []


def storage(points: pd.DataFrame, notes: Sequence[str]) -> Table | None:
    """Return the table of what models store, averaged over seeds, or None if no size is known."""
    rows = succeeded(points)
    rows = rows[rows["kind"].eq("static") & rows["split"].eq("validation")]
    if not rows.get("model_bytes", pd.Series(dtype=float)).notna().any():
        return None
    lines = []
    for _, runs in rows.groupby(["method", "variant"], sort=False):
        line: dict[str, object] = {
            "Model": _usual_label(runs),
            "Score": 100 * runs.groupby("task")["score"].mean().mean(),
        }
        line |= {title: runs[column].mean() / 1e6 for title, column in _STORED.items()}
        lines.append(line | {"Tasks": runs["task"].nunique()})
    formats: dict[str, Format] = {"Score": score, **dict.fromkeys([*_STORED, "Tasks"], plain)}
    return Table(
        "storage",
        "Full-depth score and size of each model",
        pd.DataFrame(lines),
        formats,
        notes=[
            *notes,
            "Score: mean over tasks. Parameters and MB on disk: of the model of one task, mean over tasks. Parameters "
            "for all tasks: the sum over tasks, in which parameters that the models of all tasks share count once.",
        ],
    )


def latency(points: pd.DataFrame, notes: Sequence[str], roles: Roles, times: pd.DataFrame) -> Table | None:
    """Return the table of measured latency, or None if nothing was measured.

    Args:
        points: All operating points.
        notes: Notes that all tables share.
        roles: The roles of the methods.
        times: latency.parquet; empty if nothing was measured.
    """
    if times.empty:
        return None
    names = display_names(points)
    others = points[~points["method"].isin([*roles.ablations, roles.reference])]
    chosen = [(roles.reference, "teacher", teacher_rows(points, reference=roles.reference))]
    for budget, compared in by_budget(others):
        found = at_budget(compared, speedup=budget)
        chosen += [(str(name), budget_title(budget), rows) for name, rows in found.groupby("method", sort=False)]
    lines = []
    for method, block, rows in chosen:
        line: dict[str, object] = {"Budget": block, "Method": names.get(method, method)}
        for size in _SIZES:
            timed = timed_points(rows, times, size)
            if timed.empty:
                continue
            line |= {
                f"Calculated, batch {size}": geometric(timed["promised"]),
                f"Measured, batch {size}": geometric(timed["measured"]),
                f"ms, batch {size}": timed["milliseconds"].mean(),
            }
            if size == 1:
                line |= {"p95 ms, batch 1": timed["p95_milliseconds"].mean(), "Tasks": timed["task"].nunique()}
        if len(line) > 2:
            lines.append(line)
    if not lines:
        return None
    formats: dict[str, Format] = {}
    for size in _SIZES:
        formats |= {
            f"Calculated, batch {size}": speedup,
            f"Measured, batch {size}": speedup,
            f"ms, batch {size}": plain,
        }
    formats |= {"p95 ms, batch 1": plain, "Tasks": plain}
    values = pd.DataFrame(lines).reindex(columns=["Budget", "Method", *formats])
    return Table(
        "latency", "Calculated and measured speed-ups", values, formats, notes=[*notes, *_latency_notes(points, times)]
    )


def _latency_notes(points: pd.DataFrame, times: pd.DataFrame) -> list[str]:
    machine = "; ".join(
        f"{place}, torch {torch}" for place, torch in times[["hardware", "torch"]].drop_duplicates().values
    )
    said = [
        f"Measured on {machine}.",
        "Both speed-ups are over the teacher, on the same examples: calculated from FLOPs, and measured as the median "
        "over rounds in which all models are timed in turn. Geometric means over the tasks that were timed (first "
        "seed); ms: median time of one example, mean over these tasks; p95: the 95th percentile over examples.",
    ]
    itself, alike = [], []
    for size, of_size in times.groupby("batch_size"):
        known = of_size[_rounds(of_size) >= _FEWEST_ROUNDS]
        if "noise_low" in known and known["noise_low"].notna().any():
            itself.append(f"{known['noise_low'].min():.2f} to {known['noise_high'].max():.2f} at batch {size}")
        if widest := _widest(points, of_size):
            alike.append("{:.2f} at batch {} ({} and {} on {})".format(widest[0], size, *widest[1:]))
    if itself:
        said.append(
            f"Noise: the teacher timed against itself is {' and '.join(itself)} times as fast (widest quartiles of any "
            f"task, of {_FEWEST_ROUNDS} rounds or more)."
        )
    if alike:
        said.append(
            "Noise between models of equal shape (as many parameters, calculated speed-ups within 0.1 %, no "
            f"thresholds): their measured speed-ups differ by a factor of up to {' and '.join(alike)}. Speed-ups that "
            "differ by less are not distinguishable."
        )
    return said


def _rounds(times: pd.DataFrame) -> pd.Series:
    """Return the number of rounds in which each row of latency.parquet was timed; infinite where it is not recorded."""
    recorded = times.get("asked", pd.Series("", index=times.index)).astype(str)
    rounds = recorded.str.extract(r'"rounds": (\d+)', expand=False).astype(float).fillna(float("inf"))
    return rounds * times["batch_size"].eq(1).map({True: Latency.ROUNDS_AT_1, False: 1})


def _widest(points: pd.DataFrame, times: pd.DataFrame) -> tuple[float, str, str, str] | None:
    """Return the largest ratio of the measured speed-ups of two models of equal shape, with both labels and the task.

    Models have equal shape if they have as many parameters of the same size in bytes, and calculated speed-ups within
    0.1 %. Points with thresholds are left out, since an exit policy takes time that FLOPs do not show.

    Args:
        points: All operating points.
        times: Rows of latency.parquet of one batch size.

    Returns:
        None if no two models have equal shape.
    """
    columns = [*RUN, "label", "parameters", "model_bytes"]
    known = succeeded(points).drop_duplicates(RUN).reindex(columns=columns).dropna(subset="parameters")
    without = times[times["operated"].str.startswith(("static ", "fixed_exit "))]
    rows = without.merge(known, on=RUN).sort_values("promised")
    found = []
    for (task, *_), alike in rows.groupby(["task", "seed", "parameters", "model_bytes"], dropna=False):
        # A shape begins where the calculated speed-up is more than 0.1 % above the first one of the shape before.
        first, shapes = 0.0, []
        for promised in alike["promised"]:
            first = promised if promised > first * 1.001 else first
            shapes.append(first)
        for _, shape in alike.groupby(shapes):
            of_models = shape.groupby("label")["speedup"].median()
            if len(of_models) > 1 and of_models.min() > 0:
                slow, fast = of_models.idxmin(), of_models.idxmax()
                found.append((float(of_models.max() / of_models.min()), str(fast), str(slow), title_of(str(task))))
    return max(found) if found else None
