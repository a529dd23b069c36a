"""TinyBERT: a narrow, shallow student, distilled from attention scores and hidden states, then from predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from baselines.augmentation import augmented
from bench.analysis.metrics import score
from bench.analysis.points import predictions
from bench.context import Context, Criterion
from bench.encoder import Encoder, Shape, backbones
from bench.encoder.cut import narrow, take_layers
from bench.encoder.layers.bert import Layer
from bench.encoder.masked_lm import has_head, with_head
from bench.errors import UserError
from bench.method import BatchSize, Epochs, Method, Needed, Options, Stage
from bench.settings import Checkpoint, Layers, LearningRate, Width
from bench.tasks.batches import collate, length_batches
from bench.tasks.catalogue import Task
from bench.tasks.examples import Examples
from bench.trace import Trace
from bench.training.loop import Loss, Plan
from bench.training.losses import soft_loss, task_loss
from bench.training.targets import FrozenTeacher

CHOSEN_BY = {"mrpc": ("accuracy",), "qqp": ("accuracy",), "stsb": ("pearson", "spearman")}
"""Metrics whose mean ranks checkpoints in `task_distill.py`; on other tasks it is the ranking metric."""


class TinySize(Options):
    """Shape of a student."""

    layers: Layers = Field(description="Layers; a divisor of the teacher's.")
    hidden: Width = Field(description="Hidden size; a multiple of the heads.")
    ffn: Width = Field(description="FFN neurons of every layer.")
    heads: Width = Field(12, description="Attention heads of every layer; as many as the teacher's.")
    checkpoint: Checkpoint | None = Field(
        None, description="A general TinyBERT of this shape; null: cut from the backbone."
    )


class TinyBertOptions(Options):
    """Options of TinyBERT: the students, and the length and learning rate of the two phases."""

    sizes: dict[str, TinySize] = Field(description="Variant name -> the student's shape.")
    teacher: str = Field("teacher", description="The contestant that is the teacher.")
    augmentation: int = Field(
        0,
        ge=0,
        le=1000,
        description="Altered copies tried of each training sentence (authors: 10 to 30, by task); 0: none.",
    )
    representation_epochs: Epochs = Field(20, description="Epochs of phase A, attention and hidden states.")
    representation_rate: LearningRate = Field(5e-5, description="Learning rate of phase A, constant.")
    epochs: Epochs = Field(3, description="Epochs of phase B, predictions.")
    learning_rate: LearningRate = Field(
        2e-5, description="Peak learning rate of phase B (authors: 1e-5, 2e-5 or 3e-5)."
    )
    batch_size: BatchSize = Field(32, description="Batch size of both phases (authors: 16 or 32).")


class TinyBert(Method):
    """TinyBERT (Jiao et al., Findings of EMNLP 2020, arXiv 1909.10351): task distillation in two phases.

    In phase A the student learns the attention scores and hidden states of the teacher's layers m x N/M. In phase B it
    learns the teacher's predictions; on regression the labels. The following details are those of the authors'
    `task_distill.py`:

    - Optimizer: BertAdam (no bias correction, the gradient of each tensor clipped to norm 1.0, epsilon 1e-6, weight
      decay 0.01).
    - Schedule: a constant learning rate in phase A; 10 % warm-up and linear decay in phase B.
    - Losses: means over the padded length (`data.max_length`) in phase A, and over classes in phase B.
    - Checkpoint: the epoch of phase B with the best mean of the metrics in `CHOSEN_BY`.

    A student without a general checkpoint starts from the backbone's layers m x N/M, reduced in width (`narrowed`); its
    label contains "from backbone". "w/o DA" means without the paper's data augmentation; augmented data include the
    original examples.
    """

    Options = TinyBertOptions
    version = 2

    def variants(self) -> Sequence[str]:
        """Return the names of the variants."""
        return list(self.options.sizes)

    def check(self) -> None:
        """Raise UserError for options that do not fit the backbone."""
        backbone, where = self.settings.backbone, f"contestants.{self.name}.options"
        shape = self.backbone_of_bert()
        for variant, size in self.options.sizes.items():
            _check(size, shape, f"{where}.sizes.{variant}")
            if size.checkpoint is not None:
                _check_checkpoint(size, f"{where}.sizes.{variant}")
        if self.options.augmentation and not has_head(backbone.name, backbone.revision):
            raise UserError(
                f"{where}.augmentation: the backbone {backbone.name} has no masked-language-modelling head "
                f"to draw words from; use 0, or a backbone that has one, such as bert-base-uncased"
            )

    def needs(self, variant: str) -> Sequence[Needed]:
        """Return the models that training depends on."""
        return [Needed(self.options.teacher, "full")]

    def relevant_options(self, variant: str) -> dict[str, Any]:
        """Return the options with the size of this variant only, so that a new size does not retrain the others."""
        options = super().relevant_options(variant)
        return options | {"sizes": {variant: options["sizes"][variant]}}

    def checkpoints(self, variant: str) -> Sequence[str]:
        """Return the pretrained checkpoints other than the backbone."""
        checkpoint = self.options.sizes[variant].checkpoint
        return [checkpoint] if checkpoint else []

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        size = self.options.sizes[variant]
        notes = [] if size.checkpoint else ["from backbone"]
        if not self.options.augmentation:
            notes.append("w/o DA")
        title = f"TinyBERT {variant}" if size.checkpoint else f"TinyBERT {size.layers}L-{size.hidden}"
        title += f" ({', '.join(notes)})" if notes else ""
        return self.titled(title, "tinybert")

    def train(self, context: Context, variant: str) -> Encoder:
        """Train a variant and return its model."""
        options = self.options
        teacher = context.model(options.teacher, "full")
        size = options.sizes[variant]
        _check(size, teacher.config.shape, f"contestants.{self.name}.options.sizes.{variant}")
        layers = taught_by(size.layers, len(teacher.layers))
        student = self._student(context, variant, layers, teacher.config.hidden_size)
        train = self._text(context)

        taught = context.teacher(teacher, hidden=True, train=train, attention=True, layers=layers)
        representations, predictions = self._plans
        padded = self.settings.data.of(self.task.name).max_length[len(self.task.columns) - 1]
        loss = representation_loss(taught, padded)
        context.fit(student, loss, representations, "representations", train=train)

        answers = prediction_loss(None if self.task.regression else context.teacher(teacher, train=train))
        context.fit(student.encoder, answers, predictions, "predictions", select=criterion(self.task), train=train)
        return student.encoder

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return both phases; with augmentation their length is an upper bound, since equal copies are dropped."""
        size, sentences = self.options.sizes[variant], len(self.task.columns)
        text = examples * (1 + self.options.augmentation * sentences)
        head = self.backbone.head_size if size.checkpoint else size.hidden // size.heads
        layers = {"heads": (size.heads,) * size.layers, "ffn": (size.ffn,) * size.layers}
        student = replace(self.backbone, hidden=size.hidden, head_size=head, **layers)
        representations, predictions = self._plans
        taught = None if self.task.regression else self.backbone
        return [
            Stage(representations, text, student, kept=self.backbone),
            Stage(predictions, text, student, selects=True, kept=taught),
        ]

    @property
    def _plans(self) -> tuple[Plan, Plan]:
        options, size = self.options, self.options.batch_size
        representations = Plan(
            options.representation_epochs, options.representation_rate, size, warmup=0, schedule="constant"
        )
        return _bert_adam(representations), _bert_adam(Plan(options.epochs, options.learning_rate, size))

    def _student(self, context: Context, variant: str, layers: Sequence[int], teacher_hidden: int) -> Mapped:
        size = self.options.sizes[variant]
        if size.checkpoint is None:
            truncated = take_layers(context.backbone("tinybert"), [layer - 1 for layer in layers])
            encoder, dimensions = narrowed(truncated, size, context.train)
            return Mapped(encoder, teacher_hidden, dimensions)
        return Mapped(context.backbone("tinybert", name=size.checkpoint), teacher_hidden)

    def _text(self, context: Context) -> Examples:
        if not self.options.augmentation:
            return context.train
        backbone = self.settings.backbone
        model = with_head(context.backbone("tinybert"), backbone.name, backbone.revision)
        return augmented(model, context.tokenizer, context.train, self.options.augmentation, context.seed)


