"""What replay saves, and what early exit really gives, for one trained model of a profile.

    python benchmarks/early_exit.py --config config/sketch.yaml --task sst2 --method costeff --variant 2x

Prints the time of the one pass that makes the validation trace beside that of 200 uniform thresholds, scored and costed
on it; and, at batch 1 and 32, the engine's speed-up over the teacher beside the FLOPs', at the points chosen for 1x,
2x, 3x, 4x and 6x. All take turns; medians count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from bench.artefacts import Costs
from bench.choosing.budgets import RUN, at_budget
from bench.choosing.points import evaluate
from bench.choosing.policies import policy_for, replay_many
from bench.context import load_model, task_data
from bench.encoder import backbones
from bench.measuring import latency
from bench.measuring.recording import record
from bench.method import contestant
from bench.runs.clock import operation
from bench.runs.collect import collect_task
from bench.settings import load
from bench.store import RunKey, run_folder
from bench.tasks.catalogue import TASKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/sketch.yaml"))
    parser.add_argument("--task", default="sst2", choices=list(TASKS))
    parser.add_argument("--method", default="costeff")
    parser.add_argument("--variant", default="2x")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    settings = load(arguments.config)
    torch.set_num_threads(settings.training.threads)
    key = RunKey(arguments.task, arguments.method, arguments.variant, arguments.seed)
    method = contestant(settings, key.method, key.task)
    tokenizer = backbones.tokenizer(settings.backbone.name, settings.backbone.revision)
    examples = task_data(settings, method.task, tokenizer).splits["validation"]
    model = load_model(run_folder(settings, key), torch.device("cpu"))
    teacher = load_model(
        run_folder(settings, RunKey(key.task, settings.reference, "full", key.seed)), torch.device("cpu")
    )
    policy = policy_for(method.policy, method.task, method.exit_start())

    costs = Costs.load(run_folder(settings, key) / "costs.json")
    passes, sweeps = [], []
    for _ in range(arguments.rounds):
        began = time.perf_counter()
        trace = record(model, examples, settings.training.eval_batch_size)
        traced = time.perf_counter()
        knobs = policy.knobs(200, model.exit_count, method.task.outputs)
        evaluate(replay_many(policy, trace.logits, knobs), trace, costs, method.task)
        passes.append(traced - began)
        sweeps.append(time.perf_counter() - traced)
    one, many = statistics.median(passes), statistics.median(sweeps)
    share = statistics.median(sweep / trace for sweep, trace in zip(sweeps, passes, strict=True))
    print(f"{key.path}: {len(examples)} examples of {examples.lengths.mean():.1f} tokens, {model.exit_count} exits")
    print(f"one trace {one:.3f} s; {len(knobs)} thresholds {1000 * many:.1f} ms, {100 * share:.2f} % of the pass")

    table = collect_task(settings, key.task, key.seed)
    table = table[(table["method"] == key.method) & (table["variant"] == key.variant)]
    points = {budget: at_budget(table.reset_index(drop=True), budget, by=tuple(RUN)) for budget in (1, 2, 3, 4, 6)}
    found = {budget: rows.iloc[0] for budget, rows in points.items() if rows["score"].notna().all()}
    for budget, rows in points.items():
        if budget not in found:
            print(f"{budget}x: {rows.iloc[0]['reason']}")
    operated = [operation(point.to_dict(), method) for point in found.values()]
    timed = [
        latency.measure(model, operated, teacher, examples, batch_size=size, rounds=arguments.rounds)
        for size in (1, 32)
    ]
    for (budget, point), *both in zip(found.items(), *timed, strict=True):
        real = ", ".join(
            f"batch {each.batch_size}: {each.speedup:.2f}x ({each.speedup / point['speedup']:.2f} of it)"
            for each in both
        )
        print(f"{budget}x: score {point['score']:.3f}, FLOPs promise {point['speedup']:.2f}x; {real}")


if __name__ == "__main__":
    main()
