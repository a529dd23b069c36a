"""Traces contain the outputs of the model, and are read back bit for bit."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from toys import cascade, encoder, examples, trace

from bench.errors import UserError
from bench.measuring.recording import model_inputs, record
from bench.trace import Trace


def same(one: Trace, other: Trace) -> bool:
    fields = ("idx", "labels", "lengths", "difficulty")
    return one.logits.tobytes() == other.logits.tobytes() and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in fields
    )


@pytest.mark.parametrize("make", [encoder, cascade])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_a_trace_is_every_exit_of_every_example_in_order(make, batch_size):
    model, data = make(), examples(20)
    recorded = record(model, data, batch_size)
    assert recorded.logits.shape == (model.exit_count, 20, 3)
    assert recorded.logits.dtype == np.float32
    with torch.no_grad():
        for i in range(20):
            alone = model(**model_inputs(data, np.array([i]), model.device)).exit_logits[:, 0]
            np.testing.assert_allclose(recorded.logits[:, i], alone, atol=1e-5)
    for name in ("idx", "labels", "lengths", "difficulty"):
        np.testing.assert_array_equal(getattr(recorded, name), getattr(data, name))


def test_recording_is_deterministic_and_gives_the_mode_back():
    model = encoder(dropout=0.5).train()
    assert same(record(model, examples(), 8), record(model, examples(), 8))
    assert model.training


def test_recording_ignores_autocast():
    model, data = encoder(), examples()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = record(model, data, 8)
    assert same(inside, record(model, data, 8))


@settings(max_examples=30, deadline=None)
@given(
    arrays(np.float32, array_shapes(min_dims=3, max_dims=3), elements=st.floats(width=32)),
    st.booleans(),
    st.booleans(),
)
def test_a_saved_trace_is_exact(tmp_path_factory, logits, regression, rated):
    count = logits.shape[1]
    labels = np.linspace(0, 5, count, dtype=np.float32) if regression else np.full(count, -1)
    saved = Trace(np.arange(count) * 7, labels, np.arange(count), np.arange(count) if rated else None, logits)
    path = tmp_path_factory.mktemp("trace") / "deep" / "trace.parquet"
    saved.save(path)
    loaded = Trace.load(path)
    assert same(saved, loaded)
    assert loaded.labels.dtype == labels.dtype


def test_a_trace_is_a_plain_table(tmp_path):
    saved = record(encoder(), examples(5), 8)
    saved.save(tmp_path / "trace.parquet")
    table = pq.read_table(tmp_path / "trace.parquet")
    assert table.column_names == ["idx", "label", "length", "difficulty", "exit_1", "exit_2", "exit_3"]
    np.testing.assert_array_equal(table.column("exit_2").to_pylist(), saved.logits[1])


def test_a_failed_write_leaves_the_old_trace_alone(tmp_path, monkeypatch):
    path, old = tmp_path / "trace.parquet", trace(np.ones((2, 3, 2)))
    old.save(path)

    def full_disk(table, where, **packing):
        where.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(OSError, match="no space"):
        trace(np.zeros((2, 3, 2))).save(path)
    assert same(Trace.load(path), old)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "other"])
def test_unreadable_traces_are_named(tmp_path, damage):
    path = tmp_path / "trace.parquet"
    trace(np.ones((2, 3, 2))).save(path)
    if damage == "missing":
        path.unlink()
    elif damage == "other":
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    else:
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"trace\.parquet") as error:
        Trace.load(path)
    assert "\n" not in str(error.value)
