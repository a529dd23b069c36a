"""A failure is a row: what is left of a run that did not end well. No torch: it is also left for a killed process."""

from __future__ import annotations

import shutil

from bench.settings import Settings
from bench.store import RunKey, read_json, run_folder, state_folder, write_json


def record_failure(settings: Settings, key: RunKey, reason: str, *, again: bool) -> None:
    """Leaves a run that failed: its reason, and files that are empty, so that the workflow goes on to the report.

    `again`: whether the same command may try once more (a crash, memory), or would only end in the same way (a loss
    that is not finite).
    """
    folder, stamp = run_folder(settings, key), state_folder(settings, key) / "identity.json"
    shutil.rmtree(folder / "model", ignore_errors=True)
    (folder / "model").mkdir(parents=True)
    for name in ("costs.json", *(f"trace-{split}.parquet" for split in {settings.selection, "validation"})):
        (folder / name).write_bytes(b"")
    asked = read_json(stamp) if stamp.is_file() else {}
    facts = {"status": "failed", "reason": reason, "again": again, "key": key.facts}
    write_json(folder / "run.json", facts | {name: asked[name] for name in ("asked", "identity") if name in asked})
    (folder / "failure.json").unlink(missing_ok=True)
