"""Pretrained encoders by name: shape, tokenizer, weights, and a check that they match."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import AutoTokenizer

from bench.encoder.checkpoints import layouts, vocabulary, weights
from bench.encoder.checkpoints.files import VOCABULARIES, digest, find, tokenizer_digest
from bench.encoder.checkpoints.modernbert import apart
from bench.encoder.exits import HeadKind, Pooling, has_dense, shares_dense
from bench.encoder.model import Encoder, EncoderConfig
from bench.encoder.shape import Shape
from bench.errors import UserError, first_line

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

__all__ = ["check", "digest", "has_word_head", "load", "shape_of", "tokenizer", "tokenizer_digest", "word_head"]


def tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a checkpoint.

    Raises:
        UserError: The checkpoint has no tokenizer, or it cannot be loaded.
    """
    folder = find(name, revision)
    own = vocabulary.read(name, folder)
    if own is None:  # transformers would return a tokenizer with an empty vocabulary
        raise UserError(f"checkpoint {name}: no tokenizer in {folder} ({' or '.join(VOCABULARIES)}); add its files")
    try:
        found = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises plain exceptions
        why = first_line(error)[:200]
        raise UserError(
            f"checkpoint {name}: its tokenizer cannot be loaded ({why}); download its files again"
        ) from error
    for mark in (found.cls_token, found.sep_token, found.unk_token):  # a missing one would get a new id
        if mark is None or mark not in own:
            raise UserError(f"checkpoint {name}: its vocabulary has no {mark or '[CLS], [SEP] or [UNK]'}; use another")
    return found


def shape_of(name: str, revision: str | None = None, layers: int | None = None) -> Shape:
    """Return the shape of a checkpoint, from its configuration.

    Args:
        name: Name of the checkpoint.
        revision: Commit or branch of a Hub id.
        layers: Number of first layers to use; None: all.

    Raises:
        UserError: The checkpoint is not found, its configuration is not understood, or it has fewer layers.
    """
    shape = EncoderConfig(**layouts.read(name, find(name, revision)).shape).shape
    if layers is not None and layers > shape.layers:
        raise UserError(
            f"backbone.layers: {layers}, but checkpoint {name} has {shape.layers} layers; use at most that many"
        )
    return shape if layers is None else shape.truncated(layers)


def load(
    name: str,
    *,
    num_labels: int,
    head: HeadKind,
    pooling: Pooling,
    exits: str | list[int] = "last",
    revision: str | None = None,
    depth: int | None = None,
    device: torch.device | str = "cpu",
    signal: bool = False,
) -> Encoder:
    """Return an `Encoder` with the weights of a BERT, DistilBERT or ModernBERT checkpoint and new exit heads.

    New weights are drawn from torch's global generator. Dense layers of exit heads start from the checkpoint's
    pooler if it has one.

    Args:
        name: A folder, `package:<module>/<folder>`, or a Hub id.
        num_labels: Outputs of every exit; 1 for regression.
        head: Kind of the exit heads.
        pooling: How exits read the hidden states.
        exits: "last", "all", or the layers (1-based) that are followed by an exit.
        revision: Commit or branch of a Hub id.
        depth: Number of first layers to use; None: all.
        device: Where the encoder is placed.
        signal: Whether each exit gives one more number (`EncoderConfig`).

    Raises:
        UserError: The checkpoint lacks a weight of the encoder, or is not understood.
    """
    _, layout, stored = _opened(name, revision)
    matched = layouts.match(name, layout, stored)
    depth = depth or len(layout.shape["heads"])
    cut = {f"layers.{layer}" for layer in range(depth, len(layout.shape["heads"]))}
    matched = {ours: theirs for ours, theirs in matched.items() if ".".join(ours.split(".")[:2]) not in cut}
    shape = layout.shape | {key: layout.shape[key][:depth] for key in ("heads", "ffn")}
    layers = {"last": [depth], "all": list(range(1, depth + 1))}[exits] if isinstance(exits, str) else exits
    head_dropout = {"distilbert": 0.2, "tinybert": 0.0}.get(head, layout.shape["dropout"])
    own = {"exits": layers, "head": head, "pooling": pooling, "head_dropout": head_dropout, "signal": signal}
    encoder = Encoder(EncoderConfig(**shape, **own, num_labels=num_labels))
    pooler = {ours: matched.pop(ours) for ours in list(matched) if ours.startswith("dense.")}
    if has_dense(head) and head != "distilbert":
        places = [""] if shares_dense(head) else [f"exit_heads.{e}." for e in range(len(layers))]
        matched |= {f"{place}{ours}": theirs for place in places for ours, theirs in pooler.items()}
    missing, unexpected = encoder.load_state_dict(_values(name, stored, matched), strict=False)
    assert not unexpected and all(key.startswith(("exit_heads.", "dense.", "signal.")) for key in missing)
    return encoder.to(device)


