"""The five steps of COST-EFF: teacher, assistant, slenderise, recover representations, recover predictions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BeforeValidator, Field

from bench.context import Context
from bench.encoder import Encoder, Width, ratio_width
from bench.errors import UserError
from bench.method import BatchSize, Epochs, Method, Needed, OptionalEpochs, Options, Stage
from bench.settings import Count, Layers, LearningRate
from bench.training.loop import Plan
from costeff.distillation import Distillation, assistant_loss
from costeff.importance import Importance, random, taylor
from costeff.slenderise import Schedule, periods_of, shallow, shallow_shape, slenderise, widths

if TYPE_CHECKING:
    from optuna import Trial


def _quotient(value: Any) -> Any:
    """Return the value of a text such as 1/6, and other values unchanged."""
    written = isinstance(value, str) and re.fullmatch(r"([0-9]{1,9})/([1-9][0-9]{0,8})", value)
    return float(Fraction(int(written[1]), int(written[2]))) if written else value


Ratio = Annotated[float, BeforeValidator(_quotient)]


class Size(Options):
    """Fractions of the backbone's width, as numbers or as text such as 1/6."""

    heads: Ratio = Field(gt=0, le=1, description="Attention heads of every layer.")
    ffn: Ratio = Field(gt=0, le=1, description="FFN neurons of every layer.")
    rank: Ratio = Field(gt=0, le=1, description="Rank of the word embedding; 1: not factorised.")
    # The authors' epochs depend on the size.
    rate: OptionalEpochs = Field(None, description="This size's epochs of a slenderising period.")
    hidden_epochs: OptionalEpochs = Field(None, description="This size's epochs of recovering representations.")
    epochs: OptionalEpochs = Field(None, description="This size's epochs of recovering predictions.")


class AssistantOptions(Options):
    """Options of step 2."""

    teacher: str = Field("teacher", description="The contestant that is the teacher.")
    hidden_epochs: Epochs = Field(1, description="Epochs of hidden-state distillation (the authors': a third).")
    epochs: Epochs = Field(3, description="Epochs of prediction distillation.")
    learning_rate: LearningRate = Field(2e-5, description="Peak learning rate.")
    batch_size: BatchSize = Field(32, description="Batch size.")
    equilibrium: bool = Field(True, description="Gradient equilibrium (an ablation switch).")


