"""The vocabulary of a checkpoint, read from its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.encoder.checkpoints.files import VOCABULARIES, read_json, refuse_stub
from bench.errors import UserError


def read(name: str, folder: Path) -> dict[str, int] | None:
    """Return token -> id, or None if the checkpoint has no vocabulary.

    Raises:
        UserError: A file of the vocabulary is damaged.
    """
    whole, words = (folder / file for file in VOCABULARIES)
    if whole.is_file():
        values = read_json(name, whole)
        model = values.get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        if not isinstance(vocabulary, dict) or not vocabulary:
            raise UserError(
                f"checkpoint {name}: {whole.name} has no model.vocab of tokens to ids; a WordPiece or BPE is needed"
            )
        added = values.get("added_tokens") or []
        return vocabulary | {token["content"]: token["id"] for token in added if {"content", "id"} <= set(token)}
    if not words.is_file():
        return None
    refuse_stub(name, words)
    try:
        tokens = words.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"checkpoint {name}: {words.name} is not UTF-8 text ({error}); download it again") from None
    return {token.rstrip("\r"): number for number, token in enumerate(tokens) if token.rstrip("\r")}


def check(name: str, folder: Path, layout: Mapping[str, Any], words: Mapping[str, int]) -> None:
    """Check that a model and a tokenizer use the same token ids.

    Args:
        name: Name of the checkpoint.
        folder: Its folder.
        layout: Its shape (`Layout.shape`).
        words: Vocabulary of the tokenizer: token -> id.

    Raises:
        UserError: An id has no row in the word embedding, or another id in the checkpoint's own vocabulary.
    """
    last, rows = max(words.values()), layout["vocab_size"]
    if last >= rows:
        token = next(token for token, number in words.items() if number == last)
        raise UserError(
            f"checkpoint {name}: its embedding has {rows} rows (vocab_size), and the backbone's tokenizer gives ids "
            f"up to {last} ({token!r}); use the tokenizer of that vocabulary, or another checkpoint"
        )
    own = read(name, folder)
    foreign = [] if own is None else [token for token, number in words.items() if own.get(token) != number]
    if own is not None and foreign:
        token = min(foreign, key=words.__getitem__)
        raise UserError(
            f"checkpoint {name}: its vocabulary differs from the backbone's tokenizer: {token!r} is "
            f"{own.get(token, 'unknown')} in one and {words[token]} in the other ({len(foreign)} tokens differ); use a "
            "checkpoint of the backbone's vocabulary"
        )
