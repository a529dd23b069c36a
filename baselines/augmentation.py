"""TinyBERT's data augmentation: copies of training examples with words drawn from a masked-language model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from bench.encoder.masked_lm import MaskedLM
from bench.tasks.batches import collate, length_batches
from bench.tasks.examples import Examples

REPLACED = 0.4
"""The chance that a word of a copy is replaced."""
CANDIDATES = 15
"""How many of the model's best words a replacement is drawn from."""


@dataclass(frozen=True)
class Vocabulary:
    """What the ids of a WordPiece vocabulary are, as masks over it [V]."""

    words: NDArray[np.bool_]
    """Letters only, and the beginning of a word."""
    continuations: NDArray[np.bool_]
    """Pieces that go on a word (##...)."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        special = set(tokenizer.all_special_ids)
        return cls(
            words=np.array([token.isalpha() and i not in special for i, token in enumerate(tokens)]),
            continuations=np.array([token.startswith("##") for token in tokens]),
        )

    def places(self, ids: list[int]) -> NDArray[np.int64]:
        """The positions in an example of the words that are one piece each."""
        tokens = np.asarray(ids)
        continued = np.append(self.continuations[tokens[1:]], False)
        return np.flatnonzero(self.words[tokens] & ~continued)


def augmented(
    model: MaskedLM,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    copies: int,
    seed: int,
    batch_size: int = 64,
) -> Examples:
    """The examples, followed by `copies` altered copies of each (Jiao et al., 2020, algorithm 1 in
    appendix A).

    Every word is replaced with probability 0.4 by one of the 15 whole words that the model finds
    likeliest in its place, given the rest of the example; labels, segments and difficulty are inherited.
    Unlike the authors we mask the word in the example alone (they append the unaltered sentence) and
    leave words of several pieces, which they replace by GloVe neighbours, as they are: so a copy has its
    original's length. Punctuation and numbers stay.
    """
    vocabulary = Vocabulary.of(tokenizer)
    places = [vocabulary.places(ids) for ids in examples.input_ids]
    candidates = _candidates(model, vocabulary, tokenizer.mask_token_id, examples, places, batch_size)
    generator = np.random.default_rng([seed, 23])
    everything = [examples]
    for _ in range(copies):
        input_ids = []
        for ids, where, found in zip(examples.input_ids, places, candidates, strict=True):
            chosen = generator.random(len(where)) < REPLACED
            drawn = found[np.arange(len(where)), generator.integers(CANDIDATES, size=len(where))]
            copied = np.array(ids)
            copied[where[chosen]] = drawn[chosen]
            input_ids.append(copied.tolist())
        everything.append(replace(examples, input_ids=input_ids))
    return _joined(everything)


@torch.inference_mode()
def _candidates(
    model: MaskedLM,
    vocabulary: Vocabulary,
    mask_id: int,
    examples: Examples,
    places: list[NDArray[np.int64]],
    batch_size: int,
) -> list[NDArray[np.int32]]:
    """For each example [places, 15]: the likeliest words at each place when it alone is masked."""
    model.eval()
    device = model.bias.device
    forbidden = torch.ones(model.bias.shape[0], dtype=torch.bool)
    forbidden[: len(vocabulary.words)] = ~torch.from_numpy(vocabulary.words)
    forbidden = forbidden.to(device)
    rows = [(i, k) for i, where in enumerate(places) for k in range(len(where))]
    found = [np.empty((len(where), CANDIDATES), dtype=np.int32) for where in places]
    lengths = [len(examples.input_ids[i]) for i, _ in rows]
    for positions in length_batches(lengths, batch_size, None):
        some = [rows[p] for p in positions]
        batch = collate([examples[i] for i, _ in some])
        at = torch.tensor([places[i][k] for i, k in some])
        batch["input_ids"][torch.arange(len(some)), at] = mask_id
        hidden = model(*(batch[key].to(device) for key in ("input_ids", "attention_mask", "token_type_ids")))
        logits = model.words(hidden[torch.arange(len(some), device=device), at.to(device)])
        best = logits.masked_fill(forbidden, -torch.inf).topk(CANDIDATES, dim=-1).indices.cpu().numpy()
        for (i, k), ids in zip(some, best, strict=True):
            found[i][k] = ids
    return found


def _joined(parts: list[Examples]) -> Examples:
    first = parts[0]
    return Examples(
        idx=np.concatenate([part.idx for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        input_ids=[ids for part in parts for ids in part.input_ids],
        segments=[segments for part in parts for segments in part.segments],
        difficulty=None
        if first.difficulty is None
        else np.concatenate([part.difficulty for part in parts if part.difficulty is not None]),
    )
