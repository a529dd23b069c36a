"""An exported model gives the answers and exits of its operating point, in another process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from bench.analysis.budgets import at_budget, operating_points, predicted
from bench.deploy.writing import Form
from bench.errors import UserError
from bench.exit_policies.operating import exits_taken
from bench.runs.collect import collect
from bench.runs.plan import runs
from bench.runs.replay import replay
from bench.runs.train_run import produce
from bench.settings import Settings, check
from bench.sharing.models import take, write_model
from bench.store import RunKey, run_folder, write_parquet
from bench.tasks.catalogue import task as task_named
from bench.tasks.sketch.generator import generate
from bench.tasks.sources import load
from bench.trace import Trace

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
WORDS = ("rather bad", "so so", "very good")


@pytest.fixture(scope="module")
def settings(tiny_settings, tmp_path_factory) -> Settings:
    """Four kinds of model on a classification, a regression of pairs, and a task with label words of its own."""
    folder = tmp_path_factory.mktemp("take")
    for split, count in (("train", 160), ("validation", 60)):
        said = [(row["sentence"], WORDS[2 * row["label"]]) for row in generate("sst2", split, count, 0)]
        said += [(row["sentence"], WORDS[1]) for row in generate("cola", split, count // 2, 0)]
        own = pd.DataFrame(said, columns=["said", "verdict"])
        own.to_csv(folder / f"{split}.csv", index=False)
    values = tiny_settings(folder / "results").model_dump()
    brief, longer = {"epochs": 2, "learning_rate": 3e-3}, {"epochs": 8, "learning_rate": 3e-3}
    of = {"teacher": ("teacher", brief), "assistant": ("assistant", longer), "pabee": ("pabee", longer)}
    of["cascadebert"] = ("cascadebert", brief | {"fold_epochs": 1})
    contestants = {
        name: values["contestants"][name] | {"options": values["contestants"][name]["options"] | options, "tasks": {}}
        for name, (_, options) in of.items()
    }
    contestants["diverging"] = {"method": "failing:Diverging", "options": brief | {"learning_rate": 1.0}}
    tickets = {
        "columns": ["said"],
        "label": "verdict",
        "labels": list(WORDS),
        "metrics": ["f1_macro", "accuracy"],
        "files": {split: str(folder / f"{split}.csv") for split in ("train", "validation")},
    }
    values |= {"contestants": contestants, "depth_reference": None, "own_tasks": {"tickets": tickets}}
    values["thresholds"]["grid"] = 100
    values |= {"tasks": ["sst2", "stsb", "tickets"], "latency": {"examples": 4, "rounds": 1}}
    values["data"] |= {"sketch": {"train": 160, "validation": 90}, "max_length": (24, 40)}
    settings = check(values, "test")
    for planned in runs(settings):
        produce(settings, planned.key)
    for task in settings.tasks:
        replay(settings, task, 0)
    write_parquet(settings.root / "all-points.parquet", collect(settings))
    return settings


@pytest.fixture(scope="module")
def points(settings) -> pd.DataFrame:
    return pd.read_parquet(settings.root / "all-points.parquet")


def trace_of(settings: Settings, row: pd.Series) -> Trace:
    key = RunKey(row["task"], row["method"], row["variant"], int(row["seed"]))
    return Trace.load(run_folder(settings, key) / "trace-validation.parquet")


def parting(settings: Settings, points: pd.DataFrame, task: str, method: str, kind: str) -> pd.Series:
    """Of a contestant's points of a kind one that parts the examples best, as the table gives a chosen one."""
    rows = operating_points(points).query("task == @task and method == @method and kind == @kind")
    rows = rows[rows["split"] == "validation"]
    spread = [np.unique(exits_taken(row, trace_of(settings, row)), return_counts=True)[1].max() for _, row in
              rows.iterrows()]  # fmt: skip
    row = rows.iloc[int(np.argmin(spread))]
    selected = points.query("task == @task and method == @method and kind == @kind and split == 'calibration'")
    same = selected[(selected["point"] == row["point"]) & (selected["variant"] == row["variant"])].iloc[0]
    given = {"budget": 1.0, "selected_score": same["score"], "selected_speedup": same["speedup"]}
    return pd.concat([row, pd.Series(given)])


KINDS = [
    ("sst2", "teacher", "static"),
    ("sst2", "assistant", "fixed_exit"),
    ("sst2", "assistant", "uniform"),
    ("sst2", "assistant", "per_exit"),
    ("sst2", "pabee", "uniform"),
    ("sst2", "cascadebert", "uniform"),
    ("stsb", "assistant", "uniform"),
    ("stsb", "pabee", "per_exit"),
    ("stsb", "cascadebert", "fixed_exit"),
    ("tickets", "assistant", "per_exit"),
    ("tickets", "cascadebert", "uniform"),
]

