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
"""Probability that a word of a copy is replaced."""
CANDIDATES = 15
"""How many of the model's likeliest words a replacement is drawn from."""
CONTRACTED = frozenset(
    ("s", "t", "d", "m", "ll", "re", "ve", "don", "didn", "doesn", "isn", "aren", "wasn", "weren", "won", "wouldn",
     "couldn", "shouldn", "hasn", "haven", "hadn", "ain")
)  # fmt: skip
"""Pieces of contractions such as don't, which a BERT tokenizer splits at the apostrophe; they are not replaced."""


@dataclass(frozen=True)
class Vocabulary:
    """Kinds of ids in a WordPiece vocabulary, as masks over it [V]."""

    words: NDArray[np.bool_]
    """Letters only, and the beginning of a word: what a replacement may be."""
    stop: NDArray[np.bool_]
    """Stop words of English (scikit-learn's ENGLISH_STOP_WORDS and `CONTRACTED`), in any case: never replaced."""
    continuations: NDArray[np.bool_]
    """Pieces that continue a word (##...)."""

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # half a second that few runs need

        stop = ENGLISH_STOP_WORDS | CONTRACTED
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        special = set(tokenizer.all_special_ids)
        return cls(
            words=np.array([token.isalpha() and i not in special for i, token in enumerate(tokens)]),
            stop=np.array([token.lower() in stop for token in tokens]),
            continuations=np.array([token.startswith("##") for token in tokens]),
        )

    def places(self, ids: list[int]) -> NDArray[np.int64]:
        """Return the positions in an example of the words that may be replaced: one piece each, no stop words."""
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

    As in the authors' `data_augmentation.py` a copy alters one sentence: each of its words is replaced with probability
    0.4 by one of the 15 whole words that the model finds likeliest in its place; stop words, punctuation and numbers
    stay; a copy that equals its original or an earlier copy is dropped. Labels, segments and difficulty are inherited.
    Unlike the authors the model reads the example with the word masked (they append the unaltered sentence), words of
    several pieces stay (they draw from GloVe neighbours), and the other sentence of a pair is always the original (in
    theirs the second sentence is altered beside the last alteration of the first).

    Args:
        model: Masked-language model.
        tokenizer: Its tokenizer.
        examples: N examples of one or two sentences.
        copies: How many copies of each sentence are tried; at most N x sentences x copies rows are added.
        seed: Of the replacements.
        batch_size: Examples that the model reads at once.
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
    """Return, for each example [places, 15], the likeliest words at each place when it alone is masked."""
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
