"""BertAdam and per-tensor clipping against a reference in NumPy; today's AdamW and global clipping as they were."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import encoder, examples

from baselines.finetuned import supervised
from bench.tasks.batches import collate
from bench.training.loop import Machine, Plan, batch_schedule, decays, fit
from bench.training.optimizers import adam, clip

SHAPES = [(3, 4), (5,), (), (2, 3, 2)]
BERT_ADAM = {"bias_correction": False, "clip_each": True, "epsilon": 1e-6}


class Reference:
    """BertAdam as its authors define it, in float64: no bias correction, each gradient clipped to norm 1 first."""

    def __init__(self, values: list[np.ndarray], decay: list[float]) -> None:
        self.values = [np.array(value, dtype=np.float64) for value in values]
        self.decay, self.first, self.second = decay, [0.0 * v for v in self.values], [0.0 * v for v in self.values]

    def step(self, gradients: list[np.ndarray | None], rate: float) -> None:
        for i, gradient in enumerate(gradients):
            if gradient is None:
                continue
            gradient = np.asarray(gradient, dtype=np.float64)
            norm = np.sqrt((gradient**2).sum())
            if norm > 1:
                gradient = gradient / norm
            self.first[i] = 0.9 * self.first[i] + 0.1 * gradient
            self.second[i] = 0.999 * self.second[i] + 0.001 * gradient**2
            update = self.first[i] / (np.sqrt(self.second[i]) + 1e-6) + self.decay[i] * self.values[i]
            self.values[i] = self.values[i] - rate * update


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), steps=st.integers(1, 12), scale=st.sampled_from([1e-5, 0.1, 1.0, 100.0]))
def test_bert_adam_is_its_formula(seed, steps, scale):
    """Also for parameters that get no gradient in some steps, and for ones that lie transposed in memory."""
    rng = np.random.default_rng(seed)
    parameters = [torch.nn.Parameter(torch.from_numpy(rng.normal(size=shape)).float()) for shape in SHAPES]
    parameters.append(torch.nn.Parameter(torch.from_numpy(rng.normal(size=(4, 6))).float().T))
    decay = [0.01, 0.01, 0.0, 0.0, 0.3]
    groups = [{"params": [p], "weight_decay": d} for p, d in zip(parameters, decay, strict=True)]
    optimizer = adam(groups, 1.0, epsilon=1e-6, bias_correction=False)
    reference = Reference([p.detach().numpy() for p in parameters], decay)
    for _ in range(steps):
        rate = rng.uniform(0, 0.01)
        gradients = [rng.normal(size=p.shape) * scale if rng.random() < 0.8 else None for p in parameters]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None
            if gradient is not None:  # in the parameter's own layout, as autograd leaves it
                parameter.grad = torch.empty_like(parameter).copy_(torch.from_numpy(np.asarray(gradient)))
        clip(parameters, 1.0, each=True)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        reference.step(gradients, rate)
    for parameter, value in zip(parameters, reference.values, strict=True):
        np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=2e-5, atol=2e-6)


def test_a_stage_with_bert_adam_is_the_reference(tmp_path):
    """The loop's batches, rates and weight decay, with the update computed in NumPy."""
    still = {"dropout": 0.0, "attention_dropout": 0.0, "head_dropout": 0.0}
    data, plan = examples(), Plan(2, 1e-3, 8, weight_decay=0.1, **BERT_ADAM)
    ours, theirs = encoder(**still), encoder(**still)
    fit(ours, supervised, data, plan, state=tmp_path, seed=3, machine=Machine(True, False, 600))
    steps, decayed = plan.step_count(len(data)), decays(theirs)
    names, parameters = zip(*theirs.named_parameters(), strict=True)
    reference = Reference([p.detach().numpy() for p in parameters], [0.1 * (n in decayed) for n in names])
    for step, rows in enumerate(batch_schedule(data.lengths, 8, steps, 3)):
        theirs.zero_grad()
        supervised(theirs, collate([data[i] for i in rows]), 0.0).backward()
        reference.step([None if p.grad is None else p.grad.numpy() for p in parameters], plan.rate(step, steps))
        with torch.no_grad():
            for parameter, value in zip(parameters, reference.values, strict=True):
                parameter.copy_(torch.from_numpy(value))
    for name, value in zip(names, reference.values, strict=True):
        # Where a gradient is 0 but for rounding, Adam's step may point anywhere.
        np.testing.assert_allclose(ours.get_parameter(name).detach().numpy(), value, rtol=2e-3, atol=5e-5, err_msg=name)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_clipping_each_tensor_bounds_each_norm_and_keeps_directions(scale):
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    before = [torch.randn(shape) * scale for shape in SHAPES]
    for parameter, gradient in zip(parameters[:-1], before[:-1], strict=True):  # the last has none
        parameter.grad = gradient.clone()
    clip(parameters, 0.5, each=True)
    assert parameters[-1].grad is None
    for parameter, gradient in zip(parameters[:-1], before[:-1], strict=True):
        factor = min(1.0, 0.5 / float(gradient.norm()))
        torch.testing.assert_close(parameter.grad, gradient * factor, rtol=1e-4, atol=1e-8)


