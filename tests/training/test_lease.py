"""A GPU's shares are held by one job each, of any user; a job for the CPU holds none. The devices are pretended."""

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.training import lease
from bench.training.lease import gpu_lease, shares


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """`gpus(n)`: a machine that has so many, all free."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(lease, "LOCKS", f"test-{os.getpid()}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)

    def make(count):
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        return tmp_path

    return make


def held(stack, *arguments):
    """The device that one more job is shown."""
    stack.enter_context(gpu_lease(*arguments))
    return os.environ.pop("CUDA_VISIBLE_DEVICES")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(devices=st.integers(1, 8), share=st.integers(1, 4))
def test_all_devices_are_used_evenly_and_every_share_once(gpus, devices, share):
    gpus(devices)
    assert shares(share) == devices * share
    with ExitStack() as jobs:
        shown = [held(jobs, "auto", share) for _ in range(devices * share)]
        for round_ in range(share):
            assert shown[round_ * devices :][:devices] == [str(i) for i in range(devices)]
    with ExitStack() as jobs:
        assert held(jobs, "cuda", share) == "0"  # free again


def test_a_job_that_finds_all_shares_held_waits_for_one(gpus, monkeypatch):
    gpus(1)
    first, waited = ExitStack(), []
    held(first, "auto")

    def wait(seconds):
        waited.append(seconds)
        first.close()
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)

    monkeypatch.setattr("time.sleep", wait)
    with ExitStack() as jobs:
        assert held(jobs, "auto") == "0" and len(waited) == 1


def test_only_what_is_visible_is_leased(gpus, monkeypatch):
    gpus(8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5f")
    assert shares(2) == 4
    with gpu_lease("auto"):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3, GPU-5f"


def test_nothing_is_written_where_others_may_have_put_a_link(gpus, tmp_path_factory):
    folder, target = gpus(2), tmp_path_factory.mktemp("target")
    target.chmod(0o700)
    (folder / "costeff-gpus").symlink_to(target)
    with gpu_lease("auto"):
        pass
    assert target.stat().st_mode & 0o777 == 0o700 and not list(target.iterdir())


def test_a_share_is_free_once_its_process_is_killed(gpus):
    gpus(1)
    holder = f"""
import torch
from bench.training import lease
lease.LOCKS, torch.cuda.device_count = {lease.LOCKS!r}, lambda: 1
with lease.gpu_lease("auto"):
    print("held", flush=True)
    input()
"""
    command = [sys.executable, "-c", holder]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        assert lease._lock("0.0") is None
        other.kill()
    lease._lock("0.0").close()


@pytest.mark.parametrize(("device", "count", "job"), [("cpu", 2, ""), ("auto", 0, ""), ("cuda", 2, "17")])
def test_jobs_for_the_cpu_and_those_that_a_cluster_gave_theirs_hold_none(gpus, monkeypatch, device, count, job):
    folder = gpus(count)
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    with gpu_lease(device):
        assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert not list(folder.iterdir())
