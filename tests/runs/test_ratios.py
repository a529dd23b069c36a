"""A ratio study is a function of its files: the same bytes again, also after a kill; and it evolves."""

import shutil
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.errors import UserError
from bench.method import Method
from bench.runs import ratios
from bench.settings import Settings, check
from bench.store import RunKey, run_folder, write_json
from bench.trace import Costs, Trace

TASK, METHOD = "sst2", "slender"
EXAMPLES = 2000


class Slender(Method):
    """A search space of 6 x 16 x 12 shapes; nothing trains."""

    def search_space(self, trial):
        heads = trial.suggest_int("heads", 1, 6)
        ffn = trial.suggest_int("ffn", 96, 1536, step=96)
        rank = trial.suggest_int("rank", 32, 384, step=32)
        return f"h{heads}-f{ffn}-r{rank}"


class Tiny(Method):
    """Three shapes, and a parameter that only one kind of them has."""

    def search_space(self, trial):
        if trial.suggest_categorical("kind", ["whole", "cut"]) == "whole":
            return "whole"
        return f"cut-{trial.suggest_int('layers', 1, 2)}"


class Clashing(Method):
    def search_space(self, trial):
        return str(trial.suggest_int("flops", 1, 6))


def settings(folder: Path, method: type[Method] = Slender, **study: object) -> Settings:
    study = {"method": METHOD, "tasks": [TASK], "generations": 3, "population": 8} | study
    contestants = {
        METHOD: {"method": f"{__name__}:{method.__name__}"},
        "teacher": {"method": f"{__name__}:Slender"},
    }
    values = {"profile": "p", "results": str(folder), "tasks": study["tasks"], "seeds": [3, 4], "studies": [study]}
    return check(values | {"backbone": {"name": "none"}, "contestants": contestants}, "test")


