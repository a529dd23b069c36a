"""Sections of the settings of a benchmark, validated before any training."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from bench.settings.values import (
    BatchCount,
    Checkpoint,
    Count,
    Name,
    PathSetting,
    Results,
    Seed,
    SpeedUp,
    Values,
    blank,
    check_part,
    explain,
    lookalike,
    merge,
    quoted,
    twins,
)

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
        return Data.model_validate(self.model_dump() | {"tasks": {}} | self.tasks.get(task, {}))

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


class Backbone(Values):
    """Pretrained encoder from which contestants start."""

    name: Checkpoint = Field(description="A Hub id, a folder, or package:<module>/<folder> of an installed package.")
    revision: str | None = Field(None, description="Commit on the Hub.")
    layers: Count | None = Field(None, ge=1, description="Use only the first so many layers; null: all.")
    pooling: Literal["cls", "mean"] = Field("cls", description="Input of exit heads: CLS token, or mean over tokens.")


class TrainingBudget(Values):
    """Training budget: number of optimizer steps behind a model's weights, at a fixed batch size."""

    steps: int = Field(ge=1, le=10**8, description="Optimizer steps, summed over models whose weights are continued.")
    batch_size: BatchCount = Field(32, description="Batch size of all stages.")
    tasks: dict[str, Annotated[int, Field(ge=1, le=10**8)]] = Field({}, description="Task -> steps, where they differ.")

    def of(self, task: str) -> int:
        """Return the optimizer steps of a task."""
        return self.tasks.get(task, self.steps)


class Training(Values):
    """Training settings that are the same for all contestants."""

    budget: TrainingBudget | None = Field(None, description="Training budget; null: each recipe's own epochs.")

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="The device; auto: the GPU if there is one.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Arithmetic of products; auto: bfloat16 if the device supports it natively, else float32."
    )
    tf32: bool = Field(False, description="Whether float32 products on a GPU use TF32, except for traces.")
    gpu_share: int = Field(1, ge=1, le=1024, description="Number of jobs that share a GPU.")
    threads: int = Field(1, ge=1, le=1024, description="CPU threads of a job; numbers depend on this count.")
    restarts: int = Field(2, ge=0, le=10, description="Most retrainings, with other seeds, of a constant model.")
    save_seconds: float = Field(120, gt=0, le=10**6, description="Seconds between two checkpoints of a running stage.")
    eval_batch_size: BatchCount = Field(64, description="Batch size of evaluation.")
    kept_gigabytes: float = Field(2.0, ge=0, le=10**5, description="Memory in GB for the cached targets of a teacher.")


class Thresholds(Values):
    """Choice of exit thresholds, by replay of traces."""

    grid: int = Field(200, ge=2, le=10**4, description="Number of uniform thresholds over the policy's range.")
    trials: int = Field(150, ge=0, le=10**4, description="Trials of the threshold search; 0: no search.")


class Latency(Values):
    """Measurement of the latency of early-exit models relative to the reference, for the first seed of each task."""

    examples: int = Field(
        64,
        ge=1,
        le=10**6,
        description="Validation examples at batch size 32, spaced by length; a quarter at 1.",
    )
    # A machine's pace drifts over seconds, so turns make a ratio steady and more examples do not (benchmarks/clock.py).
    rounds: int = Field(
        3, ge=1, le=1000, description="Rounds at batch size 32, four times as many at 1; the median is reported."
    )
    speedups: list[SpeedUp] = Field(
        [1, 2, 4, 8], max_length=32, description="Speed-ups at which the best point is measured."
    )


class Primary(Values):
    """Comparisons declared before results are known, with their own correction for multiplicity."""

    contestant: Name | None = Field(None, description="Contestant compared with each rival; null: the reference.")
    speedups: list[Annotated[SpeedUp, Field(ge=1)]] = Field(
        [2, 4, 8], max_length=32, description="Speed-ups of primary comparisons, besides 1."
    )


class Comparison(Values):
    """Comparison of contestants over seeds and examples, corrected for the number of comparisons."""

    margin: float = Field(1.0, ge=0, le=100, description="Margin, in points of 100.")
    level: float = Field(0.95, gt=0.5, lt=1, description="Confidence level of intervals, and of a family of verdicts.")
    resamples: int = Field(2_000, ge=100, le=20_000, description="Bootstrap resamples, for standard deviations only.")
    primary: Primary = Field(Primary(), description="Primary comparisons; all others are exploratory.")


