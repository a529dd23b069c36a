"""What made a result: settings, data, backbone, code, versions, hardware."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import resource
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.encoder import backbones

if TYPE_CHECKING:
    from bench.context import Context
    from bench.method import Method
    from bench.settings import Settings

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


def describe(context: Context, method: Method, began: float) -> dict[str, Any]:
    """Everything one needs to make a run again or to doubt it. `began` is a time.monotonic()."""
    wall, backbone = time.monotonic() - began, context.settings.backbone
    return {
        "key": {
            "task": context.key.task,
            "method": context.key.method,
            "variant": context.key.variant,
            "seed": context.seed,
        },
        "settings": run_slice(context.settings, context.key.method, context.key.task),
        "settings_hash": slice_hash(context.settings, context.key.method, context.key.task),
        "method": f"{type(method).__module__}:{type(method).__qualname__}, version {method.version}",
        "data": {
            "fingerprint": context.data.fingerprint,
            "source": context.settings.data.of(context.key.task).title,
            "missing_splits": list(context.data.missing),
            "examples": {split: len(examples) for split, examples in context.data.splits.items()},
        },
        "backbone": {"name": backbone.name, "sha256": backbones.digest(backbone.name, backbone.revision)},
        "code": code_version(),
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in PACKAGES},
        "hardware": hardware(context.machine.cpu)
        | {
            "threads": torch.get_num_threads(),
            "precision": "bfloat16 products" if context.machine.bfloat16 else "float32",
        },
        "wall_seconds": wall,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def run_slice(settings: Settings, name: str, task: str) -> dict[str, Any]:
    """The part of the settings that one contestant's runs on a task depend on, itself; its needs are files."""
    values = settings.model_dump(mode="json")
    entry = settings.contestants[name]
    training = {key: value for key, value in values["training"].items() if key != "save_seconds"}
    return {
        "contestant": {"method": entry.method, "options": entry.options_for(task)},
        "data": settings.data.of(task).model_dump(mode="json"),
        "backbone": values["backbone"],
        "training": training,
        "thresholds": values["thresholds"],
        "selection": settings.selection,
    }


def slice_hash(settings: Settings, name: str, task: str) -> str:
    """A short hash of `run_slice`: runs with equal hashes may be compared file by file."""
    return hashlib.sha256(json.dumps(run_slice(settings, name, task), sort_keys=True).encode()).hexdigest()[:16]


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