def formula(variant: str) -> dict[str, float]:
    """A score that grows with what is kept, best where it is kept evenly; costs that grow with it too."""
    heads, ffn, rank = (int(part[1:]) for part in variant.split("-"))
    kept = np.array([heads / 6, ffn / 1536, rank / 384])
    flops, parameters = 1e6 * (heads * 64 + ffn), 1000 * rank + 3000 * heads + 20 * ffn
    score = round(EXAMPLES * float(1 - np.exp(-3 * kept.min()))) / EXAMPLES
    return {"score": score, "flops": float(2 * (flops // 2)), "parameters": parameters}


def run(of: Settings, key: RunKey, values: dict[str, float] | None = None) -> None:
    """What `costeff run` leaves of a run, as far as a study reads it; its first exit, always right, would be seen."""
    values = formula(key.variant) if values is None else values
    labels, logits = np.arange(EXAMPLES) % 2, {}
    for split, score in {"calibration": values["score"], "validation": values["score"] - 0.1}.items():
        right = np.arange(EXAMPLES) < round(score * EXAMPLES)
        logits[split] = np.stack([np.eye(2)[labels], np.eye(2)[np.where(right, labels, 1 - labels)]])
    leave(of, key, labels, logits, values)


def leave(of: Settings, key: RunKey, labels: np.ndarray, logits: dict[str, np.ndarray], values: dict) -> None:
    """The artefacts of a run: traces of two exits, the costs of the last, and that it went well."""
    folder, count = run_folder(of, key), len(labels)
    for split, both in logits.items():
        trace = Trace(np.arange(count), labels, np.full(count, 8), None, both.astype(np.float32))
        trace.save(folder / f"trace-{split}.parquet")
    nothing = Fraction(0)
    costs = [(Fraction(1), nothing, nothing), (Fraction(values["flops"]) / 2, nothing, nothing)]
    Costs(int(values["parameters"]), 1, (1, 2), tuple(costs)).save(folder / "costs.json")
    write_json(folder / "run.json", {"status": "ok", "reason": ""})


def fail(of: Settings, key: RunKey) -> None:
    write_json(run_folder(of, key) / "run.json", {"status": "failed", "reason": "the loss is not finite"})


def whole(of: Settings, trial: Callable[[Settings, RunKey], None] = run, first: int = 0) -> pd.DataFrame:
    """A study from generation `first` to its end."""
    for generation in range(first, of.studies[0].generations):
        ratios.ask(of, TASK, METHOD, generation)
        for key in ratios.trial_keys(of, TASK, METHOD, generation):
            trial(of, key)
        ratios.tell(of, TASK, METHOD, generation)
    return ratios.finish(of, TASK, METHOD)


def contents(of: Settings) -> dict[str, bytes]:
    folder = ratios.trials_file(of, TASK, METHOD).parent
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def variants(trials: Iterable[ratios.DrawnTrial]) -> list[str]:
    return [trial.variant for trial in trials]


@pytest.mark.parametrize("sampler", ["nsgaii", "tpe", "random"])
def test_two_studies_from_scratch_are_the_same_bytes(tmp_path, sampler):
    studies = [settings(tmp_path / name, sampler=sampler) for name in ("one", "two")]
    trials = [whole(study) for study in studies]
    assert contents(studies[0]) == contents(studies[1])
    assert {"trials.parquet", "generation-2.json", "history-2.parquet"} <= contents(studies[0]).keys()
    assert len(trials[0]) == trials[0]["variant"].nunique() == 24
    other = whole(settings(tmp_path / "other", sampler=sampler, seed=7))
    assert set(other["variant"]) != set(trials[0]["variant"])


def test_a_study_killed_after_half_its_trials_goes_on_to_the_same_bytes(tmp_path):
    through, killed = settings(tmp_path / "through"), settings(tmp_path / "killed")
    whole(through)
    ratios.ask(killed, TASK, METHOD, 0)
    keys = ratios.trial_keys(killed, TASK, METHOD, 0)
    for key in keys:
        run(killed, key)
    ratios.tell(killed, TASK, METHOD, 0)
    ratios.ask(killed, TASK, METHOD, 1)
    half = ratios.trial_keys(killed, TASK, METHOD, 1)[:4]
    for key in half:
        run(killed, key)
    with pytest.raises(UserError, match=r"run\.json"):
        ratios.tell(killed, TASK, METHOD, 1)
    whole(killed, lambda of, key: None if key in half else run(of, key), first=1)
    assert contents(killed) == contents(through)
    before = contents(killed)
    ratios.finish(killed, TASK, METHOD)
    assert contents(killed) == before


@pytest.mark.parametrize("sampler", ["nsgaii", "tpe"])
def test_a_generation_is_drawn_from_the_results_of_those_before(tmp_path, sampler):
    """Where few heads win, the next generations have few heads; where many win, many."""
    heads = {}
    for wanted in (1, 6):
        of = settings(tmp_path / str(wanted), sampler=sampler, generations=4, population=10)

        def score_all(of: Settings, key: RunKey, wanted: int = wanted) -> None:
            distance = abs(int(key.variant[1]) - wanted)
            run(of, key, {"score": 1 - 0.1 * distance, "flops": 1.0 + distance, "parameters": 5.0 + distance})

        trials = whole(of, score_all)
        first, late = trials[trials["generation"] == 0], trials[trials["generation"] >= 2]
        assert (late["heads"] - wanted).abs().mean() < (first["heads"] - wanted).abs().mean() - 0.5
        heads[wanted] = trials
    same = heads[1]["variant"] == heads[6]["variant"]
    assert same[heads[1]["generation"] == 0].all()
    assert not same[heads[1]["generation"] == 1].all()


@pytest.mark.parametrize("sampler", ["nsgaii", "tpe", "random"])
def test_a_failed_trial_is_a_row_with_its_reason_and_the_study_goes_on(tmp_path, sampler):
    of = settings(tmp_path, sampler=sampler)

    def some_fail(of: Settings, key: RunKey) -> None:
        (fail if key.variant[1] in "135" else run)(of, key)

    trials = whole(of, some_fail)
    failed = trials[trials["status"] == "failed"]
    assert len(trials) == 24 and 0 < len(failed) < 24
    assert set(failed["reason"]) == {"the loss is not finite"} and failed["score"].isna().all()
    assert failed["heads"].isin([1, 3, 5]).all() and not failed["pareto"].any()


@pytest.mark.parametrize("survivors", [0, 1])
def test_nsgaii_continues_after_a_generation_with_almost_no_survivor(tmp_path, survivors):
    of = settings(tmp_path, population=4)
    ratios.ask(of, TASK, METHOD, 0)
    for rank, key in enumerate(ratios.trial_keys(of, TASK, METHOD, 0)):
        (run if rank < survivors else fail)(of, key)
    ratios.tell(of, TASK, METHOD, 0)
    trials = whole(of, first=1)
    assert (trials["status"] == "ok").sum() == survivors + 8


def test_an_undefined_score_is_a_failure(tmp_path):
    of = settings(tmp_path, generations=1, tasks=["stsb"])
    ratios.ask(of, "stsb", METHOD, 0)
    nowhere = dict.fromkeys(("calibration", "validation"), np.full((2, 9, 1), np.nan))
    for key in ratios.trial_keys(of, "stsb", METHOD, 0):
        leave(of, key, np.linspace(0, 5, 9, dtype=np.float32), nowhere, {"flops": 1.0, "parameters": 1.0})
    trials = ratios.tell(of, "stsb", METHOD, 0)
    assert (trials["status"] == "failed").all() and trials["reason"].str.contains("calibration is not defined").all()


def test_trials_are_judged_at_full_depth_on_the_selection_split(tmp_path):
    trials = whole(settings(tmp_path))
    for row in trials.to_dict("records"):
        expected = formula(row["variant"])
        assert {name: row[name] for name in expected} == expected
        assert row["validation_score"] == pytest.approx(expected["score"] - 0.1)
        assert row["variant"] == f"h{row['heads']}-f{row['ffn']}-r{row['rank']}"


def test_pareto_marks_the_trials_that_none_dominates(tmp_path):
    trials = whole(settings(tmp_path))
    costs = trials[["score", "flops", "parameters"]].to_numpy() * [-1, 1, 1]
    dominated = [any((other <= own).all() and (other < own).any() for other in costs) for own in costs]
    assert trials["pareto"].tolist() == [not it for it in dominated]


def test_trials_run_with_the_first_seed_of_the_task(tmp_path):
    of = settings(tmp_path)
    asked = ratios.ask(of, TASK, METHOD, 0)
    keys = ratios.trial_keys(of, TASK, METHOD, 0)
    assert keys == [RunKey(TASK, METHOD, variant, 3) for variant in variants(asked)]


def test_a_small_space_with_a_conditional_parameter_is_tried_whole(tmp_path):
    """With fewer shapes than trials some are drawn again; whole numbers survive a column with gaps."""
    of = settings(tmp_path, Tiny, population=5)
    trials = whole(of, lambda of, key: run(of, key, {"score": 0.5, "flops": 1.0, "parameters": 1.0}))
    assert len(trials) == 15 and set(trials["variant"]) == {"whole", "cut-1", "cut-2"}
    history = pd.read_parquet(ratios.history_file(of, TASK, METHOD, 2))
    for row, trial in zip(trials.to_dict("records"), ratios.replay(history).trials, strict=True):
        assert trial.params["kind"] == row["kind"] and trial.user_attrs["variant"] == row["variant"]
        assert ("layers" in trial.params) == (row["kind"] == "cut")
        assert isinstance(trial.params.get("layers", 1), int)


def test_impossible_input_is_refused_in_one_line(tmp_path):
    of = settings(tmp_path)
    with pytest.raises(UserError, match="costeff sweep tell sst2 slender --generation 0"):
        ratios.ask(of, TASK, METHOD, 1)
    with pytest.raises(UserError, match="the last one of the study of slender is 2"):
        ratios.ask(of, TASK, METHOD, 3)
    with pytest.raises(UserError, match="0 studies of slender on rte"):
        ratios.ask(of, "rte", METHOD, 0)
    with pytest.raises(UserError, match="needs at least 2"):
        settings(tmp_path, population=1)
    with pytest.raises(UserError, match="flops"):
        ratios.ask(settings(tmp_path, Clashing), TASK, METHOD, 0)


def test_a_longer_study_goes_on_from_a_shorter_one(tmp_path):
    short, long = settings(tmp_path / "short", generations=2), settings(tmp_path / "long")
    whole(short)
    whole(long)
    shutil.copytree(tmp_path / "short", tmp_path / "more")
    more = settings(tmp_path / "more")
    whole(more, first=2)
    assert contents(more) == contents(long)
