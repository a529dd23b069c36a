"""All checks of a published folder, one line each."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from bench.analysis.budgets import has_traces, succeeded
from bench.errors import UserError
from bench.provenance import identity_of
from bench.sharing.entries.replaying import TOLERANCE, Replayed, replay_run, speedups
from bench.sharing.folders import MAX_SHOWN, PUBLISHED, ResultsFolder, open_folder
from bench.sharing.records import SPLITS
from bench.sharing.results import check_options, merge
from bench.sharing.untrusted import irregular, printable
from bench.store import RunKey, run_named
from bench.tasks.catalogue import tasks_of
from bench.trace import Costs, Trace

State = Literal["ok", "failed", "not possible"]
RENDERED = ("index.html", "tables/*", "figures/*.png")
"""Published files that the page of merged results renders again; their content is not checked."""


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        name: Name of the check.
        state: The result; "not possible" where an entry lacks what the check needs.
        said: What was found.
    """

    name: str
    state: State
    said: str

    def line(self) -> str:
        """Return the result as one line of printable text."""
        return f"{self.state:<12}  {self.name:<9}  {printable(self.said, most=2000)}"


def validate(folder: Path) -> Iterator[Check]:
    """Yield the results of all checks of a published folder; after a failure, checks that depend on it are left out.

    Args:
        folder: The folder, which is untrusted.
    """
    content = _tried("content", lambda: _content(folder))
    yield content
    if content.state == "failed":
        return
    try:
        opened = open_folder(folder)
    except UserError as error:
        yield Check("schema", "failed", _within(error, folder))
        return
    finished = sum(facts["status"] == "ok" for facts in opened.runs.values())
    failed = len(opened.runs) - finished
    yield Check("schema", "ok", f"settings and {len(opened.runs)} runs ({finished} finished, {failed} failed)")
    yield _tried("identity", lambda: _identities(opened))
    try:
        points = opened.points()
        opened.latencies()
    except UserError as error:
        yield Check("records", "failed", _within(error, folder))
        return
    traced = has_traces(points)
    yield Check("records", "ok", f"{len(points)} points agree with costs and traces in runs, splits, examples, labels")
    if traced.any():
        yield _tried("replay", lambda: _replayed(opened, points[traced]))
    if not traced.all():
        labels = ", ".join(dict.fromkeys(points.loc[~traced, "method"]))
        yield Check("replay", "not possible", f"published without traces: {labels}; scores and FLOPs are as submitted")
    yield _tried("speed-ups", lambda: _speedups(opened, points))
    if len(opened.latencies()):
        yield Check("times", "not possible", "latency.parquet depends on a machine that is not here")


def validate_all(folders: Sequence[Path]) -> Iterator[tuple[Path | None, Check]]:
    """Yield the results of all checks of several folders, and whether they can be merged (with None for a folder)."""
    sound = []
    for folder in folders:
        results = list(validate(folder))
        yield from ((folder, each) for each in results)
        if all(each.state != "failed" for each in results):
            sound.append(folder)
    if len(sound) > 1:
        yield None, _tried("merge", lambda: _merged(sound))


def _tried(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", check())
    except UserError as error:
        return Check(name, "failed", str(error))


def _within(error: UserError, folder: Path) -> str:
    return str(error).removeprefix(f"{folder} is refused: ").replace(f"{folder}/", "")


def _listed(found: Sequence[str]) -> str:
    more = f"; and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
    return "; ".join(printable(each) for each in found[:MAX_SHOWN]) + more


def _content(folder: Path) -> str:
    """Return the number and size of the files of a folder, after checking that `publish` could have written each."""
    if not folder.is_dir() or folder.is_symlink():
        raise UserError("not a folder")
    refused = [f"{path.relative_to(folder)}: {why}" for path, why in irregular(folder)]
    files = {path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}
    known = {path for pattern in ("settings.yaml", *PUBLISHED) for path in folder.glob(pattern)}
    refused += [
        f"{path.relative_to(folder)}: not a file that `costeff publish` writes" for path in sorted(files - known)
    ]
    if refused:
        raise UserError(_listed(refused))
    rendered = {path for pattern in RENDERED for path in folder.glob(pattern)}
    said = f"{len(files)} plain files of known names, {sum(file.stat().st_size for file in files) / 1e6:.2f} MB"
    return f"{said}; {len(rendered)} of page, tables and figures are not read" if rendered else said


def _identities(folder: ResultsFolder) -> str:
    """Check that each identity is the hash of the inputs, of the run's own key, and of the runs it needs.

    All runs of a contestant must have the same options.
    """
    wrong, known, lacking = [], {}, set()
    for key, facts in folder.runs.items():
        if "asked" not in facts:
            continue
        asked, known[key] = facts["asked"], facts.get("identity")
        if identity_of(asked) != facts.get("identity"):
            wrong.append(f"{key.path}: the identity is not the hash of `asked`")
        if any(asked.get(name) != value for name, value in key.facts.items() if name != "method"):
            wrong.append(f"{key.path}: `asked` is of another task, variant or seed")
        if asked["selection"] != folder.settings.selection:
            wrong.append(f"{key.path}: `asked` has the selection split {printable(asked['selection'])}")
    for key, facts in folder.runs.items():
        needs = facts.get("asked", {}).get("needs", {})
        for name, identity in needs.items() if isinstance(needs, dict) else ():
            need = run_named(str(name), key)
            if need not in known:
                lacking.add(need.path)
            elif known[need] != identity:
                wrong.append(f"{key.path}: it was made with another {printable(name)} than the one in the folder")
    if wrong:
        raise UserError(_listed(wrong))
    check_options([folder])
    rest = f"; needed runs that are not in the folder: {_listed(sorted(map(str, lacking)))}" if lacking else ""
    return f"{len(known)} identities are the hashes of the inputs of their runs{rest}"


def _replayed(folder: ResultsFolder, points: pd.DataFrame) -> str:
    """Compute the points of all runs with traces again."""
    found, tasks = Replayed(), tasks_of(folder.settings.own_tasks)
    hidden = set()
    for names, rows in succeeded(points).groupby(["task", "method", "variant", "seed"]):
        key = RunKey(*names)
        place = folder.path / "runs" / key.path
        files = {split: place / f"trace-{split}.parquet" for split in SPLITS}
        traces = {split: Trace.load(file) for split, file in files.items() if file.is_file()}
        hidden |= set(rows["split"]) - set(traces)
        replay_run(found, str(key.path), rows, traces, Costs.load(place / "costs.json"), tasks[key.task])
    if found.problems:
        raise UserError(_listed(found.problems))
    rest = f"; without traces of {', '.join(sorted(hidden))}" if hidden else ""
    return f"{found.points} points computed again, largest difference {found.largest:.1e} (at most {TOLERANCE:g}){rest}"


def _speedups(folder: ResultsFolder, points: pd.DataFrame) -> str:
    found, reference = Replayed(), folder.settings.reference
    lacking = speedups(found, succeeded(points), reference)
    if found.problems:
        raise UserError(_listed(found.problems))
    rest = f"; {reference} is not in the folder on {', '.join(lacking)}" if lacking else ""
    return f"quotients of FLOPs, largest difference {found.largest:.1e}{rest}"


def _merged(folders: Sequence[Path]) -> str:
    with tempfile.TemporaryDirectory() as place:
        settings = merge(folders, Path(place) / "merged")
    contestants, tasks = len(settings.contestants), len(settings.tasks)
    return f"{len(folders)} folders can be merged: {contestants} contestants on {tasks} tasks"
