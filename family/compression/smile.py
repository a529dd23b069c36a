"""SMILE: the fine-tuned models of all tasks in one, without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from bench.context import Context
from bench.encoder import Encoder, EncoderConfig
from bench.method import Method, Needed, Options, Stage


class Size(Options):
    """Size of a SMILE model."""

    gate: int = Field(ge=1, le=2**16, description="Singular vectors of each expert in a router.")
    rank: int = Field(ge=1, le=2**16, description="Rank of each expert.")


class SmileOptions(Options):
    """Options of SMILE."""

    sizes: list[Size] = Field([Size(gate=4, rank=16), Size(gate=8, rank=32)], description="SMILE models.")
    tasks: list[str] | None = Field(None, min_length=1, description="Tasks of the one model; null: all of the profile.")
    teacher: str = Field("teacher", description="The contestant whose models are merged.")


class Smile(Method):
    """SMILE (Tang et al., 2024, arXiv 2408.10174): one model for several tasks, built without training.

    Section 4: for each linear layer of the encoder and each task, delta = W_ft - W_pre = U S V^T. The expert of the
    task is the rank-k part U_k S_k V_k^T with the difference of the biases; its router is V_g, the first g right
    singular vectors. A token x goes to the expert with the largest softmax(||V_g^T x||_2), top-1, whose weight is then
    1, and the output is W_pre x + b_pre + expert(x). All else is pretrained: embeddings and LayerNorm.
    Own choice: classifier and dense layer are those of the known task.
    """

    Options = SmileOptions
    version = 2

    def variants(self) -> Sequence[str]:
        """Return the names of the variants."""
        sizes = self.options.sizes if self.task.name in self.merged_tasks else []
        return [f"gate{size.gate}-rank{size.rank}" for size in sizes]

    def needs(self, variant: str) -> Sequence[Needed]:
        """Return the fine-tuned models of all tasks."""
        return [Needed(self.options.teacher, "full", task) for task in self.merged_tasks]

    def starts_from(self, variant: str) -> Needed:
        """Return the fine-tuned model of the task."""
        return Needed(self.options.teacher, "full")

    def check(self) -> None:
        """Raise UserError for a backbone of another layout than BERT's."""
        self.backbone_of_bert()

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        return self.titled(f"SMILE {variant.replace('-', ' ')}, one model for {len(self.merged_tasks)} tasks", "smile")

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return no training."""
        return [Stage.untrained(self.backbone, examples)]

    def train(self, context: Context, variant: str) -> Encoder:
        """Merge the models of all tasks and return the one model, with the classifier of the task."""
        tuned = {task: context.model(self.options.teacher, "full", task) for task in self.merged_tasks}
        own, size = tuned[self.task.name], self.options.sizes[self.variants().index(variant)]
        return routed(context.backbone(own.config.head), own, list(tuned.values()), size.gate, size.rank)

    @property
    def merged_tasks(self) -> list[str]:
        """The tasks whose models are merged."""
        return self.options.tasks or self.settings.tasks


class RoutedLinear(nn.Linear):
    """A linear layer whose output gets that of one of E low-rank experts, chosen for each token."""

    def __init__(self, inputs: int, outputs: int, experts: int, gate: int, rank: int) -> None:
        super().__init__(inputs, outputs)
        self.routers = nn.Parameter(0.02 * torch.randn(experts, min(gate, inputs, outputs), inputs))  # all are timed
        self.down = nn.Parameter(0.02 * torch.randn(experts, min(rank, inputs, outputs), inputs))
        self.up = nn.Parameter(0.02 * torch.randn(experts, outputs, self.down.shape[1]))
        self.shift = nn.Parameter(torch.zeros(experts, outputs))

    @torch.no_grad()
    def fill(self, pretrained: nn.Linear, tuned: Sequence[nn.Linear]) -> None:
        """Set the weights to those of a pretrained layer, and the experts to the changes by fine-tuning."""
        self.load_state_dict(pretrained.state_dict(), strict=False)  # the experts follow
        for expert, layer in enumerate(tuned):
            gate, rank = self.routers.shape[1], self.down.shape[1]
            up, right = leading(layer.weight - pretrained.weight, max(gate, rank))
            self.routers[expert], self.down[expert], self.up[expert] = right[:gate], right[:rank], up[:, :rank]
            self.shift[expert] = layer.bias - pretrained.bias

    def forward(self, values: Tensor) -> Tensor:
        """Return the outputs [..., out] of inputs [..., in]."""
        flat = values.flatten(0, -2)
        output = super().forward(flat)
        chosen = F.linear(flat, self.routers.flatten(0, 1)).unflatten(1, self.routers.shape[:2]).norm(dim=2).argmax(1)
        for expert, (down, up, shift) in enumerate(zip(self.down, self.up, self.shift, strict=True)):
            rows = torch.nonzero(chosen == expert).squeeze(1)
            output = output.index_add(0, rows, F.linear(F.linear(flat[rows], down), up, shift).to(output.dtype))
        return output.unflatten(0, values.shape[:-1])


def leading(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return U_k S_k [out, k] and V_k^T [k, in] of the SVD of a matrix [out, in], by its Gram matrix in float64."""
    wide = matrix.double() if matrix.shape[0] >= matrix.shape[1] else matrix.double().T
    _, vectors = torch.linalg.eigh(wide.T @ wide)  # ascending
    right = vectors.flip(-1)[:, :count]
    left = wide @ right
    if wide.shape[1] == matrix.shape[1]:
        return left.to(matrix.dtype), right.T.to(matrix.dtype)
    sizes = left.norm(dim=0).clamp_min(torch.finfo(torch.float64).tiny)
    return (right * sizes).to(matrix.dtype), (left / sizes).T.to(matrix.dtype)


