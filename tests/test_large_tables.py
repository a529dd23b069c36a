"""Tables of others that are small on disk and large in memory are refused before they are read."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.errors import UserError
from bench.sharing.untrusted import read_table


@pytest.mark.parametrize(
    "values",
    [pa.array([[0.0] * 201_000_000], pa.list_(pa.float32())), pa.array(["x" * 10_000_000] * 110).dictionary_encode()],
    ids=["a long list", "one text many times"],
)
def test_a_small_file_that_is_large_in_memory_is_refused(tmp_path, values):
    file = tmp_path / "all-points.parquet"
    pq.write_table(pa.table({"thresholds": values}), file, compression="zstd", store_schema=False)
    assert file.stat().st_size < 1_000_000
    with pytest.raises(UserError, match="more than 200000000 values, or 1 GB when decompressed"):
        read_table(file, {})
