"""Settings of a process that runs a command: garbage collection and memory."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Import large packages without garbage collection, and exclude their objects from later collections.

    The imports create about half a million objects that live until the process ends.
    """
    gc.disable()
    yield
    gc.freeze()
    gc.enable()


def keep_memory() -> None:
    """Make glibc reuse the memory of freed tensors instead of returning it to the kernel.

    Otherwise the pages of every large tensor are faulted in again: a run takes 5 % longer, and measured latencies favor
    models with small tensors. Other C libraries are not changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        for threshold in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
            mallopt(threshold, 1 << 30)
