"""How much of the speed-up that FLOPs promise is there on the clock, for the finished runs of a profile.

    python benchmarks/early_exit.py --config config/sketch.yaml

Times every variant of a method at full depth beside the teacher, at batch 1 and 32, in the deployed form and in the
form that was trained (as version 0.1.0 did), all in turn in one process, and prints the median over tasks of measured
speed-up over promised. Then, for the first task, the time of the one pass that makes the validation trace beside that
of 200 uniform thresholds, scored and costed on it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_log

from bench.analysis.points import evaluate
from bench.cli import keep_memory
from bench.context import load_model, task_data
from bench.encoder import backbones
from bench.encoder.early.deployed import Batch, deploy
from bench.encoder.early.engine import answer
from bench.exit_policies.deciding import rule
from bench.exit_policies.policies import leaves_now, policy_for, replay_many
from bench.measuring.recording import model_inputs, record
from bench.method import Method, contestant
from bench.runs.plan import runs
from bench.settings import Settings, load
from bench.store import RunKey, run_folder
from bench.tasks.batches import length_batches
from bench.tasks.examples import Examples
from bench.trace import Costs

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/sketch.yaml"))
    parser.add_argument("--method", default="costeff")
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: a busy machine")
    arguments = parser.parse_args()
    settings = load(arguments.config)
    torch.set_num_threads(settings.training.threads)
    keep_memory()
    transformers_log.disable_progress_bar()
    clock = time.perf_counter if arguments.clock == "wall" else time.thread_time
    tokenizer = backbones.tokenizer(settings.backbone.name, settings.backbone.revision)
    shares: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    first = True
    for task in settings.tasks:
        seed = settings.seeds_of(task)[0]
        keys = [run.key for run in runs(settings) if (run.key.task, run.key.seed) == (task, seed)]
        there = [key for key in keys if (run_folder(settings, key) / "model" / "config.json").is_file()]
        reference = RunKey(task, settings.reference, "full", seed)
        variants = [key for key in there if key.method == arguments.method]
        if reference not in there or not variants:
            print(f"{task}: no finished runs of {settings.reference} and {arguments.method}")
            continue
        method = contestant(settings, arguments.method, task)
        validation = task_data(settings, method.task, tokenizer).splits["validation"]
        examples = validation.take(range(min(arguments.examples, len(validation))))
        for size in (1, 32):
            for (variant, form), share in times(
                settings, reference, variants, method, examples, size, arguments.rounds, clock
            ):
                shares[variant, size, form].append(share)
        if first:
            tracing(settings, variants[0], method, validation, arguments.rounds)
            first = False
    for (variant, size, form), values in sorted(shares.items()):
        print(
            f"{arguments.method} {variant}, batch {size}, {form}: {statistics.median(values):.2f} of the promised "
            f"speed-up (median of {len(values)} tasks; {min(values):.2f} to {max(values):.2f})"
        )


def times(
    settings: Settings,
    reference: RunKey,
    variants: list[RunKey],
    method: Method,
    examples: Examples,
    size: int,
    rounds: int,
    clock: Callable[[], float],
) -> list[tuple[tuple[str, str], float]]:
    """((variant, form), measured speed-up over promised) of every variant, asking its rule at every exit."""
    batches = length_batches(examples.lengths, size, None)
    inputs = [model_inputs(examples, positions, CPU) for positions in batches]
    ready = [Batch.of(examples, positions, CPU) for positions in batches]
    work: dict[tuple[RunKey, str], Callable[[], Any]] = {}
    for key in (reference, *variants):
        model = load_model(run_folder(settings, key), CPU)
        policy = policy_for(
            method.policy if key.method == method.name else "none", method.task.regression, method.exit_start()
        )
        strict = policy.knobs(2, model.exit_count, method.task.outputs)[-1]  # nobody leaves, everybody is asked
        deployed, leaves = deploy(model), rule(policy, strict)

        def plainly(model=model, policy=policy, strict=strict, alone=key == reference) -> None:
            for batch in inputs:
                if alone:
                    model(**batch)
                    continue
                state, seen = model.begin(**batch), []
                for e in range(model.exit_count):
                    state, logits = model.advance(state, e)
                    seen.append(logits.float().cpu().numpy())
                    if e < model.exit_count - 1:
                        leaves_now(policy, np.stack(seen), strict)

        work[key, "plain"] = plainly
        work[key, "deployed"] = lambda deployed=deployed, leaves=leaves: [answer(deployed, b, leaves) for b in ready]
    taken = defaultdict(list)
    with torch.inference_mode():
        for turn in range(rounds + 1):
            for name, job in work.items():
                began = clock()
                job()
                if turn:  # the first warms up
                    taken[name].append(clock() - began)
    costs = {key: Costs.load(run_folder(settings, key) / "costs.json") for key in (reference, *variants)}
    flops = {key: cost.flops(examples.lengths)[-1].sum() for key, cost in costs.items()}
    found = []
    for key in variants:
        for form in ("plain", "deployed"):
            ratios = np.array(taken[reference, form]) / np.array(taken[key, form])
            found.append(((key.variant, form), float(np.median(ratios) * flops[key] / flops[reference])))
    return found


def tracing(settings: Settings, key: RunKey, method: Method, examples: Examples, rounds: int) -> None:
    """Prints what one pass costs beside 200 thresholds replayed on its trace."""
    model, costs = load_model(run_folder(settings, key), CPU), Costs.load(run_folder(settings, key) / "costs.json")
    policy = policy_for(method.policy, method.task.regression, method.exit_start())
    knobs = policy.knobs(200, model.exit_count, method.task.outputs)
    passes, sweeps = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        trace = record(model, examples, settings.training.eval_batch_size)
        traced = time.perf_counter()
        evaluate(replay_many(policy, trace.logits, knobs), trace, costs, method.task)
        passes.append(traced - began)
        sweeps.append(time.perf_counter() - traced)
    share = statistics.median(sweep / one for sweep, one in zip(sweeps, passes, strict=True))
    print(f"{key.path}: {len(examples)} examples of {examples.lengths.mean():.1f} tokens, {model.exit_count} exits")
    print(
        f"one trace {statistics.median(passes):.3f} s; {len(knobs)} thresholds "
        f"{1000 * statistics.median(sweeps):.1f} ms, {100 * share:.2f} % of the pass"
    )


if __name__ == "__main__":
    main()
