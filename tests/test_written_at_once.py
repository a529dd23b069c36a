"""Atomic writes: several writers of one file, and a writer that is killed."""

import json
import multiprocessing
import os
import signal
import time

import pandas as pd
import pytest

from bench.store import PART, read_json, read_parquet, write_json, write_parquet, written_at_once


def _write(path, value, times):
    for _ in range(times):
        write_json(path, {"values": [value] * 2000})
        write_parquet(path.with_suffix(".parquet"), pd.DataFrame({"value": [value] * 2000}))


def test_writers_of_one_file_neither_fail_nor_mix(tmp_path):
    path = tmp_path / "a.json"
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(path, value, 40)) for value in range(3)]
    for each in writers:
        each.start()
    while any(each.is_alive() for each in writers):
        if path.is_file():
            assert len(set(json.loads(path.read_text())["values"])) == 1
    for each in writers:
        each.join()
    assert [each.exitcode for each in writers] == [0, 0, 0]
    assert len(set(read_json(path)["values"])) == 1
    assert read_parquet(path.with_suffix(".parquet"))["value"].nunique() == 1
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.json", "a.parquet"]


def _hang(path):
    with written_at_once(path) as part:
        part.write_text("half")
        time.sleep(60)


def test_a_killed_writer_leaves_the_old_file_and_the_next_one_succeeds(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    writer = multiprocessing.get_context("fork").Process(target=_hang, args=(path,))
    writer.start()
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob(f"{PART}*/a.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert list(tmp_path.glob(f"{PART}*/a.json")), "the writer has not begun"
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert read_json(path) == {"a": 1}
    write_json(path, {"a": 2})
    assert read_json(path) == {"a": 2}


def test_an_error_leaves_the_old_file_and_no_other(tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
    assert read_json(tmp_path / "a.json") == {"a": 1}
