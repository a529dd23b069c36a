"""One GPU for one job: a lock file a device, since a workflow that limits jobs does not say which device is free."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout


@contextmanager
def gpu_lease() -> Iterator[None]:
    """Holds one of the visible GPUs and shows this process only that one; without a choice it does nothing.

    Must be entered before CUDA is used. Waits for a free device where all are held.
    """
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    devices = visible or [str(i) for i in range(torch.cuda.device_count())]
    if len(devices) < 2:
        yield
        return
    while True:
        for device in devices:
            lock = FileLock(Path(tempfile.gettempdir()) / f"costeff-gpu-{device}.lock")
            try:
                with lock.acquire(timeout=0):
                    os.environ["CUDA_VISIBLE_DEVICES"] = device
                    yield
                    return
            except Timeout:
                continue
        time.sleep(5)
