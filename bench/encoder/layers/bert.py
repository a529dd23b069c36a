"""BERT's layout: learned positions and segments, LayerNorm after each sum (post-norm), biases everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from bench.encoder.layers.attention import attention_bias, by_head

if TYPE_CHECKING:
    from bench.encoder.model import EncoderConfig

NEURON_ROWS = ("ffn_in",)
"""Matrices of a layer that have one row for each FFN neuron; `ffn_out` has one column."""


class Embeddings(nn.Module):
    """Sum of word (whole or factorised), position and optional segment embeddings; LayerNorm; dropout."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.words = nn.Embedding(config.vocab_size, config.rank or d, padding_idx=config.pad_token_id)
        self.factor = nn.Linear(config.rank, d, bias=False) if config.rank else None
        self.positions = nn.Embedding(config.max_positions, d)
        self.segments = nn.Embedding(config.type_vocab_size, d) if config.type_vocab_size else None
        self.norm = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Embed token ids [B, n] as [B, n, d]."""
        hidden = self.words(input_ids)
        if self.factor is not None:
            hidden = self.factor(hidden)
        hidden = hidden + self.positions.weight[: input_ids.shape[1]]
        if self.segments is not None:
            types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
            hidden = hidden + self.segments(types)
        return self.dropout(self.norm(hidden))


class Layer(nn.Module):
    """One post-norm transformer layer with its own number of heads and FFN neurons."""

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        d, a, ffn = config.hidden_size, config.heads[layer] * config.head_size, config.ffn[layer]
        self.head_size = config.head_size
        self.attention_dropout = config.attention_dropout
        self.query = nn.Linear(d, a)
        self.key = nn.Linear(d, a)
        self.value = nn.Linear(d, a)
        self.attention_output = nn.Linear(a, d)
        self.attention_norm = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.ffn_in = nn.Linear(d, ffn)
        self.ffn_out = nn.Linear(ffn, d)
        self.ffn_norm = nn.LayerNorm(d, eps=config.layer_norm_eps)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, bias: Tensor | None, with_scores: bool = False) -> tuple[Tensor, Tensor | None]:
        """Compute the layer.

        Args:
            hidden: Hidden states [B, n, d].
            bias: Output of `attention_bias`.
            with_scores: Whether to return the attention scores.

        Returns:
            Hidden states [B, n, d], and scores [B, heads, n, n] before the mask and the softmax, or None.
        """
        query, key, value = (by_head(part(hidden), self.head_size) for part in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / self.head_size**0.5 if with_scores else None
        dropout = self.attention_dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)
        context = self.attention_output(context.transpose(1, 2).flatten(2))
        hidden = self.attention_norm(hidden + self.dropout(context))
        inner = self.ffn_out(self.activation(self.ffn_in(hidden)))
        return self.ffn_norm(hidden + self.dropout(inner)), scores


def final_norm(config: EncoderConfig) -> nn.Module:
    """Return what is applied to the hidden states that exits read: nothing, since a layer ends with its norm."""
    return nn.Identity()


def attention_inputs(config: EncoderConfig, mask: Tensor, dtype: torch.dtype) -> list[Tensor | None]:
    """Return for each layer what its attention reads of a batch with the mask [B, n]: the bias of the padding."""
    return [attention_bias(mask, dtype)] * len(config.heads)
