"""Numbers in settings and options: each has a range, and what is not written as a number is refused by its key."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from annotated_types import Le
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from bench.errors import UserError
from bench.method import Options, contestant
from bench.names import plain_number
from bench.settings import Settings, explain, load
from bench.settings.values import Values

CONFORM = load("conform")
METHODS = {type(contestant(CONFORM, name, CONFORM.tasks[0])) for name in CONFORM.contestants}
ANY_SIZE = {"OwnTask.range", "OwnTask.validation", "Data.calibration"}
"""Labels of a regression may be of any size, and parts are counts or fractions, which a validator checks."""
WRONG = (
    True,
    False,
    "1_0",
    "\uff11\uff10",
    "\u0663",
    " 8",
    "0x10",
    "ten",
    "1e999",
    math.nan,
    math.inf,
    1e300,
    10**12,
    -(10**12),
)


def sections(kind: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield a section and all sections in it."""
    yield kind
    for field in kind.model_fields.values():
        for inner in parts(field.annotation):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from sections(inner)


def parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from parts(inner)


def numbers(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the schemas of all numbers in the schema of a field."""
    if schema.get("type") in ("integer", "number"):
        yield schema
    inner = [*schema.get("anyOf", ()), *schema.get("prefixItems", ())]
    inner += [schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)]
    for each in inner:
        yield from numbers(each)


OPTIONS = sorted((each.Options for each in METHODS), key=lambda kind: kind.__name__)
ALL = dict.fromkeys(each for kind in (Settings, *OPTIONS) for each in sections(kind))
FIELDS = [
    (kind, name, schema)
    for kind in ALL
    for name, schema in kind.model_json_schema()["properties"].items()
    if list(numbers(schema)) and not (kind.__name__ == "OwnTask" and name == "labels")
]


def test_the_fields_are_found():
    found = {kind.__name__ for kind, *_ in FIELDS}
    assert len(FIELDS) > 100 and {"Comparison", "TinySize", "Size", "OwnTask", "KcmOptions", "ApolloOptions"} <= found
    assert all(issubclass(kind, Values) for kind in ALL)


@pytest.mark.parametrize(("kind", "name", "schema"), FIELDS, ids=lambda each: getattr(each, "__name__", str(each))[:20])
def test_every_number_has_a_range(kind, name, schema):
    if f"{kind.__name__}.{name}" in ANY_SIZE:
        return
    for number in numbers(schema):
        assert {"minimum", "exclusiveMinimum"} & number.keys() or name in ("max_train", "max_eval"), name
        assert max(number.get("maximum", 0), number.get("exclusiveMaximum", 0)) > 0, name
    bounds = [each.le for each in kind.model_fields[name].metadata if isinstance(each, Le)]
    assert len(bounds) < 2, f"{name}: of several upper bounds pydantic may use the widest"


def wrapped(schema: dict[str, Any], value: Any) -> Any:
    """Return a value in the form of its field: alone, in a list, or in a mapping."""
    several = [each for each in (schema, *schema.get("anyOf", ())) if each.get("type") in ("array", "object")]
    if not several:
        return value
    if several[0]["type"] == "object":
        inner = several[0]["additionalProperties"]
        return {"rte": [value] if inner.get("type") == "array" else value}
    return [value] * several[0].get("minItems", 1)


@pytest.mark.parametrize(("kind", "name", "schema"), FIELDS, ids=lambda each: getattr(each, "__name__", str(each))[:20])
def test_what_is_no_number_in_the_range_is_refused_by_its_key(kind, name, schema):
    for value in WRONG:
        if f"{kind.__name__}.{name}" in ANY_SIZE and type(value) in (int, float) and math.isfinite(value):
            continue
        with pytest.raises(ValidationError) as error:
            kind.model_validate({name: wrapped(schema, value)})
        assert name in {each["loc"][0] for each in error.value.errors()}, (name, value)
        line = explain(error.value, kind)
        assert "\n" not in line and len(line) < 400


class Mine(Options):
    """Options of a method outside the suite, without ranges."""

    count: int = 1
    rate: float = 0.1
    flags: dict[str, bool] | None = None
    sizes: list[float] | None = None


@given(st.one_of(st.booleans(), st.text(max_size=4), st.integers().map(lambda n: f"{n:_}"), st.integers(), st.floats()))
def test_what_python_alone_reads_as_a_number_is_none(value):
    """The same for the options of any method: what is accepted equals what is written."""
    for name in ("count", "rate"):
        try:
            read = getattr(Mine.model_validate({name: value}), name)
        except ValidationError:
            continue
        assert not isinstance(value, bool) and float(read) == float(value)
        assert not isinstance(value, str) or plain_number(value)


@pytest.mark.parametrize(
    "value", [{"flags": {"a": 1}}, {"flags": {"a": 0.0}}, {"sizes": [1, True]}, {"sizes": ["1_0"]}]
)
def test_values_inside_of_lists_and_mappings_are_checked(value):
    with pytest.raises(ValidationError, match="is needed"):
        Mine.model_validate(value)


@pytest.mark.parametrize("written", ["1_0", "0x10", "010", "1:30", "0b11", "1_0.5", "1:30.5"])
def test_yaml_numbers_that_read_otherwise_than_they_look_are_refused(tmp_path, written):
    (tmp_path / "p.yaml").write_text(f"extends: tiny\nthresholds: {{grid: {written}, trials: 5}}\n")
    if written == "010":
        assert load(tmp_path / "p.yaml").thresholds.grid == 10  # not 8
        return
    with pytest.raises(UserError, match=r"thresholds\.grid: ") as error:
        load(tmp_path / "p.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("written", ["1_0", "0x10", "010", "1:30", "10", "-1", "1e3"])
def test_labels_are_read_as_they_are_written(tmp_path, written):
    task = "{columns: [text], labels: [LABEL, other], metrics: [accuracy], files: {train: t.csv}}"
    text = f"extends: tiny\ntasks: [mine]\nstudies: []\nown_tasks:\n  mine: {task.replace('LABEL', written)}\n"
    (tmp_path / "p.yaml").write_text(text)
    assert str(load(tmp_path / "p.yaml").own_tasks["mine"].labels[0]) == written


@given(st.one_of(st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False)))
def test_numbers_that_yaml_writes_are_read_back(tmp_path_factory, number):
    folder = tmp_path_factory.mktemp("p")
    (folder / "p.yaml").write_text(yaml.safe_dump({"extends": "tiny", "data": {"note": "x"}, "studies": []}))
    from bench.settings.loading import _Loader

    assert yaml.load(yaml.safe_dump(number), _Loader) == number


@pytest.mark.parametrize(("changes", "key"), [
    ({"contestants": {"teacher": {"options": {"depths": []}}}}, "depths"),
    ({"contestants": {"teacher": {"share": 5}}}, "share"),
    ({"contestants": {"teacher": {"share": 0.5}}}, r"share = 0\.5: requires training\.budget"),
    ({"contestants": {"teacher": {"options": {"epochs": True}}}}, "epochs"),
    ({"contestants": {"teacher": {"options": {"learning_rate": 1e300}}}}, "learning_rate"),
    ({"contestants": {"teacher": {"options": {"batch_size": 10**9}}}}, "batch_size"),
    ({"comparison": {"margin": 1e308}}, "margin"),
    ({"comparison": {"resamples": 10**6}}, "resamples"),
    ({"data": {"max_length": [10**9, 10**9]}}, "max_length"),
])  # fmt: skip
def test_settings_that_cannot_run_are_refused_by_key(tmp_path, changes, key):
    from bench.runs import plan

    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"extends": "tiny"} | changes))
    with pytest.raises(UserError, match=key) as error:
        plan.methods(load(tmp_path / "p.yaml"))
    assert "\n" not in str(error.value)
