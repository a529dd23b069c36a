"""Groups of training rows with related text, and splits that hold out whole groups.

A random sample of train is not held out if its texts also occur in the rest of train: SST-2's train contains every
phrase of a sentence, MNLI has three hypotheses for each premise. Rows are therefore grouped by shared text, as defined
for each task in `bench.tasks.catalogue`, and a held-out split removes whole groups from train.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.errors import UserError

__all__ = ["COMMON", "Grouping", "Groups", "alike", "folds", "nested", "set_apart", "shared", "words"]

COMMON = -1
"""Group of rows whose text is too common to identify a sentence ("a good film"). They stay in train."""
LARGEST = 0.01
"""Largest group, as a fraction of all rows. Rows of larger groups count as common, because one such group could fill
most of a calibration split."""
SMALL = 10
"""A group of up to this many rows is never too large."""
HELD_OUT = 0.2
"""Largest fraction of train that is removed so that each group contributes one row. Beyond it, groups contribute
more rows."""

Columns = dict[str, list[Any]]


class Groups(NamedTuple):
    """Groups of N rows."""

    ids: NDArray[np.int64]
    """[N] equal for rows that must stay together; `COMMON` for rows without a group."""
    typical: NDArray[np.bool_]
    """[N] whether a row is of the kind that validation has (SST-2: whole sentences); such rows are preferred."""


Grouping = Callable[[Columns], Groups]
"""Function: columns of a split -> groups of its rows."""


def words(text: str) -> str:
    """Return the words of a text, in lower case and without punctuation, separated by single spaces."""
    return " ".join(re.findall(r"\w+", text.lower()))


def shared(*columns: str) -> Grouping:
    """Group rows that share a text of these columns, directly or through other rows (linked questions in QQP)."""

    def grouping(rows: Columns) -> Groups:
        keys = [[words(text) for text in rows[column]] for column in columns]
        ids = _components(keys)
        sizes = np.bincount(ids)
        ids[sizes[ids] > max(SMALL, LARGEST * len(ids))] = COMMON
        return Groups(ids, ids != COMMON)

    return grouping


def alike(columns: Sequence[str], group: str | None = None) -> Grouping:
    """Group rows with equal text in all the columns, and rows with the same value in the column `group`."""

    def grouping(rows: Columns) -> Groups:
        texts = list(zip(*([words(text) or text for text in rows[column]] for column in columns), strict=True))
        ids = _components([texts, rows[group]] if group else [texts])
        return Groups(ids, np.ones(len(ids), dtype=bool))

    return grouping


def nested(column: str) -> Grouping:
    """Group phrases with the longest text that contains them. Phrases contained in several such texts are common.

    A text contains another if the words of the other occur in it consecutively. Typical rows are the longest texts,
    which no other text contains.
    """

    def grouping(rows: Columns) -> Groups:
        texts = [words(text) for text in rows[column]]
        number = {text: position for position, text in enumerate(dict.fromkeys(texts))}
        owner = _holders([text.split() for text in number])
        place = np.array([number[text] for text in texts], dtype=np.int64)
        return Groups(owner[place], owner[place] == place)

    return grouping


_ODD = 0x9E3779B97F4A7C15
_UNDONE = pow(_ODD, -1, 2**64)


def _holders(texts: Sequence[Sequence[str]]) -> NDArray[np.int64]:
    """Return for each text the longest text that contains it.

    From long to short, the texts of one length are looked up among all runs of that length in the longest texts found
    so far. Runs are compared by 64-bit polynomial hashes of random values, so false matches are not expected.

    Args:
        texts: N distinct texts, as words.

    Returns:
        [N] position of the longest text that contains each (often itself), or `COMMON` if there are several.
    """
    names = {word: name for name, word in enumerate(dict.fromkeys(word for text in texts for word in text))}
    values = np.random.default_rng(0).integers(2**64, size=len(names) + 1, dtype=np.uint64)
    lengths = np.array([len(text) for text in texts])
    owner = np.full(len(texts), COMMON)
    held, source = [values[-1:]], [np.array([COMMON])]  # words of the longest texts with separators, and their texts
    for length in sorted(set(lengths.tolist()) - {0}, reverse=True):
        here = np.flatnonzero(lengths == length)
        own = _runs(values[[names[word] for i in here for word in texts[int(i)]]], length)[::length]
        order = np.argsort(own)
        runs = _runs(np.concatenate(held), length)
        place = order[np.searchsorted(own, runs, sorter=order).clip(max=len(own) - 1)]
        hits = np.flatnonzero(own[place] == runs)
        pairs = np.unique(np.stack([place[hits], np.concatenate(source)[hits]]), axis=1)
        count = np.bincount(pairs[0], minlength=len(here))
        owner[here[pairs[0]]] = pairs[1]
        owner[here[count > 1]] = COMMON
        for i in here[count == 0].tolist():
            owner[i] = i
            held += [values[[names[word] for word in texts[i]]], values[-1:]]
            source.append(np.full(length + 1, i))
    return owner


def _runs(values: NDArray[np.uint64], length: int) -> NDArray[np.uint64]:
    """Return the hash of each run of `length` values: the sum of value k times _ODD^k, modulo 2^64."""
    powers, undone = (
        np.cumprod(np.r_[1, np.full(len(values), base)].astype(np.uint64)).astype(np.uint64)
        for base in (np.uint64(_ODD), np.uint64(_UNDONE))
    )
    sums = np.r_[np.uint64(0), np.cumsum(values * powers[:-1], dtype=np.uint64)]
    return (sums[length:] - sums[:-length]) * undone[: max(0, len(values) - length + 1)]


def _components(keys: Sequence[Sequence[Hashable]]) -> NDArray[np.int64]:
    """Return group ids [N] of rows connected by equal keys, directly or through other rows.

    Args:
        keys: Lists of N keys. Keys of different lists can be equal. Empty keys (None, "", or tuples of "") connect
            nothing.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows = len(keys[0])
    known: dict[Hashable, int] = {}
    pairs = [
        (row, known.setdefault(key, rows + len(known)))
        for each in keys
        for row, key in enumerate(each)
        if key and key != ("",) * (len(key) if isinstance(key, tuple) else 0)
    ]
    left, right = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    total = rows + len(known)
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(total, total))
    return np.asarray(connected_components(graph, directed=False)[1][:rows], dtype=np.int64)


