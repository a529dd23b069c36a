"""CascadeBERT: the difficulty-aware loss, cross-validation folds, and the costs of two complete models."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines.cascadebert import CascadeBert, CascadeBertOptions, DifficultyAware, difficulty_loss
from bench.context import Context
from bench.encoder import Cascade, CascadeConfig, Encoder, EncoderConfig
from bench.errors import UserError
from bench.runs.train_run import produce
from bench.store import RunKey
from bench.tasks.catalogue import TASKS


def bert(layers: int) -> EncoderConfig:
    return EncoderConfig(heads=[12] * layers, ffn=[3072] * layers, head="pooler", num_labels=2)


def logits_of(confidences: list[float]) -> torch.Tensor:
    """Two-class logits whose larger probability is as given."""
    p = torch.tensor(confidences)
    return torch.stack([p.log(), (1 - p).log()], dim=1)


def test_one_hard_example_gives_the_mean_hinge():
    logits = logits_of([0.95, 0.6, 0.7])  # easy, easy, hard
    easy = torch.tensor([True, True, False])
    expected = (max(0.0, 0.5 - (0.95 - 0.7)) + max(0.0, 0.5 - (0.6 - 0.7))) / 2
    assert difficulty_loss(logits, easy, 0.5).item() == pytest.approx(expected, abs=1e-6)


@given(
    easy=st.lists(st.floats(0.51, 0.99), min_size=1, max_size=6),
    hard=st.lists(st.floats(0.51, 0.99), min_size=1, max_size=6),
    margin=st.floats(0, 1),
)
def test_the_hinge_lies_between_its_easiest_and_hardest_pairings(easy, hard, margin):
    logits = logits_of(easy + hard)
    labels = torch.tensor([True] * len(easy) + [False] * len(hard))
    value = difficulty_loss(logits, labels, margin).item()

    def against(other: float) -> float:
        return float(np.mean([max(0.0, margin - (each - other)) for each in easy]))

    assert against(min(hard)) - 1e-5 <= value <= against(max(hard)) + 1e-5


@pytest.mark.parametrize("all_easy", [True, False])
def test_a_batch_without_both_groups_adds_nothing(all_easy):
    assert difficulty_loss(logits_of([0.6, 0.9]), torch.tensor([all_easy] * 2), 0.5).item() == 0


def test_the_loss_finds_the_difficulty_of_its_rows():
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 20,
        "max_positions": 8,
        "hidden_size": 16,
        "head_size": 8,
        "heads": [2],
        "ffn": [16],
    }
    model = Encoder(EncoderConfig(**sizes, num_labels=2, initializer_range=0.3)).eval()
    ids = torch.arange(1, 9).reshape(2, 4)
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "token_type_ids": torch.zeros_like(ids),
        "labels": torch.tensor([0, 1]),
        "idx": torch.tensor([3, 1]),
    }
    easy = np.array([True, False, False, True])
    with torch.no_grad():
        plain = DifficultyAware(easy, 0.5, 0.0)(model, batch, 0.0)
        weighed = DifficultyAware(easy, 0.5, 2.0)(model, batch, 0.0)
        sure, unsure = model(ids).logits.softmax(-1).amax(-1)
    torch.testing.assert_close(weighed - plain, 2 * (0.5 - (sure - unsure)).relu())


def test_parameters_and_flops_of_the_published_cascade():
    with torch.device("meta"):
        small, big = Encoder(bert(2)), Encoder(bert(12))
        cascade = Cascade(CascadeConfig(members=[bert(2).to_dict(), bert(12).to_dict()], num_labels=2))
    assert sum(p.numel() for p in big.parameters()) == 109_483_778
    assert sum(p.numel() for p in cascade.parameters()) == pytest.approx(148.1e6, rel=5e-4)
    assert 2 * big.exit_macs(128)[-1] == pytest.approx(22.35e9, rel=1e-3)
    assert cascade.exit_macs(128)[1] == small.exit_macs(128)[0] + big.exit_macs(128)[0]
    assert cascade.exit_layers == [2, 14]


def method_and_context(settings, folder, task="sst2", **options) -> tuple[CascadeBert, Context]:
    tiny = {"small_layers": 1, "distil_epochs": 0.2, "folds": 3, "fold_epochs": 0.2, "epochs": 0.2} | options
    key = RunKey(task, "cascadebert", "full", 0)
    method = CascadeBert("cascadebert", TASKS[task], CascadeBertOptions(**tiny), settings)
    return method, Context(settings, TASKS[task], key, folder / "state")


def test_folds_see_each_example_once_and_never_their_own(tiny_settings, tmp_path, monkeypatch):
    method, context = method_and_context(tiny_settings(tmp_path), tmp_path)
    total, seen = len(context.train), []
    original = Context.fit

    def watched(self, model, loss, plan, stage, **given):
        if stage.startswith("fold"):
            seen.append(set(given["train"].idx.tolist()))
        return original(self, model, loss, plan, stage, **given)

    monkeypatch.setattr(Context, "fit", watched)
    method._easy(context, method._start(context))
    everything = set(context.train.idx.tolist())
    held_out = [everything - part for part in seen]
    assert len(held_out) == 3
    assert sorted(idx for part in held_out for idx in part) == sorted(everything)
    assert sum(map(len, held_out)) == total


def test_the_small_member_decays_linearly_without_weight_decay_and_keeps_its_last_weights(tiny_settings, tmp_path):
    """The fixed last epoch: no stage is chosen by a score; the folds are trained in the same way."""
    method, _ = method_and_context(tiny_settings(tmp_path), tmp_path, epochs=3, small=None, learning_rate=1e-3)
    stages = method.stages("full", 96)
    assert not any(stage.selects for stage in stages)
    for stage in [stages[0], *stages[2:]]:
        rates = [stage.plan.rate(step, stage.steps) for step in range(stage.steps)]
        np.testing.assert_allclose(rates, 1e-3 * (1 - np.arange(stage.steps) / stage.steps))
        assert stage.plan.weight_decay == 0


def test_the_big_member_is_the_teacher_and_each_keeps_its_configuration(tiny_settings, tmp_path):
    settings = tiny_settings(tmp_path)
    produce(settings, RunKey("sst2", "teacher", "full", 0))
    method, context = method_and_context(settings, tmp_path)
    cascade, teacher = method.train(context, "full"), context.model("teacher", "full")
    small, big = cascade.members
    assert len(small.layers) == 1
    assert len(big.layers) == 4
    assert all(torch.equal(big.state_dict()[name], weight) for name, weight in teacher.state_dict().items())


def test_the_small_member_may_start_from_the_layers_as_they_are(tiny_settings, tmp_path):
    settings = tiny_settings(tmp_path)
    method, context = method_and_context(settings, tmp_path, distil="none", epochs=0.05, learning_rate=1e-9)
    small, backbone = method._start(context), context.backbone("pooler")
    for name, weight in small.layers[0].named_parameters():
        assert torch.equal(weight, backbone.layers[0].get_parameter(name))
    assert len(method.stages("full", 100)) == len(method_and_context(settings, tmp_path)[0].stages("full", 100)) - 1


def test_labels_say_what_is_unusual(tiny_settings, tmp_path):
    settings = tiny_settings(tmp_path)
    truncated, _ = method_and_context(settings, tmp_path)
    assert truncated.label("full") == "CascadeBERT (truncated small member)"
    complete, _ = method_and_context(settings, tmp_path, small="some/checkpoint")
    assert complete.label("full") == "CascadeBERT"
    regression, _ = method_and_context(settings, tmp_path, task="stsb")
    assert "without exit policy" in regression.label("full")
    assert (truncated.policy, regression.policy) == ("confidence", "none")


def test_a_small_member_as_deep_as_the_big_one_is_refused(tiny_settings, tmp_path):
    fitting, _ = method_and_context(tiny_settings(tmp_path), tmp_path, small_layers=3)
    fitting.check()
    method, _ = method_and_context(tiny_settings(tmp_path), tmp_path, small_layers=4)
    with pytest.raises(UserError, match="small_layers: 4 of the backbone's 4"):
        method.check()


def test_the_configuration_has_no_folder_of_its_members():
    member = bert(2).to_dict() | {"_name_or_path": "/a/folder"}
    assert "/a/folder" not in CascadeConfig(members=[member], num_labels=2).to_json_string()
