"""Latencies under load follow queueing theory, and each number in the table is measured."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from toys import encoder
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from bench.cli import app
from bench.deploy import load
from bench.deploy.load import Answers, measure, printed, serve, texts_of
from bench.deploy.writing import Form
from bench.encoder import EarlyExitClassifier
from bench.errors import UserError
from bench.reporting.load import figure, write_load

LEAVING = {"kind": "uniform", "policy": "entropy", "exit_start": 1, "threshold": 0.95, "thresholds": [], "exit": 0,
           "tolerance": None}  # fmt: skip
STATIC = LEAVING | {"kind": "static", "policy": "none", "threshold": None}
TEXTS = ["w2 w3", "w9 w8 w7 w6 w5", "w4", "w20 w30 w40 w50 w51 w52 w53 w54"]


class Clock:
    """A clock that moves only where the worker sleeps or computes."""

    def __init__(self) -> None:
        self.time = 5.0

    def now(self) -> float:
        return self.time

    def advance(self, seconds: float) -> None:
        self.time += max(seconds, 1e-9)  # as a clock does, which never stands still


def served(arrivals: np.ndarray, services: np.ndarray, **options) -> tuple[Answers, list[tuple[int, int]]]:
    clock, batches = Clock(), []

    def compute(first: int, last: int) -> None:
        batches.append((first, last))
        clock.advance(services[first])

    return serve(compute, arrivals, now=clock.now, sleep=clock.advance, **options), batches


@st.composite
def requests(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    count = draw(st.integers(1, 40))
    times = st.floats(1e-3, 10)
    arrivals = np.cumsum(draw(st.lists(times, min_size=count, max_size=count)))
    return arrivals, np.array(draw(st.lists(times, min_size=count, max_size=count)))


@given(requests())
def test_one_at_a_time_waits_as_in_lindleys_recursion(drawn):
    """The wait of a request is what its predecessor waits and takes, less the time between them, at least 0."""
    arrivals, services = drawn
    found, _ = served(arrivals, services)
    wait, waits = 0.0, []
    for i, gap in enumerate(np.diff(arrivals, prepend=arrivals[0])):
        wait = max(0.0, wait + (services[i - 1] if i else 0.0) - gap)
        waits.append(wait)
    np.testing.assert_allclose(found.began - arrivals, waits, atol=1e-6)
    np.testing.assert_allclose(found.ended - found.began, services, atol=1e-6)
    assert found.batches == found.answered == len(arrivals) and found.busy == pytest.approx(services.sum())


@given(requests(), st.integers(1, 9), st.floats(0, 20), st.floats(5, 500))
def test_a_batch_begins_when_it_is_full_or_its_first_text_has_waited(drawn, batch_size, window, limit):
    arrivals, services = drawn
    found, batches = served(arrivals, services, batch_size=batch_size, window=window, limit=limit)
    assert [first for first, _ in batches] == [0, *(last for _, last in batches)][: len(batches)]
    free = 0.0
    for first, last in batches:
        began, ended = found.began[first], found.ended[first]
        full = last - first == batch_size
        assert 1 <= last - first <= batch_size and set(found.began[first:last]) == {began}
        assert began >= max(free, arrivals[last - 1]) - 1e-6
        assert full or began >= arrivals[first] + window - 1e-6
        assert full or last == len(arrivals) or arrivals[last] > began, "a text that waits is left out"
        soonest = max(free, min(arrivals[first] + window, arrivals[last - 1] if full else np.inf))
        assert began == pytest.approx(soonest, abs=1e-5), "the worker idles"
        free = ended
    assert np.isfinite(found.ended[: found.answered]).all() and np.isnan(found.ended[found.answered :]).all()
    if found.answered < len(arrivals):
        assert max(free, arrivals[found.answered]) + window >= limit - 1e-6


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("variance", [0.0, 1.0])
def test_the_mean_wait_is_that_of_pollaczek_and_khinchine(rho, variance):
    """Poisson arrivals: rho (1 + c) / (2 (1 - rho)) services, with c the squared coefficient of variation."""
    rng, count = np.random.default_rng(0), 60_000
    arrivals = np.sort(rng.uniform(0, count, count))
    services = rng.exponential(rho, count) if variance else np.full(count, rho)
    found, _ = served(arrivals, services)
    expected = rho * rho * (1 + variance) / (2 * (1 - rho))
    assert np.mean(found.began - arrivals) == pytest.approx(expected, rel=0.12)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """A model without early exit and one with, in folders whose names hold a space."""
    words = {"[PAD]": 0, "[UNK]": 1} | {f"w{i}": i for i in range(2, 60)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", model_max_length=32)
    made = []
    for name, model, leaving in (("a whole", encoder(exits=[3]), STATIC), ("an early", encoder(), LEAVING)):
        made.append(tmp_path_factory.mktemp("models") / name)
        EarlyExitClassifier.of(model, leaving, ("a", "b", "c")).save_pretrained(made[-1])
        fast.save_pretrained(made[-1])
    return made


@pytest.fixture
def brief(monkeypatch) -> None:
    monkeypatch.setattr("bench.deploy.load._WARM", 0.1)


def test_a_model_is_measured_with_and_without_early_exit(folders, brief, tmp_path):
    table = measure(folders, TEXTS, rates=[40, 20], seconds=0.6)
    whole, early = map(str, folders)
    named = list(table[["model", "early_exit", "rate"]].itertuples(index=False, name=None))
    series = [(whole, False), (early, True), (early, False)]
    assert named == [(*each, rate) for each in series for rate in (20, 40)]
    exits = table.groupby(["model", "early_exit"])["exit"].mean()
    assert exits[whole, False] == 1 and 1 <= exits[early, True] < 3 and exits[early, False] == 3
    assert (table["answered"] <= table["requests"]).all() and (table["answered"] > 0).all()
    assert (table["p50_ms"] <= table["p95_ms"]).all() and (table["p95_ms"] <= table["p99_ms"]).all()
    assert ((table["busy"] > 0) & (table["busy"] <= 1)).all() and (table["batch_ms"] > 0).all()
    assert table.groupby("rate")["requests"].nunique().tolist() == [1, 1], "the same arrivals for all models"
    assert printed(table).count("not available") % 6 == 0
    files = write_load(table, tmp_path / "a folder" / "load.csv")
    assert [file.suffix for file in files] == [".csv", ".png", ".pdf"] and all(file.stat().st_size for file in files)
    pd.testing.assert_frame_equal(pd.read_csv(files[0]), table, check_dtype=False)


def fixed_times(monkeypatch, seconds: Callable[[int], float]) -> None:
    """Have `measure` compute a batch of n texts in `seconds(n)` by a clock of its own, whatever the machine."""
    clock = Clock()

    def classify(texts: list) -> np.ndarray:
        clock.advance(seconds(len(texts)))
        return np.ones(len(texts), dtype=np.int64)

    monkeypatch.setattr(load, "_classify", lambda *_: classify)
    monkeypatch.setattr(load, "serve", partial(serve, now=clock.now, sleep=clock.advance))


def test_latency_grows_with_duration_only_above_capacity(folders, brief, monkeypatch):
    """The median at a low rate is the time of a computation; p99 at 4 times the capacity is 1.5 times the duration."""
    fixed_times(monkeypatch, lambda count: 0.002)
    for seconds in (5, 50):
        low = measure(folders[:1], TEXTS, rates=[10], seconds=seconds).iloc[0]
        assert low["answered"] == low["requests"] and low["busy"] == pytest.approx(0.02, rel=0.5)
        assert low["p50_ms"] == pytest.approx(2) and low["p99_ms"] < 2 * 2
        high = measure(folders[:1], TEXTS, rates=[2_000], seconds=seconds).iloc[0]
        # Half of the texts are answered in twice the duration; the last of them has waited longest.
        assert high["answered"] == pytest.approx(high["requests"] / 2, rel=0.1)
        assert high["p99_ms"] == pytest.approx(1e3 * 1.5 * seconds, rel=0.1)
        assert high["throughput"] == pytest.approx(500, rel=0.01) and high["busy"] == pytest.approx(1, abs=0.01)


def test_batches_fill_under_load(folders, brief, monkeypatch):
    """At more than the capacity of batches of 8, which take less time than 8 texts one by one."""
    fixed_times(monkeypatch, lambda count: 0.001 + 0.0001 * count)
    alone, together = (
        measure(folders[:1], TEXTS, rates=[9_000], seconds=1, batch_size=size, window=window).iloc[0]
        for size, window in ((1, 0.0), (8, 0.005))
    )
    assert alone["batch_ms"] == pytest.approx(1.1) and together["batch_ms"] == pytest.approx(1.8, rel=0.01)
    assert alone["throughput"] == pytest.approx(1 / 0.0011, rel=0.02)
    assert together["throughput"] == pytest.approx(8 / 0.0018, rel=0.02)


def test_batches_are_measured(folders, brief):
    table = measure(folders[1:], TEXTS, rates=[5_000], seconds=0.3, batch_size=8, window=0.005)
    assert (table["answered"] > 0).all() and (table["batch_ms"] > 0).all()


@pytest.mark.slow
def test_graphs_are_measured_too(folders, brief):
    for name in ("onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    table = measure(folders[1:], TEXTS, rates=[50], seconds=0.5, batch_size=2, form=Form("onnx"))
    torch = measure(folders[1:], TEXTS, rates=[50], seconds=0.5, batch_size=2)
    assert set(table["runtime"]) == {"onnx"} and table["exit"].tolist() == torch["exit"].tolist()


def test_markers_are_empty_where_texts_have_no_answer(tmp_path):
    row = {"model": "a/b", "early_exit": True, "requests": 10}
    rows = [row | {"rate": rate, "p99_ms": 5.0 * rate, "answered": answered} for rate, answered in ((1, 10), (2, 7))]
    drawn = figure(pd.DataFrame(rows)).axes[0].lines
    filled = {line.get_xdata()[0]: line.get_markerfacecolor() for line in drawn if line.get_marker() != "None"}
    assert filled[2] == "none" and filled[1] != "none"


@pytest.mark.parametrize("text", ["", "\n \n", "a\tb\nc\n", "a\tb\tc\n"])
def test_a_file_that_is_not_a_list_of_texts_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "texts").write_text(text)
    with pytest.raises(
        UserError, match=r"^[^\n]*every line must hold one text, or every line two texts separated by a tab"
    ):
        texts_of(tmp_path / "texts")


def test_the_line_with_another_number_of_texts_is_named(tmp_path):
    (tmp_path / "texts").write_text("a\tb\n\nc\td\ne\n")
    with pytest.raises(UserError, match="texts, line 4 holds 1: every line"):
        texts_of(tmp_path / "texts")


@given(
    st.lists(
        st.text(st.characters(exclude_characters="\t\n\r", exclude_categories=["Cs"])).filter(str.strip), min_size=1
    )
)
@settings(deadline=None)
def test_every_line_is_a_text(tmp_path_factory, texts):
    file = tmp_path_factory.mktemp("texts") / "texts.txt"
    file.write_text("\n".join(texts) + "\n", encoding="utf-8")
    assert texts_of(file) == texts
    file.write_text("\r\n".join(f"{text}\tb" for text in texts), encoding="utf-8", newline="")
    assert texts_of(file) == [(text, "b") for text in texts]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--rate", "0.1"], "0.1 texts a second for 10 s are 1 texts; 10 to 1,000,000 are needed"),
        (["--rate", "1e6"], "10 to 1,000,000 are needed"),
        (["--window", "5"], "no effect on batches of 1"),
        (["--out", "load.png"], "ends in .csv"),
        (["--out", "there.csv"], "already exists"),
        (["--int8"], "needs --format onnx, not torch"),
    ],
)
def test_options_that_cannot_be_measured_are_refused_in_one_line(folders, tmp_path, monkeypatch, options, line):
    monkeypatch.chdir(tmp_path)
    Path("texts.txt").write_text("\n".join(TEXTS))
    Path("there.csv").write_text("mine")
    done = CliRunner().invoke(app, ["load", str(folders[0]), "--texts", "texts.txt", *options])
    assert isinstance(done.exception, UserError) and line in str(done.exception)
    assert "\n" not in str(done.exception) and Path("there.csv").read_text() == "mine"


def test_a_folder_without_a_tokenizer_is_refused_in_one_line(tmp_path):
    EarlyExitClassifier.of(encoder(), LEAVING, ("a", "b", "c")).save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match="bare has no tokenizer that can be used here"):
        measure([tmp_path / "bare"], TEXTS, rates=[10], seconds=1)
