"""The results page: one HTML file for offline use, with all tables, all figures and an interactive frontier."""

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from bench.analysis.budgets import (
    POINT,
    RUN,
    chosen_frontier,
    control_rows,
    failures,
    operating_points,
    selection_split,
)
from bench.analysis.metrics import METRICS, TITLES
from bench.analysis.roles import Roles
from bench.reporting.figures import Skipped, describe, drawn
from bench.reporting.figures.drawing import Absent, marks, task_order
from bench.reporting.figures.frontiers import average_curves
from bench.reporting.tables import Table
from bench.reporting.tables.format.table import NONE
from bench.reporting.tables.notes import common_notes
from bench.store import read_json, written_at_once
from bench.tasks.catalogue import title as task_title
from bench.tasks.quality import findings

# Plotly's names of the figures' markers.
_SYMBOLS = {
    "o": "circle", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "P": "cross", "X": "x",
    "<": "triangle-left", ">": "triangle-right", "s": "square", "*": "star", "x": "x-thin-open", "p": "pentagon",
    "d": "diamond-tall",
}  # fmt: skip
_DASHES = {"-": "solid", "--": "dash", "-.": "dashdot"}
# See vendored/README.md.
_LIBRARY = Path(__file__).parent / "vendored" / "plotly-basic.min.js"
_MEASURES = (
    "score", *METRICS, "flops", "flops_128", "speedup", "speedup_128", "mean_exit", "parameters",
    "threshold", "latency_1", "latency_32",
)  # fmt: skip
# Largest number of points per run and split, in addition to its frontier, evenly spaced in their order of FLOPs.
MOST = 60
# Tables with more rows than this are folded at first.
_LONG = 40


