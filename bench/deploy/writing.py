"""Write a model as ONNX or OpenVINO graphs, with a program that runs them without PyTorch and without this package."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from bench.deploy.parts import Part, parts_of
from bench.encoder import EarlyExitClassifier
from bench.errors import UserError
from bench.tasks.catalogue import SCALE, from_scale

Runtime = Literal["torch", "onnx", "openvino"]
PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "onnxruntime", "openvino"),
}


@dataclass(frozen=True)
class Form:
    """How a model is written.

    Attributes:
        runtime: The library that runs it.
        int8: Whether weights are stored, and matrix products computed, in 8-bit integers.

    Raises:
        UserError: `int8` with PyTorch, or a package of the runtime is missing.
    """

    runtime: Runtime = "torch"
    int8: bool = False

    def __post_init__(self) -> None:
        if self.int8 and self.runtime != "onnx":
            raise UserError(f"--int8 needs --format onnx, not {self.runtime}")
        missing = [name for name in PACKAGES.get(self.runtime, ()) if importlib.util.find_spec(name) is None]
        if missing:
            raise UserError(
                f"--format {self.runtime} needs {' and '.join(missing)}: pip install 'costeff-bench[{self.runtime}]'"
            )

    @property
    def name(self) -> str:
        """The form in words, such as "onnx int8"."""
        return f"{self.runtime} int8" if self.int8 else self.runtime


TORCH = Form()


def write(model: EarlyExitClassifier, folder: Path, form: Form, max_length: int) -> None:
    """Write a model with its exit policy: graphs, `model.json` and `run.py`; the caller writes the tokenizer.

    Args:
        model: The model, in eval mode, on the CPU.
        folder: An existing folder.
        form: The form, not PyTorch's.
        max_length: Number of tokens to which texts are cut.

    Raises:
        UserError: The exit policy cannot be part of a graph.
    """
    parts, files = parts_of(model.model, model.config.leaving), []
    for part in parts:
        file = folder / (f"exit-{part.last + 1}.onnx" if len(parts) > 1 else "model.onnx")
        _export(part, file)
        if form.int8:
            _quantise(file)
        files.append(_to_openvino(file) if form.runtime == "openvino" else file)
    labels = model.config.id2label
    regression = model.config.problem_type == "regression"
    least, greatest = model.config.range or SCALE
    shift, end = from_scale([0.0, 1.0], (least, greatest))
    facts = {
        "parts": [
            {"file": file.name, "exit": part.last + 1, "reads": part.names, "gives": part.gives}
            for file, part in zip(files, parts, strict=True)
        ],
        "outputs": len(labels),
        "labels": [] if regression else [labels[number] for number in sorted(labels)],
        "factor": float(end - shift),
        "shift": float(shift),
        "max_length": max_length,
    }
    (folder / "model.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name("run.py"), folder / "run.py")


def _export(part: Part, file: Path) -> None:
    """Write a part as an ONNX graph, for any batch size and length."""
    ids = torch.ones(2, 8, dtype=torch.int64)
    hidden = torch.zeros(2, 8, getattr(part.model.config, "hidden_size", 0))
    examples = {"hidden": hidden, "logits": torch.zeros(2, part.outputs), "count": ids[:, 0].clone()}
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens")
    shapes = {"logits": {0: batch}, "count": {0: batch}}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            part.eval(),
            tuple(examples.get(name, ids.clone()) for name in part.reads),  # no two are one tensor
            dynamo=True,
            dynamic_shapes=(tuple(shapes.get(name, {0: batch, 1: tokens}) for name in part.reads),),
            input_names=part.names,
            output_names=part.gives,
            verbose=False,
        )
        assert program is not None  # as None is returned by the older exporter only
        program.save(file)


def _quantise(file: Path) -> None:
    """Store the weights of a graph in 8-bit integers, with a scale for each output; activations at run time."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet():
        quantize_dynamic(file, file, per_channel=True, weight_type=QuantType.QInt8)


def _to_openvino(file: Path) -> Path:
    """Replace an ONNX graph by OpenVINO's, a pair of .xml and .bin."""
    import openvino

    made = file.with_suffix(".xml")
    openvino.save_model(openvino.convert_model(file), made, compress_to_fp16=False)
    file.unlink()
    return made


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings and logs of the exporters, which concern their authors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
