"""Prepare the splits of a task: load, hold out the calibration split, cap, tokenise, fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from bench.errors import DataError, UserError
from bench.tasks.catalogue import to_scale
from bench.tasks.examples import Examples, TaskData
from bench.tasks.groups import Groups, set_apart, spread
from bench.tasks.quality import examine, untrained
from bench.tasks.sources import Columns, Raw, load

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from bench.settings import Data
    from bench.tasks.catalogue import Task

__all__ = ["Survey", "prepare", "survey"]

Selection = Literal["calibration", "validation"]

_CACHE: dict[Hashable, tuple[dict[str, Columns], Groups, Raw]] = {}
"""Loaded splits of the last task, by its settings and the state of its files. Runs with several seeds share them."""


@dataclass(frozen=True)
class Survey:
    """Statistics of a task's data that need no tokenizer."""

    fingerprint: str
    """Short hash of the text, labels and order of train, calibration and the validation splits."""
    reported: str
    """The same hash of the validation splits alone, which are equal for all seeds."""
    sizes: dict[str, int]
    """Split -> number of examples, in the order of `TaskData.splits`."""
    missing: tuple[str, ...]
    """Names of splits that the source does not have."""
    left_out: int
    """Number of training rows in no split, because they share a group with a row of a held-out split."""
    letters: dict[str, int]
    """Split -> number of characters of its texts."""
    longest: int
    """Number of characters of the longest example."""


def prepare(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    data: Data,
    selection: Selection = "calibration",
    problems: list[str] | None = None,
    seed: int = 0,
) -> TaskData:
    """Load and tokenise the splits of a task.

    The calibration split is held out by groups of the text (`Task.grouping`) before splits are capped. With selection
    "validation" there is none. `data.max_train` caps train, `data.max_eval` caps calibration and each validation split,
    and test is never capped. All samples are stratified by label. Samples of train and calibration depend on
    `data.seed` and `seed`, samples of the validation splits on `data.seed` alone, so that all seeds are evaluated on
    the same examples.

    Args:
        task: The task.
        tokenizer: The tokenizer of the backbone.
        data: The section `data` of the settings for this task.
        selection: The selection split.
        problems: If given, problems of the data are appended instead of raised, and the usable rows are returned.
        seed: The seed of the run.

    Raises:
        DataError: Rows or files cannot be used, or a class has no training row, and `problems` is not given.
        UserError: The calibration split cannot be held out.
    """
    columns, known, raw = _parted(task, data, selection, problems, seed)
    length = data.max_length[len(task.columns) - 1]
    splits = {name: _tokenise(task, split, tokenizer, length) for name, split in columns.items()}
    return TaskData(
        task=task,
        splits=splits,
        missing=known.missing,
        fingerprint=known.fingerprint,
        left_out=known.left_out,
        quality=examine(task, columns, splits, tokenizer, length, raw),
    )


def survey(task: Task, data: Data, selection: Selection = "calibration", seed: int = 0) -> Survey:
    """Return statistics of the splits that `prepare` returns, without tokenising them.

    Args:
        task: The task.
        data: The section `data` of the settings for this task.
        selection: The selection split.
        seed: The seed of the run.

    Raises:
        DataError: As in `prepare`.
        UserError: As in `prepare`.
    """
    return _parted(task, data, selection, None, seed)[1]


def _parted(
    task: Task, data: Data, selection: Selection, problems: list[str] | None, seed: int
) -> tuple[dict[str, Columns], Survey, Raw]:
    """Return the splits of a task, their statistics, and the splits of the source."""
    columns, groups, raw = _loaded(task, data, problems)
    left_out = 0
    parts: list[tuple[str, int | float, list[int]]] = []
    if "validation" not in columns and task.own:
        parts.append(("validation", task.own.validation, [data.seed, 2]))
    if selection == "calibration":
        parts.append(("calibration", data.calibration, [data.seed, 0, seed]))
    for name, wanted, stream in parts:
        train = columns["train"]
        total = len(train["label"])
        count = wanted if isinstance(wanted, int) else round(wanted * total)
        try:
            chosen, rest = set_apart(train["label"], groups, count, np.random.default_rng(stream))
        except UserError as error:
            hint = ""
            if task.own:
                kind = f"one {task.own.group} or of one text" if task.own.group else "one text"
                hint = f"; rows of {kind} stay together: reduce the split, or remove texts that connect many rows"
            raise UserError(
                f"{task.name}: a {name} split of {wanted} cannot be taken from train: {error}{hint}"
            ) from None
        columns[name], columns["train"] = _take(train, chosen), _take(train, rest)
        groups = type(groups)(groups.ids[rest], groups.typical[rest])
        left_out += total - len(chosen) - len(rest)
    caps = {name: None if name.startswith("test") else data.max_eval for name in columns} | {"train": data.max_train}
    order = [name for name in dict.fromkeys(("train", "calibration", *task.splits)) if name in columns]
    drawn = {name: [data.seed, 1, *([seed] if name in ("train", "calibration") else [])] for name in order}
    columns = {name: _cap(columns[name], caps[name], drawn[name]) for name in order}
    if absent := untrained(task, columns):
        if problems is None:
            raise DataError(absent)
        problems += absent
    letters = {name: _letters(task, split) for name, split in columns.items()}
    known = Survey(
        fingerprint=_fingerprint(task, columns),
        reported=_fingerprint(task, {name: columns[name] for name in columns if name.startswith("validation")}),
        sizes={name: len(split["label"]) for name, split in columns.items()},
        missing=tuple(ours for ours, theirs in task.splits.items() if theirs in raw.missing and ours not in columns),
        left_out=left_out,
        letters={name: sum(counts) for name, counts in letters.items()},
        longest=max(max(counts, default=0) for counts in letters.values()),
    )
    return columns, known, raw


