"""A baseline is removed by deleting its file and its lines in config/: its tests then go with it."""

from pathlib import Path

HERE = Path(__file__).parent
BASELINES = HERE.parent.parent / "baselines"

collect_ignore = [
    test.name for test in HERE.glob("test_*.py") if not (BASELINES / test.name.removeprefix("test_")).is_file()
]
