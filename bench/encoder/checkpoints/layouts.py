"""The layouts of BERT and DistilBERT checkpoints: their configuration and the names and shapes of their weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.activations import ACT2FN

from bench.encoder.checkpoints.files import CONFIG, read_json
from bench.encoder.checkpoints.weights import Stored
from bench.errors import UserError

MOST_LAYERS = 1_000
"""A configuration with more layers is taken for damaged."""

# Module of the checkpoint, module of `Encoder`, shape of the weight (V vocabulary, P positions, S segments, d hidden
# size, f FFN neurons); `#` stands for the layer. All but embeddings have a bias of the weight's first dimension.
_MODULES = {
    "bert": (
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
    "distilbert": (
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
}
# The masked-word head: its modules, the names its bias may have, and the matrix that is tied to the word embedding.
_WORDS = {
    "bert": (
        (("cls.predictions.transform.dense", "0", "dd"), ("cls.predictions.transform.LayerNorm", "2", "d")),
        ("cls.predictions.bias", "cls.predictions.decoder.bias"),
        "cls.predictions.decoder.weight",
    ),
    "distilbert": (
        (("vocab_transform", "0", "dd"), ("vocab_layer_norm", "2", "d")),
        ("vocab_projector.bias",),
        "vocab_projector.weight",
    ),
}
# Keys of config.json.
_SIZES = {
    "bert": {
        "V": "vocab_size", "P": "max_position_embeddings", "S": "type_vocab_size", "d": "hidden_size",
        "heads": "num_attention_heads", "f": "intermediate_size", "layers": "num_hidden_layers",
    },
    "distilbert": {
        "V": "vocab_size", "P": "max_position_embeddings", "d": "dim", "heads": "n_heads", "f": "hidden_dim",
        "layers": "n_layers",
    },
}  # fmt: skip
_RATES = {
    "bert": {"dropout": "hidden_dropout_prob", "attention_dropout": "attention_probs_dropout_prob"},
    "distilbert": {"dropout": "dropout", "attention_dropout": "attention_dropout"},
}
_ACTIVATION = {"bert": "hidden_act", "distilbert": "activation"}
_ONLY = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
_PREFIX = re.compile(r"((module|model|_orig_mod|base_model|backbone|encoder|0|auto_model)\.)*((bert|distilbert)\.)?")
_HEADS = re.compile(
    r"(cls|classifier|pre_classifier|qa_outputs|pooler|lm_head|fit_denses?|vocab_transform|vocab_layer_norm"
    r"|vocab_projector|(embeddings\.)?(position_ids|token_type_ids))(\..*)?"
)
_LAYER = re.compile(r"(?:encoder|transformer)\.layer\.(\d+)\.")


@dataclass(frozen=True)
class Layout:
    """What config.json says: `kind` names the layout, `shape` holds arguments of `EncoderConfig`."""

    kind: str
    shape: dict[str, Any]

    def modules(self) -> Iterator[tuple[str, str, str]]:
        """Yield the name in the checkpoint, the name in `Encoder`, and the letters of the shape of each module."""
        for theirs, ours, letters in _MODULES[self.kind]:
            for layer in range(len(self.shape["heads"]) if "#" in theirs else 1):
                yield theirs.replace("#", str(layer)), ours.replace("#", str(layer)), letters

    def size(self, letters: str) -> tuple[int, ...]:
        """Return the shape that letters stand for."""
        s = self.shape
        sizes = {"V": s["vocab_size"], "P": s["max_positions"], "S": s["type_vocab_size"], "d": s["hidden_size"]}
        return tuple((sizes | {"f": s["ffn"][0]})[letter] for letter in letters)


def read(name: str, folder: Path) -> Layout:
    """Read the layout of the checkpoint `name` from its configuration.

    Raises:
        UserError: A key is missing or has a value that cannot be used.
    """
    values = read_json(name, folder / CONFIG)
    kind = values.get("model_type")
    if kind is None:  # early BERT checkpoints do not say it
        kind = next((kind for kind, keys in _SIZES.items() if {keys["d"], keys["layers"]} <= values.keys()), None)
    if not isinstance(kind, str) or kind not in _MODULES:
        raise _wrong(name, "model_type", kind, "bert and distilbert can be read")
    keys = _SIZES[kind]
    sizes = {letter: _count(name, values, key, letter == "S") for letter, key in keys.items()}
    if sizes["d"] % sizes["heads"]:
        raise _wrong(name, keys["d"], sizes["d"], f"must be a multiple of {keys['heads']}, {sizes['heads']}")
    if sizes["layers"] > MOST_LAYERS:
        raise _wrong(name, keys["layers"], sizes["layers"], f"at most {MOST_LAYERS} layers can be read")
    for key, usual in _ONLY.items():
        if values.get(key, usual) != usual:
            raise _wrong(name, key, values[key], f"only an encoder with {key}: {usual} can be read")
    activation = values.get(_ACTIVATION[kind], "gelu")
    if not isinstance(activation, str) or activation not in ACT2FN:
        raise _wrong(name, _ACTIVATION[kind], activation, "an activation of transformers is needed, such as gelu")
    rates = {ours: (theirs, values.get(theirs, 0.1)) for ours, theirs in _RATES[kind].items()}
    for key, usual in (("layer_norm_eps", 1e-12), ("initializer_range", 0.02)):
        rates[key] = (key, values.get(key, usual))
    for key, value in rates.values():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise _wrong(name, key, value, "a number from 0 to below 1 is needed")
    pad = values.get("pad_token_id") or 0
    if isinstance(pad, bool) or not isinstance(pad, int) or not 0 <= pad < sizes["V"]:
        raise _wrong(name, "pad_token_id", pad, f"must be below vocab_size, {sizes['V']}")
    shape = {
        "hidden_act": activation,
        "vocab_size": sizes["V"],
        "max_positions": sizes["P"],
        "type_vocab_size": sizes.get("S", 0),
        "hidden_size": sizes["d"],
        "head_size": sizes["d"] // sizes["heads"],
        "heads": [sizes["heads"]] * sizes["layers"],
        "ffn": [sizes["f"]] * sizes["layers"],
        "pad_token_id": pad,
    }
    return Layout(kind, shape | {ours: value for ours, (_, value) in rates.items()})


def match(name: str, layout: Layout, stored: dict[str, Stored]) -> dict[str, str]:
    """Return the name in `Encoder` -> the stored name of each encoder weight.

    Known prefixes and old names of weights are understood, and known heads of other tasks are skipped. `dense.*` is
    missing if the checkpoint has no pooler.

    Raises:
        UserError: A weight is missing, has another shape than the configuration says, or is not understood.
    """
    inner, outer = _prefixes(name, layout, stored)
    weights = _Weights(name, layout, stored, inner)
    layers = {int(found[1]) for found in map(_LAYER.match, weights.names) if found}
    depth, stored_depth = len(layout.shape["heads"]), max(layers, default=-1) + 1
    if depth != stored_depth:
        key = _SIZES[layout.kind]["layers"]
        raise _wrong(
            name,
            key,
            depth,
            f"its weights have {stored_depth} layers; correct it, or use the weights that belong to it",
        )
    found: dict[str, str] = {}
    for theirs, ours, letters in layout.modules():
        absent = not {f"{theirs}.weight", f"{theirs}.bias"} & weights.names.keys()
        if (ours == "embeddings.segments" and not layout.shape["type_vocab_size"]) or (ours == "dense" and absent):
            continue
        found |= weights.module(theirs, ours, letters)
    used = set(found.values())
    others = {key: plain for plain, key in weights.names.items() if key not in used}
    others |= {key: key.removeprefix(outer) for key in stored if not key.startswith(inner)}
    for key, plain in others.items():
        if not _HEADS.fullmatch(plain):
            raise UserError(
                f"checkpoint {name}: {key} in {stored[key].file.name} is not a weight of this layout; it would be "
                "ignored, so remove it or use another checkpoint"
            )
    return found


def word_head(name: str, layout: Layout, stored: dict[str, Stored]) -> dict[str, str] | None:
    """Return the stored names of the masked-word head, or None if the checkpoint has none.

    Returns:
        Names of `0.weight`, `0.bias` (dense layer), `2.weight`, `2.bias` (LayerNorm), `bias`, and `tied` if the output
        matrix is stored beside the word embedding.

    Raises:
        UserError: The head is incomplete.
    """
    weights = _Weights(name, layout, stored, _prefixes(name, layout, stored)[1])
    modules, biases, tied = _WORDS[layout.kind]
    if not any(f"{module}.weight" in weights.names for module, _, _ in modules):
        return None
    found: dict[str, str] = {}
    for module in modules:
        found |= weights.module(*module)
    found["bias"] = weights.one(next((key for key in biases if key in weights.names), biases[0]), "V")
    return found | ({"tied": weights.one(tied, "Vd")} if tied in weights.names else {})


class _Weights:
    """The weights of a checkpoint under one prefix, found by their names in today's BERT."""

    def __init__(self, name: str, layout: Layout, stored: dict[str, Stored], prefix: str) -> None:
        self.name, self.layout, self.stored, self.prefix = name, layout, stored, prefix
        self.names: dict[str, str] = {}
        """Name without the prefix -> stored name; LayerNorm's gamma and beta are its weight and bias."""
        for key in (key for key in stored if key.startswith(prefix)):
            plain = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", key.removeprefix(prefix))
            plain = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", plain)
            if plain in self.names:
                raise UserError(
                    f"checkpoint {name}: {self.names[plain]} and {key} are the same weight; remove one of them"
                )
            self.names[plain] = key

    def module(self, theirs: str, ours: str, letters: str) -> dict[str, str]:
        """Return the name in `Encoder` -> the stored name of a module's weights."""
        parts = {"weight": letters} if letters[0] in "VPS" else {"weight": letters, "bias": letters[0]}
        return {f"{ours}.{part}": self.one(f"{theirs}.{part}", shape) for part, shape in parts.items()}

    def one(self, plain: str, letters: str) -> str:
        """Return the stored name of a weight after a check of its shape."""
        if plain not in self.names:
            raise UserError(f"checkpoint {self.name}: {self.prefix}{plain} is missing from its weights; use another")
        key, wanted = self.names[plain], self.layout.size(letters)
        there, keys = self.stored[key], _SIZES[self.layout.kind]
        if there.shape != wanted:
            sizes = ", ".join(
                f"{keys[letter]} {size}" for letter, size in dict(zip(letters, wanted, strict=True)).items()
            )
            raise UserError(
                f"checkpoint {self.name}: {key} in {there.file.name} is {list(there.shape)}, and config.json says "
                f"{list(wanted)} ({sizes}); correct config.json, or use the weights that belong to it"
            )
        return key


