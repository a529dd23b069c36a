"""Files of a stage, a checkpoint while it runs and the final weights after it, and when they are written."""

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
from bench.store import written_at_once

CHECKPOINT = "checkpoint.safetensors"
FINAL = "final.safetensors"


class Saving:
    """When a run writes: not before `seconds` after its start, and within a stage at most every `seconds`.

    A run killed earlier loses less than `seconds`. A run that was resumed may be killed again, so it writes the result
    of every stage.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.began = self.last = time.monotonic()

    def resumed(self) -> None:
        """Record that the run continues from a file."""
        self.began = -float("inf")

    def old_enough(self) -> bool:
        """Return whether the result of a finished stage is written."""
        return time.monotonic() - self.began >= self.seconds

    def due(self) -> bool:
        """Return whether a checkpoint is written now."""
        return time.monotonic() - self.last >= self.seconds

    def wrote(self) -> None:
        """Record that a file was written."""
        self.last = time.monotonic()


def write(tensors: dict[str, Tensor], path: Path, notes: dict[str, Any] | None = None) -> None:
    """Write tensors, and notes that JSON can hold, to a safetensors file in one atomic step."""
    with written_at_once(path) as part:
        save_file({key: value.contiguous() for key, value in tensors.items()}, part, {"notes": json.dumps(notes or {})})


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and notes of a file that `write` wrote."""
    with safe_open(path, "pt") as file:
        tensors = {weight_name(key): file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["notes"])


def saved(stage: Path) -> bool:
    """Return whether the folder of a stage holds a checkpoint or final weights."""
    return (stage / FINAL).is_file() or (stage / CHECKPOINT).is_file()


def random_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the states of the random generators: of torch as tensors, of Python and NumPy as plain values."""
    tensors = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    name, keys, *rest = cast(tuple, np.random.get_state(legacy=True))
    return tensors, {"python": random.getstate(), "numpy": [name, keys.tolist(), *rest]}


def set_random_state(tensors: dict[str, Tensor], plain: dict[str, Any]) -> None:
    """Restore the states that `random_state` returned."""
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])
    version, internal, gauss = plain["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = plain["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
