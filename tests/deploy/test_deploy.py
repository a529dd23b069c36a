"""A model as graphs predicts and exits as in PyTorch, and is the same for any batch."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from torch.fx.experimental.proxy_tensor import make_fx
from toys import cascade, encoder, examples

from bench.deploy import policies, writing
from bench.deploy.checking import compare, padded, runner
from bench.deploy.parts import parts_of
from bench.deploy.timing import load_model, summary, time_runtimes
from bench.deploy.writing import Form, write
from bench.encoder import EarlyExitClassifier
from bench.encoder.early.engine import run
from bench.errors import UserError
from bench.exit_policies import operating
from bench.exit_policies.policies import policy_for
from bench.measuring.recording import record
from bench.tasks.batches import length_batches

FULL = {"kind": "static", "policy": "none", "exit_start": 1, "threshold": None, "thresholds": [], "exit": 0,
        "tolerance": None}  # fmt: skip
POLICIES = ("entropy", "confidence", "patience", "similarity", "divergence")


@st.composite
def operated(draw: st.DrawFn) -> tuple:
    """A small model, examples, and an operating point whose threshold lies between their statistics."""
    outputs = draw(st.sampled_from([1, 2, 3]))
    seed = draw(st.integers(0, 1000))
    same = {"num_labels": outputs, "pooling": draw(st.sampled_from(["cls", "mean"])),
            "layout": draw(st.sampled_from(["bert", "modernbert"])), "rank": draw(st.sampled_from([None, 9])),
            "head": draw(st.sampled_from(["tanh", "pooler", "own-pooler", "tinybert"]))}  # fmt: skip
    same |= {"type_vocab_size": draw(st.sampled_from([0, 2]))} if same["layout"] == "bert" else {}
    if draw(st.booleans()):
        model = cascade(**same)
    else:
        depth = draw(st.integers(1, 4))
        exits = sorted({depth, *draw(st.lists(st.integers(1, depth), max_size=depth))})
        model = encoder(seed, heads=[4, 2, 3, 1][:depth], ffn=[48, 40, 56, 8][:depth], exits=exits, **same)
    data = examples(draw(st.integers(1, 24)), seed, regression=outputs == 1)
    kind = draw(st.sampled_from(["static", "fixed_exit", "uniform", "per_exit"]))
    name = draw(st.sampled_from(POLICIES if outputs > 1 else ("agreement", "patience")))
    start = draw(st.integers(1, model.exit_count))
    point = FULL | {"kind": kind, "policy": name, "exit_start": start}
    if kind == "fixed_exit":
        point["exit"] = draw(st.integers(1, model.exit_count))
    elif kind != "static":
        count = 1 if kind == "uniform" else model.exit_count
        policy = policy_for(name, outputs == 1, start)
        statistic = policy.statistic(record(model, data, 16).logits)
        chosen = [_between(draw, statistic, name == "patience", model.exit_count) for _ in range(count)]
        point |= {"threshold": chosen[0]} if kind == "uniform" else {"thresholds": chosen}
    return model, data, point


def _between(draw: st.DrawFn, statistic: np.ndarray, patience: bool, exits: int) -> float:
    """A threshold that no statistic comes near, so that rounding does not decide."""
    if patience:
        return float(draw(st.integers(0, exits)))
    values = np.unique(statistic[np.isfinite(statistic)])
    if not len(values):
        return 0.5
    gaps = [*(values[:-1] + values[1:])[np.diff(values) > 1e-3] / 2, values[0] - 1, values[-1] + 1]
    return float(draw(st.sampled_from(gaps)))


def folder_of(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    Tokenizer(models.WordLevel({"[PAD]": 0, "a": 1}, unk_token="[PAD]")).save(str(path / "tokenizer.json"))
    return path


def classifier(model, point: dict) -> EarlyExitClassifier:
    names = ("a", "b", "c")[: model.config.num_labels] if model.config.num_labels > 1 else ()
    return EarlyExitClassifier.of(model, point, names)


def assert_same(answer, model, data, point: dict, batch_size: int) -> None:
    expected = run(model, data, operating.decision(point), 32)
    for positions in length_batches(data.lengths, batch_size, None):
        logits, exits = answer(padded(data, positions))
        assert exits.tolist() == (expected.exits[positions] + 1).tolist()
        np.testing.assert_allclose(logits, expected.logits[positions], atol=2e-5, rtol=2e-5)


@given(drawn=operated(), batch_size=st.integers(1, 24))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_parts_of_a_model_exit_as_the_engine(drawn, batch_size, tmp_path_factory):
    """The arithmetic of the graphs, run by PyTorch under the loop of run.py."""
    model, data, point = drawn
    path = folder_of(tmp_path_factory.mktemp("parts"))
    facts = {
        "parts": [],
        "outputs": model.config.num_labels,
        "factor": 1.0,
        "shift": 0.0,
        "max_length": 24,
        "labels": [],
    }
    (path / "model.json").write_text(json.dumps(facts))
    (path / "run.py").write_bytes(Path(writing.__file__).with_name("run.py").read_bytes())
    module = runner(path)

    def by_torch(part):
        def call(state):
            given = (torch.from_numpy(np.ascontiguousarray(state[name])) for name in part.reads)
            with torch.no_grad():
                return dict(zip(part.gives, (each.numpy() for each in part(*given)), strict=True))

        return call

    parts = parts_of(model, point)
    module.PARTS = [(by_torch(part), part.last + 1) for part in parts]
    assert_same(module.answer, model, data, point, batch_size)
    assert parts[-1].final and (len(parts) == 1 or point["kind"] in ("uniform", "per_exit"))


@pytest.mark.parametrize("name", ["similarity", "divergence"])
def test_the_least_argument_of_a_logarithm_is_above_0_in_float32(name):
    """OpenVINO computes in float32, where a probability may be 0."""
    policy = policy_for(name, False, 1)

    def second(logits: torch.Tensor) -> torch.Tensor:
        _, before = policies.statistic(policy, logits, {})
        return policies.statistic(policy, logits, before)[0]

    graph = make_fx(second)(torch.zeros(2, 2)).graph
    least = [node.args[1] for node in graph.nodes if "clamp" in str(node.target)]
    assert least and all(np.float32(value) > 0 for value in least)


@pytest.mark.slow
@given(drawn=operated(), batch_size=st.integers(1, 24))
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_graphs_of_a_model_exit_as_the_engine(drawn, batch_size, tmp_path_factory):
    pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    model, data, point = drawn
    path = folder_of(tmp_path_factory.mktemp("graphs"))
    write(classifier(model, point), path, Form("onnx"), 24)
    assert_same(runner(path).answer, model, data, point, batch_size)


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_scores_have_the_units_of_their_labels_and_differences_are_counted(runtime, tmp_path):
    for name in ("onnxscript", "onnxruntime", *([runtime] if runtime == "openvino" else [])):
        pytest.importorskip(name)
    model, data = encoder(num_labels=1), examples(30, regression=True)
    point = FULL | {"kind": "uniform", "policy": "agreement", "threshold": 0.5}
    taken = EarlyExitClassifier.of(model, point, (), (10.0, 20.0))
    write(taken, folder_of(tmp_path), Form(runtime), 24)
    batch = padded(data, np.arange(30))
    expected = taken(**{name: torch.from_numpy(values) for name, values in batch.items()})
    logits, exits = runner(tmp_path).answer(batch)
    np.testing.assert_allclose(logits, expected.logits.numpy(), atol=1e-4)
    assert exits.tolist() == expected.exits.tolist() and len(set(exits)) > 1
    answers = run(model, data, operating.decision(point), 32)
    same = compare(tmp_path, data, answers.logits[:, 0].astype(float), answers.exits)
    assert (same.other_predictions, same.other_exits) == (0, 0)
    changed = answers.logits[:, 0] + np.where(np.arange(30) < 4, 0.1, 0)
    other = compare(tmp_path, data, changed, np.where(np.arange(30) < 7, 9, answers.exits))
    assert (other.other_predictions, other.other_exits) == (4, 7)


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^--format onnx needs onnx and .*: pip install 'costeff-bench\[onnx\]'$"):
        Form("onnx")
    with pytest.raises(UserError, match="--int8 needs --format onnx, not torch"):
        Form("torch", int8=True)
    assert Form() == writing.TORCH


def test_the_runner_is_found_beside_its_writer():
    """A wheel holds run.py, and it names no package of this repository."""
    text = Path(writing.__file__).with_name("run.py").read_text()
    assert "import bench" not in text and "from bench" not in text and "torch" not in text.split('"""', 2)[2]


