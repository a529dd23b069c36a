"""Declared stages equal real trainings: shapes, number of steps, and data read for selection."""

from pathlib import Path

import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook
from toys import shortened

from bench.context import Context, task_data
from bench.encoder.backbones import tokenizer
from bench.errors import UserError
from bench.method import contestant
from bench.runs.train_run import produce
from bench.runs.training.lineage import steps_in_all
from bench.settings import load
from bench.store import RunKey

pytestmark = pytest.mark.slow

TINY = load("conform")
SWITCHES = [
    {},
    {"distil_from": "teacher"},
    {"importance": "last_exit"},
    {"importance": "random"},
    {"training": "two_stage"},
    {"compress": "shallow"},
    {"losses": "hidden"},
    {"losses": "prediction"},
    {"iterative": False},
    {"equilibrium": False},
]

ABLATIONS = ["-".join(str(part) for part in next(iter(switch.items()))) for switch in SWITCHES[1:]]


def all_runs() -> list:
    found = []
    for task in ("sst2", "stsb"):
        for name in TINY.contestants:
            for variant in contestant(TINY, name, task).variants():
                found.append(pytest.param(RunKey(task, name, variant, 0), id=f"{task}-{name}-{variant}"))
    return found


@pytest.fixture(scope="module")
def settings(tiny_settings, tmp_path_factory):
    contestants = shortened(TINY)
    for name, switch in zip(ABLATIONS, SWITCHES[1:], strict=True):
        full = contestants["costeff"]
        contestants[name] = full | {"options": full["options"] | switch}
    contestants["long"] = {
        "method": "baselines.finetuned:Finetuned",
        "options": {"as_long_as": {"contestant": "costeff", "variant": "half-width"}},
    }
    return tiny_settings(tmp_path_factory.mktemp("steps"), contestants=contestants)


class Watched(Context):
    """A context that writes down each of its trainings: shape, steps really taken, whether it was chosen by score."""

    def fit(self, model, loss, plan, stage, *, select=False, train=None, whole_vocabulary=False):
        count = 0

        def stepped(*_):
            nonlocal count
            count += 1

        hook = register_optimizer_step_post_hook(stepped)
        fitted = super().fit(model, loss, plan, stage, select=select, train=train, whole_vocabulary=whole_vocabulary)
        hook.remove()
        shape = getattr(model, "encoder", model).config.shape
        self.seen.append((shape.heads, shape.ffn, shape.rank, count, bool(select)))
        return fitted


def examples(settings, task: str) -> int:
    words = tokenizer(settings.backbone.name)
    return len(task_data(settings, contestant(settings, "teacher", task).task, words).splits["train"])


def made(settings, key: RunKey) -> None:
    """What the run needs."""
    for other in contestant(settings, key.method, key.task).needed(key):
        made(settings, other)
        if not (settings.root / "runs" / other.path / "run.json").exists():
            produce(settings, other)


def trainings(settings, key: RunKey, tmp_path: Path) -> list[tuple]:
    made(settings, key)
    method = contestant(settings, key.method, key.task)
    context = Watched(settings, method.task, key, tmp_path)
    object.__setattr__(context, "seen", [])
    method.train(context, key.variant)
    return sorted(context.seen, key=str)


def trained(settings, key: RunKey, tmp_path: Path) -> int:
    return sum(steps for *_, steps, _ in trainings(settings, key, tmp_path))


def told(method, variant: str, count: int) -> list[tuple]:
    said = [stage for stage in method.stages(variant, count) if stage.steps]
    return sorted(
        ((each.shape.heads, each.shape.ffn, each.shape.rank, each.steps, each.selects) for each in said), key=str
    )


def steps_of(method, variant: str, count: int) -> int:
    return sum(stage.steps for stage in method.stages(variant, count))


@pytest.mark.parametrize("key", all_runs())
def test_declared_stages_are_those_trained(settings, key, tmp_path):
    method = contestant(settings, key.method, key.task)
    assert told(method, key.variant, examples(settings, key.task)) == trainings(settings, key, tmp_path)


@pytest.mark.parametrize("name", ABLATIONS)
def test_declared_stages_of_an_ablation_are_those_trained(settings, name, tmp_path):
    method = contestant(settings, name, "sst2")
    said = told(method, "half-width", examples(settings, "sst2"))
    assert said == trainings(settings, RunKey("sst2", name, "half-width", 0), tmp_path)


@pytest.mark.parametrize("name", ["training-two_stage", "compress-shallow", "losses-prediction", "iterative-False"])
def test_every_ablation_trains_as_many_steps_as_the_full_method(settings, name, tmp_path):
    count = examples(settings, "sst2")
    full = steps_of(contestant(settings, "costeff", "sst2"), "half-width", count)
    assert steps_of(contestant(settings, name, "sst2"), "half-width", count) == full
    assert trained(settings, RunKey("sst2", name, "half-width", 0), tmp_path) == full


def test_ablations_are_equal_at_any_size(settings):
    for count in (1, 31, 32, 33, 224, 3668):
        steps = set()
        for name in settings.contestants:
            method = contestant(settings, name, "sst2")
            if method.variants() == ["half-width"]:
                steps.add(steps_of(method, "half-width", count))
        assert len(steps) == 1, count


def test_as_long_as_another_with_its_assistant(settings, tmp_path):
    count = examples(settings, "sst2")
    costeff, assistant = (contestant(settings, name, "sst2") for name in ("costeff", "assistant"))
    wanted = steps_of(costeff, "half-width", count) + steps_of(assistant, "full", count)
    assert steps_in_all(costeff, "half-width", count) == wanted
    assert trained(settings, RunKey("sst2", "long", "full", 0), tmp_path) == wanted


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"contestant": "banana"}, "'banana' is no contestant; there are .*costeff"),
        ({"contestant": "costeff", "variant": "9x"}, "costeff has no '9x'; there are half-width"),
        ({"contestant": "long"}, "long is itself as long as another"),
    ],
)
def test_a_wrong_other_is_named(settings, wanted, message):
    contestants = settings.model_dump()["contestants"]
    contestants["longer"] = {"method": "baselines.finetuned:Finetuned", "options": {"as_long_as": wanted}}
    changed = settings.model_validate(settings.model_dump() | {"contestants": contestants})
    with pytest.raises(UserError, match=message):
        contestant(changed, "longer", "sst2").check()
