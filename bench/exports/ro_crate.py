"""A Workflow Run RO-Crate of finished results: workflow, settings, and the files that the workflow wrote.

Profile: https://w3id.org/ro/wfrun/workflow/0.5.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bench.errors import UserError
from bench.provenance import suite_version
from bench.settings.loading import PACKAGED
from bench.sharing.folders import PUBLISHED, ResultsFolder

_PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
_FORMATS = {".parquet": "application/vnd.apache.parquet", ".json": "application/json", ".csv": "text/csv"}
_FORMATS |= {".html": "text/html", ".png": "image/png", ".md": "text/markdown", ".yaml": "application/yaml"}


def write(folder: ResultsFolder, out: Path) -> list[Path]:
    """Write `out` as a crate with copies of the published files, and return the path of its metadata.

    Raises:
        UserError: The package rocrate is not installed.
    """
    try:
        from rocrate.model.contextentity import ContextEntity
        from rocrate.rocrate import ROCrate
    except ImportError:
        raise UserError("RO-Crate needs the package rocrate: pip install 'costeff-bench[exports]'") from None
    settings, crate = folder.settings, ROCrate(version="1.1")
    seeds = dict.fromkeys(seed for task in settings.tasks for seed in settings.seeds_of(task))
    crate.name = f"costeff-bench, profile {settings.profile}"
    crate.description = (
        f"Scores and costs of {len(settings.contestants)} methods that compress text encoders or exit early, on "
        f"{', '.join(settings.tasks)}; each trained with seeds {', '.join(map(str, seeds))}."
    )
    apache = crate.add(
        ContextEntity(
            crate,
            "https://www.apache.org/licenses/LICENSE-2.0",
            {"@type": "CreativeWork", "name": "Apache-2.0", "description": "Licence of the workflow"},
        )
    )
    crate.license = crate.add(
        ContextEntity(
            crate,
            "#licence",
            {
                "@type": "CreativeWork",
                "name": "Not stated",
                "description": "The results state no licence; the workflow has that of costeff-bench, Apache-2.0.",
            },
        )
    )
    crate.root_dataset["conformsTo"] = [
        crate.add(
            ContextEntity(crate, each, {"@type": "CreativeWork", "name": name, "version": each.rpartition("/")[2]})
        )
        for each, name in _PROFILES.items()
    ]
    workflow = crate.add_workflow(
        PACKAGED / "Snakefile",
        "Snakefile",
        main=True,
        lang="snakemake",
        properties={"name": "costeff-bench", "version": suite_version(), "license": {"@id": apache.id}},
    )
    for file in sorted((PACKAGED / "workflow").glob("*/*")):
        crate.add_file(file, f"workflow/{file.parent.name}/{file.name}", properties=_described(file.name))
    used = crate.add_file(folder.path / "settings.yaml", "settings.yaml", properties=_described("settings.yaml"))
    made = []
    for pattern in PUBLISHED:
        for file in sorted(folder.path.glob(pattern)):
            name = file.relative_to(folder.path).as_posix()
            made.append(crate.add_file(file, name, properties=_described(name)))
    status = Counter(facts["status"] for facts in folder.runs.values())
    action = ContextEntity(
        crate,
        "#run",
        {
            "@type": "CreateAction",
            "name": f"Run of profile {settings.profile}",
            "description": f"{status['ok']} runs finished, {status['failed']} failed",
            "actionStatus": f"http://schema.org/{'Failed' if status['failed'] else 'Completed'}ActionStatus",
        },
    )
    crate.add(action)
    action["instrument"], action["object"], action["result"] = workflow, used, made
    crate.root_dataset["mentions"] = action
    crate.write(out)
    return [out / "ro-crate-metadata.json"]


def _described(name: str) -> dict[str, str]:
    return {"name": name, "encodingFormat": _FORMATS.get(Path(name).suffix, "text/plain")}
