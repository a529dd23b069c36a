"""KCM's gradients, search, exchange and scales against small computations of their own."""

from itertools import chain, combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toys
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.context import Context
from bench.encoder.cut import cut
from bench.errors import UserError
from bench.measuring import counting
from bench.method import contestant
from bench.store import RunKey
from bench.tasks.batches import collate
from family.compression.kcm import Kcm, Part, mask_gradients, rearrange, recorded, rescale, search, solve

SEEDS = st.integers(0, 10_000)


def batches(count: int = 12, **kinds) -> list[dict[str, torch.Tensor]]:
    examples = toys.examples(count, **kinds)
    return [collate([examples[i] for i in range(start, start + 4)]) for start in range(0, count, 4)]


def subsets(count: int):
    return chain.from_iterable(combinations(range(count), size) for size in range(1, count + 1))


def masked_loss(model, batch, row: int, layer: int, name: str, unit: int, value: float) -> torch.Tensor:
    """The loss of one example alone with one head or neuron multiplied by a number."""
    part = getattr(model.layers[layer], name)
    size = model.config.head_size if name == "attention_output" else 1
    part = part.double()
    kept = part.weight.detach().clone()
    part.weight.data[:, unit * size : (unit + 1) * size] *= value
    length = int(batch["attention_mask"][row].sum())
    inputs = [batch[key][row : row + 1, :length] for key in ("input_ids", "attention_mask", "token_type_ids")]
    logits = model.double()(*inputs).logits
    part.weight.data = kept
    labels = batch["labels"][row : row + 1]
    return F.mse_loss(logits[:, 0], labels.double()) if logits.shape[1] == 1 else F.cross_entropy(logits, labels)


@pytest.mark.parametrize("regression", [False, True])
def test_a_gradient_is_the_slope_of_one_examples_loss(regression):
    model = toys.encoder(num_labels=1 if regression else 3)
    data = batches(regression=regression)
    heads, neurons = mask_gradients(model, data)
    assert [tuple(each.shape) for each in heads] == [(12, 4), (12, 2), (12, 3)]
    for row, layer, unit, name, found in [(1, 0, 3, "attention_output", heads), (2, 2, 17, "ffn_out", neurons)]:
        with torch.no_grad():
            high, low = (masked_loss(model, data[1], row, layer, name, unit, 1 + step) for step in (1e-4, -1e-4))
        assert float(found[layer][4 + row, unit]) == pytest.approx(float(high - low) / 2e-4, rel=1e-2, abs=1e-5)


@given(SEEDS, st.integers(1, 2), st.floats(0.3, 0.95))
@settings(max_examples=40, deadline=None)
def test_the_search_is_as_good_as_trying_every_mask(seed, free, fraction):
    rng = np.random.default_rng(seed)
    scores = [rng.exponential(size=(2, 3)), rng.exponential(size=(2, 4))]
    parts = [Part(floor=rng.uniform(1, 3), free=free, slope=rng.uniform(0.5, 3)) for _ in scores]

    def cost(part: Part, counts) -> float:
        return sum(part.floor + part.slope * max(0, count - part.free) for count in counts)

    total = fraction * sum(cost(part, [each.shape[1]] * 2) for part, each in zip(parts, scores, strict=True))
    if total < 2 * sum(part.floor for part in parts):
        return
    every = [
        [
            (cost(part, (len(a), len(b))), each[0, list(a)].sum() + each[1, list(b)].sum())
            for a in subsets(each.shape[1])
            for b in subsets(each.shape[1])
        ]
        for part, each in zip(parts, scores, strict=True)
    ]
    best = max(value + more for price, value in every[0] for other, more in every[1] if price + other <= total)
    counts = search(scores, parts, total)
    assert sum(cost(part, each) for part, each in zip(parts, counts, strict=True)) <= total * (1 + 1e-6)
    kept = [
        np.sort(row)[::-1][:n].sum()
        for each, own in zip(scores, counts, strict=True)
        for row, n in zip(each, own, strict=True)
    ]
    assert sum(kept) == pytest.approx(best)


