"""DistilBERT: half of the layers, distilled on text and then fine-tuned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

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
from bench.method import BatchSize, Epochs, Method, Options, Stage
from bench.settings import Checkpoint
from bench.tasks.examples import Examples
from bench.training.loop import Plan

TEMPERATURE = 2.0
WEIGHTS = (5.0, 2.0, 1.0)
"""Of the soft targets, the masked words and the cosine, in the authors' distillation command."""
MASKED = 0.15
"""Part of all tokens, special ones counted, that is predicted (`mlm_mask_prop`)."""
AT_ONCE = 32
"""Texts of a batch that are read and masked together (authors: 5); more would not fit into memory on long texts."""
SMOOTHING = 0.7
"""A word that occurs c times in the text is drawn with a probability proportional to c^-0.7 (`mlm_smoothing`)."""


class DistilBertOptions(Options):
    """The student, and the length and rate of its two trainings."""

    checkpoint: Checkpoint | None = Field(
        None,
        description="A DistilBERT to fine-tune (distilbert/distilbert-base-uncased); null: make one.",
    )
    depths: list[int] = Field(
        [], description="Layers of the students that are made from the backbone, one variant each."
    )
    soft_targets: Literal["masked", "all"] = Field(
        "all", description="Tokens whose word distribution is distilled (authors: all; masked costs a sixth)."
    )
    distil_epochs: Epochs = Field(3, description="Epochs of distillation on the task's text (authors' code: 3).")
    distil_rate: float = Field(5e-4, gt=0, description="Its peak learning rate (authors' code: 5e-4).")
    distil_batch_size: BatchSize = Field(250, description="Its batch size (authors' code: 250, as 50 batches of 5).")
    epochs: Epochs = Field(3, description="Epochs of fine-tuning.")
    learning_rate: float = Field(2e-5, gt=0, description="Its peak learning rate; the authors publish none for GLUE.")
    batch_size: BatchSize = Field(32, description="Its batch size.")

    @model_validator(mode="after")
    def _one_source(self) -> DistilBertOptions:
        if bool(self.depths) == bool(self.checkpoint):
            raise ValueError("give either checkpoint (fine-tune a DistilBERT) or depths (make students, such as [3])")
        return self


class DistilBert(Method):
    """DistilBERT (Sanh et al., 2019, arXiv 1910.01108): every other layer, three losses on text, fine-tuning.

    With `checkpoint` the authors' own pre-trained student is fine-tuned, as they do on GLUE. Otherwise a student of the
    backbone is made as they made theirs, but on the text of the task: layers at an even spread from the first to the
    last (`spread`), no segment embeddings (row 0 is added to the positions, so single sentences lose nothing), then
    5 T^2 KL(teacher, student) + 2 masked-language-modelling + 1 (1 - cos of last hidden states), T = 2, teacher = the
    whole pre-trained backbone. Tables call it "DistilBERT-style (task text)".

    Masking and optimizer of the distillation are those of the authors' script (transformers,
    examples/research_projects/distillation): 15 % of all tokens, drawn with probability ~ count^-0.7; soft targets on
    all tokens; AdamW with beta2 0.98 and epsilon 1e-6, warm-up 5 %, no weight decay, clip 5.0; the teacher reads no
    segments.

    Where the backbone's checkpoint has no masked-language-modelling head (MiniLM as a sentence encoder), the logits of
    teacher and student are hidden @ E^T + bias, each with its own word embedding E and a bias that starts at 0.
    """

    Options = DistilBertOptions
    version = 2

    def variants(self) -> Sequence[str]:
        return [f"depth{depth}" for depth in self.options.depths] or ["full"]

    def check(self) -> None:
        if self.options.checkpoint:
            backbones.shape_of(self.options.checkpoint)
        if self.options.depths:
            backbone, layers = self.settings.backbone, self.backbone.layers
            has_head(backbone.name, backbone.revision)  # a part of a head is refused
            for depth in self.options.depths:
                if not 1 <= depth <= layers:
                    raise UserError(
                        f"contestants.{self.name}.options.depths: {depth} of a backbone with {layers} "
                        f"layers; use 1 to {layers}"
                    )

    def asked(self, variant: str) -> dict[str, Any]:
        """Not the other depths: another one more retrains nothing."""
        asked = super().asked(variant)
        return asked | {"depths": bool(asked["depths"])}

    def checkpoints(self, variant: str) -> Sequence[str]:
        return [self.options.checkpoint] if self.options.checkpoint else []

    def label(self, variant: str) -> str:
        if self.options.checkpoint:
            title = "DistilBERT"
        else:
            depth = _depth(variant)
            title = f"DistilBERT-style (task text), {depth} layer{'s' * (depth > 1)}"
        return self.titled(title, "distilbert")

    def train(self, context: Context, variant: str) -> Encoder:
        options = self.options
        if options.checkpoint:
            student = context.backbone("distilbert", name=options.checkpoint)
        else:
            student = self._distilled(context, _depth(variant))
        context.fit(student, supervised, self._plans[-1], "finetune", select=True)
        return student

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        options, whole = self.options, self.backbone
        if options.checkpoint:
            return [Stage(self._plans[-1], examples, backbones.shape_of(options.checkpoint), selects=True)]
        student, (distil, finetune) = whole.truncated(_depth(variant)), self._plans
        heard = 1.0 if options.soft_targets == "all" else MASKED
        return [
            Stage(distil, examples, student, beside=whole, words=heard),
            Stage(finetune, examples, student, selects=True),
        ]

    @property
    def _plans(self) -> list[Plan]:
        """Return the plans of distillation, where the student is made here, and of fine-tuning."""
        options = self.options
        finetune = Plan(options.epochs, options.learning_rate, options.batch_size)
        if options.checkpoint:
            return [finetune]
        distil = Plan(
            options.distil_epochs, options.distil_rate, options.distil_batch_size, rows_at_once=AT_ONCE,
            warmup=0.05, weight_decay=0, clip=5.0, betas=(0.9, 0.98), epsilon=1e-6,
        )  # fmt: skip
        return [distil, finetune]

    def _distilled(self, context: Context, depth: int) -> Encoder:
        options, backbone = self.options, self.settings.backbone
        whole = context.backbone("distilbert")
        teacher = with_head(whole, backbone.name, backbone.revision)
        start = without_segments(take_layers(whole, spread(len(whole.layers), depth)))
        student = teacher.around(start)
        odds = masking_odds(context.train, len(teacher.bias), context.tokenizer.all_special_ids).to(context.device)
        loss = ThreeLosses(teacher, odds, context.tokenizer.mask_token_id, options.soft_targets)
        context.fit(student, loss, self._plans[0], "distil", whole_vocabulary=True)
        return student.encoder


