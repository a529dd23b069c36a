"""Pre-trained encoders by name: their shape, their tokenizer, their weights, and whether all that fits together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import AutoTokenizer

from bench.encoder.checkpoints import layouts, vocabulary, weights
from bench.encoder.checkpoints.files import VOCABULARIES, digest, find, tokenizer_digest
from bench.encoder.exits import HeadKind, Pooling, has_dense
from bench.encoder.model import Encoder, EncoderConfig
from bench.encoder.shape import Shape
from bench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

__all__ = ["check", "digest", "load", "shape_of", "tokenizer", "tokenizer_digest", "word_head"]


def tokenizer(name: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The fast tokenizer that belongs to a checkpoint. Raises UserError where there is none or it is broken."""
    folder = find(name, revision)
    own = vocabulary.read(name, folder)
    if own is None:  # transformers would make one that knows no word
        raise UserError(f"checkpoint {name}: no tokenizer in {folder} ({' or '.join(VOCABULARIES)}); add its files")
    try:
        found = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises bare exceptions
        why = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"checkpoint {name}: its tokenizer cannot be loaded ({why[:200]}); add its files anew"
        ) from error
    for mark in (found.cls_token, found.sep_token, found.unk_token):  # one that is not there gets an id of its own
        if mark is None or mark not in own:
            raise UserError(f"checkpoint {name}: its vocabulary has no {mark or '[CLS], [SEP] or [UNK]'}; use a BERT's")
    return found


def shape_of(name: str, revision: str | None = None) -> Shape:
    """The shape of a checkpoint, read from its configuration alone. Raises UserError where it cannot be found."""
    return EncoderConfig(**layouts.read(name, find(name, revision)).shape).shape


def load(
    name: str,
    *,
    num_labels: int,
    head: HeadKind,
    pooling: Pooling,
    exits: str | list[int] = "last",
    revision: str | None = None,
    device: torch.device | str = "cpu",
    signal: bool = False,
) -> Encoder:
    """An `Encoder` with the pre-trained weights of `name` and fresh exit heads.

    Reads checkpoints in BERT's and in DistilBERT's layout (no segment embeddings). `exits`: "last", "all", or the
    layers (1-based); `signal`: each says one more number. The dense layer of the heads starts from the checkpoint's
    pooler where it has one. Fresh weights are drawn from torch's global generator. Raises UserError for a checkpoint
    that does not give every other weight.
    """
    folder = find(name, revision)
    layout = layouts.read(name, folder)
    stored = weights.headers(name, folder)
    matched = layouts.match(name, layout, stored)
    depth = len(layout.shape["heads"])
    layers = {"last": [depth], "all": list(range(1, depth + 1))}[exits] if isinstance(exits, str) else exits
    head_dropout = {"distilbert": 0.2, "tinybert": 0.0}.get(head, layout.shape["dropout"])
    encoder = Encoder(
        EncoderConfig(
            **layout.shape,
            exits=layers,
            head=head,
            pooling=pooling,
            head_dropout=head_dropout,
            signal=signal,
            num_labels=num_labels,
        )
    )
    if not has_dense(head) or head == "distilbert":
        matched = {ours: theirs for ours, theirs in matched.items() if not ours.startswith("dense.")}
    missing, unexpected = encoder.load_state_dict(_values(name, stored, matched), strict=False)
    assert not unexpected and all(key.startswith(("exit_heads.", "dense.", "signal.")) for key in missing), (
        missing,
        unexpected,
    )
    return encoder.to(device)


def word_head(name: str, revision: str | None = None) -> dict[str, Tensor] | None:
    """The weights of the head that predicts masked words; None where the checkpoint has none.

    `0.weight`, `0.bias` (dense layer), `2.weight`, `2.bias` (LayerNorm), `bias` [V]. Raises UserError for a part of a
    head, and for one whose output matrix is not the word embedding: every encoder here ties the two.
    """
    folder = find(name, revision)
    layout, stored = layouts.read(name, folder), weights.headers(name, folder)
    names = layouts.word_head(name, layout, stored)
    if names is None:
        return None
    words = layouts.match(name, layout, stored)["embeddings.words.weight"]
    found = _values(name, stored, names | {"words": words})
    embedding, tied = found.pop("words"), found.pop("tied", None)
    if tied is not None and not torch.equal(tied, embedding):
        raise UserError(f"checkpoint {name}: {names['tied']} is not its word embedding; only tied heads are understood")
    return found


def has_word_head(name: str, revision: str | None = None) -> bool:
    """Whether the checkpoint has a head that predicts masked words, from the names alone."""
    folder = find(name, revision)
    return layouts.word_head(name, layouts.read(name, folder), weights.headers(name, folder)) is not None


def check(
    name: str,
    revision: str | None = None,
    *,
    words: PreTrainedTokenizerBase,
    longest: int,
    pairs: bool,
) -> str:
    """Opens a checkpoint whole and says in a line what it holds. Raises UserError for the first thing that is wrong.

    `words` is the tokenizer whose ids it will be fed (the backbone's), `longest` the most tokens of an example, `pairs`
    whether some examples have two segments.
    """
    folder = find(name, revision)
    layout = layouts.read(name, folder)
    stored = weights.headers(name, folder)
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
            f"checkpoint {name}: config.json has pad_token_id = {pad}, whose embedding would not be trained, and the "
            f"tokenizer pads with {words.pad_token_id}; write {words.pad_token_id} there"
        )
    for _ in weights.tensors(name, stored, matched.values()):
        pass  # reading is the check
    kinds = ", ".join(sorted({stored[key].kind for key in matched.values()}))
    pooler = "with" if "dense.weight" in matched else "without"
    depth, hidden = len(layout.shape["heads"]), layout.shape["hidden_size"]
    return f"checkpoint {name}: {depth} layers of {hidden}, {kinds}, {pooler} a pooler, {digest(name, revision)[:12]}"


def _values(name: str, stored: dict[str, weights.Stored], names: dict[str, str]) -> dict[str, Tensor]:
    ours = {theirs: own for own, theirs in names.items()}
    return {ours[theirs]: values for theirs, values in weights.tensors(name, stored, names.values())}