def test_a_budget_below_the_smallest_model_is_refused_and_named(tiny_settings, tmp_path):
    made = tiny_settings(tmp_path)
    values = made.model_dump()
    values["contestants"]["kcm"]["options"]["flops"] = [0.001]
    with pytest.raises(UserError, match=r"contestants\.kcm\.options: flops-0\.001 is too small"):
        contestant(made.model_validate(values), "kcm", "sst2").check()
    values["contestants"]["kcm"]["options"] = {"latency": [0.5]}
    with pytest.raises(UserError, match="needs attention and ffn"):
        contestant(made.model_validate(values), "kcm", "sst2").check()


@given(SEEDS, st.integers(2, 7), st.data())
@settings(max_examples=40, deadline=None)
def test_an_exchange_is_the_greedy_one_and_never_worse(seed, units, data):
    """Written out with gradients instead of the Fisher block: the squared norm of the masked units' sum."""
    count = data.draw(st.integers(1, units))
    gradients = torch.from_numpy(np.random.default_rng(seed).normal(size=(9, units)))

    def loss(masked) -> float:
        return float(gradients[:, list(masked)].sum(1).square().sum())

    order = gradients.square().sum(0).argsort().tolist()
    start = masked = order[: units - count]
    for unit in order[units - count :] if masked else []:
        masked = min(([*masked, unit][:k] + [*masked, unit][k + 1 :] for k in range(len(masked) + 1)), key=loss)
    kept = rearrange(gradients.T @ gradients, count)
    assert kept == sorted(set(range(units)) - set(masked)) and len(kept) == count
    best = min(loss(each) for each in combinations(range(units), units - count))
    assert best - 1e-9 <= loss(set(range(units)) - set(kept)) <= loss(start) + 1e-9


@given(SEEDS, st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_scales_are_those_of_least_squares(seed, units):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(40, units)), rng.normal(size=40)
    found = solve(torch.from_numpy(a.T @ a), torch.from_numpy(a.T @ b)).numpy()
    damped = np.linalg.lstsq(
        np.vstack([a.T @ a, np.eye(units)]), np.append(a.T @ (b - a.sum(1)), np.zeros(units)), rcond=None
    )[0]
    np.testing.assert_allclose(found, 1 + damped, atol=1e-9)
    large = 100 * a  # where the damping vanishes
    np.testing.assert_allclose(
        solve(torch.from_numpy(large.T @ large), torch.from_numpy(large.T @ b)),
        np.linalg.lstsq(large, b, rcond=None)[0],
        atol=1e-4,
    )


