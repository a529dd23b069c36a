"""Energy counters of this machine: RAPL of the processor, NVML of NVIDIA GPUs.

They count the whole machine, idle power and other programs included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
PARTS = ("cpu", "gpu")


@dataclass(frozen=True)
class Counter:
    """An energy counter.

    Attributes:
        part: "cpu" or "gpu".
        read: Returns joules since some moment.
        wraps: Joules at which the counter starts again from 0; infinity if it does not.
    """

    part: str
    read: Callable[[], float]
    wraps: float = math.inf


class Meter:
    """Joules that parts of this machine spend.

    Args:
        counters: The counters; None: those of this machine.
    """

    def __init__(self, counters: Sequence[Counter] | None = None) -> None:
        self.counters = [*_rapl(POWERCAP), *_nvml()] if counters is None else list(counters)

    def read(self) -> list[float]:
        """Return what the counters show, in joules."""
        return [counter.read() for counter in self.counters]

    def since(self, before: Sequence[float]) -> dict[str, float]:
        """Return the joules of each part since `read` returned `before`; NaN for a part without a counter.

        A counter may have started again from 0 once in between.
        """
        spent = dict.fromkeys(PARTS, math.nan)
        for counter, old, new in zip(self.counters, before, self.read(), strict=True):
            more = new - old if new >= old else new - old + counter.wraps
            spent[counter.part] = more if math.isnan(spent[counter.part]) else spent[counter.part] + more
        return spent


def columns(spent: dict[str, float], texts: int) -> dict[str, float]:
    """Return the columns `cpu_mj` and `gpu_mj`: millijoules for each of a number of texts."""
    return {f"{part}_mj": 1e3 * spent[part] / texts if texts else math.nan for part in PARTS}


def shown(millijoules: float) -> str:
    """Return millijoules as a cell of a table."""
    return "not available" if math.isnan(millijoules) else f"{millijoules:.1f}"


def _rapl(root: Path) -> list[Counter]:
    """Return the counters of the processor packages that this process may read (Linux; often the superuser alone)."""
    found = []
    for folder in sorted(root.glob("*-rapl:*")):
        try:
            if not (folder / "name").read_text().startswith("package"):
                continue  # a part of a package, or the whole board, which contains the packages
            wraps = float((folder / "max_energy_range_uj").read_text()) / 1e6
            file = folder / "energy_uj"
            float(file.read_text())
        except (OSError, ValueError):
            continue
        found.append(Counter("cpu", lambda file=file: float(file.read_text()) / 1e6, wraps))  # type: ignore[misc]
    return found


def _nvml() -> list[Counter]:
    """Return the counters of the GPUs; none without the package nvidia-ml-py, a driver, or a GPU that counts."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # the package is absent, or its library or driver is
        return []
    found = []
    for number in range(pynvml.nvmlDeviceGetCount()):

        def joules(number: int = number) -> float:
            return pynvml.nvmlDeviceGetTotalEnergyConsumption(pynvml.nvmlDeviceGetHandleByIndex(number)) / 1e3

        try:
            joules()
        except pynvml.NVMLError:  # older than Volta, or it cannot be read
            continue
        found.append(Counter("gpu", joules))
    return found
