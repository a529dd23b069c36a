"""The conformance checks. Each raises a `Fault` with the reason if a method does not meet a requirement."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.conformance.runs import Fault, Runs
from bench.encoder.early import engine
from bench.exit_policies.deciding import never, rule
from bench.exit_policies.policies import is_builtin_policy, replay, replay_many
from bench.measuring.recording import record
from bench.method import check_variants
from bench.store import RunKey, state_folder
from bench.trace import Costs

EVERY_TASK = ("sst2", "mnli", "stsb")
"""A single sentence with two classes, a pair with three classes, and a pair with a score."""
_CLOSE = 1e-5
_ROUNDED = 1e-4
"""Tolerance of the deployed form, which sums in another order: logits of a trained model differ by 3e-5 in float32."""
_LENGTHS = (3, 20, 64)
_EXAMPLES = 40


def _hold(true: bool | np.bool_, why: str) -> None:
    if not true:
        raise Fault(why)


def set_up(runs: Runs, key: RunKey) -> None:
    """Check the options, variants and needs of a method before anything trains."""
    method = runs.method(key)
    check_variants(method)
    method.check()
    for need in method.needed(key):
        known = ", ".join(runs.settings.contestants)
        _hold(need.method in runs.settings.contestants, f"it needs {need.method}, which is none of {known}")
        accepted = runs.method(need).accepts(need.variant)
        _hold(accepted, f"it needs {need.method} {need.variant}, a variant that {need.method} does not have")
    try:
        json.dumps(method.relevant_options(key.variant))
    except (TypeError, ValueError) as error:
        raise Fault(f"`relevant_options` returns a value that JSON cannot hold: {error}") from None
    _hold(isinstance(method.label(key.variant), str), "`label` does not return text")
    policy = method.exit_policy()
    _hold(policy.name == "none" or policy.exit_start >= 1, f"exit_start is {policy.exit_start}")


def whole_run(runs: Runs, key: RunKey) -> None:
    """Check that a run succeeds and writes all its files."""
    folder, splits = runs(key), runs.labelled(key.task)
    wanted = {"costs.json", "model", "run.json", *(f"trace-{split}.parquet" for split in splits)}
    missing = wanted - {path.name for path in folder.iterdir()}
    _hold(not missing, f"its folder lacks {', '.join(sorted(missing))}")
    _hold(runs.facts(key)["status"] == "ok", "run.json does not record a success")
    _hold(not state_folder(runs.settings, key).exists(), "its checkpoints of training were not removed")
    trace = runs.trace(key)
    _hold(np.isfinite(trace.logits).all(), "some of its logits are not finite numbers")


def saved_model(runs: Runs, key: RunKey) -> None:
    """Check that the saved model reproduces the trace bit for bit."""
    kept = runs.trace(key)
    again = record(runs.model(key), runs.splits(key.task)["validation"], runs.settings.training.eval_batch_size)
    _hold(np.array_equal(again.logits, kept.logits), f"logits differ by up to {_most(again.logits, kept.logits):.2g}")
    one, other = (np.zeros(0) if each is None else each for each in (again.signal, kept.signal))
    _hold(np.array_equal(one, other), f"signals differ by up to {_most(one, other):.2g}")


def costs(runs: Runs, key: RunKey) -> None:
    """Check that the counted multiply-adds equal `exit_macs` and increase from exit to exit."""
    model, counted = runs.model(key), Costs.load(runs(key) / "costs.json")
    for length in _LENGTHS:
        found = [int(counted.macs(e, length)) for e in range(len(counted.layers))]
        stated = list(model.exit_macs(length))
        _hold(found == stated, f"at {length} tokens {found} multiply-adds were counted, and its shape has {stated}")
    _hold(sorted(found) == found, f"a later exit is cheaper than an earlier one: {found} multiply-adds")


def batch_size(runs: Runs, key: RunKey) -> None:
    """Check that logits do not depend on the batch size."""
    model, examples = runs.model(key), runs.splits(key.task)["validation"].take(range(_EXAMPLES))
    one, many = (record(model, examples, size).logits for size in (1, 32))
    close = np.allclose(one, many, atol=_CLOSE, rtol=_CLOSE)
    _hold(close, f"alone and in a batch of 32 answers differ by {_most(one, many):.2g}")


def looks_back(runs: Runs, key: RunKey) -> None:
    """Check that the statistic of the exit policy at an exit depends neither on later exits nor on other examples."""
    policy, trace = runs.rule(key), runs.trace(key)
    whole = runs.statistic(key)
    shape = (len(trace.logits), len(trace.idx))
    _hold(np.shape(whole) == shape, f"its statistic has the shape {np.shape(whole)}, not [exits, examples] {shape}")
    for e in range(policy.earliest, len(whole)):
        signal = None if trace.signal is None else trace.signal[: e + 1]
        so_far = policy.statistic(trace.logits[: e + 1], signal)[e]
        _hold(np.array_equal(so_far, whole[e]), f"its statistic at exit {e + 1} depends on later exits")
    signal = None if trace.signal is None else trace.signal[:, :1]
    alone = policy.statistic(trace.logits[:, :1], signal)[policy.earliest :]
    same = np.allclose(alone, whole[policy.earliest :, :1], atol=_CLOSE, rtol=_CLOSE)
    _hold(same, "its statistic of an example depends on other examples")


def threshold(runs: Runs, key: RunKey) -> None:
    """Check that stricter thresholds never give earlier exits, and that the strictest one is full depth."""
    policy, statistic, thresholds = runs.rule(key), runs.statistic(key), runs.thresholds(key)
    exits, last = replay_many(policy, statistic, thresholds), len(statistic) - 1
    _hold((np.diff(exits, axis=0) >= 0).all(), "at a stricter threshold some examples exit earlier")
    _hold(
        (exits[-1] == last).all(),
        f"at the strictest threshold {100 * (exits[-1] < last).mean():.0f} % of the examples exit early",
    )
    # The loosest threshold of patience or of an own policy may not be met at the first exit.
    if policy.name == "patience" or not is_builtin_policy(policy):
        _hold(exits[0].min() < last or policy.earliest >= last, "at the loosest threshold no example exits early")
    else:
        first = min(policy.earliest, last)  # few exits may allow no early exit
        _hold((exits[0] == first).all(), "at the loosest threshold some examples do not exit at the first exit")


def points_in_order(runs: Runs, key: RunKey) -> None:
    """Check that the operating points are complete, and that their cost increases as the threshold gets stricter."""
    points, splits = runs.points(key), runs.labelled(key.task)
    _hold(set(points["split"]) == splits, f"there are only points of {', '.join(sorted(set(points['split'])))}")
    _hold((points["kind"] == "static").sum() == len(splits), "full depth is not among its points")
    of_run = {"task": key.task, "method": key.method, "variant": key.variant, "seed": key.seed}
    _hold((points[list(of_run)] == pd.Series(of_run)).all(axis=None), "its points have the name of another run")
    if runs.rule(key).name == "none":
        return
    for name, split in points.groupby("split"):
        uniform = split[split["kind"] == "uniform"].sort_values("point")
        static = split[split["kind"] == "static"].iloc[0]
        if (
            runs.rule(key).earliest >= len(static["exits"]) - 1
        ):  # e.g. agreement with two exits: no early exit is possible
            _hold(uniform.empty, f"{name}: points of an exit policy that allows no early exit")
            continue
        _hold((uniform["policy"] == runs.rule(key).name).all(), f"{name}: points of another exit policy")
        _hold(uniform["flops"].is_monotonic_increasing, f"{name}: a stricter threshold costs less")
        _hold(
            (uniform["flops"] <= static["flops"] * (1 + 1e-9)).all(),
            f"{name}: an early exit costs more than full depth",
        )
        columns = ["flops", "score", "mean_exit"]
        strictest, full = (row[columns].to_numpy(dtype=np.float64) for row in (uniform.iloc[-1], static))
        ends = np.allclose(strictest, full, rtol=1e-9, equal_nan=True)
        _hold(ends, f"{name}: the strictest threshold is not full depth")


def engine_agrees(runs: Runs, key: RunKey) -> None:
    """Check that the engine, which stops computing at an exit, gives the exits and answers of the replay."""
    trace, model, examples = runs.trace(key), runs.model(key), runs.splits(key.task)["validation"]
    full = engine.run(model, examples, never, 32).logits
    _hold(
        np.allclose(full, trace.logits[-1], atol=_ROUNDED, rtol=_ROUNDED),
        f"the logits of its deployed form differ by up to {_most(full, trace.logits[-1]):.2g}",
    )
    if runs.rule(key).name == "none":
        return
    policy, thresholds, statistic = runs.rule(key), runs.thresholds(key), runs.statistic(key)
    vectors = runs.points(key).query("kind == 'per_exit' and split == 'validation'")["thresholds"]
    for value in map(np.asarray, [*thresholds[[0, len(thresholds) // 3, len(thresholds) // 2, -1]], *vectors.iloc[:1]]):
        expected = replay(policy, statistic, value)
        # Examples within rounding error of the threshold are not compared.
        near = 0.0 if np.array_equal(statistic, np.round(statistic)) else 1e-5  # counts are exact
        sure = replay(policy, statistic, value * (1 - near)) == replay(policy, statistic, value * (1 + near))
        _hold(sure.mean() > 0.9, f"at least 10 % of the examples are within rounding error of the threshold {value}")
        answers = trace.logits[expected, np.arange(len(examples))]
        for size in (1, 32):
            found = engine.run(model, examples, rule(policy, value), size)
            other = (found.exits[sure] != expected[sure]).mean()
            _hold(
                not other,
                f"{100 * other:.0f} % of the exits differ from those of the replay (threshold {value}, batch {size})",
            )
            _hold(
                np.allclose(found.logits[sure], answers[sure], atol=_ROUNDED, rtol=_ROUNDED),
                "the answers at these exits differ from those of the replay",
            )


def learns(runs: Runs, key: RunKey) -> None:
    """Check that the score at full depth exceeds the constant baseline by 0.1."""
    points = runs.points(key).query("kind == 'static' and split == 'validation'")
    labels, score = runs.trace(key).labels, points["score"].iloc[0]
    control = np.bincount(labels).max() / len(labels)
    _hold(score > control + 0.1, f"it scores {score:.2f}, and the constant baseline {control:.2f}")


def same_again(first: Runs, second: Runs, key: RunKey) -> None:
    """Check that two trainings with the same seed give the same trace and operating points."""
    one, other = first.trace(key), second.trace(key)
    _hold(np.array_equal(one.logits, other.logits), f"logits differ by up to {_most(one.logits, other.logits):.2g}")
    _hold(first.points(key).equals(second.points(key)), "its points differ")


def _most(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max(initial=0)) if one.shape == other.shape else float("inf")


@dataclass(frozen=True)
class Check:
    """A requirement of every method.

    Attributes:
        title: The requirement in a few words.
        test: Function of the runs and the key of one of them that raises `Fault`.
        remedy: Advice for the author of a method that fails.
        tasks: Tasks on which the check is made.
        exits: Whether the check only applies to methods with an exit policy.
        required: Whether no later check is made on a run that fails this one.
        twice: Whether `test` also takes runs that were made a second time.
    """

    title: str
    test: Callable[..., None]
    remedy: str
    tasks: Sequence[str] = EVERY_TASK
    exits: bool = False
    required: bool = False
    twice: bool = False


CHECKS = (
    Check("it can be set up", set_up, "see bench.method.Method for what each of its methods returns", required=True),
    Check(
        "a run is complete",
        whole_run,
        "see the traceback above; `train` returns an Encoder or a Cascade",
        required=True,
    ),
    Check(
        "the saved model reproduces its trace",
        saved_model,
        "keep everything that the logits depend on in the model's parameters, buffers or configuration; register a "
        "model class of your own with transformers' Auto classes, as in bench/encoder/__init__.py",
    ),
    Check(
        "its costs are those of its shape",
        costs,
        "make `exit_macs` of a model class of your own count every matrix product in `advance`",
    ),
    Check(
        "logits do not depend on the batch size",
        batch_size,
        "make the logits of an example independent of other examples and of padding",
    ),
    Check(
        "the exit policy uses no later exits and no other examples",
        looks_back,
        "an entry [e, i] of `statistic` may only use the exits 0 to e of example i",
        exits=True,
    ),
    Check(
        "thresholds range from early exits to full depth",
        threshold,
        "order `thresholds` from the loosest to full depth for all examples; `decide` compares in this direction",
        exits=True,
    ),
    Check(
        "its points are complete, and stricter thresholds cost more",
        points_in_order,
        "order `thresholds` from the loosest to full depth for all examples",
    ),
    Check(
        "the engine agrees with the replay",
        engine_agrees,
        "the engine runs only the deployed form of an Encoder (bench/encoder/early/deployed.py); computations of your "
        "model outside of it have no effect there",
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
        "this encoder is tiny and has random weights, so it needs larger learning rates than a pretrained one, "
        "such as --options '{epochs: 12, learning_rate: 3.0e-3}'",
        tasks=("sst2",),
    ),
)
