"""AST: training with 2:4 sparse weights, whose mask adapts, distilled from the teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bench.context import Context
from bench.encoder import Encoder
from bench.encoder.exits import ClassifierKind
from bench.errors import UserError
from bench.method import BatchSize, Epochs, Method, Needed, Options, Stage
from bench.settings import LearningRate
from bench.training.loop import Plan
from bench.training.losses import soft_loss, task_loss
from bench.training.targets import FrozenTeacher


class AstOptions(Options):
    """Options of AST; the defaults without a source are the suite's."""

    teacher: str = Field("teacher", description="The contestant that is its teacher.")
    epochs: Epochs = Field(3, description="Epochs.")
    learning_rate: LearningRate = Field(2e-5, description="Peak learning rate, linear decay after 10 % warm-up.")
    batch_size: BatchSize = Field(32, description="Batch size.")
    head: ClassifierKind = Field("pooler", description="The classifier's form.")
    interval: int = Field(10, ge=1, le=10**6, description="Steps between two masks (authors: 10).")
    decay: float = Field(1e-4, ge=0, le=1, description="Final factor lambda of the regularisation (authors: 1e-4).")
    rising: float = Field(0.25, gt=0, le=1, description="Part of the steps in which lambda rises (authors: a quarter).")
    soft_weight: float = Field(2 / 3, ge=0, le=1, description="Weight of the teacher; the rest: labels (authors: 2/3).")
    temperature: float = Field(2.0, gt=0, le=100, description="Temperature of the teacher's distribution (authors: 2).")


class Ast(Method):
    """Adaptive Sparse Trainer (Huang et al., AAAI 2025, arXiv 2407.20584), without SLoRB: 2:4 sparsity in the layers.

    Section 3: of every 4 successive weights of a row the 2 largest ones are kept (`mask_of`). The mask m is computed
    again every 10 steps from the dense weights w. The forward pass uses m w, and the gradient by m w changes w
    (straight-through); the gradient of the others gets + lambda (1 - m) w, where lambda rises linearly to 1e-4 in the
    first quarter of the steps. Loss: 1/3 task + 2/3 T^2 KL(teacher || student) at temperature T = 2.

    FLOPs are counted like those of a dense model, since no CPU computes 2:4 products faster. The label has the nominal
    FLOPs, where the products with sparse weights count half.

    Own choices: the training is that of the task and starts from the backbone, while the paper continues pretraining
    and starts from the weights of the dense teacher; on regression the squared
    error from the teacher's score takes the place of the divergence; attention and FFN are sparse, embeddings and exits
    dense; the regularisation is added to the gradient before Adam, as in the paper (authors' code: after the first
    moment, and with another sign); the authors' low-rank branch SLoRB is left out.
    """

    Options = AstOptions

    def variants(self) -> Sequence[str]:
        """Return the names of the variants."""
        return ["2to4"]

    def check(self) -> None:
        """Raise UserError for another layout than BERT's, or rows that are not made of groups of 4 weights."""
        shape = self.backbone_of_bert()
        sizes = {shape.hidden, *(heads * shape.head_size for heads in shape.heads), *shape.ffn}
        if odd := sorted(size for size in sizes if size % 4):
            raise UserError(f"contestants.{self.name}: 2:4 sparsity needs rows of 4 n weights, the backbone has {odd}")

    def needs(self, variant: str) -> Sequence[Needed]:
        """Return the teacher."""
        return [Needed(self.options.teacher, "full")]

    def label(self, variant: str) -> str:
        """Return the name in tables and figures, with the nominal FLOPs beside those that are counted."""
        nominal = f"nominal {nominal_speedup(self.backbone):.2f}x fewer at 128 tokens"
        return self.titled(f"AST 2:4 (fine-tuned, w/o SLoRB; dense FLOPs, {nominal})", "ast")

    def train(self, context: Context, variant: str) -> Encoder:
        """Train a variant and return its model."""
        teacher = context.teacher(context.model(self.options.teacher, "full"))
        model = context.backbone(self.options.head)
        masks = sparsify(model)
        steps = self._plan.step_count(len(context.train))
        context.fit(model, SparseLoss(teacher, masks, steps, self.options), self._plan, "sparse", select=True)
        return densify(model)

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return the training stages of a variant."""
        return [Stage(self._plan, examples, self.backbone, selects=True, kept=self.backbone)]

    @property
    def _plan(self) -> Plan:
        return Plan(self.options.epochs, self.options.learning_rate, self.options.batch_size)


def nominal_speedup(shape, length: int = 128) -> float:
    """Return the multiply-adds of the layers, dense over nominal, where products with 2:4 weights count half."""
    dense = sum(shape.layer_macs(layer, length) for layer in range(shape.layers))
    attention = sum(2 * length**2 * heads * shape.head_size for heads in shape.heads)  # of activations alone
    return dense / (attention + (dense - attention) / 2)


def mask_of(weight: Tensor) -> Tensor:
    """Return 1 for the 2 largest of every 4 successive weights of a row by magnitude, else 0, [out, in]."""
    groups = weight.detach().abs().unflatten(1, (-1, 4))
    return torch.zeros_like(groups).scatter_(2, groups.topk(2, dim=2).indices, 1.0).flatten(1)


class Masked(nn.Module):
    """Parametrization of a weight by its product with a mask; the gradient passes as if there were no mask."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask_of(weight))
        self.mask: Tensor

    def forward(self, weight: Tensor) -> Tensor:
        """Return mask x weight."""
        return weight + (weight * self.mask - weight).detach()


