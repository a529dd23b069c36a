"""The contract of a contestant: a shape, a recipe and an exit policy, in one class named by its import path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import UserError
from bench.exit_policies.policies import Policy, policy_for
from bench.names import valid_name
from bench.settings import Settings, explain, twins
from bench.store import RunKey
from bench.tasks.catalogue import Task
from bench.tasks.catalogue import task as task_named

if TYPE_CHECKING:
    from optuna import Trial
    from transformers import PreTrainedModel

    from bench.context import Context
    from bench.encoder import Shape
    from bench.training.loop import Plan


class _Mark:
    """Marks option fields that a training budget changes."""


EPOCHS, BATCH_SIZE = _Mark(), _Mark()
Epochs = Annotated[float, Field(gt=0), EPOCHS]
"""A positive number of epochs; a training budget multiplies it (`bench.lineage.within_budget`)."""
OptionalEpochs = Annotated[float | None, Field(gt=0), EPOCHS]
"""The same, or None."""
BatchSize = Annotated[int, Field(ge=1), BATCH_SIZE]
"""Rows of a training batch; a training budget replaces it."""


class Options(BaseModel):
    """Options of a method. A subclass adds its fields, each with a description.

    A checkpoint that may be a folder has the type `bench.settings.Checkpoint`: `~` and variables are expanded in it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def scaled(self, factor: float, batch_size: int) -> Self:
        """Return a copy with all `Epochs` multiplied by `factor` and every `BatchSize` set to `batch_size`.

        Options nested in fields or in dictionaries are scaled too.
        """

        def changed(value: Any, marks: Sequence[Any]) -> Any:
            if isinstance(value, Options):
                return value.scaled(factor, batch_size)
            if isinstance(value, dict):
                return {key: changed(each, marks) for key, each in value.items()}
            if EPOCHS in marks and value is not None:
                return value * factor
            return batch_size if BATCH_SIZE in marks else value

        fields = type(self).model_fields
        return self.model_copy(
            update={name: changed(getattr(self, name), field.metadata) for name, field in fields.items()}
        )


@dataclass(frozen=True)
class Stage:
    """One training of a recipe: what `as_long_as` adds up, and what a forecast counts."""

    plan: Plan
    examples: int
    shape: Shape
    """Of the model that is trained; at its end where the stage changes it."""
    selects: bool = False
    """Whether the selection split is read after every epoch, where there are several."""
    kept: Shape | None = None
    """A frozen model that reads every example once: its answers are kept."""
    beside: Shape | None = None
    """A frozen model that reads every batch."""
    words: float = 0.0
    """Part of the tokens for which both compute a distribution over the vocabulary."""
    scored: int = 0
    """Examples that are read and differentiated without a step, for an importance."""
    auxiliary: bool = False
    """Whether the trained weights only serve the recipe and do not end up in the variant's model."""

    @property
    def steps(self) -> int:
        return self.plan.step_count(self.examples)


@dataclass(frozen=True)
class Needed:
    """A trained model that another contestant makes, of the same task and seed."""

    contestant: str
    variant: str