def test_runtimes_are_timed_side_by_side(tmp_path, monkeypatch):
    point = FULL | {"kind": "uniform", "policy": "entropy", "threshold": 100.0}  # all leave at the first exit
    classifier(encoder(exits=[3]), FULL).save_pretrained(tmp_path / "whole")
    classifier(encoder(), point).save_pretrained(tmp_path / "early")
    monkeypatch.setattr("bench.deploy.timing.Form", _no_other)
    table = time_runtimes([tmp_path / "whole", tmp_path / "early"], lengths=(8, 16, 64), rounds=2)
    assert table[["batch", "tokens"]].drop_duplicates().to_numpy().tolist() == [[1, 8], [1, 16], [32, 8], [32, 16]]
    whole, early = (table[table["model"].str.endswith(name)] for name in ("whole", "early"))
    assert (whole["exit"] == 1).all() and (early["exit"] == 1).all() and (table["ms"] > 0).all()
    assert (whole["promised"] == 1).all() and (early["promised"] > 2).all()
    said = summary(table)
    assert said.count("Millijoules for each text") == 2
    assert said.count(
        "measured speed-up at least 0.75 of the calculated one"
    ) == 2 and "| calculated |" in said.replace("  ", "")
    with pytest.raises(UserError, match="holds no model"):
        time_runtimes([tmp_path])


