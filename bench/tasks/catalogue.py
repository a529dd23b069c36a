"""The nine GLUE tasks as data: columns, label words, metrics, splits and submission files."""

from dataclasses import dataclass

from bench.errors import UserError

__all__ = ["TASKS", "Task", "task"]


@dataclass(frozen=True)
class Task:
    """One GLUE task, named and laid out as in the Hub's `nyu-mll/glue`."""

    name: str
    title: str
    """Name for tables and figures, such as "SST-2"."""
    columns: tuple[str, ...]
    """One text column for a single sentence, two for a pair, in the order they are encoded."""
    labels: tuple[str, ...]
    """Class words in label order; empty for regression."""
    metrics: tuple[str, ...]
    """Metric names; the first one ranks."""
    submission_files: tuple[str, ...]
    """File name the GLUE server expects for each of `test_splits`; the header is `index<tab>prediction`."""
    submission_words: tuple[str, ...]
    """What such a file holds for each class; empty for regression (floats from 0 to 5)."""
    validation_splits: tuple[str, ...] = ("validation",)
    test_splits: tuple[str, ...] = ("test",)
    may_be_empty: tuple[str, ...] = ()
    """Columns in which the published data itself has empty texts."""

    @property
    def regression(self) -> bool:
        return not self.labels

    @property
    def outputs(self) -> int:
        """Number of logits: one per class, 1 for regression."""
        return len(self.labels) or 1

    @property
    def splits(self) -> dict[str, str]:
        """This project's split names (train, validation, test, validation_mismatched, ...) -> GLUE's own."""
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
        submission_files=("CoLA.tsv",),
        submission_words=BINARY,
    ),
    Task(
        name="sst2",
        title="SST-2",
        columns=("sentence",),
        labels=("negative", "positive"),
        metrics=("accuracy",),
        submission_files=("SST-2.tsv",),
        submission_words=BINARY,
    ),
    Task(
        name="mrpc",
        title="MRPC",
        columns=("sentence1", "sentence2"),
        labels=("not_equivalent", "equivalent"),
        metrics=("f1", "accuracy"),
        submission_files=("MRPC.tsv",),
        submission_words=BINARY,
    ),
    Task(
        name="qqp",
        title="QQP",
        columns=("question1", "question2"),
        labels=("not_duplicate", "duplicate"),
        metrics=("f1", "accuracy"),
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
        submission_files=("STS-B.tsv",),
        submission_words=(),
    ),
    Task(
        name="mnli",
        title="MNLI",
        columns=("premise", "hypothesis"),
        labels=("entailment", "neutral", "contradiction"),
        metrics=("accuracy",),
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
        submission_files=("QNLI.tsv",),
        submission_words=ENTAILMENT,
    ),
    Task(
        name="rte",
        title="RTE",
        columns=("sentence1", "sentence2"),
        labels=ENTAILMENT,
        metrics=("accuracy",),
        submission_files=("RTE.tsv",),
        submission_words=ENTAILMENT,
    ),
    Task(
        name="wnli",
        title="WNLI",
        columns=("sentence1", "sentence2"),
        labels=("not_entailment", "entailment"),
        metrics=("accuracy",),
        submission_files=("WNLI.tsv",),
        submission_words=BINARY,
    ),
)

TASKS: dict[str, Task] = {each.name: each for each in _TASKS}


def task(name: str) -> Task:
    """Look a task up by name; UserError that names the allowed ones otherwise."""
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}; choose from {', '.join(TASKS)}")
    return TASKS[name]
