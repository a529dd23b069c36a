"""Definitions of tasks: the nine of GLUE, and the own tasks of a profile."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.errors import UserError
from bench.settings import OwnTask
from bench.tasks.groups import Grouping, alike, nested, shared

__all__ = ["ALIASES", "SCALE", "TASKS", "Task", "from_scale", "in_order", "task", "tasks_of", "title", "to_scale"]

SCALE = (0.0, 5.0)
"""Scale of all regressions in training, traces and thresholds: that of STS-B."""


@dataclass(frozen=True)
class Task:
    """Definition of a task. The nine of GLUE have the names and columns of the Hub's `nyu-mll/glue`."""

    name: str
    title: str
    """Name in tables and figures, such as "SST-2"."""
    columns: tuple[str, ...]
    """One text column for a single sentence, two for a pair, in the order in which they are encoded."""
    labels: tuple[str, ...]
    """Class labels in the order of class ids; empty for a regression."""
    metrics: tuple[str, ...]
    """Names of metrics; the first one ranks."""
    grouping: Grouping = field(repr=False)
    """Groups of training rows with related text, which are not divided between train and the calibration split."""
    submission_files: tuple[str, ...] = ()
    """File name that the GLUE server expects for each of `test_splits`; the header is `index<tab>prediction`."""
    submission_words: tuple[str, ...] = ()
    """Value of each class in a submission file; empty for a regression (floats from 0 to 5)."""
    validation_splits: tuple[str, ...] = ("validation",)
    test_splits: tuple[str, ...] = ("test",)
    may_be_empty: tuple[str, ...] = ()
    """Columns with empty texts in the published data."""
    range: tuple[float, float] = (0.0, 5.0)
    """Least and greatest label of a regression, in the units of its files; see `to_scale`."""
    own: OwnTask | None = None
    """Declaration of an own task, with its data source; None for GLUE, whose source is set by the profile."""

    @property
    def is_glue(self) -> bool:
        """Whether this is one of GLUE's nine tasks, whose labels may also be given as aliases or class ids."""
        return self.own is None

    @property
    def regression(self) -> bool:
        """Whether the labels are real numbers rather than classes."""
        return not self.labels

    @property
    def outputs(self) -> int:
        """Number of logits: one per class, 1 for regression."""
        return len(self.labels) or 1

    @property
    def splits(self) -> dict[str, str]:
        """Split name in this project (train, validation, test, validation_mismatched, ...) -> split name in GLUE."""
        first = {"train": "train", "validation": self.validation_splits[0], "test": self.test_splits[0]}
        return first | {split: split for split in self.validation_splits[1:] + self.test_splits[1:]}


BINARY = ("0", "1")
ENTAILMENT = ("entailment", "not_entailment")

_TASKS = (
    Task(
        name="cola",
        title="CoLA",
        columns=("sentence",),
        labels=("unacceptable", "acceptable"),
        metrics=("matthews", "accuracy"),
        # 40 of 8,551 sentences occur twice with the same words.
        grouping=shared("sentence"),
        submission_files=("CoLA.tsv",),
        submission_words=BINARY,
    ),
    Task(
        name="sst2",
        title="SST-2",
        columns=("sentence",),
        labels=("negative", "positive"),
        metrics=("accuracy",),
        # Train has the phrases of each sentence's parse tree, nine on average; validation has whole sentences.
        grouping=nested("sentence"),
        submission_files=("SST-2.tsv",),
        submission_words=BINARY,
    ),
    Task(
        name="mrpc",
        title="MRPC",
        columns=("sentence1", "sentence2"),
        labels=("not_equivalent", "equivalent"),
        metrics=("f1", "accuracy"),
        # 14 % of train are pairs with a sentence that occurs in several pairs.
        grouping=shared("sentence1", "sentence2"),
        submission_files=("MRPC.tsv",),
        submission_words=BINARY,
    ),
    Task(
        name="qqp",
        title="QQP",
        columns=("question1", "question2"),
        labels=("not_duplicate", "duplicate"),
        metrics=("f1", "accuracy"),
        # Questions are linked: if a duplicates b and b duplicates c, then a duplicates c.
        grouping=shared("question1", "question2"),
        submission_files=("QQP.tsv",),
        submission_words=BINARY,
        # Two training rows of the published data have no second question.
        may_be_empty=("question2",),
    ),
    Task(
        name="stsb",
        title="STS-B",
        columns=("sentence1", "sentence2"),
        labels=(),
        metrics=("pearson", "spearman"),
        # 23 % of train are pairs with a caption or headline that occurs in several pairs.
        grouping=shared("sentence1", "sentence2"),
        submission_files=("STS-B.tsv",),
        submission_words=(),
    ),
    Task(
        name="mnli",
        title="MNLI",
        columns=("premise", "hypothesis"),
        labels=("entailment", "neutral", "contradiction"),
        metrics=("accuracy",),
        # Each premise has three hypotheses, one for each label.
        grouping=shared("premise"),
        submission_files=("MNLI-m.tsv", "MNLI-mm.tsv"),
        submission_words=("entailment", "neutral", "contradiction"),
        validation_splits=("validation_matched", "validation_mismatched"),
        test_splits=("test_matched", "test_mismatched"),
    ),
    Task(
        name="qnli",
        title="QNLI",
        columns=("question", "sentence"),
        labels=ENTAILMENT,
        metrics=("accuracy",),
        # Paragraphs are not marked; only sentences and questions in several pairs are related.
        grouping=shared("question", "sentence"),
        submission_files=("QNLI.tsv",),
        submission_words=ENTAILMENT,
    ),
    Task(
        name="rte",
        title="RTE",
        columns=("sentence1", "sentence2"),
        labels=ENTAILMENT,
        metrics=("accuracy",),
        # 31 % of train are pairs with a passage or hypothesis that occurs in several pairs.
        grouping=shared("sentence1", "sentence2"),
        submission_files=("RTE.tsv",),
        submission_words=ENTAILMENT,
    ),
    Task(
        name="wnli",
        title="WNLI",
        columns=("sentence1", "sentence2"),
        labels=("not_entailment", "entailment"),
        metrics=("accuracy",),
        # 93 % of train are pairs with a text that occurs with several readings of its pronoun.
        grouping=shared("sentence1", "sentence2"),
        submission_files=("WNLI.tsv",),
        submission_words=BINARY,
    ),
)

