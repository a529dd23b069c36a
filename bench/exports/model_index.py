"""Model cards with the Hub's model-index, one for each contestant and budget."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCardData

from bench.exports.chosen import Shown, budget_name, condition, contestants
from bench.sharing.card import eval_results
from bench.sharing.folders import ResultsFolder


def write(folder: ResultsFolder, out: Path) -> list[Path]:
    """Write <out>/<contestant>-<budget>.md with the chosen point of every task, and return the paths."""
    settings, written = folder.settings, []
    out.mkdir(parents=True, exist_ok=True)
    for method, label, shown in contestants(folder):
        for budget in dict.fromkeys(each.budget for each in shown):
            of_budget = [each for each in shown if each.budget == budget]
            results = [result for each in of_budget for result in eval_results(settings, each.task, each.scores)]
            name = f"{label}, {condition(budget, settings.reference)}"
            card = ModelCardData(
                model_name=name, eval_results=results, pipeline_tag="text-classification", tags=["costeff-bench"]
            )
            lines = [f"- {_listed(each)}" for each in of_budget]
            path = out / f"{method}-{budget_name(budget)}.md"
            path.write_text(f"---\n{card.to_yaml()}\n---\n\n# {name}\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
            written.append(path)
    return written


def _listed(shown: Shown) -> str:
    scores = ", ".join(f"{metric} {100 * value:.2f}" for metric, value in shown.scores.items())
    return f"{shown.task.title}: {scores}; {shown.speedup:.2f}x cheaper; seeds {', '.join(map(str, shown.seeds))}"
