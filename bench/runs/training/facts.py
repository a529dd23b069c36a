"""What run.json states beside the results: the inputs, code, versions, hardware and time of a run."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.provenance import code_of, suite_version
from bench.runs.identity import Identity, where

if TYPE_CHECKING:
    from bench.context import Context
    from bench.method import Method

PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "optuna",
    "fvcore",
    "numpy",
    "scipy",
    "snakemake",
)


@dataclass(frozen=True)
class Usage:
    """What this process has used so far; it may make several runs.

    Attributes:
        wall: A clock, in seconds.
        cpu: CPU seconds.
        peak: Largest memory, in bytes.
    """

    wall: float
    cpu: float
    peak: int

    @classmethod
    def start(cls) -> Usage:
        """Return the usage at the start of a run, after resetting the peak of the memory where the system can."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        return cls.now()

    @classmethod
    def now(cls) -> Usage:
        """Return the usage at this moment."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        return cls(time.monotonic(), used.ru_utime + used.ru_stime, _peak())


def _peak() -> int:
    """Return the largest memory of this process in bytes.

    Linux states it in /proc. `ru_maxrss` is used elsewhere; on Linux it includes the memory of the process that started
    this one.
    """
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def describe(context: Context, method: Method, identity: Identity, began: Usage) -> dict[str, Any]:
    """Return the facts that are needed to reproduce a run: its inputs, code, versions, hardware and time.

    Args:
        context: Context of the run.
        method: The contestant on the task.
        identity: Identity of the run.
        began: What the process had used at the start of the run.
    """
    now = Usage.now()
    return {
        "key": context.key.facts,
        "identity": identity.hash,
        "asked": identity.inputs,
        "where": where(context.settings),
        "method": f"{type(method).__module__}:{type(method).__qualname__}, version {method.version}",
        "data": {
            "fingerprint": context.data.fingerprint,
            "source": context.settings.source_of(context.key.task),
            "missing_splits": list(context.data.missing),
            "examples": {split: len(examples) for split, examples in context.data.splits.items()},
            "quality": context.data.quality,
            **({"range": list(context.task.range)} if context.task.regression else {}),
        },
        "backbone": {
            "name": context.settings.backbone.name,
            "sha256": identity.inputs["backbone"]["digest"],
            **({"layers": context.settings.backbone.layers} if context.settings.backbone.layers else {}),
        },
        "code": suite_version(),
        "method_code": code_of(type(method)),
        "versions": {"python": platform.python_version()} | _versions(),
        "hardware": hardware(context.machine.cpu),
        "wall_seconds": now.wall - began.wall,
        "cpu_seconds": now.cpu - began.cpu,
        "peak_memory_bytes": now.peak if now.peak > began.peak else None,  # else it is the peak of an earlier run
    }


def _versions() -> dict[str, str]:
    """Return the versions of those of the packages that are installed; training does not need all of them."""
    found = {}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def hardware(cpu: bool) -> dict[str, Any]:
    """Return the names of the processor and, unless `cpu`, of the GPU."""
    names = [line for line in _cpuinfo() if line.startswith("model name")]
    found = {"cpu": names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()}
    return found if cpu else found | {"gpu": torch.cuda.get_device_name()}


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
