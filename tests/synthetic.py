"""A small made-up results folder: plausible logits, replayed into points, in the real layout.

Deterministic by seed. Deeper exits are right more often, hard examples later than easy ones, narrower models
are cheaper and worse, so frontiers, budgets and intervals look like those of real runs.
"""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.metrics import constant, scores
from bench.analysis.roles import Roles
from bench.exit_policies.policies import policy_for, replay
from bench.tasks.catalogue import Task, task
from bench.trace import Costs, Trace

TASKS = ("cola", "mrpc", "stsb", "mnli", "rte", "wnli")
SPLITS = ("calibration", "validation", "test")
LAYERS, HIDDEN, HEAD = 6, 384, 32
ROLES = Roles(ablations={"costeff-no-ta": "costeff"})
FAILED = ("rte", "tinybert", "2", 1)
REASON = "CUDA out of memory: lower train.batch_size"


@dataclass(frozen=True)
class Contestant:
    method: str
    variant: str
    label: str
    policy: str
    exits: tuple[int, ...]
    width: float
    skill: float
    layers: int = LAYERS


CONTESTANTS = (
    Contestant("teacher", "base", "Teacher", "none", (6,), 1.0, 1.0),
    *(Contestant("first-layers", str(k), f"Cut at depth {k}", "none", (k,), 1.0, 0.9) for k in (1, 2, 3, 4, 5)),
    Contestant("costeff", "2x", "COST-EFF 2x", "entropy", (1, 2, 3, 4, 5, 6), 0.5, 0.97),
    Contestant("costeff", "4x", "COST-EFF 4x", "entropy", (1, 2, 3, 4, 5, 6), 0.25, 0.92),
    Contestant("costeff-no-ta", "2x", "COST-EFF 2x, no assistant", "entropy", (1, 2, 3, 4, 5, 6), 0.5, 0.88),
    Contestant("pabee", "base", "PABEE", "patience", (1, 2, 3, 4, 5, 6), 1.0, 0.95),
    Contestant("tinybert", "2", "TinyBERT-style (w/o DA), 2 layers", "none", (2,), 0.5, 0.9),
    Contestant("cascadebert", "2+6", "CascadeBERT-style 2+6", "confidence", (2, 8), 1.0, 0.95),
)


def deep_contestants(exits: int = 12) -> tuple[Contestant, ...]:
    """Twelve methods of `exits` layers beside the teacher, some of several variants: as large as a profile gets."""
    every, half = tuple(range(1, exits + 1)), exits // 2
    made = [
        ("teacher", "base", "Teacher", "none", (exits,), 1.0, 1.0),
        *(("first-layers", str(k), f"Cut at depth {k}", "none", (k,), 1.0, 0.9) for k in range(2, exits, 2)),
        ("teacher-long", "base", "Fine-tuned longer", "none", (exits,), 1.0, 1.02),
        ("assistant", "full", "COST-EFF's assistant", "entropy", every, 1.0, 0.99),
        ("costeff", "2x", "COST-EFF 2x", "entropy", every, 0.5, 0.97),
        ("costeff", "4x", "COST-EFF 4x", "entropy", every, 0.25, 0.92),
        ("costeff", "8x", "COST-EFF 8x", "entropy", every, 0.12, 0.85),
        ("distilbert", "half", "DistilBERT-style (task text), 6 layers", "none", (half,), 1.0, 0.93),
        ("tinybert", "4", "TinyBERT 4L-312 (w/o DA)", "none", (4,), 0.4, 0.88),
        ("tinybert", "6", "TinyBERT 6L-768 (w/o DA)", "none", (6,), 1.0, 0.95),
        ("pabee", "base", "PABEE", "patience", every, 1.0, 0.95),
        ("cascadebert", "2+12", "CascadeBERT (truncated small member) 2+12", "confidence", (2, 14), 1.0, 0.95),
        ("cascadebert", "4+12", "CascadeBERT (truncated small member) 4+12", "confidence", (4, 16), 1.0, 0.97),
        ("own-entropy", "base", "A method of one's own with a long name", "entropy", every, 0.8, 0.93),
        ("berxit", "base", "BERxiT", "confidence", every, 1.0, 0.94),
        ("elasticbert", "base", "ElasticBERT", "entropy", every, 1.0, 0.98),
        ("cofi", "60", "CoFi 60 %", "none", (exits,), 0.4, 0.94),
        ("cofi", "95", "CoFi 95 %", "none", (exits,), 0.08, 0.86),
    ]
    return tuple(Contestant(*each, layers=exits) for each in made)


@dataclass(frozen=True)
class Text:
    """The examples of a split, the same for every contestant."""

    idx: NDArray[np.int64]
    labels: NDArray[Any]
    lengths: NDArray[np.int64]
    difficulty: NDArray[np.int64]
    noise: NDArray[np.float64]