def write(
    points: pd.DataFrame,
    results: Path,
    tables: Sequence[Table],
    roles: Roles,
    *,
    missing: Mapping[str, Sequence[str]] | None = None,
    skipped: Sequence[Skipped] = (),
    choice: Mapping[str, Any] | None = None,
) -> Path:
    """Write <results>/index.html and return its path.

    Args:
        points: All operating points.
        results: results/<profile>, with its folders `figures` and `runs`.
        tables: The tables. The one named "verdicts" has a separate section before the others.
        roles: The roles of the methods.
        missing: Map from task to the splits that its source does not have.
        skipped: Figures without data, which the page lists with the reasons.
        choice: Data of the chooser (`bench.reporting.page.chooser.chooser`), or None without traces.
    """
    choice = choice if choice and choice["blocks"] else None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=jinja2.select_autoescape(["html", "j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html.j2").render(
        profile=", ".join(map(str, points["profile"].dropna().unique())),
        protocol=common_notes(points, missing or {}),
        facts=facts(results / "runs"),
        failures=failures(points).assign(title=lambda rows: rows["task"].map(task_title)).to_dict("records"),
        tables=[_table(table) for table in tables if table.name != "verdicts"],
        verdicts=[_table(table) for table in tables if table.name == "verdicts"],
        figures=[_figure(path) for path in drawn(results / "figures")],
        skipped=[(describe(each.name)[0], each.reason) for each in skipped],
        data=_packed(json.dumps(explorer(points, roles), separators=(",", ":"), allow_nan=False)),
        choice=choice,
        offered=_offered(choice) if choice else [],
        blocks=_packed(json.dumps(_rounded(choice), separators=(",", ":"), allow_nan=False)) if choice else "",
        plotly=_packed(_LIBRARY.read_text(encoding="utf-8")),
    )
    path = results / "index.html"
    with written_at_once(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


_CHOICES = {"costs": "Budget in", "budgets": "At least", "tasks": "Tasks", "metrics": "Score"}
_FIRST = {"budgets": "4"}


def _offered(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the groups of choices for the template, with the value that is chosen at first."""
    made = []
    for name, title in _CHOICES.items():
        values = [value for value, _ in choice[name]]
        first = _FIRST[name] if _FIRST.get(name) in values else (values or [""])[0]
        made.append({"name": name, "title": title, "options": choice[name], "first": first})
    return made


def _rounded(value: Any) -> Any:
    """Return nested data with numbers of five significant digits."""
    if isinstance(value, Mapping):
        return {name: _rounded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return _number(value) if isinstance(value, float) else int(value) if isinstance(value, np.integer) else value


def facts(runs: Path) -> list[tuple[str, str]]:
    """Return titles and values of hardware, packages, code and data, from every run.json under `runs`."""
    found: dict[str, set[str]] = {}
    seconds, count = 0.0, 0
    for path in sorted(runs.glob("*/*/*/*/run.json")):
        run = read_json(path, "status")
        count += 1
        if run["status"] != "ok":
            continue
        seconds += run["wall_seconds"]
        place = run["where"]
        for what, value in (
            ("Hardware", ", ".join(run["hardware"].values())),
            ("Arithmetic", f"{place['precision']} on {place['device']}, {place['threads']} thread(s)"),
            ("Backbone", _backbone(run["backbone"])),
            ("Code", run["code"]),
            ("Versions", ", ".join(f"{name} {version}" for name, version in run["versions"].items())),
        ):
            found.setdefault(what, set()).add(value)
    rows = [(what, "; ".join(sorted(values))) for what, values in found.items()]
    rows += [(f"Data of {task_title(task)}", "; ".join(lines)) for task, lines in data_findings(runs).items()]
    return [("Runs", f"{count}, {seconds / 3600:.1f} hours together"), *rows] if count else []


def _backbone(facts: dict[str, Any]) -> str:
    layers = f", first {facts['layers']} layers" if facts.get("layers") else ""
    return f"{facts['name']}{layers} (sha256 {facts['sha256'][:12]})"


def data_findings(runs: Path) -> dict[str, list[str]]:
    """Map each task to the problems found in its data, from every run.json under `runs`."""
    found: dict[str, dict[str, None]] = {}
    for path in sorted(runs.glob("*/*/*/*/run.json")):
        run = read_json(path, "status")
        lines = findings(run.get("data", {}).get("quality", {}))
        if lines:
            found.setdefault(path.parents[3].name, {}).update(dict.fromkeys(lines))
    return {task: list(lines) for task, lines in found.items()}


def explorer(points: pd.DataFrame, roles: Roles) -> dict[str, Any]:
    """Return the data of the interactive frontier: methods, runs, and the points by task and split, as columns.

    Numbers have five significant digits. `front` marks the points of a method's frontier on the selection split.
    """
    looks = marks(points, roles)
    splits = list(dict.fromkeys([selection_split(points), "validation"]))[::-1]
    rows = operating_points(points)
    rows = rows[rows["split"].isin(splits) & rows["score"].notna()]
    runs = rows.drop_duplicates(RUN)[[*RUN, "label"]].sort_values(RUN, ignore_index=True)
    rows = rows.merge(runs[RUN].assign(run=runs.index), on=RUN)
    fronts = pd.concat([chosen_frontier(points, split=split) for split in splits])
    keys = pd.MultiIndex.from_frame(fronts[[*POINT, "split"]])
    rows["front"] = pd.MultiIndex.from_frame(rows[[*POINT, "split"]]).isin(keys).astype(int)
    rows = _thinned(rows)
    order = list(looks)
    shown = {}
    for task in task_order(points, rows):
        of_task = rows[rows["task"] == task].sort_values(["run", "flops", "score"])
        shown[task] = {split: _columns(of_task[of_task["split"] == split]) for split in splits}
    selects = [{"id": task, "title": task_title(task), "metric": _metric(rows, task)} for task in shown]
    if len(shown) > 1:
        try:
            shown["average"] = {split: _average(average_curves(points, roles, split=split), order) for split in splits}
            selects.insert(0, {"id": "average", "title": "Mean of all tasks", "metric": "score"})
        except Absent:
            pass
    return {
        "tasks": selects,
        "splits": splits,
        "selection": selection_split(points),
        "most": MOST,
        "metrics": {name: TITLES.get(name, name) for name in METRICS},
        "methods": [
            {
                "name": mark.name,
                "colour": mark.colour,
                "symbol": _SYMBOLS[mark.marker],
                "dash": _dash(mark.line),
                "hidden": method in roles.ablations,
                "reference": method == roles.reference,
            }
            for method, mark in looks.items()
        ],
        "runs": [[order.index(run.method), run.label, int(run.seed)] for run in runs.itertuples()],
        "points": shown,
        "control": {
            split: {str(t): _number(s) for t, s in _by_task(control_rows(points, split=split)).items()}
            for split in splits
        },
    }


def _dash(line: Any) -> str:
    """Return a line style for Plotly: a name, or the lengths of strokes and gaps in pixels."""
    return _DASHES[line] if isinstance(line, str) else ",".join(f"{1.6 * length:g}px" for length in line[1])


def _thinned(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the frontier, and at most `MOST` others per run and split."""
    rows = rows.sort_values(["flops", "score"], kind="stable")
    groups = rows.groupby(["run", "split", "front"])["flops"]
    place, size = groups.cumcount(), groups.transform("size")
    step = np.maximum(size / MOST, 1.0)
    return rows[rows["front"].eq(1) | ((place % step) < 1)]


def _by_task(rows: pd.DataFrame) -> pd.Series:
    means = rows.groupby("task")["score"].mean()
    return pd.concat([means, pd.Series({"average": means.mean()})])


def _metric(rows: pd.DataFrame, task: str) -> str:
    return str(rows.loc[rows["task"] == task, "metric"].iloc[0])


def _columns(rows: pd.DataFrame) -> dict[str, Any]:
    measures = {name: rows[name] for name in _MEASURES if name in rows and rows[name].notna().any()}
    columns = {name: [_number(value) for value in values] for name, values in measures.items()}
    exact = {name: rows[name].tolist() for name in ("run", "kind", "front")}
    # The threshold of the last exit has no effect.
    thresholds = [" · ".join(f"{value:.3g}" for value in each[:-1]) for each in rows["thresholds"]]
    return exact | {"thresholds": thresholds} | columns


def _average(curves: pd.DataFrame, methods: list[str]) -> dict[str, Any]:
    """Return the columns of the averaged frontier, where a point is a method at a budget."""
    curves = curves.sort_values(["method", "budget"], ascending=[True, False])
    measures = ("score", "flops", "flops_128", "speedup", "speedup_128", "mean_exit", "parameters", "budget")
    columns = {name: [_number(value) for value in curves[name]] for name in measures}
    return {"method": [methods.index(method) for method in curves["method"]]} | columns


def _number(value: float) -> float | None:
    """Round to five significant digits; return None (null in JSON) for infinity and NaN."""
    return float(f"{value:.5g}") if np.isfinite(value) else None


def _packed(text: str) -> str:
    """Compress a text with gzip and base64, which takes a third of the bytes and is safe in a script element."""
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode("ascii")


def _table(table: Table) -> dict[str, Any]:
    """Return a table for the template; cells are (text, bold, sort key), and numbers sort by value.

    Rows without any number are listed below the table instead, and columns without any cell are left out.
    """
    printed, bold = table.printed(), table.is_bold()
    filled = table.values.reindex(columns=list(table.formats)).notna().any(axis=1)
    apart = printed.loc[~filled] if filled.any() else printed[:0]
    printed = printed.drop(index=apart.index)
    shown = [name for name in table.columns if printed.empty or printed[name].ne(NONE).any()]
    numeric = [name in table.formats for name in shown]
    rows = [
        [
            (printed.at[i, name], bool(bold.at[i, name]), _sort_key(table.values.at[i, name], number))
            for name, number in zip(shown, numeric, strict=True)
        ]
        for i in printed.index
    ]
    return {
        "name": table.name,
        "caption": table.caption,
        "notes": list(table.notes),
        "columns": list(zip(shown, numeric, strict=True)),
        "rows": rows,
        "apart": [", ".join(text for text in row if text != NONE) for row in apart.values.tolist()],
        "long": len(rows) > _LONG,
    }


def _sort_key(value: Any, number: bool) -> str:
    if pd.isna(value):
        return ""
    return f"{float(value):.12g}" if number else str(value)


def _figure(path: Path) -> dict[str, str]:
    title, caption = describe(path.stem)
    image = base64.b64encode(path.read_bytes()).decode("ascii")
    return {"name": path.stem, "title": title, "caption": caption, "image": f"data:image/png;base64,{image}"}