class Assistant(Method):
    """COST-EFF's teaching assistant (Shen et al., EMNLP 2022, section 3.2): full width, an exit after every layer.

    Starts from the pretrained weights; the teacher's hidden states, then its predictions are distilled.
    """

    Options = AssistantOptions
    policy = "entropy"

    def needs(self, variant: str) -> Sequence[Needed]:
        """Return the teacher."""
        return [Needed(self.options.teacher, "full")]

    def label(self, variant: str) -> str:
        """Return the name in tables."""
        return self.titled("COST-EFF assistant (full width)", "assistant")

    def train(self, context: Context, variant: str) -> Encoder:
        """Distil hidden states, then predictions."""
        options = self.options
        teacher = context.teacher(context.model(options.teacher, "full"), hidden=True)
        model = context.backbone("tanh", exits="all")
        representations, predictions = self._plans
        hidden = Distillation(teacher, equilibrium=options.equilibrium)
        context.fit(model, hidden.representations, representations, "hidden")
        context.fit(model, assistant_loss(teacher, options.equilibrium), predictions, "predictions", select=True)
        return model

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return the two stages."""
        representations, predictions = self._plans
        return [
            Stage(representations, examples, self.backbone, kept=self.backbone),
            Stage(predictions, examples, self.backbone, selects=True),
        ]

    @property
    def _plans(self) -> tuple[Plan, Plan]:
        options = self.options
        plan = Plan(options.hidden_epochs, options.learning_rate, options.batch_size)
        return plan, replace(plan, epochs=options.epochs)


class CostEffOptions(Options):
    """Options of steps 3 to 5, and switches for ablations."""

    sizes: dict[str, Size] = Field(description="Variant name -> its size, such as 2x: {heads: 1/2, ...}.")
    assistant: str = Field("assistant", description="The contestant that is the teaching assistant.")
    teacher: str = Field("teacher", description="The single-exit teacher, used where distil_from is teacher.")
    batch_size: BatchSize = Field(32, description="Batch size of every stage.")
    rate: Epochs = Field(0.5, description="Epochs of a slenderising period.")
    slenderise_rate: LearningRate = Field(1e-5, description="Learning rate of period k, without (1 + growth)^k.")
    growth: float = Field(
        0.12,
        ge=0,
        le=10,
        description="Relative growth of the learning rate per period (authors: 0.15 at batch size 64).",
    )
    first: float = Field(
        0.7, ge=0, le=1, description="Fraction of a period that distils hidden states alone (MRPC, CoLA: 0.5)."
    )
    importance_examples: Count | None = Field(
        None, ge=1, description="Training examples from which importance is computed; null: all."
    )
    hidden_epochs: Epochs = Field(8, description="Epochs of recovering representations (step 4).")
    hidden_rate: LearningRate = Field(3e-5, description="Learning rate of step 4.")
    epochs: Epochs = Field(5, description="Epochs of recovering predictions (step 5).")
    learning_rate: LearningRate = Field(2e-5, description="Learning rate of step 5.")
    exit_start: Layers = Field(1, description="First exit at which an example may exit.")
    # Ablations, of the paper and others.
    distil_from: Literal["assistant", "teacher"] = Field("assistant", description="teacher: no teaching assistant.")
    importance: Literal["taylor", "last_exit", "random"] = Field(
        "taylor", description="last_exit: from the loss of the last exit only; random: a control."
    )
    training: Literal["joint", "two_stage"] = Field(
        "joint", description="two_stage: the backbone first, then the exits on the frozen backbone."
    )
    compress: Literal["slender", "shallow"] = Field("slender", description="shallow: fewer layers, as many parameters.")
    losses: Literal["both", "hidden", "prediction"] = Field("both", description="Distillation losses that are used.")
    iterative: bool = Field(True, description="false: a single cut, then as many steps as all periods.")
    equilibrium: bool = Field(True, description="Gradient equilibrium.")


@dataclass(frozen=True)
class Stages:
    """Plans of one variant's stages; their optimizer steps add up to the same number in every ablation."""

    periods: list[Plan]
    """Step 3: one plan for each period; a single one for a model of fewer layers or a single cut."""
    representations: Plan | None
    """Step 4."""
    predictions: Plan
    """Step 5; with two-stage training its first half, which trains the backbone with the last exit."""
    exits: Plan | None
    """With two-stage training the second half, which trains all exits on the frozen backbone."""


