"""Data augmentation of TinyBERT: copies of training examples with words replaced by a masked-language model."""

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
"""Probability that a word of a copy is replaced."""
CANDIDATES = 15
"""Number of most probable words from which a replacement is drawn."""
CONTRACTED = frozenset(
    ("s", "t", "d", "m", "ll", "re", "ve", "don", "didn", "doesn", "isn", "aren", "wasn", "weren", "won", "wouldn",
     "couldn", "shouldn", "hasn", "haven", "hadn", "ain")
)  # fmt: skip
"""Parts of contractions such as "don't", which a BERT tokenizer splits at the apostrophe. They are never replaced."""


@dataclass(frozen=True)
class Vocabulary:
    """Classes of tokens in a WordPiece vocabulary, as Boolean masks of shape [V].

    Attributes:
        words: Tokens of letters that begin a word; a replacement is one of these.
        stop: English stop words (scikit-learn's `ENGLISH_STOP_WORDS` and `CONTRACTED`), which are never replaced.
        continuations: Tokens that continue a word (##...).
    """

    words: NDArray[np.bool_]
    stop: NDArray[np.bool_]
    continuations: NDArray[np.bool_]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        """Return the token classes of the vocabulary of a tokenizer."""
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # slow to import, and rarely needed

        stop = ENGLISH_STOP_WORDS | CONTRACTED
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        special = set(tokenizer.all_special_ids)
        return cls(
            words=np.array([token.isalpha() and i not in special for i, token in enumerate(tokens)]),
            stop=np.array([token.lower() in stop for token in tokens]),
            continuations=np.array([token.startswith("##") for token in tokens]),
        )

    def places(self, ids: list[int]) -> NDArray[np.int64]:
        """Return the positions of the words that may be replaced: single tokens that are not stop words."""
        tokens = np.asarray(ids)
        continued = np.append(self.continuations[tokens[1:]], False)
        return np.flatnonzero(self.words[tokens] & ~self.stop[tokens] & ~continued)


def augmented(
    model: MaskedLM,
    tokenizer: PreTrainedTokenizerBase,
    examples: Examples,
    copies: int,
    seed: int,
    batch_size: int = 64,
) -> Examples:
    """Return the examples followed by altered copies of them (Jiao et al., 2020, algorithm 1 in appendix A).

    As in the authors' `data_augmentation.py`, a copy alters one sentence. Each of its words is replaced with
    probability 0.4 by one of the 15 most probable whole words at its position. Stop words, punctuation and numbers are
    not replaced. A copy that equals its original or an earlier copy is dropped. Copies have the labels, segments and
    difficulty of their original.

    Differences from the authors' code: the model reads the example with the word masked (authors: the original sentence
    is appended); words of several tokens are not replaced (authors: by GloVe neighbors); the other sentence of a pair
    is the original one (authors: the second sentence is altered together with the last alteration of the first); stop
    words are scikit-learn's; candidates are the 15 best whole words (authors: the 15 best pieces, less those that
    continue a word).

    Args:
        model: Masked-language model.
        tokenizer: Tokenizer of the model.
        examples: N examples of one or two sentences.
        copies: Number of copies tried for each sentence; at most N x sentences x copies examples are added.
        seed: Seed of the replacements.
        batch_size: Batch size of the model.
    """
    vocabulary = Vocabulary.of(tokenizer)
    places = [vocabulary.places(ids) for ids in examples.input_ids]
    candidates = _candidates(model, vocabulary, tokenizer.mask_token_id, examples, places, batch_size)
    generator = np.random.default_rng([seed, 23])
    sources: list[int] = list(range(len(examples)))
    input_ids: list[list[int]] = list(examples.input_ids)
    for position, (ids, where, found) in enumerate(zip(examples.input_ids, places, candidates, strict=True)):
        sentence = np.asarray(examples.segments[position])[where]
        known = {tuple(ids)}
        for altered in np.unique(sentence):
            for _ in range(copies):
                chosen = (generator.random(len(where)) < REPLACED) & (sentence == altered)
                drawn = found[np.arange(len(where)), generator.integers(CANDIDATES, size=len(where))]
                copied = np.array(ids)
                copied[where[chosen]] = drawn[chosen]
                copy = copied.tolist()
                if tuple(copy) not in known:
                    known.add(tuple(copy))
                    sources.append(position)
                    input_ids.append(copy)
    return replace(examples.take(sources), input_ids=input_ids)


@torch.inference_mode()
def _candidates(
    model: MaskedLM,
    vocabulary: Vocabulary,
    mask_id: int,
    examples: Examples,
    places: list[NDArray[np.int64]],
    batch_size: int,
) -> list[NDArray[np.int32]]:
    """Return for each example the most probable words [positions, 15] when one position is masked at a time."""
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
