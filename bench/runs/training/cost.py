"""Compute the training cost of a run in optimizer steps and FLOPs, including the runs it depends on."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from bench.errors import NoStages
from bench.method import contestant
from bench.runs.planning.forecast import work_of
from bench.runs.training.lineage import steps_in_all
from bench.store import read_json, run_folder

if TYPE_CHECKING:
    from bench.settings import Settings
    from bench.store import RunKey
    from bench.tasks.examples import TaskData


def training_cost(settings: Settings, key: RunKey, data: TaskData, *, all_tasks: bool = False) -> dict[str, Any]:
    """Return the training cost of a run as plain values.

    FLOPs are computed from shapes and lengths: 2 x multiply-adds for a forward pass and three times that for a training
    step. Forward passes of teachers, of checkpoint selection and of tracing are included.

    Args:
        settings: Settings of the benchmark.
        key: Key of the run.
        data: Tokenized splits of the task.
        all_tasks: Whether one model serves the tasks of all runs that it depends on. Of the runs of a contestant on T
            tasks, each task then has 1 / T of the cost.

    Returns:
        `lineage_steps` (see `bench.runs.training.lineage.steps_in_all`), `flops` of the run itself, and `flops_in_all`,
        which includes every run that it depends on, each once (None if the cost of one is not known). Empty if the
        method does not implement `stages`.
    """
    method = contestant(settings, key.method, key.task)
    try:
        trained, read = work_of(settings, key, data)
        lineage = steps_in_all(method, key.variant, len(data.splits["train"]))
    except NoStages:
        return {}
    flops = 6 * trained.macs + 2 * read.macs
    needs = _needs(settings, key)
    known = [read_json(run_folder(settings, each) / "run.json").get("training", {}).get("flops") for each in needs]
    runs = Counter((each.method, each.variant) for each in needs)
    shared_by = [runs[each.method, each.variant] if all_tasks else 1 for each in needs]
    return {
        "lineage_steps": lineage,
        "flops": flops,
        "flops_in_all": None
        if None in known
        else flops + sum(cost / tasks for cost, tasks in zip(known, shared_by, strict=True)),
    }


def _needs(settings: Settings, key: RunKey) -> list[RunKey]:
    """Return all direct and indirect dependencies of a run, each once."""
    found: dict[RunKey, None] = {}
    waiting = [key]
    while waiting:
        each = waiting.pop()
        for need in contestant(settings, each.method, each.task).needed(each):
            if need not in found:
                found[need] = None
                waiting.append(need)
    return list(found)
