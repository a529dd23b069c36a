"""Latency of exported models under load: texts that arrive at random, and one worker that computes them in order.

Arrivals are a Poisson process that does not depend on the worker (open loop), so a latency includes the time for which
a text waits. The computation, tokenisation included, is real and runs on this machine.
"""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

from bench.deploy import energy
from bench.deploy.checking import runner
from bench.deploy.timing import engine, load_model
from bench.deploy.writing import TORCH, Form, write
from bench.encoder import EarlyExitClassifier
from bench.errors import UserError, first_line

SHARES = (0.25, 0.5, 0.75, 0.95, 1.25)
"""Default rates, as parts of what the slowest model answers without a pause."""
_FEWEST, _MOST = 10, 10**6
"""Numbers of requests that a run may have."""
_WARM = 1.0
"""Seconds of computation before the first run of a model."""

Text = str | tuple[str, str]
Classify = Callable[[list[Text]], NDArray[np.int64]]
"""Returns the exits [B], from 1, of B texts or pairs of texts."""


@dataclass(frozen=True)
class Answers:
    """What happened to N requests; times in seconds since the first moment of the run.

    Attributes:
        began: [N] when the computation of the request's batch began; NaN: it did not.
        ended: [N] when it ended.
        batches: Number of batches.
        busy: Seconds in which the worker computed.
    """

    began: NDArray[np.float64]
    ended: NDArray[np.float64]
    batches: int
    busy: float

    @property
    def answered(self) -> int:
        """Number of requests with an answer: the first ones."""
        return int(np.isfinite(self.ended).sum())


def serve(
    compute: Callable[[int, int], object],
    arrivals: NDArray[np.float64],
    *,
    batch_size: int = 1,
    window: float = 0.0,
    limit: float = math.inf,
    now: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
) -> Answers:
    """Compute requests in the order of their arrival, one batch after the other.

    A batch is computed once the worker is free and `batch_size` requests wait, or the first of them has waited for
    `window`. It has all waiting requests, up to `batch_size`.

    Args:
        compute: Computes the requests from one position to another, the second excluded.
        arrivals: [N] when each request arrives, in seconds, ascending.
        batch_size: Largest number of requests in a batch.
        window: Longest time in seconds that the first text of a batch waits for more texts.
        limit: Seconds after which no batch begins.
        now: The clock.
        sleep: Waits for a number of seconds of this clock, or less.
    """
    began, ended = np.full((2, len(arrivals)), np.nan)
    first, batches, busy, start = 0, 0, 0.0, now()
    while first < len(arrivals):
        full = first + batch_size - 1
        due = min(arrivals[first] + window, arrivals[full] if full < len(arrivals) else math.inf)
        while (moment := now() - start) < min(due, limit):
            sleep(min(due, limit) - moment)
        if moment >= limit:
            break
        last = min(full + 1, int(np.searchsorted(arrivals, moment, side="right")))
        compute(first, last)
        end = now() - start
        began[first:last], ended[first:last] = moment, end
        first, batches, busy = last, batches + 1, busy + end - moment
    return Answers(began, ended, batches, busy)


def measure(
    folders: Sequence[Path],
    texts: Sequence[Text],
    *,
    rates: Sequence[float] = (),
    seconds: float = 10.0,
    batch_size: int = 1,
    window: float = 0.0,
    threads: int = 1,
    form: Form = TORCH,
) -> pd.DataFrame:
    """Measure the latency of models at given rates of arrival, with and without early exit.

    At one rate all models get the same texts at the same moments. Texts arrive for `seconds`; what has not begun
    after twice this time has no answer and counts with the time that it has waited, so that a percentile that
    contains it is a lower bound.

    Args:
        folders: Folders that `costeff take` wrote for PyTorch.
        texts: Texts, or pairs of texts, drawn from at random.
        rates: Mean numbers of texts that arrive in a second; empty: `SHARES` of what the slowest model can answer.
        seconds: How long texts arrive.
        batch_size: Largest number of texts in a batch.
        window: Longest time in seconds that the first text of a batch waits for more texts.
        threads: Number of threads of the computation.
        form: The runtime and precision.

    Returns:
        One row for each rate and model, with and without early exit: numbers of `requests` and of those `answered`;
        `p50_ms`, `p95_ms`, `p99_ms` of the latency; `throughput`, answers in a second; `batch_ms`, the mean time of a
        batch; `busy`, the part of the time in which the worker computes; `exit`, the mean exit; `cpu_mj` and `gpu_mj`,
        the millijoules that this machine spends for each answer, NaN without a counter.

    Raises:
        UserError: A folder has no exported model for PyTorch, or there are too few or too many requests.
    """
    for rate in rates:
        _expected(rate, seconds)
    torch.set_num_threads(threads)
    os.environ["OMP_NUM_THREADS"] = str(threads)  # read by run.py
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        served = [each for folder in folders for each in _served(folder, form, Path(scratch))]
        able = min(_capacity(classify, texts, batch_size) for _, classify in served)
        meter = energy.Meter()
        for number, rate in enumerate(sorted(rates) or [float(f"{share * able:.3g}") for share in SHARES]):
            rng = np.random.default_rng(number)
            arrivals = np.sort(rng.uniform(0, seconds, max(1, rng.poisson(_expected(rate, seconds)))))
            chosen = [texts[i] for i in rng.integers(len(texts), size=len(arrivals))]
            for position in rng.permutation(len(served)):
                names, classify = served[position]
                before = meter.read()
                answers, exits = _run(classify, chosen, arrivals, batch_size, window, 2 * seconds)
                spent = energy.columns(meter.since(before), answers.answered)
                rows.append(names | {"rate": rate} | _figures(arrivals, answers, 2 * seconds) | {"exit": exits} | spent)
    order = [names for names, _ in served]
    return pd.DataFrame(sorted(rows, key=lambda row: order.index({name: row[name] for name in order[0]})))