TASKS: dict[str, Task] = {each.name: each for each in _TASKS}
"""The nine tasks of GLUE, in the order of tables."""

ALIASES = {
    "neg": "negative",
    "pos": "positive",
    "non_entailment": "not_entailment",
    "no_entailment": "not_entailment",
    "paraphrase": "equivalent",
    "not_paraphrase": "not_equivalent",
    "non_duplicate": "not_duplicate",
    "grammatical": "acceptable",
    "ungrammatical": "unacceptable",
}
"""Other names of GLUE's labels, in lower case with underscores."""


def tasks_of(own: Mapping[str, OwnTask]) -> dict[str, Task]:
    """Return all tasks that a profile with these `own_tasks` can use, by name: GLUE's first."""
    return TASKS | {name: _own(name, declared) for name, declared in own.items()}


def task(name: str, own: Mapping[str, OwnTask] | None = None) -> Task:
    """Return the task with this name.

    Args:
        name: The name.
        own: Own tasks of the profile, considered besides GLUE's.

    Raises:
        UserError: There is no such task; the message lists all tasks.
    """
    known = tasks_of(own or {})
    if name not in known:
        raise UserError(f"unknown task {name!r}; choose from {', '.join(known)}")
    return known[name]


def to_scale(values: ArrayLike, units: tuple[float, float]) -> NDArray[np.float64]:
    """Map labels from the declared range `units` (least, greatest) to `SCALE`; the identity if the two are equal."""
    return _mapped(values, units, SCALE)


def from_scale(values: ArrayLike, units: tuple[float, float]) -> NDArray[np.float64]:
    """Map scores from `SCALE` back to the declared range `units` (least, greatest); the inverse of `to_scale`."""
    return _mapped(values, SCALE, units)


def _mapped(values: ArrayLike, source: tuple[float, float], target: tuple[float, float]) -> NDArray[np.float64]:
    given = np.asarray(values, dtype=np.float64)
    if tuple(source) == tuple(target):
        return given
    return target[0] + (given - source[0]) * (target[1] - target[0]) / (source[1] - source[0])


def title(name: str) -> str:
    """Return the name of a task in tables and figures: "SST-2" for "sst2"; other names are unchanged."""
    return TASKS[name].title if name in TASKS else name


def in_order(names: Iterable[str]) -> list[str]:
    """Return the distinct names in the order of tables: GLUE's in the order of `TASKS`, then others as given."""
    given = list(dict.fromkeys(names))
    return [*(name for name in TASKS if name in given), *(name for name in given if name not in TASKS)]


def _own(name: str, declared: OwnTask) -> Task:
    columns = tuple(declared.columns)
    return Task(
        name=name,
        title=name,
        columns=columns,
        labels=tuple(str(label) for label in declared.labels or ()),
        metrics=tuple(declared.metrics),
        grouping=alike(columns, "group" if declared.group else None),
        range=declared.range or (0.0, 0.0),
        own=declared,
    )