def _loaded(task: Task, data: Data, problems: list[str] | None) -> tuple[dict[str, Columns], Groups, Raw]:
    """Load the splits of a task and group its training rows; cached unless `problems` is given."""
    if problems is not None:
        return _grouped(task, data, problems)
    own = task.own.model_dump_json() if task.own else ""
    key = (load, task.name, own, data.model_dump_json(), _stamps(task, data))
    if key not in _CACHE:
        _CACHE.clear()  # the text of one task at a time
        _CACHE[key] = _grouped(task, data, None)
    columns, groups, raw = _CACHE[key]
    return dict(columns), groups, raw


def _stamps(task: Task, data: Data) -> tuple[tuple[str, int, int], ...]:
    """Return path, size and modification time of each file of the data source."""
    files = [*task.own.files.values()] if task.own else sorted(data.path.rglob("*") if data.path else ())
    found = ((str(file), file.stat()) for file in files if file.is_file())
    return tuple((name, known.st_size, known.st_mtime_ns) for name, known in found)


def _grouped(task: Task, data: Data, problems: list[str] | None) -> tuple[dict[str, Columns], Groups, Raw]:
    raw = load(task, data, problems)
    columns = {ours: raw.splits[theirs] for ours, theirs in task.splits.items() if theirs in raw.splits}
    groups = task.grouping(columns["train"])
    for split in columns.values():
        split.pop("group", None)
    columns["train"]["group"] = groups.ids.tolist()
    return columns, groups, raw


def _letters(task: Task, split: Columns) -> list[int]:
    """Return the number of characters of each example, both texts of a pair together."""
    return [sum(map(len, texts)) for texts in zip(*(split[name] for name in task.columns), strict=True)]


def _cap(split: Columns, cap: int | None, stream: list[int]) -> Columns:
    if cap is None or cap >= len(split["label"]):
        return split
    return _take(split, np.sort(spread(split["label"], np.random.default_rng(stream))[:cap]))


def _take(split: Columns, positions: NDArray[np.int64]) -> Columns:
    return {name: [values[i] for i in positions.tolist()] for name, values in split.items()}


def _tokenise(task: Task, split: Columns, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Examples:
    encoded = tokenizer(
        *(split[name] for name in task.columns),
        truncation="longest_first",
        max_length=max_length,
        padding=False,
        return_token_type_ids=True,
        return_attention_mask=False,
    )

    def known(name: str) -> NDArray[np.int64] | None:
        return np.asarray(split[name], dtype=np.int64) if name in split else None

    return Examples(
        idx=np.asarray(split["idx"], dtype=np.int64),
        labels=_labels(task, split),
        input_ids=encoded["input_ids"],
        segments=encoded["token_type_ids"],
        difficulty=known("difficulty"),
        groups=known("group"),
    )


def _labels(task: Task, split: Columns) -> NDArray[np.generic]:
    """Return labels [N] as used in training; scores of a regression are on the scale of 0 to 5."""
    if task.regression:
        return to_scale(split["label"], task.range).astype(np.float32)
    return np.asarray(split["label"], dtype=np.int64)


def _fingerprint(task: Task, columns: dict[str, Columns]) -> str:
    digest = hashlib.sha256(json.dumps([task.name, task.labels]).encode())
    for name in sorted(columns):
        if not name.startswith("test"):
            split = columns[name]
            digest.update(json.dumps([name, split["idx"], *(split[column] for column in task.columns)]).encode())
            # Labels as used in training: files may hold the same score as 3.8 or as a float32.
            digest.update(_labels(task, split).astype(np.float32).tobytes())
    return digest.hexdigest()[:16]
