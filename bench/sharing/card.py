"""Model card of an exported model: description, scores, costs and provenance."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from huggingface_hub import EvalResult, ModelCardData

from bench.analysis.budgets import at_budget, control_rows, static_rows, teacher_rows
from bench.analysis.comparing.resampling import records, resamples_of
from bench.analysis.metrics import score
from bench.deploy.checking import Agreement
from bench.deploy.writing import Form
from bench.errors import UserError
from bench.exit_policies.policies import Patience
from bench.settings import Settings
from bench.store import read_parquet_if_there
from bench.tasks.catalogue import SCALE, Task
from bench.tasks.quality import findings
from bench.trace import Costs

HUB_METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}
"""Metrics whose names on the Hub (https://huggingface.co/metrics) differ from ours."""
_WHEN = {
    "entropy": "the entropy of its prediction (nats) is below {}",
    "confidence": "the highest probability is above {}",
    "patience": "its prediction and those of the exits before it have agreed {} times in a row",
    "similarity": "the entropy (nats) of the mean of its probabilities and those of the exit before is below {}",
    "divergence": "the Jensen-Shannon divergence (nats) from the probabilities of the exit before is below {}",
    "agreement": "its score differs from the exit before by less than {}",
}


def write_card(
    path: Path,
    settings: Settings,
    points: pd.DataFrame,
    row: pd.Series,
    task: Task,
    facts: Mapping[str, Any],
    costs: Costs,
    form: Form,
    checked: Agreement | None,
) -> None:
    """Write the model card README.md with YAML front matter.

    Args:
        path: The file.
        settings: The settings of the profile.
        points: All points of the profile.
        row: The exported point on validation.
        task: Its task.
        facts: Content of its run.json.
        costs: Costs of its model.
        form: The runtime and precision of the model.
        checked: Its answers there on validation; None for PyTorch.
    """
    parts = [
        f"# {row['label']} on {task.title}",
        _what(row, task, costs),
        "## Use",
        _use(settings, task) if checked is None else _use_elsewhere(settings, row, task, form, checked),
        "## Scores",
        _scores(settings, points, row, task),
        *_data(facts),
        "## Costs",
        _costs(settings, row, costs),
        "## How it was chosen",
        _choice(settings, points, row),
        "## Provenance",
        _origin(settings, row, task, facts),
        "## Licence",
        "The code that made and runs this model (costeff-bench) is Apache-2.0. The weights come from the backbone and "
        "the text named above, and their licences apply to them.",
    ]
    path.write_text(f"---\n{_front(settings, row, task, form)}\n---\n\n" + "\n\n".join(parts) + "\n", encoding="utf-8")


def _front(settings: Settings, row: pd.Series, task: Task, form: Form) -> str:
    """Return the YAML front matter, which the Hub reads."""
    backbone, hub = settings.backbone.name, hub_of(settings, task)
    results = eval_results(settings, task, {metric: float(row[metric]) for metric in task.metrics})
    card = ModelCardData(
        model_name=f"{row['label']} on {task.title}",
        eval_results=results,
        pipeline_tag="text-classification",
        library_name="transformers" if form.runtime == "torch" else form.runtime,
        tags=["early-exit", "costeff-bench"],
        metrics=list(task.metrics),
        datasets=hub and [hub],
        base_model=backbone if "/" in backbone and ":" not in backbone and not Path(backbone).exists() else None,
    )
    return card.to_yaml()


def hub_of(settings: Settings, task: Task) -> str | None:
    """Return owner/name of the data set on the Hub that a task is read from, if it is."""
    if task.own:
        return task.own.hub
    return "nyu-mll/glue" if settings.data.of(task.name).source == "hub" else None


def eval_results(settings: Settings, task: Task, scores: Mapping[str, float]) -> list[EvalResult]:
    """Return scores on validation as entries of the Hub's model-index.

    Args:
        settings: The settings of the profile.
        task: The task.
        scores: Metric -> score, as a fraction.
    """
    hub = hub_of(settings, task)
    subset = task.own.subset if task.own else task.name
    return [
        EvalResult(
            task_type="text-classification",
            dataset_type=hub or task.name,
            dataset_name=f"{task.title}, {settings.source_of(task.name)}",
            dataset_config=subset if hub else None,
            dataset_split="validation",
            metric_type=HUB_METRICS.get(metric, metric),
            metric_name=metric,
            metric_value=round(value, 6),
        )
        for metric, value in scores.items()
        if np.isfinite(value)  # an undefined correlation is no number in YAML that the Hub accepts
    ]


def _data(facts: Mapping[str, Any]) -> list[str]:
    """Return the section on problems found in the data; empty if there are none."""
    found = findings(facts["data"].get("quality", {}))
    return ["## Data quality", "\n".join(f"- {line}" for line in found)] if found else []


def _what(row: pd.Series, task: Task, costs: Costs) -> str:
    answers = f"one of {', '.join(task.labels)}" if task.labels else f"a score, {task.range[0]:g} to {task.range[1]:g}"
    reads = "a text" if len(task.columns) == 1 else f"two texts ({', '.join(task.columns)})"
    return f"Reads {reads} and answers {answers}. {_rule(row, task, costs)}"


def _rule(row: pd.Series, task: Task, costs: Costs) -> str:
    layers = ", ".join(map(str, costs.layers))
    where = f"The model has {len(costs.layers)} exits, after {layers} layers"
    if len(costs.layers) == 1:
        where = f"The model has one exit, after {layers} layers"
    if row["kind"] == "static":
        return f"{where}; every example uses the full depth."
    if row["kind"] == "fixed_exit":
        return f"{where}; every example exits at exit {int(row['exit'])}."
    thresholds = [float(each) for each in row["thresholds"]][:-1] or [float(row["threshold"])]
    unit = (task.range[1] - task.range[0]) / (SCALE[1] - SCALE[0])  # tolerances are on the scale of 0 to 5
    if row["policy"] == "agreement":
        thresholds = [unit * each for each in thresholds]
    several = f" from exit {int(row['exit_start'])} on" if int(row["exit_start"]) > 1 else ""
    bound = (
        f"{thresholds[0]:.6g}"
        if len(thresholds) == 1
        else f"[{', '.join(f'{each:.6g}' for each in thresholds)}], one for each exit"
    )
    when = _WHEN.get(row["policy"], f"its {row['policy']} meets {{}}").format(bound)
    if row["policy"] == "patience" and task.regression:
        tolerance = row["tolerance"] if row.get("tolerance", np.nan) > 0 else Patience.tolerance
        when += f" (predictions agree when they differ by less than {unit * tolerance:.6g})"
    return f"{where}; an example exits at the first{several} where {when}, and at the last otherwise."


def _use(settings: Settings, task: Task) -> str:
    sample = '"a text"' if len(task.columns) == 1 else '{"text": "the first", "text_pair": "the second"}'
    length = settings.data.of(task.name).max_length[len(task.columns) - 1]
    return f"""With costeff-bench installed:

```python
import bench.encoder
from transformers import pipeline

classify = pipeline("text-classification", model="THIS FOLDER", trust_remote_code=False, truncation=True)
print(classify({sample}))
print(classify([{sample}] * 64, batch_size=32))
```

Examples are removed from the batch when they exit. `truncation=True` cuts texts to {length} tokens, as in training and
for the scores below."""


def _use_elsewhere(settings: Settings, row: pd.Series, task: Task, form: Form, checked: Agreement) -> str:
    one, several = '"a text"', '["a text", "another"]'
    if len(task.columns) == 2:
        one, several = '"the first" "the second"', '[("the first", "the second"), ("another", "pair")]'
    length = settings.data.of(task.name).max_length[len(task.columns) - 1]
    now = 100 * float(score(str(row["metric"]), checked.predictions, checked.labels))
    return f"""Without PyTorch and costeff-bench, in this folder:

```sh
pip install {"onnxruntime" if form.runtime == "onnx" else form.runtime} numpy tokenizers
python run.py {one}
```

```python
from run import classify

logits, exits = classify({several})
```

Examples are removed from the batch when they exit. Texts are cut to {length} tokens, as in training. `model.json` lists
the graphs with their inputs and outputs.

This model is in the form {form.name}. Against the same point in PyTorch, {checked.summary()} (in batches of 32);
{row["metric"]} is {now:.2f}. The sections below describe the point in PyTorch."""


def _scores(settings: Settings, points: pd.DataFrame, row: pd.Series, task: Task) -> str:
    own = points[(points["task"] == task.name) & (points["seed"] == row["seed"])]
    full = static_rows(own[(own["method"] == row["method"]) & (own["variant"] == row["variant"])])
    teacher = teacher_rows(own, reference=settings.reference)
    lines = {
        "this model": row.to_frame().T,
        "the same at full depth": full if row["kind"] != "static" else full.iloc[:0],
        f"{settings.reference}, at full depth": teacher if row["method"] != settings.reference else teacher.iloc[:0],
        "constant baseline": control_rows(own),
    }
    table = [
        [name, *(f"{100 * float(values[metric]):.2f}" for metric in task.metrics), _ratio(values["speedup"])]
        for name, rows in lines.items()
        for values in rows.to_dict("records")
    ]
    said = f"On {int(row['examples'])} validation examples, x 100:"
    try:
        comparison = settings.comparison
        resamples = resamples_of(points, settings.root / "runs", comparison)
        found = resamples.of(records(row.to_frame().T))[:, 0]
        low, high = 100 * np.quantile(found, [(1 - comparison.level) / 2, (1 + comparison.level) / 2])
        interval = (
            f"{100 * comparison.level:g} % interval of this model's {task.metrics[0]}: {low:.2f} to {high:.2f} "
            "(bootstrap over the validation examples; it does not include the variation between trainings)."
        )
    except UserError as error:
        interval = f"No interval: {error}."
    return f"{said}\n\n{_table(['', *task.metrics, 'times cheaper'], table)}\n\n{interval}"


def _costs(settings: Settings, row: pd.Series, costs: Costs) -> str:
    shares = ", ".join(f"exit {e}: {100 * share:.0f} %" for e, share in enumerate(row["exits"], start=1))
    table = [
        ["parameters", f"{int(row['parameters']):,}"],
        ["of these outside the embeddings", f"{int(row['parameters_encoder']):,}"],
        ["mean FLOPs (2 x multiply-adds) of a validation text", f"{float(row['flops']):,.0f}"],
        [f"times cheaper than {settings.reference}", _ratio(row["speedup"])],
        ["the same, with all texts at 128 tokens", _ratio(row["speedup_128"])],
        ["exits of validation examples", shares],
        ["mean layers run", f"{float(row['mean_layers']):.2f} of {costs.layers[-1]}"],
    ]
    timed = read_parquet_if_there(settings.root / "latency.parquet")
    machine = ", ".join(map(str, timed["hardware"].unique())) if "hardware" in timed else ""
    for size in (1, 32):
        if not pd.isna(row.get(f"latency_{size}")):
            table.append(
                [
                    f"measured speed-up over {settings.reference}, batch {size} ({machine})",
                    _ratio(row[f"latency_{size}"]),
                ]
            )
    return _table(["", ""], table)


def _choice(settings: Settings, points: pd.DataFrame, row: pd.Series) -> str:
    own = points[(points["task"] == row["task"]) & (points["method"] == row["method"])]
    tried = own[(own["split"] == settings.selection) & (own["seed"] == row["seed"])]
    seeds = at_budget(own, float(row["budget"]))
    each_seed = ", ".join(f"seed {int(each['seed'])}: {_percent(each['score'])}" for each in seeds.to_dict("records"))
    others = f" Scores on validation of the points chosen in the same way: {each_seed}." if len(seeds) > 1 else ""
    same = " (the papers' protocol: chosen and reported on the same examples)"
    return (
        f"Of {len(tried)} operating points of {tried['variant'].nunique()} variant(s) the best on the "
        f"{settings.selection} split that is at least {row['budget']:g}x cheaper than {settings.reference} there (with "
        f"a tolerance of 2 %). On that split: {row['metric']} {100 * float(row['selected_score']):.2f}, "
        f"{_ratio(row['selected_speedup'])}. Validation was used only for the numbers "
        f"above{same * (settings.selection == 'validation')}.{others}"
    )


def _origin(settings: Settings, row: pd.Series, task: Task, facts: Mapping[str, Any]) -> str:
    asked, data, backbone = facts["asked"], facts["data"], Path(facts["backbone"]["name"])
    named = backbone.name if backbone.is_absolute() else backbone  # a path of this machine is of no use elsewhere
    sizes = ", ".join(f"{split} {count}" for split, count in data["examples"].items())
    where = ", ".join(f"{name} {value}" for name, value in facts["where"].items())
    table = [
        ["data", f"{task.title}, {data['source']}; fingerprint {data['fingerprint']}; {sizes} examples"],
        ["largest number of tokens", asked["data"]["max_length"]],
        ["backbone", f"{named} (sha256 {facts['backbone']['sha256'][:12]})"],
        ["contestant", f"{row['method']} ({facts['method']}), variant {row['variant']}"],
        ["options", f"`{json.dumps(asked['method']['options'], sort_keys=True)}`"],
        ["seed", f"{int(row['seed'])} (text and splits: {settings.data.of(task.name).seed})"],
        ["models it starts from", ", ".join(asked["needs"]) or "the backbone alone"],
        ["identity of the run", facts["identity"]],
        ["computed on", f"{', '.join(map(str, facts['hardware'].values()))}; {where}"],
        ["time", f"{facts['wall_seconds']:,.0f} s"],
        ["code", f"costeff-bench {facts['code']}"],
        ["packages", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())],
    ]
    return _table(["", ""], table)


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = [list(head), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ratio(value: Any) -> str:
    return "" if pd.isna(value) else f"{float(value):.2f}x"


def _percent(value: Any) -> str:
    return "no point" if pd.isna(value) else f"{100 * float(value):.2f}"