class Method:
    """A contestant on one task. A subclass cites its paper here and fills in what is below."""

    Options: ClassVar[type[Options]] = Options
    version: ClassVar[int] = 1
    """Raised when the algorithm changes, so that kept results of the old one are made anew."""
    policy: str | type[Policy] = "none"
    """The family of exit policies: entropy, confidence, patience, divergence or none, or a `Policy` of one's own.

    On regression entropy, confidence and divergence become agreement of successive predictions within a swept
    tolerance, and patience counts the predictions that agree within a fixed one."""

    def __init__(self, name: str, task: Task, options: Any, settings: Settings) -> None:
        self.name, self.task, self.options, self.settings = name, task, options, settings

    def variants(self) -> Sequence[str]:
        """The named points that it trains on this task."""
        raise NotImplementedError

    def check(self) -> None:
        """Raises UserError for what cannot work (a ratio that leaves half a head), before anything trains."""

    def needs(self, variant: str) -> Sequence[Needed]:
        """The other contestants' models that `train` asks the context for."""
        return ()

    def needed(self, key: RunKey) -> tuple[RunKey, ...]:
        """The runs that a run of this method needs: `needs` of the same task and seed."""
        return tuple(RunKey(key.task, need.contestant, need.variant, key.seed) for need in self.needs(key.variant))

    def asked(self, variant: str) -> dict[str, Any]:
        """The options that a run of `variant` depends on; a change of one makes kept runs anew."""
        return self.options.model_dump(mode="json")

    def checkpoints(self, variant: str) -> Sequence[str]:
        """The pre-trained checkpoints, besides the backbone, that `train` starts from.

        Folders, or Hub ids, which may carry a commit (`owner/name@commit`).
        """
        return ()

    def accepts(self, variant: str) -> bool:
        """Whether it can train this variant; a method with a search space also accepts the points of that."""
        return variant in self.variants()

    def label(self, variant: str) -> str:
        """What tables and figures print."""
        return f"{self.name} {variant}"

    def titled(self, title: str, usual: str) -> str:
        """`title`, and this contestant's name where it is not the `usual` one: two of a kind stay apart in tables."""
        return title if self.name == usual else f"{title}, {self.name}"

    def exit_start(self) -> int:
        """The first exit (1-based) at which an example may leave."""
        return 1

    def rule(self) -> Policy:
        """The exit rule on this task. Raises UserError for a policy that is none."""
        try:
            return policy_for(self.policy, self.task.regression, self.exit_start())
        except UserError as error:
            raise UserError(f"contestants.{self.name}: {error}") from None

    def train(self, context: Context, variant: str) -> PreTrainedModel:
        """The trained model: an `Encoder` or a `Cascade`."""
        raise NotImplementedError

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Optional: the trainings that `train` goes through for this variant on so many examples."""
        raise UserError(f"{self.name}: this method does not say how long it trains; give it `stages`")

    @property
    def backbone(self) -> Shape:
        """The shape of the settings' backbone."""
        from bench.encoder.backbones import shape_of  # heavy: who only prints a label need not wait for it

        return shape_of(self.settings.backbone.name, self.settings.backbone.revision)

    def starts_from(self, variant: str) -> Needed | None:
        """The model among `needs` whose weights this variant's own continue, if any."""
        return None

    def search_space(self, trial: Trial) -> str:
        """Optional: the variant name of a point drawn from the method's ratio space (for `sweeping.ratios`)."""
        raise UserError(f"{self.name}: this method has no search space; a study needs one that has")


def contestant(settings: Settings, name: str, task: str) -> Method:
    """The contestant `name` of the settings, on one task. Raises UserError where it cannot be found or set up."""
    if name not in settings.contestants:
        raise UserError(f"unknown contestant {name!r}; there are {', '.join(settings.contestants)}")
    entry = settings.contestants[name]
    module, _, attribute = entry.method.partition(":")
    for folder in (str(Path.cwd()), str(settings.folder.absolute())):  # one's own lies beside its profile
        if folder not in sys.path:
            sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a module of the user's raises while it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"contestants.{name}.method: {entry.method} cannot be imported: {reason}") from None
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(f"contestants.{name}.method: {entry.method} is not a bench.method.Method")
    try:
        options = found.Options.model_validate(entry.options_for(task))
    except ValidationError as error:
        raise UserError(f"contestants.{name}.options ({task}): {explain(error, found.Options)}") from None
    return found(name, task_named(task, settings.own_tasks), options, settings)


def check_variants(method: Method) -> None:
    """Raise UserError for a variant that cannot be the name of a folder, and for two that would share one."""
    where, variants = f"contestants.{method.name}.options ({method.task.name})", list(method.variants())
    for variant in variants:
        if not valid_name(variant):
            raise UserError(
                f"{where}: a variant named {variant!r}; use at most 64 letters, digits, points, - and _, such as 2x"
            )
    if wrong := twins(variants):
        raise UserError(f"{where}: of the variants, {wrong}; remove one of the two")
