"""SHERL: a frozen encoder with a trained side module, which combines outputs of layers into the last layer's input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from baselines.finetuned import supervised
from bench.context import Context
from bench.encoder import Encoder, EncoderConfig, EncoderOutput
from bench.encoder.exits import ClassifierKind, pool
from bench.encoder.layers.attention import attention_bias
from bench.errors import UserError
from bench.method import BatchSize, Epochs, Method, Options, Stage
from bench.settings import LearningRate
from bench.training.loop import Plan


class SherlOptions(Options):
    """Options of SHERL."""

    factor: int = Field(2, ge=1, le=2**16, description="Hidden size over that of the side module.")
    epochs: Epochs = Field(10, description="Epochs (authors: 10 to 20).")
    learning_rate: LearningRate = Field(3e-3, description="Peak learning rate (authors: 3e-3).")
    batch_size: BatchSize = Field(100, description="Batch size (authors: 100).")
    head: ClassifierKind = Field("pooler", description="The classifier's form.")


class Sherl(Method):
    """SHERL (Diao et al., ECCV 2024, arXiv 2407.07523): training of a side module beside a frozen encoder.

    Section 3: the output of the embeddings and of each layer but the last, L in all, goes through a linear layer and a
    LayerNorm of its own. The last of them is the guide g, the others are the features x_i. At each position

        a_i = relu(w . (x_i * g) + b) / sum_j relu(cos(x_i, x_j)),  weights = a / |a|_1,  s = sum_i weights_i x_i + g

    and LayerNorm(W relu(s)) + tanh(gate / 0.1) x (output of layer L - 1) enters the frozen last layer. The side module
    and the exit are trained. The cost axes are trained parameters and memory of training: no gradient passes through
    layers 1 to L - 1.

    The module is that of the authors' code for BERT (VSE-infinity). Epochs, learning rate, batch size and weight decay
    (none) are those of their T5 on GLUE, which has another module.

    Own choices: the exit reads the last layer as for all contestants (authors: an aggregator of their own); linear
    decay after warm-up, dropout of the backbone, its LayerNorm epsilon and its initialization; the side module has half
    the hidden size (authors: 512 of 768).
    """

    Options = SherlOptions
    version = 3

    def check(self) -> None:
        """Raise UserError for a backbone of another layout than BERT's, or of one layer."""
        backbone = self.backbone_of_bert()
        if backbone.layers < 2:
            raise UserError(
                f"contestants.{self.name}: a backbone of one layer has no lower layers to combine; use more"
            )
        if side_size(backbone.hidden, self.options.factor) < 2:  # the LayerNorm of one number is 0
            raise UserError(
                f"contestants.{self.name}.options.factor: {self.options.factor} makes a side module of size 1; "
                f"use at most {backbone.hidden // 2}"
            )

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        return self.titled("SHERL, frozen encoder", "sherl")

    def train(self, context: Context, variant: str) -> SideEncoder:
        """Train a variant and return its model."""
        model = with_side(context.backbone(self.options.head), self.options.factor)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(not name.startswith(("embeddings.", "layers.")))
        context.fit(model, supervised, self._plan, "side", select=True)
        return model

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return the stage: layers 1 to L - 1 forward alone, of the last one also the gradient of its input.

        The side module counts by its multiply-adds relative to a layer's. The gradient of the layers' outputs, which
        enter its first linear layers, is not computed.
        """
        shape = self.backbone
        inner = side_size(shape.hidden, self.options.factor)
        side = side_macs(shape.layers, shape.hidden, inner) - shape.layers * shape.hidden * inner / 3
        depth = (shape.layers - 1) / 3 + 2 / 3 + side / shape.layer_macs(0, 1)
        return [Stage(self._plan, examples, shape, selects=True, depth=depth)]

    @property
    def _plan(self) -> Plan:
        return Plan(self.options.epochs, self.options.learning_rate, self.options.batch_size, weight_decay=0)


class Side(nn.Module):
    """The side module of L levels of hidden states of size d."""

    def __init__(self, levels: int, hidden: int, inner: int, dropout: float, eps: float) -> None:
        super().__init__()
        parts = (nn.Sequential(nn.Linear(hidden, inner), nn.LayerNorm(inner, eps=eps)) for _ in range(levels))
        self.down = nn.ModuleList(parts)
        self.attention = nn.Linear(inner, 1)
        self.gate = nn.Parameter(torch.zeros(1))
        self.up = nn.Sequential(nn.ReLU(), nn.Linear(inner, hidden), nn.LayerNorm(hidden, eps=eps), nn.Dropout(dropout))

    def weights(self, features: Tensor, guide: Tensor) -> Tensor:
        """Return the weights [..., L - 1, 1] of features [..., L - 1, s], given the guide [..., 1, s]."""
        unit = F.normalize(features, dim=-1)
        redundancy = torch.relu(unit @ unit.transpose(-1, -2)).sum(-1, keepdim=True)
        return F.normalize(torch.relu(self.attention(features * guide)) / redundancy, p=1, dim=-2)

    def forward(self, states: Sequence[Tensor]) -> Tensor:
        """Return the input [B, n, d] of the last layer, given L hidden states [B, n, d]."""
        parts = [down(state) for down, state in zip(self.down, states, strict=True)]
        features, guide = torch.stack(parts[:-1], dim=-2), parts[-1].unsqueeze(-2)
        summed = (self.weights(features, guide) * features).sum(-2) + parts[-1]
        return self.up(summed) + torch.tanh(self.gate / 0.1) * states[-1]

    def macs(self) -> int:
        """Return the multiply-adds for one token."""
        inner, hidden = cast(nn.Linear, cast(nn.Sequential, self.down[0])[0]).weight.shape
        return side_macs(len(self.down), hidden, inner)


def side_size(hidden: int, factor: int) -> int:
    """Return the size of the side module."""
    return max(1, hidden // factor)


def side_macs(levels: int, hidden: int, inner: int) -> int:
    """Return the multiply-adds of a side module of `inner` numbers for one token."""
    features = levels - 1
    return (levels + 1) * inner * hidden + features * inner + features**2 * inner


class SideConfig(EncoderConfig):
    """Configuration of a `SideEncoder`: that of its encoder, and the size of the side module."""

    model_type = "costeff-side"

    def __init__(self, side: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.side = side


class SideEncoder(Encoder):
    """An encoder with a side module and one exit, after its last layer. The early-exit engine runs it as it is."""

    config_class = SideConfig  # type: ignore[assignment]
    fused = False

    def __init__(self, config: SideConfig) -> None:
        super().__init__(config)
        self.side = Side(
            len(config.heads), config.hidden_size, config.side, config.dropout, config.layer_norm_eps
        ).apply(self._init_weights)

    def exit_macs(self, length: int) -> list[int]:
        """Return the multiply-adds, with those of the side module."""
        return [super().exit_macs(length)[-1] + length * self.side.macs()]

    def advance(self, state: dict[str, Tensor], exit_index: int) -> tuple[dict[str, Tensor], Tensor]:
        """Run the model; return the last hidden states and the logits [B, C]."""
        hidden, mask = state["hidden"], state["mask"]
        bias = attention_bias(mask, hidden.dtype)
        *below, last = self.layers
        states = [hidden]
        for layer in below:
            states.append(layer(states[-1], bias)[0])
        hidden, _ = last(self.side(states), bias)
        return {"hidden": hidden, "mask": mask}, self.exit_heads[0](pool(hidden, mask, self.config.pooling), self.dense)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> EncoderOutput:
        """Compute the exit for a batch [B, n]; see `Encoder`."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        _, logits = self.advance(self.begin(input_ids, mask, token_type_ids), 0)
        return EncoderOutput(logits=logits, exit_logits=logits.unsqueeze(0))


AutoConfig.register(SideConfig.model_type, SideConfig)
AutoModelForSequenceClassification.register(SideConfig, SideEncoder)


def with_side(model: Encoder, factor: int) -> SideEncoder:
    """Return a copy of an encoder with a new side module, whose size is the hidden size over `factor`."""
    values = {key: value for key, value in model.config.to_dict().items() if key != "model_type"}
    made = SideEncoder(SideConfig(**values, side=side_size(model.config.hidden_size, factor))).to(model.device)
    made.load_state_dict(model.state_dict(), strict=False)  # the side module is new
    return made