class CostEff(Method):
    """COST-EFF (Shen et al., EMNLP 2022, arXiv 2210.15523): a BERT of reduced width with an exit after each layer.

    Starts from the teaching assistant, which is also its teacher. Removes one head in each step by a Taylor importance
    of the losses of all exits; then recovers representations, then predictions. An example exits at the first exit
    whose entropy is below the threshold.

    Two-stage training is an ablation: the backbone is trained first, then the exits on the frozen backbone. While the
    backbone is trained, the last exit alone is in the loss and in the choice of the epoch, and there are no gradients
    of several exits to average. The importance still uses all exits, with the exit heads of the assistant, which fit
    because the hidden-state loss keeps the layers close to the assistant's; `importance: last_exit` is an ablation of
    its own.
    """

    Options = CostEffOptions
    policy = "entropy"

    def variants(self) -> Sequence[str]:
        """Return the names of the sizes."""
        return list(self.options.sizes)

    def check(self) -> None:
        """Check every size."""
        for variant in self.variants():
            self._width(variant)

    def accepts(self, variant: str) -> bool:
        """Return whether `variant` is a size of the options, or a width such as h6-f768-r192 within the backbone's."""
        if variant in self.options.sizes:
            return True
        width, full = _named_width(variant), self._full
        return width is not None and width.heads <= full.heads and width.ffn <= full.ffn and width.rank <= full.rank

    def needs(self, variant: str) -> Sequence[Needed]:
        """Return the assistant, or the teacher without one."""
        return [Needed(self._source, "full")]

    def relevant_options(self, variant: str) -> dict[str, Any]:
        """Return the options with this size alone, so that a new size does not retrain the others."""
        options = super().relevant_options(variant)
        return options | {"sizes": {name: size for name, size in options["sizes"].items() if name == variant}}

    def label(self, variant: str) -> str:
        """Return the name in tables."""
        return self.titled(f"COST-EFF {variant}", "costeff")

    def exit_start(self) -> int:
        """Return the first exit (1-based) at which an example may exit."""
        return self.options.exit_start

    def train(self, context: Context, variant: str) -> Encoder:
        """Slenderise the source model, then recover representations and predictions."""
        options, target = self._recipe(variant), self._width(variant)
        source = context.model(self._source, "full")
        model = _with_exits(context, source)
        kept: list[int] | None = None
        if options.compress == "shallow":
            model, kept = shallow(model, target)
        distillation = Distillation(
            context.teacher(source, hidden=True),
            equilibrium=options.equilibrium and options.training == "joint",
            hidden=options.losses != "prediction",
            prediction=options.losses != "hidden",
            exits=[-1] if options.training == "two_stage" else None,
            levels=None if kept is None else [0, *(layer + 1 for layer in kept)],
        )
        stages = self._stages(variant, len(context.train))
        if kept is None:
            model = slenderise(
                context,
                model,
                target,
                distillation,
                _schedule(options),
                self._importance(context, distillation),
                examples=options.importance_examples,
                iterative=options.iterative,
            )
        else:
            context.fit(model, distillation.while_slenderising(options.first), stages.periods[0], "shallow")
        return _recover(context, stages, model, distillation)

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return the periods and the stages of recovery."""
        options, stages, target = self._recipe(variant), self._stages(variant, examples), self._width(variant)
        if options.compress == "shallow":
            final, passed = shallow_shape(self.backbone, target), [target]
        else:
            final, passed = self.backbone.narrowed(target), widths(self._full, target, options.iterative)
        read = 0 if options.importance == "random" or options.compress == "shallow" else options.importance_examples
        scored = examples if read is None else min(read, examples)
        found = [
            Stage(
                plan, examples, final if options.compress == "shallow" else self.backbone.narrowed(width), scored=scored
            )
            for plan, width in zip(stages.periods, passed, strict=True)
        ]
        found[0] = replace(found[0], kept=self.backbone)
        after = [plan for plan in (stages.representations, stages.predictions, stages.exits) if plan]
        return found + [Stage(plan, examples, final, selects=plan is not stages.representations) for plan in after]

    def starts_from(self, variant: str) -> Needed | None:
        """Return the model whose weights are slenderised."""
        return Needed(self._source, "full")

    def _stages(self, variant: str, examples: int) -> Stages:
        options, size = self._recipe(variant), self.options.batch_size
        iterative = options.iterative and options.compress == "slender"
        periods = periods_of(_schedule(options), self._full, self._width(variant), examples, iterative)
        if options.compress == "shallow":
            periods = [replace(periods[0], learning_rate=options.slenderise_rate, warmup_floor=0)]
        hidden = Plan(options.hidden_epochs, options.hidden_rate, size)
        predictions, exits = Plan(options.epochs, options.learning_rate, size), None
        steps = predictions.step_count(examples)
        representations = None if options.losses == "prediction" else hidden
        if options.losses == "prediction":
            steps += hidden.step_count(examples)
        if options.training == "two_stage" and steps > 1:
            exits = replace(predictions, steps=steps // 2)
            steps -= steps // 2
        return Stages(periods, representations, replace(predictions, steps=steps), exits)

    def search_space(self, trial: Trial) -> str:
        """Return a width: heads in steps of 1, FFN in sixteenths and rank in twelfths of the backbone's."""
        full = self._full
        heads = trial.suggest_int("heads", max(1, full.heads // 6), full.heads)
        ffn = trial.suggest_int("ffn", full.ffn // 16, full.ffn, step=full.ffn // 16)
        rank = trial.suggest_int("rank", full.rank // 12, full.rank, step=full.rank // 12)
        return f"h{heads}-f{ffn}-r{rank}"

    @property
    def _source(self) -> str:
        return self.options.assistant if self.options.distil_from == "assistant" else self.options.teacher

    @property
    def _full(self) -> Width:
        return self.backbone.slender

    def _recipe(self, variant: str) -> CostEffOptions:
        """Return the options with the epochs of this size."""
        size = self.options.sizes.get(variant)
        own = {key: getattr(size, key, None) for key in ("rate", "hidden_epochs", "epochs")}
        return self.options.model_copy(update={key: value for key, value in own.items() if value is not None})

    def _width(self, variant: str) -> Width:
        """Return the width of a size, or of a name such as h6-f768-r192."""
        explicit = _named_width(variant)
        if explicit and variant not in self.options.sizes:
            return explicit
        if variant not in self.options.sizes:
            raise UserError(f"{self.name}: unknown size {variant!r}; there are {', '.join(self.options.sizes)}")
        ratios = self.options.sizes[variant]
        try:
            return ratio_width(self._full, ratios.heads, ratios.ffn, ratios.rank)
        except UserError as error:
            raise UserError(f"contestants.{self.name}.options.sizes.{variant}: {error}") from None

    def _importance(self, context: Context, distillation: Distillation) -> Callable[[Encoder, np.ndarray], Importance]:
        kind = self.options.importance
        if kind == "random":
            return lambda model, chosen: random(model, context.seed)
        losses = replace(distillation, hidden=True, prediction=True, exits=[-1] if kind == "last_exit" else None)
        size, bfloat16 = self.options.batch_size, context.machine.bfloat16
        return lambda model, chosen: taylor(model, losses.importance, context.train, chosen, size, bfloat16)


def _named_width(variant: str) -> Width | None:
    """Return the width that a name such as h6-f768-r192 stands for; each width has one name."""
    found = re.fullmatch(r"h([1-9]\d*)-f([1-9]\d*)-r([1-9]\d*)", variant)
    return Width(*(int(number) for number in found.groups())) if found else None


def _schedule(options: CostEffOptions) -> Schedule:
    return Schedule(options.rate, options.slenderise_rate, options.growth, options.first, options.batch_size)


def _recover(context: Context, stages: Stages, model: Encoder, distillation: Distillation) -> Encoder:
    """Run steps 4 and 5, and with two-stage training the stage of the exits."""
    if stages.representations:
        context.fit(model, distillation.representations, stages.representations, "representations")
    context.fit(model, distillation.predictions, stages.predictions, "predictions", select=distillation.exits or True)
    if stages.exits:
        model.requires_grad_(False)
        model.exit_heads.requires_grad_(True)
        exits = replace(distillation, hidden=False, prediction=True, exits=None)
        context.fit(model, exits.predictions, stages.exits, "exits", select=True)
    return model


def _with_exits(context: Context, source: Encoder) -> Encoder:
    """Return a copy of `source` with an exit after every layer; exit heads are new unless `source` has the same."""
    model = context.backbone("tanh", exits="all")
    weights = source.state_dict()
    if source.config.exits != model.config.exits or source.config.head != model.config.head:
        weights = {
            key: value for key, value in weights.items() if key.startswith(("embeddings.", "layers.", "final_norm."))
        }
    model.load_state_dict(weights, strict=False)
    return model
