"""Checkpoints of ModernBERT and Ettin: their names, and the attention of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bench.encoder.checkpoints.kinds import Kind, whole, wrong

MODERNBERT = Kind(
    layout="modernbert",
    base="model.",
    layer="layers.",
    modules=(
        ("embeddings.tok_embeddings", "embeddings.words", "Vd"),
        ("embeddings.norm", "embeddings.norm", "d"),
        ("layers.#.attn_norm", "layers.#.attention_norm", "d"),
        ("layers.#.attn.Wqkv", "layers.#.query|key|value", "qd"),
        ("layers.#.attn.Wo", "layers.#.attention_output", "dd"),
        ("layers.#.mlp_norm", "layers.#.ffn_norm", "d"),
        ("layers.#.mlp.Wi", "layers.#.ffn_in|ffn_gate", "gd"),
        ("layers.#.mlp.Wo", "layers.#.ffn_out", "df"),
        ("final_norm", "final_norm", "d"),
    ),
    head=(("head.dense", "0", "dd"), ("head.norm", "2", "d")),
    head_biases=("decoder.bias",),
    tied="decoder.weight",
    others="head|decoder|classifier",
    sizes={
        "V": "vocab_size", "P": "max_position_embeddings", "d": "hidden_size", "heads": "num_attention_heads",
        "f": "intermediate_size", "layers": "num_hidden_layers",
    },
    rates={
        "dropout": ("mlp_dropout", 0.0), "attention_dropout": ("attention_dropout", 0.0),
        "layer_norm_eps": ("norm_eps", 1e-5), "initializer_range": ("initializer_range", 0.02),
    },
    activation="hidden_activation",
    only={
        "attention_bias": False, "mlp_bias": False, "norm_bias": False, "classifier_bias": False, "decoder_bias": True,
        "rope_scaling": None,
    },
    biases=False,
    stacked={"q": ("d", 3), "g": ("f", 2)},
)  # fmt: skip

_ACTIVATION = ("hidden_activation", "gelu")
_THETAS = {"full_attention": ("global_rope_theta", 160_000.0), "sliding_attention": ("local_rope_theta", 10_000.0)}
"""Kind of attention -> key of the base of its rotary positions in older configurations, and its default."""


def attention(name: str, values: Mapping[str, Any], layers: int) -> dict[str, Any]:
    """Return the arguments of `EncoderConfig` that describe the attention of each layer.

    Configurations name the kinds of the layers (`layer_types`, `rope_parameters`), or, before transformers 5, state
    that every k-th layer reads the whole text (`global_attn_every_n_layers`).

    Raises:
        UserError: A value cannot be used.
    """
    every = whole(name, values, "global_attn_every_n_layers", 3)
    kinds = values.get("layer_types") or [list(_THETAS)[i % every > 0] for i in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers or not set(kinds) <= set(_THETAS):
        raise wrong(name, "layer_types", kinds, f"{' or '.join(_THETAS)} is needed for each of {layers} layers")
    for key, other, usual in (("embedding_dropout", "mlp_dropout", 0.0), ("classifier_activation", *_ACTIVATION)):
        if values.get(key, usual) != values.get(other, usual):
            raise wrong(name, key, values.get(key, usual), f"the same as {other} is needed")
    near = whole(name, values, "local_attention", 128) // 2
    thetas = {kind: _theta(name, values, kind) for kind in _THETAS}
    return {
        "windows": [near if kind == "sliding_attention" else None for kind in kinds],
        "thetas": [thetas[kind] for kind in kinds],
        "attention_norms": [i > 0 for i in range(layers)],
    }


def apart(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of `Encoder` by name; one under a name such as `layers.0.query|key|value.weight` holds several."""
    found: dict[str, Tensor] = {}
    for name, tensor in values.items():
        parts = name.split(".")
        names = next((part.split("|") for part in parts if "|" in part), [""])
        for one, value in zip(names, tensor.chunk(len(names)), strict=True):
            found[".".join(one if "|" in part else part for part in parts)] = value
    return found


def _theta(name: str, values: Mapping[str, Any], kind: str) -> float:
    key, usual = _THETAS[kind]
    value = values.get(key, usual)
    if values.get("rope_parameters") is not None:
        key = "rope_parameters"
        rope = values[key].get(kind) if isinstance(values[key], dict) else None
        if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
            raise wrong(name, key, values[key], f"the default rope_type and a rope_theta for {kind} are needed")
        value = rope.get("rope_theta", usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 < value < float("inf"):
        raise wrong(name, key, value, "a number above 1 is needed")
    return float(value)