def texts_of(file: Path) -> list[Text]:
    """Return the texts of a file: one on each line, the two of a pair separated by a tab.

    Raises:
        UserError: The file has no text, or lines with different numbers of texts.
    """
    try:
        written = file.read_text(encoding="utf-8").split("\n")
        lines = [(number, line.split("\t")) for number, line in enumerate(written, 1) if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read as UTF-8 text ({first_line(error)})") from error
    if not lines:
        raise UserError(f"{file} is empty: every line must hold one text, or every line two texts separated by a tab")
    first = min(len(lines[0][1]), 2)
    for number, line in lines:
        if len(line) != first:
            raise UserError(
                f"{file}, line {number} holds {len(line)}: every line must hold one text, or every line two texts "
                "separated by a tab"
            )
    return [line[0] if len(line) == 1 else (line[0], line[1]) for _, line in lines]


def printed(table: pd.DataFrame) -> str:
    """Return the table of `measure` as Markdown."""
    shown = table.assign(early_exit=table["early_exit"].map({True: "yes", False: "no"}))
    late = (table["answered"] < table["requests"]).map({True: ">", False: ""})
    for column in ("p50_ms", "p95_ms", "p99_ms"):
        shown[column] = late + table[column].map("{:.1f}".format)
    formats = {"rate": ".4g", "throughput": ".1f", "batch_ms": ".2f", "busy": ".2f", "exit": ".2f"}
    for column, style in formats.items():
        shown[column] = [format(value, style) for value in table[column]]
    for part in energy.PARTS:
        shown[f"{part}_mj"] = table[f"{part}_mj"].map(energy.shown)
    return shown.to_markdown(index=False, disable_numparse=True)


def _run(
    classify: Classify,
    texts: list[Text],
    arrivals: NDArray[np.float64],
    batch_size: int,
    window: float,
    limit: float,
) -> tuple[Answers, float]:
    """Return what happens to texts that arrive at these moments, and the mean exit of those that are answered."""
    exits: list[NDArray[np.int64]] = []
    answers = serve(
        lambda first, last: exits.append(classify(texts[first:last])),
        arrivals,
        batch_size=batch_size,
        window=window,
        limit=limit,
    )
    return answers, float(np.concatenate(exits).mean())


def _figures(arrivals: NDArray[np.float64], answers: Answers, limit: float) -> dict[str, float]:
    """Return the numbers of a run."""
    waited = np.where(np.isfinite(answers.ended), answers.ended, max(limit, np.nanmax(answers.ended))) - arrivals
    p50, p95, p99 = 1e3 * np.percentile(waited, (50, 95, 99))
    end = float(np.nanmax(answers.ended))
    return {
        "requests": len(arrivals),
        "answered": answers.answered,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "throughput": answers.answered / end,
        "batch_ms": 1e3 * answers.busy / answers.batches,
        "busy": answers.busy / end,
    }


def _expected(rate: float, seconds: float) -> float:
    """Return the mean number of requests of a run."""
    if not _FEWEST <= rate * seconds <= _MOST:
        raise UserError(
            f"{rate:g} texts a second for {seconds:g} s are {rate * seconds:g} texts; "
            f"{_FEWEST} to {_MOST:,} are needed, so change --rate or --seconds"
        )
    return rate * seconds


def _capacity(classify: Classify, texts: Sequence[Text], batch_size: int) -> float:
    """Return how many texts a model answers in a second without a pause; also loads its weights into memory."""
    classify([texts[i % len(texts)] for i in range(batch_size)])
    rng, count, start = np.random.default_rng(0), 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < _WARM:
        classify([texts[i] for i in rng.integers(len(texts), size=batch_size)])
        count += batch_size
    return count / spent


def _served(folder: Path, form: Form, scratch: Path) -> Iterator[tuple[dict[str, Any], Classify]]:
    """Yield the names and the function of a model: at its operating point, then at full depth if that differs."""
    model = load_model(folder)
    at_point = model.config.leaving["kind"] != "static"
    for early in (True, False) if at_point else (False,):
        if not early:
            model = copy.copy(model)
            model.config = copy.deepcopy(model.config)
            model.config.leaving = {"kind": "static"}
        names = {"model": str(folder), "runtime": form.name, "early_exit": early}
        yield names, _classify(model, folder, form, Path(tempfile.mkdtemp(dir=scratch)))


def _classify(model: EarlyExitClassifier, folder: Path, form: Form, scratch: Path) -> Classify:
    """Return the function that tokenises and computes texts."""
    try:
        max_length = int(json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"])
        shutil.copyfile(folder / "tokenizer.json", scratch / "tokenizer.json")
    except (OSError, KeyError, ValueError) as error:
        raise UserError(f"{folder} has no tokenizer that can be used here ({first_line(error)})") from error
    if form.runtime != "torch":
        write(model, scratch, form, max_length)
        module = runner(scratch)
        return lambda texts: module.classify(texts)[1]
    tokenizer, run = Tokenizer.from_file(str(scratch / "tokenizer.json")), engine(model)
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding()

    def classify(texts: list[Text]) -> NDArray[np.int64]:
        read = tokenizer.encode_batch(texts)
        ids, mask, types = zip(*((each.ids, each.attention_mask, each.type_ids) for each in read), strict=True)
        names = ("input_ids", "attention_mask", "token_type_ids")
        return run(dict(zip(names, map(np.array, (ids, mask, types)), strict=True)))[1]

    return classify
