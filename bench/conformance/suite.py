"""Run all conformance checks on a method, as `costeff conform` does."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.conformance.backbone import make_backbone
from bench.conformance.checks import CHECKS, Check
from bench.conformance.runs import Fault, Runs
from bench.encoder.shape import LayoutName
from bench.errors import UserError
from bench.method import contestant
from bench.runs.train_run import prepare
from bench.settings import Settings, check, load
from bench.store import RunKey

PROFILE = "conform"


@dataclass(frozen=True)
class Verdict:
    """The result of a check over all runs of a contestant.

    Attributes:
        title: Title of the check.
        runs: Number of checked runs; 0 if the check was not made, for the reason in `remedy`.
        faults: Reasons of the runs that failed the check.
        remedy: Advice for the author of the method.
    """

    title: str
    runs: int
    faults: tuple[str, ...]
    remedy: str

    @property
    def line(self) -> str:
        """The result in one line."""
        if not self.runs:
            return f"not run    {self.title}: {self.remedy}"
        if not self.faults:
            return f"ok         {self.title} ({self.runs} run{'s' * (self.runs > 1)})"
        more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
        return f"FAILED     {self.title}: {self.faults[0]}{more}. What to do: {self.remedy}"


def conform(
    method: str, options: dict[str, Any], config: Path | None, layout: LayoutName = "bert"
) -> Iterator[Verdict]:
    """Train every variant of a method on three tiny tasks, one of them twice, and yield the result of each check.

    With several contestants of this method in `config`, the titles of the results begin with their names.

    Args:
        method: Import path of the class, `module:Class`.
        options: Options of the method, which override those of `config`.
        config: Profile that contains the method, or None.
        layout: Layout of the tiny encoder.

    Raises:
        UserError: If the method cannot be imported or set up.
    """
    with tempfile.TemporaryDirectory(prefix="costeff-conform-") as folder:
        home = Path(folder)
        prepare()
        backbone = make_backbone(home / "backbone", layout)
        settings, names = settings_for(method, options, config, backbone, home / "first")
        first = Runs(settings)
        second = Runs(settings.model_copy(update={"results": home / "second"}))
        for name in names:
            for each in CHECKS:
                verdict = judge(each, first, second, name)
                yield replace(verdict, title=f"{name}: {verdict.title}") if len(names) > 1 else verdict


def settings_for(
    method: str, options: dict[str, Any], config: Path | None, backbone: Path, results: Path
) -> tuple[Settings, list[str]]:
    """Return the settings for the checks, and the names of the contestants of the method in them; see `conform`."""
    base = load(PROFILE, {"results": str(results), "backbone": {"name": str(backbone)}})
    values, entries = base.model_dump(), {name: entry.model_dump() for name, entry in base.contestants.items()}
    values["folder"] = Path.cwd()
    if config is not None:
        given = load(config)
        if method not in {entry.method for entry in given.contestants.values()}:
            known = ", ".join(entry.method for entry in given.contestants.values())
            raise UserError(f"{config}: no contestant is {method}; there are {known}")
        values["folder"] = given.folder
        for name, entry in given.contestants.items():
            if entry.method == method or name not in entries:
                entries[name] = entry.model_dump()
        names = [name for name, entry in given.contestants.items() if entry.method == method]
    else:
        names = [next((name for name, entry in entries.items() if entry["method"] == method), "yours")]
        entries.setdefault(names[0], {"method": method})
    for name in names:
        entries[name]["options"] = entries[name].get("options", {}) | options
    settings = check(values | {"contestants": entries}, "conform")
    for name in names:
        contestant(settings, name, settings.tasks[0])
    return settings, names


def judge(each: Check, first: Runs, second: Runs, name: str) -> Verdict:
    """Return the result of one check over all runs of a contestant.

    A reason of a failure is reported once, by the first check in which it occurs. A check in which only reported
    reasons occur counts as not made; its result names the check that failed.

    Args:
        each: Check to make.
        first: Runs of the contestant.
        second: The same runs, made a second time.
        name: Name of the contestant.
    """
    try:
        variants = {task: contestant(first.settings, name, task).variants() for task in each.tasks}
    except Exception as error:  # any exception of the method's code is a verdict
        return _verdict(each, 1, {"variants": _reason(error)}, set(), first)
    keys = [RunKey(task, name, variant, 0) for task in each.tasks for variant in variants[task]]
    if not keys:
        return Verdict(each.title, 0, (), "the method has no variants with these options")
    depends = {first.reported[key] for key in keys if key in first.reported}
    keys = [key for key in keys if key not in first.reported]
    if each.exits:
        keys = [key for key in keys if first.rule(key).name != "none"]
    if not keys and not depends:
        return Verdict(each.title, 0, (), "it has no exit policy")
    reasons = {key: reason for key in keys if (reason := _fault(each, first, second, key))}
    if each.required:
        first.reported |= dict.fromkeys(reasons, each.title)
    return _verdict(each, len(keys), {f"{key.task} {key.variant}": why for key, why in reasons.items()}, depends, first)


def _verdict(each: Check, count: int, reasons: dict[str, str], depends: set[str], first: Runs) -> Verdict:
    """Return the result of a check on `count` runs.

    Args:
        each: Check that was made.
        count: Number of checked runs.
        reasons: Reason of each failed run, by the name of the run.
        depends: Titles of the failed checks for which other runs were left out.
        first: Runs of the contestant; new reasons are added to its `reported`.
    """
    known = {where: first.reported[reason] for where, reason in reasons.items() if reason in first.reported}
    new = {where: reason for where, reason in reasons.items() if where not in known}
    first.reported |= dict.fromkeys(new.values(), each.title)
    if not new and len(known) == count:
        titles = ", ".join(f'"{title}"' for title in dict.fromkeys([*sorted(depends), *known.values()]))
        return Verdict(each.title, 0, (), f"it depends on {titles}, which failed")
    return Verdict(each.title, count - len(known), tuple(f"{where}: {why}" for where, why in new.items()), each.remedy)


def _fault(each: Check, first: Runs, second: Runs, key: RunKey) -> str:
    try:
        each.test(first, second, key) if each.twice else each.test(first, key)
    except (Fault, UserError) as error:
        return str(error)
    except Exception as error:  # any exception of the method's code is a verdict
        return _reason(error)
    return ""


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
