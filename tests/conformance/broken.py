"""Methods with one error each, which the conformance suite must detect."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

from bench.encoder import Encoder, EncoderConfig
from bench.exit_policies.policies import Entropy
from bench.method import Method, Needed, Options, Stage
from bench.training.loop import Plan
from bench.training.losses import over_exits, task_loss


class Small(Options):
    learning_rate: float = Field(3e-3, gt=0, description="Peak learning rate.")


def joint(model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
    output = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
    return over_exits(task_loss, output.exit_logits, batch["labels"])


class Sound(Method):
    """Nothing is wrong with it; two layers of exits, a few steps."""

    Options = Small
    policy = "entropy"

    def train(self, context, variant):
        model = context.backbone("tanh", exits="all")
        context.fit(model, joint, Plan(3, self.options.learning_rate), "joint")
        return model


class NeedsNobody(Sound):
    def needs(self, variant):
        return [Needed("unknown", "full")]


class NoVariants(Sound):
    def variants(self):
        return not_imported.names  # noqa: F821


class NoPolicy(Sound):
    @property
    def policy(self):
        return NotImported  # noqa: F821


class NoStatistic(Sound):
    """Its training is sound; its exit policy uses a name that is not imported."""

    @property
    def policy(self):
        return Nameless


class Nameless(Entropy):
    name = "nameless"

    def statistic(self, logits, signal=None):
        return not_imported.entropy(logits)  # noqa: F821


class Raises(Sound):
    def train(self, context, variant):
        raise KeyError("a fault of mine")


class TrainsLonger(Sound):
    """Trains twice as long as its stages state."""

    def stages(self, variant, examples):
        return [Stage(Plan(1.5, self.options.learning_rate), examples, self.backbone)]


class Unsaved(Sound):
    """Its answers depend on a number that is not among its weights."""

    def train(self, context, variant):
        model = super().train(context, variant)
        inner = model.forward
        model.forward = lambda *args, **kwargs: scaled(inner(*args, **kwargs), 2.0)
        return model


class MoreThanItSays(Sound):
    """Multiplies matrices that its closed form does not count."""

    def train(self, context, variant):
        model = super().train(context, variant)
        inner = model.advance

        def advance(state, exit_index):
            state, logits = inner(state, exit_index)
            return state, logits + 0 * (state["hidden"][:, 0] @ state["hidden"][0, 0])[:, None]

        model.advance = advance
        return model


def scaled(output, factor):
    return dataclasses.replace(output, logits=output.logits * factor, exit_logits=output.exit_logits * factor)


class OtherConfig(EncoderConfig):
    model_type = "broken-other"


class Doubled(Encoder):
    """Returns twice the logits, unlike the deployed form of an Encoder."""

    config_class = OtherConfig

    def forward(self, *args, **kwargs):
        return scaled(super().forward(*args, **kwargs), 2.0)


class MixedConfig(EncoderConfig):
    model_type = "broken-mixed"


class Mixed(Encoder):
    """Subtracts the mean over the batch, so that an answer depends on the other examples."""

    config_class = MixedConfig

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        return dataclasses.replace(output, exit_logits=output.exit_logits - output.exit_logits.mean(1, keepdim=True))


for config, kind in ((OtherConfig, Doubled), (MixedConfig, Mixed)):
    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModelForSequenceClassification.register(config, kind, exist_ok=True)


class _OfKind(Sound):
    kind: type[Encoder]

    def train(self, context, variant):
        trained = super().train(context, variant)
        model = self.kind(self.kind.config_class.from_dict(trained.config.to_dict() | {"model_type": None}))
        model.load_state_dict(trained.state_dict())
        return model


class OtherEngine(_OfKind):
    kind = Doubled


class DependsOnTheBatch(_OfKind):
    kind = Mixed


class Peeks(Entropy):
    name = "peeks"

    def statistic(self, logits, signal=None):
        return np.repeat(super().statistic(logits)[-1:], len(logits), axis=0)


class LooksAhead(Sound):
    policy = Peeks


class Relative(Entropy):
    name = "relative"

    def statistic(self, logits, signal=None):
        entropies = super().statistic(logits)
        return entropies / entropies.mean(1, keepdims=True)


class ReadsOthers(Sound):
    policy = Relative


class Backwards(Entropy):
    name = "backwards"

    def thresholds(self, count, exits, outputs):
        return super().thresholds(count, exits, outputs)[::-1]


class WrongWay(Sound):
    policy = Backwards


class Unseeded(Sound):
    def train(self, context, variant):
        model = super().train(context, variant)
        with torch.no_grad():
            model.exit_heads[-1].classifier.bias += 1e-3 * int.from_bytes(os.urandom(2), "big") / 2**16
        return model


class Idle(Sound):
    def train(self, context, variant):
        return context.backbone("tanh", exits="all")


class ReadsNoSignal(Sound):
    """Its rule reads a signal, and its model gives none."""

    class Signal(Entropy):
        name = "signal"

        def statistic(self, logits, signal=None):
            return signal

    policy = Signal


class Votes(Sound):
    """Nothing is wrong with it; its statistic counts the exits so far that predict the class of this one."""

    class Vote(Entropy):
        name = "vote"

        def statistic(self, logits, signal=None):
            answers = logits.argmax(-1)
            return np.stack([(answers[: e + 1] == answers[e]).sum(0) for e in range(len(answers))])

        def thresholds(self, count, exits, outputs):
            return np.arange(1.0, exits + 2)

        def decide(self, statistic, threshold):
            return statistic >= threshold

    policy = Vote
