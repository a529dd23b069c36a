"""What a run is: one set of typed settings, read from YAML profiles and checked before anything trains."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bench.errors import UserError

GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]


class Section(BaseModel):
    """Every key has a meaning: an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SketchSizes(Section):
    """How many examples the generator makes of each task."""

    train: int = Field(600, ge=32, description="Training examples, the calibration part included.")
    validation: int = Field(300, ge=16, description="Validation examples.")
    test: int = Field(0, ge=0, description="Test examples; their labels are hidden, as in GLUE.")


class Data(Section):
    """Where the text comes from and how much of it is used."""

    source: Literal["sketch", "folder", "hub"] = Field("sketch", description="Generated, a folder, or the Hub.")
    path: Path | None = Field(None, description="The folder, in the layout of the Hub's nyu-mll/glue (source: folder).")
    revision: str = Field(
        "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
        description="Commit of nyu-mll/glue on the Hub (source: hub).",
    )
    note: str = Field("", description="What tables call the data; say here where a task is only a sample of GLUE.")
    seed: int = Field(0, ge=0, description="Seed of the sketch, of the calibration part and of the caps.")
    sketch: SketchSizes = Field(SketchSizes(), description="Sizes of the generated tasks (source: sketch).")
    calibration: int | float = Field(
        0.1, gt=0, description="Part of train set apart for every choice: a count, or a fraction below 1."
    )
    max_train: int | None = Field(None, ge=32, description="Most training examples of a task (a seeded sample).")
    max_eval: int | None = Field(None, ge=16, description="Most examples of calibration and of each validation split.")
    test: bool = Field(True, description="Whether the test split is traced too; `costeff submit` needs it.")
    max_length: tuple[int, int] = Field((128, 128), description="Most tokens of a single sentence, and of a pair.")
    tasks: dict[str, dict[str, Any]] = Field({}, description="Other values of this section for a task, by its name.")

    @model_validator(mode="after")
    def _check(self) -> Data:
        if isinstance(self.calibration, float) and not 0 < self.calibration < 1:
            raise ValueError(f"calibration = {self.calibration}: a whole count, or a fraction between 0 and 1")
        if self.source == "folder" and self.path is None:
            raise ValueError("path is missing: source: folder needs the folder's name")
        if self.source != "folder" and self.path is not None:
            raise ValueError(f"path = {self.path} goes with source: folder, not source: {self.source}")
        for task in self.tasks:
            _known_task(task)
        return self

    def of(self, task: str) -> Data:
        """This section as it holds for one task."""
        return Data.model_validate(self.model_dump() | {"tasks": {}} | self.tasks.get(task, {}))

    @property
    def title(self) -> str:
        """What a table calls the text."""
        return self.note or {"sketch": "sketch (generated)", "folder": "GLUE (folder)", "hub": "GLUE"}[self.source]


class Backbone(Section):
    """The pre-trained encoder that every contestant starts from."""

    name: str = Field(description="A Hub id, a folder, or package:<module>/<folder> of an installed Python package.")
    revision: str | None = Field(None, description="Commit on the Hub.")
    pooling: Literal["cls", "mean"] = Field("cls", description="Where exits look: the CLS token or the mean of tokens.")


class Training(Section):
    """How every contestant is trained, whatever its recipe."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU where there is one.")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 products where the device computes them natively, else float32."
    )
    threads: int = Field(1, ge=1, description="CPU threads of a job; numbers are equal only between equal counts.")
    save_seconds: float = Field(120, gt=0, description="A running stage is saved this often, for a later resume.")
    eval_batch_size: int = Field(64, ge=1, description="Batch size of evaluation passes.")
    kept_gigabytes: float = Field(
        2.0,
        ge=0,
        description="Memory a job may use to keep a teacher's targets instead of computing them again.",
    )


class Thresholds(Section):
    """The exit-threshold sweep of a trained model; it replays kept traces."""

    grid: int = Field(200, ge=2, description="Uniform thresholds over the range of the policy.")
    trials: int = Field(150, ge=0, description="Trials of the Optuna study over one threshold an exit; 0: no study.")


class Latency(Section):
    """The wall-clock of the early-exit engine beside the teacher's, for the first seed of every task."""

    examples: int = Field(
        64, ge=1, description="Validation examples at batch 32, at even steps through the lengths; half as many at 1."
    )
    rounds: int = Field(3, ge=1, description="Interleaved repetitions; the median ratio counts, quartiles are kept.")
    speedups: list[float] = Field([1, 2, 4, 8], description="Points measured: the best at these FLOPs speed-ups.")


