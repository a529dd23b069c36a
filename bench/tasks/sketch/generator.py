"""Balanced splits drawn from grammars; a text is in one split only, and once."""

import hashlib
from collections.abc import Callable
from random import Random
from typing import Any

from bench.errors import UserError
from bench.tasks.catalogue import task
from bench.tasks.sketch import inference, pronouns, questions, sentences, similarity
from bench.tasks.sketch.words import AWAY, HOME, Words

Grammar = Callable[[Random, Words, int, float], tuple[str, ...]]
"""(generator, words of a domain, level of difficulty, label) -> text columns of an example."""

GRAMMARS: dict[str, Grammar] = {
    "cola": sentences.acceptability,
    "sst2": sentences.sentiment,
    "mrpc": similarity.paraphrase,
    "qqp": questions.duplicate,
    "stsb": similarity.similarity,
    "mnli": inference.three_way,
    "qnli": questions.answerable,
    "rte": inference.two_way,
    "wnli": pronouns.resolution,
}
LEVELS = (1, 2, 3)
SCORES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)

SHARES = {"train": range(12), "validation": range(12, 16), "test": range(16, 20)}
"""Twentieths of all possible texts in each kind of split, for every seed."""
PATIENCE = 3000
"""After this many draws without a new text a grammar is exhausted."""


def generate(task_name: str, split: str, size: int, seed: int) -> list[dict[str, Any]]:
    """Return `size` rows of a split, the same ones for the same seed.

    Levels of difficulty are equally frequent, and labels within each level, up to a remainder.

    Returns:
        Rows with the task's text columns, `label` (-1 in test splits), `idx` and `difficulty` (1, 2 or 3).

    Raises:
        UserError: The task or split is unknown, or the grammar has fewer distinct texts.
    """
    glue = task(task_name)
    if split not in ("train", *glue.validation_splits, *glue.test_splits):
        raise UserError(f"sketch: {task_name} has no split {split!r}")
    if size < 1:
        raise UserError(f"sketch: {task_name}/{split} needs a size of at least 1, not {size}")
    kind = split.partition("_")[0]
    words = AWAY if split.endswith("_mismatched") else HOME
    rng = Random(_number(f"{seed}/{task_name}/{split}"))
    cells = [(level, label) for label in (range(glue.outputs) if glue.labels else SCORES) for level in LEVELS]
    rng.shuffle(cells)

    seen: set[tuple[str, ...]] = set()
    rows: list[dict[str, Any]] = []
    for number in range(size):
        level, label = cells[number % len(cells)]
        for _ in range(PATIENCE):
            texts = GRAMMARS[task_name](rng, words, level, label)
            # Sorted: a pair and its mirror image count as one text.
            key = tuple(sorted(texts))
            if key not in seen and _number("/".join(key)) % 20 in SHARES[kind]:
                break
        else:
            raise UserError(f"sketch: {task_name}/{split} can make only about {number} distinct rows, not {size}")
        seen.add(key)
        shown = -1 if kind == "test" else label
        columns = dict(zip(glue.columns, texts, strict=True))
        rows.append({**columns, "label": float(shown) if glue.regression else shown, "difficulty": level})
    rng.shuffle(rows)
    return [{**row, "idx": idx} for idx, row in enumerate(rows)]


def _number(text: str) -> int:
    """Return a hash that is the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
