"""Small random models, examples and traces, and contestants that train for a moment."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.encoder import Cascade, Encoder, EncoderConfig
from bench.settings import Settings
from bench.tasks.examples import Examples
from bench.trace import Trace


def encoder(seed: int = 0, **changes) -> Encoder:
    """Three layers, three exits; weights large enough for predictions that differ.

    In ModernBERT's layout the windows of the local layers are shorter than most texts.
    """
    torch.manual_seed(seed)
    if changes.get("layout") == "modernbert":
        windows = [None if i % 3 == 0 else 1 + i for i in range(len(changes.get("heads", [4, 2, 3])))]
        changes = {"type_vocab_size": 0, "windows": windows, "layer_norm_eps": 1e-5} | changes
    values = {
        "vocab_size": 60, "max_positions": 32, "hidden_size": 32, "head_size": 8, "heads": [4, 2, 3],
        "ffn": [48, 40, 56], "exits": [1, 2, 3], "num_labels": 3, "initializer_range": 0.3,
    } | changes  # fmt: skip
    return Encoder(EncoderConfig(**values)).eval()


def cascade(**changes) -> Cascade:
    small = encoder(1, heads=[4], ffn=[48], exits=[1], **changes)
    return Cascade.of(small, encoder(2, exits=[3], **changes)).eval()


def examples(count: int = 40, seed: int = 0, regression: bool = False, longest: int = 24) -> Examples:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest + 1, count)
    labels = rng.uniform(0, 5, count).astype(np.float32) if regression else rng.integers(0, 2, count)
    return Examples(
        idx=rng.permutation(count) + 100,
        labels=labels,
        input_ids=[rng.integers(1, 60, n).tolist() for n in lengths],
        segments=[[0] * (n // 2) + [1] * (n - n // 2) for n in lengths],
        difficulty=rng.integers(1, 4, count),
    )


def trace(logits: NDArray, labels: NDArray | None = None, lengths: NDArray | None = None) -> Trace:
    count = logits.shape[1]
    return Trace(
        idx=np.arange(count),
        labels=np.zeros(count, dtype=np.int64) if labels is None else labels,
        lengths=np.full(count, 10) if lengths is None else lengths,
        difficulty=None,
        logits=logits.astype(np.float32),
    )


def learned(count: int = 300, exits: int = 5, seed: int = 0, split: int = 0) -> Trace:
    """A two-class trace: deeper exits are right more often, and exits differ in how sure they are."""
    rng = np.random.default_rng([seed, split])
    labels = rng.integers(0, 2, count)
    skill = np.linspace(0.3, 1.5, exits)[:, None] * rng.exponential(1, count)
    margin = (labels * 2 - 1) * skill + rng.normal(size=count) * 0.5 + rng.normal(size=(exits, count)) * 0.5
    margin *= np.random.default_rng(seed).uniform(0.5, 3, exits)[:, None]
    return trace(np.stack([-margin, margin], axis=-1), labels, rng.integers(4, 40, count))


SHORT: dict[str, float] = {
    "epochs": 0.5,
    "hidden_epochs": 0.3,
    "distil_epochs": 0.3,
    "representation_epochs": 0.3,
    "fold_epochs": 0.3,
}
SHORT |= {"rate": 0.2}


def shortened(settings: Settings) -> dict[str, Any]:
    """Return the contestants of a profile with few training steps."""
    contestants: dict[str, Any] = settings.model_dump()["contestants"]
    for entry in contestants.values():
        entry["options"] |= {key: value for key, value in SHORT.items() if key in entry["options"]}
        entry["tasks"] = {
            task: {key: value for key, value in own.items() if key not in SHORT} for task, own in entry["tasks"].items()
        }
    return contestants