@dataclass(frozen=True)
class ThreeLosses:
    """The loss of DistilBERT's pre-training (section 2 and the authors' distillation script).

    The masks are drawn anew for every batch from torch's global generator, which the training loop seeds and restores
    as it does for dropout.
    """

    teacher: MaskedLM
    odds: Tensor
    """[V] the odds of each word to be masked (`masking_odds`)."""
    mask_id: int
    soft_targets: Literal["masked", "all"] = "all"

    def __post_init__(self) -> None:
        self.teacher.eval().requires_grad_(False)

    def __call__(self, model: MaskedLM, batch: dict[str, Tensor], progress: float) -> Tensor:
        """Return 5 x soft targets + 2 x masked words + 1 x cosine on a freshly masked batch."""
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
    """Return T^2 KL(softmax(target / T) || softmax(logits / T)), T = 2, mean over tokens [k, V]; 0 for no tokens."""
    student = F.log_softmax(logits / TEMPERATURE, dim=-1)
    teacher = F.log_softmax(target / TEMPERATURE, dim=-1)
    return F.kl_div(student, teacher, reduction="sum", log_target=True) * TEMPERATURE**2 / max(1, len(logits))


def masked_word_loss(logits: Tensor, words: Tensor) -> Tensor:
    """Return the mean cross-entropy of logits [k, V] against the words that were masked [k]; 0 for no words."""
    return F.cross_entropy(logits, words, reduction="sum") / max(1, len(words))


def masking_odds(examples: Examples, vocabulary: int, special: Sequence[int]) -> Tensor:
    """Return the odds [V] with which each word is masked: its count in the text, at least 1, to the power of -0.7.

    Args:
        examples: The text that is counted.
        vocabulary: Its size, V.
        special: Ids that are never masked; their odds are 0.
    """
    ids = np.fromiter(chain.from_iterable(examples.input_ids), dtype=np.int64)
    odds = np.maximum(np.bincount(ids, minlength=vocabulary), 1) ** -SMOOTHING
    odds[list(special)] = 0.0
    return torch.from_numpy(odds).float()


def corrupt(ids: Tensor, real: Tensor, odds: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """Mask a batch as the authors' script does.

    Of all real tokens 15 %, rounded up, are drawn without replacement by the odds of their words (as many as have odds,
    where these are fewer). As in BERT (Devlin et al., NAACL 2019, section 3.1) 80 % of those become the mask, 10 % a
    random id, 10 % stay. Draws from torch's global generator.

    Args:
        ids: [B, n] token ids.
        real: [B, n] bool, False at padding.
        odds: [V] of each word to be drawn.
        mask_id: Id of the mask token.

    Returns:
        The ids [B, n] as the models read them, and which of them were drawn [B, n].
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
    """Return `kept` of the layers 0 .. layers-1, evenly from the first to the last.

    12 to 6 gives the authors' 0 2 4 7 9 11. Halves are rounded to the even layer: 6 to 3 gives 0 2 5. One
    layer is the first.
    """
    return [0] if kept == 1 else [round(i * (layers - 1) / (kept - 1)) for i in range(kept)]


def without_segments(model: Encoder) -> Encoder:
    """Add segment 0 to every position and remove the segment embeddings, in place; return the model."""
    if model.embeddings.segments is not None:
        with torch.no_grad():
            model.embeddings.positions.weight += model.embeddings.segments.weight[0]
        model.embeddings.segments = None
        model.config.type_vocab_size = 0
    return model


def _depth(variant: str) -> int:
    return int(variant.removeprefix("depth"))