ASK = """
import json, sys
import bench.encoder
from transformers import pipeline
answers = {}
for name, inputs in json.load(open(sys.argv[1])).items():
    classify = pipeline("text-classification", model=name, trust_remote_code=False, truncation=True)
    answers[name] = [classify(inputs, batch_size=size) for size in (1, 32)]
print(json.dumps(answers))
"""


def inputs_of(settings: Settings, name: str) -> list:
    task = task_named(name, settings.own_tasks)
    split = load(task, settings.data.of(name)).splits["validation"]
    first, *second = (split[column] for column in task.columns)
    return [{"text": a, "text_pair": b} for a, b in zip(first, second[0], strict=True)] if second else first


@pytest.fixture(scope="module")
def answers(settings, points, tmp_path_factory) -> dict:
    """(task, method, kind) -> the chosen row, its folder, and what pipelines of another process answer."""
    folder = tmp_path_factory.mktemp("taken")
    chosen = {kind: (parting(settings, points, *kind), folder / "-".join(kind)) for kind in KINDS}
    for row, out in chosen.values():
        write_model(settings, points, row, out)
    asked = {str(out): inputs_of(settings, row["task"]) for row, out in chosen.values()}
    (folder / "asked.json").write_text(json.dumps(asked))
    command = [sys.executable, "-W", "error::UserWarning", "-c", ASK, str(folder / "asked.json")]
    told = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True)
    assert told.returncode == 0 and "not supported" not in told.stderr, told.stderr
    said = json.loads(told.stdout.splitlines()[-1])
    return {kind: (row, out, said[str(out)]) for kind, (row, out) in chosen.items()}


def environment() -> dict[str, str]:
    return {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_pipeline_elsewhere_answers_as_the_tables_point(settings, answers, kind):
    row, _, told = answers[kind]
    words = task_named(row["task"], settings.own_tasks).labels
    expected = predicted(row, trace_of(settings, row))
    for answered in told:
        assert len(answered) == len(expected)
        if words:
            assert [each["label"] for each in answered] == [words[int(label)] for label in expected]
            assert all(1 / len(words) <= each["score"] <= 1 for each in answered)
        else:
            np.testing.assert_allclose([each["score"] for each in answered], expected, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_rows_exit_the_batch_as_in_the_table(settings, answers, kind):
    row, out, _ = answers[kind]
    model = AutoModelForSequenceClassification.from_pretrained(out)
    inputs = [each if isinstance(each, dict) else {"text": each} for each in inputs_of(settings, row["task"])]
    found = []
    for start in range(0, len(inputs), 32):
        some = inputs[start : start + 32]
        texts = [[each[key] for each in some] for key in some[0]]
        batch = AutoTokenizer.from_pretrained(out)(*texts, padding=True, truncation=True, return_tensors="pt")
        output = model(**batch)
        assert output.logits.shape == (len(some), model.config.num_labels) and not output.logits.requires_grad
        found += output.exits.tolist()
    exits = exits_taken(row, trace_of(settings, row)) + 1
    assert found == exits.tolist()


def test_some_of_every_kind_part_the_examples(settings, answers):
    """Otherwise the tests above would be trivial."""
    left_at = {kind: exits_taken(row, trace_of(settings, row)) for kind, (row, _, _) in answers.items()}
    parted = {kind for kind, exits in left_at.items() if len(set(exits)) > 1}
    assert {"uniform", "per_exit"} <= {kind for _, _, kind in parted}
    assert {"stsb", "tickets"} <= {task for task, _, _ in parted}
    assert {"assistant", "pabee", "cascadebert"} <= {method for _, method, _ in parted}


def test_the_card_describes_the_model(settings, answers):
    row, out, _ = answers["tickets", "assistant", "per_exit"]
    card = ModelCard.load(out / "README.md")
    assert card.data.pipeline_tag == "text-classification" and card.data.metrics == ["f1_macro", "accuracy"]
    assert card.data.eval_results[0].metric_value == pytest.approx(row["score"], abs=1e-6)
    said = json.loads((run_folder(settings, RunKey("tickets", "assistant", "full", 0)) / "run.json").read_text())
    for part in (*WORDS, said["identity"], said["data"]["fingerprint"], "95 % interval", "seed", "entropy", "Licence"):
        assert part in card.text, part
    assert str(ROOT) not in card.content and str(settings.results) not in card.content
    assert (
        "24 tokens" in card.text and json.loads((out / "tokenizer_config.json").read_text())["model_max_length"] == 24
    )


ASK_GRAPHS = """
import json, sys
for name in ("torch", "transformers", "bench", "pandas", "scipy"):
    sys.modules[name] = None  # importing them fails
import run
texts = [tuple(each.values()) if isinstance(each, dict) else each for each in json.load(sys.stdin)]
found = [run.classify(texts), *[run.classify([text]) for text in texts[:8]]]
print(json.dumps([[each.tolist() for each in pair] for pair in found]))
"""


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[1], KINDS[3], KINDS[5], KINDS[6], KINDS[7]], ids="-".join)
def test_graphs_elsewhere_answer_as_the_tables_point(settings, points, kind, tmp_path):
    pytest.importorskip("onnxruntime"), pytest.importorskip("onnxscript")
    row, out = parting(settings, points, *kind), tmp_path / "a model"
    checked = write_model(settings, points, row, out, Form("onnx"))
    assert (checked.other_predictions, checked.other_exits) == (0, 0)
    own = environment() | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    told = subprocess.run(
        [sys.executable, "-c", ASK_GRAPHS], cwd=out, env=own, capture_output=True, text=True,
        input=json.dumps(inputs_of(settings, row["task"])),
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    together, *alone = json.loads(told.stdout)
    trace = trace_of(settings, row)
    logits, exits = np.array(together[0]), np.array(together[1])
    assert exits.tolist() == (exits_taken(row, trace) + 1).tolist()
    found = logits.argmax(axis=1) if logits.shape[1] > 1 else logits[:, 0]
    np.testing.assert_allclose(found, predicted(row, trace), atol=1e-4)
    for i, (values, at) in enumerate(alone):
        assert at == [exits[i]]
        np.testing.assert_allclose(values[0], logits[i], atol=1e-4)
    said = ModelCard.load(out / "README.md")
    assert said.data.library_name == "onnx"
    assert f"of {len(exits)} validation examples 0 have another prediction and 0 another exit" in said.text


def test_what_is_taken_is_what_the_main_table_shows(settings, points, tmp_path):
    for speedup in (1.0, 2.0):
        shown = at_budget(points.query("task == 'tickets' and method == 'assistant'"), speedup).iloc[0]
        out = tmp_path / f"{speedup:g}"
        said = take(settings, "tickets", "assistant", out, speedup=speedup)
        leaving = json.loads((out / "config.json").read_text())["leaving"]
        assert (leaving["kind"], leaving["exit"]) == (shown["kind"], shown["exit"])
        assert leaving["thresholds"] == list(shown["thresholds"]) and f"{100 * shown['score']:.2f}" in said


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ({"task": "rte"}, "no task 'rte' in this profile; choose from sst2, stsb, tickets"),
        ({"method": "bert"}, "no contestant 'bert' in this profile; choose from teacher"),
        ({"seed": 7}, "sst2 has no seed 7 in this profile; its seeds are 0"),
        ({"speedup": 50}, "no point at 50x; on calibration it reaches "),
        ({"method": "diverging"}, "sst2: diverging, seed 0: .*not finite"),
    ],
)
def test_what_cannot_be_taken_is_refused_in_one_line(settings, tmp_path, asked, line):
    with pytest.raises(UserError, match=line) as caught:
        take(settings, **({"task": "sst2", "method": "assistant", "out": tmp_path / "out"} | asked))
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


