"""TinyBERT: where the student starts, the losses of its two phases, and what comes out of training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import matthews_corrcoef
from transformers import BertConfig, BertModel

from baselines.tinybert import (
    Mapped,
    TinySize,
    attention_loss,
    criterion,
    mapped_loss,
    narrowed,
    prediction_loss,
    representation_loss,
    taught_by,
)
from bench.context import Context
from bench.encoder import Encoder, EncoderConfig
from bench.encoder.cut import narrow, take_layers
from bench.errors import UserError
from bench.method import contestant
from bench.store import RunKey, run_folder
from bench.tasks.batches import collate, length_batches
from bench.tasks.catalogue import TASKS
from bench.tasks.examples import Examples
from bench.training.loop import Plan
from bench.training.targets import FrozenTeacher


def model(**changes) -> Encoder:
    torch.manual_seed(0)
    values = {
        "vocab_size": 40, "max_positions": 32, "hidden_size": 24, "head_size": 6, "heads": [4] * 4,
        "ffn": [32] * 4, "exits": [4], "head": "tinybert", "head_dropout": 0.0, "initializer_range": 0.3,
    } | changes  # fmt: skip
    return Encoder(EncoderConfig(**values)).eval()


def examples(count: int = 24) -> Examples:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 12, count)
    return Examples(
        idx=np.arange(count),
        labels=rng.integers(0, 2, count),
        input_ids=[rng.integers(1, 40, n).tolist() for n in lengths],
        segments=[[0] * n for n in lengths],
    )


def batch(data: Examples, rows=range(5)) -> dict[str, torch.Tensor]:
    return collate([data[i] for i in rows])


def inputs(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: given[name] for name in ("input_ids", "attention_mask", "token_type_ids")}


SIZE = {"layers": 2, "hidden": 24, "ffn": 48, "heads": 4}


def method(tiny, task="sst2", name="tinybert", **options):
    values = tiny.model_dump()
    options = {"sizes": {"2": SIZE}, "batch_size": 16} | options
    values["contestants"][name] = {"method": "baselines.tinybert:TinyBert", "options": options}
    return contestant(type(tiny).model_validate(values), name, task)


def test_layers_of_the_teacher():
    assert taught_by(4, 12) == [3, 6, 9, 12]
    assert taught_by(6, 12) == [2, 4, 6, 8, 10, 12]
    assert taught_by(6, 6) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("length", [5, 8, 128])
def test_attention_loss_is_its_formula(length):
    generator = torch.Generator().manual_seed(0)
    student, teacher = ([torch.randn(3, 4, 5, 5, generator=generator) for _ in range(2)] for _ in range(2))
    lengths = [5, 3, 2]
    mask = (torch.arange(5) < torch.tensor(lengths)[:, None]).long()
    expected = 0.0
    for s, t in zip(student, teacher, strict=True):
        total = sum((s[b, :, :n, :n] - t[b, :, :n, :n]).square().sum() for b, n in enumerate(lengths))
        expected += total / (3 * 4 * length * length)
    torch.testing.assert_close(attention_loss(student, teacher, mask, length), expected)


@pytest.mark.parametrize("length", [5, 8, 128])
def test_hidden_loss_is_its_formula(length):
    generator = torch.Generator().manual_seed(0)
    student, teacher = ([torch.randn(2, 5, 7, generator=generator) for _ in range(3)] for _ in range(2))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    total = sum(
        (s[0] - t[0]).square().sum() + (s[1, :2] - t[1, :2]).square().sum()
        for s, t in zip(student, teacher, strict=True)
    )
    torch.testing.assert_close(mapped_loss(student, teacher, mask, length), total / (2 * length * 7))


@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 10**6))
def test_both_losses_are_the_authors_means_over_texts_padded_to_a_fixed_length(lengths, seed):
    """Padded to 16 with real terms alone, the plain means over all 16 positions are what the short batch gives."""
    generator, rows, longest, fixed = torch.Generator().manual_seed(seed), len(lengths), max(lengths), 16
    mask = (torch.arange(fixed) < torch.tensor(lengths)[:, None]).long()
    real = mask.bool()
    both = real[:, None, :, None] & real[:, None, None, :]
    scores = [[torch.randn(rows, 2, fixed, fixed, generator=generator) * both for _ in range(3)] for _ in range(2)]
    states = [[torch.randn(rows, fixed, 5, generator=generator) * real[..., None] for _ in range(4)] for _ in range(2)]
    attention = sum(F.mse_loss(s, t) for s, t in zip(*scores, strict=True))
    hidden = sum(F.mse_loss(s, t) for s, t in zip(*states, strict=True))
    short_scores = [[each[..., :longest, :longest] for each in part] for part in scores]
    short_states = [[each[:, :longest] for each in part] for part in states]
    torch.testing.assert_close(attention_loss(*short_scores, mask[:, :longest], fixed), attention)
    torch.testing.assert_close(mapped_loss(*short_states, mask[:, :longest], fixed), hidden)


@pytest.mark.parametrize("budget", [0.0, 1e9], ids=["computed", "kept"])
def test_a_truncated_teacher_differs_only_where_its_layers_do(budget):
    """A student of full width has its teacher's scores and states at level 0 and 1; cached targets are equal."""
    teacher, data = model(), examples()
    student = Mapped(take_layers(teacher, [0, 1, 2, 3]), 24, range(24)).eval()
    frozen = FrozenTeacher(teacher, data, budget, hidden=True, attention=True, layers=[1, 2, 3, 4])
    assert representation_loss(frozen, 16)(student, batch(data), 0.0) < 1e-10
    shallow = Mapped(take_layers(teacher, [1, 3]), 24, range(24)).eval()
    frozen = FrozenTeacher(teacher, data, budget, hidden=True, attention=True, layers=[2, 4])
    given_ = batch(data)
    theirs = teacher(**inputs(given_), output_hidden_states=True, output_attention_scores=True)
    ours = shallow.encoder(**inputs(given_), output_hidden_states=True, output_attention_scores=True)
    mask = given_["attention_mask"]
    scores, states = ([theirs.attention_scores[i] for i in (1, 3)], [theirs.hidden_states[i] for i in (0, 2, 4)])
    expected = attention_loss(ours.attention_scores, scores, mask, 16) + mapped_loss(
        ours.hidden_states, states, mask, 16
    )
    torch.testing.assert_close(representation_loss(frozen, 16)(shallow, given_, 0.0), expected)


