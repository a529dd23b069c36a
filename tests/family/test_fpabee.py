"""F-PABEE's policy, written out for one example after another, and its model."""

import numpy as np
import pytest
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy

from bench.exit_policies.policies import is_builtin_policy, replay
from bench.method import contestant
from bench.runs.training.lineage import steps_in_all
from bench.settings import load
from bench.tasks.catalogue import TASKS
from family.exits.fpabee import FPabee, FPabeeOptions

SETTINGS = load("conform")


@given(st.integers(0, 1000), st.integers(1, 3), st.floats(0.01, 1.1), st.booleans())
@settings(max_examples=30, deadline=None)
def test_an_example_exits_after_a_run_of_similar_exits(seed, patience, threshold, regression):
    logits = np.random.default_rng(seed).normal(size=(6, 12, 1 if regression else 3)).astype(np.float32)
    task = TASKS["stsb" if regression else "mnli"]
    policy = FPabee("fpabee", task, FPabeeOptions(patience=patience), SETTINGS).exit_policy()
    assert is_builtin_policy(policy) == (patience == 1)
    expected = []
    for values in logits.transpose(1, 0, 2).astype(np.float64):
        similar, left = 0, 5
        for e in range(1, 6):
            if regression:
                distance = abs(values[e, 0] - values[e - 1, 0])
            else:
                distance = entropy((softmax(values[e]) + softmax(values[e - 1])) / 2)
            similar = similar + 1 if distance < threshold else 0
            if similar >= patience:
                left = e
                break
        expected.append(left)
    np.testing.assert_array_equal(replay(policy, toys.trace(logits).logits, threshold), expected)


def test_it_has_pabees_steps_and_none_of_its_own(tiny_backbone):
    for budget in (None, {"steps": 300, "batch_size": 16}):
        values = {"backbone": {"name": str(tiny_backbone)}, "training": {"budget": budget}}
        made = load("conform", values)
        own, pabee = (contestant(made, name, "sst2") for name in ("fpabee", "pabee"))
        assert steps_in_all(own, "full", 1000) == steps_in_all(pabee, "full", 1000) > 0
        assert [stage.steps for stage in own.stages("full", 1000)] == [0]
    with pytest.raises(ValueError):
        FPabeeOptions(patience=0)
