"""Traces and costs: the files of a run other than its model. This module does not import torch.

A trace holds the logits of every exit for every example of a split. It is recorded once after training; exit policies
are evaluated on it by replay.
"""

import json
import math
import os
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from bench.errors import UserError
from bench.store import weights_of

_METADATA = b"bench.trace"

CONVENTION = (
    "coefficients (c0, c1, c2) of c0 + c1 n + c2 n^2 multiply-adds of matrix products for one example of n "
    "tokens up to and including each exit; FLOPs are 2 x that; element-wise work, norms, softmax and "
    "look-ups count nothing"
)


@dataclass(frozen=True)
class Trace:
    """Outputs of a trained model on a split, one row per example, in the order of the examples."""

    idx: NDArray[np.int64]
    """[N] row numbers of the source."""
    labels: NDArray[Any]
    """[N] int64 class ids, or float32 scores of a regression on the scale of 0 to 5, whatever the range in the files
    (`bench.tasks.catalogue.to_scale`). Hidden labels are -1, or NaN for a regression."""
    lengths: NDArray[np.int64]
    """[N] number of tokens of each example, special tokens included."""
    difficulty: NDArray[np.int64] | None
    """[N] 1 easy, 2 medium, 3 hard; None if the source does not record it."""
    logits: NDArray[np.float32]
    """[E, N, C] logits of every exit. For a regression C is 1 and the values are on the scale of the labels."""
    signal: NDArray[np.float32] | None = None
    """[E, N] one more output of every exit, for models with a learned exit signal; None for other models."""

    def save(self, path: Path, weights: str = "") -> None:
        """Write the trace as Parquet, lossless and atomically.

        The file has one row per example and the columns idx, label, length, difficulty, exit_1 .. exit_E (C float32
        values each) and, for a model with a signal, signal_1 .. signal_E.

        Args:
            path: The file.
            weights: Digest of the weights from which the trace was recorded (`bench.store.weights_of`).
        """
        exits, count, outputs = self.logits.shape
        columns: dict[str, pa.Array] = {
            "idx": pa.array(self.idx),
            "label": pa.array(self.labels),
            "length": pa.array(self.lengths),
            "difficulty": pa.nulls(count, pa.int64()) if self.difficulty is None else pa.array(self.difficulty),
        }
        for e, logits in enumerate(self.logits, start=1):
            values = pa.array(np.ascontiguousarray(logits, dtype=np.float32).reshape(-1))
            columns[f"exit_{e}"] = pa.FixedSizeListArray.from_arrays(values, outputs)
        for e, signal in enumerate(() if self.signal is None else self.signal, start=1):
            columns[f"signal_{e}"] = pa.array(np.asarray(signal, dtype=np.float32))
        shape = json.dumps({"exits": exits, "outputs": outputs} | ({"weights": weights} if weights else {})).encode()
        table = pa.table(columns).replace_schema_metadata({_METADATA: shape})
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            pq.write_table(table, temporary, **_packing(table))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the trace saved at `path`.

        Raises:
            UserError: The file is missing, broken, not a trace, or recorded from weights other than those of its run.
        """
        try:
            table = pq.read_table(path)
            if not table.num_rows:
                raise ValueError("no examples")
            shape = json.loads(table.schema.metadata[_METADATA])
            exits, outputs, weights = shape["exits"], shape["outputs"], shape.get("weights", "")
            for kind, least in (("exit", 1), ("signal", 0)):
                count = sum(name.startswith(f"{kind}_") for name in table.column_names)
                if count != exits and not least <= count < 1:
                    raise ValueError(f"{count} columns {kind}_ of {exits} exits")
            for name in ("idx", "label", "length"):
                if table.column(name).null_count:
                    raise ValueError(f"column {name} has empty cells")
            logits = np.empty((exits, table.num_rows, outputs), dtype=np.float32)
            for e in range(exits):
                column = table.column(f"exit_{e + 1}").combine_chunks()
                logits[e] = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, outputs)
            signal = [table.column(name).to_numpy() for name in table.column_names if name.startswith("signal_")]
            difficulty = table.column("difficulty")
            trace = cls(
                idx=table.column("idx").cast(pa.int64()).to_numpy(),
                labels=table.column("label").to_numpy(),
                lengths=table.column("length").cast(pa.int64()).to_numpy(),
                difficulty=None if difficulty.null_count else difficulty.to_numpy(),
                logits=logits,
                signal=np.stack(signal) if signal else None,
            )
        except (OSError, pa.ArrowException, LookupError, TypeError, ValueError, MemoryError, RecursionError) as error:
            what = "no trace" if isinstance(error, FileNotFoundError) else f"not a readable trace ({error})"
            raise UserError(f"{path}: {what}; delete the file and record the run again") from error
        _check_weights(path, weights)
        return trace


def is_current(path: Path) -> bool:
    """Return whether a trace exists and was recorded from the weights of its run.

    For a file outside a run folder (no run.json beside it) it is enough that it exists.
    """
    weights = weights_of(path.parent)
    if not path.is_file() or weights is None:
        return path.is_file()
    try:
        shape = json.loads(pq.read_schema(path).metadata[_METADATA])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return False
    return bool(weights) and shape.get("weights") == weights


def _check_weights(path: Path, weights: str) -> None:
    """Raise UserError if a file was made from weights other than those of the run beside it."""
    if weights_of(path.parent) not in (None, weights):
        raise UserError(f"{path}: made from other weights than run.json names; delete it and run the workflow again")


def _packing(table: pa.Table) -> dict[str, Any]:
    """Return Parquet options that store a trace without loss in 0.57 of the bytes of the default options.

    The bytes of floats are grouped by position (byte stream split), and row numbers are stored as differences.
    """
    floats = [f"{name}.list.element" for name in table.column_names if name.startswith("exit_")]
    floats += [name for name in table.column_names if name.startswith("signal_")]
    return {
        "compression": "zstd",
        "compression_level": 9,
        "use_dictionary": ["label", "length", "difficulty"],
        "column_encoding": dict.fromkeys(floats, "BYTE_STREAM_SPLIT") | {"idx": "DELTA_BINARY_PACKED"},
        "write_statistics": False,
    }


@dataclass(frozen=True)
class Costs:
    """Number of parameters of a model, and the multiply-adds up to each exit as a function of the length."""

    parameters: int
    """Number of all named parameters."""
    parameters_encoder: int
    """Number of parameters outside the embeddings."""
    layers: tuple[int, ...]
    """[E] number of layers up to each exit."""
    coefficients: tuple[tuple[Fraction, Fraction, Fraction], ...]
    """[E] coefficients (c0, c1, c2) of each exit, cumulative over exits; see `CONVENTION`."""

    def macs(self, exit_index: int, lengths: ArrayLike) -> NDArray[np.int64]:
        """Return multiply-adds up to exit `exit_index` (0-based) of examples of `lengths` tokens, in their shape."""
        n = np.asarray(lengths, dtype=np.int64)
        denominator = math.lcm(*(c.denominator for c in self.coefficients[exit_index]))
        c0, c1, c2 = (int(c * denominator) for c in self.coefficients[exit_index])
        return (c0 + n * (c1 + n * c2)) // denominator

    def flops(self, lengths: ArrayLike) -> NDArray[np.int64]:
        """Return the FLOPs (2 x multiply-adds) [E, N] of each example up to each exit."""
        return np.stack([2 * self.macs(e, lengths) for e in range(len(self.coefficients))])

    def mean_flops(self, exits: NDArray[np.integer], lengths: NDArray[np.integer]) -> NDArray[np.float64]:
        """Return the mean FLOPs of decisions of an exit policy.

        Args:
            exits: [..., N] exit (0-based) of each example.
            lengths: [N] number of tokens of each example.

        Returns:
            Mean over the N examples, of shape [...].
        """
        return self.flops(lengths)[exits, np.arange(len(lengths))].mean(axis=-1)

    def save(self, path: Path, weights: str = "") -> None:
        """Write costs.json with its counting convention. Coefficients are exact fractions ("123", "1/2").

        Args:
            path: The file.
            weights: Digest of the weights of the model (`bench.store.weights_of`).
        """
        content = {
            "convention": CONVENTION,
            "weights": weights,
            "parameters": self.parameters,
            "parameters_encoder": self.parameters_encoder,
            "exits": [
                {"layers": layers, "multiply_adds": [str(c) for c in quadratic]}
                for layers, quadratic in zip(self.layers, self.coefficients, strict=True)
            ],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the costs saved at `path`.

        Raises:
            UserError: The file is missing, broken, has another counting convention, or belongs to other weights than
                its run.
        """
        try:
            content = json.loads(path.read_text())
            if content["convention"] != CONVENTION:
                raise ValueError("another counting convention")
            for written in (c for each in content["exits"] for c in each["multiply_adds"]):
                if not re.fullmatch(r"-?[0-9]{1,30}(/[0-9]{1,30})?", written):  # a power of ten may not fit in memory
                    raise ValueError(f"{written!r:.60} is not a fraction")
            quadratics = [tuple(Fraction(c) for c in each["multiply_adds"]) for each in content["exits"]]
            counts = [content[name] for name in ("parameters", "parameters_encoder")]
            counts += [each["layers"] for each in content["exits"]]
            if not quadratics or any(type(count) is not int or not 0 <= count <= 10**18 for count in counts):
                raise ValueError("a count of parameters or layers is not a whole number")
            costs = cls(
                parameters=counts[0],
                parameters_encoder=counts[1],
                layers=tuple(counts[2:]),
                coefficients=tuple((c0, c1, c2) for c0, c1, c2 in quadratics),
            )
        except (OSError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise UserError(f"{path}: not a readable costs file ({error}); measure the run again") from error
        _check_weights(path, content.get("weights", ""))
        return costs
