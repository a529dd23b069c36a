"""The plan of a benchmark: all runs and their dependencies."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from bench.errors import UserError
from bench.method import Method, check_variants, contestant
from bench.settings import CLASS_METRICS, SCORE_METRICS, Settings
from bench.store import RunKey


@dataclass(frozen=True)
class Planned:
    """A run, and the runs that must finish before it."""

    key: RunKey
    needs: tuple[RunKey, ...]


def methods(settings: Settings, tasks: Sequence[str] | None = None) -> dict[tuple[str, str], Method]:
    """Return all methods by (contestant, task), after checking their options and variants.

    Args:
        settings: Settings of the benchmark.
        tasks: Some of its tasks; None: all.

    Raises:
        UserError: For the first error in the settings.
    """
    tasks = settings.tasks if tasks is None else tasks
    found = {(name, task): contestant(settings, name, task) for task in tasks for name in settings.contestants}
    for method in found.values():
        check_variants(method)
        method.exit_policy()
        method.check()
    for task in tasks:
        reference_run(found[settings.reference, task], settings.seeds_of(task)[0])
        if settings.depth_reference and not found[settings.depth_reference, task].variants():
            raise UserError(
                f"depth_reference: {settings.depth_reference} has no variant on {task}; "
                "name a contestant of first k layers, or null"
            )
    return found


def reference_run(reference: Method, seed: int) -> RunKey:
    """Return the run of the reference, whose cost at full depth counts as 1x.

    Args:
        reference: The reference contestant on a task.
        seed: Seed of the run.

    Raises:
        UserError: If the contestant does not have exactly one variant.
    """
    variants = list(reference.variants())
    if len(variants) != 1:
        raise UserError(
            f"reference: {reference.name} has {len(variants)} variants on {reference.task.name}"
            f"{': ' * bool(variants)}{', '.join(variants)}; name a contestant with exactly one"
        )
    return RunKey(reference.task.name, reference.name, variants[0], seed)


def runs(settings: Settings, tasks: Sequence[str] | None = None) -> list[Planned]:
    """Return all runs of the settings, in the order of tasks, seeds and contestants.

    Args:
        settings: Settings of the benchmark.
        tasks: Return only the runs of these tasks, and check only dependencies among them; None: all tasks.

    Raises:
        UserError: If a run depends on one that is not planned, or dependencies are circular.
    """
    tasks = settings.tasks if tasks is None else tasks
    known = methods(settings, tasks)
    planned = [
        Planned(RunKey(task, name, variant, seed), needs_of(known, RunKey(task, name, variant, seed)))
        for task in tasks
        for seed in settings.seeds_of(task)
        for name in settings.contestants
        for variant in known[name, task].variants()
    ]
    _check_needs(planned, set(settings.tasks) - set(tasks))
    return planned


def needs_of(known: dict[tuple[str, str], Method], key: RunKey) -> tuple[RunKey, ...]:
    """Return the direct dependencies of a run."""
    return known[key.method, key.task].needed(key)


def summary(settings: Settings) -> Iterator[str]:
    """Yield the plan in words, one line for each contestant, task and study."""
    planned = runs(settings)
    yield f"profile {settings.profile}: results go to {settings.root}"
    texts = dict.fromkeys(settings.source_of(task) for task in settings.tasks)
    yield f"text: {', '.join(texts)}; chosen on {settings.selection}, reported on validation"
    layers = f" (first {settings.backbone.layers} layers)" if settings.backbone.layers else ""
    yield f"backbone: {settings.backbone.name}{layers}, pooling {settings.backbone.pooling}"
    for name, entry in settings.contestants.items():
        variants = dict.fromkeys(run.key.variant for run in planned if run.key.method == name)
        yield f"contestant {name} ({entry.method}): {', '.join(variants) or 'no run of its own'}"
    for task in settings.tasks:
        count = sum(run.key.task == task for run in planned)
        yield f"task {task}: seeds {', '.join(map(str, settings.seeds_of(task)))}; {count} runs"
    if settings.own_tasks:
        yield f"metrics of own tasks: {', '.join(CLASS_METRICS)}; of a range {', '.join(SCORE_METRICS)}"
    for study in settings.studies:
        trials = study.generations * study.population
        yield f"study of {study.method}: {trials} trials ({study.sampler}) on {', '.join(study.tasks)}"
    trials = sum(study.generations * study.population * len(study.tasks) for study in settings.studies)
    yield f"jobs: {len(planned)} runs, {trials} trials at most"


def _check_needs(planned: list[Planned], elsewhere: Container[str]) -> None:
    """Check the dependencies of runs, except those on runs of the tasks in `elsewhere`."""
    there = {run.key: [need for need in run.needs if need.task not in elsewhere] for run in planned}
    for key, needs in there.items():
        for need in needs:
            if need not in there:
                other = f" on {need.task}" * (need.task != key.task)
                raise UserError(
                    f"contestants.{key.method}: needs {need.method} {need.variant}{other}, which is not among the "
                    f"runs; add that {'task' if other else 'contestant'} or name another in its options"
                )
    done: set[RunKey] = set()
    while len(done) < len(there):
        ready = [key for key, needs in there.items() if key not in done and all(need in done for need in needs)]
        if not ready:
            stuck = next(key for key in there if key not in done)
            raise UserError(
                f"contestants.{stuck.method}: circular dependency between contestants; check what each of them needs"
            )
        done.update(ready)
