"""A GPU that several processes share."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bench.errors import UserError

_PROBE = "import torch; torch.ones(1, device='cuda').sum().item()"


@contextmanager
def shared_gpu(device: str) -> Iterator[str]:
    """Let the processes that start within the context share the GPU, through NVIDIA's MPS where it works.

    Args:
        device: The setting `training.device`; on the CPU nothing is done.

    Yields:
        How the GPU is shared, in words.

    Raises:
        UserError: No process can use the GPU.
    """
    if device == "cpu":
        yield "no GPU"
        return
    control = shutil.which("nvidia-cuda-mps-control")
    if control:
        with _mps(control) as started:
            if started and _usable():
                yield "MPS"
                return
    if not _usable():
        raise UserError("no process can use the GPU; see what nvidia-smi says, or train with --device cpu")
    yield "without MPS"


def _usable() -> bool:
    """Return whether a new process can compute on the GPU."""
    with suppress(subprocess.TimeoutExpired):
        found = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, timeout=60)
        sys.stderr.write(found.stderr[-1000:])
        return found.returncode == 0
    return False


@contextmanager
def _mps(control: str) -> Iterator[bool]:
    """Run NVIDIA's MPS, which processes that start within the context use; yield whether it has started."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        own = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        os.environ |= own
        try:
            yield _call(control, "-d")
        finally:
            _call(control, said="quit\n")
            for name in own:
                os.environ.pop(name, None)


def _call(control: str, *arguments: str, said: str = "") -> bool:
    """Call the control program of MPS; return whether it succeeded."""
    quiet = subprocess.DEVNULL  # the daemon inherits the output, and would keep a pipe of the caller open
    try:
        done = subprocess.run([control, *arguments], input=said, text=True, timeout=20, stdout=quiet, stderr=quiet)
        return done.returncode == 0
    except (OSError, subprocess.SubprocessError) as error:
        print(f"MPS: {error}", file=sys.stderr)
        return False
