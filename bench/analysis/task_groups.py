"""Groups of tasks for `--tasks`."""

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from bench.analysis.statistics import learned_tasks
from bench.errors import UserError
from bench.tasks.catalogue import Task

GROUPS = ("pairs", "single", "learned")


def select_tasks(wanted: str, points: pd.DataFrame, known: Mapping[str, Task], *, reference: str) -> list[str]:
    """Return the tasks in a comma-separated list of names and groups.

    Args:
        wanted: Names of tasks, or `pairs` (two texts), `single` (one text) and `learned` (`learned_tasks`).
        points: All operating points.
        known: Map from name to task.
        reference: The contestant whose gain decides which tasks count as learned.

    Raises:
        UserError: For a name that is neither a task of the points nor a group, and if the result is empty.
    """
    available = list(dict.fromkeys(points["task"]))
    groups: dict[str, Callable[[], Sequence[str]]] = {
        "pairs": lambda: [task for task in available if task in known and len(known[task].columns) == 2],
        "single": lambda: [task for task in available if task in known and len(known[task].columns) == 1],
        "learned": lambda: learned_tasks(points, reference=reference),
    }
    chosen: list[str] = []
    for name in filter(None, (part.strip() for part in wanted.split(","))):
        if name not in available and name not in groups:
            raise UserError(f"--tasks: no task {name!r}; choose from {', '.join([*available, *groups])}")
        chosen += [name] if name in available else groups[name]()
    if not chosen:
        raise UserError(f"--tasks {wanted}: no such task here; there are {', '.join(available)}")
    return [task for task in available if task in chosen]
