"""DistilBERT: a student with fewer layers, distilled on text and then fine-tuned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from baselines.finetuned import supervised
from bench.context import Context
from bench.encoder import Encoder, backbones
from bench.encoder.cut import take_layers
from bench.encoder.masked_lm import MaskedLM, has_head, with_head
from bench.errors import UserError
from bench.method import BatchSize, Epochs, Method, Needed, Options, Stage, contestant
from bench.settings import Checkpoint, Layers, LearningRate
from bench.tasks.examples import Examples
from bench.training.loop import Loss, Plan
from bench.training.losses import task_loss
from bench.training.targets import FrozenTeacher

TEMPERATURE = 2.0
WEIGHTS = (5.0, 2.0, 1.0)
"""Weights of the losses (soft targets, masked words, cosine) in the authors' distillation command."""
MASKED = 0.15
"""Fraction of all tokens, including special ones, that is predicted (`mlm_mask_prop`)."""
AT_ONCE = 32
"""Number of texts that are masked and read at once (authors: 5); more long texts do not fit into memory."""
SMOOTHING = 0.7
"""A word that occurs c times is masked with a probability proportional to c^-0.7 (`mlm_smoothing`)."""


class DistilBertOptions(Options):
    """Options of DistilBERT: the student, and the length and learning rate of its two stages."""

    checkpoint: Checkpoint | None = Field(
        None,
        description="Pretrained DistilBERT to fine-tune, such as distilbert/distilbert-base-uncased; null: see depths.",
    )
    depths: list[Layers] | None = Field(
        None, min_length=1, description="Layers of the students that are made from the backbone, one variant each."
    )
    distil: Literal["text", "fine-tuning"] = Field(
        "text",
        description="Distillation of these students: text: three losses on the task's text before fine-tuning, with "
        "the backbone as the teacher; fine-tuning: soft targets of a fine-tuned teacher while fine-tuning.",
    )
    start: Literal["spread", "first"] = Field(
        "spread",
        description="Layers of the backbone that the student starts from: evenly spaced (authors), or the first.",
    )
    teacher: str = Field("teacher", description="Contestant that is the fine-tuned teacher.")
    soft_targets: Literal["masked", "all"] = Field(
        "all", description="Tokens whose word distribution is distilled (authors: all; masked costs a sixth)."
    )
    distil_epochs: Epochs = Field(3, description="Epochs of distillation on the task's text (authors' code: 3).")
    distil_rate: LearningRate = Field(5e-4, description="Peak learning rate of the distillation (authors' code: 5e-4).")
    distil_batch_size: BatchSize = Field(
        250, description="Batch size of the distillation (authors' code: 250, as 50 batches of 5)."
    )
    epochs: Epochs = Field(3, description="Epochs of fine-tuning.")
    learning_rate: LearningRate = Field(
        2e-5, description="Peak learning rate of fine-tuning; the authors publish none for GLUE."
    )
    batch_size: BatchSize = Field(32, description="Batch size of fine-tuning.")

    @model_validator(mode="after")
    def _one_source(self) -> DistilBertOptions:
        if bool(self.depths) == bool(self.checkpoint):
            raise ValueError("give either checkpoint (fine-tune a DistilBERT) or depths (make students, such as [3])")
        return self


