"""An encoder in BERT's or ModernBERT's layout with its own shape in each layer and exits after any layers.

With the same weights it gives the hidden states of transformers' model. The parts that depend on the layout are in
`bench/encoder/layers`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.utils import ModelOutput

from bench.encoder.exits import ExitHead, HeadKind, Pooling, has_dense, pool, scale_gradient, shares_dense
from bench.encoder.layers import bert, modernbert
from bench.encoder.saved import SavedModel
from bench.encoder.shape import LayoutName, Shape, layout_named
from bench.errors import UserError

_LAYOUTS = {"bert": bert, "modernbert": modernbert}


class EncoderConfig(PretrainedConfig):
    """Shape, exits and exit heads of an `Encoder`.

    Args:
        max_positions: Tokens of the longest text.
        type_vocab_size: Number of segments; 0 for an encoder without segment embeddings, as ModernBERT's layout.
        head_size: Size of one attention head.
        heads: Attention heads of each layer.
        ffn: FFN neurons of each layer.
        rank: Inner size of a factorised word embedding; None for a whole one.
        exits: Layers (1-based, ascending) that are followed by an exit, the last layer among them. Default: the last.
        head: Kind of the exit heads (`bench.encoder.exits`).
        shared: Whether all layers have the same weights, which are stored once.
        all_tasks: Whether embeddings and layers are the same for all tasks of a profile, which store them once.
        signal: Whether each exit also gives one number, from a linear layer that all exits share, for an exit policy
            that is learned.
        pooling: How an exit reads the hidden states: the first position, or the mean over tokens.
        head_dropout: Dropout rate in the exit heads.
        layout: Layout of embeddings and layers (`bench.encoder.layers`).
        windows: In ModernBERT's layout, for each layer the largest distance between a token and those that it reads;
            None: the whole text. Default: 64 tokens, and the whole text in every third layer, the first among them.
        thetas: In ModernBERT's layout, for each layer the base of the rotary positions. Default: 160,000 for layers
            that read the whole text, 10,000 for the others.
        attention_norms: In ModernBERT's layout, whether each layer has a norm before its attention. Default: all but
            the first.
        **kwargs: Arguments of `PretrainedConfig`; `num_labels` = 1 means regression.

    The other arguments have the names and meanings of BERT's configuration.

    Raises:
        UserError: `exits` are not ascending layers that end at the last, or the arguments do not fit the layout.
    """

    model_type = "costeff-encoder"

    def __init__(
        self,
        vocab_size: int = 30522,
        max_positions: int = 512,
        type_vocab_size: int = 2,
        hidden_size: int = 768,
        head_size: int = 64,
        heads: list[int] | None = None,
        ffn: list[int] | None = None,
        rank: int | None = None,
        exits: list[int] | None = None,
        head: HeadKind = "tanh",
        shared: bool = False,
        all_tasks: bool = False,
        signal: bool = False,
        pooling: Pooling = "cls",
        hidden_act: str = "gelu",
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        head_dropout: float = 0.1,
        layer_norm_eps: float = 1e-12,
        initializer_range: float = 0.02,
        pad_token_id: int = 0,
        layout: LayoutName = "bert",
        windows: list[int | None] | None = None,
        thetas: list[float] | None = None,
        attention_norms: list[bool] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(pad_token_id=pad_token_id, **kwargs)
        self.vocab_size = vocab_size
        self.max_positions = max_positions
        self.type_vocab_size = type_vocab_size
        self.hidden_size = hidden_size
        self.head_size = head_size
        self.heads = list(heads) if heads else [12] * 12
        self.ffn = list(ffn) if ffn else [3072] * 12
        self.rank = rank
        self.exits = list(exits) if exits else [len(self.heads)]
        self.head = head
        self.shared = shared
        self.all_tasks = all_tasks
        self.signal = signal
        self.pooling = pooling
        self.hidden_act = hidden_act
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.head_dropout = head_dropout
        self.layer_norm_eps = layer_norm_eps
        self.initializer_range = initializer_range
        self.layout = layout_named(layout)
        depth, modern = len(self.heads), layout == "modernbert"
        self.windows = windows or [None if i % 3 == 0 else 64 for i in range(depth * modern)]
        self.thetas = thetas or [160_000.0 if window is None else 10_000.0 for window in self.windows]
        self.attention_norms = attention_norms or [i > 0 for i in range(depth * modern)]
        if {len(self.windows), len(self.thetas), len(self.attention_norms)} != {depth * modern}:
            raise UserError(
                f"windows, thetas, attention_norms have {len(self.windows)}, {len(self.thetas)} and "
                f"{len(self.attention_norms)} values; ModernBERT's layout needs one for each of {depth} layers, "
                "BERT's none"
            )
        if modern and (head_size % 2 or type_vocab_size):
            raise UserError(
                f"ModernBERT's layout needs an even head size and 0 segments, not {head_size} and {type_vocab_size}"
            )
        if self.exits != sorted(set(self.exits)) or self.exits[0] < 1 or self.exits[-1] != len(self.heads):
            raise UserError(
                f"exits {self.exits}: must be ascending layers from 1 that end with the last, {len(self.heads)}"
            )
        if shared and len({*zip(self.heads, self.ffn, strict=True)}) > 1:
            raise UserError("shared layers have the same weights; give all layers the same heads and ffn")
        if shared and modern:
            raise UserError("shared layers need BERT's layout; the layers of ModernBERT's differ")

    @property
    def shape(self) -> Shape:
        """The encoder's shape."""
        return Shape(
            vocabulary=self.vocab_size,
            positions=self.max_positions,
            segments=self.type_vocab_size,
            hidden=self.hidden_size,
            head_size=self.head_size,
            heads=tuple(self.heads),
            ffn=tuple(self.ffn),
            rank=self.rank,
            layout=self.layout,
            attention_norms=tuple(self.attention_norms),
        )