def test_a_damaged_or_missing_model_is_one_line_and_never_random(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^some/model: there is no such folder$"):
        load_model(Path("some/model"))
    classifier(encoder(), FULL).save_pretrained(tmp_path / "taken")
    assert load_model(tmp_path / "taken")
    file = tmp_path / "taken" / "model.safetensors"
    weights = load_file(file)
    save_file({name: value for name, value in weights.items() if "exit_heads.2" not in name}, file, {"format": "pt"})
    with pytest.raises(UserError, match=r"do not match its configuration \(.*exit_heads\.2"):
        load_model(tmp_path / "taken")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UserError, match="holds no model"):
        load_model(tmp_path / "taken")


def _no_other(*_) -> None:
    raise UserError("only PyTorch here")


@pytest.mark.slow
def test_it_runs_where_pytorch_and_this_package_are_not(tmp_path):
    for name in ("onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    model = encoder(num_labels=2)
    write(classifier(model, FULL), folder_of(tmp_path / "a folder"), Form("onnx", int8=True), 24)
    code = (
        "import sys, runpy\n"
        "for name in ('torch', 'transformers', 'bench', 'scipy', 'pandas'): sys.modules[name] = None\n"
        "runpy.run_path('run.py', run_name='__main__')"
    )

    def run(*texts: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", code, *texts]
        return subprocess.run(command, cwd=tmp_path / "a folder", capture_output=True, text=True, check=False)

    assert run().returncode == 1 and run().stderr.startswith("usage: python run.py")
    said = run("a", "a")
    assert said.returncode == 0, said.stderr
    assert said.stdout.split()[0] in ("a", "b") and said.stdout.endswith("(exit 3)\n")
