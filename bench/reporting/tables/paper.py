"""The table of published numbers, each with the nearest measured point."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bench.analysis.budgets import best, operating_points, selection_split
from bench.analysis.comparing.seeds import geometric
from bench.reporting.published import MISMATCHED, read_published
from bench.reporting.tables.format.table import Format, Table, amount, display_names, score, speedup
from bench.reporting.tables.main import ordered
from bench.tasks.catalogue import TASKS, title

# Largest ratio of the speed-ups of a published number and of the measured point shown with it.
NEAR = 1.15
RELATIVE = "percent_of_bert_base"
COMPUTED = "†"


def paper(points: pd.DataFrame, notes: Sequence[str], glue_caps: Mapping[str, str]) -> Table:
    """Return the table of published numbers, each followed by the nearest measured point of the same method.

    Args:
        points: All operating points.
        notes: Notes that all tables share.
        glue_caps: `Settings.glue_caps`. Differences are given on these tasks only.
    """
    published = read_published()
    published = published[published["score"].notna()]
    # A system that its source reports at several settings has one row for each.
    published.loc[published["metric"] == RELATIVE, "task"] = RELATIVE
    published["line"] = published.groupby(["source", "system", "task"]).cumcount()
    names, selected = display_names(points), selection_split(points)
    usable = {(str(m), str(t)): rows for (m, t), rows in operating_points(points).groupby(["method", "task"])}
    tasks = [*(t for t in TASKS if t in set(published["task"])), "average", RELATIVE]
    tasks.insert(tasks.index("mnli") + 1, MISMATCHED)
    titles = {name: title(name) for name in tasks}
    titles |= {MISMATCHED: "MNLI-mm", "average": "Average", RELATIVE: "% of BERT-base"}
    rows: list[dict[str, Any]] = []
    for (source, system, _), group in published.groupby(["source", "system", "line"], sort=False):
        first = group.iloc[0]
        cells = {titles[task]: value for task, value in zip(group["task"], group["score"], strict=True)}
        split = {"dev": "validation (dev)", "": "not stated"}.get(first["split"], first["split"])
        costs = {
            "Parameters": first["parameters"],
            "FLOPs": first["flops"],
            "Speed-up": group["speedup"].mean(),
            "Speed-up mark": COMPUTED if group["computed"].any() else "",
        }
        counted = first["speedup_of"] or ("flops" if first["computed"] else "")
        costs["Counts"] = {"flops": "FLOPs"}.get(counted, counted)
        cited = {"Split": split, "Source": _cite(str(source), group)}
        rows.append({"System": system, "Kind": "as reported", **cells, **costs, **cited})
        measured = _measured(usable, selected, group)
        if measured.empty:
            continue
        own = {"System": names.get(first["method"], first["method"]), "Split": "validation"}
        ours = {titles[str(task)]: value for task, value in measured["score"].items()}
        costs = {"Parameters": measured["parameters"].mean(), "FLOPs": measured["flops"].mean()}
        costs |= {"Speed-up": geometric(measured["speedup"]), "Source": _by_text(measured["source"], titles)}
        rows.append({**own, "Kind": "measured", **ours, **costs})
        both = [titles[task] for task in measured.index if _of(task) in glue_caps]
        if both:
            rows.append({**own, "Kind": "difference", **{name: ours[name] - cells[name] for name in both}})
    formats: dict[str, Format] = {titles[task]: score for task in tasks}
    formats |= {titles[RELATIVE]: score, "Parameters": amount, "FLOPs": amount, "Speed-up": speedup}
    values = ordered(pd.DataFrame(rows), ["System", "Kind", "Split", *formats, "Counts", "Source"])
    return Table(
        "paper",
        "Published numbers (as reported) and the nearest measured points",
        values,
        formats,
        notes=[
            *notes,
            'Rows "as reported" are copied from their source, with its own split, metric, teacher and way of '
            "counting costs; none of them was measured here. Speed-ups are as printed; the column Counts states what "
            f"they count; {COMPUTED}: computed here from the printed FLOPs.",
            f"Measured: the best point on the selection split whose FLOPs speed-up is within {100 * (NEAR - 1):g} % of "
            "the published one (or of its speed-up in layers; a measured time has no match), in the published metric "
            "(the ranking metric if the source names none).",
            *_comparable([task for task in TASKS if task in set(points["task"])], glue_caps),
        ],
    )


def _cite(source: str, group: pd.DataFrame) -> str:
    """Return the source, with the notes that hold for all numbers of the row."""
    shared = set.intersection(*(set(notes.split("; ")) for notes in group["notes"]))
    return "; ".join([source, *sorted(shared - {""})])


def _of(task: str) -> str:
    """Return the task whose model a published column is compared with."""
    return "mnli" if task == MISMATCHED else task


def _by_text(sources: pd.Series, titles: Mapping[str, str]) -> str:
    """Return the sources of the measured text, by task if tasks differ."""
    by_source: dict[str, list[str]] = {}
    for task, source in sources.items():
        by_source.setdefault(str(source), []).append(titles[str(task)])
    if len(by_source) == 1:
        return next(iter(by_source))
    return "; ".join(f"{', '.join(names)}: {source}" for source, names in by_source.items())


def _comparable(tasks: Sequence[str], glue_caps: Mapping[str, str]) -> list[str]:
    """Return the notes on differences: definition, tasks without any, and number of GLUE examples used."""
    others = ", ".join(title(task) for task in tasks if task not in glue_caps)
    notes = [f"No differences are given for {others}: the measured text is not GLUE's."] if others else []
    if any(task in glue_caps for task in tasks):
        notes.append("Difference: measured minus reported; splits differ, and backbones where the profile has its own.")
    by_caps: dict[str, list[str]] = {}
    for task in tasks:
        if glue_caps.get(task):
            by_caps.setdefault(glue_caps[task], []).append(title(task))
    used = "; ".join(f"{', '.join(names)} {caps}" for caps, names in by_caps.items())
    return [*notes, f"Examples of GLUE used at most: {used}."] if used else notes


def _measured(usable: Mapping[tuple[str, str], pd.DataFrame], selected: str, published: pd.DataFrame) -> pd.DataFrame:
    """Return the nearest measured points of a published row, indexed by task; scores x 100, means over seeds.

    Args:
        usable: Rows of `operating_points` by method and task.
        selected: The selection split.
        published: The numbers of one row.
    """
    found = {}
    for row in published[published["task"].isin([*TASKS, MISMATCHED])].to_dict("records"):
        split = "validation_mismatched" if row["task"] == MISMATCHED else "validation"
        ours = usable.get((row["method"], _of(row["task"])))
        if ours is None:
            continue
        near = ours["speedup"].between(row["flops_speedup"] / NEAR, row["flops_speedup"] * NEAR)
        near &= ours["split"] == selected
        if not near.any():
            continue
        chosen = best(ours, near, split=split)
        if chosen.empty:
            continue
        metric = row["metric"] if row["metric"] in chosen and chosen[row["metric"]].notna().all() else "score"
        means = chosen[["parameters", "flops", "speedup"]].astype(float).mean()
        found[row["task"]] = {
            "score": 100 * chosen[metric].mean(),
            **means,
            "source": chosen["source"].iloc[0],
        }
    return pd.DataFrame.from_dict(found, orient="index")