def write_results(
    root: Path,
    tasks: tuple[str, ...] = TASKS,
    seeds: tuple[int, ...] = (1, 2),
    examples: int = 240,
    profile: str = "sketch",
    source: str = "sketch (generated)",
    contestants: tuple[Contestant, ...] = CONTESTANTS,
) -> Path:
    """Write results/<profile>/ under `root` (all-points.parquet, traces, points); returns that folder."""
    results = root / "results" / profile
    frames = []
    for name in tasks:
        each = task(name)
        splits = (*SPLITS, *each.splits.keys() & {"validation_mismatched", "test_mismatched"})
        texts = {split: _text(each, split, examples) for split in sorted(splits)}
        for seed in seeds:
            for contestant in contestants:
                run = {"task": name, "method": contestant.method, "variant": contestant.variant}
                run |= {"label": contestant.label, "seed": seed}
                if (name, contestant.method, contestant.variant, seed) == FAILED:
                    frames.append(pd.DataFrame([run | {"status": "failed", "reason": REASON}]))
                    continue
                logits = {split: _logits(each, contestant, text, seed) for split, text in texts.items()}
                folder = results / "runs" / name / contestant.method / contestant.variant / f"seed{seed}"
                _costs(contestant).save(folder / "costs.json")
                for split, text in texts.items():
                    hidden = split.startswith("test")
                    labels = np.full_like(text.labels, -1) if hidden else text.labels
                    trace = Trace(text.idx, labels, text.lengths, text.difficulty, logits[split])
                    trace.save(folder / f"trace-{split}.parquet")
                points = _points(each, contestant, texts, logits).assign(**run)
                points.to_parquet(folder / "points.parquet")
                frames.append(points.assign(status="ok", reason=""))
    points = pd.concat(frames, ignore_index=True)
    points = points.assign(profile=profile, selection="calibration", source=source)
    points = _relative(points)
    results.mkdir(parents=True, exist_ok=True)
    points.to_parquet(results / "all-points.parquet")
    return results


def read_points(results: Path) -> pd.DataFrame:
    return pd.read_parquet(results / "all-points.parquet")


def _text(each: Task, split: str, examples: int) -> Text:
    rng = np.random.default_rng([sum(map(ord, each.name)), sum(map(ord, split))])
    labels = rng.uniform(0, 5, examples) if each.regression else rng.integers(len(each.labels), size=examples)
    return Text(
        idx=np.arange(examples),
        labels=labels.astype(np.float32) if each.regression else labels,
        lengths=rng.integers(8, 40, examples),
        difficulty=rng.integers(1, 4, examples),
        noise=rng.normal(size=(examples, each.outputs)),
    )


def _logits(each: Task, contestant: Contestant, text: Text, seed: int) -> NDArray[np.float32]:
    """[E, N, C]: a signal that grows with depth and skill, shrinks with difficulty; shared and own noise."""
    key = sum(map(ord, contestant.method + contestant.variant))
    rng = np.random.default_rng([seed, key, len(text.idx)])
    # A cascade's second member begins anew.
    again = contestant.exits[0] if max(contestant.exits) > contestant.layers else 0
    layers = np.minimum(np.array(contestant.exits) - again, contestant.layers).clip(1)
    signal = 3.2 * contestant.skill * (layers / contestant.layers) ** 0.5
    noise = 0.8 * text.noise + 0.6 * rng.normal(size=(len(layers), *text.noise.shape))
    if each.regression:
        target = text.labels[:, None] + noise * (0.4 + text.difficulty[:, None] / signal[:, None, None])
    else:
        target = noise + np.eye(each.outputs)[text.labels] * signal[:, None, None] / text.difficulty[:, None] ** 0.6
    return target.astype(np.float32)