def word_head(name: str, revision: str | None = None) -> dict[str, Tensor] | None:
    """Return the weights of a checkpoint's masked-word head, or None if it has none.

    Returns:
        `0.weight`, `0.bias` (dense layer), `2.weight`, `2.bias` (LayerNorm) and `bias` [V]; in ModernBERT's layout
        neither `0.bias` nor `2.bias`.

    Raises:
        UserError: The head is incomplete, or its output matrix is not the word embedding.
    """
    _, layout, stored = _opened(name, revision)
    names = layouts.word_head(name, layout, stored)
    if names is None:
        return None
    words = layouts.match(name, layout, stored)["embeddings.words.weight"]
    found = _values(name, stored, names | {"words": words})
    embedding, tied = found.pop("words"), found.pop("tied", None)
    if tied is not None and not torch.equal(tied, embedding):
        raise UserError(
            f"checkpoint {name}: {names['tied']} differs from its word embedding; only tied heads can be read"
        )
    return found


def has_word_head(name: str, revision: str | None = None) -> bool:
    """Return whether a checkpoint has a masked-word head, from the names of its weights."""
    _, layout, stored = _opened(name, revision)
    return layouts.word_head(name, layout, stored) is not None


def check(
    name: str,
    revision: str | None = None,
    *,
    words: PreTrainedTokenizerBase,
    longest: int,
    pairs: bool,
) -> str:
    """Read a whole checkpoint and return a line that describes it.

    Args:
        name: Name of the checkpoint.
        revision: Commit or branch of a Hub id.
        words: Tokenizer whose ids the model will read: the backbone's.
        longest: Tokens of the longest example.
        pairs: Whether some examples have two segments.

    Raises:
        UserError: The checkpoint is damaged, or does not fit these inputs.
    """
    folder, layout, stored = _opened(name, revision)
    matched = layouts.match(name, layout, stored)
    vocabulary.check(name, folder, layout.shape, words.get_vocab())
    positions, segments, pad = (layout.shape[key] for key in ("max_positions", "type_vocab_size", "pad_token_id"))
    if longest > positions:
        raise UserError(
            f"data.max_length: {longest} tokens, and checkpoint {name} has {positions} positions "
            f"(max_position_embeddings); use at most {positions}"
        )
    if pairs and segments == 1:
        raise UserError(
            f"checkpoint {name}: config.json has type_vocab_size = 1, and pairs of sentences need 2 segments; leave "
            "their tasks out, or use another checkpoint"
        )
    if words.pad_token_id is not None and words.pad_token_id != pad:
        raise UserError(
            f"checkpoint {name}: config.json has pad_token_id = {pad}, the embedding of which is not trained, and the "
            f"tokenizer pads with {words.pad_token_id}; write {words.pad_token_id} there"
        )
    for _ in weights.tensors(name, stored, matched.values()):
        pass  # reading checks the values
    kinds = ", ".join(sorted({stored[key].kind for key in matched.values()}))
    pooler = "with" if "dense.weight" in matched else "without"
    depth, hidden = len(layout.shape["heads"]), layout.shape["hidden_size"]
    return f"checkpoint {name}: {depth} layers of {hidden}, {kinds}, {pooler} a pooler, {digest(name, revision)[:12]}"


def _opened(name: str, revision: str | None) -> tuple[Path, layouts.Layout, dict[str, weights.Stored]]:
    """Return the folder of a checkpoint, its layout, and the headers of its weights."""
    folder = find(name, revision)
    return folder, layouts.read(name, folder), weights.headers(name, folder)


def _values(name: str, stored: dict[str, weights.Stored], names: dict[str, str]) -> dict[str, Tensor]:
    found = dict(weights.tensors(name, stored, set(names.values())))
    return apart({own: found[theirs] for own, theirs in names.items()})
