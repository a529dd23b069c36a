"""run.json measures the run and not its process, and does not need every package."""

import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest

from bench import provenance
from bench.runs.training import facts
from bench.runs.training.facts import Usage

MEGABYTES = 1 << 20


def usage_of_two_runs() -> list[Usage]:
    """Return the usage at the end of one run, and at the start and the end of the next one."""
    earlier = bytearray(400 * MEGABYTES)
    usages = [Usage.now()]
    del earlier
    usages.append(Usage.start())
    block = bytearray(200 * MEGABYTES)
    sum(range(1_000_000))
    usages.append(Usage.now())
    del block
    return usages


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets the peak of the memory")
def test_an_earlier_run_of_the_process_does_not_count():
    slack = 50 * MEGABYTES  # stacks of threads that end
    # A new process: memory that other tests left may be freed between two readings, and hide the block.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        earlier, began, now = pool.submit(usage_of_two_runs).result()
    assert earlier.peak - began.peak == pytest.approx(400 * MEGABYTES, abs=slack)
    assert now.peak - began.peak == pytest.approx(200 * MEGABYTES, abs=slack)
    assert now.cpu > began.cpu


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(facts, "PACKAGES", ("torch", "no-such-package"))
    assert list(facts._versions()) == ["torch"]


def test_a_copy_without_git_names_its_commit(monkeypatch):
    monkeypatch.setattr(provenance, "commit_of", lambda file: "")
    monkeypatch.setenv("COSTEFF_COMMIT", "0123456789ab")
    provenance.suite_version.cache_clear()
    assert provenance.suite_version() == "0123456789ab"
    monkeypatch.delenv("COSTEFF_COMMIT")
    provenance.suite_version.cache_clear()
    assert provenance.suite_version() != "0123456789ab"
    provenance.suite_version.cache_clear()
