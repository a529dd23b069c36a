"""What a training writes, and when: one file of a stage while it runs, one when it has ended."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from bench.compat import weight_name

CHECKPOINT = "checkpoint.safetensors"
FINAL = "final.safetensors"


class Saving:
    """Decides when a run writes: not before it is `seconds` old, and while a stage runs not more often than that.

    A run that is younger loses less than `seconds` by starting again, so it writes nothing. One that went on from
    something on the disk has shown that it gets killed: it writes every stage that ends.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.began = self.last = time.monotonic()

    def resumed(self) -> None:
        self.began = -float("inf")

    def old_enough(self) -> bool:
        """Whether a stage that has ended is written."""
        return time.monotonic() - self.began >= self.seconds

    def due(self) -> bool:
        """Whether a stage that runs is written now."""
        return time.monotonic() - self.last >= self.seconds

    def wrote(self) -> None:
        self.last = time.monotonic()


def write(tensors: dict[str, Tensor], path: Path, notes: dict[str, Any] | None = None) -> None:
    """Writes tensors, and notes of plain values, so that `path` is whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({key: value.contiguous() for key, value in tensors.items()}, part, {"notes": json.dumps(notes or {})})
    part.replace(path)


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote."""
    with safe_open(path, "pt") as file:
        tensors = {weight_name(key): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["notes"])


def notes(path: Path) -> dict[str, Any]:
    """The notes alone."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["notes"])


def saved(stage: Path) -> bool:
    """Whether the folder of a stage holds something to go on from."""
    return (stage / FINAL).is_file() or (stage / CHECKPOINT).is_file()


def random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The random generators of torch (tensors), and of Python and NumPy (plain values)."""
    tensors = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    name, keys, *rest = cast(tuple, np.random.get_state(legacy=True))
    return tensors, {"python": random.getstate(), "numpy": [name, keys.tolist(), *rest]}


def set_random_state(tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Puts back what `random_state` gave."""
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])
    version, internal, gauss = plain["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = plain["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
