"""Measure training throughput of BERT-base's shape on a GPU, and one task of the sketch profile on CPU and GPU.

    python benchmarks/gpu.py                            on a machine with a GPU: minutes
    python benchmarks/gpu.py --layers 2 --hidden 128 --heads 2 --steps 5 --task ""    where there is none: a rehearsal

Prints two tables, with the hardware named. Training is the suite's own loop at batch 32 and length 128 on random text
and weights; a share is of the device's own peak in bfloat16 (float32 where it has none), measured here with one large
product, since a data sheet's number is of clocks that a card does not hold.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from baselines.finetuned import supervised
from bench.context import native_bfloat16
from bench.encoder import Encoder, EncoderConfig
from bench.runs.train_run import produce, tf32
from bench.runs.training.facts import hardware
from bench.settings import load
from bench.store import RunKey, read_json, run_folder
from bench.tasks.examples import Examples
from bench.training.loop import Machine, Plan, fit

BATCH, LENGTH = 32, 128
VOCABULARY = 30_522


def main() -> None:
    """Parse the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--task", default="rte", help="task of the sketch that is run on CPU and GPU; '' for none")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, where a CPU computes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    place = ", ".join(hardware(device.type == "cpu").values())
    print(f"{place}; torch {torch.__version__}; {arguments.threads} CPU thread(s)\n")
    print(training(arguments, device).to_markdown(index=False))
    if arguments.task:
        print()
        print(both(arguments.task, arguments.threads).to_markdown(index=False))


def training(arguments: argparse.Namespace, device: torch.device) -> pd.DataFrame:
    """Return the examples per second of the training loop in each arithmetic, and the fraction of peak FLOPs."""
    kinds = [("float32", False, False)]
    kinds += [("float32, TF32", False, True)] * (device.type == "cuda")
    kinds += [("bfloat16 products", True, False)] * native_bfloat16(device)
    peak = peak_flops(device)
    rows = []
    for name, bfloat16, fast in kinds:
        machine = Machine(device.type == "cpu", bfloat16, 1e9, fast)
        with tf32(fast):
            model = shape(arguments).to(device)
            seconds = epoch(model, arguments.steps, machine, device)
        rate = BATCH * arguments.steps / seconds
        flops = 3 * 2 * model.exit_macs(LENGTH)[-1] * rate  # the backward pass is two forward passes
        row = {
            "training in": name,
            "examples/s": rate,
            "TFLOP/s": flops / 1e12,
            "% of peak": 100 * flops / peak,
        }
        if device.type == "cuda":
            row["GB"] = torch.cuda.max_memory_allocated() / 1e9
            torch.cuda.reset_peak_memory_stats()
        rows.append(row)
        del model
    rows.append(
        {"training in": "one product of 8192" if device.type == "cuda" else "one product", "TFLOP/s": peak / 1e12}
    )
    return pd.DataFrame(rows).round(2)


def shape(arguments: argparse.Namespace) -> Encoder:
    """Return an encoder of the given shape with random weights."""
    torch.manual_seed(0)
    layers, hidden, heads = arguments.layers, arguments.hidden, arguments.heads
    config = EncoderConfig(
        vocab_size=VOCABULARY, max_positions=512, hidden_size=hidden, head_size=hidden // heads,
        heads=[heads] * layers, ffn=[4 * hidden] * layers, exits=[layers], head="pooler", num_labels=2,
    )  # fmt: skip
    return Encoder(config)


def epoch(model: Encoder, steps: int, machine: Machine, device: torch.device) -> float:
    """Return the seconds of `steps` steps of the training loop, after the same number of warm-up steps."""
    generator = np.random.default_rng(0)
    words = generator.integers(1000, VOCABULARY, (BATCH * steps, LENGTH)).tolist()
    labels = generator.integers(0, 2, len(words))
    text = Examples(np.arange(len(words)), labels, words, [[0] * LENGTH for _ in words])
    for count in (min(10, steps), steps):
        with tempfile.TemporaryDirectory() as state:
            began = time.perf_counter()
            plan = Plan(1, 2e-5, BATCH, steps=count)
            fit(model, supervised, text, plan, state=Path(state), seed=0, machine=machine)
            if device.type == "cuda":
                torch.cuda.synchronize()
    return time.perf_counter() - began


def peak_flops(device: torch.device) -> float:
    """Return the FLOPs per second of a large matrix product, best of six: in bfloat16 if it is native, else float32."""
    size = 8192 if device.type == "cuda" else 1024
    kind = torch.bfloat16 if native_bfloat16(device) else torch.float32
    matrix = torch.randn(size, size, device=device, dtype=kind)
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        for _ in range(4):
            matrix @ matrix
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - began) / 4)
    return 2 * size**3 / best


def both(task: str, threads: int) -> pd.DataFrame:
    """Train the teacher and PABEE of the profile sketch-full on one task, on the CPU and, if there is one, the GPU."""
    profile = Path(__file__).parents[1] / "config" / "sketch-full.yaml"
    rows = []
    with tempfile.TemporaryDirectory() as results:
        for device in ("cpu", *["cuda"] * torch.cuda.is_available()):
            own = {"results": f"{results}/{device}", "training": {"device": device, "threads": threads}}
            settings = load(profile, own)
            for method in ("teacher", "pabee"):
                key = RunKey(task, method, "full", 0)
                if reason := produce(settings, key):
                    raise SystemExit(f"{key.path} on {device} failed: {reason}")
                facts = read_json(run_folder(settings, key) / "run.json")
                seconds = {name: round(value, 1) for name, value in facts["seconds"].items()}
                rows.append({"sketch": f"{task}, {method}", "on": device, "in": facts["where"]["precision"], **seconds})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