class RatioStudy(Values):
    """Ratio study: an Optuna search over the pruning ratios of one method."""

    method: Name = Field(description="Contestant with a search space.")
    tasks: list[str] = Field(description="Tasks of the study.")
    generations: int = Field(2, ge=1, le=100, description="Generations; trials of one generation run in parallel.")
    population: int = Field(4, ge=1, le=1000, description="Trials per generation.")
    sampler: Literal["nsgaii", "tpe", "random"] = Field("nsgaii", description="Optuna's sampler.")
    seed: int = Field(0, ge=0, le=2**31, description="Seed of the sampler in the first generation; increases by 1.")

    @model_validator(mode="after")
    def _parents(self) -> RatioStudy:
        if self.sampler == "nsgaii" and self.population < 2:
            raise ValueError(f"population = {self.population}: nsgaii needs at least 2 trials")
        return self


def _import_path(value: str) -> str:
    if not re.match(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z", value):
        raise ValueError(f"{value!r} is not the import path of a class, package.module:Class, such as my_method:Mine")
    return value


class Contestant(Values):
    """Method with options, under the name used in tables, folders and by other contestants."""

    like: Name | None = Field(None, description="Contestant whose values hold where this one states none.")
    method: Annotated[str, AfterValidator(_import_path)] = Field(
        description="Import path of its class, package.module:Class."
    )
    options: dict[str, Any] = Field({}, description="Options of the method.")
    share: float = Field(
        1.0, gt=0, le=2, description="Fraction of training.budget; below 1 if others continue the model."
    )
    tasks: dict[str, dict[str, Any]] = Field({}, description="Task -> options with other values for that task.")
    sources: dict[str, Annotated[str, Field(pattern=r"^(paper|code|here)\b")]] = Field(
        {}, description="Option -> source of its value: paper, code or here, and details."
    )

    def options_for(self, task: str) -> dict[str, Any]:
        """Return the options for one task."""
        return merge(self.options, self.tasks.get(task, {}))


class Settings(Values):
    """Settings of a benchmark: contestants, tasks, seeds, data and backbone."""

    profile: Name = Field(description="Name of the profile; results go to <results>/<profile>.")
    results: Results = Field(Path("results"), description="Folder of all results.")
    folder: PathSetting = Field(Path(), description="Folder of contestants' modules; set to that of the profile.")
    reuse: list[PathSetting] = Field([], description="Results folders from which runs with equal inputs are copied.")
    keep_models: bool = Field(
        False, description="Whether all trained weights are kept; otherwise only while a run to come needs them."
    )
    strict: bool = Field(False, description="Whether differing device, precision or threads are an error, not a note.")
    tasks: list[str] = Field(list(GLUE), min_length=1, description="Tasks to run.")
    seeds: list[Seed] = Field([0], min_length=1, max_length=1000, description="Seeds; each is a separate run.")
    more_seeds: dict[str, list[Seed]] = Field({}, description="Task -> further seeds for that task, for small tasks.")
    selection: Literal["calibration", "validation"] = Field(
        "calibration", description="Selection split for checkpoints and thresholds; validation is the papers' protocol."
    )
    data: Data = Field(Data(), description="Source and size of the data.")
    own_tasks: dict[Name, OwnTask] = Field({}, description="Name -> own task, in addition to GLUE's.")
    backbone: Backbone = Field(description="The pretrained encoder.")
    training: Training = Field(Training(), description="Training settings of all contestants.")
    thresholds: Thresholds = Field(Thresholds(), description="Choice of exit thresholds.")
    latency: Latency = Field(Latency(), description="Measurement of latency.")
    comparison: Comparison = Field(Comparison(), description="Comparison of contestants.")
    contestants: dict[Name, Contestant] = Field(min_length=1, description="Name -> method with options.")
    reference: Name = Field("teacher", description="Contestant whose cost at full depth counts as speed-up 1.")
    depth_reference: Name | None = Field(None, description="Contestant of models cut at a depth, for the ELUE score.")
    precision_axis: list[Literal["float32", "int8"]] = Field(
        ["float32"],
        min_length=1,
        description="int8: contestants <name>-int8 evaluate the models of each contestant with int8 products as well.",
    )
    ablations: dict[Name, Name] = Field({}, description="Ablation -> contestant with which it is compared.")
    studies: list[RatioStudy] = Field([], description="Ratio studies.")

    @model_validator(mode="after")
    def _tasks(self) -> Settings:
        for task in self.own_tasks:
            if task.lower() in (*GLUE, "average"):
                raise ValueError(f"own_tasks.{task}: the name is reserved; choose another")
        known = (*GLUE, *self.own_tasks)
        for key, names in (("tasks", self.tasks), ("own_tasks", known), ("contestants", self.contestants)):
            if wrong := twins(names):
                raise ValueError(f"{key}: {wrong}; rename one of them")
        drawn = {"seeds": self.seeds, **{f"more_seeds.{task}": more for task, more in self.more_seeds.items()}}
        for key, seeds in drawn.items():
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"{key} = {seeds}: a seed is named twice")
        named: dict[str, Iterable[str]] = {"tasks": self.tasks, "more_seeds": self.more_seeds}
        named |= {"data.tasks": self.data.tasks}
        if self.training.budget:
            named |= {"training.budget.tasks": self.training.budget.tasks}
        named |= {f"contestants.{name}.tasks": each.tasks for name, each in self.contestants.items()}
        named |= {f"studies.{number}.tasks": study.tasks for number, study in enumerate(self.studies)}
        for key, tasks in named.items():
            for task in tasks:
                if task not in known:
                    raise ValueError(f"{key}: unknown task {task!r}; the tasks are {', '.join(known)}")
        for task in dict.fromkeys((*self.tasks, *self.data.tasks)):
            try:
                data = self.data.of(task)
            except ValidationError as error:
                raise ValueError(f"data.tasks.{task}.{explain(error, Data)}") from None
            if self.selection == "calibration" and task in self.tasks and not data.calibration:
                raise ValueError(f"data.calibration = 0: needed for choices on {task}; or set selection: validation")
        return self

    @model_validator(mode="after")
    def _names(self) -> Settings:
        named: dict[str, list[str | None]] = {
            "reference": [self.reference],
            "depth_reference": [self.depth_reference] * bool(self.depth_reference),
        }
        named |= {"ablations": [*self.ablations, *self.ablations.values()]}
        named |= {"studies": [study.method for study in self.studies]}
        declared, known = self.comparison.primary.contestant, ", ".join(self.contestants)
        named |= {"comparison.primary.contestant": [declared] * bool(declared)}
        for contestant, entry in self.contestants.items():
            if entry.share != 1 and not self.training.budget:
                raise ValueError(f"contestants.{contestant}.share = {entry.share}: requires training.budget")
        for key, names in named.items():
            for name in names:
                if name not in self.contestants:
                    raise ValueError(f"{key}: {name!r} is not a contestant; the contestants are {known}")
        studied = [(study.method, task) for study in self.studies for task in study.tasks]
        for method, task in studied:
            if task not in self.tasks:
                raise ValueError(f"studies: {method} is studied on {task!r}, which is not among the tasks")
            if studied.count((method, task)) > 1:
                raise ValueError(f"studies: {method} is studied on {task!r} twice")
        return self

    def seeds_of(self, task: str) -> list[int]:
        """Return the distinct seeds of a task."""
        return list(dict.fromkeys([*self.seeds, *self.more_seeds.get(task, [])]))

    def source_of(self, task: str) -> str:
        """Return the name of the text of a task in tables."""
        return self.own_tasks[task].source if task in self.own_tasks else self.data.of(task).title

    @property
    def glue_caps(self) -> dict[str, str]:
        """Tasks with GLUE's own text -> description of the caps on the number of examples; "" if there are none."""
        found = {}
        for task in self.tasks:
            data = self.data.of(task)
            if task not in self.own_tasks and data.source != "sketch":
                caps = {"training": data.max_train, "validation": data.max_eval}
                found[task] = ", ".join(f"{most:,} {split}" for split, most in caps.items() if most)
        return found

    @property
    def root(self) -> Path:
        """Folder of the results of this profile."""
        return self.results / self.profile
