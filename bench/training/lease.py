"""Locks that assign each job a GPU, or a share of one. A workflow limits the number of jobs but assigns no GPU to them.

A lock is a bound abstract Unix socket (unix(7)). It applies to all users of the machine, is released when its process
ends, and leaves no file in a shared folder. On systems without such sockets (macOS, Windows) no GPU is leased.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

LOCKS = "costeff-gpu"
"""Prefix of the names of locks."""


def shares(gpu_share: int) -> int:
    """Return how many jobs can use the visible GPUs at once, with `gpu_share` jobs per GPU."""
    return len(_devices()) * gpu_share


@contextmanager
def gpu_lease(device: str, gpu_share: int = 1) -> Iterator[None]:
    """Hold one of the `gpu_share` shares of a visible GPU, and make only that GPU visible to this process.

    Must be entered before CUDA is initialised. Selects the GPU with the fewest jobs, and waits while all shares are
    held by any user.

    Args:
        device: The setting `training.device`. Jobs on the CPU hold no share, nor do jobs to which SLURM assigned a GPU.
        gpu_share: Number of jobs that share a GPU.
    """
    devices = _devices()
    if device == "cpu" or not devices or "SLURM_JOB_ID" in os.environ or sys.platform != "linux":
        yield
        return
    while True:
        for name, share in ((name, share) for share in range(gpu_share) for name in devices):
            lock = _lock(f"{name}.{share}")
            if lock is None:
                continue
            before = os.environ.get("CUDA_VISIBLE_DEVICES")
            try:
                os.environ["CUDA_VISIBLE_DEVICES"] = name
                yield
                return
            finally:
                lock.close()
                os.environ.pop("CUDA_VISIBLE_DEVICES", None)
                if before is not None:
                    os.environ["CUDA_VISIBLE_DEVICES"] = before
        time.sleep(1)


def _lock(name: str) -> socket.socket | None:
    """Return the lock `name`, held until it is closed, or None if it is already held."""
    lock = socket.socket(socket.AF_UNIX)
    try:
        lock.bind(f"\0{LOCKS}-{name}")
    except OSError as error:
        lock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        return None
    return lock


def _devices() -> list[str]:
    """Return the names of the visible GPUs, as in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [str(i) for i in range(torch.cuda.device_count())]
