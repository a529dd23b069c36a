"""The checks: each raises a Fault that says what was found, and has a remedy for whoever wrote the method."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.conformance.runs import Fault, Runs
from bench.encoder.early import engine
from bench.exit_policies.deciding import never, rule
from bench.exit_policies.policies import ours, replay, replay_many
from bench.measuring.recording import record
from bench.method import check_variants
from bench.store import RunKey, state_folder
from bench.trace import Costs

EVERY_TASK = ("sst2", "mnli", "stsb")
"""One text in two classes, a pair in three, a pair with a score."""
_CLOSE = 1e-5
_ROUNDED = 1e-4
"""The deployed form sums in another order: 3e-5 was seen on logits of a trained model, in float32."""
_LENGTHS = (3, 20, 64)
_EXAMPLES = 40


def _hold(true: bool | np.bool_, why: str) -> None:
    if not true:
        raise Fault(why)


def set_up(runs: Runs, key: RunKey) -> None:
    method = runs.method(key)
    check_variants(method)
    method.check()
    for need in method.needed(key):
        known = ", ".join(runs.settings.contestants)
        _hold(need.method in runs.settings.contestants, f"it needs {need.method}, which is none of {known}")
        accepted = runs.method(need).accepts(need.variant)
        _hold(accepted, f"it needs {need.method} {need.variant}, a variant that {need.method} does not have")
    try:
        json.dumps(method.asked(key.variant))
    except (TypeError, ValueError) as error:
        raise Fault(f"`asked` returns what is no plain value: {error}") from None
    _hold(isinstance(method.label(key.variant), str), "`label` returns no text")
    policy = method.rule()
    _hold(policy.name == "none" or policy.exit_start >= 1, f"exit_start is {policy.exit_start}")


def whole_run(runs: Runs, key: RunKey) -> None:
    folder, splits = runs(key), runs.labelled(key.task)
    wanted = {"costs.json", "model", "run.json", *(f"trace-{split}.parquet" for split in splits)}
    missing = wanted - {path.name for path in folder.iterdir()}
    _hold(not missing, f"its folder lacks {', '.join(sorted(missing))}")
    _hold(runs.facts(key)["status"] == "ok", "run.json does not say that it ended well")
    _hold(not state_folder(runs.settings, key).exists(), "what a killed run would go on from was left behind")
    trace = runs.trace(key)
    _hold(np.isfinite(trace.logits).all(), "some of its logits are not finite numbers")


def saved_model(runs: Runs, key: RunKey) -> None:
    kept = runs.trace(key)
    again = record(runs.model(key), runs.splits(key.task)["validation"], runs.settings.training.eval_batch_size)
    _hold(np.array_equal(again.logits, kept.logits), f"logits differ by up to {_most(again.logits, kept.logits):.2g}")
    one, other = (np.zeros(0) if each is None else each for each in (again.signal, kept.signal))
    _hold(np.array_equal(one, other), f"signals differ by up to {_most(one, other):.2g}")


def costs(runs: Runs, key: RunKey) -> None:
    model, counted = runs.model(key), Costs.load(runs(key) / "costs.json")
    for length in _LENGTHS:
        found = [int(counted.macs(e, length)) for e in range(len(counted.layers))]
        stated = list(model.exit_macs(length))
        _hold(found == stated, f"at {length} tokens {found} multiply-adds were counted, and its shape has {stated}")
    _hold(sorted(found) == found, f"a later exit is cheaper than an earlier one: {found} multiply-adds")


def batch_size(runs: Runs, key: RunKey) -> None:
    model, examples = runs.model(key), runs.splits(key.task)["validation"].take(range(_EXAMPLES))
    one, many = (record(model, examples, size).logits for size in (1, 32))
    close = np.allclose(one, many, atol=_CLOSE, rtol=_CLOSE)
    _hold(close, f"alone and in a batch of 32 answers differ by {_most(one, many):.2g}")


def looks_back(runs: Runs, key: RunKey) -> None:
    policy, trace = runs.rule(key), runs.trace(key)
    whole = runs.statistic(key)
    shape = (len(trace.logits), len(trace.idx))
    _hold(np.shape(whole) == shape, f"its statistic has the shape {np.shape(whole)}, not [exits, examples] {shape}")
    for e in range(policy.earliest, len(whole)):
        signal = None if trace.signal is None else trace.signal[: e + 1]
        so_far = policy.statistic(trace.logits[: e + 1], signal)[e]
        _hold(np.array_equal(so_far, whole[e]), f"its statistic at exit {e + 1} depends on later exits")


def threshold(runs: Runs, key: RunKey) -> None:
    policy, statistic, thresholds = runs.rule(key), runs.statistic(key), runs.thresholds(key)
    left, last = replay_many(policy, statistic, thresholds), len(statistic) - 1
    _hold((np.diff(left, axis=0) >= 0).all(), "a stricter threshold lets some examples leave earlier")
    _hold(
        (left[-1] == last).all(),
        f"at the strictest threshold {100 * (left[-1] < last).mean():.0f} % of the examples leave early",
    )
    if policy.name == "patience" or not ours(policy):  # its loosest may still ask for something
        _hold(left[0].min() < last or policy.earliest >= last, "at the loosest threshold nobody leaves early")
    else:
        _hold((left[0] == policy.earliest).all(), "at the loosest threshold some stay beyond the first exit allowed")


def points_in_order(runs: Runs, key: RunKey) -> None:
    points, splits = runs.points(key), runs.labelled(key.task)
    _hold(set(points["split"]) == splits, f"there are points of {', '.join(sorted(set(points['split'])))} alone")
    _hold((points["kind"] == "static").sum() == len(splits), "full depth is not among its points")
    of_run = {"task": key.task, "method": key.method, "variant": key.variant, "seed": key.seed}
    _hold((points[list(of_run)] == pd.Series(of_run)).all(axis=None), "its points carry another run's name")
    if runs.rule(key).name == "none":
        return
    for name, split in points.groupby("split"):
        uniform = split[split["kind"] == "uniform"].sort_values("point")
        static = split[split["kind"] == "static"].iloc[0]
        if runs.rule(key).earliest >= len(static["exits"]) - 1:  # two predictions to compare, and two exits: no choice
            _hold(uniform.empty, f"{name}: points of a rule that lets nobody leave early")
            continue
        _hold((uniform["policy"] == runs.rule(key).name).all(), f"{name}: points of another rule")
        _hold(uniform["flops"].is_monotonic_increasing, f"{name}: a stricter threshold costs less")
        _hold((uniform["flops"] <= static["flops"] * (1 + 1e-9)).all(), f"{name}: to leave early costs more")
        columns = ["flops", "score", "mean_exit"]
        strictest, full = (row[columns].to_numpy(dtype=np.float64) for row in (uniform.iloc[-1], static))
        ends = np.allclose(strictest, full, rtol=1e-9, equal_nan=True)
        _hold(ends, f"{name}: the strictest threshold is not full depth")


def engine_agrees(runs: Runs, key: RunKey) -> None:
    trace, model, examples = runs.trace(key), runs.model(key), runs.splits(key.task)["validation"]
    full = engine.run(model, examples, never, 32).logits
    _hold(
        np.allclose(full, trace.logits[-1], atol=_ROUNDED, rtol=_ROUNDED),
        f"its deployed form answers otherwise, by up to {_most(full, trace.logits[-1]):.2g}",
    )
    if runs.rule(key).name == "none":
        return
    policy, thresholds, statistic = runs.rule(key), runs.thresholds(key), runs.statistic(key)
    vectors = runs.points(key).query("kind == 'per_exit' and split == 'validation'")["thresholds"]
    for value in map(np.asarray, [*thresholds[[0, len(thresholds) // 3, len(thresholds) // 2, -1]], *vectors.iloc[:1]]):
        expected = replay(policy, statistic, value)
        # Who lies on the threshold to within rounding may go either way.
        near = 0.0 if policy.name == "patience" else 1e-5
        sure = replay(policy, statistic, value * (1 - near)) == replay(policy, statistic, value * (1 + near))
        _hold(sure.mean() > 0.9, f"at the threshold {value} one example in ten lies on the threshold itself")
        answers = trace.logits[expected, np.arange(len(examples))]
        for size in (1, 32):
            found = engine.run(model, examples, rule(policy, value), size)
            other = (found.exits[sure] != expected[sure]).mean()
            _hold(
                not other,
                f"{100 * other:.0f} % of the examples leave elsewhere than replayed (threshold {value}, batch {size})",
            )
            _hold(
                np.allclose(found.logits[sure], answers[sure], atol=_ROUNDED, rtol=_ROUNDED),
                "they leave with another answer",
            )


def learns(runs: Runs, key: RunKey) -> None:
    points = runs.points(key).query("kind == 'static' and split == 'validation'")
    labels, score = runs.trace(key).labels, points["score"].iloc[0]
    control = np.bincount(labels).max() / len(labels)
    _hold(score > control + 0.1, f"it scores {score:.2f}, and answering always the same {control:.2f}")


def same_again(first: Runs, second: Runs, key: RunKey) -> None:
    """Two trainings with one seed."""
    one, other = first.trace(key), second.trace(key)
    _hold(np.array_equal(one.logits, other.logits), f"logits differ by up to {_most(one.logits, other.logits):.2g}")
    _hold(first.points(key).equals(second.points(key)), "its points differ")


def _most(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max(initial=0)) if one.shape == other.shape else float("inf")


@dataclass(frozen=True)
class Check:
    """Something every method owes; `test` is given the runs and one of them."""

    title: str
    test: Callable[..., None]
    remedy: str
    tasks: Sequence[str] = EVERY_TASK
    exits: bool = False
    """Only where the method has an exit rule."""
    required: bool = False
    """No later check is run on what fails this one."""
    twice: bool = False
    """`test` is given runs made a second time, too."""


CHECKS = (
    Check("it can be set up", set_up, "see bench.method.Method for what each of its methods returns", required=True),
    Check(
        "a run is whole",
        whole_run,
        "the traceback above says where; `train` returns an Encoder or a Cascade",
        required=True,
    ),
    Check(
        "the saved model gives the kept trace",
        saved_model,
        "keep all that the answer depends on in the model's parameters, buffers or configuration; a model class of "
        "your own is registered with transformers' Auto classes, as in bench/encoder/__init__.py",
    ),
    Check(
        "its costs are those of its shape",
        costs,
        "write `exit_macs` of a model class of your own so that it counts every product of matrices in `advance`",
    ),
    Check("batch size changes nothing", batch_size, "let no example's answer depend on others, or on padding"),
    Check("the exit rule looks only back", looks_back, "row e of `statistic` may use exits 0..e alone", exits=True),
    Check(
        "the threshold goes from early to full depth",
        threshold,
        "`thresholds` goes from the loosest to full depth for all examples, and `leaves` compares in that sense",
        exits=True,
    ),
    Check(
        "its points are whole, and cost more as the threshold tightens",
        points_in_order,
        "`thresholds` gives the loosest first and full depth for everyone last",
    ),
    Check(
        "the engine decides as the replay",
        engine_agrees,
        "the engine runs the deployed form of an Encoder (bench/encoder/early/deployed.py): what your model does "
        "beside it, the engine does not",
    ),
    Check(
        "the same seed gives the same points",
        same_again,
        "draw from torch's, NumPy's or Python's global generator, or from one seeded with `context.seed`",
        tasks=("sst2",),
        twice=True,
    ),
    Check(
        "it learns",
        learns,
        "this encoder is tiny and random, and rates for a pre-trained one are too low for it: give larger ones, "
        "such as --options '{epochs: 12, learning_rate: 3.0e-3}'",
        tasks=("sst2",),
    ),
)
