"""One GPU for one job: a lock file a device, since a workflow that limits jobs does not say which device is free."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout


@contextmanager
def gpu_lease(device: str) -> Iterator[None]:
    """Holds one of the visible GPUs and shows this process only that one; without a choice it does nothing.

    `device` is the setting: jobs that compute on the CPU hold none. Must be entered before CUDA is used. Waits for a
    free device where all are held. The locks are the machine's: every user may hold them.
    """
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    devices = visible or [str(i) for i in range(torch.cuda.device_count())]
    if device == "cpu" or len(devices) < 2:
        yield
        return
    folder = Path(tempfile.gettempdir()) / "costeff-gpus"
    folder.mkdir(exist_ok=True)
    with suppress(PermissionError):  # another user's folder, which that user has opened to all
        folder.chmod(0o777)
    while True:
        for name in devices:
            lock = FileLock(folder / f"{name}.lock", mode=0o666)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                os.environ["CUDA_VISIBLE_DEVICES"] = name
                yield
                return
            finally:
                lock.release()
        time.sleep(5)
