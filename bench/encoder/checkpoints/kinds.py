"""Kinds of checkpoints: the names that a model type gives its weights and the keys of its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.encoder.shape import LayoutName
from bench.errors import UserError

Module = tuple[str, str, str]
"""Module of the checkpoint, module of `Encoder`, shape of the weight.

V stands for the vocabulary, P positions, S segments, d the hidden size, f FFN neurons, and `#` for the layer. Letters
of `Kind.stacked` stand for several matrices in one.
"""


@dataclass(frozen=True)
class Kind:
    """How checkpoints of one model type are read.

    Attributes:
        layout: Layout of the encoder.
        base: Name of the encoder inside a model with heads.
        layer: Name of the list of layers.
        modules: Modules of the encoder, the word embedding first. All but embeddings have a bias if `biases`.
        head: Modules of the masked-word head.
        head_biases: Names that the bias of the head's output may have.
        tied: Name of the head's output matrix, which is the word embedding.
        others: Regular expression of weights that are no part of the encoder.
        sizes: Letter, heads or layers -> key of config.json.
        rates: Argument of `EncoderConfig` -> key of config.json and its default.
        activation: Key of the activation.
        only: Key -> the only value that can be read.
        biases: Whether modules have biases.
        stacked: Letter -> letter of each matrix, and their number.
    """

    layout: LayoutName
    base: str
    layer: str
    modules: tuple[Module, ...]
    head: tuple[Module, ...]
    head_biases: tuple[str, ...]
    tied: str
    others: str
    sizes: Mapping[str, str]
    rates: Mapping[str, tuple[str, float]]
    activation: str
    only: Mapping[str, Any]
    biases: bool = True
    stacked: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """Name of the word embedding."""
        return f"{self.modules[0][0]}.weight"


_RATES = {"layer_norm_eps": ("layer_norm_eps", 1e-12), "initializer_range": ("initializer_range", 0.02)}
_ONLY = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
_OTHERS = (
    r"cls|classifier|pre_classifier|qa_outputs|pooler|lm_head|fit_denses?|vocab_transform|vocab_layer_norm"
    r"|vocab_projector|(embeddings\.)?(position_ids|token_type_ids)"
)

BERT = Kind(
    layout="bert",
    base="bert.",
    layer="encoder.layer.",
    modules=(
        ("embeddings.word_embeddings", "embeddings.words", "Vd"),
        ("embeddings.position_embeddings", "embeddings.positions", "Pd"),
        ("embeddings.token_type_embeddings", "embeddings.segments", "Sd"),
        ("embeddings.LayerNorm", "embeddings.norm", "d"),
        ("encoder.layer.#.attention.self.query", "layers.#.query", "dd"),
        ("encoder.layer.#.attention.self.key", "layers.#.key", "dd"),
        ("encoder.layer.#.attention.self.value", "layers.#.value", "dd"),
        ("encoder.layer.#.attention.output.dense", "layers.#.attention_output", "dd"),
        ("encoder.layer.#.attention.output.LayerNorm", "layers.#.attention_norm", "d"),
        ("encoder.layer.#.intermediate.dense", "layers.#.ffn_in", "fd"),
        ("encoder.layer.#.output.dense", "layers.#.ffn_out", "df"),
        ("encoder.layer.#.output.LayerNorm", "layers.#.ffn_norm", "d"),
        ("pooler.dense", "dense", "dd"),
    ),
    head=(("cls.predictions.transform.dense", "0", "dd"), ("cls.predictions.transform.LayerNorm", "2", "d")),
    head_biases=("cls.predictions.bias", "cls.predictions.decoder.bias"),
    tied="cls.predictions.decoder.weight",
    others=_OTHERS,
    sizes={
        "V": "vocab_size", "P": "max_position_embeddings", "S": "type_vocab_size", "d": "hidden_size",
        "heads": "num_attention_heads", "f": "intermediate_size", "layers": "num_hidden_layers",
    },
    rates={
        "dropout": ("hidden_dropout_prob", 0.1), "attention_dropout": ("attention_probs_dropout_prob", 0.1), **_RATES
    },
    activation="hidden_act",
    only=_ONLY,
)  # fmt: skip

DISTILBERT = Kind(
    layout="bert",
    base="distilbert.",
    layer="transformer.layer.",
    modules=(
        ("embeddings.word_embeddings", "embeddings.words", "Vd"),
        ("embeddings.position_embeddings", "embeddings.positions", "Pd"),
        ("embeddings.LayerNorm", "embeddings.norm", "d"),
        ("transformer.layer.#.attention.q_lin", "layers.#.query", "dd"),
        ("transformer.layer.#.attention.k_lin", "layers.#.key", "dd"),
        ("transformer.layer.#.attention.v_lin", "layers.#.value", "dd"),
        ("transformer.layer.#.attention.out_lin", "layers.#.attention_output", "dd"),
        ("transformer.layer.#.sa_layer_norm", "layers.#.attention_norm", "d"),
        ("transformer.layer.#.ffn.lin1", "layers.#.ffn_in", "fd"),
        ("transformer.layer.#.ffn.lin2", "layers.#.ffn_out", "df"),
        ("transformer.layer.#.output_layer_norm", "layers.#.ffn_norm", "d"),
    ),
    head=(("vocab_transform", "0", "dd"), ("vocab_layer_norm", "2", "d")),
    head_biases=("vocab_projector.bias",),
    tied="vocab_projector.weight",
    others=_OTHERS,
    sizes={
        "V": "vocab_size", "P": "max_position_embeddings", "d": "dim", "heads": "n_heads", "f": "hidden_dim",
        "layers": "n_layers",
    },
    rates={"dropout": ("dropout", 0.1), "attention_dropout": ("attention_dropout", 0.1), **_RATES},
    activation="activation",
    only=_ONLY,
)  # fmt: skip


def whole(name: str, values: Mapping[str, Any], key: str, default: int | None = None, least: int = 1) -> int:
    """Return a whole number of the configuration of the checkpoint `name`.

    Raises:
        UserError: The key is missing without a default, or its value is no whole number of at least `least`.
    """
    value = values.get(key, default)
    if value is None:
        raise UserError(f"checkpoint {name}: config.json has no {key}; download it again")
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise wrong(name, key, value, "a whole number is needed")
    return value


def wrong(name: str, key: str, value: Any, remedy: str) -> UserError:
    """Return the error of a value in config.json that cannot be used."""
    return UserError(f"checkpoint {name}: config.json has {key} = {value!r}; {remedy}")