def _bert_adam(plan: Plan) -> Plan:
    """Return the plan with BertAdam, the optimizer of the original BERT code, which the authors use."""
    return replace(plan, bias_correction=False, clip_each=True, epsilon=1e-6)


def criterion(task: Task) -> Criterion:
    """Return the authors' criterion: the mean of the metrics in `CHOSEN_BY`, or the ranking metric."""
    metrics = CHOSEN_BY.get(task.name, task.metrics[:1])

    def chosen(trace: Trace) -> float:
        answers = predictions(trace, task)[-1]
        return float(np.mean([score(metric, answers, trace.labels) for metric in metrics]))

    return chosen


class Mapped(nn.Module):
    """A student with a linear map from its hidden size to the teacher's, shared by all layers (section 3.1).

    The map is trained with the student and removed after phase A.

    Args:
        encoder: Student.
        teacher_hidden: Hidden size of the teacher.
        dimensions: For a student cut from the backbone, the index in the teacher of each hidden dimension of the
            student; the map is initialized to send each dimension to that index. None: random, as in the authors' code.
    """

    def __init__(self, encoder: Encoder, teacher_hidden: int, dimensions: Sequence[int] | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.map = nn.Linear(encoder.config.hidden_size, teacher_hidden)
        nn.init.zeros_(self.map.bias)
        with torch.no_grad():
            if dimensions is None:
                self.map.weight.normal_(std=encoder.config.initializer_range)
            else:
                self.map.weight.zero_()[list(dimensions), range(len(dimensions))] = 1
        self.map.to(encoder.device)

    def forward(self, batch: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Return attention scores, M x [B, heads, n, n], and mapped hidden states, M + 1 x [B, n, teacher_hidden]."""
        output = self.encoder(
            batch["input_ids"],
            batch["attention_mask"],
            batch["token_type_ids"],
            output_hidden_states=True,
            output_attention_scores=True,
        )
        return output.attention_scores, tuple(self.map(state) for state in output.hidden_states)


def representation_loss(teacher: FrozenTeacher, length: int) -> Callable[[Mapped, dict[str, Tensor], float], Tensor]:
    """Return the loss of phase A: `attention_loss` + `mapped_loss` against the selected layers of the teacher.

    Args:
        teacher: Teacher with kept hidden states and attention scores.
        length: Padded length L over which the means are taken.
    """

    def loss(model: Mapped, batch: dict[str, Tensor], progress: float) -> Tensor:
        scores, states = model(batch)
        target = teacher(batch)
        mask = batch["attention_mask"]
        return attention_loss(scores, target.attention, mask, length) + mapped_loss(states, target.hidden, mask, length)

    return loss


def prediction_loss(teacher: FrozenTeacher | None) -> Loss:
    """Return the loss of phase B.

    Args:
        teacher: With a teacher, the loss is soft cross-entropy at T = 1, averaged over examples and classes. With None
            (regression), it is the mean squared error against the labels.
    """

    def loss(model: Any, batch: dict[str, Tensor], progress: float) -> Tensor:
        logits = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]).logits
        if teacher is None:
            return task_loss(logits, batch["labels"])
        return soft_loss(logits, teacher(batch).logits[-1]) / logits.shape[-1]

    return loss


def attention_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, length: int) -> Tensor:
    """Return the squared error of attention scores, summed over layers, mean over batch, heads and L x L (eq. 7).

    Scores are taken before the softmax. The authors pad every text to a fixed length L, set the scores of padded keys
    to 0 and average over all L x L entries. Here padded queries are left out as well. The divisor is still L x L, so
    the weight relative to `mapped_loss` is that of the authors.

    Args:
        student: Scores of the M student layers, each [B, heads, n, n].
        teacher: Scores of the corresponding teacher layers, each [B, heads, n, n].
        mask: [B, n], 1 for real tokens.
        length: Padded length L.
    """
    real = mask.bool()
    both = (real[:, None, :, None] & real[:, None, None, :]).float()
    errors = [((s.float() - t.float()) * both).square().sum() for s, t in zip(student, teacher, strict=True)]
    rows, heads = student[0].shape[:2]
    return torch.stack(errors).sum() / (rows * heads * length**2)


def mapped_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, length: int) -> Tensor:
    """Return the squared error of hidden states, summed over layers, mean over batch, L and d (eq. 8 and 9).

    Only real tokens are compared; the divisor is that of texts padded to L, as in the authors' code.

    Args:
        student: Mapped states of the embeddings and the M student layers, each [B, n, d].
        teacher: States of the corresponding teacher layers, each [B, n, d].
        mask: [B, n], 1 for real tokens.
        length: Padded length L.
    """
    real = mask.bool()
    errors = [(s[real].float() - t[real].float()).square().sum() for s, t in zip(student, teacher, strict=True)]
    return torch.stack(errors).sum() / (len(mask) * length * student[0].shape[-1])


def taught_by(layers: int, teacher_layers: int) -> list[int]:
    """Return the teacher layer (1-based) that teaches each student layer m = 1 to M: m x N/M."""
    return [m * teacher_layers // layers for m in range(1, layers + 1)]


def narrowed(model: Encoder, size: TinySize, examples: Examples, most: int = 256) -> tuple[Encoder, list[int]]:
    """Reduce the width of a model to that of the student.

    - Hidden dimensions: those with the largest variance over the real tokens of the first `most` examples, averaged
      over the embeddings and all layers. They are the same in every layer because of the residual connections.
    - Attention heads: all heads are kept, each with the dimensions that have the largest product of norms (query row x
      key row; value row x output column).
    - FFN: the neurons with the largest product of norms (input row x output column).

    Args:
        model: Model with the layers of the student.
        size: Shape of the student.
        examples: Training examples.
        most: Number of examples from which the variance is computed.

    Returns:
        The reduced model, and the indices of the hidden dimensions that it keeps.
    """
    hidden = _top(_variance(model, examples.take(range(min(most, len(examples))))), size.hidden)
    matched, carried, neurons = [], [], []
    for layer in model.layers:
        assert isinstance(layer, Layer)
        query, key, value, inner = (
            part.weight.detach()[:, hidden].norm(dim=1) for part in (layer.query, layer.key, layer.value, layer.ffn_in)
        )
        output, outer = (part.weight.detach()[hidden].norm(dim=0) for part in (layer.attention_output, layer.ffn_out))
        matched.append(_top_of_each_head(query * key, size.heads, size.hidden // size.heads))
        carried.append(_top_of_each_head(value * output, size.heads, size.hidden // size.heads))
        neurons.append(_top(inner * outer, size.ffn))
    return narrow(model, hidden, matched, carried, neurons), hidden


@torch.no_grad()
def _variance(model: Encoder, examples: Examples) -> Tensor:
    """Return the variance [d] of each hidden dimension over all real tokens, averaged over embeddings and layers."""
    training = model.training
    model.eval()
    levels: list[Tensor] = []
    for positions in length_batches(examples.lengths, 64, None):
        batch = {key: value.to(model.device) for key, value in collate([examples[i] for i in positions]).items()}
        output = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"], output_hidden_states=True)
        levels.append(torch.stack([state[batch["attention_mask"].bool()] for state in output.hidden_states]))
    model.train(training)
    return torch.cat(levels, dim=1).double().var(dim=1).mean(0)


def _top(scores: Tensor, count: int) -> list[int]:
    return sorted(torch.argsort(scores, descending=True, stable=True)[:count].tolist())


def _top_of_each_head(scores: Tensor, heads: int, count: int) -> list[int]:
    size = len(scores) // heads
    return [head * size + row for head in range(heads) for row in _top(scores[head * size :][:size], count)]


def _check_checkpoint(size: TinySize, where: str) -> None:
    shape = backbones.shape_of(str(size.checkpoint))
    there = (shape.layers, shape.hidden, shape.ffn[0], shape.heads[0])
    if there != (size.layers, size.hidden, size.ffn, size.heads):
        raise UserError(f"{where}: {size.checkpoint} has layers, hidden, ffn, heads {there}; give these")


def _check(size: TinySize, teacher: Shape, where: str) -> None:
    """Check the shape of a student.

    Raises:
        UserError: If it does not fit the teacher, or cannot be cut from the backbone.
    """
    if size.heads != teacher.heads[0]:
        raise UserError(
            f"{where}.heads: {size.heads}, but attention scores are compared head by head with the teacher's "
            f"{teacher.heads[0]}; use {teacher.heads[0]}"
        )
    if teacher.layers % size.layers:
        raise UserError(f"{where}.layers: {size.layers} is not a divisor of the teacher's {teacher.layers}")
    if size.hidden % size.heads:
        raise UserError(f"{where}.hidden: {size.hidden} is not a multiple of {size.heads} heads")
    if size.checkpoint is None and (size.hidden > teacher.hidden or size.ffn > teacher.ffn[0]):
        raise UserError(
            f"{where}: hidden {size.hidden}, ffn {size.ffn} cannot be cut from a backbone of "
            f"{teacher.hidden}, {teacher.ffn[0]}; use less, or name a checkpoint"
        )
