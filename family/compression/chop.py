"""CHOP-style layer removal: a backbone with fewer layers, pretrained further on the task's text, then fine-tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from baselines.distilbert import MASKED, corrupt, masked_word_loss
from baselines.finetuned import supervised
from bench.context import Context
from bench.encoder import Encoder
from bench.encoder.cut import take_layers
from bench.encoder.exits import ClassifierKind
from bench.encoder.masked_lm import MaskedLM, has_head, with_head
from bench.errors import UserError
from bench.method import BatchSize, Epochs, Method, Options, Stage
from bench.settings import Layers, LearningRate
from bench.training.loop import Plan

KEPT: dict[str, Callable[[int, int], list[int]]] = {
    "first": lambda layers, removed: list(range(removed, layers)),
    "last": lambda layers, removed: list(range(layers - removed)),
    "middle": lambda layers, removed: _without(layers, range((layers - removed) // 2, (layers + removed) // 2)),
    "even": lambda layers, removed: _without(layers, [(2 * i + 1) * layers // (2 * removed) for i in range(removed)]),
}
"""Layers (0-based) that are left when the first, last, middle or evenly spaced ones are removed."""


def _without(layers: int, removed: Sequence[int]) -> list[int]:
    return [layer for layer in range(layers) if layer not in set(removed)]


class ChopOptions(Options):
    """Options of CHOP-style layer removal."""

    remove: dict[str, list[Layers]] = Field(
        description="Which layers (first, last, middle or even) -> how many of them; each is a variant, such as last-3."
    )
    pretrain_epochs: Epochs = Field(1, description="Epochs of masked-language modelling, if the backbone has a head.")
    pretrain_rate: LearningRate = Field(
        1e-5, description="Peak learning rate of the pretraining (paper: a tenth of the pretraining's)."
    )
    epochs: Epochs = Field(3, description="Epochs of fine-tuning.")
    learning_rate: LearningRate = Field(2e-5, description="Peak learning rate of fine-tuning.")
    batch_size: BatchSize = Field(32, description="Batch size of both stages.")
    head: ClassifierKind = Field("pooler", description="The classifier's form.")


class Chop(Method):
    """CHOP-style layer removal (Jha et al., Just CHOP, 2023, arXiv 2305.14864): fewer layers, no teacher.

    Layers of the pretrained model are removed, its pretraining is continued at a tenth of the rate with cosine decay,
    and the model is fine-tuned. Own choices (there is no code): which layers are removed (variants); the text is the
    task's, which all contestants share; 15 % of its tokens are masked as in BERT, drawn uniformly. A backbone without a
    masked-language-modelling head is not pretrained further, and its label states this.
    """

    Options = ChopOptions

    def variants(self) -> Sequence[str]:
        """Return the names of the variants."""
        return [f"{which}-{count}" for which, counts in self.options.remove.items() for count in counts]

    def check(self) -> None:
        """Raise UserError for options that do not fit the backbone."""
        where, layers = f"contestants.{self.name}.options.remove", self.backbone.layers
        for which, counts in self.options.remove.items():
            if which not in KEPT:
                raise UserError(f"{where}: {which!r} is unknown; use {', '.join(KEPT)}")
            if wrong := [count for count in counts if not 1 <= count < layers]:
                raise UserError(f"{where}.{which}: {wrong[0]} of {layers} layers; remove 1 to {layers - 1}")

    def relevant_options(self, variant: str) -> dict[str, Any]:
        """Return the options without the other variants, so that a new one does not retrain the others."""
        return super().relevant_options(variant) | {"remove": variant}

    def label(self, variant: str) -> str:
        """Return the name in tables and figures."""
        which, count = self._parts(variant)
        text = "" if self._has_head else ", no further pretraining"
        return self.titled(f"CHOP-style, {count} layers removed ({which}; own choice{text})", "chop")

    def train(self, context: Context, variant: str) -> Encoder:
        """Train a variant and return its model."""
        backbone, plans = self.settings.backbone, self._plans
        model = take_layers(context.backbone(self.options.head), self.kept(variant))
        if self._has_head:
            words = with_head(model, backbone.name, backbone.revision)
            loss = MaskedWords(context.tokenizer.mask_token_id, tuple(context.tokenizer.all_special_ids))
            context.fit(words, loss, plans[0], "pretrain", whole_vocabulary=True)
        context.fit(model, supervised, plans[-1], "finetune", select=True)
        return model

    def stages(self, variant: str, examples: int) -> Sequence[Stage]:
        """Return the training stages of a variant."""
        shape, plans = self.backbone.truncated(len(self.kept(variant))), self._plans
        pretrain = [Stage(plan, examples, shape, words=MASKED) for plan in plans[:-1]]
        return [*pretrain, Stage(plans[-1], examples, shape, selects=True)]

    def kept(self, variant: str) -> list[int]:
        """Return the layers (0-based) that a variant keeps."""
        which, count = self._parts(variant)
        return KEPT[which](self.backbone.layers, count)

    def _parts(self, variant: str) -> tuple[str, int]:
        which, _, count = variant.partition("-")
        return which, int(count)

    @property
    def _has_head(self) -> bool:
        return has_head(self.settings.backbone.name, self.settings.backbone.revision)

    @property
    def _plans(self) -> list[Plan]:
        """Plans of the stages: pretraining, if the backbone has a head, and fine-tuning."""
        options = self.options
        finetune = Plan(options.epochs, options.learning_rate, options.batch_size)
        pretrain = Plan(options.pretrain_epochs, options.pretrain_rate, options.batch_size, schedule="cosine")
        return [pretrain, finetune] if self._has_head else [finetune]


class MaskedWords:
    """Masked-language modelling (Devlin et al., NAACL 2019, section 3.1); masks are drawn for every batch.

    Args:
        mask_id: Id of the mask token.
        special: Ids that are never masked.
    """

    def __init__(self, mask_id: int, special: Sequence[int]) -> None:
        self.mask_id, self.special = mask_id, list(special)

    def __call__(self, model: MaskedLM, batch: dict[str, Tensor], progress: float) -> Tensor:
        """Return the mean cross-entropy of the masked words."""
        ids, attention = batch["input_ids"], batch["attention_mask"]
        odds = torch.ones(len(model.bias), device=ids.device)
        odds[self.special] = 0
        masked, chosen = corrupt(ids, attention.bool(), odds, self.mask_id)
        hidden = model(masked, attention, batch["token_type_ids"])
        return masked_word_loss(model.words(hidden[chosen]).float(), ids[chosen])