class DistilBert(Method):
    """DistilBERT (Sanh et al., 2019, arXiv 1910.01108): a shallow student, distilled with three losses.

    With `checkpoint`, the authors' pretrained student is fine-tuned, as in their experiments on GLUE. Otherwise a
    student is made from the backbone as in the paper, but on the text of the task; its label is "DistilBERT-style (task
    text)". The student has evenly spaced layers of the backbone (`spread`), or its first ones, and no segment
    embeddings: the embedding of segment 0 is added to the positions, so the output for single sentences does not
    change. The loss is 5 T^2 KL(teacher, student) + 2 masked-language modeling + 1 (1 - cosine of the last hidden
    states), with T = 2 and the whole pretrained backbone as the teacher.

    Masking and optimizer of the distillation are those of the authors' script (transformers,
    examples/research_projects/distillation): 15 % of all tokens are masked, with probability ~ count^-0.7; soft targets
    are used on all tokens; AdamW with beta2 0.98 and epsilon 1e-6, 5 % warm-up, no weight decay, gradient norm clipped
    to 5.0; the teacher reads no segments.

    If the checkpoint of the backbone has no masked-language-modeling head (for example MiniLM as a sentence encoder),
    the logits of teacher and student are hidden @ E^T + bias, each with its own word embedding E and a bias that is
    initialized to 0.

    With `distil: fine-tuning` the student is not distilled on text. It is fine-tuned with the loss
    1/2 T^2 KL(teacher, student) + 1/2 task loss, T = 2, where the teacher is fine-tuned on the task. This is the
    authors' second distillation (section 4.1, "DistilBERT (D)", and the defaults of their run_squad_w_distillation.py:
    alpha_ce = alpha_squad = 0.5, temperature 2). On regression the first term is 1/2 the mean squared error from the
    teacher's predictions. It is the better stand-in for a backbone without a masked-language-modeling head
    (docs/tuning.md); its label is "DistilBERT-style (distilled while fine-tuned)".
    """

    Options = DistilBertOptions
    version = 2

    def variants(self) -> Sequence[str]:
        """Return the names of the variants."""
        return [f"depth{depth}" for depth in self.options.depths or ()] or ["full"]

    def check(self) -> None:
        """Raise UserError for options that do not fit the backbone."""
        if self.options.checkpoint:
            backbones.shape_of(self.options.checkpoint)
        if self.options.depths:
            backbone, layers = self.settings.backbone, self.backbone.layers
            if not self._task_distillation:
                has_head(backbone.name, backbone.revision)  # raises for an incomplete head
            for depth in self.options.depths:
                if not 1 <= depth <= layers:
                    raise UserError(
                        f"contestants.{self.name}.options.depths: {depth} of a backbone with {layers} "
                        f"layers; use 1 to {layers}"
                    )

    def relevant_options(self, variant: str) -> dict[str, Any]:
        """Return the options without the list of depths, so that a new depth does not retrain the others."""
        options = super().relevant_options(variant)
        return options | {"depths": bool(options["depths"])}

    def needs(self, variant: str) -> Sequence[Needed]:
        """Return the models that training depends on."""
        return [Needed(self.options.teacher, "full")] if self._task_distillation else []

    def checkpoints(self, variant: str) -> Sequence[str]:
        """Return the pretrained checkpoints other than the backbone."""
        return [self.options.checkpoint] if self.options.checkpoint else []

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        if self.options.checkpoint:
            title = "DistilBERT"
        else:
            depth = _depth(variant)
            how = "distilled while fine-tuned" if self._task_distillation else "task text"
            how += ", first layers" * (self.options.start == "first")
            title = f"DistilBERT-style ({how}), {depth} layer{'s' * (depth > 1)}"
        return self.titled(title, "distilbert")

    def train(self, context: Context, variant: str) -> Encoder:
        """Train a variant and return its model."""
        options, loss = self.options, cast(Loss, supervised)
        if options.checkpoint:
            student = context.backbone("distilbert", name=options.checkpoint)
        elif self._task_distillation:
            student = self._start(context.backbone("distilbert"), _depth(variant))
            loss = SoftTargets(context.teacher(context.model(options.teacher, "full")))
        else:
            student = self._distilled(context, _depth(variant))
        context.fit(student, loss, self._plans[-1], "finetune", select=True)
        return student

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return the training stages of a variant."""
        options, whole = self.options, self.backbone
        if options.checkpoint:
            return [Stage(self._plans[-1], examples, backbones.shape_of(options.checkpoint), selects=True)]
        student, finetune = whole.truncated(_depth(variant)), self._plans[-1]
        if self._task_distillation:
            taught = contestant(self.settings, options.teacher, self.task.name).backbone
            return [Stage(finetune, examples, student, selects=True, kept=taught)]
        distil = self._plans[0]
        word_share = 1.0 if options.soft_targets == "all" else MASKED
        return [
            Stage(distil, examples, student, beside=whole, words=word_share),
            Stage(finetune, examples, student, selects=True),
        ]

    @property
    def _task_distillation(self) -> bool:
        """Whether students learn from a fine-tuned teacher instead of from text."""
        return not self.options.checkpoint and self.options.distil == "fine-tuning"

    @property
    def _plans(self) -> list[Plan]:
        """Plans of the stages: distillation on text, if there is one, and fine-tuning."""
        options = self.options
        finetune = Plan(options.epochs, options.learning_rate, options.batch_size)
        if options.checkpoint or self._task_distillation:
            return [finetune]
        distil = Plan(
            options.distil_epochs, options.distil_rate, options.distil_batch_size, rows_at_once=AT_ONCE,
            warmup=0.05, weight_decay=0, clip=5.0, betas=(0.9, 0.98), epsilon=1e-6,
        )  # fmt: skip
        return [distil, finetune]

    def _start(self, whole: Encoder, depth: int) -> Encoder:
        """Return a student with layers of the backbone, without segment embeddings."""
        first = self.options.start == "first"
        return without_segments(take_layers(whole, range(depth) if first else spread(len(whole.layers), depth)))

    def _distilled(self, context: Context, depth: int) -> Encoder:
        options, backbone = self.options, self.settings.backbone
        whole = context.backbone("distilbert")
        teacher = with_head(whole, backbone.name, backbone.revision)
        student = teacher.around(self._start(whole, depth))
        odds = masking_odds(context.train, len(teacher.bias), context.tokenizer.all_special_ids).to(context.device)
        loss = ThreeLosses(teacher, odds, context.tokenizer.mask_token_id, options.soft_targets)
        context.fit(student, loss, self._plans[0], "distil", whole_vocabulary=True)
        return student.encoder


@dataclass(frozen=True)
class SoftTargets:
    """The loss of fine-tuning with a fine-tuned teacher (section 4.1 and the authors' run_squad_w_distillation.py).

    Attributes:
        teacher: The fine-tuned teacher.
    """

    teacher: FrozenTeacher

    def __call__(self, model: Encoder, batch: dict[str, Tensor], progress: float) -> Tensor:
        """Return 1/2 T^2 KL(teacher, student) + 1/2 task loss; on regression 1/2 MSE(teacher) + 1/2 MSE(gold)."""
        output = model(batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        target = self.teacher(batch).logits[-1]
        soft = F.mse_loss(output.logits.float(), target.float()) if target.shape[-1] == 1 else (
            soft_target_loss(output.logits.float(), target.float())
        )  # fmt: skip
        return 0.5 * soft + 0.5 * task_loss(output.logits, batch["labels"])


@dataclass(frozen=True)
class ThreeLosses:
    """The distillation loss of DistilBERT (section 2 and the authors' distillation script).

    Masks are drawn for every batch from torch's global generator, which the training loop seeds and restores.

    Attributes:
        teacher: Teacher with its masked-language-modeling head.
        odds: Weight [V] of each word when tokens to mask are drawn (`masking_odds`).
        mask_id: Id of the mask token.
        soft_targets: Tokens on which soft targets are used.
    """

    teacher: MaskedLM
    odds: Tensor
    mask_id: int
    soft_targets: Literal["masked", "all"] = "all"

    def __post_init__(self) -> None:
        self.teacher.eval().requires_grad_(False)

    def __call__(self, model: MaskedLM, batch: dict[str, Tensor], progress: float) -> Tensor:
        """Mask the batch and return 5 x soft targets + 2 x masked words + 1 x cosine."""
        ids, attention, segments = batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]
        real = attention.bool()
        masked, chosen = corrupt(ids, real, self.odds, self.mask_id)
        where = real if self.soft_targets == "all" else chosen
        with torch.no_grad():
            taught = self.teacher(masked, attention, None)
            target = self.teacher.words(taught[where]).float()
        hidden = model(masked, attention, segments)
        logits = model.words(hidden[where]).float()
        soft = soft_target_loss(logits, target)
        words = masked_word_loss(logits[chosen[where]], ids[chosen])
        cosine = (1 - F.cosine_similarity(hidden[real].float(), taught[real].float(), dim=-1)).mean()
        return WEIGHTS[0] * soft + WEIGHTS[1] * words + WEIGHTS[2] * cosine


def soft_target_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return T^2 KL(softmax(target / T) || softmax(logits / T)), T = 2, averaged over k rows; 0 if k = 0.

    Args:
        logits: Logits of the student [k, V].
        target: Logits of the teacher [k, V].
    """
    student = F.log_softmax(logits / TEMPERATURE, dim=-1)
    teacher = F.log_softmax(target / TEMPERATURE, dim=-1)
    return F.kl_div(student, teacher, reduction="sum", log_target=True) * TEMPERATURE**2 / max(1, len(logits))


def masked_word_loss(logits: Tensor, words: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits [k, V] against the original words [k]; 0 if k = 0."""
    return F.cross_entropy(logits, words, reduction="sum") / max(1, len(words))


def masking_odds(examples: Examples, vocabulary: int, special: Sequence[int]) -> Tensor:
    """Return the weight [V] with which each word is masked: its count in the text, at least 1, to the power of -0.7.

    Args:
        examples: Examples in which words are counted.
        vocabulary: Size V of the vocabulary.
        special: Ids that are never masked; their weight is 0.
    """
    ids = np.fromiter(chain.from_iterable(examples.input_ids), dtype=np.int64)
    odds = np.maximum(np.bincount(ids, minlength=vocabulary), 1) ** -SMOOTHING
    odds[list(special)] = 0.0
    return torch.from_numpy(odds).float()


def corrupt(ids: Tensor, real: Tensor, odds: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """Mask a batch as in the authors' script.

    Of all real tokens 15 %, rounded up, are drawn without replacement with the weights of their words; tokens of weight
    0 are never drawn. As in BERT (Devlin et al., NAACL 2019, section 3.1), 80 % of the drawn tokens are replaced by the
    mask token and 10 % by a random token; 10 % are not changed. Random numbers come from torch's global generator.

    Args:
        ids: Token ids [B, n].
        real: Mask [B, n], False at padding.
        odds: Weight [V] of each word.
        mask_id: Id of the mask token.

    Returns:
        The masked ids [B, n], and a Boolean mask [B, n] of the drawn tokens.
    """
    weights = (odds[ids] * real).flatten()
    count = min(math.ceil(MASKED * int(real.sum())), int(weights.count_nonzero()))
    chosen = torch.zeros_like(weights, dtype=torch.bool)
    if count:
        chosen[torch.multinomial(weights, count)] = True
    chosen = chosen.view_as(ids)
    fate = torch.rand(ids.shape, device=ids.device)
    drawn = torch.randint(len(odds), ids.shape, device=ids.device)
    seen = torch.where(chosen & (fate < 0.8), mask_id, ids)
    return torch.where(chosen & (fate >= 0.9), drawn, seen), chosen


def spread(layers: int, kept: int) -> list[int]:
    """Return the indices of `kept` evenly spaced layers out of `layers`, including the first and the last.

    For 6 of 12 layers these are the authors' 0, 2, 4, 7, 9, 11. Halves are rounded to the even index, so 3 of 6 layers
    are 0, 2, 5. A single layer is the first one.
    """
    return [0] if kept == 1 else [round(i * (layers - 1) / (kept - 1)) for i in range(kept)]


def without_segments(model: Encoder) -> Encoder:
    """Add segment 0 to every position and remove the segment embeddings, in place; return the model."""
    if model.config.type_vocab_size:
        with torch.no_grad():
            model.embeddings.positions.weight += model.embeddings.segments.weight[0]
        model.embeddings.segments = None
        model.config.type_vocab_size = 0
    return model


def _depth(variant: str) -> int:
    return int(variant.removeprefix("depth"))
