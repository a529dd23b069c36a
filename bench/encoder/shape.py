"""The shape of an encoder, which determines its parameters and multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

from bench.errors import UserError

LayoutName = Literal["bert", "modernbert"]
"""Layout of an encoder: BERT's, which DistilBERT shares, or ModernBERT's, which Ettin shares."""


def layout_named(name: str) -> LayoutName:
    """Return the layout of this name.

    Raises:
        UserError: There is none.
    """
    for layout in get_args(LayoutName):
        if layout == name:
            return layout
    raise UserError(f"unknown layout {name!r}; choose {' or '.join(get_args(LayoutName))}")


@dataclass(frozen=True)
class Shape:
    """Depth, width, embedding rank and layout of an encoder.

    Attributes:
        vocabulary: Rows of the word embedding, V.
        positions: Tokens of the longest text; in BERT's layout the rows of the position embedding.
        segments: Rows of the segment embedding; 0: there is none.
        hidden: Hidden size, d.
        head_size: Size of one attention head.
        heads: Attention heads of each layer.
        ffn: FFN neurons of each layer.
        rank: Inner size r of a factorised word embedding (V x r)(r x d); None: a whole one.
        layout: Layout of embeddings and layers.
        attention_norms: In ModernBERT's layout, whether each layer has a norm before its attention.

    Raises:
        UserError: A size below 1, or lists of different lengths.
    """

    vocabulary: int
    positions: int
    segments: int
    hidden: int
    head_size: int
    heads: tuple[int, ...]
    ffn: tuple[int, ...]
    rank: int | None = None
    layout: LayoutName = "bert"
    attention_norms: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if not self.heads or len(self.heads) != len(self.ffn):
            raise UserError(
                f"shape: {len(self.heads)} heads and {len(self.ffn)} ffn given; each layer needs one of each"
            )
        if len(self.attention_norms) != self.layers * (self.layout == "modernbert"):
            raise UserError(f"shape: {len(self.attention_norms)} attention norms for {self.layers} layers")
        single = {name: (getattr(self, name),) for name in ("vocabulary", "positions", "hidden", "head_size")}
        lists = {"heads": self.heads, "ffn": self.ffn, "rank": (1 if self.rank is None else self.rank,)}
        for name, values in (single | lists).items():
            if min(values) < 1:
                raise UserError(f"shape: {name} = {min(values)}; at least 1 is needed")

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.heads)

    @property
    def slender(self) -> Width:
        """The width of the widest layer."""
        return Width(max(self.heads), max(self.ffn), self.rank or self.hidden)

    def narrowed(self, width: Width) -> Shape:
        """Return the shape with every layer at `width`; at full rank the word embedding is whole."""
        return replace(
            self,
            heads=(width.heads,) * self.layers,
            ffn=(width.ffn,) * self.layers,
            rank=None if width.rank >= self.hidden else width.rank,
        )

    def truncated(self, layers: int) -> Shape:
        """Return the shape of the first `layers` layers."""
        norms = self.attention_norms[:layers]
        return replace(self, heads=self.heads[:layers], ffn=self.ffn[:layers], attention_norms=norms)

    @property
    def position_rows(self) -> int:
        """Rows of the position embedding; 0 for rotary positions."""
        return self.positions if self.layout == "bert" else 0

    @property
    def ffn_matrices(self) -> int:
        """Matrices of an FFN: into the neurons and out of them, and in ModernBERT's layout their gate."""
        return 2 if self.layout == "bert" else 3

    def layer_parameters(self, layer: int) -> int:
        """Return the number of parameters of a layer (0-based)."""
        d, a, f = self.hidden, self.heads[layer] * self.head_size, self.ffn[layer]
        matrices = 4 * d * a + self.ffn_matrices * d * f
        if self.layout == "modernbert":
            return matrices + d * (1 + self.attention_norms[layer])
        return matrices + 3 * a + d + f + d + 2 * (2 * d)

    def parameters(self) -> int:
        """Return the number of parameters of embeddings, layers and final norm, without exit heads."""
        d, r = self.hidden, self.rank
        words = self.vocabulary * d if r is None else self.vocabulary * r + r * d
        # BERT's norm of the embeddings has a weight and a bias; ModernBERT's a weight, as the final norm.
        embeddings = words + (self.position_rows + self.segments) * d + 2 * d
        return embeddings + sum(self.layer_parameters(i) for i in range(self.layers))

    def embedding_macs(self, length: int) -> int:
        """Return the multiply-adds of the embedding's r x d factor for `length` tokens; 0 for a whole embedding."""
        return 0 if self.rank is None else length * self.rank * self.hidden

    def layer_macs(self, layer: int, length: int) -> int:
        """Return the multiply-adds of a layer (0-based): 4 d a n + m d f n + 2 n^2 a.

        Here a = heads x head size, and m is 2 in BERT's layout and 3 in ModernBERT's, whose neurons have a gate. A
        layer that reads a window of the text computes all n^2 scores and masks those outside, so it costs as much as
        the others.
        """
        d, a, f, n = self.hidden, self.heads[layer] * self.head_size, self.ffn[layer], length
        return 4 * d * a * n + self.ffn_matrices * d * f * n + 2 * n * n * a


@dataclass(frozen=True)
class Width:
    """Attention heads and FFN neurons of every layer, and the rank of the word embedding."""

    heads: int
    ffn: int
    rank: int


def ratio_width(full: Width, heads: float, ffn: float, rank: float) -> Width:
    """Return the width that keeps these fractions of `full`, neurons and rank rounded to whole numbers.

    Raises:
        UserError: A ratio outside (0, 1], or a ratio of heads that is not a whole number of heads.
    """
    for name, ratio in {"heads": heads, "ffn": ffn, "rank": rank}.items():
        if not 0 < ratio <= 1:
            raise UserError(f"ratio {name}: {ratio} must be above 0 and at most 1")
    kept = full.heads * heads
    if abs(kept - round(kept)) > 1e-6 or round(kept) < 1:
        raise UserError(
            f"ratio heads: {heads:.4g} of {full.heads} heads is {kept:.4g}; use k/{full.heads}, k = 1..{full.heads}"
        )
    return Width(round(kept), max(1, round(full.ffn * ffn)), max(1, round(full.rank * rank)))
