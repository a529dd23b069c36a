"""The order in which planned runs start."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

from bench.context import data_survey
from bench.method import contestant
from bench.runs.plan import runs
from bench.runs.training.lineage import stages_of
from bench.settings import Settings
from bench.store import RunKey
from bench.tasks.catalogue import task

ATTEMPTS = 2
"""Attempts at a run whose process ended, or whose GPU failed."""


@dataclass
class Queue:
    """Planned runs in the order in which they may start.

    A seed starts after the seeds before it, so that a time limit cuts the last one. Within a seed the run with the
    longest remaining chain of dependent runs is first.

    Attributes:
        needs: Run -> the runs that it depends on.
        chain: Run -> its training work plus that of the longest chain of runs that depend on it.
        finished: Runs with a result, in the order in which they ended.
        failed: Run -> why it failed.
    """

    needs: Mapping[RunKey, tuple[RunKey, ...]]
    chain: Mapping[RunKey, float]
    finished: list[RunKey] = field(default_factory=list)
    failed: dict[RunKey, str] = field(default_factory=dict)
    _attempts: Counter[RunKey] = field(default_factory=Counter)
    _waiting: set[RunKey] = field(init=False)

    def __post_init__(self) -> None:
        self._waiting = set(self.needs)

    def next(self) -> RunKey | None:
        """Remove and return the run to start now; None if none can start yet."""
        ended = {*self.finished, *self.failed}
        ready = [key for key in self._waiting if ended.issuperset(self.needs[key])]
        if not ready:
            return None
        key = min(ready, key=lambda each: (each.seed, -self.chain[each], str(each.path)))
        self._waiting.remove(key)
        self._attempts[key] += 1
        return key

    def end(self, key: RunKey, reason: str, again: bool = False) -> None:
        """Record that a started run has ended.

        Args:
            key: The run.
            reason: Why it failed; "" if it succeeded.
            again: Whether another attempt may succeed. The run is then queued again, at most `ATTEMPTS` times in all.
        """
        if not reason:
            self.finished.append(key)
        elif again and self._attempts[key] < ATTEMPTS:
            self._waiting.add(key)
        else:
            self.failed[key] = reason

    @property
    def left(self) -> int:
        """Number of runs that have not ended."""
        return len(self.needs) - len(self.finished) - len(self.failed)


def planned(settings: Settings) -> Queue:
    """Return the runs of the settings with the work of the longest chain that each begins."""
    work = _work(settings)
    needs = {run.key: run.needs for run in runs(settings)}
    dependents: dict[RunKey, list[RunKey]] = {key: [] for key in needs}
    for key, sources in needs.items():
        for source in sources:
            dependents[source].append(key)

    @cache
    def chain(key: RunKey) -> float:
        return work(key.task, key.method, key.variant) + max(map(chain, dependents[key]), default=0.0)

    return Queue(needs, {key: chain(key) for key in needs})


def _work(settings: Settings) -> Callable[[str, str, str], float]:
    """Return a function from (task, contestant, variant) to the training work of such a run.

    The work is steps x (layers + 2): small models on a large GPU wait for kernel launches, the number of which depends
    on the layers and not on their width. The 2 stands for embeddings, loss and optimizer.
    """
    examples = {name: data_survey(settings, task(name, settings.own_tasks)).sizes["train"] for name in settings.tasks}

    @cache
    def work(name: str, method: str, variant: str) -> float:
        stages = stages_of(contestant(settings, method, name), variant, examples[name])
        return float(sum(stage.steps * (stage.shape.layers + 2) for stage in stages))

    return work
