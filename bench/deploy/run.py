"""Run the model in this folder, without PyTorch: python run.py "a text" ["the second text of a pair"].

Needs numpy, tokenizers, and onnxruntime (.onnx) or openvino (.xml). OMP_NUM_THREADS limits the threads; default: all.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

if "OMP_NUM_THREADS" in os.environ:  # the threads of the tokenizer are limited in another way
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from tokenizers import Tokenizer

HERE = Path(__file__).parent
MODEL = json.loads((HERE / "model.json").read_text(encoding="utf-8"))
TOKENIZER = Tokenizer.from_file(str(HERE / "tokenizer.json"))
TOKENIZER.enable_truncation(MODEL["max_length"])
TOKENIZER.enable_padding()
THREADS = int(os.environ.get("OMP_NUM_THREADS", "0"))


def load(file, reads, gives):
    """Return a part of the model as a function of the arrays named `reads`, which returns those named `gives`."""
    if file.endswith(".xml"):
        import openvino

        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": THREADS}
        model = openvino.Core().compile_model(str(HERE / file), "CPU", options)
        names = {name for port in model.inputs for name in port.names}
        request = model.create_infer_request()
        run = lambda given: request.infer(given).values()  # noqa: E731
    else:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        model = onnxruntime.InferenceSession(str(HERE / file), options, providers=["CPUExecutionProvider"])
        names = {port.name for port in model.get_inputs()}
        run = lambda given: model.run(None, given)  # noqa: E731
    keys = {name: name.removeprefix("last_") for name in reads if name in names}
    return lambda state: dict(zip(gives, run({name: state[key] for name, key in keys.items()}), strict=True))


PARTS = [(load(part["file"], part["reads"], part["gives"]), part["exit"]) for part in MODEL["parts"]]


def answer(state):
    """Return logits [B, C] and exits [B], from 1, for input_ids, attention_mask and token_type_ids [B, n], int64.

    Texts are padded on the right, with 0. Examples that exit are removed from the batch. Scores of a regression are in
    the units of its labels.
    """
    rows = np.arange(len(state["input_ids"]))
    logits, exits = np.empty((len(rows), MODEL["outputs"]), np.float32), np.empty(len(rows), np.int64)
    for part, number in PARTS:
        state = {**state, **part(state)}
        logits[rows], exits[rows] = state["logits"], number
        stay = ~state.pop("leaves", np.ones(len(rows), bool))
        if not stay.any():
            break
        if not stay.all():
            rows, longest = rows[stay], state["attention_mask"][stay].sum(axis=1).max()
            short = ("logits", "count")  # all others have one column for each token
            state = {name: each[stay] if name in short else each[stay, :longest] for name, each in state.items()}
    return logits * MODEL["factor"] + MODEL["shift"], exits


def classify(texts):
    """Return logits and exits of a list of texts, or of pairs of texts."""
    read = TOKENIZER.encode_batch(texts)
    ids, mask, types = zip(*((each.ids, each.attention_mask, each.type_ids) for each in read), strict=True)
    return answer({"input_ids": np.array(ids), "attention_mask": np.array(mask), "token_type_ids": np.array(types)})


if __name__ == "__main__":
    given = sys.argv[1:]
    if len(given) not in (1, 2) or given[0] in ("-h", "--help"):
        sys.exit('usage: python run.py "a text" ["the second text of a pair"]')
    (values,), (left,) = classify([given[0] if len(given) == 1 else tuple(given)])
    if MODEL["labels"]:
        chances = np.exp(values - values.max()) / np.exp(values - values.max()).sum()
        print(f"{MODEL['labels'][values.argmax()]} {chances.max():.4f} (exit {left})")
    else:
        print(f"{values[0]:.4f} (exit {left})")