class RoutedConfig(EncoderConfig):
    """Configuration of a `RoutedEncoder`: that of its encoder, with the number and size of the experts."""

    model_type = "costeff-routed"

    def __init__(self, experts: int = 1, gate: int = 1, rank_of_experts: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.experts, self.gate, self.rank_of_experts = experts, gate, rank_of_experts


class RoutedEncoder(Encoder):
    """An encoder with routed linear layers. The early-exit engine runs it as it is."""

    config_class = RoutedConfig  # type: ignore[assignment]
    fused = False

    def __init__(self, config: RoutedConfig) -> None:
        super().__init__(config)
        size = config.experts, config.gate, config.rank_of_experts
        for layer in self.layers:
            for name, part in linears(layer).items():
                setattr(layer, name, RoutedLinear(part.in_features, part.out_features, *size))

    def exit_macs(self, length: int) -> list[int]:
        """Return the multiply-adds up to each exit, with those of routers and experts."""
        parts = [[cast(RoutedLinear, part) for part in linears(layer).values()] for layer in self.layers]
        each = [sum(p.routers.numel() + p.down[0].numel() + p.up[0].numel() for p in layer) for layer in parts]
        counts = zip(super().exit_macs(length), self.config.exits, strict=True)
        return [count + length * sum(each[:depth]) for count, depth in counts]


AutoConfig.register(RoutedConfig.model_type, RoutedConfig)
AutoModelForSequenceClassification.register(RoutedConfig, RoutedEncoder)


def linears(layer: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers of a layer of an encoder by name."""
    return {name: part for name, part in layer.named_children() if isinstance(part, nn.Linear)}


def routed(pretrained: Encoder, own: Encoder, tuned: Sequence[Encoder], gate: int, rank: int) -> RoutedEncoder:
    """Return the SMILE model of several fine-tuned models, with the classifier of `own`, one of them."""
    values = {key: value for key, value in own.config.to_dict().items() if key != "model_type"}
    values |= {"experts": len(tuned), "gate": gate, "rank_of_experts": rank, "all_tasks": True}
    model = RoutedEncoder(RoutedConfig(**values)).to(own.device)
    heads = {key: value for key, value in own.state_dict().items() if not key.startswith(("embeddings.", "layers."))}
    model.load_state_dict(pretrained.state_dict() | heads, strict=False)  # the experts follow
    for layer, before, *after in zip(model.layers, pretrained.layers, *(each.layers for each in tuned), strict=True):
        for name, part in linears(layer).items():
            cast(RoutedLinear, part).fill(linears(before)[name], [linears(each)[name] for each in after])
    return model