def _points(
    each: Task, contestant: Contestant, texts: dict[str, Text], logits: dict[str, NDArray[np.float32]]
) -> pd.DataFrame:
    exits = len(contestant.exits)
    full = {"policy": contestant.policy, "threshold": np.nan, "thresholds": [], "exit": 0}
    plans: list[dict[str, Any]] = [{**full, "kind": "static", "point": 0}]
    if exits > 1:
        plans += [{**full, "kind": "fixed_exit", "point": e, "exit": e} for e in range(1, exits + 1)]
    policy = "agreement" if each.regression else contestant.policy
    thresholds: dict[str, NDArray[np.float64]] = {
        "none": np.array([]),
        "entropy": np.linspace(0, np.log(max(each.outputs, 2)), 12),
        "confidence": np.linspace(0.5, 1.0, 8),
        "patience": np.arange(1.0, exits),
        "agreement": np.linspace(0.05, 1.5, 8),
    }
    if contestant.policy != "none" and not (each.regression and contestant.method == "cascadebert"):
        for i, threshold in enumerate(thresholds[policy]):
            plans.append({**full, "kind": "uniform", "point": i, "policy": policy, "threshold": float(threshold)})
        if policy == "entropy":
            rng = np.random.default_rng(7)
            for i in range(4):
                own = rng.choice(thresholds[policy], exits).tolist()
                plans.append({**full, "kind": "per_exit", "point": i, "policy": policy, "thresholds": own})
    rows = []
    for split in texts:
        if split.startswith("test"):
            continue
        text, traced = texts[split], logits[split]
        per_exit, at_128 = (
            _flops(contestant, text.lengths),
            _flops(contestant, np.full_like(text.lengths, 128)),
        )
        for plan in plans:
            left = _replay(each, plan, traced)
            chosen = traced[left, np.arange(len(left))]
            predicted = chosen[:, 0] if each.regression else chosen.argmax(-1)
            measured = {name: float(value) for name, value in scores(each, predicted, text.labels).items()}
            rows.append(
                plan
                | _scored(each, measured)
                | {
                    "split": split,
                    "examples": len(left),
                    "constant": bool((predicted == predicted[0]).all()),
                    "flops": per_exit[left, np.arange(len(left))].mean(),
                    "flops_128": at_128[left, np.arange(len(left))].mean(),
                    "mean_exit": left.mean() + 1,
                    "mean_layers": np.array(contestant.exits)[left].mean(),
                    "exits": (np.bincount(left, minlength=exits) / len(left)).tolist(),
                }
            )
        if contestant.method == "teacher":
            control = constant(each, texts["calibration"].labels, text.labels)
            zero = {
                "kind": "control",
                "point": 0,
                "policy": "none",
                "split": split,
                "examples": len(text.idx),
                "constant": True,
            }
            rows.append({**full, **zero, **_scored(each, control), "flops": 0.0, "flops_128": 0.0, "exits": []})
    points = pd.DataFrame(rows).assign(exit_start=1)
    points["parameters"] = int(12e6 + 10e6 * contestant.width * max(contestant.exits) / contestant.layers)
    points["parameters_encoder"] = int(10e6 * contestant.width * max(contestant.exits) / contestant.layers)
    chosen_on = points[(points["split"] == "calibration") & (points["kind"] != "control")]
    best = moocore.is_nondominated(np.column_stack([chosen_on["flops"], -chosen_on["score"]]))
    keys = set(chosen_on.loc[best, ["kind", "point"]].itertuples(index=False, name=None))
    points["on_frontier"] = [key in keys for key in zip(points["kind"], points["point"], strict=True)]
    return points


def _replay(each: Task, plan: dict[str, Any], logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """[N] 0-based exit at which each example leaves."""
    if plan["kind"] in ("static", "fixed_exit"):
        return np.full(logits.shape[1], (plan["exit"] or len(logits)) - 1)
    return replay(policy_for(plan["policy"], each.regression), logits, plan["thresholds"] or plan["threshold"])


def _costs(contestant: Contestant) -> Costs:
    """What `_flops` counts, as the quadratics that a run keeps."""
    a, f = Fraction(HIDDEN * contestant.width), Fraction(4 * HIDDEN * contestant.width)
    quadratics = tuple(
        (Fraction(number * HIDDEN * 2), layers * (4 * HIDDEN * a + 2 * HIDDEN * f), layers * 2 * a)
        for number, layers in enumerate(contestant.exits, start=1)
    )
    return Costs(int(12e6), int(10e6), contestant.exits, quadratics)


def _flops(contestant: Contestant, lengths: NDArray[np.int64]) -> NDArray[np.float64]:
    """[E, N] 2 x multiply-adds of the prefix that ends at each exit."""
    a, f = HIDDEN * contestant.width, 4 * HIDDEN * contestant.width
    layer = 4 * HIDDEN * a * lengths + 2 * HIDDEN * f * lengths + 2 * lengths**2 * a
    heads = np.arange(1, len(contestant.exits) + 1)[:, None] * HIDDEN * 2
    return np.asarray(2.0 * (np.array(contestant.exits)[:, None] * layer + heads))


def _scored(each: Task, measured: dict[str, float]) -> dict[str, Any]:
    every = dict.fromkeys(("matthews", "accuracy", "f1", "pearson", "spearman"), np.nan) | measured
    return {"score": measured[each.metrics[0]], "metric": each.metrics[0], **every}


def _relative(points: pd.DataFrame) -> pd.DataFrame:
    """Add speed-ups over the teacher, promised by FLOPs and (made up) measured."""
    key = ["task", "seed", "split"]
    teacher = points[(points["method"] == "teacher") & (points["kind"] == "static")]
    points = points.merge(
        teacher[[*key, "flops", "flops_128"]].rename(columns={"flops": "_f", "flops_128": "_f128"}),
        on=key,
        how="left",
    )
    real = points["flops"].where(points["flops"] > 0)
    points["speedup"] = points.pop("_f") / real
    points["speedup_128"] = points.pop("_f128") / real.where(real.isna(), points["flops_128"])
    points["latency_1"] = points["speedup"] ** 0.7
    points["latency_32"] = points["speedup"] ** 0.9
    return points
