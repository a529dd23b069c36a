"""A GPU is held by one job at a time, by any user; a job for the CPU holds none. The devices are pretended."""

import os
import stat
import tempfile

import pytest
import torch
from filelock import FileLock

from bench.training.lease import gpu_lease


@pytest.fixture
def two_gpus(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path / "costeff-gpus"


def test_the_first_free_device_is_held_and_let_go(two_gpus, monkeypatch):
    with gpu_lease("auto"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        with gpu_lease("cuda"):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    for name in ("0", "1"):
        with FileLock(two_gpus / f"{name}.lock").acquire(timeout=0):
            pass  # free again


def test_another_user_may_hold_it_next(two_gpus):
    before = os.umask(0o077)
    try:
        with gpu_lease("auto"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(two_gpus.stat().st_mode) == 0o777
    assert stat.S_IMODE((two_gpus / "0.lock").stat().st_mode) == 0o666


def test_a_job_for_the_cpu_holds_none(two_gpus):
    with gpu_lease("cpu"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not two_gpus.exists()
