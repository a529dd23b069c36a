"""A disk that is too small is reported before anything trains, or in one line when it is full."""

import shlex
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from bench.errors import UserError
from bench.runs.identity import Identities
from bench.runs.plan import runs
from bench.runs.planning.checks import check_room
from bench.runs.planning.coming import Coming, coming
from bench.settings import Settings

Usage = namedtuple("Usage", "total used free")

# One write of each library that writes results, to the folder of the first argument.
WRITES = """
import sys
from pathlib import Path
import numpy as np, pandas as pd, torch
from safetensors.torch import save_file
from bench.errors import is_disk_full
path = Path(sys.argv[1]) / "x"
writes = {
    "torch": lambda: torch.save({"a": torch.zeros(200_000)}, path),
    "torch, large": lambda: torch.save({"a": torch.zeros(2_000_000)}, path),
    "safetensors": lambda: save_file({"a": torch.zeros(200_000)}, path),
    "parquet": lambda: pd.DataFrame({"a": np.random.rand(100_000)}).to_parquet(path),
    "text": lambda: path.write_text("x" * 1_000_000),
}
for name, write in writes.items():
    path.unlink(missing_ok=True)
    try:
        write()
    except Exception as error:
        assert is_disk_full(error), f"{name}: {error!r}"
    else:
        raise AssertionError(f"{name}: was written")
"""


def on_a_small_disk(folder: Path, kilobytes: int, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs `command` where `folder` is a file system of that size, mounted in a namespace of its own."""
    folder.mkdir(exist_ok=True)
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size={kilobytes}k none {shlex.quote(str(folder))}"
    if not shutil.which("unshare") or subprocess.run([*alone, mount], capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here: unshare(1) and user namespaces are needed")
    return subprocess.run([*alone, f"{mount} && {shlex.join(command)}"], capture_output=True, text=True)


def test_the_room_is_known_before_anything_trains(
    tiny_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny_settings(tmp_path / "not" / "there" / "yet")
    planned = runs(settings)
    to_come = coming(settings, Identities(settings))
    assert f"{len(planned)} remaining runs" in check_room(settings, to_come)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 10**9, 1000))
    with pytest.raises(UserError, match=r"need about .* GB and 0\.0 GB are free.*`results`"):
        check_room(settings, to_come)
    assert "disk: 0 remaining runs" in check_room(settings, Coming((), (), {}))


def test_a_full_disk_is_known_whatever_library_met_it(tmp_path: Path) -> None:
    done = on_a_small_disk(tmp_path / "disk", 300, [sys.executable, "-c", WRITES, str(tmp_path / "disk")])
    assert done.returncode == 0, done.stderr


def test_a_run_on_a_full_disk_ends_with_one_line(tiny_settings: Callable[..., Settings], tmp_path: Path) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(yaml.safe_dump(tiny_settings(tmp_path / "disk").model_dump(mode="json")))
    command = [sys.executable, "-m", "bench.cli", "run", "sst2", "teacher", "full", "--config", str(config)]
    done = on_a_small_disk(tmp_path / "disk", 100, command)
    assert done.returncode == 2
    assert "the disk is full" in done.stderr and "Traceback" not in done.stderr
