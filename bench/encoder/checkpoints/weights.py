"""The tensors in a checkpoint's files: names, shapes and number types, and their values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bench.encoder.checkpoints.files import INDEX, PICKLED, read_json, refuse_stub, weight_files
from bench.errors import UserError, first_line

_FLOATS = {"F64", "F32", "F16", "BF16"}
_KINDS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint; `kind` is its number type in safetensors' notation, such as F32."""

    file: Path
    shape: tuple[int, ...]
    kind: str


def headers(name: str, folder: Path) -> dict[str, Stored]:
    """Return the stored name -> the tensor of each weight; of safetensors files only the headers are read.

    Raises:
        UserError: A file is missing, damaged or of another format.
    """
    files = weight_files(name, folder)
    found: dict[str, Stored] = {}
    for file in files:
        refuse_stub(name, file)
        if file.name == PICKLED:
            tensors = _unpickled(name, file)
            found |= {
                key: Stored(file, tuple(t.shape), _KINDS.get(t.dtype, str(t.dtype))) for key, t in tensors.items()
            }
            continue
        try:
            with safe_open(file, framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118 (not a mapping)
                    part = opened.get_slice(key)
                    if key in found:
                        first = found[key].file.name
                        raise UserError(
                            f"checkpoint {name}: {key} is in {first} and in {file.name}; remove one of them"
                        )
                    found[key] = Stored(file, tuple(part.get_shape()), part.get_dtype())
        except (SafetensorError, OSError) as error:
            raise UserError(f"checkpoint {name}: {file} is cut short or damaged ({error}); download it again") from None
    if len(files) > 1 or files[0].name not in ("model.safetensors", PICKLED):
        listed = read_json(name, folder / INDEX)["weight_map"]
        for key, file_name in listed.items():
            if key not in found or found[key].file.name != file_name:
                raise UserError(
                    f"checkpoint {name}: {INDEX} lists {key} in {file_name}, but it is not there; download it again"
                )
    return found


def tensors(name: str, stored: dict[str, Stored], keys: Iterable[str]) -> Iterator[tuple[str, Tensor]]:
    """Yield the stored name and the values, in float32, of these weights.

    Raises:
        UserError: A weight is quantised, not finite, or all zeros.
    """
    by_file: dict[Path, list[str]] = {}
    for key in keys:
        by_file.setdefault(stored[key].file, []).append(key)
        if stored[key].kind not in _FLOATS:
            raise UserError(
                f"checkpoint {name}: {key} in {stored[key].file.name} is {stored[key].kind}; a checkpoint of float32, "
                "float16 or bfloat16 weights is needed, not a quantised one"
            )
    for file, wanted in by_file.items():
        if file.name == PICKLED:
            values = _unpickled(name, file)
            for key in wanted:
                yield key, _sound(name, file, key, values[key].to(torch.float32))
            continue
        with safe_open(file, framework="pt") as opened:
            for key in wanted:
                yield key, _sound(name, file, key, opened.get_tensor(key).to(torch.float32))


def _sound(name: str, file: Path, key: str, values: Tensor) -> Tensor:
    if not bool(torch.isfinite(values).all()):
        raise UserError(f"checkpoint {name}: {key} in {file.name} has values that are nan or infinite; use another")
    # An interrupted download may leave zeros; segment embeddings of zeros stand for none in converted checkpoints.
    if key.endswith(("weight", "gamma")) and "token_type" not in key and not bool(values.any()):
        raise UserError(f"checkpoint {name}: {key} in {file.name} is all zeros; download it again")
    return values


def _unpickled(name: str, file: Path) -> dict[str, Tensor]:
    """Return a PyTorch state dict; with `weights_only` torch runs no code of the file."""
    try:
        values = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        why = first_line(error)[:160]
        raise UserError(f"checkpoint {name}: {file} is not a PyTorch file of weights alone ({why})") from None
    if not isinstance(values, dict) or not all(isinstance(value, Tensor) for value in values.values()):
        raise UserError(f"checkpoint {name}: {file} holds more than weights; save model.state_dict() as {file.name}")
    return values
