"""The configuration of a checkpoint, and the names and shapes of the weights that belong to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.activations import ACT2FN

from bench.encoder.checkpoints.files import CONFIG, read_json
from bench.encoder.checkpoints.kinds import BERT, DISTILBERT, Kind, whole, wrong
from bench.encoder.checkpoints.modernbert import MODERNBERT, attention
from bench.encoder.checkpoints.weights import Stored
from bench.errors import UserError

MOST_LAYERS = 1_000
"""A configuration with more layers is taken for damaged."""

KINDS = {"bert": BERT, "distilbert": DISTILBERT, "modernbert": MODERNBERT}
"""`model_type` of config.json -> how its checkpoints are read."""

_PREFIX = r"((module|model|_orig_mod|base_model|backbone|encoder|0|auto_model)\.)*"


@dataclass(frozen=True)
class Layout:
    """The content of config.json: `model_type`, and as `shape` arguments of `EncoderConfig`."""

    model_type: str
    shape: dict[str, Any]

    @property
    def kind(self) -> Kind:
        """How checkpoints of this model type are read."""
        return KINDS[self.model_type]

    def modules(self) -> Iterator[tuple[str, str, str]]:
        """Yield the name in the checkpoint, the name in `Encoder`, and the letters of the shape of each module."""
        norms = self.shape.get("attention_norms") or [True] * len(self.shape["heads"])
        for theirs, ours, letters in self.kind.modules:
            for layer in range(len(self.shape["heads"]) if "#" in theirs else 1):
                if norms[layer] or not ours.endswith(".attention_norm"):
                    yield theirs.replace("#", str(layer)), ours.replace("#", str(layer)), letters

    def size(self, letters: str) -> tuple[int, ...]:
        """Return the shape that a string of letters denotes."""
        s = self.shape
        sizes = {"V": s["vocab_size"], "P": s["max_positions"], "S": s["type_vocab_size"], "d": s["hidden_size"]}
        sizes |= {"f": s["ffn"][0]}
        sizes |= {letter: count * sizes[each] for letter, (each, count) in self.kind.stacked.items()}
        return tuple(sizes[letter] for letter in letters)

    def key(self, letter: str) -> str:
        """Return the key of config.json from which the size of a letter follows."""
        each, count = self.kind.stacked.get(letter, (letter, 1))
        return f"{count} x {self.kind.sizes[each]}" if count > 1 else self.kind.sizes[each]


def read(name: str, folder: Path) -> Layout:
    """Read the layout of the checkpoint `name` from its configuration.

    Raises:
        UserError: A key is missing or has a value that cannot be used.
    """
    values = read_json(name, folder / CONFIG)
    model_type = values.get("model_type")
    if model_type is None:  # missing in early BERT checkpoints
        found = (each for each, kind in KINDS.items() if {kind.sizes["d"], kind.sizes["layers"]} <= values.keys())
        model_type = next(found, None)
    if not isinstance(model_type, str) or model_type not in KINDS:
        raise wrong(name, "model_type", model_type, "bert, distilbert and modernbert can be read")
    kind = KINDS[model_type]
    sizes = {letter: _count(name, values, key, letter == "S") for letter, key in kind.sizes.items()}
    if sizes["d"] % sizes["heads"]:
        raise wrong(name, kind.sizes["d"], sizes["d"], f"must be a multiple of {kind.sizes['heads']}, {sizes['heads']}")
    if sizes["layers"] > MOST_LAYERS:
        raise wrong(name, kind.sizes["layers"], sizes["layers"], f"at most {MOST_LAYERS} layers can be read")
    for key, usual in kind.only.items():
        if values.get(key, usual) != usual:
            raise wrong(name, key, values[key], f"only an encoder with {key}: {usual} can be read")
    activation = values.get(kind.activation, "gelu")
    if not isinstance(activation, str) or activation not in ACT2FN:
        raise wrong(name, kind.activation, activation, "an activation of transformers is needed, such as gelu")
    rates = {ours: (theirs, values.get(theirs, usual)) for ours, (theirs, usual) in kind.rates.items()}
    for key, value in rates.values():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise wrong(name, key, value, "a number from 0 to below 1 is needed")
    pad = values.get("pad_token_id") or 0
    if isinstance(pad, bool) or not isinstance(pad, int) or not 0 <= pad < sizes["V"]:
        raise wrong(name, "pad_token_id", pad, f"must be below vocab_size, {sizes['V']}")
    shape = {
        "layout": kind.layout,
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
    if kind is MODERNBERT:
        if (size := sizes["d"] // sizes["heads"]) % 2:
            raise wrong(
                name, kind.sizes["heads"], sizes["heads"], f"rotary positions need heads of even size, not {size}"
            )
        shape |= attention(name, values, sizes["layers"])
    return Layout(model_type, shape | {ours: value for ours, (_, value) in rates.items()})


def match(name: str, layout: Layout, stored: dict[str, Stored]) -> dict[str, str]:
    """Return the name in `Encoder` -> the stored name of each encoder weight.

    Known prefixes and old names of weights are understood, and known heads of other tasks are skipped. `dense.*` is
    missing if the checkpoint has no pooler.

    Raises:
        UserError: A weight is missing, has another shape than in the configuration, or is unknown.
    """
    inner, outer = _prefixes(name, layout, stored)
    weights = _Weights(name, layout, stored, inner)
    numbered = re.compile(rf"{re.escape(layout.kind.layer)}(\d+)\.")
    layers = {int(found[1]) for found in map(numbered.match, weights.names) if found}
    depth, stored_depth = len(layout.shape["heads"]), max(layers, default=-1) + 1
    if depth != stored_depth:
        raise wrong(
            name,
            layout.key("layers"),
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
        if not re.fullmatch(rf"({layout.kind.others})(\..*)?", plain):
            raise UserError(
                f"checkpoint {name}: {key} in {stored[key].file.name} is not a weight of this layout; it would be "
                "ignored, so remove it or use another checkpoint"
            )
    return found


def word_head(name: str, layout: Layout, stored: dict[str, Stored]) -> dict[str, str] | None:
    """Return the stored names of the masked-word head, or None if the checkpoint has none.

    Returns:
        Names of `0.weight`, `0.bias` (dense layer), `2.weight`, `2.bias` (LayerNorm), `bias`, and `tied` if the output
        matrix is stored beside the word embedding. In ModernBERT's layout there is neither `0.bias` nor `2.bias`.

    Raises:
        UserError: The head is incomplete.
    """
    weights = _Weights(name, layout, stored, _prefixes(name, layout, stored)[1])
    kind = layout.kind
    # In ModernBERT's layout the head of a classifier has the same names, and no bias of the output.
    signs = [f"{module}.weight" for module, _, _ in kind.head] if kind.layout == "bert" else kind.head_biases
    if not any(sign in weights.names for sign in signs):
        return None
    found: dict[str, str] = {}
    for module in kind.head:
        found |= weights.module(*module)
    biases, tied = kind.head_biases, kind.tied
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
        biased = self.layout.kind.biases and letters[0] not in "VPS"
        parts = {"weight": letters} | ({"bias": letters[0]} if biased else {})
        return {f"{ours}.{part}": self.one(f"{theirs}.{part}", shape) for part, shape in parts.items()}

    def one(self, plain: str, letters: str) -> str:
        """Return the stored name of a weight after a check of its shape."""
        if plain not in self.names:
            raise UserError(f"checkpoint {self.name}: {self.prefix}{plain} is missing from its weights; use another")
        key, wanted = self.names[plain], self.layout.size(letters)
        there = self.stored[key]
        if there.shape != wanted:
            sizes = ", ".join(f"{self.layout.key(each)} {self.layout.size(each)[0]}" for each in dict.fromkeys(letters))
            raise UserError(
                f"checkpoint {self.name}: {key} in {there.file.name} is {list(there.shape)}, but in config.json "
                f"{list(wanted)} ({sizes}); correct config.json, or use the weights that belong to it"
            )
        return key


def _prefixes(name: str, layout: Layout, stored: dict[str, Stored]) -> tuple[str, str]:
    """Return the prefixes of the encoder's weights and of its heads, such as `module.bert.` and `module.`."""
    words, kind = layout.kind.words, layout.model_type
    before = sorted(key.removesuffix(words) for key in stored if key == words or key.endswith(f".{words}"))
    some = ", ".join(sorted(stored)[:2]) or "nothing"
    if not before:
        raise UserError(f"checkpoint {name}: no {words} in its files ({some}); weights in {kind}'s layout are needed")
    if len(before) > 1:
        raise UserError(f"checkpoint {name}: has {len(before)} encoders ({', '.join(before)}); save one of them alone")
    if not re.fullmatch(rf"{_PREFIX}((bert|distilbert)\.)?", before[0]):
        raise UserError(f"checkpoint {name}: its weights begin with {before[0]}, unlike those of {kind}; use another")
    return before[0], before[0].removesuffix(layout.kind.base)


def _count(name: str, values: dict[str, Any], key: str, segments: bool) -> int:
    """Return a size of the configuration; the number of segments may be 0, and is 2 by default."""
    return whole(name, values, key, 2 if segments else None, 0 if segments else 1)
