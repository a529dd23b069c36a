"""From a task's name to tokenised splits: load, carve a calibration part, cap, tokenise, fingerprint."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from bench.errors import UserError
from bench.tasks.catalogue import Task
from bench.tasks.examples import Examples, TaskData
from bench.tasks.sources import Columns, Source, load

__all__ = ["prepare"]


def prepare(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    *,
    source: Source,
    path: Path | None,
    revision: str | None,
    seed: int,
    data_seed: int,
    max_train: int | None,
    max_eval: int | None,
    calibration: int | float,
    max_length: int | tuple[int, int],
    sketch_sizes: Mapping[str, int],
) -> TaskData:
    """Load a task and make it ready to train and measure on.

    source, path, revision, seed, sketch_sizes: as in `load`.
    data_seed: picks the calibration part and the capped samples, all stratified by class.
    max_train, max_eval: most examples of train, and of calibration and each validation split; None for all.
        Test is never capped.
    calibration: how much of train is set apart before capping, as a count (int) or a fraction (float).
    max_length: most tokens of an example, or (single sentence, pair).
    UserError for bad data, and where calibration would leave nothing to train on.
    """
    columns, missing = _columns(
        task, source, path, revision, seed, data_seed, max_train, max_eval, calibration, sketch_sizes
    )
    if isinstance(max_length, tuple):
        max_length = max_length[len(task.columns) - 1]
    order = [name for name in ("train", "calibration", *task.splits) if name in columns]
    return TaskData(
        task=task,
        splits={name: _tokenise(task, columns[name], tokenizer, max_length) for name in dict.fromkeys(order)},
        missing=missing,
        fingerprint=_fingerprint(task, columns),
    )


def fingerprint_of(
    task: Task,
    *,
    source: Source,
    path: Path | None,
    revision: str | None,
    seed: int,
    data_seed: int,
    max_train: int | None,
    max_eval: int | None,
    calibration: int | float,
    sketch_sizes: Mapping[str, int],
) -> str:
    """The fingerprint that `prepare` gives, without tokenising."""
    columns, _ = _columns(task, source, path, revision, seed, data_seed, max_train, max_eval, calibration, sketch_sizes)
    return _fingerprint(task, columns)


def _columns(
    task: Task,
    source: Source,
    path: Path | None,
    revision: str | None,
    seed: int,
    data_seed: int,
    max_train: int | None,
    max_eval: int | None,
    calibration: int | float,
    sketch_sizes: Mapping[str, int],
) -> tuple[dict[str, Columns], tuple[str, ...]]:
    """The splits carved and capped, and the names of those that the source lacks."""
    raw = load(task, source, path, revision, seed, sketch_sizes)
    names = {ours: theirs for ours, theirs in task.splits.items() if theirs in raw.splits}
    columns = {ours: raw.splits[theirs] for ours, theirs in names.items()}
    columns["train"], columns["calibration"] = _carve(task, columns["train"], calibration, data_seed)
    caps = {name: None if name.startswith("test") else max_eval for name in columns} | {"train": max_train}
    capped = {name: _cap(split, caps[name], data_seed) for name, split in columns.items()}
    return capped, tuple(ours for ours, theirs in task.splits.items() if theirs in raw.missing)


def _carve(task: Task, train: Columns, calibration: int | float, data_seed: int) -> tuple[Columns, Columns]:
    total = len(train["label"])
    count = calibration if isinstance(calibration, int) else round(calibration * total)
    if not 0 < count < total:
        raise UserError(f"{task.name}: a calibration part of {calibration} does not fit {total} training rows")
    chosen = _sample(train["label"], count, np.random.default_rng([data_seed, 0]))
    held_out = _take(train, chosen)
    # A text may occur twice in GLUE's train; its twin must not be trained on.
    texts = list(zip(*(train[name] for name in task.columns), strict=True))
    seen = {texts[i] for i in chosen}
    rest = _take(train, np.array([i for i, text in enumerate(texts) if text not in seen], dtype=np.int64))
    if not rest["label"]:
        raise UserError(f"{task.name}: a calibration part of {calibration} leaves nothing to train on")
    return rest, held_out


def _cap(split: Columns, cap: int | None, data_seed: int) -> Columns:
    if cap is None or cap >= len(split["label"]):
        return split
    return _take(split, _sample(split["label"], cap, np.random.default_rng([data_seed, 1])))


def _sample(labels: list[float], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sorted positions of a random sample with the labels' own proportions.

    Systematic sampling: at equal steps through the rows shuffled and then sorted by label, which also serves
    real-valued labels.
    """
    shuffled = rng.permutation(len(labels))
    by_label = shuffled[np.argsort(np.asarray(labels)[shuffled], kind="stable")]
    steps = ((np.arange(count) + rng.uniform()) * len(labels) / count).astype(np.int64)
    return np.sort(by_label[steps])


def _take(split: Columns, positions: NDArray[np.int64]) -> Columns:
    return {name: [values[i] for i in positions] for name, values in split.items()}


def _tokenise(task: Task, split: Columns, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Examples:
    encoded = tokenizer(
        *(split[name] for name in task.columns),
        truncation="longest_first",
        max_length=max_length,
        padding=False,
        return_token_type_ids=True,
        return_attention_mask=False,
    )
    return Examples(
        idx=np.asarray(split["idx"], dtype=np.int64),
        labels=np.asarray(split["label"], dtype=np.float32 if task.regression else np.int64),
        input_ids=encoded["input_ids"],
        segments=encoded["token_type_ids"],
        difficulty=np.asarray(split["difficulty"], dtype=np.int64) if "difficulty" in split else None,
    )


def _fingerprint(task: Task, columns: dict[str, Columns]) -> str:
    digest = hashlib.sha256(task.name.encode())
    for name in sorted(columns):
        if not name.startswith("test"):
            kept = [name, *(columns[name][column] for column in (*task.columns, "label"))]
            digest.update(json.dumps(kept).encode())
    return digest.hexdigest()[:16]
