"""Runs that several processes of one machine train: their order, lost processes, and the content of tar files."""

import os
import tarfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.store import RunKey

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

with pytest.MonkeyPatch.context() as patch:  # other tests must not find benchmarks/coverage.py as `coverage`
    patch.syspath_prepend(BENCHMARKS)
    from pool.gpu import shared_gpu
    from pool.packing import Packing
    from pool.queue import ATTEMPTS, Queue
    from pool.workers import ENDED, Workers, spoiled


@st.composite
def queues(draw: st.DrawFn) -> Queue:
    """Queues in which a run depends on runs before it, also of another seed."""
    keys = [RunKey("rte", f"m{i}", "full", draw(st.integers(0, 2))) for i in range(draw(st.integers(1, 8)))]
    needs = {
        key: tuple(draw(st.lists(st.sampled_from(keys[:i]), unique=True, max_size=2))) if i else ()
        for i, key in enumerate(keys)
    }
    return Queue(needs, {key: draw(st.floats(0, 100)) for key in keys})


@settings(deadline=None, max_examples=50)
@given(queues(), st.data())
def test_every_run_starts_once_and_after_those_that_it_depends_on(queue, data):
    started, going, ended = [], [], set()
    while queue.left:
        while key := queue.next():
            assert ended.issuperset(queue.needs[key])
            started.append(key)
            going.append(key)
        assert going, "a run is left and none can start"
        ended.add(key := going.pop(data.draw(st.integers(0, len(going) - 1))))
        queue.end(key, data.draw(st.sampled_from(["", "diverged"])))
    assert sorted(started, key=str) == sorted(queue.needs, key=str)
    assert set(queue.finished) | queue.failed.keys() == queue.needs.keys()


@settings(deadline=None, max_examples=50)
@given(queues())
def test_of_the_runs_that_can_start_the_first_seed_and_then_the_longest_chain_is_taken(queue):
    ready = [key for key, needs in queue.needs.items() if not needs]
    taken = [queue.next() for _ in ready]
    assert [(key.seed, -queue.chain[key]) for key in taken] == sorted((key.seed, -queue.chain[key]) for key in ready)
    assert queue.next() is None


def test_a_run_whose_process_ended_is_tried_again_and_then_failed():
    key = RunKey("rte", "teacher", "full", 0)
    queue = Queue({key: ()}, {key: 1.0})
    for attempt in range(1, ATTEMPTS + 1):
        assert queue.next() == key
        queue.end(key, ENDED, again=True)
        assert queue.left == (attempt < ATTEMPTS)
    assert queue.failed == {key: ENDED}


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """Run folders with every published file, weights, and a tokenizer."""
    found = []
    for seed in range(6):
        folder = tmp_path / "root" / "runs" / RunKey("rte", "teacher", "full", seed).path
        (folder / "model").mkdir(parents=True)
        for name in ("run.json", "costs.json", "trace-validation.parquet", "model/config.json"):
            (folder / name).write_bytes(bytes([seed]) * 3000)
        for name in ("model/model.safetensors", "model/tokenizer.json", "failure.json"):
            (folder / name).write_bytes(b"w" * 100_000)
        found.append(folder)
    return found


def unpacked(out: Path, to: Path) -> set[str]:
    """Unpack all tar files as far as they can be read; return the finished runs."""
    for part in sorted(out.glob("runs-*.tar")):
        with tarfile.open(part) as archive, suppress(tarfile.ReadError):
            archive.extractall(to, filter="data")
    return {file.parent.name for file in to.rglob("run.json") if file.stat().st_size == 3000}


def test_packed_runs_are_complete_after_each_one_and_hold_no_weights(folders, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "runs-7.tar").write_text("of an earlier packing")
    packing = Packing(tmp_path / "root", out, size=40_000)
    for number, folder in enumerate(folders, 1):
        packing.add(folder)
        to = tmp_path / f"unpacked-{number}"
        assert unpacked(out, to) == {each.name for each in folders[:number]}
        assert {file.name for file in to.rglob("*.*")} == {
            "run.json", "costs.json", "trace-validation.parquet", "config.json"
        }  # fmt: skip
    parts = sorted(out.iterdir())
    assert len(parts) > 1 and all(part.stat().st_size <= 40_000 for part in parts)


@settings(deadline=None, max_examples=25)
@given(cut=st.integers(0, 40_000))
def test_a_truncated_tar_file_has_no_incomplete_run(cut, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("cut")
    root, out = tmp_path / "root", tmp_path / "out"
    out.mkdir()
    packing = Packing(root, out)
    for seed in range(2):
        folder = root / "runs" / RunKey("rte", "teacher", "full", seed).path
        folder.mkdir(parents=True)
        for name in ("run.json", "costs.json", "trace-validation.parquet"):
            (folder / name).write_bytes(b"x" * 3000)
        packing.add(folder)
    whole = (out / "runs-0.tar").read_bytes()
    (out / "runs-0.tar").write_bytes(whole[: min(cut + 512, len(whole))])
    to = tmp_path / "to"
    to.mkdir()
    for name in unpacked(out, to):
        assert {file.stat().st_size for file in next(to.rglob(name)).iterdir()} == {3000}


def test_a_run_that_cannot_be_packed_does_not_stop_the_others(folders, tmp_path):
    packing = Packing(tmp_path / "root", tmp_path)
    packing.add(folders[0])
    (tmp_path / "runs-0.tar").write_bytes(b"broken" * 2000)
    with pytest.raises(OSError, match=r"runs-0\.tar"):
        packing.add(folders[1])
    packing.add(folders[2])
    with tarfile.open(tmp_path / "runs-1.tar") as archive:
        assert any(name.endswith("seed2/run.json") for name in archive.getnames())


def test_a_process_that_dies_fails_its_run_alone(tiny_settings, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)  # the processes import `pool` from it
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "dying.py").write_text(
        "import os\nfrom bench.method import Method\n\n\n"
        "class Dies(Method):\n    def train(self, context, variant):\n        os._exit(7)\n"
    )
    values = tiny_settings(tmp_path / "results").model_dump(mode="json")
    values["contestants"] = {"teacher": values["contestants"]["teacher"], "dies": {"method": "dying:Dies"}}
    values |= {"tasks": ["rte"], "studies": [], "depth_reference": None, "folder": str(tmp_path)}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    teacher = RunKey("rte", "teacher", "full", 0)
    workers = Workers(2, str(tmp_path / "mine.yaml"), {})
    try:
        workers.give(replace(teacher, method="dies"))
        workers.give(teacher)
        reasons: dict[str, str] = {}
        while len(reasons) < 2:
            reasons |= {key.method: reason for key, reason in workers.ended(60)}
        assert reasons == {"teacher": "", "dies": f"{ENDED} (exit code 7)"} and spoiled(reasons["dies"])
        assert workers.lost == 1 and workers.idle == 2
        workers.give(teacher)  # found as finished, by whichever process
        assert workers.ended(60) == [(teacher, "")]
    finally:
        workers.stop()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_usable_gpu_mps_is_ended_and_nothing_trains_on_the_cpu(tmp_path, monkeypatch):
    control = tmp_path / "nvidia-cuda-mps-control"  # stands in for NVIDIA's program, which needs a GPU
    control.write_text(f'#!/bin/sh\necho "$@ $(cat)" >> {tmp_path}/calls\n')
    control.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match="no process can use the GPU"), shared_gpu("cuda"):
        pytest.fail("training would start")
    assert (tmp_path / "calls").read_text().split() == ["-d", "quit"]
    assert not any(name.startswith("CUDA_MPS") for name in os.environ)
