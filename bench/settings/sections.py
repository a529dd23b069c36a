"""Sections of the settings of a benchmark, validated before any training."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from bench.settings.tasks import GLUE, Data, OwnTask
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
    explain,
    merge,
    twins,
)


class Backbone(Values):
    """Pretrained encoder from which contestants start."""

    name: Checkpoint = Field(description="A Hub id, a folder, or package:<module>/<folder> of an installed package.")
    revision: str | None = Field(None, description="Commit on the Hub.")
    layers: Count | None = Field(None, ge=1, description="Number of first layers to use; null: all.")
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
    restarts: int = Field(
        2, ge=0, le=10, description="Largest number of retrainings, with other seeds, of a model with constant answers."
    )
    save_seconds: float = Field(120, gt=0, le=10**6, description="Seconds between two checkpoints of a running stage.")
    eval_batch_size: BatchCount = Field(64, description="Batch size of evaluation.")
    kept_gigabytes: float = Field(2.0, ge=0, le=10**5, description="Memory in GB for the cached targets of a teacher.")


class Thresholds(Values):
    """Choice of exit thresholds, by replay of traces."""

    grid: int = Field(200, ge=2, le=10**4, description="Number of uniform thresholds over the policy's range.")
    trials: int = Field(150, ge=0, le=10**4, description="Trials of the threshold search; 0: no search.")


class Latency(Values):
    """Measurement of the latency of early-exit models relative to the reference, for the first seed of each task."""

    ROUNDS_AT_1: ClassVar[int] = 4  # at batch size 1, for each round at 32

    examples: int = Field(
        64,
        ge=1,
        le=10**6,
        description="Validation examples at batch size 32, evenly spaced by length; a quarter of them at batch size 1.",
    )
    # A machine's pace drifts over seconds, so turns make a ratio steady and more examples do not (benchmarks/clock.py).
    rounds: int = Field(
        3,
        ge=1,
        le=1000,
        description="Rounds at batch size 32; four times as many at batch size 1. The median is reported.",
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

    margin: float = Field(1.0, ge=0, le=100, description="Margin of equality, in points (scores x 100).")
    level: float = Field(0.95, gt=0.5, lt=1, description="Confidence level of intervals, and of a family of verdicts.")
    resamples: int = Field(2_000, ge=100, le=20_000, description="Bootstrap resamples, for standard deviations only.")
    primary: Primary = Field(Primary(), description="Primary comparisons; all others are exploratory.")


class RatioStudy(Values):
    """Ratio study: an Optuna search over the pruning ratios of one method."""

    method: Name = Field(description="Contestant with a search space.")
    tasks: list[str] = Field(min_length=1, description="Tasks of the study.")
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

    like: Name | None = Field(None, description="Contestant from which values are copied that are not set here.")
    method: Annotated[str, AfterValidator(_import_path)] = Field(
        description="Import path of its class, package.module:Class."
    )
    options: dict[str, Any] = Field({}, description="Options of the method.")
    share: float = Field(
        1.0, gt=0, le=2, description="Fraction of training.budget; set it below 1 if others continue the model."
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
        False, description="Whether all trained weights are kept; otherwise only while a remaining run needs them."
    )
    strict: bool = Field(
        False, description="Whether runs that differ in device, precision or threads are an error instead of a note."
    )
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
    depth_reference: Name | None = Field(None, description="Contestant of first k layers, for the ELUE score.")
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
            if "tasks" in self.data.tasks.get(task, {}):
                raise ValueError(f"data.tasks.{task}.tasks: no such key in the values of one task")
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
        for ablation, whole in self.ablations.items():
            if whole in self.ablations or ablation == self.reference:
                raise ValueError(
                    f"ablations: {ablation}: {whole}: an ablation is compared with a contestant that is not an "
                    f"ablation, and the reference ({self.reference}) cannot be an ablation"
                )
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
