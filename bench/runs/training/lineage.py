"""The training budget: count the optimizer steps behind a variant's weights, and fit its epochs to a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.context import data_survey
from bench.errors import UserError
from bench.method import Method, contestant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.method import Stage

TOLERANCE = 0.05
"""Largest relative deviation of a variant's steps from its training budget."""


def stages_of(method: Method, variant: str, examples: int) -> Sequence[Stage]:
    """Return the stages that `variant` trains on `examples` training examples, fitted to the training budget."""
    return within_budget(method, variant, examples).stages(variant, examples)


def steps_in_all(method: Method, variant: str, examples: int) -> int:
    """Count the optimizer steps behind a variant's weights.

    Returns:
        Steps of the variant plus those of the models from whose weights it continues (`Method.starts_from`). Auxiliary
        stages, whose weights do not become part of the model, do not count.
    """
    return _own_steps(within_budget(method, variant, examples), variant, examples) + _inherited(
        method, variant, examples
    )


def lineage(method: Method, variant: str) -> list[dict[str, Any]]:
    """Return the inputs of `steps_in_all` as plain values: options of a variant and of the models it continues."""
    own = {"class": type(method).__qualname__, "version": method.version, "options": method.relevant_options(variant)}
    source = _source(method, variant)
    return [own, *(lineage(*source) if source else [])]


def within_budget(method: Method, variant: str, examples: int) -> Method:
    """Return the method with its epochs scaled so that `steps_in_all` of the variant meets the training budget.

    All epochs are multiplied by the same factor, so the proportions of the stages do not change. Without
    `training.budget`, and for a variant that does not train, the method is returned unchanged.

    Raises:
        UserError: If no factor brings the steps within 5 % of the budget, or a stage has another batch size.
    """
    budget = method.settings.training.budget
    if budget is None or not _own_steps(method, variant, examples):
        return method
    return _fitted(method, variant, examples)


def _fitted(method: Method, variant: str, examples: int) -> Method:
    settings, where = method.settings, f"contestants.{method.name}"
    budget = settings.training.budget
    assert budget is not None
    share = settings.contestants[method.name].share
    whole = share * budget.of(method.task.name)
    wanted = whole - _inherited(method, variant, examples)
    if wanted < 1:
        raise UserError(
            f"{where}: the models that {variant} continues use its whole training budget of {whole:g} "
            "steps; give them a smaller `share`"
        )

    def scaled(factor: float) -> Method:
        options = method.options.scaled(factor, budget.batch_size)
        return type(method)(method.name, method.task, options, settings)

    low, high = 2.0**-20, 2.0**20
    best, best_steps = method, 0
    for _ in range(60):  # steps grow with the factor, in whole numbers
        factor = (low * high) ** 0.5
        candidate = scaled(factor)
        steps = _own_steps(candidate, variant, examples)
        if abs(steps - wanted) < abs(best_steps - wanted):
            best, best_steps = candidate, steps
        if steps == round(wanted):
            break
        low, high = (factor, high) if steps < wanted else (low, factor)
    if abs(best_steps - wanted) > TOLERANCE * whole:
        raise UserError(
            f"{where}: {variant} cannot be trained for {wanted:g} steps on {method.task.name} (nearest: {best_steps}); "
            "change training.budget.steps or the share, or declare its epochs as `bench.method.Epochs`"
        )
    if other := {stage.plan.batch_size for stage in best.stages(variant, examples)} - {budget.batch_size}:
        raise UserError(
            f"{where}: {variant} trains with batches of {min(other)}, not {budget.batch_size}; "
            "declare its batch size as `bench.method.BatchSize`"
        )
    return best


def _own_steps(method: Method, variant: str, examples: int) -> int:
    return sum(stage.steps for stage in method.stages(variant, examples) if not stage.auxiliary)


def _inherited(method: Method, variant: str, examples: int) -> int:
    source = _source(method, variant)
    if source and source[0].task.name != method.task.name:
        examples = data_survey(method.settings, source[0].task).sizes["train"]
    return steps_in_all(*source, examples) if source else 0


def _source(method: Method, variant: str) -> tuple[Method, str] | None:
    """Return the method and variant from whose weights `variant` continues; None if none."""
    source = method.starts_from(variant)
    if source is None:
        return None
    return contestant(method.settings, source.contestant, source.task or method.task.name), source.variant
