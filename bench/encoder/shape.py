"""The shape of an encoder: what decides its parameters and its multiply-adds, before any weight exists."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.errors import UserError


@dataclass(frozen=True)
class Shape:
    """Depth, width and embedding rank of a BERT-family encoder.

    `heads` and `ffn` have one entry a layer; `rank` is the inner size of a factorised word embedding
    (V x r)(r x d), None where the embedding is whole; `segments` is 0 for encoders without segment embeddings.
    """

    vocabulary: int
    positions: int
    segments: int
    hidden: int
    head_size: int
    heads: tuple[int, ...]
    ffn: tuple[int, ...]
    rank: int | None = None

    def __post_init__(self) -> None:
        if not self.heads or len(self.heads) != len(self.ffn):
            raise UserError(f"shape: {len(self.heads)} head counts for {len(self.ffn)} FFN widths; one of each a layer")
        for name, values in {
            "vocabulary": (self.vocabulary,),
            "positions": (self.positions,),
            "hidden": (self.hidden,),
            "head_size": (self.head_size,),
            "heads": self.heads,
            "ffn": self.ffn,
            "rank": (1 if self.rank is None else self.rank,),
        }.items():
            if min(values) < 1:
                raise UserError(f"shape: {name} = {min(values)}; at least 1 is needed")

    @property
    def layers(self) -> int:
        return len(self.heads)

    @property
    def slender(self) -> Width:
        """The width as COST-EFF counts it, the widest layer where layers differ."""
        return Width(max(self.heads), max(self.ffn), self.rank or self.hidden)

    def narrowed(self, width: Width) -> Shape:
        """The same encoder with every layer at `width`; an embedding of full rank stays whole."""
        return replace(
            self,
            heads=(width.heads,) * self.layers,
            ffn=(width.ffn,) * self.layers,
            rank=None if width.rank >= self.hidden else width.rank,
        )

    def truncated(self, layers: int) -> Shape:
        """The first `layers` layers."""
        return replace(self, heads=self.heads[:layers], ffn=self.ffn[:layers])

    def embedding_parameters(self) -> int:
        d, r = self.hidden, self.rank
        words = self.vocabulary * d if r is None else self.vocabulary * r + r * d
        return words + (self.positions + self.segments) * d + 2 * d

    def layer_parameters(self, layer: int) -> int:
        d, a, f = self.hidden, self.heads[layer] * self.head_size, self.ffn[layer]
        attention = 3 * (d * a + a) + a * d + d
        feed_forward = d * f + f + f * d + d
        return attention + feed_forward + 2 * (2 * d)

    def parameters(self) -> int:
        """Embeddings and layers, without exit heads."""
        return self.embedding_parameters() + sum(self.layer_parameters(i) for i in range(self.layers))

    def embedding_macs(self, length: int) -> int:
        """Multiply-adds of n looked-up rows through the r x d factor; a whole embedding is a look-up and costs 0."""
        return 0 if self.rank is None else length * self.rank * self.hidden

    def layer_macs(self, layer: int, length: int) -> int:
        """Multiply-adds of the matrix products of one layer: 4 d a n + 2 d f n + 2 n^2 a, a = heads x head size."""
        d, a, f, n = self.hidden, self.heads[layer] * self.head_size, self.ffn[layer], length
        return 4 * d * a * n + 2 * d * f * n + 2 * n * n * a


@dataclass(frozen=True)
class Width:
    """How wide every layer is: attention heads, FFN neurons, rank of the word embedding."""

    heads: int
    ffn: int
    rank: int


def ratio_width(full: Width, heads: float, ffn: float, rank: float) -> Width:
    """The width that keeps these fractions of `full`.

    Raises UserError for a ratio outside (0, 1], and for one that does not leave whole heads; neurons and rank are
    rounded to the nearest whole number.
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
