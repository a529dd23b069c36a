"""Exported model: a trained model with its exit policy, usable with the pipelines of transformers."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PretrainedConfig
from transformers.utils import ModelOutput

from bench import compat
from bench.encoder.cascade import Cascade
from bench.encoder.early.deployed import Batch, Deployed, deploy
from bench.encoder.early.engine import answer
from bench.encoder.model import Encoder, EncoderConfig, EncoderOutput
from bench.encoder.saved import SavedModel
from bench.errors import UserError
from bench.exit_policies import operating
from bench.exit_policies.deciding import ExitDecision
from bench.tasks.catalogue import from_scale


class EarlyExitConfig(PretrainedConfig):
    """Configuration of a model with its exit policy.

    Args:
        model: The configuration of the `Encoder` or `Cascade`.
        leaving: The operating point, as plain values (`bench.exit_policies.operating`).
        range: Least and greatest score of a regression, in the units of its labels. The model inside and its thresholds
            use the scale of 0 to 5. None for classification, and for a regression on that scale.
    """

    model_type = "costeff-early-exit"

    def __init__(
        self,
        model: dict[str, Any] | None = None,
        leaving: dict[str, Any] | None = None,
        range: list[float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.model = model or EncoderConfig().to_dict()
        self.leaving = compat.fields(leaving or {"kind": "static"})
        self.range = range


@dataclass
class EarlyExitOutput(ModelOutput):
    """Output of `EarlyExitClassifier`.

    Attributes:
        logits: [B, C] logits at the exit of each example; scores of a regression are in the units of its labels.
        exits: [B] exit of each example, 1-based.
    """

    logits: Tensor | None = None
    exits: Tensor | None = None


@dataclass(frozen=True)
class _Ready:
    """Engine of an `EarlyExitClassifier` with the weights and exit policy from which it was built."""

    engine: Deployed
    decide: ExitDecision
    leaving: dict[str, Any]
    weights: list[Tensor]
    """Parameters and buffers, referenced so that their memory is not reused for new tensors."""
    versions: list[int]

    @classmethod
    def of(cls, model: Encoder | Cascade, leaving: dict[str, Any]) -> Self:
        weights = [tensor.detach() for tensor in _tensors(model)]
        counted = not any(tensor.is_inference() for tensor in weights)
        versions = [tensor._version for tensor in weights] if counted else []
        return cls(deploy(model), operating.decision(leaving), copy.deepcopy(leaving), weights, versions)

    def is_of(self, model: Encoder | Cascade, leaving: dict[str, Any]) -> bool:
        """Return whether model and exit policy are unchanged: same memory, same PyTorch version counters.

        Inference tensors have no version counter, so a model with such a tensor is always rebuilt.
        """
        now = _tensors(model)
        return (
            leaving == self.leaving
            and len(now) == len(self.versions)
            and all(
                tensor.data_ptr() == old.data_ptr() and tensor._version == version and tensor.shape == old.shape
                for tensor, old, version in zip(now, self.weights, self.versions, strict=True)
            )
        )


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


class EarlyExitClassifier(SavedModel):
    """Trained model with an exit policy and threshold.

    In eval mode examples exit early, by the engine of the benchmark and without gradients. The engine is built at the
    first call and rebuilt after the weights change (`load_state_dict`, an optimizer step, `.to()`, a parametrization).
    In training mode the output is that of the model inside: every exit, with gradients, and scores of a regression on
    the scale of 0 to 5.
    """

    config_class = EarlyExitConfig
    config: EarlyExitConfig
    base_model_prefix = "model"
    _supports_sdpa = True

    def __init__(self, config: EarlyExitConfig) -> None:
        super().__init__(config)
        inner = dict(config.model)
        self.model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(**inner))
        operating.decision(config.leaving)  # raises for an unknown exit policy
        self._ready: _Ready | None = None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: the model inside initialises itself."""

    @classmethod
    def of(
        cls,
        model: Encoder | Cascade,
        leaving: dict[str, Any],
        labels: tuple[str, ...],
        range: tuple[float, float] | None = None,
    ) -> Self:
        """Return a classifier that shares the weights of `model` and exits at the operating point `leaving`.

        Args:
            model: The trained model.
            leaving: The operating point, as plain values.
            labels: The names of the classes, in order; empty for a regression.
            range: Least and greatest score of a regression, in the units of its labels; None: 0 to 5.
        """
        words = dict(enumerate(labels or ("score",)))
        config = EarlyExitConfig(
            model=model.config.to_dict(),
            leaving=leaving,
            range=None if labels or range is None else list(range),
            id2label=words,
            label2id={word: number for number, word in words.items()},
            problem_type="single_label_classification" if labels else "regression",
        )
        made = cls(config)
        made.model = model
        return made.eval()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        **_: Any,
    ) -> EarlyExitOutput | EncoderOutput:
        """Compute logits of a batch.

        Args:
            input_ids: [B, n] token ids, padded on the right.
            attention_mask: [B, n] 1 for tokens, 0 for padding; None: no padding.
            token_type_ids: [B, n] 0 for the first text of a pair, 1 for the second; None: 0.

        Returns:
            In eval mode logits and exits; in training mode the output of the model inside.

        Raises:
            UserError: The padding is not on the right, a text is too long, or the weights are not float32.
        """
        if self.training:
            return self.model(input_ids, attention_mask, token_type_ids)
        batch = self._batch(input_ids, attention_mask, token_type_ids)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            ready = self._ready
            if ready is None or not ready.is_of(self.model, self.config.leaving):
                ready = self._ready = _Ready.of(self.model, self.config.leaving)
            exits, logits = answer(ready.engine, batch, ready.decide)
        if self.config.range is not None:
            least, greatest = self.config.range
            logits = from_scale(logits, (least, greatest)).astype(np.float32)
        return EarlyExitOutput(torch.from_numpy(logits).to(self.device), torch.from_numpy(exits + 1).to(self.device))

    def _batch(self, ids: Tensor, mask: Tensor | None, segments: Tensor | None) -> Batch:
        if not len(ids):
            raise UserError("an empty batch; give at least one text")
        width, most = ids.shape[1], self.positions()
        lengths = torch.full((len(ids),), width) if mask is None else mask.long().sum(dim=1).cpu()
        longest = int(lengths.max())
        if longest > most:
            raise UserError(f"a text has {longest} tokens, but the model has {most} positions; pass truncation=True")
        if mask is not None and not bool((mask == (torch.arange(width) < lengths[:, None]).to(mask.device)).all()):
            raise UserError(
                "attention_mask has padding on the left or between tokens; set tokenizer.padding_side to 'right'"
            )
        if self.dtype != torch.float32:
            raise UserError(f"this model computes in float32, not in {self.dtype}; load it without a dtype")
        # Tokenizers use different padding ids; the model was evaluated with 0.
        ids = ids[:, :longest] if mask is None else (ids * mask.to(ids.dtype))[:, :longest]
        second = None if segments is None or not bool(segments.any()) else segments[:, :longest].contiguous()
        return Batch(ids.contiguous(), second, lengths.numpy())

    def positions(self) -> int:
        """Return the largest number of tokens of a text."""
        members = self.config.model.get("members", [self.config.model])
        return min(int(member["max_positions"]) for member in members)

    def train(self, mode: bool = True) -> Self:
        """Set the mode and discard the engine.

        Writes through `Parameter.data` do not change PyTorch's version counters, so that changes cannot be detected.
        """
        self._ready = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the engine. A copy builds its own."""
        return self.__dict__ | {"_ready": None}
