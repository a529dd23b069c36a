"""Evaluate the trained models of a contestant with int8 products; nothing is trained.

The scheme is dynamic quantisation: weights are int8 with one scale for each output, and activations are quantised when
they are computed. Each token has a scale of its own, so that the logits of an example do not depend on the rest of the
batch; the deprecated `torch.ao.quantization.quantize_dynamic` has one for the whole batch. Q8BERT (Zafrir et al., 2019)
has one scale for each matrix, quantises embeddings too, and trains with it. Products are sums of integers and
therefore exact. Attention is not: in another batch its last digits differ, so a number of the next layer may be rounded
to the next integer, and logits differ in the fourth digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig

from bench.context import Context, wants_gpu
from bench.encoder import Cascade, Encoder, EncoderOutput
from bench.encoder.saved import SavedModel
from bench.errors import UserError
from bench.method import Method, Needed, Options, Stage, contestant

if TYPE_CHECKING:
    from bench.exit_policies.policies import Policy


class Int8Options(Options):
    """Options of an int8 contestant."""

    of: str = Field(description="The contestant whose models are evaluated.")


class Int8(Method):
    """The models of another contestant with int8 products, under its exit policy and with its variants."""

    Options = Int8Options

    def __init__(self, name: str, task: Any, options: Any, settings: Any) -> None:
        super().__init__(name, task, options, settings)
        self.inner = contestant(settings, options.of, task.name)
        self.policy = self.inner.policy

    def variants(self) -> Sequence[str]:
        """Return the variants of the other contestant."""
        return self.inner.variants()

    def check(self) -> None:
        """Raise UserError if the runs compute on a GPU."""
        if wants_gpu(self.settings):
            raise UserError("precision_axis: int8 products need a CPU; set training.device: cpu, or leave int8 out")

    def starts_from(self, variant: str) -> Needed:
        """Return the model that is quantised."""
        return Needed(self.options.of, variant)

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        return f"int8 {self.inner.label(variant)}"

    def exit_policy(self) -> Policy:
        """Return the exit policy of the other contestant."""
        return self.inner.exit_policy()

    def train(self, context: Context, variant: str) -> Int8Model:
        """Return the quantised model."""
        return quantised(context.model(self.options.of, variant))

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return no training."""
        return [Stage.untrained(self.inner.stages(variant, examples)[-1].shape, examples)]


class Int8Linear(nn.Module):
    """A linear layer with int8 weights whose inputs are quantised, each token with a scale of its own."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, dtype=torch.int8), requires_grad=False)
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(outputs))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    @torch.no_grad()
    def fill(self, layer: nn.Linear) -> None:
        """Set the weights to those of a linear layer, rounded."""
        values, scale = rounded(layer.weight)
        self.weight.copy_(values)
        self.scale.copy_(scale.squeeze(1))
        if self.bias is not None:
            self.bias.copy_(layer.bias)

    def forward(self, values: Tensor) -> Tensor:
        """Return the outputs [..., out] of inputs [..., in]."""
        inputs, scale = rounded(values.flatten(0, -2))
        output = torch._int_mm(inputs, self.weight.t()) * scale * self.scale
        return (output if self.bias is None else output + self.bias).unflatten(0, values.shape[:-1])


def rounded(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of a matrix [n, m] as int8, and their scales [n, 1]: the largest magnitude of a row is 127."""
    scale = values.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny * 127) / 127
    return (values / scale).round().to(torch.int8), scale


class Int8Config(PretrainedConfig):
    """Configuration of an `Int8Model`.

    Args:
        inner: Configuration of the model that is quantised.
        **kwargs: Arguments of `PretrainedConfig`.
    """

    model_type = "costeff-int8"

    def __init__(self, inner: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = inner or {"model_type": "costeff-encoder", "num_labels": self.num_labels}


class Int8Model(SavedModel):
    """An `Encoder` or a `Cascade` whose linear layers have int8 weights. The early-exit engine runs it as it is."""

    config_class = Int8Config
    config: Int8Config
    base_model_prefix = "int8"
    fused = False

    def __init__(self, config: Int8Config) -> None:
        super().__init__(config)
        self.inner: Encoder | Cascade = AutoModelForSequenceClassification.from_config(
            AutoConfig.for_model(**config.inner)
        )
        for name, part in linears(self.inner).items():
            quantised_part = Int8Linear(part.in_features, part.out_features, part.bias is not None)
            self.inner.set_submodule(name, quantised_part)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: the inner model has initialised itself."""

    @property
    def common_parameters(self) -> int:
        """See `SavedModel`."""
        return self.inner.common_parameters

    @property
    def exit_count(self) -> int:
        """Number of exits."""
        return self.inner.exit_count

    @property
    def exit_layers(self) -> list[int]:
        """Number of layers before each exit."""
        return self.inner.exit_layers

    def exit_macs(self, length: int) -> list[int]:
        """Return the multiply-adds up to each exit, of any precision."""
        return self.inner.exit_macs(length)

    def begin(self, *inputs: Tensor | None) -> dict[str, Tensor]:
        """Return the state before the first exit; see `Encoder`."""
        return self.inner.begin(*inputs)  # type: ignore[arg-type]

    def advance(self, state: dict[str, Tensor], exit_index: int) -> tuple[dict[str, Tensor], Tensor]:
        """Run the model from the previous exit to this one; see `Encoder`."""
        return self.inner.advance(state, exit_index)

    def forward(self, *inputs: Tensor, **named: Any) -> EncoderOutput:
        """Compute every exit for a batch; see `Encoder`."""
        return self.inner(*inputs, **named)


AutoConfig.register(Int8Config.model_type, Int8Config)
AutoModelForSequenceClassification.register(Int8Config, Int8Model)


def linears(model: nn.Module) -> dict[str, nn.Linear]:
    """Return the plain linear layers of a model by name, without those of one input.

    `torch._int_mm` of torch 2.13 gives wrong products for one input.
    """
    return {name: part for name, part in model.named_modules() if type(part) is nn.Linear and part.in_features > 1}


def quantised(model: Encoder | Cascade) -> Int8Model:
    """Return a copy of a trained model with int8 weights."""
    inner = model.config.to_dict() | {"model_type": model.config.model_type}
    made = Int8Model(Int8Config(inner=inner, num_labels=model.config.num_labels))
    weights, plain = model.state_dict(), linears(model)
    others = {f"inner.{key}": value for key, value in weights.items() if key.rpartition(".")[0] not in plain}
    made.load_state_dict(others, strict=False)
    for name, part in plain.items():
        made.inner.get_submodule(name).fill(part)
    return made.eval()
