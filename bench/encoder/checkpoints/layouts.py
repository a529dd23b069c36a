"""BERT's and DistilBERT's layouts: what a configuration says, how the weights are named, and whether they agree."""

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
"""Beyond this a configuration is broken; to read it on would fill the memory."""

# Theirs, ours, and the shape of the weight: d hidden, f FFN, V words, P positions, S segments; `#` is the layer. All
# but the embeddings have a bias of the weight's first dimension.
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
# The head that predicts masked words: its parts, and the names of its bias and of the matrix tied to the embedding.
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
# What a configuration calls each size. Those of BERT may be left out with the value that transformers then takes.
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
    "bert": {
        "hidden_act": "hidden_act", "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    },
    "distilbert": {"hidden_act": "activation", "dropout": "dropout", "attention_dropout": "attention_dropout"},
}  # fmt: skip
_PREFIX = re.compile(r"((module|model|_orig_mod|base_model|backbone|encoder|0|auto_model)\.)*((bert|distilbert)\.)?")
_HEADS = re.compile(
    r"(cls|classifier|pre_classifier|qa_outputs|pooler|lm_head|fit_denses?|vocab_transform|vocab_layer_norm"
    r"|vocab_projector|(embeddings\.)?(position_ids|token_type_ids))(\..*)?"
)
_LAYER = re.compile(r"(?:encoder|transformer)\.layer\.(\d+)\.")


@dataclass(frozen=True)
class Layout:
    """What config.json says: `kind` names the layout, `shape` is what `EncoderConfig` takes."""

    kind: str
    shape: dict[str, Any]

    def modules(self) -> Iterator[tuple[str, str, str]]:
        """(theirs, ours, shape) of every module, layer by layer; those without a `#` once."""
        for theirs, ours, shape in _MODULES[self.kind]:
            for layer in range(len(self.shape["heads"]) if "#" in theirs else 1):
                yield theirs.replace("#", str(layer)), ours.replace("#", str(layer)), shape

    def size(self, letters: str) -> tuple[int, ...]:
        """The shape that letters stand for."""
        s = self.shape
        sizes = {"V": s["vocab_size"], "P": s["max_positions"], "S": s["type_vocab_size"], "d": s["hidden_size"]}
        return tuple((sizes | {"f": s["ffn"][0]})[letter] for letter in letters)


def read(name: str, folder: Path) -> Layout:
    """The layout of the checkpoint `name`, from its configuration. Raises UserError naming the key and its value."""
    values = read_json(name, folder / CONFIG)
    kind = values.get("model_type")
    if kind is None:  # early BERTs do not say it
        kind = next(
            (kind for kind, sizes in _SIZES.items() if sizes["d"] in values and sizes["layers"] in values), None
        )
    if not isinstance(kind, str) or kind not in _MODULES:
        raise _wrong(name, "model_type", kind, "bert and distilbert can be read")
    sizes = {letter: _count(name, values, key, letter == "S") for letter, key in _SIZES[kind].items()}
    if sizes["d"] % sizes["heads"]:
        keys = _SIZES[kind]
        raise _wrong(name, keys["d"], sizes["d"], f"must be a multiple of {keys['heads']}, {sizes['heads']}")
    for key, usual in {
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
    }.items():
        if values.get(key, usual) != usual:
            raise _wrong(name, key, values[key], f"only an encoder with {key}: {usual} can be read")
    rates = {ours: values.get(theirs, 0.1) for ours, theirs in _RATES[kind].items()}
    act_key = _RATES[kind]["hidden_act"]
    activation = values.get(act_key, "gelu")
    if not isinstance(activation, str) or activation not in ACT2FN:
        raise _wrong(name, act_key, activation, "an activation that transformers knows is needed, such as gelu")
    rates |= {
        "layer_norm_eps": values.get("layer_norm_eps", 1e-12),
        "initializer_range": values.get("initializer_range", 0.02),
    }
    for ours, value in rates.items():
        if ours != "hidden_act" and (
            isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1
        ):
            raise _wrong(name, _RATES[kind].get(ours, ours), value, "a number from 0 to below 1 is needed")
    pad = values.get("pad_token_id") or 0
    if isinstance(pad, bool) or not isinstance(pad, int) or not 0 <= pad < sizes["V"]:
        raise _wrong(name, "pad_token_id", pad, f"must be below vocab_size, {sizes['V']}")
    if sizes["layers"] > MOST_LAYERS:
        key = _SIZES[kind]["layers"]
        raise _wrong(name, key, sizes["layers"], f"more than {MOST_LAYERS} layers are no encoder of this kind")
    return Layout(
        kind,
        rates
        | {
            "hidden_act": activation,
            "vocab_size": sizes["V"],
            "max_positions": sizes["P"],
            "type_vocab_size": sizes.get("S", 0),
            "hidden_size": sizes["d"],
            "head_size": sizes["d"] // sizes["heads"],
            "heads": [sizes["heads"]] * sizes["layers"],
            "ffn": [sizes["f"]] * sizes["layers"],
            "pad_token_id": pad,
        },
    )