class Comparison(Section):
    """How contestants are compared: a bootstrap over seeds and examples, corrected for the number of comparisons."""

    margin: float = Field(1.0, ge=0, description="Points (of 100) within which contestants are called equal.")
    level: float = Field(0.95, gt=0.5, lt=1, description="Confidence of all the verdicts of a table together.")
    resamples: int = Field(2_000, ge=100, description="Bootstrap resamples; only their deviation is used.")


class RatioStudy(Section):
    """The Optuna study over pruning ratios of one method."""

    method: Name = Field(description="A contestant that offers a search space.")
    tasks: list[str] = Field(description="Tasks to study.")
    generations: int = Field(2, ge=1, description="Rounds of ask, trial jobs, tell.")
    population: int = Field(4, ge=1, description="Trials a generation.")
    sampler: Literal["nsgaii", "tpe", "random"] = Field("nsgaii", description="Optuna's sampler.")
    seed: int = Field(0, ge=0, description="The sampler's seed is this plus the generation.")

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: list[str]) -> list[str]:
        return [_known_task(task) for task in tasks]

    @model_validator(mode="after")
    def _parents(self) -> RatioStudy:
        if self.sampler == "nsgaii" and self.population < 2:
            raise ValueError(f"population = {self.population}: nsgaii crosses at least 2 trials")
        return self


class Contestant(Section):
    """A method under a name: what tables, folders and other contestants call it."""

    method: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="Import path of its class, package.module:Class.",
    )
    options: dict[str, Any] = Field({}, description="The method's own options.")
    tasks: dict[str, dict[str, Any]] = Field({}, description="Options with other values for a task, by its name.")

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: dict[str, Any]) -> dict[str, Any]:
        return {_known_task(task): options for task, options in tasks.items()}

    def options_for(self, task: str) -> dict[str, Any]:
        """The options that hold for one task."""
        return _merge(self.options, self.tasks.get(task, {}))


class Settings(Section):
    """One benchmark: which contestants, on which tasks, with which seeds, on what text, from what backbone."""

    profile: Name = Field(description="Name of the profile; results go to <results>/<profile>.")
    results: Path = Field(Path("results"), description="Folder of all results.")
    folder: Path = Field(
        Path(), description="Where contestants' own modules lie: the profile's folder, set when it is read."
    )
    reuse: list[Path] = Field(
        [], description="Folders of results: what lies there and was asked the same is taken, not trained."
    )
    strict: bool = Field(
        False,
        description="Refuse to unite runs of unlike arithmetic (device, precision, threads); else a note says so.",
    )
    tasks: list[str] = Field(list(GLUE), min_length=1, description="Tasks to run.")
    seeds: list[int] = Field([0], min_length=1, description="Seeds of training; each is a run of its own.")
    more_seeds: dict[str, list[int]] = Field({}, description="Further seeds for a task, by its name (small tasks).")
    selection: Literal["calibration", "validation"] = Field(
        "calibration",
        description="Where checkpoints and thresholds are chosen; validation is the papers' protocol.",
    )
    data: Data = Field(Data(), description="The text.")
    backbone: Backbone = Field(description="The pre-trained encoder.")
    training: Training = Field(Training(), description="How everything trains.")
    thresholds: Thresholds = Field(Thresholds(), description="The exit-threshold sweep.")
    latency: Latency = Field(Latency(), description="The latency measurement.")
    comparison: Comparison = Field(Comparison(), description="What is called better, worse or equal.")
    contestants: dict[Name, Contestant] = Field(min_length=1, description="The methods, by the names tables use.")
    reference: Name = Field("teacher", description="The contestant whose full depth is speed-up 1.")
    depth_reference: Name | None = Field(None, description="The contestant of depth-cut models, for the ELUE score.")
    ablations: dict[Name, Name] = Field({}, description="Ablation -> the full method it is compared with.")
    studies: list[RatioStudy] = Field([], description="Pruning-ratio studies.")

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: list[str]) -> list[str]:
        if len(set(tasks)) != len(tasks):
            raise ValueError("a task is named twice")
        return [_known_task(task) for task in tasks]

    @model_validator(mode="after")
    def _names(self) -> Settings:
        named: dict[str, list[str | None]] = {
            "reference": [self.reference],
            "depth_reference": [self.depth_reference] * bool(self.depth_reference),
        }
        named |= {"ablations": [*self.ablations, *self.ablations.values()]}
        named |= {"studies": [study.method for study in self.studies]}
        for key, names in named.items():
            for name in names:
                if name not in self.contestants:
                    raise ValueError(f"{key}: {name!r} is not a contestant; there are {', '.join(self.contestants)}")
        for task in self.more_seeds:
            _known_task(task)
        studied = [(study.method, task) for study in self.studies for task in study.tasks]
        for method, task in studied:
            if task not in self.tasks:
                raise ValueError(f"studies: {method} is studied on {task!r}, which is not among the tasks")
            if studied.count((method, task)) > 1:
                raise ValueError(f"studies: {method} is studied on {task!r} twice")
        return self

    def seeds_of(self, task: str) -> list[int]:
        return list(dict.fromkeys([*self.seeds, *self.more_seeds.get(task, [])]))

    @property
    def root(self) -> Path:
        """The folder of this profile's results."""
        return self.results / self.profile


