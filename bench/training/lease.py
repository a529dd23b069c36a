"""A GPU, or a share of one, for a job: locks, since a workflow that limits jobs does not say which GPU is free.

A lock is a bound abstract Unix socket (unix(7)): it holds for all users of the machine, ends with its process, and is
no file in a folder that others can write to. Where there are no such sockets (macOS, Windows) no GPU is leased.
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
"""Beginning of the locks' names."""


def shares(gpu_share: int) -> int:
    """Return how many jobs the visible GPUs take at once, `gpu_share` of them each."""
    return len(_devices()) * gpu_share


@contextmanager
def gpu_lease(device: str, gpu_share: int = 1) -> Iterator[None]:
    """Hold one of the `gpu_share` shares of a visible GPU, and show this process only that GPU.

    To be entered before CUDA is used. Takes the least shared device, and waits while all shares are held, by any user.

    Args:
        device: The setting. Jobs on the CPU hold no share, nor do those that SLURM has given a GPU.
        gpu_share: Jobs that share a GPU.
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
    """Return the lock `name`, held until it is closed; None if it is held already."""
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