def _prefixes(name: str, layout: Layout, stored: dict[str, Stored]) -> tuple[str, str]:
    """Return the prefixes of the encoder's weights and of its heads, such as `module.bert.` and `module.`."""
    words = "embeddings.word_embeddings.weight"
    before = sorted(key.removesuffix(words) for key in stored if key == words or key.endswith(f".{words}"))
    some = ", ".join(sorted(stored)[:2]) or "nothing"
    if not before:
        raise UserError(f"checkpoint {name}: no {words} in its files ({some}); weights in BERT's layout are needed")
    if len(before) > 1:
        raise UserError(f"checkpoint {name}: {len(before)} encoders in one ({', '.join(before)}); save one alone")
    if not _PREFIX.fullmatch(before[0]):
        raise UserError(f"checkpoint {name}: weights are named {before[0]}...; not those of a {layout.kind}")
    return before[0], before[0].removesuffix(f"{layout.kind}.")


def _count(name: str, values: dict[str, Any], key: str, segments: bool) -> int:
    """Return a size of the configuration; the number of segments may be 0, and is 2 by default."""
    value = values.get(key, 2 if segments else None)
    if value is None:
        raise UserError(f"checkpoint {name}: config.json has no {key}; download it again")
    if isinstance(value, bool) or not isinstance(value, int) or not (0 if segments else 1) <= value < 2**31:
        raise _wrong(name, key, value, "a whole number is needed")
    return value


def _wrong(name: str, key: str, value: Any, remedy: str) -> UserError:
    return UserError(f"checkpoint {name}: config.json has {key} = {value!r}; {remedy}")
