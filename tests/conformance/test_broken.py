"""Each check of the conformance suite is seen to fail, on a method that is wrong in just that way."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bench.conformance import suite
from bench.conformance.checks import CHECKS, Check
from bench.conformance.runs import Runs
from bench.conformance.suite import Verdict, judge
from bench.errors import UserError

WRONG = {
    "NeedsNobody": "it can be set up",
    "NoVariants": "it can be set up",
    "NoPolicy": "it can be set up",
    "NoStatistic": "the exit policy uses no later exits and no other examples",
    "Raises": "a run is complete",
    "TrainsLonger": "a run is complete",
    "Unsaved": "the saved model reproduces its trace",
    "MoreThanItSays": "its costs are those of its shape",
    "DependsOnTheBatch": "logits do not depend on the batch size",
    "LooksAhead": "the exit policy uses no later exits and no other examples",
    "ReadsOthers": "the exit policy uses no later exits and no other examples",
    "ReadsNoSignal": "the exit policy uses no later exits and no other examples",
    "WrongWay": "thresholds range from early exits to full depth",
    "OtherEngine": "the engine agrees with the replay",
    "Unseeded": "the same seed gives the same points",
    "Idle": "it learns",
}
"""A class of `broken` -> the check that says what is wrong with it."""


@pytest.fixture(scope="session")
def verdicts(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Verdict]]:
    """`verdicts(name)`: the results of the suite for a class of `broken`, by the checks' titles; on one task."""

    def of(name: str) -> dict[str, Verdict]:
        home = tmp_path_factory.mktemp("broken")
        settings, (own,) = suite.settings_for(f"broken:{name}", {}, None, tiny_backbone, home / "first")
        data = settings.data.model_copy(update={"sketch": settings.data.sketch.model_copy(update={"train": 128})})
        settings = settings.model_copy(update={"data": data, "folder": Path(__file__).parent})
        first, second = Runs(settings), Runs(settings.model_copy(update={"results": home / "second"}))
        return {each.title: judge(each, first, second, own) for each in one_task()}

    return of


def one_task() -> list[Check]:
    return [replace(each, tasks=("sst2",)) for each in CHECKS]


@pytest.mark.parametrize("name", WRONG)
def test_the_fault_is_named(verdicts: Callable[[str], dict[str, Verdict]], name: str):
    found = verdicts(name)
    wrong = found[WRONG[name]]
    assert wrong.faults and wrong.line.startswith("FAILED ") and "What to do: " in wrong.line
    first = next(title for title, verdict in found.items() if verdict.faults)
    assert first == WRONG[name], "the first thing that is said is what is wrong"
    if name == "Raises":
        assert "KeyError: 'a fault of mine'" in wrong.line
        assert found["it learns"].line.startswith("not run ")


@pytest.mark.parametrize("name", ["NeedsNobody", "NoVariants", "NoPolicy", "NoStatistic", "Raises"])
def test_one_cause_is_reported_once(verdicts: Callable[[str], dict[str, Verdict]], name: str):
    found = verdicts(name)
    assert [title for title, verdict in found.items() if verdict.faults] == [WRONG[name]]
    for title, verdict in found.items():
        said = (
            verdict.line.startswith(("ok ", "FAILED "))
            or f'it depends on "{WRONG[name]}", which failed' in verdict.line
        )
        assert said, (title, verdict.line)
    assert not found["it learns"].runs


def test_every_check_fails_for_some_method():
    points = "its points are complete, and stricter thresholds cost more"  # WrongWay fails it too
    assert {each.title for each in CHECKS} - {points} == set(WRONG.values())


@pytest.mark.parametrize("name", ["Sound", "Votes"])
def test_a_sound_method_passes_all_checks(verdicts: Callable[[str], dict[str, Verdict]], name: str):
    found = verdicts(name)
    assert {title: verdict.faults for title, verdict in found.items() if verdict.faults and title != "it learns"} == {}


def test_thresholds_in_the_wrong_order_give_incomplete_points(verdicts: Callable[[str], dict[str, Verdict]]):
    assert verdicts("WrongWay")["its points are complete, and stricter thresholds cost more"].faults


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("nowhere:Mine", {}, "nowhere:Mine cannot be imported"),
        ("broken:Small", {}, "is not a bench.method.Method"),
        ("broken:Sound", {"epoch": 1}, "epoch: no such key"),
    ],
)
def test_an_impossible_trial_is_refused_in_one_line(
    tiny_backbone: Path, tmp_path: Path, method: str, options, said: str
):
    with pytest.raises(UserError, match=said):
        suite.settings_for(method, options, None, tiny_backbone, tmp_path)


def test_options_come_from_a_profile_and_are_changed_on_top(tiny_backbone: Path, tmp_path: Path):
    profile = tmp_path / "mine.yaml"
    profile.write_text(
        "extends: tiny\nprofile: mine\ncontestants: {own: {method: 'broken:Sound', options: {learning_rate: 0.5}}}\n"
    )
    settings, names = suite.settings_for("broken:Sound", {}, profile, tiny_backbone, tmp_path)
    assert names == ["own"] and settings.contestants["own"].options == {"learning_rate": 0.5}
    settings, _ = suite.settings_for("broken:Sound", {"learning_rate": 0.1}, profile, tiny_backbone, tmp_path)
    assert settings.contestants["own"].options == {"learning_rate": 0.1}
    assert settings.contestants["teacher"].options["epochs"] == 12, "the suite's own keep their tiny settings"
    with pytest.raises(UserError, match=r"no contestant is broken:Idle; there are"):
        suite.settings_for("broken:Idle", {}, profile, tiny_backbone, tmp_path)


def test_all_contestants_of_the_method_in_a_profile_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    profile = tmp_path / "mine.yaml"
    profile.write_text(
        "extends: tiny\nprofile: mine\ncontestants:\n  one: {method: 'broken:Sound'}\n"
        "  two: {like: one, options: {learning_rate: 0.1}}\n"
    )
    monkeypatch.setattr(suite, "CHECKS", one_task()[:1])
    found = [(verdict.title, verdict.faults) for verdict in suite.conform("broken:Sound", {}, profile)]
    assert found == [("one: it can be set up", ()), ("two: it can be set up", ())]
