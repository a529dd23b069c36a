"""The interface of a method: its variants, its training and its exit policy in one class."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, ValidationError

from bench.errors import NoStages, UserError
from bench.exit_policies.policies import Policy, policy_for
from bench.names import valid_name
from bench.settings import BatchCount, Settings, Values, explain, twins
from bench.store import RunKey, needed_run
from bench.tasks.catalogue import Task
from bench.tasks.catalogue import task as task_named

if TYPE_CHECKING:
    from optuna import Trial
    from transformers import PreTrainedModel

    from bench.context import Context
    from bench.encoder import Shape
    from bench.training.loop import Plan


class _Mark:
    """Mark of an option that depends on the training budget."""


EPOCHS, BATCH_SIZE = _Mark(), _Mark()
Epochs = Annotated[float, Field(gt=0, le=10_000), EPOCHS]
"""A positive number of epochs; a training budget multiplies it (`bench.runs.training.lineage.within_budget`)."""
OptionalEpochs = Annotated[float | None, Field(gt=0, le=10_000), EPOCHS]
"""A number of epochs like `Epochs`, or None."""
BatchSize = Annotated[BatchCount, BATCH_SIZE]
"""Number of examples in a training batch; a training budget replaces it."""


class Options(Values):
    """Base class of the options of a method. A subclass adds fields, each with a description.

    Declare a checkpoint that may be a folder as `bench.settings.Checkpoint`, which expands `~` and environment
    variables. Give each number a range, or a type that has one, such as `bench.settings.LearningRate`.
    """

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
    """Size of one training stage, from which its number of steps and its cost are computed.

    Attributes:
        plan: Length, schedule and optimizer.
        examples: Number of training examples.
        shape: Shape of the trained model; its final shape if the stage changes it.
        selects: Whether the selection split is evaluated after every epoch if there are several.
        kept: Shape of a frozen model that reads every example once and whose outputs are kept.
        beside: Shape of a frozen model that reads every batch.
        words: Fraction of the tokens for which both models compute a distribution over the vocabulary.
        scored: Number of examples with a forward and backward pass but no optimizer step, for importance scores.
        auxiliary: Whether the trained weights do not become part of the model of the variant.
        depth: Mean number of layers that a training step computes, for models whose layers are used several times or
            not in every step; None: every layer once. A frozen layer, of which the forward pass alone is computed,
            counts as a third.
        other_macs: Multiply-adds, in forward passes, of training that does not read the text, of an auxiliary network.
    """

    plan: Plan
    examples: int
    shape: Shape
    selects: bool = False
    kept: Shape | None = None
    beside: Shape | None = None
    words: float = 0.0
    scored: int = 0
    auxiliary: bool = False
    depth: float | None = None
    other_macs: float = 0.0

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        return self.plan.step_count(self.examples)

    @classmethod
    def untrained(cls, shape: Shape, examples: int, scored: int = 0) -> Stage:
        """Return a stage without optimizer steps, for a method that does not train; see the attributes."""
        from bench.training.loop import Plan  # imports torch, which is slow

        return cls(Plan(epochs=0, learning_rate=0, steps=0), examples, shape, scored=scored)


@dataclass(frozen=True)
class Needed:
    """A trained model of another contestant.

    Attributes:
        contestant: Name of the contestant.
        variant: Its variant.
        task: Task of the model, for a model that serves several tasks; None: the task of the run. The seed is that of
            the run, or the first one of the task if the task does not have it.
    """

    contestant: str
    variant: str
    task: str | None = None


class Method:
    """Base class of a method, set up for one task.

    A subclass implements `train`, cites its paper in its docstring, and overrides the other methods where their
    defaults do not apply.

    Attributes:
        Options: Class of the options.
        version: Version of the algorithm. Raise it when the algorithm changes, so that its runs are trained again.
        policy: Exit policy: entropy, confidence, patience, similarity, divergence, none, or a subclass of `Policy`. On
            regression entropy, confidence, similarity and divergence are replaced by agreement: successive predictions
            differ by less than a threshold. Patience then counts predictions within a fixed tolerance.
    """

    Options: ClassVar[type[Options]] = Options
    version: ClassVar[int] = 1
    policy: str | type[Policy] = "none"

    def __init__(self, name: str, task: Task, options: Any, settings: Settings) -> None:
        self.name, self.task, self.options, self.settings = name, task, options, settings

    def variants(self) -> Sequence[str]:
        """Return the names of the variants that the contestant trains on this task; by default one, `full`."""
        return ["full"]

    def check(self) -> None:
        """Check the options before anything trains.

        Raises:
            UserError: If the options cannot work, for example a pruning ratio that leaves half an attention head.
        """

    def needs(self, variant: str) -> Sequence[Needed]:
        """Return the models of other contestants that `train` loads with `Context.model`.

        By default the one that `starts_from` names.
        """
        source = self.starts_from(variant)
        return [source] if source else []

    def needed(self, key: RunKey) -> tuple[RunKey, ...]:
        """Return the keys of the runs that `needs` names, for the task and seed of `key`."""
        return tuple(
            needed_run(self.settings, key, need.contestant, need.variant, need.task) for need in self.needs(key.variant)
        )

    def relevant_options(self, variant: str) -> dict[str, Any]:
        """Return the options that a run of `variant` depends on, as plain values. They are part of its identity."""
        return self.options.model_dump(mode="json")

    def checkpoints(self, variant: str) -> Sequence[str]:
        """Return the pretrained checkpoints, other than the backbone, from which `train` starts.

        Each is a folder or a Hub id, optionally with a commit (`owner/name@commit`).
        """
        return ()

    def accepts(self, variant: str) -> bool:
        """Return whether the contestant can train this variant.

        A method with a search space also accepts the variants of that space.
        """
        return variant in self.variants()

    def label(self, variant: str) -> str:
        """Return the name of the variant in tables and figures."""
        return f"{self.name} {variant}"

    def titled(self, title: str, usual: str) -> str:
        """Return `title`, followed by the name of the contestant without the prefix `usual` unless that is its name.

        This keeps two contestants of the same method apart in tables: `costeff-half` becomes "COST-EFF, half".
        """
        return title if self.name == usual else f"{title}, {self.name.removeprefix(f'{usual}-')}"

    def exit_start(self) -> int:
        """Return the first exit (1-based) at which an example may exit."""
        return 1

    def exit_policy(self) -> Policy:
        """Return the exit policy on this task.

        Raises:
            UserError: If `policy` is neither a known name nor a subclass of `Policy`.
        """
        try:
            return policy_for(self.policy, self.task.regression, self.exit_start())
        except UserError as error:
            raise UserError(f"contestants.{self.name}: {error}") from None

    def train(self, context: Context, variant: str) -> PreTrainedModel:
        """Train a variant and return its model, an `Encoder` or a `Cascade`.

        Args:
            context: Data, backbone, models of other contestants and the training loop.
            variant: Name of the variant.
        """
        raise NotImplementedError

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return the stages of `train` for a variant on a number of training examples.

        Optional: forecasts, training budgets and training costs need it.

        Raises:
            NoStages: If the method does not implement it.
        """
        raise NoStages(
            f"contestants.{self.name}: its method does not implement `stages`, which training budgets, costs and "
            "forecasts need"
        )

    @property
    def backbone(self) -> Shape:
        """The shape of the backbone."""
        from bench.encoder.backbones import shape_of  # slow to import, and not needed for labels

        backbone = self.settings.backbone
        return shape_of(backbone.name, backbone.revision, backbone.layers)

    def backbone_of_bert(self) -> Shape:
        """Return the shape of the backbone, for a method that needs BERT's layout.

        Raises:
            UserError: If the backbone has another layout.
        """
        shape = self.backbone
        if shape.layout != "bert":
            raise UserError(
                f"contestants.{self.name}: {self.settings.backbone.name} has {shape.layout}'s layout, and the method "
                "needs BERT's; remove the contestant, or use another backbone"
            )
        return shape

    def starts_from(self, variant: str) -> Needed | None:
        """Return the model among `needs` whose weights this variant continues, or uses as they are, if any."""
        return None

    def search_space(self, trial: Trial) -> str:
        """Draw a point of the space of pruning ratios and return its variant name.

        Optional: a ratio study needs it.

        Args:
            trial: Optuna trial that suggests the values.

        Raises:
            UserError: If the method has no search space.
        """
        raise UserError(f"contestants.{self.name}: its method does not implement `search_space`, which a study needs")


def contestant(settings: Settings, name: str, task: str) -> Method:
    """Return a contestant of the settings, set up for one task.

    Raises:
        UserError: If there is no such contestant, or its class or options are not valid.
    """
    if name not in settings.contestants:
        raise UserError(f"unknown contestant {name!r}; there are {', '.join(settings.contestants)}")
    entry = settings.contestants[name]
    module, _, attribute = entry.method.partition(":")
    for folder in (str(Path.cwd()), str(settings.folder.absolute())):  # a user's module may lie beside the profile
        if folder not in sys.path:
            sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # the user's module may raise any exception
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
    """Check the variant names of a contestant.

    Raises:
        UserError: If a name is not valid as a folder name, or two names map to the same folder.
    """
    where, variants = f"contestants.{method.name}.options ({method.task.name})", list(method.variants())
    for variant in variants:
        if not valid_name(variant):
            raise UserError(
                f"{where}: the variant name {variant!r} is not valid; use at most 64 letters, digits, points, - and _"
            )
    if wrong := twins(variants):
        raise UserError(f"{where}: variants: {wrong}, so they would share a folder; rename or remove one")
