"""Under a training budget every contestant has the same number of optimizer steps behind its weights."""

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import Field

from bench.errors import UserError
from bench.lineage import stages_of, steps_in_all, within_budget
from bench.method import BatchSize, Epochs, OptionalEpochs, Options, contestant
from bench.settings import load


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
    settings = with_budget(tiny_backbone, steps, assistant=0.3)
    for name, entry in settings.contestants.items():
        method = contestant(settings, name, task)
        for variant in method.variants():
            assert steps_in_all(method, variant, examples) == pytest.approx(entry.share * steps, rel=0.05), name
            assert all(stage.plan.batch_size == 16 for stage in stages_of(method, variant, examples))


def test_stages_keep_their_proportions(tiny_backbone):
    settings = with_budget(tiny_backbone, 3000, assistant=0.3)
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
