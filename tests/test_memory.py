"""The memory of large tensors is kept from one step to the next."""

import platform
import subprocess
import sys

import pytest

STEPS = """
import ctypes, resource, sys
from bench.cli import keep_memory
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a huge page is one fault for 512 pages
if sys.argv[1] == "keep":
    keep_memory()
size = 64 << 20  # in a name: a constant would be folded away
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(b"x") * size
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_a_tensor_as_large_as_a_freed_one_causes_no_page_faults() -> None:
    faults = {
        how: int(subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, check=True).stdout)
        for how in ("keep", "as it is")
    }
    assert 2 * faults["keep"] < faults["as it is"]  # 16,384 pages of 4 KiB