def load(path: str | Path, overrides: dict[str, Any] | None = None) -> Settings:
    """The settings of a YAML file, with `overrides` on top: the one way in for the command line and the workflow.

    A profile may build on another with `extends: <file beside it>`. `~`, `$VAR` and `${VAR}` are expanded, in the path
    and in every text; a relative `data.path` is meant from the folder of the file that says it, and contestants'
    modules are looked for in the folder of this one. Raises UserError with one line that names the key, its value and
    what is allowed.
    """
    return load_several([path], overrides or {})


def load_several(paths: Sequence[str | Path], overrides: dict[str, Any]) -> Settings:
    """`load` of several profiles, each on top of those before it."""
    values: dict[str, Any] = {}
    for path in paths:
        file = Path(expand(str(path), "settings"))
        values = _merge(values, {"folder": str(file.parent.absolute())} | _read(file))
    return check(_merge(values, overrides), ", ".join(str(path) for path in paths))


def check(values: dict[str, Any], where: str) -> Settings:
    """Settings of a parsed mapping; `where` is named in the error."""
    try:
        return Settings.model_validate(_expanded(values, where))
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error)}") from None


def _read(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The values of a profile over those that it extends."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"settings {path}: {reason}; name a YAML file such as config/sketch.yaml") from None
    except yaml.YAMLError as error:
        raise UserError(f"settings {path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"settings {path}: a mapping of keys is needed, not {type(values).__name__}")
    data = values.get("data")
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        data["path"] = str(_from(path.parent, data["path"]))
    if "extends" not in values:
        return values
    parent = _from(path.parent, expand(str(values.pop("extends")), f"{path}: extends")).resolve()
    if parent in (here := (*seen, path.resolve())):
        raise UserError(f"{path}: extends {parent.name} goes round in a circle")
    below = _read(parent, here)
    below.pop("folder", None)  # where its own contestants lie, not this one's
    return _merge(below, values)


def _from(folder: Path, name: str) -> Path:
    """A path as a file in `folder` means it; one that begins with a variable or ~ is left for later."""
    return Path(name) if name.startswith(("$", "~")) else (folder / name).absolute()


def expand(text: str, where: str) -> str:
    """`text` with `~` and variables expanded. Raises UserError that names a variable that is not set."""
    home = str(Path(text).expanduser()) if text.startswith("~") else text
    expanded = os.path.expandvars(home)
    if unset := re.search(r"\$([A-Za-z_]\w*|\{[A-Za-z_]\w*\})", expanded):
        name = unset[1].strip("{}")
        raise UserError(f"{where}: {text!r} names the variable {name}, which is not set; set it, or write the value")
    return expanded


def _expanded(value: Any, where: str) -> Any:
    """Every text of nested values expanded; `where` names it in an error."""
    if isinstance(value, dict):
        return {key: _expanded(each, f"{where}: {key}") for key, each in value.items()}
    if isinstance(value, list):
        return [_expanded(each, where) for each in value]
    return expand(value, where) if isinstance(value, str) else value


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    """Nested mappings are merged; everything else in `top` wins, and null removes a key."""
    merged = dict(base)
    for key, value in top.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def _known_task(task: str) -> str:
    if task not in GLUE:
        raise ValueError(f"unknown task {task!r}; the tasks are {', '.join(GLUE)}")
    return task


def explain(error: ValidationError) -> str:
    """The first problem of a validation error, as one line."""
    first, more = error.errors()[0], error.error_count() - 1
    key = ".".join(str(part) for part in first["loc"] if part != "function-after") or "settings"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = "no such key" + _allowed(first["loc"])
    elif first["type"] != "value_error" and first["type"] != "missing":
        message = f"{message}, not {first['input']!r}"
    return f"{key}: {message}" + (f" (and {more} more)" if more else "")


def _allowed(loc: tuple[int | str, ...]) -> str:
    """The keys of the section that `loc` ends in, where it is one of ours."""
    model: Any = Settings
    for part in loc[:-1]:
        field = model.model_fields.get(str(part)) if isinstance(model, type) and issubclass(model, BaseModel) else None
        if field is None:
            return ""
        model = field.annotation
    if isinstance(model, type) and issubclass(model, BaseModel):
        return f"; there are {', '.join(model.model_fields)}"
    return ""
