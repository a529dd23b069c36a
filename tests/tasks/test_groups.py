"""Properties of grouping and of splits for data of any shape: held-out rows never occur in training."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.settings import Data
from bench.tasks.catalogue import TASKS, task
from bench.tasks.groups import COMMON, HELD_OUT, Groups, alike, folds, nested, set_apart, shared, spread, words
from bench.tasks.sources import load

phrases = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=7).map(" ".join)
ids = st.lists(st.integers(-1, 12), min_size=4, max_size=120).map(lambda drawn: np.array(drawn, dtype=np.int64))


def inside(text: str, other: str) -> bool:
    return f" {words(text)} " in f" {words(other)} "


@given(st.lists(phrases, min_size=1, max_size=30))
def test_a_phrase_belongs_to_the_one_longest_text_that_holds_it(texts: list[str]) -> None:
    groups = nested("text")({"text": texts})
    longest = {text for text in texts if not any(inside(text, other) and other != text for other in texts)}
    for text, group, typical in zip(texts, groups.ids, groups.typical, strict=True):
        holders = [other for other in longest if inside(text, other)]
        assert (group == COMMON) == (len(holders) > 1)
        assert typical == (text in longest)
        if group != COMMON:
            assert {texts[i] for i in np.flatnonzero(groups.ids == group)} >= {holders[0]}


@given(st.lists(st.sampled_from(["👍", "!!!", "...", "good", "Good!"]), min_size=2, max_size=20))
def test_equal_texts_have_one_group_also_without_a_word(texts: list[str]) -> None:
    ids = alike(["text"])({"text": texts}).ids
    for text in texts:
        assert len({group for group, other in zip(ids.tolist(), texts, strict=True) if other == text}) == 1


@given(st.lists(phrases, min_size=4, max_size=60), st.integers(0, 100))
def test_no_phrase_set_apart_stands_inside_what_is_trained_on(texts: list[str], seed: int) -> None:
    groups = nested("text")({"text": texts})
    try:
        chosen, rest = set_apart(np.zeros(len(texts)), groups, max(1, len(texts) // 5), np.random.default_rng(seed))
    except UserError:
        assume(False)
    assert not any(inside(texts[i], texts[j]) for i in chosen for j in rest)


@given(st.lists(st.tuples(phrases, phrases), min_size=1, max_size=60))
def test_rows_that_share_a_text_are_never_parted(pairs: list[tuple[str, str]]) -> None:
    rows = {"one": [one for one, _ in pairs], "two": [two.upper() + " ." for _, two in pairs]}
    groups = shared("one", "two")(rows)
    for i, pair in enumerate(pairs):
        for j, other in enumerate(pairs):
            if set(pair) & set(other):
                assert groups.ids[i] == groups.ids[j]


def test_too_many_linked_rows_are_common() -> None:
    rows = {"text": ["what ?"] * 20 + [f"word {i}" for i in range(1000)]}
    groups = shared("text")(rows)
    assert (groups.ids[:20] == COMMON).all() and (groups.ids[20:] != COMMON).all()
    assert (shared("text")({"text": ["what ?"] * 10}).ids != COMMON).all()


def test_empty_texts_link_nothing() -> None:
    rows = {"one": ["a", "b", "?"], "two": ["", "", "?"]}
    assert len(set(shared("one", "two")(rows).ids)) == 3


def test_a_column_of_groups_and_equal_texts_link_rows() -> None:
    rows = {"text": ["a", "b", "A!", "c", "d"], "group": ["x", "y", "z", "y", None]}
    found = alike(["text"], "group")(rows).ids
    assert found[0] == found[2] and found[1] == found[3] and len(set(found)) == 3
    pairs = {"one": ["a", "a", "a"], "two": ["b", "c", "b"]}
    found = alike(["one", "two"])(pairs).ids
    assert found[0] == found[2] != found[1]


@given(ids, st.data(), st.integers(0, 2**32))
def test_a_part_takes_its_groups_out_of_train(groups: np.ndarray, data: st.DataObject, seed: int) -> None:
    total = len(groups)
    labels = np.array(data.draw(st.lists(st.integers(0, 2), min_size=total, max_size=total)))
    typical = np.array(data.draw(st.lists(st.booleans(), min_size=total, max_size=total))) & (groups != COMMON)
    count = data.draw(st.integers(1, total - 1))
    try:
        chosen, rest = set_apart(labels, Groups(groups, typical), count, np.random.default_rng(seed))
    except UserError:
        own = np.bincount(groups[groups != COMMON], minlength=1)
        # Only where it cannot be: too few rows with a group, or nothing would be left.
        enough = sum(sorted(own)[:-1]) if (groups != COMMON).all() else own.sum()
        assert count > enough or not (groups != COMMON).any()
        return
    assert len(chosen) == count and len(rest)
    assert not set(groups[chosen]) & set(groups[rest]) and COMMON not in groups[chosen]
    assert set(np.flatnonzero(groups == COMMON)) <= set(rest)
    assert len(np.intersect1d(chosen, rest)) == 0 and (np.diff(chosen) > 0).all() and (np.diff(rest) > 0).all()
    again = set_apart(labels, Groups(groups, typical), count, np.random.default_rng(seed))
    assert (again[0] == chosen).all() and (again[1] == rest).all()


def test_a_part_has_many_groups_but_costs_at_most_a_share_of_train() -> None:
    groups = np.repeat(np.arange(100), 10)  # 1,000 rows, ten a group
    every = Groups(groups, np.ones(1000, dtype=bool))
    labels = np.arange(1000) % 2
    few, rest = set_apart(labels, every, 15, np.random.default_rng(0))
    assert len(set(groups[few])) == 15 and len(rest) == 850
    many, rest = set_apart(labels, every, 100, np.random.default_rng(0))
    assert len(set(groups[many])) == 20 and len(rest) == 1000 * (1 - HELD_OUT)
    whole, rest = set_apart(labels, every, 400, np.random.default_rng(0))
    assert len(set(groups[whole])) == 40 and len(rest) == 600
    assert abs(labels[many].mean() - 0.5) < 0.1


@given(st.lists(st.floats(0, 5), min_size=1, max_size=200), st.integers(0, 2**32))
def test_every_beginning_of_a_spread_order_follows_the_labels(labels: list[float], seed: int) -> None:
    order = spread(labels, np.random.default_rng(seed))
    assert sorted(order) == list(range(len(labels)))
    rank = np.argsort(np.argsort(labels, kind="stable"), kind="stable")
    for size in (len(labels) // 4, len(labels) // 2):
        low = (rank[order[:size]] < len(labels) / 2).sum()
        assert abs(low - size / 2) <= 4


@given(ids, st.integers(2, 6), st.integers(0, 100))
def test_no_group_is_in_two_folds(groups: np.ndarray, count: int, seed: int) -> None:
    names = len(set(groups) - {COMMON}) + (groups == COMMON).sum()
    if names < count:
        with pytest.raises(UserError, match=f"{count} folds, but only {names} groups"):
            folds(groups, count, seed)
        return
    parts = folds(groups, count, seed)
    assert sorted(np.concatenate(parts)) == list(range(len(groups))) and all(len(part) for part in parts)
    for one in range(count):
        for two in range(one):
            assert not (set(groups[parts[one]]) & set(groups[parts[two]])) - {COMMON}
    largest = max(np.bincount(groups[groups != COMMON], minlength=1).max(), 1)
    assert max(map(len, parts)) - min(map(len, parts)) <= largest


@settings(deadline=None)
@given(st.sampled_from(sorted(TASKS)), st.integers(0, 3))
def test_the_sketch_loses_few_rows(name: str, seed: int) -> None:
    train = load(task(name), Data.model_validate({"sketch": {"train": 300, "validation": 16}})).splits["train"]
    chosen, rest = set_apart(train["label"], task(name).grouping(train), 30, np.random.default_rng(seed))
    assert len(chosen) == 30 and len(rest) >= 240