@dataclass
class EncoderOutput(ModelOutput):
    """Output of an `Encoder` or a `Cascade` for B examples, with E exits, C classes and L layers.

    Attributes:
        logits: [B, C] of the last exit.
        exit_logits: [E, B, C].
        hidden_states: L + 1 tensors [B, n, d]: the embeddings, and after each layer what an exit reads there, in
            ModernBERT's layout the final norm of the layer's output.
        attention_scores: L tensors [B, heads, n, n], scaled, before the mask and the softmax.
        signals: [E, B] of a model with signals.
    """

    logits: Tensor | None = None
    exit_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attention_scores: tuple[Tensor, ...] | None = None
    signals: Tensor | None = None


class Encoder(SavedModel):
    """An encoder with exits, for sequence classification or regression."""

    config_class = EncoderConfig
    config: EncoderConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config)
        layout = _LAYOUTS[config.layout]
        self.embeddings = layout.Embeddings(config)
        layers = 1 if config.shared else len(config.heads)
        self.layers = nn.ModuleList(layout.Layer(config, layer) for layer in range(layers))
        self.final_norm = layout.final_norm(config)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size) if shares_dense(config.head) else None
        self.exit_heads = nn.ModuleList(
            ExitHead(config.head, config.hidden_size, config.num_labels, config.head_dropout) for _ in config.exits
        )
        self.signal = nn.Linear(config.hidden_size, 1) if config.signal else None
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """BERT's initialisation: normal(0, initializer_range), biases 0, LayerNorm at identity."""
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    @property
    def stack(self) -> list[nn.Module]:
        """The layers in the order of computation; shared layers occur as often as they are used."""
        return list(self.layers) * (len(self.config.heads) if self.config.shared else 1)

    # -- size and cost ------------------------------------------------------------------------------------------

    @property
    def neuron_rows(self) -> tuple[str, ...]:
        """Names of the matrices of a layer that have one row for each FFN neuron; `ffn_out` has one column."""
        return _LAYOUTS[self.config.layout].NEURON_ROWS

    @property
    def common_parameters(self) -> int:
        """Number of parameters of embeddings and layers if they are the same for all tasks, otherwise 0."""
        parts = [self.embeddings, self.layers] if self.config.all_tasks else []
        return sum(parameter.numel() for part in parts for parameter in part.parameters())

    @property
    def exit_count(self) -> int:
        """Number of exits."""
        return len(self.config.exits)

    @property
    def exit_layers(self) -> list[int]:
        """Number of layers before each exit."""
        return list(self.config.exits)

    def exit_macs(self, length: int) -> list[int]:
        """Return the multiply-adds up to each exit for one example of `length` tokens, in closed form.

        They are those of matrix products: in the factorised embedding, the layers, and every exit head passed.
        """
        shape, d = self.config.shape, self.config.hidden_size
        head = d * (self.config.num_labels + self.config.signal) + (d * d if has_dense(self.config.head) else 0)
        total, layers, counts = shape.embedding_macs(length), 0, []
        for exit_layer in self.config.exits:
            total += sum(shape.layer_macs(i, length) for i in range(layers, exit_layer)) + head
            layers = exit_layer
            counts.append(total)
        return counts

    # -- one exit at a time -------------------------------------------------------------------------------------

    def begin(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the state before the first layer; all of its tensors have the batch as first dimension."""
        return {"hidden": self.embeddings(input_ids, token_type_ids), "mask": attention_mask}

    def advance(self, state: dict[str, Tensor], exit_index: int) -> tuple[dict[str, Tensor], Tensor]:
        """Run the layers between the previous exit and exit `exit_index` (0-based).

        Returns:
            The new state and the exit's logits [B, C], with the signal as last column for a model with signals.
        """
        hidden, mask = state["hidden"], state["mask"]
        seen = self._attention_inputs(mask, hidden.dtype)
        start = self.config.exits[exit_index - 1] if exit_index else 0
        for i in range(start, self.config.exits[exit_index]):
            hidden, _ = self.stack[i](hidden, seen[i])
        pooled = pool(self.final_norm(hidden), mask, self.config.pooling)
        logits = self.exit_heads[exit_index](pooled, self.dense)
        if self.signal is not None:
            logits = torch.cat([logits, self.signal(pooled)], dim=-1)
        return {"hidden": hidden, "mask": mask}, logits

    def _attention_inputs(self, mask: Tensor, dtype: torch.dtype) -> list[Any]:
        return _LAYOUTS[self.config.layout].attention_inputs(self.config, mask, dtype)

    # -- all exits at once --------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attention_scores: bool = False,
        equilibrium: bool = False,
        **_: Any,
    ) -> EncoderOutput:
        """Compute every exit for a batch [B, n].

        Args:
            input_ids: Token ids [B, n].
            attention_mask: 1 for tokens and 0 for padding [B, n]; None: no padding.
            token_type_ids: Segment of each token [B, n]; None: all in the first segment.
            output_hidden_states: Whether to return the hidden states.
            output_attention_scores: Whether to return the attention scores.
            equilibrium: Whether to average the gradients of the exits (`scale_gradient`). The returned hidden states
                come after the scaling, so the gradient of a loss on them is averaged too.

        Raises:
            UserError: `equilibrium` without an exit after every layer.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        depth, exits = len(self.stack), {layer: i for i, layer in enumerate(self.config.exits)}
        if equilibrium and len(exits) != depth:
            raise UserError(f"gradient equilibrium needs an exit after each of {depth} layers, not {len(exits)}")
        hidden = self.embeddings(input_ids, token_type_ids)
        seen = self._attention_inputs(mask, hidden.dtype)
        states, all_scores, logits, signals = [hidden], [], [], []
        for i, layer in enumerate(self.stack):
            below = scale_gradient(hidden, depth - i) if equilibrium and i else hidden
            hidden, scores = layer(below, seen[i], output_attention_scores)
            if equilibrium:
                hidden = scale_gradient(hidden, 1 / (depth - i))
            all_scores.append(scores)
            if i + 1 not in exits and not output_hidden_states:
                continue
            read = self.final_norm(hidden)
            states.append(read)
            if i + 1 in exits:
                pooled = pool(read, mask, self.config.pooling)
                logits.append(self.exit_heads[exits[i + 1]](pooled, self.dense))
                if self.signal is not None:
                    signals.append(self.signal(pooled).squeeze(-1))
        exit_logits = torch.stack(logits)
        return EncoderOutput(
            logits=exit_logits[-1],
            exit_logits=exit_logits,
            hidden_states=tuple(states) if output_hidden_states else None,
            attention_scores=tuple(all_scores) if output_attention_scores else None,
            signals=torch.stack(signals) if signals else None,
        )