def sparsify(model: Encoder) -> list[tuple[Masked, nn.Parameter]]:
    """Give the linear layers of an encoder 2:4 masks, in place; return each mask with its dense weight."""
    found = []
    for part in _linears(model):
        parametrize.register_parametrization(part, "weight", Masked(part.weight))
        weights = cast(parametrize.ParametrizationList, part.parametrizations["weight"])  # type: ignore[index]
        found.append((cast(Masked, weights[0]), cast(nn.Parameter, weights.original)))
    return found


def densify(model: Encoder) -> Encoder:
    """Replace masks and dense weights by their product, in place; return `model`."""
    for part in _linears(model):
        with torch.no_grad():
            exact = part.parametrizations.weight.original * part.parametrizations.weight[0].mask  # type: ignore
        parametrize.remove_parametrizations(part, "weight", leave_parametrized=True)
        part.weight.data.copy_(exact)
    return model


def _linears(model: Encoder) -> Iterator[nn.Linear]:
    return (part for layer in model.layers for part in layer.modules() if isinstance(part, nn.Linear))


class SparseLoss:
    """Loss of a step: labels, teacher and regularisation; the masks are computed again at the interval.

    Args:
        teacher: The teacher.
        masks: Masks and dense weights of the trained model.
        steps: Number of steps of the stage.
        options: Options of AST.
    """

    def __init__(
        self, teacher: FrozenTeacher, masks: Sequence[tuple[Masked, Tensor]], steps: int, options: AstOptions
    ) -> None:
        self.teacher, self.masks, self.steps, self.options = teacher, masks, steps, options

    def __call__(self, model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
        """Return the loss of a batch."""
        options = self.options
        if round(progress * self.steps) % options.interval == 0:
            for mask, weight in self.masks:
                mask.mask.copy_(mask_of(weight))
        logits = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).logits
        task, taught = task_loss(logits, batch["labels"]), distance(logits, self.teacher(batch).logits[-1], options)
        loss = (1 - options.soft_weight) * task + options.soft_weight * taught
        factor = options.decay * min(1.0, progress / options.rising)
        left = sum(((1 - mask.mask) * weight).square().sum() for mask, weight in self.masks)
        return loss + factor / 2 * left  # its gradient is factor x (1 - mask) x weight


def distance(logits: Tensor, target: Tensor, options: AstOptions) -> Tensor:
    """Return T^2 KL(target || logits) at temperature T, for one output the mean squared error."""
    soft = soft_loss(logits, target, options.temperature)
    if logits.shape[-1] == 1:
        return soft
    entropy = soft_loss(target, target, options.temperature)
    return (soft - entropy) * options.temperature**2
