"""Records in the schema of Every Eval Ever, one for each contestant.

Format: https://github.com/evaleval/every_eval_ever, schema version 0.3.0.
"""

from __future__ import annotations

import hashlib
import math
import time
import uuid
from pathlib import Path
from typing import Any

from bench.analysis.metrics import SIGNED
from bench.exports.chosen import Shown, budget_name, condition, contestants
from bench.provenance import suite_version
from bench.settings import Settings
from bench.sharing.card import HUB_METRICS, hub_of
from bench.sharing.folders import ResultsFolder
from bench.store import write_json

SCHEMA = "0.3.0"


def write(folder: ResultsFolder, out: Path) -> list[Path]:
    """Write <out>/data/costeff-bench/costeff-bench/<contestant>/<uuid>.json, and return the paths.

    Args:
        folder: The results folder.
        out: The folder to write, in the layout of the data store of Every Eval Ever.
    """
    written, now = [], int(time.time())
    for method, label, shown in contestants(folder):
        record = _record(folder.settings, method, label, shown, now)
        # The same results have the same name, which must be a UUID of version 4.
        results = repr(record["evaluation_results"]).encode()
        name = uuid.UUID(bytes=hashlib.sha256(results).digest()[:16], version=4)
        written.append(out / "data" / "costeff-bench" / record["model_info"]["id"] / f"{name}.json")
        write_json(written[-1], record)
    return written


def _record(settings: Settings, method: str, label: str, shown: list[Shown], now: int) -> dict[str, Any]:
    model = f"costeff-bench/{method}"
    library = {"name": "costeff-bench", "version": suite_version()}
    traced = all(each.traced for each in shown)
    return {
        "schema_version": SCHEMA,
        "evaluation_id": f"{settings.profile}/{model}/{now}",
        "retrieved_timestamp": str(now),
        "source_metadata": {
            "source_name": f"profile {settings.profile}",
            "source_type": "evaluation_run" if traced else "documentation",
            "source_organization_name": "costeff-bench",
            "evaluator_relationship": "first_party",
        },
        "eval_library": library,
        "model_info": {
            "name": label,
            "id": model,
            "inference_engine": library,
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "unknown",
                "backbone": settings.backbone.name,
                "method": settings.contestants[method].method,
            },
        },
        "evaluation_results": [
            _result(settings, each, metric, value) for each in shown for metric, value in each.scores.items()
        ],
    }


def _result(settings: Settings, shown: Shown, metric: str, value: float) -> dict[str, Any]:
    hub, split = hub_of(settings, shown.task), "validation"
    name = f"{hub}, {shown.task.name}" if hub else f"{shown.task.title}, {settings.source_of(shown.task.name)}"
    source: dict[str, Any] = {"dataset_name": name, "source_type": "other"}
    if hub:
        source |= {"source_type": "hf_dataset", "hf_repo": hub, "hf_split": "val", "samples_number": shown.examples}
    details = {
        "minimum_speedup": f"{shown.budget:g}",
        "speedup": f"{shown.speedup:.4f}",
        "mean_flops": f"{shown.flops:.6g}",
        "split": split,
        "examples": str(shown.examples),
        "seeds": ", ".join(map(str, shown.seeds)),
        "traces": "published" if shown.traced else "not published",
    }
    if metric == shown.task.metrics[0] and math.isfinite(shown.deviation):
        details["deviation_over_seeds"] = f"{shown.deviation:.6g}"
    return {
        "evaluation_result_id": f"{shown.task.name}/{metric}/{budget_name(shown.budget)}",
        "evaluation_name": f"{shown.task.title} at {budget_name(shown.budget).replace('-', ' ')}",
        "source_data": source,
        "metric_config": {
            "evaluation_description": f"{HUB_METRICS.get(metric, metric)} on validation, mean over seeds, of the point "
            f"chosen on {settings.selection} {condition(shown.budget, settings.reference)}",
            "metric_id": HUB_METRICS.get(metric, metric),
            "metric_name": metric,
            "metric_kind": HUB_METRICS.get(metric, metric),
            "metric_unit": "proportion",
            "lower_is_better": False,
            "score_type": "continuous",
            "min_score": -1.0 if metric in SIGNED else 0.0,
            "max_score": 1.0,
        },
        "score_details": {"score": value, "details": details},
    }