def test_what_is_there_or_was_made_anew_or_has_no_weights_is_not_taken(settings, points, tmp_path):
    with pytest.raises(UserError, match="already exists"):
        take(settings, "sst2", "assistant", tmp_path)
    row = at_budget(points.query("task == 'sst2' and method == 'assistant'"), 1).iloc[0]
    another = row.copy()
    another["score"] = row["score"] - 0.1
    with pytest.raises(UserError, match="trained again after"):
        write_model(settings, points, another, tmp_path / "out")
    elsewhere = settings.model_copy(update={"results": tmp_path})
    folder = run_folder(elsewhere, RunKey("sst2", "assistant", "full", 0))
    (folder / "model").mkdir(parents=True)
    with pytest.raises(UserError, match=r"has no weights here \(they are missing"):
        write_model(elsewhere, points, row, tmp_path / "out")
    (folder / "run.json").write_text('{"taken_from": "published"}')
    with pytest.raises(
        UserError, match=r"\(the run was published without them\); remove published from `reuse`, delete "
    ):
        write_model(elsewhere, points, row, tmp_path / "out")


def test_other_padding_and_other_arithmetic_are_refused(answers):
    _, out, _ = answers["sst2", "assistant", "uniform"]
    model = AutoModelForSequenceClassification.from_pretrained(out)
    ids, mask = torch.tensor([[2, 5, 6, 3], [2, 5, 3, 0]]), torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1]])
    with pytest.raises(UserError, match="padding on the left"):
        model(ids, mask)
    with pytest.raises(UserError, match="70 tokens, but the model has 64 positions"):
        model(torch.full((1, 70), 5))
    with pytest.raises(UserError, match="float32"):
        model.to(torch.bfloat16)(ids)


def test_it_can_be_trained_on_and_answers_with_what_it_learned(answers):
    _, out, _ = answers["sst2", "assistant", "uniform"]
    model = AutoModelForSequenceClassification.from_pretrained(out)
    ids = torch.tensor([[2, 5, 6, 3]])
    before = model(ids).logits
    model.train()
    model(ids).exit_logits.sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    assert not torch.equal(model.eval()(ids).logits, before)
