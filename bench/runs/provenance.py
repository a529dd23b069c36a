"""What made a result: settings, data, backbone, code, versions, hardware."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.runs.identity import where

if TYPE_CHECKING:
    from bench.context import Context
    from bench.method import Method
    from bench.runs.identity import Identity

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


def describe(context: Context, method: Method, identity: Identity, began: float) -> dict[str, Any]:
    """Everything one needs to make a run again or to doubt it. `began` is a time.monotonic()."""
    wall = time.monotonic() - began
    return {
        "key": context.key.facts,
        "identity": identity.hash,
        "asked": identity.asked,
        "where": where(context.settings),
        "method": f"{type(method).__module__}:{type(method).__qualname__}, version {method.version}",
        "data": {
            "fingerprint": context.data.fingerprint,
            "source": context.settings.data.of(context.key.task).title,
            "missing_splits": list(context.data.missing),
            "examples": {split: len(examples) for split, examples in context.data.splits.items()},
        },
        "backbone": {"name": context.settings.backbone.name, "sha256": identity.asked["backbone"]["digest"]},
        "code": code_version(),
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in PACKAGES},
        "hardware": hardware(context.machine.cpu),
        "wall_seconds": wall,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def code_version() -> str:
    """The git commit of this code, with "-dirty" where files have changed since; "unknown" outside a checkout."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def hardware(cpu: bool) -> dict[str, Any]:
    """The processor and, where it is used, the GPU."""
    names = [line for line in _cpuinfo() if line.startswith("model name")]
    found = {"cpu": names[0].split(":", 1)[1].strip() if names else platform.processor() or platform.machine()}
    return found if cpu else found | {"gpu": torch.cuda.get_device_name()}


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
