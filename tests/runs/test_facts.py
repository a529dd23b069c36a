"""run.json measures the run and not its process, and does not need every package."""

import sys

import pytest

from bench import provenance
from bench.runs.training import facts
from bench.runs.training.facts import Usage

MEGABYTES = 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets the peak of the memory")
def test_an_earlier_run_of_the_process_does_not_count():
    earlier = bytearray(300 * MEGABYTES)
    before = Usage.now()
    del earlier
    began = Usage.start()
    assert began.peak < before.peak - 200 * MEGABYTES
    block = bytearray(50 * MEGABYTES)
    sum(range(1_000_000))
    now = Usage.now()
    assert 50 * MEGABYTES <= now.peak - began.peak + MEGABYTES < 200 * MEGABYTES
    assert now.cpu > began.cpu and len(block) > 0


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(facts, "PACKAGES", ("torch", "no-such-package"))
    assert list(facts._versions()) == ["torch"]


def test_a_copy_without_git_names_its_commit(monkeypatch):
    monkeypatch.setattr(provenance, "commit_of", lambda file: "")
    monkeypatch.setenv("COSTEFF_COMMIT", "0123456789ab")
    assert provenance.suite_version() == "0123456789ab"
    monkeypatch.delenv("COSTEFF_COMMIT")
    assert provenance.suite_version() != "0123456789ab"
