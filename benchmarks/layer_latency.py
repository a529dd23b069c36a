"""Measure the latency of attention by its heads and of the FFN by its neurons, as KCM's latency budget needs it.

    python benchmarks/layer_latency.py --config config/glue-laptop.yaml --length 32

Times one example in the two halves of a deployed layer of the backbone, at growing widths, in turns. Of each width the
lowest decile counts, which other work on the machine changes least. A line is fitted to the widths; the floor is the
time of the narrowest one, and `free` the number of units at which the line reaches it. Prints the options `attention`
and `ffn` of `family.compression.kcm:Kcm`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, addmm

from bench.encoder.backbones import shape_of
from bench.settings import load

TURNS, WARM = 400, 20


def main() -> None:
    """Parse the command line and print the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("config/sketch.yaml"))
    parser.add_argument("--length", type=int, default=32)
    arguments = parser.parse_args()
    settings = load(arguments.config)
    torch.set_num_threads(settings.training.threads)
    shape = shape_of(settings.backbone.name, settings.backbone.revision)
    heads = list(range(1, shape.heads[0] + 1))
    neurons = np.linspace(shape.ffn[0] / 24, shape.ffn[0], 24).round().astype(int).tolist()
    state = torch.randn(arguments.length, shape.hidden)
    print("attention:", fitted(heads, times([attention(state, count, shape.head_size) for count in heads])))
    print("ffn:", fitted(neurons, times([feed_forward(state, count) for count in neurons])))


def attention(state: Tensor, heads: int, size: int):
    """Return a function that computes the attention of a layer, as the early-exit engine does."""
    length, hidden = state.shape
    projection, output = torch.randn(hidden, 3 * heads * size), torch.randn(heads * size, hidden)
    bias, norm = torch.randn(3 * heads * size), torch.ones(hidden)

    def run() -> Tensor:
        split = addmm(bias, state, projection).view(1, length, 3, heads, size).permute(2, 0, 3, 1, 4)
        context = F.scaled_dot_product_attention(*split.unbind(0)).transpose(1, 2).reshape(length, -1)
        return F.layer_norm(addmm(state, context, output), (hidden,), norm, norm)

    return run


def feed_forward(state: Tensor, neurons: int):
    """Return a function that computes the FFN of a layer, as the early-exit engine does."""
    hidden = state.shape[1]
    inner, outer = torch.randn(hidden, neurons), torch.randn(neurons, hidden)
    bias, norm = torch.randn(neurons), torch.ones(hidden)

    def run() -> Tensor:
        return F.layer_norm(addmm(state, F.gelu(addmm(bias, state, inner)), outer), (hidden,), norm, norm)

    return run


@torch.inference_mode()
def times(runs: list) -> np.ndarray:
    """Return the milliseconds of each function, the lowest decile of many turns."""
    found = np.zeros((TURNS, len(runs)))
    for turn in range(-WARM, TURNS):
        for i, run in enumerate(runs):
            began = time.perf_counter()
            run()
            if turn >= 0:
                found[turn, i] = time.perf_counter() - began
    return 1000 * np.quantile(found, 0.1, axis=0)


def fitted(units: list[int], milliseconds: np.ndarray) -> str:
    """Return floor, free and slope as YAML."""
    slope, start = np.polyfit(units, milliseconds, 1)
    floor = float(milliseconds[0])
    free = max(1, round((floor - start) / slope))
    return f"{{floor: {floor:.4f}, free: {free}, slope: {slope:.6f}}}"


if __name__ == "__main__":
    main()