def test_the_default_plan_is_torchs_adamw_bit_for_bit():
    plan, made = Plan(1, 1e-2), []
    for own in (True, False):
        torch.manual_seed(0)
        parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
        groups = [{"params": parameters, "weight_decay": 0.3}]
        if own:
            optimizer = adam(groups, 1e-2, plan.betas, plan.epsilon, plan.bias_correction)
        else:
            optimizer = torch.optim.AdamW(groups, lr=1e-2, fused=True)
        for _ in range(5):
            for parameter in parameters:
                parameter.grad = torch.randn_like(parameter)
            if own:
                clip(parameters, plan.clip, plan.clip_each)
            else:
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
        made.append(parameters)
    assert all(torch.equal(one, other) for one, other in zip(*made, strict=True))


@pytest.mark.parametrize("rows", [1, 3, 8, 100])
def test_a_batch_read_in_parts_gives_the_same_weights(rows, tmp_path):
    """The loss is a mean over rows, so parts weighted by their rows give its gradient."""
    still = {"dropout": 0.0, "attention_dropout": 0.0, "head_dropout": 0.0}
    made, seen = [], []

    def loss(model, batch, progress):
        seen.append(len(batch["idx"]))
        return supervised(model, batch, progress)

    for at_once in (None, rows):
        plan = Plan(2, 1e-3, 8, rows_at_once=at_once)
        model, data = encoder(**still), examples(37)
        fit(model, loss, data, plan, state=tmp_path / "x", seed=0, machine=Machine(True, False, 600))
        made.append(model.state_dict())
    assert max(seen[10:]) == min(rows, 8) and sum(seen[:10]) == sum(seen[10:]) == 2 * 37
    for name, weight in made[0].items():
        if name.endswith("key.bias"):  # its gradient is 0 but for rounding, and Adam divides by that
            continue
        torch.testing.assert_close(made[1][name], weight, rtol=2e-3, atol=5e-5, msg=name)


def test_betas_and_epsilon_of_a_plan_reach_the_optimizer(tmp_path: Path):
    weights = []
    for more in ({}, {"betas": (0.9, 0.98)}, {"epsilon": 1e-2}, {"clip": 1e-3}, BERT_ADAM):
        model = encoder()
        fit(model, supervised, examples(), Plan(1, 1e-3, 8, **more), state=tmp_path / "x", seed=0,
            machine=Machine(True, False, 600))  # fmt: skip
        weights.append(model.layers[0].query.weight.detach().clone())
    for i, one in enumerate(weights):
        assert not any(torch.equal(one, other) for other in weights[:i])
