"""Masked-language model, for distillation on text and for data augmentation."""

from __future__ import annotations

import copy
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from bench.encoder import backbones
from bench.encoder.model import Encoder


class MaskedLM(nn.Module):
    """Encoder with a head that predicts masked words (Devlin et al., NAACL 2019, section 3.1).

    The head is a transform, the product with the encoder's own word embedding, and a bias.

    Args:
        encoder: The encoder.
        transform: Module from hidden states [..., d] to [..., d].
        bias: Bias of the logits [V]; it is copied.
    """

    def __init__(self, encoder: Encoder, transform: nn.Module, bias: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.transform = transform
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Return the last hidden states [B, n, d]; `words` turns any of them into logits."""
        return self.encoder(input_ids, attention_mask, token_type_ids, output_hidden_states=True).hidden_states[-1]

    def words(self, hidden: Tensor) -> Tensor:
        """Return logits over the vocabulary [..., V] of hidden states [..., d]."""
        return F.linear(self.transform(hidden), self.encoder.embeddings.words.weight, self.bias)

    def around(self, encoder: Encoder) -> MaskedLM:
        """Return a model of another encoder of the same hidden size with a copy of this head."""
        return MaskedLM(encoder, copy.deepcopy(self.transform), self.bias).to(self.bias.device)


def with_head(encoder: Encoder, name: str, revision: str | None = None) -> MaskedLM:
    """Return `encoder` with the masked-word head of the checkpoint `name`.

    If the checkpoint has none, as those of sentence encoders, the transform is the identity and the bias is 0.
    """
    weights = backbones.word_head(name, revision)
    if weights is None:
        return MaskedLM(encoder, nn.Identity(), torch.zeros(encoder.config.vocab_size)).to(encoder.device)
    config, bias = encoder.config, weights.pop("bias")
    with torch.device("meta"):  # no random numbers are drawn
        dense = nn.Linear(config.hidden_size, config.hidden_size, bias="0.bias" in weights)
        norm = nn.LayerNorm(config.hidden_size, bias="2.bias" in weights)
    norm.eps = config.layer_norm_eps
    transform = nn.Sequential(dense, ACT2FN[config.hidden_act], norm)
    transform.load_state_dict(weights, assign=True)
    return MaskedLM(encoder, transform.requires_grad_(True), bias).to(encoder.device)


@cache
def has_head(name: str, revision: str | None = None) -> bool:
    """Return whether a checkpoint has a masked-word head."""
    return backbones.has_word_head(name, revision)