def match(name: str, layout: Layout, stored: dict[str, Stored]) -> dict[str, str]:
    """Our name of each encoder weight -> theirs, prefixes and old names understood.

    Without `dense.*` where the checkpoint has no pooler. Raises UserError for a weight that is missing, of another
    shape than the configuration says, or not understood; heads that an encoder may carry are passed over.
    """
    inner, outer = _prefixes(name, layout, stored)
    there = _by_plain_name(name, stored, inner)
    _check_depth(name, layout, there)
    found = {}
    for theirs, ours, letters in layout.modules():
        if letters[0] == "S" and not layout.shape["type_vocab_size"]:
            continue
        parts = {"weight": letters} if ours.startswith("embeddings.") and len(letters) == 2 else _with_bias(letters)
        if ours == "dense" and not any(f"{theirs}.{part}" in there for part in parts):
            continue
        for part, shape in parts.items():
            found[f"{ours}.{part}"] = _one(name, layout, stored, there, f"{theirs}.{part}", shape, inner)
    used = set(found.values())
    for plain, key in there.items():
        if key not in used and not _HEADS.fullmatch(plain):
            raise _unknown(name, stored, key)
    for key in stored:
        if not key.startswith(inner) and not _HEADS.fullmatch(key.removeprefix(outer)):
            raise _unknown(name, stored, key)
    return found


def word_head(name: str, layout: Layout, stored: dict[str, Stored]) -> dict[str, str] | None:
    """The parts of the masked-language-modelling head -> their names; None where the checkpoint has no such head.

    `0.weight`, `0.bias` of the dense layer, `2.weight`, `2.bias` of the LayerNorm, `bias`, and `tied` where the output
    matrix is stored beside the embedding. Raises UserError for a part of a head.
    """
    _, outer = _prefixes(name, layout, stored)
    there = _by_plain_name(name, stored, outer)
    modules, biases, tied = _WORDS[layout.kind]
    if not any(f"{module}.weight" in there for module, _, _ in modules):
        return None
    found = {
        f"{ours}.{part}": _one(name, layout, stored, there, f"{theirs}.{part}", shape, outer)
        for theirs, ours, letters in modules
        for part, shape in _with_bias(letters).items()
    }
    bias = next((key for key in biases if key in there), biases[0])
    found["bias"] = _one(name, layout, stored, there, bias, "V", outer)
    if tied in there:
        found["tied"] = _one(name, layout, stored, there, tied, "Vd", outer)
    return found


def _with_bias(letters: str) -> dict[str, str]:
    return {"weight": letters, "bias": letters[0]}


def _prefixes(name: str, layout: Layout, stored: dict[str, Stored]) -> tuple[str, str]:
    """What stands before the encoder's names, and before those of its heads (`module.bert.` and `module.`)."""
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


def _by_plain_name(name: str, stored: dict[str, Stored], prefix: str) -> dict[str, str]:
    """Names without `prefix` and in today's words (LayerNorm's gamma and beta are weight and bias) -> their own."""
    plain: dict[str, str] = {}
    for key in stored:
        if not key.startswith(prefix):
            continue
        now = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", key.removeprefix(prefix))
        now = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", now)
        if now in plain:
            raise UserError(f"checkpoint {name}: {plain[now]} and {key} are the same weight; remove one of them")
        plain[now] = key
    return plain


def _check_depth(name: str, layout: Layout, there: dict[str, str]) -> None:
    layers = {int(found[1]) for found in map(_LAYER.match, there) if found}
    said, has = len(layout.shape["heads"]), max(layers, default=-1) + 1
    if said != has:
        key = _SIZES[layout.kind]["layers"]
        raise _wrong(name, key, said, f"its weights have {has} layers; say so, or take the weights that belong to it")


def _one(
    name: str, layout: Layout, stored: dict[str, Stored], there: dict[str, str], plain: str, letters: str, prefix: str
) -> str:
    """The stored name of one weight, whose shape is right."""
    if plain not in there:
        raise UserError(f"checkpoint {name}: {prefix}{plain} is missing from its weights; they are not whole")
    key, wanted = there[plain], layout.size(letters)
    if stored[key].shape != wanted:
        sizes = _SIZES[layout.kind]
        said = ", ".join(f"{sizes[letter]} {size}" for letter, size in dict(zip(letters, wanted, strict=True)).items())
        raise UserError(
            f"checkpoint {name}: {key} in {stored[key].file.name} is {list(stored[key].shape)}, and config.json says "
            f"{list(wanted)} ({said}); mend config.json, or take the weights that belong to it"
        )
    return key


def _unknown(name: str, stored: dict[str, Stored], key: str) -> UserError:
    return UserError(
        f"checkpoint {name}: {key} in {stored[key].file.name} is not a weight of this layout; it would be left out in "
        "silence, so remove it or use another checkpoint"
    )


def _count(name: str, values: dict[str, Any], key: str, none: bool) -> int:
    """A size in the configuration; BERT's number of segments may be 0, and 2 where nothing is said."""
    value = values.get(key, 2 if none else None)
    if value is None:
        raise UserError(f"checkpoint {name}: config.json has no {key}; download it again")
    if isinstance(value, bool) or not isinstance(value, int) or not (0 if none else 1) <= value < 2**31:
        raise _wrong(name, key, value, "a whole number is needed")
    return value


def _wrong(name: str, key: str, value: Any, remedy: str) -> UserError:
    return UserError(f"checkpoint {name}: config.json has {key} = {value!r}; {remedy}")