def set_apart(
    labels: ArrayLike, groups: Groups, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Select a held-out split and the rows that remain for training.

    The split has approximately the label proportions of all rows. It takes one row per group, typical rows first, as
    long as the groups it uses have at most `HELD_OUT` of the rows (or `count`, if that is more). Then it takes more
    rows of the same groups, and then further groups, the smallest first. Unselected rows of used groups are in neither
    result.

    Args:
        labels: [N] labels.
        groups: Groups of the rows.
        count: Number of rows to select.
        rng: Random generator.

    Returns:
        Sorted positions of the selected rows, and of the rows that share no group with them.

    Raises:
        UserError: `count` rows cannot be selected, or no rows would remain.
    """
    ids, typical = groups
    total = len(ids)
    own = ids != COMMON
    sizes = np.bincount(ids[own], minlength=1)
    budget, held = max(count, int(HELD_OUT * total)), 0
    order = spread(labels, rng)
    order = order[own[order]]
    order = np.concatenate([order[typical[order]], order[~typical[order]]])
    taken: set[int] = set()
    chosen: dict[int, None] = {}  # in order of choice
    for row in order[typical[order]].tolist():
        group = int(ids[row])
        if len(chosen) < count and group not in taken and held + sizes[group] <= budget:
            chosen[row] = None
            taken.add(group)
            held += int(sizes[group])
    for row in order.tolist():
        if len(chosen) < count and int(ids[row]) in taken:
            chosen[row] = None
    rank = rng.permutation(len(sizes))  # random order of groups of equal size
    for row in order[np.lexsort((rank[ids[order]], sizes[ids[order]]))].tolist():
        if len(chosen) < count:
            chosen[row] = None
            taken.add(int(ids[row]))
    rest = np.flatnonzero(~np.isin(ids, list(taken)))
    if not 0 < count == len(chosen) or not len(rest):
        raise UserError(
            f"{count} of {total} rows cannot be held out, as both parts need a row and no group is divided "
            f"({len(np.unique(ids[own]))} groups)"
        )
    return np.sort(np.array(list(chosen), dtype=np.int64)), rest


def spread(labels: ArrayLike, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return a random order of the rows in which every prefix has approximately the label proportions of all rows.

    The rows are shuffled, sorted by label, and taken at the positions of van der Corput's sequence, which are evenly
    spread for any number of rows. This works for classes and for real-valued labels.
    """
    shuffled = rng.permutation(len(np.asarray(labels)))
    by_label = shuffled[np.argsort(np.asarray(labels)[shuffled], kind="stable")]
    bits = max(1, (len(by_label) - 1).bit_length())
    sequence = np.zeros(2**bits, dtype=np.int64)
    for bit in range(bits):
        sequence |= ((np.arange(2**bits) >> bit) & 1) << (bits - 1 - bit)
    sequence = (sequence + rng.integers(2**bits)) % 2**bits
    return by_label[sequence[sequence < len(by_label)]]


def folds(groups: NDArray[np.int64], count: int, seed: int) -> list[NDArray[np.int64]]:
    """Return sorted positions in `count` parts of nearly equal size. No group is divided; common rows count singly.

    Raises:
        UserError: There are fewer groups than parts.
    """
    own = np.where(groups == COMMON, groups.max(initial=0) + 1 + np.arange(len(groups)), groups)
    names, inverse, sizes = np.unique(own, return_inverse=True, return_counts=True)
    if len(names) < count:
        raise UserError(
            f"{count} folds, but only {len(names)} groups of examples, which are not divided; use fewer folds"
        )
    order = np.random.default_rng(seed).permutation(len(names))
    # The largest groups first, in random order among equal sizes, each added to the smallest part.
    order = order[np.argsort(-sizes[order], kind="stable")]
    part = np.zeros(len(names), dtype=np.int64)
    filled = np.zeros(count, dtype=np.int64)
    for name in order:
        part[name] = filled.argmin()
        filled[part[name]] += sizes[name]
    return [np.flatnonzero(part[inverse] == number) for number in range(count)]
