"""ModernBERT's layout (Warner et al., 2024, arXiv 2412.13663), which Ettin shares.

Rotary positions (Su et al., 2021, arXiv 2104.09864) instead of learned ones, no segments, LayerNorm before each part
(pre-norm), a gated FFN (GeGLU, Shazeer, 2020, arXiv 2002.05202), no biases. Some layers read the whole text, the others
the tokens near each token. The first layer has no attention norm, because the embeddings end with one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from bench.encoder.layers.attention import attention_bias, by_head

if TYPE_CHECKING:
    from bench.encoder.model import EncoderConfig

NEURON_ROWS = ("ffn_in", "ffn_gate")
"""Matrices of a layer that have one row for each FFN neuron; `ffn_out` has one column."""


class Seen(NamedTuple):
    """What the attention of a layer reads of a batch."""

    bias: Tensor | None
    """Output of `attention_bias` for the window of the layer."""
    cosine: Tensor
    """[n, head size]"""
    sine: Tensor
    """[n, head size]"""


class Embeddings(nn.Module):
    """Word embedding (whole or factorised); LayerNorm; dropout. Positions enter in the layers."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        d = config.hidden_size
        self.words = nn.Embedding(config.vocab_size, config.rank or d, padding_idx=config.pad_token_id)
        self.factor = nn.Linear(config.rank, d, bias=False) if config.rank else None
        self.norm = _norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor | None) -> Tensor:
        """Embed token ids [B, n] as [B, n, d]; segments are not read."""
        hidden = self.words(input_ids)
        if self.factor is not None:
            hidden = self.factor(hidden)
        return self.dropout(self.norm(hidden))


class Layer(nn.Module):
    """One pre-norm transformer layer with its own number of heads and FFN neurons."""

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        d, a, ffn = config.hidden_size, config.heads[layer] * config.head_size, config.ffn[layer]
        self.head_size = config.head_size
        self.attention_dropout = config.attention_dropout
        self.attention_norm = _norm(config) if config.attention_norms[layer] else nn.Identity()
        self.query = nn.Linear(d, a, bias=False)
        self.key = nn.Linear(d, a, bias=False)
        self.value = nn.Linear(d, a, bias=False)
        self.attention_output = nn.Linear(a, d, bias=False)
        self.output_dropout = nn.Dropout(config.attention_dropout)
        self.ffn_norm = _norm(config)
        self.ffn_in = nn.Linear(d, ffn, bias=False)
        self.ffn_gate = nn.Linear(d, ffn, bias=False)
        self.ffn_out = nn.Linear(ffn, d, bias=False)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: Tensor, seen: Seen, with_scores: bool = False) -> tuple[Tensor, Tensor | None]:
        """Compute the layer.

        Args:
            hidden: Hidden states [B, n, d].
            seen: What the attention reads.
            with_scores: Whether to return the attention scores.

        Returns:
            Hidden states [B, n, d], and scores [B, heads, n, n] before the mask and the softmax, or None.
        """
        normed = self.attention_norm(hidden)
        query, key, value = (by_head(part(normed), self.head_size) for part in (self.query, self.key, self.value))
        query, key = rotated(query, seen.cosine, seen.sine), rotated(key, seen.cosine, seen.sine)
        scores = query @ key.transpose(-1, -2) / self.head_size**0.5 if with_scores else None
        dropout = self.attention_dropout if self.training else 0.0
        context = F.scaled_dot_product_attention(query, key, value, attn_mask=seen.bias, dropout_p=dropout)
        hidden = hidden + self.output_dropout(self.attention_output(context.transpose(1, 2).flatten(2)))
        normed = self.ffn_norm(hidden)
        inner = self.activation(self.ffn_in(normed)) * self.ffn_gate(normed)
        return hidden + self.ffn_out(self.dropout(inner)), scores


def final_norm(config: EncoderConfig) -> nn.Module:
    """Return the LayerNorm of the hidden states that exits read; all exits share it."""
    return _norm(config)


def attention_inputs(config: EncoderConfig, mask: Tensor, dtype: torch.dtype) -> list[Seen]:
    """Return for each layer what its attention reads of a batch with the mask [B, n]."""
    biases = {window: attention_bias(mask, dtype, window) for window in set(config.windows)}
    angles = {theta: rotations(mask.shape[1], config.head_size, theta, mask.device) for theta in set(config.thetas)}
    return [Seen(biases[window], *angles[theta]) for window, theta in zip(config.windows, config.thetas, strict=True)]


def rotations(length: int, size: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines [n, size] of the angles of rotary positions.

    Dimensions j and j + size / 2 of a head form pair j, which position p turns by p x theta^(-2 j / size).
    """
    frequencies = 1.0 / theta ** (torch.arange(0, size, 2, device=device).float() / size)
    angles = torch.arange(length, device=device).float()[:, None] * frequencies
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotated(values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Return queries or keys [..., n, size] turned by the angles of their positions."""
    first, second = values.chunk(2, dim=-1)
    return (values * cosine + torch.cat([-second, first], dim=-1) * sine).to(values.dtype)


def _norm(config: EncoderConfig) -> nn.LayerNorm:
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=False)
