"""The source of each hyperparameter of a profile: the method's paper, its authors' code, or a choice of this suite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_origin

from bench.errors import UserError
from bench.method import contestant
from bench.settings import Settings

Values = dict[str, dict[tuple[str, str], Any]]
"""Hyperparameter -> (variant, or "" for all variants; task) -> value."""


def recipes(settings: Settings) -> Iterator[str]:
    """Yield a line for each hyperparameter of the contestants that name sources, else a line for the contestant.

    A source belongs to an option, such as `epochs`, or to a part of one, such as `sizes.rate`.

    Raises:
        UserError: for a hyperparameter without a source, or a source without a hyperparameter.
    """
    for name, entry in settings.contestants.items():
        if not entry.sources:
            yield f"recipe of {name}: chosen here"
            continue
        values, used = _values(settings, name), set()
        for key, found in values.items():
            source = key if key in entry.sources else key.partition(".")[0]
            if source not in entry.sources:
                raise UserError(
                    f"contestants.{name}.sources: {key} has no source; add one that begins with paper, code or here"
                )
            used.add(source)
            yield f"recipe of {name}: {key} = {_value_text(found)}: {entry.sources[source]}"
        for source in entry.sources.keys() - used:
            raise UserError(f"contestants.{name}.sources.{source}: no such option is in use; remove it")


def _values(settings: Settings, name: str) -> Values:
    """Return the options of a contestant that are set, on every task; names of other contestants are left out."""
    found: Values = {}
    for task in settings.tasks:
        options = contestant(settings, name, task).options
        for field, value in options.model_dump(mode="json").items():
            kind = type(options).model_fields[field].annotation
            if not isinstance(value, dict):
                named = kind is str and value in settings.contestants
                leaves = {} if named else {(field, ""): value}
            elif get_origin(kind) is dict:  # of variants
                leaves = {
                    (f"{field}.{key}", variant): each for variant, own in value.items() for key, each in own.items()
                }
            else:
                leaves = {(f"{field}.{key}", ""): each for key, each in value.items()}
            for (key, variant), each in leaves.items():
                if each not in (None, [], {}):
                    found.setdefault(key, {})[variant, task] = each
    return found


def _value_text(found: dict[tuple[str, str], Any]) -> str:
    """Return the values as text, by variant and task where they differ."""
    parts = []
    for variant in dict.fromkeys(variant for variant, _ in found):
        tasks: dict[str, list[str]] = {}
        for (owner, task), value in found.items():
            if owner == variant:
                tasks.setdefault(f"{value:.3g}" if isinstance(value, float) else str(value), []).append(task)
        said = " or ".join(f"{value} ({', '.join(own)})" for value, own in tasks.items())
        parts.append(f"{variant} {said if len(tasks) > 1 else next(iter(tasks))}".strip())
    return "; ".join(parts)
