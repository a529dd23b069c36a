"""Data quality: rows per class, contradicting labels, duplicates across splits, unknown tokens and truncated texts.

`examine` computes plain values without any text of the data, which are stored in `run.json`. `overview` and `findings`
describe them for `costeff check`, the results page and the model card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bench.tasks.catalogue import Task
    from bench.tasks.examples import Examples
    from bench.tasks.sources import Columns, Raw

__all__ = ["examine", "findings", "overview", "untrained"]

_CLASSES = 12
"""Tasks with more classes than this are described by their rarest classes only."""
_NOTABLE = 0.01
"""Least fraction of unknown tokens or truncated texts that is reported."""
_APART = 0.1
"""Scores of one text contradict each other if they differ by more than this fraction of the range."""


def untrained(task: Task, columns: Mapping[str, Columns]) -> list[str]:
    """Return what an own task cannot be trained on: a class without training rows, or equal scores of a regression."""
    if task.is_glue:
        return []
    if task.regression:
        scores = np.asarray(columns["train"]["label"], dtype=np.float64)
        alike = len(scores) and scores.min() == scores.max()
        return [f"{task.name}: all {len(scores)} training rows have the label {scores[0]:.6g}"] if alike else []
    counts = {name: np.bincount(_shown(split), minlength=task.outputs) for name, split in columns.items()}
    lines = []
    for number, label in enumerate(task.labels):
        if not counts["train"][number]:
            others = ", ".join(f"{name} {found[number]}" for name, found in counts.items() if name != "train")
            lines.append(
                f"{task.name}: class {label!r} has no rows to train on ({others}); add some, or take the class out of "
                f"own_tasks.{task.name}.labels and its rows out of the files"
            )
    return lines


def examine(
    task: Task,
    columns: Mapping[str, Columns],
    examples: Mapping[str, Examples],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    raw: Raw,
) -> dict[str, Any]:
    """Compute statistics and problems of the splits of a task.

    Args:
        task: The task.
        columns: Its splits as text.
        examples: The same splits, tokenised.
        tokenizer: The tokenizer.
        max_length: Largest number of tokens of an example.
        raw: The splits of the source, with dropped rows and notes of the readers.

    Returns:
        A mapping with these entries; empty ones are left out.
        `rows`: split -> class -> number of rows.
        `scores`: split -> number of rows, least, mean and greatest score of a regression, in the units of the files.
        `contradictions`: `texts` and `rows` with different labels for the same text, and `alike_rows`, further rows
            with the same tokens as a row with another label.
        `in_train`: split -> number of rows whose text is in train or calibration.
        `unknown`: split -> fraction of unknown tokens.
        `cut`: split -> fraction of truncated texts.
        `dropped`: split -> number of rows without text that were left out.
        `notes`: lines on files and tokenizer.
    """
    labelled = [name for name in columns if not name.startswith("test")]
    texts = {name: [columns[name][column] for column in task.columns] for name in columns}
    keys = {name: _hashes(zip(*texts[name], strict=True)) for name in labelled}
    tokens = {name: _hashes(zip(examples[name].input_ids, examples[name].segments, strict=True)) for name in labelled}
    labels = np.concatenate([np.asarray(columns[name]["label"], dtype=np.float64) for name in labelled])
    apart = _APART * (task.range[1] - task.range[0]) if task.regression else 0.0
    same_text = np.concatenate([keys[name] for name in labelled])
    by_text = _contradicting(same_text, labels, apart)
    by_tokens = _contradicting(np.concatenate([tokens[name] for name in labelled]), labels, apart) & ~by_text
    trained = np.concatenate([keys[name] for name in ("train", "calibration") if name in keys])
    in_train = {name: int(np.isin(keys[name], trained).sum()) for name in labelled if name.startswith("validation")}
    cut = {name: _cut(texts[name], examples[name], tokenizer, max_length) for name in columns}
    notes = [*raw.notes, *_tokenizer_notes(tokenizer)]
    found: dict[str, Any] = {
        "scores" if task.regression else "rows": {name: _rows(task, split) for name, split in columns.items()},
        "contradictions": {
            "texts": len(np.unique(same_text[by_text])), "rows": int(by_text.sum()), "alike_rows": int(by_tokens.sum()),
        },
        "in_train": {name: count for name, count in in_train.items() if count},
        "unknown": {name: _unknown(split, tokenizer) for name, split in examples.items()},
        "cut": cut,
        "dropped": dict(raw.dropped),
        "notes": notes,
    }  # fmt: skip
    return {name: value for name, value in found.items() if value}


def overview(quality: Mapping[str, Any]) -> list[str]:
    """Return lines for `costeff check`: rows per split and class, fractions of unknown tokens and truncated texts."""
    lines = [f"{split}: {_classes(rows)}" for split, rows in quality.get("rows", {}).items()]
    lines += [f"{split}: {_scores(measured)}" for split, measured in quality.get("scores", {}).items()]
    lines.append(f"unknown tokens: {_shares(quality['unknown'])}; texts cut at max_length: {_shares(quality['cut'])}")
    return lines


def findings(quality: Mapping[str, Any]) -> list[str]:
    """Return one line for each problem. Problems that an older version did not record are not reported."""
    lines = []
    contradictions = quality.get("contradictions", {})
    if contradictions.get("texts"):
        lines.append(
            f"{_many(contradictions['texts'], 'text')} with contradicting labels ({contradictions['rows']} rows)"
        )
    if contradictions.get("alike_rows"):
        lines.append(
            f"{_many(contradictions['alike_rows'], 'row')} with the same tokens as a row with a different label, "
            "although the texts differ (lower-casing, unknown words or truncation)"
        )
    for split, measured in quality.get("scores", {}).items():
        if measured["rows"] > 0 and measured.get("least", 0.0) == measured.get("greatest", 1.0):
            lines.append(f"all {split} rows have the label {measured['least']:.6g}: no correlation is defined there")
    for split, count in quality.get("in_train", {}).items():
        lines.append(f"{_many(count, f'{split} row')} with a text that is also in train")
    for split, count in quality.get("dropped", {}).items():
        lines.append(f"{_many(count, f'{split} row')} without text left out")
    for name, what in (("unknown", "unknown tokens"), ("cut", "texts cut at max_length")):
        notable = {split: share for split, share in quality.get(name, {}).items() if share >= _NOTABLE}
        if notable:
            lines.append(f"{what}: {_shares(notable)}")
    return [*lines, *quality.get("notes", [])]


def _shown(split: Columns) -> NDArray[np.int64]:
    """Return the class ids that are not hidden."""
    labels = np.asarray(split["label"], dtype=np.int64)
    return labels[labels >= 0]


def _rows(task: Task, split: Columns) -> dict[str, float]:
    if task.regression:
        scores = np.asarray(split["label"], dtype=np.float64)
        scores = scores[~np.isnan(scores)]
        measured = {"least": scores.min(), "mean": scores.mean(), "greatest": scores.max()} if len(scores) else {}
        return {"rows": len(split["label"])} | {name: float(value) for name, value in measured.items()}
    counts = np.bincount(_shown(split), minlength=task.outputs)
    return {label: int(count) for label, count in zip(task.labels, counts, strict=True)}


def _hashes(rows: Any) -> NDArray[np.int64]:
    """Return a 64-bit hash of each row: texts, or lists of token ids."""
    found = [hash(tuple(part if isinstance(part, str) else tuple(part) for part in row)) for row in rows]
    return np.array(found, dtype=np.int64)


def _contradicting(keys: NDArray[np.int64], labels: NDArray[np.float64], apart: float) -> NDArray[np.bool_]:
    """Return for each row whether labels of rows with its key differ by more than `apart`.

    Args:
        keys: [N] hashes of the rows.
        labels: [N] labels.
        apart: Largest difference allowed.
    """
    _, group = np.unique(keys, return_inverse=True)
    least = np.full(group.max(initial=-1) + 1, np.inf)
    greatest = -least
    np.minimum.at(least, group, labels)
    np.maximum.at(greatest, group, labels)
    return np.asarray((greatest - least > apart)[group])


def _unknown(examples: Examples, tokenizer: PreTrainedTokenizerBase) -> float:
    """Return the fraction of unknown tokens among all tokens that are not special."""
    ids = np.concatenate([np.asarray(each, dtype=np.int64) for each in examples.input_ids])
    unknown = int((ids == tokenizer.unk_token_id).sum())
    return unknown / max(1, int((~np.isin(ids, tokenizer.all_special_ids)).sum()) + unknown)


def _cut(
    texts: Sequence[Sequence[str]], examples: Examples, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> float:
    """Return the fraction of examples that are longer than `max_length` tokens."""
    full = np.flatnonzero(examples.lengths == max_length).tolist()
    if not full:
        return 0.0
    whole = tokenizer(*([column[row] for row in full] for column in texts), truncation=False, verbose=False)
    return sum(len(ids) > max_length for ids in whole["input_ids"]) / len(examples)


def _tokenizer_notes(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return a note if a tokenizer lower-cases text although its vocabulary has words with capitals."""
    if tokenizer.tokenize("Ab") != tokenizer.tokenize("ab"):
        return []
    special = set(tokenizer.all_special_tokens)
    words = [word for word in tokenizer.get_vocab() if word not in special and not word.startswith("[")]
    share = sum(word != word.lower() for word in words) / max(1, len(words))
    if share < _NOTABLE:
        return []
    return [
        f"the tokenizer lower-cases text, and {_percent(share)} of its vocabulary has capitals: check its do_lower_case"
    ]


def _scores(measured: Mapping[str, float]) -> str:
    listed = ", ".join(f"{name} {value:.4g}" for name, value in measured.items() if name != "rows")
    return f"{measured['rows']} rows; {listed or 'scores hidden'}"


def _classes(rows: Mapping[str, int]) -> str:
    if not any(rows.values()):
        return "labels hidden"
    if len(rows) <= _CLASSES:
        return ", ".join(f"{label} {count}" for label, count in rows.items())
    rare = sorted(rows.items(), key=lambda item: item[1])[:_CLASSES]
    return f"{len(rows)} classes, the rarest {', '.join(f'{label} {count}' for label, count in rare)}"


def _shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{split} {_percent(share)}" for split, share in shares.items())


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
