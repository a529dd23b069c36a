"""Properties of estimates, intervals and corrected tests; a simulation checks their error rates."""

import importlib.util
import sys
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from bench.analysis.comparing.equivalence import classify_differences, holm
from bench.analysis.comparing.estimates import Estimate, average, estimate_mean, half_width, tails
from bench.settings import Comparison

WORDS = {"better", "worse", "equal", "not decided"}
PLAIN = Comparison()


@pytest.fixture
def simulation(monkeypatch):
    """benchmarks/coverage.py, under a name that is not that of the package coverage."""
    file = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("interval_coverage", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # its data classes look it up there
    spec.loader.exec_module(module)
    return module


ESTIMATE = st.builds(
    Estimate,
    value=st.floats(-0.3, 0.3),
    seeds_variance=st.just(0.0) | st.floats(1e-8, 0.01),
    seeds_freedom=st.floats(1, 30),
    examples_variance=st.floats(1e-8, 0.01),
    examples_freedom=st.integers(20, 1000),
    seeds=st.integers(1, 5),
)
ESTIMATES = st.lists(st.none() | ESTIMATE, max_size=12)


@settings(max_examples=60, deadline=None)
@given(ESTIMATES)
def test_a_verdict_agrees_with_its_p_values_and_none_is_no_verdict(estimates):
    table = classify_differences(estimates, PLAIN)
    assert len(table) == len(estimates)
    for row, each in zip(table.itertuples(), estimates, strict=True):
        if each is None:
            assert row.verdict == "" and np.isnan(row.p) and np.isnan(row.p_equal)
        elif row.p_equal <= 0.05:
            assert row.verdict == "equal"
        elif row.p <= 0.05:
            assert row.verdict == ("better" if each.value > 0 else "worse")
        else:
            assert row.verdict == "not decided"
    made = [each for each in estimates if each is not None]
    np.testing.assert_array_equal(classify_differences(made, PLAIN)["p"], table.loc[table["verdict"] != "", "p"])


@settings(max_examples=60, deadline=None)
@given(ESTIMATE)
def test_a_single_verdict_agrees_with_its_interval(one):
    """Better or worse: the 95 % interval excludes 0. Equal: the 90 % interval lies within the margin."""
    row = classify_differences([one], PLAIN).iloc[0]
    if abs(abs(one.value) - one.half(0.95)) > 1e-6:
        assert (row["p"] <= 0.05) == (abs(one.value) > one.half(0.95))
    if abs(abs(one.value) + one.half(0.90) - 0.01) > 1e-6:
        assert (row["p_equal"] <= 0.05) == (abs(one.value) + one.half(0.90) < 0.01)


@settings(max_examples=60, deadline=None)
@given(ESTIMATE, st.floats(0.6, 0.9999))
def test_an_interval_stays_within_the_metric_and_grows_with_its_level(one, level):
    low, high = one.interval(level)
    assert -1 <= low <= one.value <= high <= 1
    assert one.half(level) <= one.half(1 - (1 - level) / 2)
    tail = tails([one.half(level)], [one])[0]
    assert tail == pytest.approx((1 - level) / 2, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(ESTIMATE, min_size=1, max_size=10), st.lists(ESTIMATE, max_size=10))
def test_more_comparisons_strengthen_no_verdict_and_other_families_do_not_matter(some, others):
    alone = classify_differences(some, PLAIN)
    together = classify_differences([*some, *others], PLAIN).iloc[: len(some)]
    apart = classify_differences([*some, *others], PLAIN, ["one"] * len(some) + ["other"] * len(others)).iloc[
        : len(some)
    ]
    for name in ("p", "p_equal"):
        assert (together[name] >= alone[name] - 1e-12).all()
        np.testing.assert_array_equal(apart[name], alone[name])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_rejects_exactly_where_its_own_level_does(raw):
    raw = np.array(raw)
    corrected, strict = holm(raw, 0.05)
    touching = np.isclose(raw, strict) | np.isclose(corrected, 0.05)
    assert ((corrected <= 0.05) == (raw <= strict))[~touching].all()
    assert (corrected <= np.minimum(raw * len(raw), 1) + 1e-12).all() and (corrected >= raw).all()


@settings(max_examples=40, deadline=None)
@given(ESTIMATE, st.integers(1, 9))
def test_the_average_of_equal_tasks_has_their_value_and_a_part_of_their_variance(one, count):
    made = average([one] * count)
    assert made.value == pytest.approx(one.value)
    assert made.seeds_variance == pytest.approx(one.seeds_variance / count)
    assert made.examples_variance == pytest.approx(one.examples_variance / count)
    if one.seeds_variance > 0:
        assert made.seeds_freedom == pytest.approx(one.seeds_freedom * count)


def test_the_typical_spread_of_tasks_bounds_the_degrees_of_freedom():
    quiet = [Estimate(0.0, 1e-4, 2, 1e-4, 999, 3, noise=noise) for noise in (100.0, 1.0, 1.0)]
    assert average(quiet).seeds_freedom == pytest.approx(2 * 102**2 / (100**2 + 2))


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_the_parts_add_up_to_the_variance_of_the_mean(seeds):
    """Over many draws the estimated variance is that of the mean over seeds, with the share of both counted once."""
    rng, examples = np.random.default_rng(seeds), 100
    values, parts = [], []
    for _ in range(1500):
        of_seed = rng.normal(scale=0.05 * (seeds > 1), size=(seeds, 1))
        answers = of_seed + rng.normal(scale=0.5, size=examples) + rng.normal(scale=0.5, size=(seeds, examples))
        drawn = rng.multinomial(examples, np.full(examples, 1 / examples), size=60) @ answers.T / examples
        made = estimate_mean(answers.mean(axis=1), drawn, examples)
        values.append(made.value)
        parts.append(made.seeds_variance + made.examples_variance)
    assert np.mean(parts) == pytest.approx(np.var(values), rel=0.15)


@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize(
    "shares", [(1.0,), (1.0,) * 9, (9.0, *(0.05,) * 8)], ids=["one task", "nine alike", "one of nine"]
)
@pytest.mark.parametrize("ratio", [0.3, 3.0, 30.0])
def test_intervals_cover_at_least_as_often_as_they_say(seeds, shares, ratio):
    """Normal parts of known variance, `ratio` of seeds to examples; also at the levels of many comparisons."""
    rng, repeats, models = np.random.default_rng(0), 3000, 8
    variance = ratio * np.array(shares) / np.mean(shares) / seeds
    of_seeds = variance * rng.chisquare(seeds - 1, (repeats, len(shares))) / (seeds - 1)
    noise = (variance * seeds * rng.chisquare(seeds - 1, (repeats, models, len(shares))) / (seeds - 1)).mean(axis=1)
    error = (rng.normal(size=(repeats, len(shares))) * np.sqrt(variance + 1)).mean(axis=1)
    made = [
        average([Estimate(0.0, v, seeds - 1, 1.0, 999, seeds, noise=n) for v, n in zip(*each, strict=True)])
        for each in zip(of_seeds, noise, strict=True)
    ]
    parts = np.array([each.parts for each in made]).T
    for level, slack in ((0.05, 0.012), (0.05 / 30, 0.0025)):
        assert (np.abs(error) > half_width(level / 2, *parts)).mean() <= level + slack


@pytest.mark.parametrize("seeds", [3, 5])
def test_wrong_verdicts_are_no_more_frequent_than_promised(simulation, seeds):
    """From simulated answers on: all pairs of six models, three of them `margin` below the others."""
    rng = np.random.default_rng(seeds)
    lower = simulation.apart(-0.02, 0.02)
    world = simulation.World(seeds, simulation.one(3, 0.02), (0.0,) * 3 + (lower,) * 3)
    margin = 100 * abs(world.truth(0, 5))
    rates = simulation.wrong(world, 60, rng, Comparison(margin=margin))
    assert rates["equal"] <= 0.15 and rates["better or worse"] <= 0.15  # 5 %, and what 60 repeats may add
    covered = simulation.coverage(world, 60, rng)[0.95]
    assert covered["chosen"] >= 0.87


def test_the_simulation_finds_differences_and_equality(simulation):
    rng = np.random.default_rng(5)
    world = simulation.World(5, (0.02,) * 3, (0.0, 0.0, simulation.apart(-0.15, 0.02)))
    truth = [world.truth(*pair) for pair in ((0, 1), (0, 2))]
    assert truth == pytest.approx([0.0, 0.15], abs=1e-9)
    found = [
        classify_differences(list(simulation.estimates(world.draw(rng)).values()), Comparison(margin=8.0))
        for _ in range(10)
    ]
    assert [table["verdict"].tolist() for table in found].count(["equal", "better", "better"]) >= 9
