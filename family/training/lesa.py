"""LESA: a deeper model, whose new layers are predicted from their neighbours in the space of a common SVD."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from baselines.finetuned import supervised
from bench.context import Context
from bench.encoder import Encoder, Shape
from bench.encoder.cut import take_layers
from bench.encoder.exits import ClassifierKind
from bench.errors import UserError
from bench.method import BatchSize, Epochs, Method, Options, Stage
from bench.settings import Layers, LearningRate
from bench.training.loop import Plan

HIDDEN, RATE, ROWS, PASSES, NORM = 256, 1e-3, 64, 10, 0.0005
"""Width of the predictor, its learning rate, batch size, epochs, and the weight of its norm loss (authors' code)."""


class LesaOptions(Options):
    """Options of LESA."""

    depths: list[Layers] = Field(description="Layers of the grown models, one variant each.")
    epochs: Epochs = Field(3, description="Epochs of fine-tuning the grown model.")
    learning_rate: LearningRate = Field(2e-5, description="Peak learning rate, linear decay after 10 % warm-up.")
    batch_size: BatchSize = Field(32, description="Batch size.")
    head: ClassifierKind = Field("pooler", description="The classifier's form.")
    updates: int = Field(
        4800, ge=1, le=10**6, description="Least number of updates of a predictor (authors: at least 4,800)."
    )


class Lesa(Method):
    """LESA (Yang et al., 2025, arXiv 2502.13794): depth up-scaling of a pretrained model by predicted layers.

    For each kind of matrix, those of all layers are concatenated, [W_1 ... W_L] = U S [V_1 ... V_L]; a small network
    learns to predict the slice V_i from V_{i-1} and V_{i+1}; a new layer between i and i + 1 has the matrix
    U S f(V_i, V_{i+1}). The grown model is then fine-tuned. It costs more than the teacher (speed-up below
    1x), so it is a control at a higher cost.

    Own choices: the new layers stand between the last pairs of neighbours, at most one between two (authors' code: in
    the upper half); biases and LayerNorms are means of the neighbours'; a predictor has at least 4,800 updates, as many
    as the authors' smallest one, since 10 epochs of small matrices are too few: the norm loss is then met by one row
    for all inputs, and the new matrices are nearly of rank 1; the paper continues the pretraining, which is left out.
    """

    Options = LesaOptions
    version = 2

    def variants(self) -> Sequence[str]:
        """Return the names of the variants."""
        return [f"depth{depth}" for depth in self.options.depths]

    def check(self) -> None:
        """Raise UserError for depths or a layout of the backbone that do not fit."""
        layers, where = self.backbone_of_bert().layers, f"contestants.{self.name}.options.depths"
        if layers < 3:
            raise UserError(f"{where}: a predictor learns from three layers in a row, and the backbone has {layers}")
        for depth in self.options.depths:
            if not layers < depth < 2 * layers:
                raise UserError(f"{where}: {depth} from a backbone of {layers}; use {layers + 1} to {2 * layers - 1}")

    def relevant_options(self, variant: str) -> dict[str, Any]:
        """Return the options without the other depths, so that a new depth does not retrain the others."""
        return super().relevant_options(variant) | {"depths": variant}

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        return self.titled(f"LESA, {_depth(variant)} layers (fine-tuned only)", "lesa")

    def train(self, context: Context, variant: str) -> Encoder:
        """Train a variant and return its model."""
        model = grown(context.backbone(self.options.head), _depth(variant), context.seed, self.options.updates)
        context.fit(model, supervised, self._plan, "finetune", select=True)
        return model

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return the stage of fine-tuning."""
        shape, sources = self.backbone, places(self.backbone.layers, _depth(variant))
        heads, ffn = (tuple(sizes[i] for i, _ in sources) for sizes in (shape.heads, shape.ffn))
        larger = replace(shape, heads=heads, ffn=ffn)
        return [
            Stage(self._plan, examples, larger, selects=True, other_macs=predictor_macs(shape, self.options.updates))
        ]

    @property
    def _plan(self) -> Plan:
        return Plan(self.options.epochs, self.options.learning_rate, self.options.batch_size)


def _depth(variant: str) -> int:
    return int(variant.removeprefix("depth"))


def places(layers: int, depth: int) -> list[tuple[int, bool]]:
    """Return for each layer of the grown model the layer (0-based) it stands for, and whether it is a new one.

    A new layer stands after the layer of this number; the last `depth` - `layers` pairs of neighbours have one.
    """
    found = []
    for layer in range(layers):
        found.append((layer, False))
        if 2 * layers - depth - 1 <= layer < layers - 1:
            found.append((layer, True))
    return found


def predictor_macs(shape: Shape, updates: int) -> float:
    """Return the multiply-adds of the forward passes in which the predictors of all kinds of matrices learn."""
    d, a, f, total = shape.hidden, shape.heads[0] * shape.head_size, shape.ffn[0], 0
    for rows, columns in ((a, d), (a, d), (a, d), (d, a), (f, d), (d, f)):
        slices = (shape.layers - 2) * min(rows, shape.layers * columns)
        total += passes(slices, updates) * slices * (3 * columns * HIDDEN + HIDDEN**2)
    return total


def passes(rows: int, updates: int) -> int:
    """Return the number of epochs of a predictor that learns from this many rows of slices for at least `updates`."""
    return max(PASSES, math.ceil(updates / math.ceil(rows / ROWS)))


def grown(model: Encoder, depth: int, seed: int, updates: int) -> Encoder:
    """Return a copy of a model with new layers, predicted from their neighbours."""
    order = places(len(model.layers), depth)
    larger = take_layers(model, [layer for layer, _ in order])
    states = [layer.state_dict() for layer in model.layers]
    new = [place for place, (_, is_new) in enumerate(order) if is_new]
    below = [order[place][0] for place in new]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, value in states[0].items():
            each = [state[name] for state in states]
            made = predicted(each, below, updates) if value.dim() == 2 else [(each[i] + each[i + 1]) / 2 for i in below]
            for place, weight in zip(new, made, strict=True):
                larger.layers[place].get_parameter(name).data.copy_(weight)
    return larger


def predicted(matrices: Sequence[Tensor], below: Sequence[int], updates: int) -> list[Tensor]:
    """Return a matrix [o, n] for each new layer.

    Args:
        matrices: The matrix [o, n] of every layer.
        below: Number (0-based) of the layer below each new one.
        updates: Least number of updates of the predictor.
    """
    left, singular, right = torch.linalg.svd(torch.cat(list(matrices), dim=1), full_matrices=False)
    slices = list(right.split(matrices[0].shape[1], dim=1))  # L x [r, n]
    size = slices[0].shape[1]
    with torch.enable_grad():
        predictor = nn.Sequential(
            nn.Linear(2 * size, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, size)
        ).to(right)
        inputs = torch.cat([torch.cat(pair, dim=1) for pair in zip(slices, slices[2:], strict=False)])
        learn(predictor, inputs, torch.cat(slices[1:-1]), updates)
    with torch.no_grad():
        return [(left * singular) @ predictor(torch.cat([slices[i], slices[i + 1]], dim=1)) for i in below]


def learn(predictor: nn.Module, inputs: Tensor, targets: Tensor, updates: int) -> None:
    """Train the predictor on rows of slices, inputs [N, 2n] and targets [N, n]."""
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=RATE)
    for _ in range(passes(len(inputs), updates)):
        for rows in torch.randperm(len(inputs)).to(inputs.device).split(ROWS):
            optimizer.zero_grad()
            slice_loss(predictor(inputs[rows]), targets[rows]).backward()
            optimizer.step()


def slice_loss(found: Tensor, target: Tensor) -> Tensor:
    """Return 0.9995 x the mean squared error + 0.0005 x the squared difference of the Frobenius norms."""
    return (1 - NORM) * F.mse_loss(found, target) + NORM * (found.norm() - target.norm()).square()
