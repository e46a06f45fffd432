"""The results of earlier runs, in build/stdlib of the checkout: a file for each interpreter, mode and module."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from .runner import ROOT, ModuleRun, Outcome

FOLDER = ROOT / "build" / "stdlib"
FORMAT = 1


def save(folder: Path, runs: list[ModuleRun], **about: Any) -> None:
    """Write a module's runs."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"format": FORMAT, **about, "runs": [dataclasses.asdict(run) for run in runs]}
    (folder / f"{runs[0].module}.json").write_text(json.dumps(whole))


def load(folder: Path, module: str) -> tuple[list[ModuleRun], dict[str, Any]]:
    """The module's runs as they were saved, none if they were not; and what was saved about them."""
    try:
        whole = json.loads((folder / f"{module}.json").read_text())
    except (FileNotFoundError, ValueError):
        return [], {}
    if whole.get("format") != FORMAT:
        return [], {}
    return [_run_of(each) for each in whole.pop("runs")], whole


def _run_of(saved: dict[str, Any]) -> ModuleRun:
    return ModuleRun(
        saved["module"],
        {test: Outcome(**outcome) for test, outcome in saved["outcomes"].items()},
        saved["order"],
        Outcome(**saved["whole"]) if saved["whole"] else None,
    )
