"""Under a training budget every contestant has the same number of optimizer steps behind its weights."""

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import Field

from baselines.finetuned import Finetuned
from bench.errors import UserError
from bench.method import BatchSize, Epochs, OptionalEpochs, Options, Stage, contestant
from bench.runs.planning.checks import report
from bench.runs.training.lineage import stages_of, steps_in_all, within_budget
from bench.settings import check, load
from bench.training.loop import Plan


class Inner(Options):
    epochs: OptionalEpochs = None
    size: int = 3


class Outer(Options):
    epochs: Epochs = 2
    rate: float = 0.1
    batch_size: BatchSize = 8
    inner: Inner = Inner(epochs=4)
    sizes: dict[str, Inner] = Field({"a": Inner(), "b": Inner(epochs=1)})


def with_budget(backbone, steps: int, **shares: float):
    overrides = {"training": {"budget": {"steps": steps, "batch_size": 16}}}
    overrides["contestants"] = {name: {"share": share} for name, share in shares.items()}
    return load("conform", overrides | {"backbone": {"name": str(backbone), "pooling": "mean"}})


def test_only_marked_options_are_scaled():
    scaled = Outer().scaled(3.0, 32)
    assert (scaled.epochs, scaled.rate, scaled.batch_size) == (6.0, 0.1, 32)
    assert (scaled.inner.epochs, scaled.sizes["a"].epochs, scaled.sizes["b"].epochs) == (12.0, None, 3.0)
    assert scaled.inner.size == 3


@pytest.mark.slow
@hypothesis_settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.integers(200, 3000), examples=st.integers(200, 9000), task=st.sampled_from(["sst2", "stsb", "mnli"]))
def test_all_contestants_have_the_steps_of_the_budget(tiny_backbone, steps, examples, task):
    settings = with_budget(tiny_backbone, steps, assistant=0.3, soups=2)
    for name, entry in settings.contestants.items():
        method = contestant(settings, name, task)
        for variant in method.variants():
            assert steps_in_all(method, variant, examples) == pytest.approx(entry.share * steps, rel=0.05), name
            trained = [stage for stage in stages_of(method, variant, examples) if stage.steps]
            assert all(stage.plan.batch_size == 16 for stage in trained)


def test_a_task_can_have_a_budget_of_its_own(tiny_backbone):
    overrides = {"training": {"budget": {"steps": 900, "batch_size": 16, "tasks": {"cola": 300}}}}
    overrides["contestants"] = {"assistant": {"share": 0.3}, "soups": {"share": 2}}
    settings = load("conform", overrides | {"backbone": {"name": str(tiny_backbone), "pooling": "mean"}})
    for name, entry in settings.contestants.items():
        for task, steps in (("cola", 300), ("sst2", 900)):
            method = contestant(settings, name, task)
            for variant in method.variants():
                wanted = pytest.approx(entry.share * steps, rel=0.05)
                assert steps_in_all(method, variant, 1000) == wanted, (name, task)
    with pytest.raises(UserError, match=r"training\.budget\.tasks: unknown task 'colla'"):
        load("conform", {"training": {"budget": {"steps": 900, "tasks": {"colla": 300}}}})


def test_stages_keep_their_proportions(tiny_backbone):
    settings = with_budget(tiny_backbone, 3000, assistant=0.3, soups=2)
    method = contestant(settings, "tinybert", "sst2")
    variant = method.variants()[0]
    natural = [stage.plan.epochs for stage in method.stages(variant, 4000)]
    fitted = [stage.plan.epochs for stage in stages_of(method, variant, 4000)]
    assert fitted[0] / fitted[1] == pytest.approx(natural[0] / natural[1])


def test_sources_that_use_the_whole_budget_are_refused(tiny_backbone):
    settings = with_budget(tiny_backbone, 1000)
    costeff = contestant(settings, "costeff", "sst2")
    with pytest.raises(UserError, match=r"contestants\.costeff: .* give them a smaller `share`"):
        steps_in_all(costeff, costeff.variants()[0], 2000)


def test_without_a_budget_nothing_changes():
    settings = load("conform")
    method = contestant(settings, "teacher", "sst2")
    assert within_budget(method, "full", 500) is method


class Fixed(Options):
    epochs: Epochs = Field(1)
    batch_size: int = 8


class Stubborn(Finetuned):
    """Has a batch size that a training budget cannot change."""

    Options = Fixed

    def stages(self, variant, examples):
        return [Stage(Plan(self.options.epochs, 1e-3, self.options.batch_size), examples, self.backbone)]

    def check(self):
        pass


def test_a_stage_with_another_batch_size_is_refused(tiny_backbone):
    settings = with_budget(tiny_backbone, 100)
    method = Stubborn("teacher", contestant(settings, "teacher", "sst2").task, Fixed(), settings)
    with pytest.raises(UserError, match="trains with batches of 8, not 16; declare its batch size as"):
        within_budget(method, "full", 500)


def test_check_gives_the_steps_and_refuses_a_budget_that_cannot_be_met(tiny_settings, tmp_path):
    values = tiny_settings(tmp_path).model_dump()
    values["contestants"]["assistant"]["share"] = 0.3
    values["contestants"]["soups"]["share"] = 2
    values["data"]["max_length"] = (32, 32)
    training = {name: value for name, value in values["training"].items() if value is not None}
    known = check(values | {"training": training | {"budget": {"steps": 60, "batch_size": 16}}}, "test")
    lines = [line for line in report(known, 1) if line.startswith("training budget: ")]
    assert "training budget: teacher full 60 steps" in lines and len(lines) >= len(known.contestants)
    with pytest.raises(UserError, match="cannot be trained for"):
        list(report(check(values | {"training": training | {"budget": {"steps": 5, "batch_size": 16}}}, "test"), 1))


def test_check_refuses_a_budget_that_trials_cannot_meet(tiny_settings, tmp_path):
    values = tiny_settings(tmp_path).model_dump()
    names = ("teacher", "assistant", "costeff")
    contestants = {name: values["contestants"][name] | {"tasks": {}} for name in names}
    contestants["costeff"]["options"] |= {"sizes": {}}
    training = {name: value for name, value in values["training"].items() if value is not None}
    values |= {"contestants": contestants, "tasks": ["sst2"], "depth_reference": None, "ablations": {}}
    values["comparison"]["primary"]["contestant"] = None
    values["data"]["max_length"] = (32, 32)
    values["studies"] = [{"method": "costeff", "tasks": ["sst2"], "generations": 1, "population": 2}]
    values["training"] = training | {"budget": {"steps": 20, "batch_size": 16}}
    with pytest.raises(UserError, match=r"contestants\.costeff: the models that h.* continues use its whole training"):
        list(report(check(values, "test"), 1))
    contestants["assistant"]["share"] = 0.5
    lines = list(report(check(values, "test"), 1))
    assert "training budget: costeff (trials) 20 steps" in lines
