"""A GPU, or a share of one, for a job: lock files, since a workflow that limits jobs does not say which GPU is free."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout


def shares(gpu_share: int) -> int:
    """How many jobs the GPUs that this process sees take at once, `gpu_share` of them each."""
    return len(_devices()) * gpu_share


@contextmanager
def gpu_lease(device: str, gpu_share: int = 1) -> Iterator[None]:
    """Holds one of the `gpu_share` shares of a visible GPU, and shows this process only that GPU.

    `device` is the setting: jobs that compute on the CPU hold none. Neither do jobs that a cluster has given their GPU.
    Must be entered before CUDA is used. The least shared device is taken; waits where all are held. The locks are the
    machine's: every user may hold them.
    """
    devices = _devices()
    if device == "cpu" or not devices or "SLURM_JOB_ID" in os.environ:
        yield
        return
    folder = Path(tempfile.gettempdir()) / "costeff-gpus"
    folder.mkdir(exist_ok=True)
    with suppress(PermissionError):  # another user's folder, which that user has opened to all
        folder.chmod(0o777)
    while True:
        for name, share in ((name, share) for share in range(gpu_share) for name in devices):
            lock = FileLock(folder / f"{name}.{share}.lock", mode=0o666)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            before = os.environ.get("CUDA_VISIBLE_DEVICES")
            try:
                os.environ["CUDA_VISIBLE_DEVICES"] = name
                yield
                return
            finally:
                lock.release()
                os.environ.pop("CUDA_VISIBLE_DEVICES", None)
                if before is not None:
                    os.environ["CUDA_VISIBLE_DEVICES"] = before
        time.sleep(1)


def _devices() -> list[str]:
    """The names of the visible GPUs, as CUDA_VISIBLE_DEVICES has them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    return [str(i) for i in range(torch.cuda.device_count())]
