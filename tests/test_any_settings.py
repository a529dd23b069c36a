"""Settings drawn at random: `check` refuses them in one line, or the workflow takes them."""

import json
import string
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.names import NAME, valid_name
from bench.runs.planning.checks import report
from bench.settings import load

ROOT = Path(__file__).parent.parent
CASES = 150

VALID_NAMES = st.one_of(
    st.from_regex(NAME, fullmatch=True), st.sampled_from(["Notes.v2", "0123456789" * 6 + "long", "0", "con", "x-_"])
)
WRONG_NAMES = st.one_of(
    st.sampled_from(
        [
            "SST2",
            "sst2",
            "average",
            "a" * 64,
            "abc" * 20,
            "0123456789" * 6 + "longer",
            "a" * 246,
            "dot.",
            "-x",
            "a b",
            "é",
            "x\n",
            "a/b",
        ]
    ),
    st.text(max_size=5),
)
NAMES = st.one_of(VALID_NAMES, VALID_NAMES, VALID_NAMES, WRONG_NAMES)
SEED = st.one_of(st.integers(0, 2**32 - 1), st.integers(0, 3), st.just(2**32 - 1))
SEEDS = st.one_of(
    st.lists(SEED, min_size=1, max_size=2), st.lists(st.sampled_from([-1, 0, 0.5, True, 2**32, 20261128123456]))
)
FOLDERS = st.one_of(
    st.sampled_from(["a b", "q'u\"o", "cost$", "-n", "--cores", "*[?]", "ü", "#", "a&b;c", "back\\slash", "%s", " x "]),
    st.text(string.ascii_letters + "$~'\" -\\%()!", min_size=1, max_size=8),
    st.text(st.characters(exclude_characters="/.{}\x00", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=6),
    st.sampled_from(["{task}", "a}", "~/x", "~nobody/x", "$UNSET_ONE", "a\nb", "x" * 256, "../up", "./x//y", ""]),
)
ODD = st.sampled_from([True, "1_0", "\uff11", " 8", "0x8", "", 10**9, 10**12, 1e300, 1e308, -1, 0, [], None])
COUNTS = st.one_of(st.integers(1, 200), st.integers(1, 10**7), st.sampled_from([-1, 0, 10**30, 1.0, "8", True]), ODD)
REALS = st.one_of(st.floats(0.01, 100), st.floats(), st.integers(-1, 3), ODD)
RATES = st.one_of(st.floats(1e-6, 1), st.sampled_from([2e-5, "3e-4", "1/2", 1]), ODD)
SIZES = st.one_of(st.integers(1, 64), ODD)
DEPTHS = st.one_of(st.lists(st.one_of(st.integers(0, 5), ODD), max_size=2), ODD)
ANYTHING = st.recursive(
    st.none() | st.booleans() | REALS | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
PLACES: dict[str, st.SearchStrategy] = {
    "profile": NAMES,
    "results": FOLDERS,
    "seeds": SEEDS,
    "more_seeds": st.dictionaries(st.sampled_from(["Notes", "rte", "nothing"]), SEEDS, max_size=2),
    "tasks": st.lists(st.sampled_from(["Notes", "sst2", "rte", "stsb", "notes"]), max_size=2),
    "selection": st.sampled_from(["calibration", "validation", "test"]),
    "strict": st.booleans(),
    "reuse": st.lists(FOLDERS, max_size=1),
    "reference": st.sampled_from(["teacher", "first-layers", "mine"]),
    "depth_reference": st.sampled_from(["first-layers", None, "teacher", "nobody"]),
    "ablations": st.dictionaries(
        st.sampled_from(["first-layers", "teacher"]), st.sampled_from(["first-layers", "teacher", 1]), max_size=1
    ),
    "studies": ANYTHING,
    "data": ANYTHING,
    "contestants": ANYTHING,
    "own_tasks": ANYTHING,
    "training": ANYTHING,
    "backbone": ANYTHING,
    "colour": ANYTHING,
    "data.note": FOLDERS,
    "data.seed": SEED,
    "data.calibration": st.one_of(st.integers(8, 30), REALS),
    "data.max_train": COUNTS,
    "data.max_eval": COUNTS,
    "data.max_length": st.lists(st.one_of(st.integers(8, 32), COUNTS), min_size=2, max_size=2),
    "data.tasks": st.dictionaries(
        st.sampled_from(["sst2", "Notes"]), st.dictionaries(st.just("seed"), SEED), max_size=1
    ),
    "data.sketch.train": st.one_of(st.integers(64, 200), st.sampled_from([0, 1.5, 10**30])),
    "data.sketch.validation": st.one_of(st.integers(16, 90), st.sampled_from([0, None, 10**30])),
    "data.sketch.test": st.one_of(st.integers(0, 90), st.sampled_from([-1, "x"])),
    "training.device": st.sampled_from(["cpu", "auto", "tpu"]),
    "training.precision": st.sampled_from(["auto", "float32", "bfloat16", "half"]),
    "training.gpu_share": COUNTS,
    "training.threads": COUNTS,
    "training.save_seconds": REALS,
    "training.eval_batch_size": COUNTS,
    "training.kept_gigabytes": REALS,
    "thresholds.grid": COUNTS,
    "thresholds.trials": COUNTS,
    "latency.examples": COUNTS,
    "latency.rounds": COUNTS,
    "latency.speedups": st.lists(REALS, max_size=2),
    "comparison.margin": REALS,
    "comparison.level": st.floats(0.5, 1),
    "comparison.resamples": COUNTS,
    "backbone.pooling": st.sampled_from(["cls", "mean", "max"]),
    "backbone.revision": st.one_of(st.none(), st.text(max_size=3)),
    "contestants.teacher.options.epochs": REALS,
    "contestants.teacher.options.learning_rate": RATES,
    "contestants.teacher.options.batch_size": SIZES,
    "contestants.teacher.share": REALS,
    "contestants.pabee": st.fixed_dictionaries(
        {"method": st.just("baselines.pabee:Pabee")},
        optional={"options": st.fixed_dictionaries({}, optional={"tolerance": REALS, "batch_size": SIZES})},
    ),
    "contestants.tiny": st.fixed_dictionaries(
        {
            "method": st.just("baselines.tinybert:TinyBert"),
            "options": st.fixed_dictionaries(
                {"sizes": st.fixed_dictionaries({"a": st.fixed_dictionaries(dict.fromkeys(("layers", "ffn"), SIZES))})},
                optional={"augmentation": COUNTS, "representation_rate": RATES},
            ),
        }
    ),
    "training.budget.steps": COUNTS,
    "training.budget.batch_size": SIZES,
    "training.restarts": COUNTS,
    "comparison.primary.speedups": st.lists(REALS, max_size=2),
    "own_tasks.OWN.validation": st.one_of(st.integers(8, 30), st.floats(0.05, 0.5), ODD),
    "own_tasks.OWN.drop_empty": st.one_of(st.booleans(), st.sampled_from(["yes", 1, "maybe"])),
    "own_tasks.OWN.labels": st.sampled_from(
        [["a", "b"], ["a", "\u200b"], ["a", "\u3164"], ["a", True], ["a", "\u0001"]]
    ),
    "contestants.teacher.tasks": st.dictionaries(st.sampled_from(["rte", "x"]), st.just({"epochs": 2}), max_size=1),
    "contestants.cut.options.depths": DEPTHS,
    "contestants.cut.method": st.sampled_from(["baselines.finetuned:Finetuned", "nowhere:It", "x", "pathlib:Path"]),
}
"""Keys of the settings -> values that are right, nearly right, or of the right type and wrong."""


def change(values: dict, place: str, value: object, own: str) -> None:
    """Set the value of a dotted key, unless what was drawn for a section above it is no mapping.

    OWN in the key stands for the name of the own task.
    """
    *sections, key = (own if part == "OWN" else part for part in place.split("."))
    for name in sections:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            return
    values[key] = value


@st.composite
def profiles(draw: st.DrawFn) -> dict:
    """Return a small valid profile in which names and some other values are drawn."""
    own, other = ("Notes", "first-layers") if draw(st.booleans()) else (draw(NAMES), draw(NAMES))
    finetuned = "baselines.finetuned:Finetuned"
    values: dict = {
        "profile": "p",
        "results": draw(FOLDERS),
        "tasks": [own],
        "data": {"sketch": {"train": 64, "validation": 16, "test": 0}, "calibration": 16, "max_length": [32, 32]},
        "own_tasks": {own: {"columns": ["text"], "labels": ["a", "b"], "metrics": ["accuracy"]}},
        "training": {"device": "cpu"},
        "contestants": {"teacher": {"method": finetuned}, other: {"method": finetuned, "options": {"depths": [1, 2]}}},
    }
    for place in draw(st.lists(st.sampled_from(sorted(PLACES)), max_size=3)):
        change(values, place, draw(ANYTHING if draw(st.integers(0, 7)) == 0 else PLACES[place]), own)
    return values


@pytest.fixture(scope="module")
def workflow(tmp_path_factory):
    """`workflow(file)`: the answer of a dry run of a profile, in one process for all; see dry_runs.py."""
    folder = tmp_path_factory.mktemp("any settings")
    worker = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "dry_runs.py"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder,
    )  # fmt: skip

    def dry_run(file: Path) -> dict:
        arguments = ["--cores", "1", "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(file)]
        worker.stdin.write(json.dumps(arguments) + "\n")
        worker.stdin.flush()
        return json.loads(worker.stdout.readline())

    yield dry_run
    worker.stdin.close()
    worker.wait()


def refusal(file: Path) -> str:
    """Return the error of `costeff check` for a profile; "" if the profile is accepted."""
    try:
        for line in report(load(file), 1):
            if line.startswith("check passed"):  # what follows is a forecast, which takes long
                return ""
    except UserError as error:
        return str(error)
    raise AssertionError("check has ended without a verdict")


@given(values=profiles())
@settings(max_examples=CASES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_check_refuses_in_one_line_what_the_workflow_cannot_take(values, workflow, tiny_backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("profile")
    rows = "".join(f"text {number},{'ab'[number % 2]}\n" for number in range(100))
    (folder / "train.csv").write_text(f"text,label\n{rows}")
    for task in values["own_tasks"].values() if isinstance(values["own_tasks"], dict) else ():
        if isinstance(task, dict):
            task["files"] = {"train": "train.csv"}
    values.setdefault("backbone", {"name": str(tiny_backbone)})
    if isinstance(values["backbone"], dict):
        values["backbone"].setdefault("name", str(tiny_backbone))
    (folder / "profile.yaml").write_text(yaml.safe_dump(values))
    said = refusal(folder / "profile.yaml")
    event("refused" if said else "accepted")
    if said:
        assert "\n" not in said and len(said) < 1000
    else:
        done = workflow(folder / "profile.yaml")
        assert done["code"] == 0, done["said"]


@given(st.one_of(NAMES, ANYTHING))
@settings(deadline=None)
def test_a_valid_name_is_a_file_name_that_no_shell_or_pattern_reads_otherwise(name):
    if valid_name(name):
        assert len(name) <= 64 and name[0] not in "-._" and name[-1] != "."
        assert set(name) <= set(string.ascii_letters + string.digits + "._-")
