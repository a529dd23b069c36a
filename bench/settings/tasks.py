"""Sections of the settings for tasks and their text."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from bench.settings.values import Count, PathSetting, Seed, Values, blank, check_part, lookalike, merge, quoted

GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")


Length = Annotated[int, Field(ge=8, le=2**15)]
"""Number of tokens. A pair needs three special tokens and some words."""


class SketchSizes(Values):
    """Number of examples generated for each task."""

    train: int = Field(600, ge=32, le=10**6, description="Training examples, including the calibration split.")
    validation: int = Field(300, ge=16, le=10**6, description="Number of validation examples.")
    test: int = Field(0, ge=0, le=10**6, description="Number of test examples; their labels are hidden, as in GLUE.")


class Data(Values):
    """Source of the text, and the number of examples used."""

    source: Literal["sketch", "folder", "hub"] = Field("sketch", description="Generated text, a folder, or the Hub.")
    path: PathSetting | None = Field(
        None, description="Folder in the layout of the Hub's nyu-mll/glue or of GLUE's own site (source: folder)."
    )
    revision: str = Field(
        "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c", description="Commit of nyu-mll/glue on the Hub (source: hub)."
    )
    note: str = Field("", description="Name of the data in tables. State here whether a task is only a sample of GLUE.")
    seed: Seed = Field(0, description="Seed of the generated text, the calibration split and the caps.")
    sketch: SketchSizes = Field(SketchSizes(), description="Sizes of generated tasks (source: sketch).")
    calibration: Count | float = Field(
        0.1, ge=0, description="Size of the calibration split: a count, or a fraction of train."
    )
    max_train: Count | None = Field(None, ge=32, description="Largest number of training examples of a task.")
    max_eval: Count | None = Field(None, ge=16, description="Largest number of calibration or validation examples.")
    test: bool = Field(False, description="Whether runs also trace the test split; otherwise `costeff submit` does.")
    max_length: tuple[Length, Length] = Field(
        (128, 128), description="Largest number of tokens of a text and of a pair."
    )
    tasks: dict[str, dict[str, Any]] = Field({}, description="Task -> values of this section for that task.")

    @model_validator(mode="after")
    def _check(self) -> Data:
        check_part("calibration", self.calibration)
        if self.source == "folder" and self.path is None:
            raise ValueError("path is missing: source: folder needs the folder's name")
        if self.source != "folder" and self.path is not None:
            raise ValueError(f"path = {self.path} requires source: folder, not source: {self.source}")
        return self

    def of(self, task: str) -> Data:
        """Return this section with the values that hold for one task."""
        return Data.model_validate(merge(self.model_dump() | {"tasks": {}}, self.tasks.get(task, {})))

    @property
    def title(self) -> str:
        """Name of the text in tables."""
        return self.note or {"sketch": "sketch (generated)", "folder": "GLUE (folder)", "hub": "GLUE"}[self.source]


CLASS_METRICS = ("accuracy", "balanced_accuracy", "f1", "f1_macro", "matthews")
"""Metrics for classification that an own task may use; f1 is that of the second of two classes."""
SCORE_METRICS = ("pearson", "spearman")
"""Metrics for regression that an own task may use."""


class OwnTask(Values):
    """Task declared in a profile, with text in files or on the Hub."""

    columns: list[str] = Field(min_length=1, max_length=2, description="The text column, or two text columns.")
    labels: list[str | int] | None = Field(
        None, min_length=2, max_length=10_000, description="The classes in the order of class ids, as in the files."
    )
    range: tuple[float, float] | None = Field(None, description="Least and greatest label of a regression.")
    metrics: list[str] = Field(min_length=1, description="Metrics; the first one ranks.")
    files: dict[Literal["train", "validation", "test"], PathSetting] = Field(
        {}, description="Split -> CSV, TSV, JSON lines (.jsonl, .json) or Parquet file; test may lack labels."
    )
    hub: str | None = Field(None, pattern=r"^[\w.-]+(/[\w.-]+)?$", description="owner/name of a data set on the Hub.")
    subset: str | None = Field(None, description="Configuration of that data set, if it has several.")
    revision: str | None = Field(None, description="Commit on the Hub; null: the newest.")
    label: str = Field("label", description="The label column.")
    group: str | None = Field(None, description="Column whose equal values keep rows in the same split.")
    drop_empty: bool = Field(False, description="Whether rows with an empty text are left out (and counted).")
    validation: Count | float = Field(0.1, description="Size of the validation split, if taken from train.")

    @field_validator("labels", mode="before")
    @classmethod
    def _unquoted(cls, labels: Any) -> Any:
        if isinstance(labels, list) and any(isinstance(label, bool) for label in labels):
            raise ValueError("YAML reads yes, no, on, off, true and false as booleans; put them in quotes")
        return labels

    @model_validator(mode="after")
    def _whole(self) -> OwnTask:
        if (self.labels is None) == (self.range is None):
            raise ValueError("exactly one of labels (classes) and range (a regression) is required")
        if self.range and not self.range[0] < self.range[1]:
            raise ValueError(f"range = {list(self.range)}: the least label must come first")
        if self.range and not math.isfinite(self.range[1] - self.range[0]):
            raise ValueError(f"range = {list(self.range)}: both ends must be finite numbers")
        for key, values in (("labels", self.labels or []), ("columns", self.columns), ("metrics", self.metrics)):
            if len({str(value) for value in values}) < len(values):
                raise ValueError(f"{key} = {values}: a value is named twice")
        seen: dict[str, str] = {}
        for label in map(str, self.labels or []):
            if blank(label) or re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", label):
                raise ValueError(f"labels: {label!r} is blank or not printable; give that class a label to read")
            if (other := seen.setdefault(lookalike(label), label)) != label:
                raise ValueError(
                    f"labels: {quoted(other)} and {quoted(label)} differ only in case, blanks, decimal zeros or "
                    "Unicode form, so tables would confuse them; rename one, here and in the files"
                )
        allowed = SCORE_METRICS if self.range else CLASS_METRICS
        for metric in self.metrics:
            if metric not in allowed:
                raise ValueError(f"metrics: there is no {metric!r} here; choose from {', '.join(allowed)}")
        if "f1" in self.metrics and self.labels and len(self.labels) != 2:
            raise ValueError("metrics: f1 needs two classes; use f1_macro for more")
        if bool(self.files) == bool(self.hub):
            raise ValueError("exactly one of files and hub is required")
        if not self.hub and (self.subset or self.revision):
            raise ValueError("subset and revision require hub")
        if self.files and "train" not in self.files:
            raise ValueError("files: train is missing")
        for split, file in self.files.items():
            if file.suffix not in (".csv", ".tsv", ".jsonl", ".json", ".parquet"):
                raise ValueError(f"files.{split}: {file}: its name must end in .csv, .tsv, .jsonl, .json or .parquet")
        if {self.label, self.group} & set(self.columns) or self.label == self.group:
            raise ValueError("columns, label and group must be different columns")
        for column in self.columns:
            if column in ("label", "group", "idx", "row", "difficulty"):
                raise ValueError(f"columns: {column!r} is a name that the suite uses; rename that column in the files")
        check_part("validation", self.validation)
        if not self.validation:
            raise ValueError("validation = 0: the split is needed to report results")
        return self

    def within(self, folder: Path) -> OwnTask:
        """Return this task with relative file names resolved against `folder`."""
        return self.model_copy(update={"files": {split: folder / file for split, file in self.files.items()}})

    @property
    def source(self) -> str:
        """Name of the text in tables."""
        return f"{self.hub} (Hub)" if self.hub else "own files"
