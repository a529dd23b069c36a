"""An encoder that predicts masked words, for distillation on text and for data augmentation."""

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
    """Masked-language model (Devlin et al., NAACL 2019, section 3.1): transform, tied word embedding, bias.

    The decoder is the encoder's own word-embedding matrix; no second one is kept or trained.
    """

    def __init__(self, encoder: Encoder, transform: nn.Module, bias: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.transform = transform
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """The last hidden states [B, n, d]; `words` gives the logits of those that matter."""
        return self.encoder(input_ids, attention_mask, token_type_ids, output_hidden_states=True).hidden_states[-1]

    def words(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., d] -> logits over the vocabulary [..., V]."""
        return F.linear(self.transform(hidden), self.encoder.embeddings.words.weight, self.bias)

    def around(self, encoder: Encoder) -> MaskedLM:
        """Another encoder of the same width under a copy of this head."""
        return MaskedLM(encoder, copy.deepcopy(self.transform), self.bias).to(self.bias.device)


def with_head(encoder: Encoder, name: str, revision: str | None = None) -> MaskedLM:
    """`encoder` under the head of the checkpoint `name`, from which it came.

    Where the checkpoint has none (sentence encoders are published without), the logits are hidden @ E^T +
    bias with the word embedding E and a bias of 0.
    """
    weights = backbones.word_head(name, revision)
    if weights is None:
        return MaskedLM(encoder, nn.Identity(), torch.zeros(encoder.config.vocab_size)).to(encoder.device)
    config, bias = encoder.config, weights.pop("bias")
    with torch.device("meta"):  # nothing is drawn
        dense, norm = nn.Linear(config.hidden_size, config.hidden_size), nn.LayerNorm(config.hidden_size)
    norm.eps = config.layer_norm_eps
    transform = nn.Sequential(dense, ACT2FN[config.hidden_act], norm)
    transform.load_state_dict(weights, assign=True)
    return MaskedLM(encoder, transform.requires_grad_(True), bias).to(encoder.device)


@cache
def has_head(name: str, revision: str | None = None) -> bool:
    """Whether the checkpoint holds a masked-language-modelling head."""
    return backbones.has_word_head(name, revision)
