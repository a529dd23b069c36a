"""SMILE against an explicit SVD, task arithmetic, what is stored once, and models of other tasks."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.context import data_survey
from bench.encoder.early import engine
from bench.encoder.saved import has_weights, of_shape
from bench.errors import UserError
from bench.exit_policies.deciding import never
from bench.measuring import counting
from bench.measuring.recording import record
from bench.method import Method, Needed, contestant
from bench.runs.collect import _with_stored
from bench.runs.identity import Identities
from bench.runs.plan import Planned, runs
from bench.runs.reuse import reusable_runs
from bench.runs.train_run import produce
from bench.runs.training.lineage import steps_in_all
from bench.runs.training.models import release_after
from bench.settings import check
from bench.store import RunKey, read_json, run_folder, weights_file
from family.compression.arithmetic import added
from family.compression.smile import RoutedLinear, leading, routed


def models(count: int = 3) -> list:
    """A pretrained encoder, and `count` others that differ from it a little."""
    start = toys.encoder(exits=[3])
    found = [start]
    for number in range(count):
        one = toys.encoder(number + 1, exits=[3], num_labels=number + 1)
        state = one.state_dict()
        for key, value in start.state_dict().items():
            if key.startswith(("embeddings.", "layers.")):
                state[key] = value + 0.1 * state[key]
        one.load_state_dict(state)
        found.append(one)
    return found


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 8), st.integers(1, 8), st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_token_goes_to_the_expert_of_an_explicit_svd(seed, experts, gate, rank, wide):
    rng = np.random.default_rng(seed)
    inputs, outputs = (12, 8) if wide else (8, 12)
    before, *after = [(rng.normal(size=(outputs, inputs)), rng.normal(size=outputs)) for _ in range(experts + 1)]
    linears = []
    for weight, bias in (before, *after):
        layer = torch.nn.Linear(inputs, outputs).double()
        layer.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})
        linears.append(layer)
    made = RoutedLinear(inputs, outputs, experts, gate, rank).double()
    made.fill(linears[0], linears[1:])
    values = rng.normal(size=(2, 5, inputs))
    found = made(torch.from_numpy(values)).detach().numpy()
    for i, j in np.ndindex(2, 5):
        x, logits, outs = values[i, j], [], []
        for weight, bias in after:
            u, s, vt = np.linalg.svd(weight - before[0])
            logits.append(np.sqrt(((vt[:gate] @ x) ** 2).sum()))
            k = min(rank, len(s))
            outs.append(u[:, :k] @ np.diag(s[:k]) @ vt[:k] @ x + bias - before[1])
        best = np.flatnonzero(np.isclose(logits, max(logits), rtol=1e-9))
        expected = [before[0] @ x + before[1] + outs[e] for e in best]
        assert any(np.allclose(found[i, j], each) for each in expected)


@pytest.mark.parametrize("shape", [(8, 12), (12, 8), (6, 6)])
def test_the_leading_part_is_that_of_the_svd(shape):
    matrix = torch.randn(shape, dtype=torch.double)
    u, s, vt = np.linalg.svd(matrix.numpy())
    left, right = leading(matrix, 3)
    np.testing.assert_allclose(left @ right, u[:, :3] @ np.diag(s[:3]) @ vt[:3], atol=1e-10)
    np.testing.assert_allclose(right @ right.T, np.eye(3), atol=1e-10)


def test_a_model_without_trained_weights_uses_all_experts(tmp_path):
    start, *tuned = models()
    routed(start, tuned[0], tuned, 2, 3).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    layer = of_shape(tmp_path, torch.device("cpu")).layers[0].query
    tokens = torch.randn(200, 32)
    scores = (layer.routers @ tokens.T).norm(dim=1)
    assert scores.argmax(0).bincount(minlength=3).min() > 20


def test_one_expert_of_full_rank_is_the_fine_tuned_layer():
    start, one, *_ = models(1)
    model = routed(start, one, [one], 1, 1000)
    values = torch.randn(4, 32)
    for layer, own in zip(model.layers, one.layers, strict=True):
        torch.testing.assert_close(layer.query(values), own.query(values), atol=1e-4, rtol=1e-4)


def test_the_saved_model_and_the_engine_compute_the_same_and_costs_are_counted(tmp_path):
    start, *tuned = models()
    model, some = routed(start, tuned[1], tuned, 2, 3).eval(), toys.examples(20)
    trace = record(model, some, 8).logits
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert (record(again, some, 8).logits == trace).all()
    np.testing.assert_allclose(engine.run(model, some, never, 1).logits, trace[-1], atol=1e-4)
    costs = counting.measure(model)
    for length in (1, 17):
        assert int(costs.macs(0, length)) == model.exit_macs(length)[0]
        layer, d, a, f = 0, 32, (32, 16, 24), (48, 40, 56)
        for h, n in zip(a, f, strict=True):
            for i, o in ((d, h), (d, h), (d, h), (h, d), (d, n), (n, d)):
                layer += i * 3 * 2 + 3 * (i + o)
        assert model.exit_macs(length)[0] - start.exit_macs(length)[0] == length * layer + 32 * (2 - 3)
    head = 32 * 2 + 2
    assert costs.parameters - model.common_parameters == head and start.common_parameters == 0


@given(st.floats(0.05, 1.5))
@settings(max_examples=5, deadline=None)
def test_task_arithmetic_adds_scaled_differences_and_a_third_is_the_mean_of_three(scale):
    start, *tuned = models()
    model, mean = (added(start, tuned[0], tuned, each) for each in (scale, 1 / 3))
    for key, value in model.state_dict().items():
        if not key.startswith(("embeddings.", "layers.")):
            assert torch.equal(value, tuned[0].state_dict()[key])
            continue
        own = [each.state_dict()[key] for each in tuned]
        before = start.state_dict()[key]
        torch.testing.assert_close(value, before + scale * (own[0] + own[1] + own[2] - 3 * before))
        torch.testing.assert_close(mean.state_dict()[key], (own[0] + own[1] + own[2]) / 3)


def test_what_all_tasks_share_is_stored_once():
    row = {"seed": 0, "kind": "static", "split": "validation", "variant": "full"}
    rows = [row | {"task": task, "method": "one", "parameters": 100 + own, "common_parameters": 100.0}
            for task, own in (("sst2", 2), ("mnli", 3), ("stsb", 1))]  # fmt: skip
    rows += [{**each, "method": "many", "common_parameters": float("nan")} for each in rows]
    found = _with_stored(pd.DataFrame(rows)).set_index("method")["parameters_all_tasks"]
    assert set(found["one"]) == {106} and set(found["many"]) == {306}


@given(
    st.dictionaries(st.sampled_from(["sst2", "mnli", "stsb"]), st.sets(st.integers(0, 2), min_size=1), min_size=1),
    st.sampled_from([0.0, 100.0]),
    st.booleans(),
)
def test_parameters_of_all_tasks_are_those_of_a_seed_that_has_them_all(seeds, common, failed):
    sizes = {"sst2": 102, "mnli": 103, "stsb": 101}
    row = {"kind": "static", "split": "validation", "method": "one", "variant": "full", "common_parameters": common}
    rows = [
        row | {"task": task, "seed": seed, "parameters": sizes[task]} for task, each in seeds.items() for seed in each
    ]
    if failed:
        rows.append({"task": "rte", "seed": 0, "method": "one", "variant": "full"})
    found = _with_stored(pd.DataFrame(rows)).groupby("seed")["parameters_all_tasks"].mean()
    whole = sum(sizes[task] for task in seeds) - common * (len(seeds) - 1)
    for seed, stored in found.items():
        complete = not failed and all(seed in each for each in seeds.values())
        assert stored == whole if complete else np.isnan(stored)


@pytest.fixture
def plan(tiny_settings, tmp_path):
    """Settings of a teacher and SMILE on two tasks."""

    def build(**changes):
        data = {"sketch": {"train": 96, "validation": 32, "test": 16}, "calibration": 32}
        values = tiny_settings(tmp_path / "results", data=data).model_dump()
        there = {
            "teacher": {"method": "baselines.finetuned:Finetuned", "options": {"epochs": 1}},
            "smile": {"method": "family.compression.smile:Smile", "options": {"sizes": [{"gate": 2, "rank": 4}]}},
        }
        changed = {"tasks": ["sst2", "stsb"], "contestants": there, "depth_reference": None}
        return check(values | changed | changes, "test")

    return build


def test_it_needs_the_models_of_all_tasks_with_a_seed_that_they_have(plan):
    settings = plan(seeds=[1], more_seeds={"stsb": [4]})
    found = {run.key: run.needs for run in runs(settings) if run.key.method == "smile"}
    assert {(key.task, key.seed): {(need.task, need.seed) for need in needs} for key, needs in found.items()} == {
        ("sst2", 1): {("sst2", 1), ("stsb", 1)},
        ("stsb", 1): {("sst2", 1), ("stsb", 1)},
        ("stsb", 4): {("sst2", 1), ("stsb", 4)},
    }
    one = Identities(settings).of(RunKey("sst2", "smile", "gate2-rank4", 1)).inputs["needs"]
    assert set(one) == {"teacher/full", "stsb/teacher/full/seed1"}
    contestants = settings.model_dump()["contestants"]
    contestants["smile"]["options"]["tasks"] = ["sst2", "rte"]
    with pytest.raises(UserError, match="smile: needs teacher full on rte, which is not among the runs; add that task"):
        runs(plan(contestants=contestants))


def test_weights_stay_until_the_models_of_all_tasks_are_merged(plan):
    settings = plan()
    planned: list[Planned] = sorted(runs(settings), key=lambda run: run.key.method != "teacher")
    for run in planned:
        assert produce(settings, run.key) == ""
        release_after(settings, run.key)
        missing = [each for each in planned if not (run_folder(settings, each.key) / "run.json").exists()]
        needed = {need for each in missing for need in each.needs}
        kept = {each.key for each in planned if has_weights(run_folder(settings, each.key))}
        assert kept == needed - {each.key for each in missing}


def test_a_published_model_that_another_task_needs_is_trained_in_its_own_job_too(plan, tmp_path):
    """The job of each run decides as the plan does, also where a further seed of another task needs the model."""
    first = plan()
    for run in sorted(runs(first), key=lambda run: run.key.method != "teacher"):
        assert produce(first, run.key) == ""
    for run in runs(first):
        weights_file(run_folder(first, run.key)).write_bytes(b"")
    again = {"results": str(tmp_path / "again"), "reuse": [str(first.root)]}
    for changes, reused in (({}, 4), ({"more_seeds": {"stsb": [4]}}, 3)):
        now = plan(**again, **changes)
        identities = Identities(now)
        whole = reusable_runs(now, identities)
        assert len(whole) == reused
        for run in runs(now):
            assert reusable_runs(now, identities, run.key).get(run.key) == whole.get(run.key)


def test_the_training_of_one_model_for_two_tasks_is_shared_by_both(plan):
    settings = plan(precision_axis=["float32", "int8"])
    produced = sorted(runs(settings), key=lambda run: ("int8" in run.key.method, run.key.method != "teacher"))
    assert all(produce(settings, run.key) == "" for run in produced)
    facts = {run.key: read_json(run_folder(settings, run.key) / "run.json")["training"] for run in produced}
    teachers = sum(cost["flops"] for key, cost in facts.items() if key.method == "teacher")
    merged = [cost for key, cost in facts.items() if key.method == "smile"]
    assert len(merged) == 2
    assert all(cost["flops_in_all"] - cost["flops"] == pytest.approx(teachers / 2) for cost in merged)
    evaluated = [
        (cost, facts[replace(key, method="smile")]) for key, cost in facts.items() if key.method == "smile-int8"
    ]
    assert len(evaluated) == 2
    assert all(
        cost["flops_in_all"] - cost["flops"] == pytest.approx(smile["flops_in_all"]) for cost, smile in evaluated
    )


def test_a_contestant_may_continue_the_model_of_another_task(plan):
    class Other(Method):
        def starts_from(self, variant):
            return Needed("teacher", "full", "stsb")

        def stages(self, variant, examples):
            return []

    settings = plan()
    teacher = contestant(settings, "teacher", "stsb")
    own = Other("other", contestant(settings, "teacher", "sst2").task, None, settings)
    examples = data_survey(settings, teacher.task).sizes["train"]
    for of_other_task in (8, examples, 999):
        assert steps_in_all(own, "full", of_other_task) == steps_in_all(teacher, "full", examples) > 0