def test_the_first_heads_are_scaled_by_least_squares_over_all_real_tokens():
    """Both models read the same embeddings, so the residuals are equal and the target is the teacher's attention."""
    teacher, data = toys.encoder(), batches()
    heads = [[0, 2], [1], [0, 1, 2]]
    small = cut(teacher, heads, [range(30)] * 3).eval()
    before = small.layers[0].attention_output.weight.detach().clone()
    rescale(teacher, small, data)
    found = (small.layers[0].attention_output.weight / before)[0].detach().reshape(2, 8)
    columns, target = [], []
    for batch in data:
        given = (batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        values = (
            recorded([teacher.layers[0].attention_output], teacher, *given)[0]
            .detach()[batch["attention_mask"].bool()]
            .double()
            .reshape(-1, 4, 8)
        )
        weight = teacher.layers[0].attention_output.weight.detach().double().reshape(32, 4, 8)
        outputs = torch.einsum("ths,dhs->htd", values, weight).flatten(1)
        columns.append(outputs[[0, 2]].T)
        target.append(outputs.sum(0))
    expected = np.linalg.lstsq(torch.cat(columns).numpy(), torch.cat(target).numpy(), rcond=None)[0]
    np.testing.assert_allclose(found.mean(1), expected, rtol=2e-3)
    np.testing.assert_allclose(found, found[:, :1].expand(2, 8), rtol=1e-4)


@pytest.mark.parametrize("name", ["nothing masked", "half of it"])
def test_rescaling_brings_the_last_states_closer(name):
    teacher, data = toys.encoder(heads=[4, 4, 4], ffn=[48, 48, 48]), batches()
    kept = 48 if name == "nothing masked" else 24
    small = cut(teacher, [range(kept // 12)] * 3, [range(kept)] * 3).eval()

    @torch.no_grad()
    def error() -> float:
        last = [
            [model(b["input_ids"], b["attention_mask"], output_hidden_states=True).hidden_states[-1] for b in data]
            for model in (teacher, small)
        ]
        return sum(float((one - other).square().sum()) for one, other in zip(*last, strict=True))

    before = error()
    rescale(teacher, small, data)
    assert error() < 1e-6 if kept == 48 else error() < before


def test_rescaling_stops_at_the_first_part_with_a_scale_above_10(caplog):
    """The teacher's second FFN is 20 times that of the pruned model, so all later parts keep their weights."""
    teacher, data = toys.encoder(heads=[4, 4, 4], ffn=[48, 48, 48]), batches()
    small = cut(teacher, [range(2)] * 3, [range(24)] * 3).eval()
    with torch.no_grad():
        for each in (teacher.layers[1].ffn_out.weight, teacher.layers[1].ffn_out.bias):
            each *= 20
    before = {name: each.clone() for name, each in small.named_parameters()}
    rescale(teacher, small, data)
    changed = {name for name, each in small.named_parameters() if not torch.equal(each, before[name])}
    assert changed == {f"layers.{name}.weight" for name in ("0.attention_output", "0.ffn_out", "1.attention_output")}
    assert "no rescaling from ffn_out of layer 2 on" in caplog.text


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_last_ffn_is_matched_on_the_tokens_that_exits_read(pooling):
    teacher, data = toys.encoder(heads=[4, 4, 4], ffn=[48, 48, 48], pooling=pooling), batches()
    small = cut(teacher, [range(4)] * 3, [*[range(48)] * 2, range(6)]).eval()
    layer, own, wanted = small.layers[2], [], []
    weight = layer.ffn_out.weight.detach().double()
    rescale(teacher, small, data)
    for batch in data:
        given = (batch["input_ids"], batch["attention_mask"], batch["token_type_ids"])
        inner, whole = (recorded([model.layers[2].ffn_out], model, *given)[0] for model in (small, teacher))
        read = batch["attention_mask"].bool()
        read[:, 1:] &= pooling == "mean"
        own.append(inner[read].detach().double())
        wanted.append(teacher.layers[2].ffn_out(whole)[read].detach().double() - layer.ffn_out.bias.detach())
    products = (torch.cat(own).T @ torch.cat(own)) * (weight.T @ weight)
    targets = (torch.cat(own) * (torch.cat(wanted) @ weight)).sum(0) - products.sum(1)
    change = (layer.ffn_out.weight.detach() / weight)[0] - 1
    slope = products @ (products @ change - targets) + change  # of the damped squared error
    assert slope.abs().max() < 0.01 * (products @ targets).abs().max()


def test_the_pruned_model_costs_its_budget(tiny_settings, tmp_path):
    """Counted by fvcore, at the mean length of train, without the exit."""
    made = tiny_settings(tmp_path)
    method = contestant(made, "kcm", "sst2")
    assert isinstance(method, Kcm)

    class Ready(Context):
        def model(self, name, variant):
            return self.backbone("pooler").eval()

    context = Ready(made, method.task, RunKey("sst2", "kcm", "flops-0.5", 0), tmp_path)
    length = round(float(context.train.lengths.mean()))
    whole, small = (counting.measure(each) for each in (context.model("", ""), method.train(context, "flops-0.5")))
    head = 48 * 48 + 48 * 2
    parts = [(int(costs.macs(0, length)) - head) for costs in (whole, small)]
    assert 0.47 < parts[1] / parts[0] <= 0.5
