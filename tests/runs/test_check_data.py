"""`costeff check` shows everything that is wrong with data at once; page and model card repeat what is not clean."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bench.errors import UserError
from bench.reporting.page.document import data_findings, facts
from bench.runs.identity import Identities
from bench.runs.planning.checks import report
from bench.runs.train_run import produce
from bench.settings import Settings, check
from bench.sharing.card import _data
from bench.store import RunKey, read_json, run_folder
from bench.tasks.sketch.generator import generate

Rows = list[tuple[str, str]]


def said(split: str, count: int) -> Rows:
    words = ("bad", "good")
    rows = [(row["sentence"], words[row["label"]]) for row in generate("sst2", split, count, 0)]
    return list(dict(rows).items())  # each text once


@pytest.fixture
def settings(tiny_settings: Callable[..., Settings], tmp_path: Path) -> Callable[..., Settings]:
    """`settings(train rows, validation rows, ...)`: a profile with two own tasks of these rows, one contestant."""

    def make(train: Rows, validation: Rows, **own: Any) -> Settings:
        for split, rows in (("train", train), ("validation", validation)):
            pd.DataFrame(rows, columns=["said", "label"]).to_csv(tmp_path / f"{split}.csv", index=False, sep=";")
        files = {split: str(tmp_path / f"{split}.csv") for split in ("train", "validation")}
        declared = {"columns": ["said"], "labels": ["good", "bad"], "metrics": ["accuracy"], "files": files} | own
        values = tiny_settings(tmp_path / "results").model_dump()
        teacher = values["contestants"]["teacher"] | {"tasks": {}}
        teacher["options"] |= {"epochs": 0.5}
        values["data"] |= {"max_length": (32, 32)}
        values |= {"own_tasks": {"mail": declared, "news": declared}, "tasks": ["mail", "news"]}
        return check(values | {"contestants": {"teacher": teacher}, "depth_reference": None, "studies": []}, "test")

    return make


def told(settings: Settings) -> list[str]:
    """What `costeff check` prints, its error included."""
    lines: list[str] = []
    try:
        for line in report(settings, 1):
            lines.append(line)
    except UserError as error:
        lines.append(str(error))
    return lines


def test_check_examines_the_rows_of_every_seed(settings: Callable[..., Settings]) -> None:
    train = [(f"word {number}", "bad" if number == 7 else "good") for number in range(60)]
    values = settings(train, said("validation", 40)).model_dump() | {"tasks": ["mail"], "seeds": list(range(8))}
    values["data"] |= {"calibration": 30}
    identities, failing = Identities(check(values, "test")), set()
    for seed in range(8):
        try:
            identities.text("mail", seed)
        except UserError:
            failing.add(seed)
    assert 0 < len(failing) < 8
    passing = set(range(8)) - failing
    lines = told(check(values | {"seeds": [*passing, *failing]}, "test"))
    named = {seed for seed in range(8) if any(f"problem: seed {seed}: " in line and "'bad'" in line for line in lines)}
    assert named == failing and "cannot be used" in lines[-1]


def test_one_check_shows_every_problem_of_every_task(settings: Callable[..., Settings]) -> None:
    train, validation = said("train", 150), said("validation", 40)
    dirty = [("", "good"), ("", "bad"), ("once more", "good"), ("once more", "bad"), validation[0], ("what", "god")]
    lines = told(settings([*train, *dirty], [*validation, ("odd", "ugly")], labels=["good", "bad", "ugly"]))
    whole = "\n".join(lines)
    for part in (
        "train.csv: columns are separated by semicolons",
        "1 text with contradicting labels (2 rows)",
        "1 validation row with a text that is also in train",
        f"line {len(train) + 2}: column 'said' is empty (in 2 rows; next: line {len(train) + 3}); fill it, or set",
        "column 'label' is 'god', none of good, bad, ugly; the nearest is 'good'",
        "mail: class 'ugly' has no rows to train on (calibration 0, validation 1)",
        "news: class 'ugly' has no rows to train on (calibration 0, validation 1)",
        "unknown tokens: train ",
        "texts cut at max_length: train ",
    ):
        assert part in whole, part
    assert lines[-1] == "the data cannot be used as it is: 6 problems, listed above as `problem`"
    assert all("\n" not in line for line in lines) and not any(line.startswith("check passed") for line in lines)


def test_a_run_with_bad_data_is_one_line(settings: Callable[..., Settings]) -> None:
    bad = settings([*said("train", 150), ("", "good"), ("x", "god")], said("validation", 40))
    with pytest.raises(UserError, match=r"'said' is empty.*and 1 more problem: `costeff check` lists all") as caught:
        Identities(bad).of(RunKey("mail", "teacher", "full", 0))
    assert "\n" not in str(caught.value)


def test_page_and_card_repeat_what_is_not_clean(settings: Callable[..., Settings]) -> None:
    validation = said("validation", 40)
    twice = [("once more", "good"), ("once more", "bad"), ("", "bad"), validation[0]]
    mine = settings([*said("train", 150), *twice], validation, drop_empty=True)
    assert any(line.startswith("check passed") for line in told(mine))
    key = RunKey("mail", "teacher", "full", 0)
    assert not produce(mine, key)
    found = data_findings(mine.root / "runs")["mail"]
    assert {"1 text with contradicting labels (2 rows)", "1 train row without text left out"} <= set(found)
    assert "train.csv: columns are separated by semicolons (guessed from the header)" in found
    assert dict(facts(mine.root / "runs"))["Data of mail"] == "; ".join(found)
    kept = read_json(run_folder(mine, key) / "run.json")
    heading, card = _data(kept)
    assert heading == "## Data quality" and card.splitlines() == [f"- {line}" for line in found]
    assert "once more" not in str(kept) and validation[0][0] not in str(kept)
    assert _data({"data": {}}) == []