def test_predictions_learn_from_the_teacher_and_regression_from_the_gold():
    teacher, data, student = model(), examples(), take_layers(model(), [0])
    given_ = batch(data)
    ours, theirs = student(**inputs(given_)).logits, teacher(**inputs(given_)).logits
    expected = -(F.softmax(theirs, dim=-1) * F.log_softmax(ours, dim=-1)).mean()  # over rows and classes
    loss = prediction_loss(FrozenTeacher(teacher, data, 1e9))
    torch.testing.assert_close(loss(student, given_, 0.0), expected)
    student = take_layers(model(num_labels=1), [0])
    given_["labels"] = torch.tensor([0.0, 1.5, 5.0, 2.0, 3.0])
    expected = (student(**inputs(given_)).logits[:, 0] - given_["labels"]).square().mean()
    torch.testing.assert_close(prediction_loss(None)(student, given_, 0.0), expected)


def test_full_width_is_the_truncated_teacher():
    truncated = take_layers(model(), [1, 3])
    student, dimensions = narrowed(truncated, TinySize(layers=2, hidden=24, ffn=32, heads=4), examples())
    assert dimensions == list(range(24))
    given_ = inputs(batch(examples()))
    assert torch.equal(student(**given_).logits, truncated(**given_).logits)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_narrow_equals_masked(data):
    """The narrow model computes what the wide one does when all that it lost is held at 0."""
    wide, count = model(layer_norm_eps=0.0), data.draw(st.sampled_from([8, 12, 20]))
    alive = sorted(data.draw(st.sets(st.integers(0, 23), min_size=count, max_size=count)))
    size = st.sets(st.integers(0, 5), min_size=count // 4, max_size=count // 4)
    rows = [[6 * head + row for head in range(4) for row in sorted(data.draw(size))] for _ in range(4)]
    neurons = [sorted(data.draw(st.sets(st.integers(0, 31), min_size=3))) for _ in range(4)]
    with torch.no_grad():
        for layer, kept, inner in zip(wide.layers, rows, neurons, strict=True):
            for part in (layer.query, layer.key, layer.value):
                gone = sorted(set(range(24)) - set(kept))
                part.weight[gone] = part.bias[gone] = 0
            layer.ffn_out.weight[:, sorted(set(range(32)) - set(inner))] = 0
    narrow_model = narrow(wide, alive, rows, rows, neurons)
    given_ = inputs(batch(examples()))
    with torch.no_grad():
        ours = narrow_model(**given_, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(ours, reference(wide, given_, alive), atol=1e-4, rtol=1e-4)


def reference(wide: Encoder, given_: dict[str, torch.Tensor], alive: list[int]) -> torch.Tensor:
    """The wide model's last states on its live dimensions, every LayerNorm taken over those alone."""

    def norm_of_the_live(module, arguments, _):
        values = torch.zeros_like(arguments[0])
        live = F.layer_norm(arguments[0][..., alive], (len(alive),), eps=module.eps)
        values[..., alive] = live * module.weight[alive] + module.bias[alive]
        return values

    norms = [m for m in wide.modules() if isinstance(m, torch.nn.LayerNorm)]
    hooks = [norm.register_forward_hook(norm_of_the_live) for norm in norms]
    states = wide(**given_, output_hidden_states=True).hidden_states[-1][..., alive]
    for hook in hooks:
        hook.remove()
    return states


def test_the_map_begins_by_putting_dimensions_back():
    truncated = take_layers(model(), [1, 3])
    encoder, dimensions = narrowed(truncated, TinySize(layers=2, hidden=12, ffn=20, heads=4), examples())
    student = Mapped(encoder, 24, dimensions)
    state = torch.randn(2, 12)
    mapped = student.map(state)
    assert torch.equal(mapped[:, dimensions], state)
    assert mapped.count_nonzero() == state.count_nonzero()


def test_published_sizes():
    four = EncoderConfig(hidden_size=312, head_size=26, heads=[12] * 4, ffn=[1200] * 4, head="tinybert", exits=[4])
    six = EncoderConfig(heads=[12] * 6, ffn=[3072] * 6, head="tinybert", exits=[6])
    with torch.device("meta"):
        small, big = Encoder(four), Encoder(six)
    assert small.num_parameters() == 14_350_874  # 14.35 M with two labels
    assert 2 * sum(four.shape.layer_macs(i, 128) for i in range(4)) == pytest.approx(1.25e9, rel=0.05)
    assert 2 * big.exit_macs(128)[-1] == pytest.approx(11.17e9, rel=0.001)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def with_teacher(tiny_settings, results):
    """Settings whose teachers (of a class task and of regression) have been trained a little."""
    tiny = tiny_settings(results)
    values = tiny.model_dump()
    values["contestants"]["teacher"]["options"] |= {"epochs": 2}
    tiny = type(tiny).model_validate(values)
    for task in ("sst2", "stsb"):
        teacher, key = contestant(tiny, "teacher", task), RunKey(task, "teacher", "full", 0)
        trained = teacher.train(Context(tiny, teacher.task, key, results / task), "full")
        trained.save_pretrained(run_folder(tiny, key) / "model")
    return tiny


@pytest.mark.parametrize("task", ["sst2", "stsb"])
def test_training_lowers_both_losses_and_saves_the_student_alone(with_teacher, tmp_path, task):
    options = {"representation_epochs": 1, "representation_rate": 1e-3, "epochs": 2, "learning_rate": 1e-3}
    made = method(with_teacher, task, **options)
    made.check()
    context = Context(with_teacher, made.task, RunKey(task, "tinybert", "2", 0), tmp_path / "state")
    student = made.train(context, "2")
    assert type(student) is Encoder and len(student.layers) == 2
    assert (student.config.hidden_size, student.config.head_size, student.config.ffn) == (24, 6, [48, 48])
    student.save_pretrained(run_folder(with_teacher, context.key) / "model")
    loaded = context.model("tinybert", "2")
    assert set(loaded.state_dict()) == set(student.state_dict())
    assert not any("map" in name for name in loaded.state_dict())

    fresh, _ = narrowed(take_layers(context.backbone("tinybert"), [1, 3]), TinySize(**SIZE), context.train)
    taught = None if made.task.regression else context.teacher(context.model("teacher", "full"))
    loss = prediction_loss(taught)
    before, after = (mean(loss, encoder.eval(), context.train) for encoder in (fresh, student))
    assert after < before


def test_representation_phase_lowers_its_loss_and_the_teacher_stays_as_it_is(with_teacher, tmp_path):
    made = method(with_teacher)
    context = Context(with_teacher, made.task, RunKey("sst2", "tinybert", "2", 0), tmp_path / "state")
    teacher = context.model("teacher", "full")
    weights = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    encoder, dimensions = narrowed(take_layers(context.backbone("tinybert"), [1, 3]), TinySize(**SIZE), context.train)
    student = Mapped(encoder, 48, dimensions)
    taught = context.teacher(teacher, hidden=True, attention=True, layers=[2, 4])
    loss = representation_loss(taught, 128)
    before = mean(loss, student, context.train)
    context.fit(student, loss, Plan(2, 1e-3, 16, warmup=0, schedule="constant"), "a")
    assert mean(loss, student, context.train) < before
    assert not teacher.training
    assert all(torch.equal(weight, weights[name]) for name, weight in teacher.state_dict().items())


def mean(loss, learner, data: Examples) -> float:
    batches = [collate([data[i] for i in rows]) for rows in length_batches(data.lengths, 32, None)]
    with torch.no_grad():
        return float(sum(loss(learner, each, 0.0) for each in batches) / len(batches))


@pytest.mark.parametrize("task", ["cola", "sst2", "mrpc", "qqp", "stsb", "mnli"])
def test_checkpoints_are_chosen_by_the_authors_metric(task):
    rng = np.random.default_rng(0)
    each = TASKS[task]
    labels = rng.uniform(0, 5, 200).astype(np.float32) if each.regression else rng.integers(each.outputs, size=200)
    logits = rng.normal(size=(2, 200, each.outputs))
    answers = logits[-1].argmax(-1)
    if task == "stsb":
        expected = (pearsonr(logits[-1, :, 0], labels)[0] + spearmanr(logits[-1, :, 0], labels)[0]) / 2
    elif task == "cola":
        expected = matthews_corrcoef(labels, answers)
    else:
        expected = (answers == labels).mean()
    assert criterion(each)(toys.trace(logits, labels)) == pytest.approx(expected, abs=1e-6)


def test_both_phases_have_the_authors_optimizer(tiny_settings, tmp_path):
    for stage in method(tiny_settings(tmp_path)).stages("2", 100):
        plan = stage.plan
        assert (plan.bias_correction, plan.clip_each, plan.clip, plan.epsilon) == (False, True, 1.0, 1e-6)
        assert (plan.betas, plan.weight_decay) == ((0.9, 0.999), 0.01)


def test_a_general_checkpoint_is_the_start(with_teacher, tmp_path):
    torch.manual_seed(4)
    config = BertConfig(
        vocab_size=2000, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    BertModel(config).save_pretrained(tmp_path / "general")
    size = SIZE | {"checkpoint": str(tmp_path / "general")}
    still = {"representation_epochs": 0.1, "representation_rate": 1e-9, "epochs": 0.1, "learning_rate": 1e-9}
    made = method(with_teacher, sizes={"2": size}, **still)
    context = Context(with_teacher, made.task, RunKey("sst2", "tinybert", "2", 0), tmp_path / "state")
    student = made.train(context, "2")
    start = context.backbone("tinybert", name=str(tmp_path / "general"))
    for name, weight in start.named_parameters():
        torch.testing.assert_close(student.get_parameter(name), weight, atol=1e-6, rtol=0)
    with pytest.raises(UserError, match=r"ffn, heads \(2, 24, 48, 4\)"):
        method(with_teacher, sizes={"2": size | {"ffn": 40}}).check()


def test_what_tables_call_it(tiny_settings, tmp_path):
    tiny = tiny_settings(tmp_path)
    general = SIZE | {"checkpoint": "huawei-noah/TinyBERT_General_4L_312D"}
    sizes = {"4": general, "3": SIZE}
    assert method(tiny, sizes=sizes).label("4") == "TinyBERT 4 (w/o DA)"
    assert method(tiny, sizes=sizes).label("3") == "TinyBERT 2L-24 (from backbone, w/o DA)"
    assert method(tiny, sizes=sizes, augmentation=20).label("4") == "TinyBERT 4"
    assert method(tiny, sizes=sizes, augmentation=20).label("3") == "TinyBERT 2L-24 (from backbone)"
    assert method(tiny, sizes=sizes).variants() == ["4", "3"]
    assert [(n.contestant, n.variant) for n in method(tiny, teacher="own").needs("4")] == [("own", "full")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "head by head with the teacher's 4; use 4"),
        ({"layers": 3}, "3 is not a divisor of the teacher's 4"),
        ({"hidden": 26}, "26 is not a multiple of 4 heads"),
        ({"hidden": 52}, "cannot be cut from a backbone of 48, 96"),
        ({"ffn": 97}, "cannot be cut from a backbone of 48, 96"),
    ],
)
def test_impossible_students_are_refused(tiny_settings, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        method(tiny_settings(tmp_path), sizes={"x": SIZE | change}).check()
