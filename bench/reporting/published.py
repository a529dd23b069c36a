"""Published numbers of other authors, for the rows that tables mark "as reported".

`published.csv` has one row per number. Scores are on the 0 to 100 scale. `method` is the contestant that re-implements
the system, or empty. `task` is a task of the catalogue, "mnli-mm" for the mismatched half, "average", or empty for a
row that only states a cost. `metric` is "unstated" if the source does not state which of a task's two metrics it
reports.

`flops` are 2 x multiply-adds; if a source counts multiply-adds, they are doubled and the notes of the row state it.
`speedup` is as printed, and `speedup_of` is the quantity that it counts: FLOPs, layers, or time on some machine.
"""

from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.errors import UserError
from bench.tasks.catalogue import TASKS

MISMATCHED = "mnli-mm"
PATH = Path(__file__).with_name("published.csv")


class Published(BaseModel):
    """One published number."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=True)

    system: str = Field(min_length=1)
    method: str
    task: str
    metric: Literal["accuracy", "f1", "matthews", "unstated", "average", "percent_of_bert_base", ""]
    split: Literal["test", "dev", ""]
    score: float | None = Field(ge=-100, le=100)
    parameters: int | None = Field(gt=0)
    flops: int | None = Field(gt=0)
    length: int | None = Field(gt=0)
    speedup: float | None = Field(gt=0)
    speedup_of: Literal["flops", "layers", "time", ""]
    source: str = Field(min_length=1)
    notes: str

    @model_validator(mode="after")
    def _consistent(self) -> "Published":
        if self.task not in {*TASKS, MISMATCHED, "average", ""}:
            raise ValueError(f"unknown task {self.task!r}")
        if (self.score is None) != (self.task == ""):
            raise ValueError("a score needs a task, and a row without one states a cost only")
        if (self.speedup_of == "") != (self.speedup in (None, 1.0)):
            raise ValueError("a speed-up other than 1 needs speedup_of, what it counts, and nothing else does")
        return self


def read_published(path: Path = PATH) -> pd.DataFrame:
    """Read and check all published numbers.

    Returns:
        The columns of `Published`, and `computed` and `flops_speedup`. If a source prints FLOPs of its model and of
        BERT-base but no speed-up, `speedup` is their ratio and `computed` is True. `flops_speedup` is the speed-up for
        an axis of FLOPs: the ratio if known, else a printed one of FLOPs or layers, else NaN (times on other machines
        are not comparable).

    Raises:
        UserError: With the line of the first invalid number.
    """
    raw = pd.read_csv(path, dtype=str, keep_default_na=False)
    text = {"system", "method", "task", "metric", "split", "speedup_of", "source", "notes"}
    rows = []
    for line, row in enumerate(raw.to_dict("records"), start=2):
        cells = {str(k): v if k in text else (v or None) for k, v in row.items()}
        try:
            rows.append(Published.model_validate(cells).model_dump())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "row"
            raise UserError(f"{path.name}, line {line}: {where}: {first['msg']}") from error
    table = pd.DataFrame(rows, columns=list(Published.model_fields))
    table = table.astype(dict.fromkeys(["score", "parameters", "flops", "length", "speedup"], float))
    # One document may hold several tables over the same BERT-base.
    document = table["source"].str.split(",").str[0]
    base = table["flops"].where(table["speedup"] == 1.0).groupby(document).transform("first")
    ratio = base / table["flops"]
    printed = table["speedup"].where(table["speedup_of"] != "time")
    return table.assign(
        speedup=table["speedup"].fillna(ratio),
        computed=table["speedup"].isna() & ratio.notna(),
        flops_speedup=ratio.fillna(printed),
    )


def for_figures(published: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with a FLOPs speed-up, in column `speedup`."""
    known = published[published["flops_speedup"].notna()]
    return known.assign(speedup=known["flops_speedup"])
