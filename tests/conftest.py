"""What several test folders share: a tiny random BERT in the Hub's layout, and settings that use it."""

import gc
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic

from bench import cli
from bench.conformance.backbone import make_backbone
from bench.settings import Settings, check, load

TINY = "conform"


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random 4-layer BERT (hidden 48, 4 heads) whose vocabulary is the sketch's words."""
    return make_backbone(tmp_path_factory.mktemp("backbone"))


@pytest.fixture(scope="session")
def tiny_settings(tiny_backbone: Path) -> Callable[..., Settings]:
    """`tiny_settings(results, **sections)`: the profile `conform` on the tiny backbone, parts of it replaced."""

    def build(results: Path, **sections: Any) -> Settings:
        own = {"results": str(results), "backbone": {"name": str(tiny_backbone)}}
        values = load(TINY, own).model_dump()
        changed = {name: values[name] | section for name, section in sections.items()}
        return check(values | changed, "test")

    return build


@pytest.fixture
def costeff(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`costeff(*words, folder=tmp_path)`: run a command in this process, through the function that the script runs.

    As in a process of its own, stderr has the log and the warnings too. An error that the command line does not handle
    is raised. A command that replaces its process (`workflow -n`) cannot run here.
    """

    def refuse(*command: object) -> None:
        raise AssertionError(f"the command replaces its process by {command}")

    def run(*words: object, folder: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        arguments, level = [str(word) for word in words], logging.root.level
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(record=True) as warned:
            patch.setattr(sys, "argv", ["costeff", *arguments])
            patch.setattr(sys, "path", [*sys.path])
            patch.setattr(os, "execv", refuse)
            patch.setattr(gc, "freeze", lambda: None)  # objects of this process are still collected
            patch.setattr(logging.root, "handlers", [])  # of pytest; without any, the command adds the one for stderr
            patch.setenv("TOKENIZERS_PARALLELISM", "false")
            patch.chdir(folder)
            for category in (DeprecationWarning, PendingDeprecationWarning):  # as Python does by default
                warnings.simplefilter("ignore", category)
            try:
                with pytest.raises(SystemExit) as ended:
                    cli.main()
            finally:
                logging.root.setLevel(level)
        out, err = capfd.readouterr()
        texts = (warnings.formatwarning(each.message, each.category, each.filename, each.lineno) for each in warned)
        return subprocess.CompletedProcess(arguments, ended.value.code or 0, out, "".join(texts) + err)

    return run


@pytest.fixture(autouse=True)
def log_level():
    """Restore the level of the root logger, which some commands change."""
    level = logging.root.level
    yield
    logging.root.setLevel(level)


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """A made-up results/<profile> folder of two seeds; read only."""
    return synthetic.write_results(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture(scope="session")
def points(results) -> pd.DataFrame:
    return synthetic.read_points(results)
