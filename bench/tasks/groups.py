"""Which rows of a training split hang together, and how a part is set apart so that no text of it is trained on.

A random part of train is not held out where its texts occur in train again: SST-2's train holds every phrase of a
sentence, MNLI has three hypotheses for a premise. So rows are grouped by what their text shares, a part takes whole
groups out of train, and a task says in the catalogue what its text shares.
"""

import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.errors import UserError

__all__ = ["COMMON", "Grouping", "Groups", "alike", "folds", "nested", "set_apart", "shared", "words"]

COMMON = -1
"""The group of rows whose text is everybody's ("a good film"): they stay in train and are never set apart."""
LARGEST = 0.01
"""A share of all rows; more rows than this that hang together count as common: they would be half a task's calibration
part, or a giant component."""
SMALL = 10
"""So many rows always count as a group."""
HELD_OUT = 0.2
"""Most of train that is spent on independent rows of a part: beyond it, more rows of fewer groups are taken."""

Columns = dict[str, list[Any]]


class Groups(NamedTuple):
    """Groups of N rows."""

    ids: NDArray[np.int64]
    """[N] equal for rows that must not be parted; `COMMON` for rows that belong to nobody."""
    typical: NDArray[np.bool_]
    """[N] rows that are of the kind that validation holds, preferred in a part (SST-2: whole sentences)."""


Grouping = Callable[[Columns], Groups]
"""Columns of a split -> the groups of its rows."""


def words(text: str) -> str:
    """The words of a text, in lower case and without punctuation, single spaces between."""
    return " ".join(re.findall(r"\w+", text.lower()))


def shared(*columns: str) -> Grouping:
    """Rows that share a text of these columns, directly or through others (QQP's linked questions), hang together."""

    def grouping(rows: Columns) -> Groups:
        keys = [[words(text) for text in rows[column]] for column in columns]
        ids = _components(keys)
        sizes = np.bincount(ids)
        ids[sizes[ids] > max(SMALL, LARGEST * len(ids))] = COMMON
        return Groups(ids, ids != COMMON)

    return grouping


def alike(columns: Sequence[str], group: str | None = None) -> Grouping:
    """Rows of equal text in all the columns hang together, and those of one value in the column `group` of the rows."""

    def grouping(rows: Columns) -> Groups:
        texts = list(zip(*([words(text) for text in rows[column]] for column in columns), strict=True))
        ids = _components([texts, rows[group]] if group else [texts])
        return Groups(ids, np.ones(len(ids), dtype=bool))

    return grouping


def nested(column: str) -> Grouping:
    """Phrases hang together with the one longest text that holds them; those that several hold are common.

    A text holds another if the other's words stand in it one after the other. Typical are the longest texts, those
    that nothing else holds.
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
    """[N] which of N distinct texts, as words, is the one longest that holds each (often itself), or `COMMON`.

    From long to short, the texts of one length are looked up among all runs of that length in the longest texts found
    so far, by 64-bit polynomial hashes of random words: no false match is to be expected.
    """
    names = {word: name for name, word in enumerate(dict.fromkeys(word for text in texts for word in text))}
    values = np.random.default_rng(0).integers(2**64, size=len(names) + 1, dtype=np.uint64)
    lengths = np.array([len(text) for text in texts])
    owner = np.full(len(texts), COMMON)
    held, source = [values[-1:]], [np.array([COMMON])]  # the longest texts' words, a mark between, and whose they are
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
    """Hash of each run of `length` values: the sum of value k times _ODD^k, modulo 2^64."""
    powers, undone = (
        np.cumprod(np.r_[1, np.full(len(values), base)].astype(np.uint64)).astype(np.uint64)
        for base in (np.uint64(_ODD), np.uint64(_UNDONE))
    )
    sums = np.r_[np.uint64(0), np.cumsum(values * powers[:-1], dtype=np.uint64)]
    return (sums[length:] - sums[:-length]) * undone[: max(0, len(values) - length + 1)]


def _components(keys: Sequence[Sequence[Hashable]]) -> NDArray[np.int64]:
    """[N] group ids: rows with an equal key in any of the lists (each [N]), or in reach through others, are one.

    Keys of one list meet those of another. Empty keys (None, "", or tuples of "") join nothing.
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
    """Positions of `count` rows set apart, and of the rows that share no group with them; both sorted.

    The part has the labels' own proportions, nearly, and as many groups as it can: one row of each, typical ones
    first, as long as all rows of those groups are at most `HELD_OUT` of the rows (or `count`, if that is more); then
    more rows of the same groups, then further groups, the smallest first. Rows of the chosen groups that were not
    chosen are in neither part. UserError where `count` rows cannot be had or leave nothing.
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
    rank = rng.permutation(len(sizes))  # of equally small groups one after the other, in random order
    for row in order[np.lexsort((rank[ids[order]], sizes[ids[order]]))].tolist():
        if len(chosen) < count:
            chosen[row] = None
            taken.add(int(ids[row]))
    rest = np.flatnonzero(~np.isin(ids, list(taken)))
    if not 0 < count == len(chosen) or not len(rest):
        raise UserError(f"{count} rows do not fit {total} rows in {len(np.unique(ids[own]))} groups")
    return np.sort(np.array(list(chosen), dtype=np.int64)), rest


def spread(labels: ArrayLike, rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order of the rows of which every beginning has the labels' own proportions, nearly.

    The rows, shuffled and then sorted by label, are taken at positions of van der Corput's sequence: evenly spread
    however many are taken, which serves classes and real-valued labels alike.
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
    """Sorted positions in `count` parts of nearly equal size, no group in two of them; common rows count as single.

    UserError where there are fewer groups than parts.
    """
    own = np.where(groups == COMMON, groups.max(initial=0) + 1 + np.arange(len(groups)), groups)
    names, inverse, sizes = np.unique(own, return_inverse=True, return_counts=True)
    if len(names) < count:
        raise UserError(f"{count} folds of {len(names)} groups of examples; use fewer")
    order = np.random.default_rng(seed).permutation(len(names))
    # The largest first, each to the part that is the smallest so far; equal ones at random.
    order = order[np.argsort(-sizes[order], kind="stable")]
    part = np.zeros(len(names), dtype=np.int64)
    filled = np.zeros(count, dtype=np.int64)
    for name in order:
        part[name] = filled.argmin()
        filled[part[name]] += sizes[name]
    return [np.flatnonzero(part[inverse] == number) for number in range(count)]
