"""Energy is the difference of the counters, and missing where there are none."""

import math
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.deploy import energy
from bench.deploy.energy import Counter, Meter


def zone(root: Path, folder: str, name: str, value: object) -> Path:
    path = root / folder
    path.mkdir()
    (path / "name").write_text(f"{name}\n")
    (path / "max_energy_range_uj").write_text("1000000000\n")
    (path / "energy_uj").write_text(f"{value}\n")
    return path / "energy_uj"


def test_packages_are_added_and_their_parts_are_not_counted_twice(tmp_path):
    first, second = (
        zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000),
        zone(tmp_path, "intel-rapl:1", "package-1", 0),
    )
    part, board = zone(tmp_path, "intel-rapl:0:0", "core", 7), zone(tmp_path, "intel-rapl:2", "psys", 7)
    zone(tmp_path, "intel-rapl:3", "package-2", "not a number")
    meter = Meter(energy._rapl(tmp_path))
    before = meter.read()
    first.write_text("8000000"), second.write_text("500000"), part.write_text("9" * 9), board.write_text("9" * 9)
    spent = meter.since(before)
    assert spent["cpu"] == pytest.approx(3.5) and math.isnan(spent["gpu"])


@given(st.floats(0, 999), st.floats(0, 998))
def test_a_counter_may_start_again(start, more):
    shown = [start]
    meter = Meter([Counter("cpu", lambda: shown[0] % 1000, wraps=1000)])
    before = meter.read()
    shown[0] += more
    assert meter.since(before)["cpu"] == pytest.approx(more, abs=1e-6)


def test_without_counters_it_is_not_available(tmp_path):
    assert energy._rapl(tmp_path) == energy._rapl(tmp_path / "absent") == []
    spent = Meter([]).since(Meter([]).read())
    columns = energy.columns(spent, 10)
    assert [energy.shown(columns[name]) for name in ("cpu_mj", "gpu_mj")] == ["not available"] * 2
    assert energy.shown(energy.columns({"cpu": 2.0, "gpu": 0.0}, 10)["cpu_mj"]) == "200.0"


def test_gpus_are_read_through_nvml(monkeypatch):
    """The library is replaced, since it needs a driver; of four GPUs one does not count and one cannot be read."""

    class NVMLError(Exception):
        pass

    shown = {0: 1_000, 2: 5_000}

    def joules(device: int) -> int:
        if device not in shown:
            raise NVMLError
        return shown[device]

    fake = types.ModuleType("pynvml")
    fake.NVMLError, fake.nvmlInit, fake.nvmlDeviceGetCount = NVMLError, lambda: None, lambda: 4

    def handle(number):
        if number == 3:  # it cannot be read
            raise NVMLError
        return number

    fake.nvmlDeviceGetHandleByIndex, fake.nvmlDeviceGetTotalEnergyConsumption = handle, joules
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    meter = Meter(energy._nvml())
    before = meter.read()
    shown[0], shown[2] = 2_500, 5_500
    assert meter.since(before)["gpu"] == pytest.approx(2.0)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy._nvml() == []
