"""Model cards with the Hub's model-index, one for each contestant and budget."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCardData

from bench.analysis.budgets import BUDGETS
from bench.exports.chosen import Shown, contestants
from bench.sharing.card import eval_results
from bench.sharing.folders import ResultsFolder


def write(folder: ResultsFolder, out: Path) -> list[Path]:
    """Write <out>/<contestant>-<budget>x.md with the chosen point of every task, and return the paths."""
    settings, written = folder.settings, []
    out.mkdir(parents=True, exist_ok=True)
    for method, label, shown in contestants(folder):
        for budget in BUDGETS:
            of_budget = [each for each in shown if each.budget == budget]
            if not of_budget:
                continue
            results = [result for each in of_budget for result in eval_results(settings, each.task, each.scores)]
            name = f"{label}, at least {budget:g}x cheaper than {settings.reference}"
            card = ModelCardData(
                model_name=name, eval_results=results, pipeline_tag="text-classification", tags=["costeff-bench"]
            )
            lines = [f"- {_listed(each)}" for each in of_budget]
            path = out / f"{method}-{budget:g}x.md"
            path.write_text(f"---\n{card.to_yaml()}\n---\n\n# {name}\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
            written.append(path)
    return written


def _listed(shown: Shown) -> str:
    scores = ", ".join(f"{metric} {100 * value:.2f}" for metric, value in shown.scores.items())
    return f"{shown.task.title}: {scores}; {shown.speedup:.2f}x cheaper; seeds {', '.join(map(str, shown.seeds))}"
